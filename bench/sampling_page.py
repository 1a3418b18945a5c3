"""The section on sampling, of docs/benchmarks.md."""

import math
import re
from collections.abc import Mapping

from .results import Part, Row
from .tables import again, brackets, commit_of, interval, table

INTRO = (
    "Class-conditional images by one process, the network twice a call where guidance is on. "
    "`sfumato tune` fits a sampler to a teacher of many steps and also to how often the data's "
    "values come near some levels. How it does so has changed: above each table stands the run, "
    "below it the commit. The background of the data is black where a "
    "teacher's is at 1 to 4 of 255, which no eye sees and these features do. The distances tell of "
    "that background too, and so 6 calls can be nearer than 35; with all values up to 4 set to 0 "
    "the samplers are more alike ([experiments/LOG.md](../experiments/LOG.md)). "
    "Nearer to the data is not nearer to the teacher: see the column `off the teacher`. An "
    "interval is twice the jackknife's error. "
    "Distances are of fewer images than in the sections above, not to be compared with those.\n\n"
    "What to hold against it: the aim of `sfumato tune`, its weight and its starts were chosen by "
    "this distance, to training images, on one run of the recipe (seed 0, step 1,675), nothing on "
    "a run of another seed or of thirty minutes. The luck of one fit for each number of calls is "
    "not in the interval. The levels are fitted to 1,000 of the training images."
)
FITTED = "\nDrawn at commit {commit}, by samplers fitted then or before.\n"
FIRST = (
    "\nBefore the command: `sfumato train fashion_fast{seed}` makes a run of the recipe, on "
    "Fashion-MNIST, and `sfumato tune RUN --nfe N --guidance {guidance:g} --guidance-from "
    "{guidance_from:g} --guidance-to {guidance_to:g}` its tuned samplers, one for each number of "
    "calls (N is {calls}): both as they are now.\n"
)
EVEN = (
    "the standard ones, and those even in log(sigma / alpha), from 25, 40 or 80 to 0.04, 0.08 or "
    "0.15, that tuned samplers begin with"
)
SECOND = "next grid"  # in the names of solvers on the second of their grids
MADE_BY = {"fashion_fast-30m": "quality --only fashion_fast-30"}  # runs that another bench leaves
WANTED = 1.15
NEAREST = 3  # fixed solvers of each number of calls that are shown


def body(parts: Mapping[str, Part]) -> str:
    found = [timed(parts["sampling"])] if "sampling" in parts else []
    return "\n\n".join([*found, *([by_calls(parts["calls"])] if "calls" in parts else [])])


def timed(part: Part) -> str:
    base = of_kind(part, "reference")
    count = f"s for {part.settings['images']:,} images"
    head = ["", "calls", count, "distance", "times that of 35 calls"]
    rows = [
        [
            f"**{row.name}**" if row.facts["kind"] == "tuned" else row.name,
            str(row.facts["nfe"]),
            brackets(row, 2),
            f"{row.facts['distance']:.2f} {interval(row.facts['error'])}",
            f"{row.facts['distance'] / base.facts['distance']:.2f}",
        ]
        for row in by_distance(part)
    ]
    return f"{words_of(part)}\n\n{table(head, rows)}{fitted(part)}{before(part)}{again(part)}"


def fitted(part: Part) -> str:
    """Of which state of this repository the table is."""
    return FITTED.format(commit=commit_of(part))


def origin(part: Part) -> str:
    """Which bench leaves the run of this part, if one does."""
    made = MADE_BY.get(part.settings["run"])
    return f" That run is left in `--runs` by `python -m bench {made}`." if made else ""


def before(part: Part) -> str:
    """What has to be there before the command."""
    told = {"guidance_to": math.inf} | {k: v for k, v in part.settings.items() if v is not None}
    own = [row.facts for row in part.rows if row.facts["kind"] == "tuned"]
    counts = {facts.get("calls") or facts["nfe"] for facts in own}
    told["seed"] = f" --seed {told['seed']} --steps {told['step']}" if told.get("seed") else ""
    return FIRST.format(**told, calls=", ".join(map(str, sorted(counts))))


def of_kind(part: Part, kind: str) -> Row:
    return next(row for row in part.rows if row.facts["kind"] == kind)


def by_distance(part: Part) -> list[Row]:
    return sorted(part.rows, key=lambda row: row.facts["distance"])


