"""The figure of sfumato sweep: distance to the converged images against network calls.

matplotlib is imported by the figure, not before. Colours are Okabe and Ito's (from memory), which
colour-blind readers tell apart; lines of one colour differ in dashes and in marker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .plots import _figure, _plain, _save, _scale_y
from .sweep_words import Found, Record, best_drawn, counts, nearest, of, scales

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
MARKERS, DASHES = "osD^vPX", ("-", "--", ":")
WIDE = 1.16  # of the axis beyond the last point, for the solver's name there


def sweep_figure(record: Record, path: Path, settings: Mapping[str, Any]) -> None:
    """A panel for each guidance scale, and one for quality where it was measured."""
    drawn = bool(best_drawn(record["rows"]))
    panels = len(scales(record)) + drawn
    figure = _figure(1.2 + 5.6 * panels, 5.8)
    row = figure.subplots(1, panels, squeeze=False)[0]
    styles = styles_of(record)
    for axes, scale in zip(row, scales(record)):
        draw_distances(axes, record, scale, styles)
    if drawn:
        draw_quality(row[-1], record, styles)
    _save(figure, path, settings)


def styles_of(record: Record) -> dict[str, dict[str, Any]]:
    """How each sampler is drawn, the same in all panels: the nearest ones get the plain lines."""
    last = counts(record)[-1]
    ordered = [row["sampler"] for row in nearest(of(record["rows"], calls=last))]
    names = list(dict.fromkeys([*ordered, *(row["sampler"] for row in record["rows"])]))
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
            "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
        }
        for i, name in enumerate(names)
    }


def draw_distances(
    axes: Axes, record: Record, scale: float, styles: Mapping[str, dict[str, Any]]
) -> None:
    rows = of(record["rows"], guidance=scale, adds_noise=False)
    for name, style in styles.items():
        line = [r for r in nearest(of(rows, sampler=name)) if r["distance"]]
        draw_line(axes, line, "distance", name, style)
    floor = record["floor"][f"{scale:g}"]
    if floor > 0:
        axes.axhline(floor, color="#999999", linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            "two converged solvers apart",
            (1, floor),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            fontsize=8,
            color="#606060",
            ha="right",
        )
    for own in of(record["own"], guidance=scale):
        axes.plot([own["spent"]], [own["distance"]], "*", color="black", ms=12, label="as the run")
    _plain(axes, f"Distance to the converged images, guidance {scale:g}", "network calls an image")
    scaled(axes, counts(record), "root mean square distance")
    axes.set_yscale("log")
    name_lines(axes)


def draw_quality(axes: Axes, record: Record, styles: Mapping[str, dict[str, Any]]) -> None:
    """The best scale of each sampler, with error bars, and the floor."""
    known = best_drawn(record["rows"])
    for name, style in styles.items():
        best = {row["calls"]: row for row in reversed(of(known, sampler=name))}
        line = [{**row, "value": row["quality"]["value"]} for row in best.values()]
        draw_line(axes, line, "value", name, style, [r["quality"]["error"] for r in best.values()])
    judge = record["quality"]
    if judge["floor"]:
        axes.axhline(judge["floor"], color="#999999", linewidth=1, linestyle=(0, (1, 2)))
    _plain(axes, f"{judge['measure']}, {judge['images']:,} images", "network calls an image")
    scaled(axes, counts(record), "dotted: as many other real images")
    _scale_y(axes, np.array([judge["floor"] or np.nan, *(r["quality"]["value"] for r in known)]))
    name_lines(axes)


def draw_line(
    axes: Axes,
    rows: Sequence[Found],
    key: str,
    name: str,
    style: Mapping[str, Any],
    errors: Sequence[float] | None = None,
) -> None:
    if not rows:
        return
    pairs = sorted(zip(rows, errors or [0.0] * len(rows)), key=lambda pair: pair[0]["spent"])
    x, y = [r["spent"] for r, _ in pairs], [r[key] for r, _ in pairs]
    look: dict[str, Any] = {"markersize": 5, "linewidth": 1.5, "label": name, **style}
    if errors is None:
        axes.plot(x, y, **look)
    else:
        axes.errorbar(x, y, yerr=[error for _, error in pairs], capsize=2, **look)


def name_lines(axes: Axes) -> None:
    """The legend below the axes, where it hides nothing."""
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    axes.legend(fontsize=8.5, frameon=False, ncols=4, handlelength=3, **below)


def scaled(axes: Axes, calls: Sequence[int], label: str) -> None:
    """The number of calls on a logarithmic axis, ticked where it was measured."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xlim(calls[0] / WIDE, calls[-1] * WIDE)
    axes.set_xticks(list(calls), labels=[str(number) for number in calls])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(label, fontsize=9)
