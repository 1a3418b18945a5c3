"""The plots of docs/benchmarks.md, each made of the results' parts alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .profiling import KINDS, OTHER, REPACKING
from .results import Part, Row

Parts = Mapping[str, Part]
DOTS_PER_INCH = 130
GREY, BLUE, ORANGE, GREEN, DARK = "#b4bcc8", "#3b6ea5", "#e08214", "#1b7837", "#39424e"
COLOURS = {
    "peer, as documented": GREY,
    "peer, at its best": ORANGE,
    "ours": BLUE,
    "ours, fp32": "#9dbcdb",
}
KIND_COLOURS = ("#762a83", "#3b6ea5", "#1b7837", "#e08214", "#b2182b", "#c9a227", "#7fb3d5", GREY)


def figure(width: float, height: float, panels: int = 1, **settings: Any) -> tuple[Figure, Any]:
    made = Figure(figsize=(width, height), layout="constrained")
    axes = made.subplots(1, panels, squeeze=False, **settings)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=DARK, labelsize=8)
    return made, axes


def save(made: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def words_of(part: Part) -> str:
    return part.settings.get("words", part.case)


def ceilings(parts: Parts) -> Figure:
    """GFLOP/s by width, a panel a product."""
    made, axes = figure(4 * len(parts), 3.2, len(parts), sharey=True)
    styles = {"forward": "-", "backward": "--"}
    for axis, part in zip(axes, parts.values(), strict=True):
        for number_format, colour in (("fp32", GREY), ("bf16", BLUE)):
            for direction, style in styles.items():
                wanted = {"format": number_format, "direction": direction}
                rows = [row for row in part.rows if wanted.items() <= row.facts.items()]
                best = best_by_width(rows)
                label = f"{number_format} {direction}"
                values = [rate / 1e9 for rate in best.values()]
                axis.plot(list(best), values, style, color=colour, marker="o", ms=3, label=label)
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(best), [str(width) for width in best])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel("width", fontsize=8)
        axis.set_title({"conv3x3": "3 x 3 convolution"}.get(part.case, "matrix product"), size=9)
    axes[0].set_ylabel("GFLOP/s", fontsize=8)
    axes[-1].legend(fontsize=7, frameon=False)
    return made


def best_by_width(rows: Sequence[Row]) -> dict[int, float]:
    """The highest rate of each width, which is the second word of a row's name."""
    best: dict[int, float] = {}
    for row in rows:
        width = int(row.name.split(", ")[1].split()[0])
        best[width] = max(best.get(width, 0.0), row.flops_rate)
    return best


def speedups(parts: Parts) -> Figure:
    """Images a second as multiples of the peer as documented; whiskers are quartiles."""
    made, (axis,) = figure(7.2, 0.5 + 0.85 * len(parts))
    for place, part in enumerate(parts.values()):
        base = part.rows[0]
        for index, row in enumerate(part.rows):
            y = place + 0.2 * (index - 1.5)
            value = row.speedup_over(base)
            low, high = (row.median / s * value for s in reversed(row.quartiles))
            label = row.name if place == 0 else None
            axis.barh(y, value, 0.18, color=COLOURS.get(row.name, DARK), label=label)
            axis.plot([low, high], [y, y], color=DARK, lw=0.8)
            axis.annotate(f"{value:.2f}", (max(value, high), y), (3, 0), **OFFSET)
    axis.axvline(1, color=DARK, lw=0.6)
    axis.set_yticks(range(len(parts)), [words_of(part) for part in parts.values()])
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel("images a second, as multiples of the peer as documented", fontsize=8)
    made.legend(loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return made


FREE = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}  # of the line behind
OFFSET: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7}


