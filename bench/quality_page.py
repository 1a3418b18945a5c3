"""The sections of docs/benchmarks.md on quality: after the same minutes, and by ingredient."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean

from .results import Part, Row
from .tables import again, interval, processor, table

Parts = Mapping[str, Part]
MEASURED = ("times", "course", "student", "drawing")  # the parts that minutes are counted by
RATES = (
    "Neither keeps an average of its weights. Both have the constant rates of their texts, with "
    "gradients clipped to 1; with the warm-up (of 100 steps) and the cosine of diffusers' own "
    "tutorial source 000 came to 117.2 in ten minutes and the course to 147.1. After ten minutes "
    "theirs is drawn without clipping x0, which is nearer for digits and was not raced on clothes; "
    "after 30 and 60 source 000 is nearer with it (200 images: 79.9 for 92.6 and 98 for 119), and "
    "after 30 the course (190 for 233): by scripts/race_samplers.py. "
    "After an hour source 000 draws more form than after half of one, and speckles on it. "
    "What clipped steps leave grey in the background counts for much in these features. "
    "torch.compile is not tried for them here. DDPM's own 1,000 steps were tried for drawing 60 "
    "images, and were no nearer."
)
INTRO = (
    "Fashion-MNIST, 28 x 28, ten classes. Each contender is given the same minutes, "
    "counted in steps: `times` takes their steps in turn, each then trains as many as fit, and so "
    "need not have the machine to itself. Squared Frechet distance in the features of "
    "our frozen classifier (`features_fashion`, by scripts/train_features.py, right on 93.2% of "
    "the test images) between 5,000 drawn images, 500 of each class "
    "where the network has any, and the 10,000 test images; its floor is that of 500 *training* "
    "images a class, which the classifier has seen; the interval is twice the jackknife's error. "
    "What diffusers trained is drawn by our UNet2D with its weights, the same function but for "
    "rounding; its seconds for 1,000 images are its own, and those of all are of `drawing`. The "
    "minutes it took are by the clock, of trainings that shared a machine or had another one. One "
    "training each, so that the luck of a seed is not in the interval.\n\n"
    "What to hold against it: our recipe was chosen by this measure on these test images, and of "
    "diffusers' only the sampler was. Source 000's 18.5 million weights at batch 16 are large for "
    "ten minutes of two cores; its course has 1.7 million at batch 128, of which few fit. " + RATES
)
STROKES = (
    " With x0 clipped what diffusers trained draws strokes on grey, to the eye more like digits; "
    "of grey these features know nothing, and put them at 4,000 and more: both were tried, and the "
    "nearer is shown."
)
ABLATIONS = (
    "fashion_fast with one change at a time, two seeds each, as many steps as fit into two "
    "minutes, 2,000 images drawn the same way by all. Smaller is better. A step's seconds are the "
    "median of five rounds that differ by a tenth and more, and so may the steps that fit; two "
    "seeds of most differ by up to 2, and means less than about 1.5 apart are not told apart. Two "
    "minutes are not ten: what pays off late does not show. The floor's interval is twice the "
    "jackknife's error."
)


def body(parts: Parts) -> str:
    pieces = (
        [f"The minutes are those of {processor(parts['times'])}.\n"] if "times" in parts else []
    )
    for case, part in parts.items():
        if case.startswith("fashion-"):
            pieces.append(minutes(part, measured(parts), *apart(parts, part)))
    if "distill" in parts:
        pieces.append(distilled(parts["distill"]))
    if "digits" in parts:
        pieces.append(digits(parts["digits"], parts.get("rivals")))
    if measured(parts):
        pieces.append(steps(parts))
    return "\n".join(pieces)


def measured(parts: Parts) -> dict[str, Row]:
    """The rows of MEASURED by name: what was measured apart counts, where `times` has it too."""
    return {row.name: row for case in MEASURED if case in parts for row in parts[case].rows}


def joined(parts: Parts) -> dict[str, Part]:
    """The same, with the rows of those measured apart in their places in the tables."""
    return {case: renewed(part, apart(parts, part)) for case, part in parts.items()}


def apart(parts: Parts, whole: Part) -> list[Part]:
    """Single contenders of a fashion-N, such as diffusers-N, that were measured after it.

    Raises: ValueError where one was measured otherwise.
    """
    kind, _, minutes = whole.case.partition("-")
    if kind != "fashion":
        return []
    others = [part for case, part in parts.items() if case.endswith(f"-{minutes}")]
    later = [part for part in others if part.machine["date"] > whole.machine["date"]]
    for part in later:
        if part.settings != whole.settings:
            raise ValueError(
                f"{part.case} was measured by {part.settings}, {whole.case} by {whole.settings}: "
                f"measure the older one again, python -m bench quality --only {whole.case}."
            )
    return later


def renewed(whole: Part, others: Sequence[Part]) -> Part:
    rows = {row.name: row for part in (whole, *others) for row in part.rows}
    return replace(whole, rows=tuple(rows.values()))


def picture_of(name: str, minutes: int | None = None) -> str:
    """The file with a contender's images after so many minutes; of the test images without any."""
    return "-".join(["bench-quality", name, *([str(minutes)] if minutes else [])]) + ".webp"