def words_of(part: Part) -> str:
    told, short = part.settings, part.more
    ends = told["guidance_from"], told["guidance_to"]
    inside = (
        "everywhere"
        if ends == (0, None)
        else f"where sigma / alpha is in {ends[0]:g} to "
        + ("infinity" if ends[1] is None else f"{ends[1]:g}")
    )
    faster = of_kind(part, "tuned").speedup_over(of_kind(part, "reference"))
    return (
        f"The run: `{told['run']}` at step {told['step']:,}, {told['precision']}, guidance "
        f"{told['guidance']:g} {inside}. {yardstick(part)} {grids(part)} The tuned sampler is at "
        f"**{short['distance_to_reference']:.2f}** times the distance of 35 calls (wanted: "
        f"{WANTED}) and {faster:.1f} times as fast; the best fixed solver of as "
        f"many calls, {short['best_fixed']}, is at {short['best_fixed_to_reference']:.2f} times."
    )


def yardstick(part: Part) -> str:
    """What the distances of a table are, and to what."""
    told, floor = part.settings, part.more["floor"]
    least = "" if floor is None else f"; the floor is {floor:.2f}"
    return f"Distance: {told['measure']}, squared, to {told['reference']}{least}."


def grids(part: Part) -> str:
    """How the grid of a fixed solver was chosen; parts older than the race do not say."""
    raced = part.settings.get("raced")
    by = (
        "to a teacher of many steps by the pixels of 20 images"
        if raced is None
        else f"of all by the same distance, of {raced} images of other seeds"
    )
    second = any(SECOND in row.name for row in part.rows)
    more = f"; `{SECOND}` is its second" if second else ""
    tried = part.settings.get("grids")
    which = "the standard grid" if tried is None else f"the one of {tried} grids ({EVEN})"
    return f"Every fixed solver walks {which} that is nearest {by}{more}."


def by_calls(part: Part) -> str:
    """The tuned sampler of each number of calls, and the fixed ones that come nearest by either."""
    black = any("cleared" in row.facts for row in part.rows)
    head = ["", "calls", "distance", "more than the tuned", "off the teacher"]
    head += ["with up to 4 set to 0"] if black else []
    head += ["grid"]
    counts = sorted({row.facts["calls"] for row in part.rows})
    rows = [cells(row, black) for calls in counts for row in shown(part, calls)]
    short = part.more
    own = short.get("teacher_cleared")
    dark = "" if own is None else f", with values up to 4 set to 0 {own:.2f}"
    off = "Off: root mean square of the pixels' difference from the teacher's, in [-1, 1]."
    return (
        f"Few calls of `{part.settings['run']}` at step {part.settings['step']:,}, "
        f"{part.settings['images']:,} images of the same seeds by all.{origin(part)} "
        f"{yardstick(part)} {grids(part)}{counts_of(part)}{fitting(part)} "
        f"The teacher's own distance is {short['teacher']:.2f} "
        f"{interval(short['teacher_error'])}{dark}. {off} Intervals of "
        f"differences are those of pairs.\n\n{table(head, rows)}"
        f"{fitted(part)}{before(part)}{again(part)}"
    )


def counts_of(part: Part) -> str:
    """What the calls of older parts are, which did not count those that were made."""
    if all("nfe" in row.facts for row in part.rows):
        return ""
    return " Calls are those asked for; solvers of two calls a step may make fewer."


def fitting(part: Part) -> str:
    """Seconds of `sfumato tune`; parts that are older do not say."""
    took = [row.facts["fitted_s"] for row in part.rows if row.facts.get("fitted_s")]
    return f" Each tuned sampler took {min(took):.0f} to {max(took):.0f} s to fit." if took else ""


def shown(part: Part, calls: int) -> list[Row]:
    """The tuned one, then the NEAREST fixed ones by distance and the one least off."""
    rows = [row for row in part.rows if row.facts["calls"] == calls]
    others = sorted(rows, key=lambda row: row.facts["distance"])
    others = [row for row in others if row.facts["kind"] == "fixed"]
    kept = others[:NEAREST]
    least = min(others, key=lambda row: row.facts["off"])
    tuned = [row for row in rows if row.facts["kind"] == "tuned"]
    return [*tuned, *kept, *([] if least in kept else [least])]


def typed(grid: str) -> str:
    """As --grid takes it: karras:0.02,20,7 of KarrasGrid(sigma_min=0.02, ...)."""
    name, _, told = grid.partition("Grid(")
    values = re.findall(r"=([^,)]+)", told)
    numbers = ["" if value == "None" else f"{float(value):g}" for value in values]
    return ":".join([name.lower(), *([",".join(numbers)] if numbers else [])])


def cells(row: Row, black: bool) -> list[str]:
    facts = row.facts
    tuned = facts["kind"] == "tuned"
    name = row.name.rpartition(",")[0]
    return [
        f"**{name}**" if tuned else name,
        str(facts.get("nfe", facts["calls"])),
        f"{facts['distance']:.2f} {interval(facts['error'])}",
        "" if tuned else f"{facts['more']:+.2f} {interval(facts['more_error'])}",
        f"{facts['off']:.4f}",
        *([f"{facts['cleared']:.2f}"] if black else []),
        facts["grid"] if tuned else typed(facts["grid"]),
    ]
