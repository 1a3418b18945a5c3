"""The section on sampling, of docs/benchmarks.md."""

import math
from collections.abc import Mapping

from .results import Part, Row
from .tables import again, brackets, table

INTRO = (
    "Class-conditional images by one process, the network twice a call where guidance is on. "
    "Every fixed solver walks the standard grid that brings it nearest to a teacher of many "
    "steps, by the pixels of 20 images; `next grid` is its second. `sfumato tune` fits to the "
    "same teacher and also to how often the data's values, and their differences from neighbours,"
    " come near some levels: the background of the data is black where a teacher's is at 1 to 4 "
    "of 255, which no eye sees and these features do. The distances tell of that background too, "
    "and so 6 calls can be nearer than 35; with all values up to 4 set to 0 the samplers are more"
    " alike, and fixed ones are the nearer in places "
    "([experiments/LOG.md](../experiments/LOG.md)). Nearer to the data is not nearer to the "
    "teacher: see the column `off the teacher`. Distances are to training images and of 1,000, "
    "not to be compared with those above."
)
FIRST = (
    "\nThe run is one of the recipe, on Fashion-MNIST, by `sfumato train fashion_fast`; its tuned "
    "samplers are made by `sfumato tune RUN --nfe N --guidance {guidance:g} --guidance-from "
    "{guidance_from:g} --guidance-to {guidance_to:g}`, one for each number of calls.\n"
)
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
            f"{row.facts['distance']:.2f} ± {row.facts['error']:.2f}",
            f"{row.facts['distance'] / base.facts['distance']:.2f}",
        ]
        for row in by_distance(part)
    ]
    return f"{words_of(part)}\n\n{table(head, rows)}{before(part)}{again(part)}"


def before(part: Part) -> str:
    """What has to be there before the command."""
    told = {"guidance_to": math.inf} | {k: v for k, v in part.settings.items() if v is not None}
    return FIRST.format(**told)


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
    floor = "" if short["floor"] is None else f"; the floor is {short['floor']:.2f}"
    faster = of_kind(part, "tuned").speedup_over(of_kind(part, "reference"))
    return (
        f"The run: `{told['run']}` at step {told['step']:,}, {told['precision']}, guidance "
        f"{told['guidance']:g} {inside}. Distance: {told['measure']}, squared, to "
        f"{told['reference']}{floor}. The tuned sampler is at "
        f"**{short['distance_to_reference']:.2f}** times the distance of 35 calls (wanted: "
        f"{WANTED}) and {faster:.1f} times as fast; the best fixed solver of as "
        f"many calls, {short['best_fixed']}, is at {short['best_fixed_to_reference']:.2f} times."
    )


def by_calls(part: Part) -> str:
    """The tuned sampler of each number of calls, and the fixed ones that come nearest by either."""
    black = any("cleared" in row.facts for row in part.rows)
    head = ["", "calls", "distance", "more than the tuned", "off the teacher"]
    head += ["with up to 4 set to 0"] if black else []
    counts = sorted({row.facts["calls"] for row in part.rows})
    rows = [cells(row, black) for calls in counts for row in shown(part, calls)]
    short = part.more
    floor = "" if short["floor"] is None else f"; the floor is {short['floor']:.2f}"
    own = short.get("teacher_cleared")
    dark = "" if own is None else f", with values up to 4 set to 0 {own:.2f}"
    return (
        f"Few calls of `{part.settings['run']}` at step {part.settings['step']:,}, "
        f"{part.settings['images']:,} images of the same seeds by all. The teacher's "
        f"own distance is {short['teacher']:.2f} ± {short['teacher_error']:.2f}{dark}{floor}. "
        "Off: root mean square of the pixels' difference from the teacher's, in [-1, 1]. Errors of "
        f"differences are those of pairs.\n\n{table(head, rows)}{again(part)}"
    )


def shown(part: Part, calls: int) -> list[Row]:
    """The tuned one, then the NEAREST fixed ones by distance and the one least off."""
    rows = [row for row in part.rows if row.facts["calls"] == calls]
    others = sorted(rows, key=lambda row: row.facts["distance"])
    others = [row for row in others if row.facts["kind"] == "fixed"]
    kept = others[:NEAREST]
    least = min(others, key=lambda row: row.facts["off"])
    tuned = [row for row in rows if row.facts["kind"] == "tuned"]
    return [*tuned, *kept, *([] if least in kept else [least])]


def cells(row: Row, black: bool) -> list[str]:
    facts = row.facts
    tuned = facts["kind"] == "tuned"
    name = row.name.rpartition(",")[0]
    return [
        f"**{name}**" if tuned else name,
        str(facts["calls"]),
        f"{facts['distance']:.2f} ± {facts['error']:.2f}",
        "" if tuned else f"{facts['more']:+.2f} ± {facts['more_error']:.2f}",
        f"{facts['off']:.4f}",
        *([f"{facts['cleared']:.2f}"] if black else []),
    ]
