"""What sfumato sweep found, in words: tables, and a sentence for each number of calls.

Reads the values of sweep.json and nothing else, so that the page of a run says the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Found = Mapping[str, Any]  # a row of sweep.json
SHORT = {"KarrasGrid": "Karras", "UniformGrid": "uniform", "LeadingGrid": "leading"}
SHORT |= {"TrailingGrid": "trailing", "LinspaceGrid": "linspace", "TunedGrid": "tuned"}


def grid_words(grid: Mapping[str, Any]) -> str:
    """ "Karras 20 to 0.02" of a grid of sweep.json."""
    name = SHORT.get(str(grid.get("kind")), str(grid.get("kind")))
    if name != "Karras":
        return name
    top, rho = grid.get("sigma_max"), grid.get("rho", 7.0)
    ends = f"{'all' if top is None else format(top, '.3g')} to {grid.get('sigma_min', 0):g}"
    return f"{name} {ends}" + ("" if rho == 7.0 else f", rho {rho:g}")


def of(rows: Iterable[Found], **wanted: Any) -> list[Found]:
    """The rows with these values."""
    return [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]


def scales(record: Record) -> list[float]:
    """The guidance scales, in order."""
    return sorted({row["guidance"] for row in record["rows"]})


def counts(record: Record) -> list[int]:
    return sorted({row["calls"] for row in record["rows"]})


def nearest(rows: Sequence[Found]) -> list[Found]:
    """Those with a distance, the nearest first."""
    return sorted((r for r in rows if r["distance"] is not None), key=lambda r: r["distance"])


def best_drawn(rows: Sequence[Found]) -> list[Found]:
    """Those whose quality is known, the best first."""
    known = [row for row in rows if row["quality"] is not None]
    return sorted(known, key=lambda row: row["quality"]["value"])


def alike(first: Found, others: Sequence[Found]) -> list[str]:
    """The names of those whose quality the errors can't tell from the first's.

    With the guidance where it is another one.
    """
    names = []
    for row in others:
        other = row["guidance"] != first["guidance"]
        gap = row["quality"]["value"] - first["quality"]["value"]
        if gap < 2 * (row["quality"]["error"] ** 2 + first["quality"]["error"] ** 2) ** 0.5:
            names.append(row["sampler"] + f" at guidance {row['guidance']:g}" * other)
    return names


# --- tables


def tables(record: Record) -> list[str]:
    """For each guidance scale the distances, a solver a row; then the qualities."""
    lines = []
    for scale in scales(record):
        lines += [*distance_table(record, scale), ""]
    return [*lines, *quality_table(record)]


def distance_table(record: Record, scale: float) -> list[str]:
    rows = of(record["rows"], guidance=scale, adds_noise=False)
    asked = counts(record)
    names = list(dict.fromkeys(row["sampler"] for row in nearest(rows)))
    floor = record["floor"][f"{scale:g}"]
    lines = [
        f"Guidance {scale:g}: {record['measure']}; {record['images']} images. Two solvers that "
        f"have converged are {floor:.2g} apart, so less than that says nothing.",
        "  " + "calls".ljust(10) + "".join(f"{calls:>11}" for calls in asked),
    ]
    for name in names:
        cells = [cell(of(rows, sampler=name, calls=calls), rows, calls) for calls in asked]
        lines.append("  " + name.ljust(10) + "".join(f"{text:>11}" for text in cells))
    own = of(record["own"], guidance=scale)
    lines += [f"  the run's own setting, {r['spent']} calls: {r['distance']:.3g}" for r in own]
    return [*lines, "  * the nearest of so many calls"]


def cell(found: Sequence[Found], rows: Sequence[Found], calls: int) -> str:
    """A distance, with a star where it is the least of so many calls."""
    if not found or found[0]["distance"] is None:
        return "-"
    first = nearest(of(rows, calls=calls))[0]
    return f"{found[0]['distance']:.3g}{' *' if found[0] is first else '  '}"


def quality_table(record: Record) -> list[str]:
    judge = record["quality"]
    known = best_drawn(record["rows"])
    if judge is None or not known:
        return []
    floor = "unknown" if judge["floor"] is None else f"{judge['floor']:.3g}"
    lines = [
        f"{judge['measure']} of {judge['images']:,} images, beside {judge['reference_images']:,} "
        f"{judge['reference']}; as many other real images: {floor}. Samplers that add noise are "
        "judged by this only: their distance to the solution of the ODE is no error.",
        f"  calls  {'sampler':<16}{'guidance':>9}{'quality':>18}{'s/image':>10}  grid",
    ]
    for row in sorted(known, key=lambda row: (row["calls"], row["quality"]["value"])):
        value = f"{row['quality']['value']:.3g} ± {row['quality']['error']:.2g}"
        lines.append(
            f"  {row['calls']:>5}  {row['sampler']:<16}{row['guidance']:>9g}{value:>18}"
            f"{row['seconds_an_image']:>10.4f}  {grid_words(row['grid'])}"
        )
    return [*lines, ""]


# --- the sentences


def verdicts(record: Record) -> list[str]:
    """A sentence and a command for each number of calls at each guidance; then the best drawn."""
    lines = []
    for calls in counts(record):
        for scale in scales(record):
            lines += nearest_words(record, calls, scale)
        lines += drawn_words(record, calls)
    return lines


def nearest_words(record: Record, calls: int, scale: float) -> list[str]:
    rows = nearest(of(record["rows"], calls=calls, guidance=scale))
    if not rows:
        return [f"{calls} calls, guidance {scale:g}: no solver stayed within them."]
    best, ties, least = rows[0], rows[0].get("ties") or (), record["floor"][f"{scale:g}"]
    same = [r["sampler"] for r in rows[1:] if r["sampler"] in ties or r["distance"] <= least]
    tie = f"; {', '.join(same)} can't be told from it" if same else ""
    error = "" if best["error"] is None else f" ± {best['error']:.2g}"
    return [
        f"{calls} calls, guidance {scale:g}: nearest is {best['sampler']} on the "
        f"{grid_words(best['grid'])} grid, {best['distance']:.3g}{error} from converged, "
        f"{best['seconds_an_image']:.4f} s an image{tie}.",
        *command_lines(best),
    ]


def drawn_words(record: Record, calls: int) -> list[str]:
    """Where quality was measured: which sampler drew best, and which can't be told from it."""
    rows = best_drawn(of(record["rows"], calls=calls))
    if len(rows) < 2:
        return []
    best, same = rows[0], alike(rows[0], rows[1:])
    tie = f"; within the error: {', '.join(dict.fromkeys(same))}" if same else ""
    value = best["quality"]
    return [
        f"{calls} calls: drew best: {best['sampler']}, guidance {best['guidance']:g}, "
        f"{value['value']:.3g} ± {value['error']:.2g}{tie}.",
        *command_lines(best),
    ]


def command_lines(row: Found) -> list[str]:
    return [f"  {row['command']}"] if row["command"] else []