def losses(parts: Parts) -> Figure:
    """Training losses, smoothed over a twentieth of the steps, a panel a case."""
    made, axes = figure(4 * len(parts), 3.0, len(parts))
    styles = ((BLUE, 1.0, 3), (GREY, 3.5, 1), (ORANGE, 1.0, 2))  # equal curves are both seen
    for axis, part in zip(axes, parts.values(), strict=True):
        for (name, values), style in zip(part.more["losses"].items(), styles, strict=False):
            colour, width, order = style
            window = max(1, len(values) // 20)
            smooth = np.convolve(values, np.ones(window) / window, "valid")
            steps = np.arange(window, len(values) + 1)
            axis.plot(steps, smooth, color=colour, lw=width, zorder=order, label=name)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.set_title(words_of(part), size=9)
        axis.set_xlabel("step", fontsize=8)
    axes[0].set_ylabel("loss", fontsize=8)
    axes[0].legend(fontsize=7, frameon=False)
    return made


def profiles(parts: Parts) -> Figure:
    """Milliseconds of a step by kind of work, stacked; a panel a case."""
    made = Figure(figsize=(8, 0.7 + 0.95 * len(parts)), layout="constrained")
    panels = made.subplots(len(parts), 1, squeeze=False)[:, 0]
    kinds = [*(kind for kind, _ in KINDS), REPACKING, OTHER]
    for axis, part in zip(panels, parts.values(), strict=True):
        axis.spines[["top", "right"]].set_visible(False)
        left = np.zeros(len(part.rows))
        for kind, colour in zip(kinds, KIND_COLOURS, strict=True):
            values = np.array([row.facts["ms"].get(kind, 0.0) for row in part.rows])
            label = kind if axis is panels[0] else None
            axis.barh(range(len(part.rows)), values, left=left, color=colour, label=label)
            left += values
        axis.set_yticks(range(len(part.rows)), [row.name.partition(" (")[0] for row in part.rows])
        axis.tick_params(colors=DARK, labelsize=8)
        axis.invert_yaxis()
        axis.set_title(words_of(part), size=9)
    panels[-1].set_xlabel("ms a step", fontsize=8)
    made.legend(loc="outside upper center", ncols=3, fontsize=7, frameon=False)
    return made


def scales(parts: Parts) -> Figure:
    """Seconds a step along each axis, both logarithmic, with the fitted exponent."""
    shown = [part for part in parts.values() if "exponent" in part.more]
    made, axes = figure(3 * len(shown), 3.0, len(shown), sharey=True)
    for axis, part in zip(axes, shown, strict=True):
        values = [row.facts["value"] for row in part.rows]
        seconds = [row.median for row in part.rows]
        axis.loglog(values, seconds, "o-", color=BLUE, ms=4)
        axis.set_xticks(values, [str(value) for value in values])
        axis.minorticks_off()
        axis.set_xlabel(part.case, fontsize=8)
        power = f"time ~ {part.case}^{part.more['exponent']:.2f}"
        axis.set_title(f"{power}, {part.settings['precision']}", size=9)
    axes[0].set_ylabel("seconds a step", fontsize=8)
    return made


def imports(parts: Parts) -> Figure:
    """Seconds of importing, by package."""
    (part,) = parts.values()
    found = part.more["imports"]
    made, (axis,) = figure(6, 0.6 + 0.22 * len(found))
    axis.barh(range(len(found)), list(found.values()), color=BLUE)
    axis.set_yticks(range(len(found)), list(found))
    axis.invert_yaxis()
    axis.set_xlabel("seconds of importing its own modules", fontsize=8)
    return made


def marks_of(axis: Any, largest: float) -> None:
    """Round numbers along an axis of logarithms."""
    marks = [mark for mark in (1, 2, 3, 5, 10, 20, 30, 50, 100) if mark <= 2 * largest]
    axis.set_xticks(marks, [str(mark) for mark in marks])
    axis.minorticks_off()


def samplings(parts: Parts) -> Figure:
    """Distance of each sampler, nearest first, with its seconds; a line marks 35 calls."""
    part = parts["sampling"]
    rows = sorted(part.rows, key=lambda row: row.facts["distance"])
    colours = {"reference": GREY, "tuned": BLUE, "fixed": ORANGE}
    made, (axis,) = figure(7.2, 0.8 + 0.26 * len(rows))
    values = [row.facts["distance"] for row in rows]
    for i, row in enumerate(rows):  # points: on an axis of logarithms a bar's length says nothing
        error, colour = 2 * row.facts["error"], colours[row.facts["kind"]]
        axis.errorbar(values[i], i, xerr=error, fmt="o", ms=6, color=colour, ecolor=DARK)
        words = f"{values[i]:.2f} in {row.median:.1f} s"
        axis.annotate(words, (values[i] + error, i), (6, 0), color=DARK, bbox=FREE, **OFFSET)
    reference = next(row for row in rows if row.facts["kind"] == "reference")
    axis.axvline(reference.facts["distance"], color=GREEN, lw=1, zorder=0)
    axis.set_yticks(range(len(rows)), [f"{row.name} ({row.facts['nfe']})" for row in rows])
    axis.invert_yaxis()
    axis.set_xscale("log")
    marks_of(axis, max(values))
    lowest = min(row.facts["distance"] - 2 * row.facts["error"] for row in rows)
    axis.set_xlim(0.8 * max(lowest, min(values) / 2), 2.2 * max(values))
    axis.set_xlabel("squared Frechet distance and twice its error; in brackets calls", fontsize=8)
    return made


def qualities(parts: Parts) -> Figure:
    """Distances after the same minutes with twice their errors; a line marks the floor."""
    shown = [part for case, part in parts.items() if case.startswith("fashion-")]
    made, (axis,) = figure(6.5, 1.0 + 0.27 * max(3, sum(len(part.rows) for part in shown)))
    names: list[str] = []
    for part in shown:
        for row in part.rows:
            colour = BLUE if row.facts["title"] == "ours" else ORANGE
            place, value, error = len(names), row.facts["distance"], 2 * row.facts["error"]
            axis.errorbar(value, place, xerr=error, fmt="o", ms=6, color=colour, ecolor=DARK)
            axis.annotate(f"{value:.3g}", (value + error, place), (6, 0), **OFFSET)
            names.append(f"{row.facts['title']}, {part.settings['seconds'] // 60} min")
    for part in shown[:1]:
        axis.axvline(part.more["floor"], color=GREEN, lw=1)
        axis.annotate("floor", (part.more["floor"], -0.7), (3, 0), color=GREEN, **OFFSET)
    axis.set_xscale("log")
    axis.set_ylim(max(1, len(names)) - 0.5, -1)
    axis.set_yticks(range(len(names)), names)
    axis.grid(axis="x", color=GREY, lw=0.4)
    axis.margins(x=0.12)
    axis.set_xlabel("squared Frechet distance to the test images and twice its error", fontsize=8)
    return made


def ablations(parts: Parts) -> Figure:
    """Each change's distances, a point a seed; a line marks the recipe's mean."""
    rows = list(parts["fashion"].rows) if "fashion" in parts else []
    made, (axis,) = figure(7.2, 0.9 + 0.27 * max(3, len(rows)))
    for place, row in enumerate(rows):
        values = [found["average"][0] for found in row.facts["distances"]]
        axis.plot(values, [place] * len(values), "o", ms=6, color=BLUE if place else GREEN)
        words = f"{np.mean(values):.3g}"
        axis.annotate(words, (max(values), place), (6, 0), bbox=FREE, zorder=1, **OFFSET)
        if not place:
            axis.axvline(np.mean(values), color=GREEN, lw=1, zorder=0)
    axis.set_xscale("log")
    marks_of(axis, max((max(line.get_xdata()) for line in axis.get_lines()), default=1))
    axis.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axis.margins(x=0.12)
    axis.set_yticks(range(len(rows)), [row.facts["words"] for row in rows])
    axis.set_xlabel(
        "squared Frechet distance, a point a seed; the number is their mean", fontsize=8
    )
    return made


PLOTS: dict[str, Callable[[Parts], Figure]] = {
    "ceiling": ceilings,
    "training": speedups,
    "loss": losses,
    "profile": profiles,
    "startup": imports,
    "scale": scales,
    "sampling": samplings,
    "quality": qualities,
    "ablations": ablations,
}