def shown(part: Part) -> str:
    """The pictures in a row, the test images' first, which are wider by the classes' names."""
    minutes = part.settings["seconds"] // 60
    every = [("test images", picture_of("test"), 23)]
    every += [(row.facts["title"], picture_of(row.name, minutes), 18) for row in part.rows]
    return images_of(every)


def images_of(every: Sequence[tuple[str, str, int]]) -> str:
    """In a row: each one's title, file and width in percent."""
    return "\n".join(
        f'<img src="pictures/{name}" width="{percent}%" alt="{title}">'
        for title, name, percent in every
    )


def minutes(part: Part, timed: Mapping[str, Row], *others: Part) -> str:
    """A table of the contenders after so many minutes, and the images they draw.

    others: those of them that were measured apart, for their commands.
    """
    head = ["", "distance", "s a step", "steps", "images seen", "sampler"]
    head += ["network calls an image"]
    head += ["s for 1,000 images", "minutes it took"]
    rows = [contender(row, timed.get(f"{row.name}: drawing")) for row in part.rows]
    rows.append([floor_words(part), floor_of(part), *[""] * 7])
    title = f"### {part.settings['seconds'] // 60} minutes"
    return f"{title}\n\n{shown(part)}\n\n{table(head, rows)}{again(part, *others)}"


def contender(row: Row, drawing: Row | None) -> list[str]:
    facts = row.facts
    return [
        facts["words"],
        distance(row),
        f"{row.median:.3f}",
        f"{facts['steps']:,}",
        f"{facts['images_seen']:,}",
        sampler(row),
        str(facts["calls"]),
        "" if drawing is None else f"{1000 / drawing.rate:.1f}",
        f"{facts['wall_s'] / 60:.0f}",
    ]


def sampler(row: Row) -> str:
    guidance = row.facts["guidance"]
    return row.facts["sampler"] + (f", guidance {guidance:g}" if guidance != 1 else "")


def distance(row: Row) -> str:
    return f"**{row.facts['distance']:.2f}** {interval(row.facts['error'])}"


def floor_words(part: Part) -> str:
    return f"floor: {part.settings['images']:,} training images"


def floor_of(part: Part) -> str:
    return f"{part.more['floor']:.2f} {interval(part.more['floor_error'])}"


def distilled(part: Part) -> str:
    """The teacher's ways of drawing and the student's."""
    facts = part.rows[-1].facts
    words = (
        f"`sfumato distill` of the ten-minute run, {part.settings['seconds'] // 60} minutes more: "
        f"{facts['steps']:,} steps of {part.rows[-1].median:.3f} s."
    )
    ordered = sorted(part.rows, key=lambda row: row.facts["calls"])
    rows = [[row.facts["words"], str(row.facts["calls"]), distance(row)] for row in ordered]
    rows.append([floor_words(part), "", floor_of(part)])
    head = ["", "network calls an image", "distance"]
    return (
        f"### One and two steps\n\n{words} {compared(ordered)}\n\n{table(head, rows)}{again(part)}"
    )


