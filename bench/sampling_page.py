"""The section on sampling, of docs/benchmarks.md."""

from collections.abc import Mapping

from .results import Part, Row
from .tables import again, brackets, table

INTRO = (
    "Class-conditional images by one process, the network twice a call where guidance is on. Every "
    "fixed solver walks the standard grid that brings it nearest to a teacher of many steps; the "
    "tuned one was fitted to the same teacher by `sfumato tune`."
)
WANTED = 1.15


def body(parts: Mapping[str, Part]) -> str:
    (part,) = parts.values()
    base = next(row for row in part.rows if row.facts["kind"] == "reference")
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
    return f"{words_of(part)}\n\n{table(head, rows)}{again(part)}"


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
    return (
        f"The run: `{told['run']}` at step {told['step']:,}, {told['precision']}, guidance "
        f"{told['guidance']:g} {inside}. Distance: {told['measure']}, squared, to "
        f"{told['reference']}{floor}. The tuned sampler is at "
        f"**{short['distance_to_reference']:.2f}** times the distance of 35 calls (wanted: "
        f"{WANTED}) and {short['times_faster']:.1f} times as fast; the best fixed solver of as "
        f"many calls, {short['best_fixed']}, is at {short['best_fixed_to_reference']:.2f} times."
    )