def compared(rows: Sequence[Row]) -> str:
    """From how many calls on the teacher is nearer than its student; rows rise in calls."""
    teacher = [row for row in rows if row.name.startswith("teacher")]
    best = min(row.facts["distance"] for row in rows if row not in teacher)
    nearer = next((row for row in teacher if row.facts["distance"] < best), None)
    if nearer is None:
        return "The student is nearer than every row of its teacher."
    return f"The teacher is nearer than its student from {nearer.facts['calls']} calls on."


def digits(part: Part, rivals: Part | None) -> str:
    """Ours on the digits, and the source documents' recipes where they were measured."""
    parts = [part, *([rivals] if rivals else [])]
    rows = [row for one in parts for row in one.rows]
    words = (
        f"The 5,000 built-in digits, {part.settings['seconds'] // 60} minutes each, counted as "
        "above. Squared Frechet distance from them in the features of our frozen classifier of "
        "digits. There is no test set: nine tenths of them or all are what a contender learned."
    )
    words += STROKES if rivals else ""
    head = ["", "distance", "images drawn", "steps", "sampler", "network calls an image"]
    lines = [on_digits(row, one.settings["images"]) for one in parts for row in one.rows]
    half = f"{part.settings['test_images'] // 2:,}"
    lines.append(["floor: one half of them from the other", floor_of(part), half, *[""] * 3])
    return f"### Digits\n\n{words}\n\n{pictures(rows)}{table(head, lines)}{again(*parts)}"


def on_digits(row: Row, images: int) -> list[str]:
    facts = row.facts
    return [
        facts["words"],
        distance(row),
        f"{images:,}",
        f"{facts['steps']:,}",
        sampler(row),
        str(facts["calls"]),
    ]


def pictures(rows: Sequence[Row]) -> str:
    """The digits and what was drawn, of the rows that tell of a picture."""
    told = [(row.facts["title"], row.facts["picture"]) for row in rows if "picture" in row.facts]
    if not told:
        return ""
    every = [("the digits", picture_of("digits"), 21), *((*one, 19) for one in told)]
    return f"{images_of(every)}\n\n"


def steps(parts: Parts) -> str:
    """What the minutes were counted by, and what drawing takes."""
    head = ["", "s, median [quartiles]", "images/s", "arithmetic"]
    rows = []
    for row in measured(parts).values():
        low, high = row.quartiles
        name = row.name if ":" in row.name else f"{row.name}: training step"
        timed = f"{row.median:.3f} [{low:.3f}, {high:.3f}]"
        rows.append([name, timed, f"{row.rate:.1f}", row.facts.get("precision", "")])
    commands = again(*(parts[case] for case in MEASURED if case in parts))
    return f"### What the minutes were counted by\n\n{table(head, rows)}{commands}"


def ablations(parts: Parts) -> str:
    """A row a variant: distances by seed and their mean; the same of other averages."""
    if "fashion" not in parts:
        return again(*parts.values())
    part = parts["fashion"]
    seeds = [f"seed {seed}" for seed in part.settings["seeds"]]
    head = ["", "s a step", "steps", *seeds, "mean"]
    rows = [line for row in part.rows for line in variant(row)]
    rows.append([floor_words(part), "", "", *[""] * len(seeds), floor_of(part)])
    return table(head, rows) + again(*(parts[case] for case in ("times", "fashion")))


def variant(row: Row) -> list[list[str]]:
    """Its line, and where other averages were kept a line each, as of the same training."""
    of_seeds = row.facts["distances"]
    lines = []
    for name in of_seeds[0]:
        values = [found[name][0] for found in of_seeds]
        shown = [*(f"{value:.2f}" for value in values), f"**{mean(values):.2f}**"]
        own = name == "average"
        words = row.facts["words"] if own else AVERAGES.get(name, f"average of width {name}")
        timed = [f"{row.median:.3f}", f"{row.facts['steps']:,}"] if own else ["", ""]
        lines.append([words, *timed, *shown])
    return lines


AVERAGES = {"raw": "no average: the weights of the last step"}
