"""A comparison as a record, a table and a figure: what several networks made of one budget.

Everything but the network is the same for all contestants: images, split, process, objective,
optimizer, seed, budget, sampler, seeds of the samples, evaluator. The held-out loss is of the same
images with the same noise, so its differences are the networks'. One seed each: small differences
may be luck.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .console import duration, short
from .judging import Verdict
from .pictures import grid
from .plots import _count_images, _figure, _plain, _save, _scale_y

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REAL = "real, held out"
COLOURS = ("#2166ac", "#e08214", "#1b7837", "#762a83", "#b2182b", "#4d4d4d")
MARKERS = ("o", "s", "^", "D", "v", "P")
MOST_ROWS, COLUMNS = 10, 4  # of each contestant's samples in the figure
SQUARE = 5  # where images have no classes
NOTE_WIDTH = 150  # letters


@dataclass(frozen=True)
class Look:
    """The held-out loss after so many images and seconds of training: weights' average and raw."""

    images: int
    seconds: float
    loss: float
    raw: float


@dataclass(frozen=True)
class Contestant:
    """What one network cost and what it reached.

    parameters: trained ones. flops: of one image forward, a multiply-add is 2. images, seconds:
    shown and spent, previews included. images_per_s: the median while training, previews left out.
    curve: its held-out losses, by images. verdict: the evaluator's, of its samples.
    """

    name: str
    network: dict[str, Any]
    precision: str
    parameters: int
    flops: int
    steps: int
    images: int
    seconds: float
    images_per_s: float
    curve: tuple[Look, ...]
    verdict: Verdict

    @property
    def loss(self) -> float:
        """The last held-out loss of the averaged weights."""
        return self.curve[-1].loss


@dataclass(frozen=True)
class Gap:
    """By how much the samples of one contestant are farther than those of the nearest, `than`.

    error: of that difference, both being of the same seeds and classes; None where not known.
    """

    name: str
    than: str
    distance: float
    error: float | None

    @property
    def words(self) -> str:
        if self.error is None:
            return f"{self.name} by {self.distance:.3f}, too few samples to say how surely"
        least = ", which is no more than its error" if abs(self.distance) <= self.error else ""
        return f"{self.name} by {self.distance:.3f} +- {self.error:.3f}{least}"


@dataclass(frozen=True)
class Comparison:
    """Contestants, the floor (real held-out images against the training images) and the recipe.

    gaps: of all contestants but the nearest.
    """

    contestants: tuple[Contestant, ...]
    floor: Verdict
    facts: dict[str, Any]
    gaps: tuple[Gap, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "made_by": "sfumato compare",
            **self.facts,
            "floor": asdict(self.floor),
            "gaps": [asdict(gap) for gap in self.gaps],
            "contestants": [
                {**asdict(one), "loss": one.loss, "flops_trained": 3 * one.flops * one.images}
                for one in self.contestants
            ],
        }


def curve_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Look, ...]:
    """The held-out losses among the rows of metrics.jsonl.

    Raises: ValueError where there is none.
    """
    held = [row for row in rows if row["kind"] == "held_out"]
    if not held:
        raise ValueError("the run has no held-out loss to compare: train it with held_out above 0.")
    return tuple(Look(row["images"], row["seconds"], row["ema"], row["raw"]) for row in held)


def speed_of(rows: Sequence[Mapping[str, Any]]) -> float:
    """Images a second: the median over the rows of training; 0 where none was measured."""
    known = [row["images_per_s"] for row in rows if row["kind"] == "train"]
    return median([speed for speed in known if speed] or [0.0])


# --- as text


def _asked(verdict: Verdict) -> str:
    if verdict.agreement is None or verdict.agreement_error is None:
        return "-"
    return f"{verdict.agreement:.1%} +- {verdict.agreement_error:.1%}"


def _distance(verdict: Verdict) -> str:
    error = "" if verdict.frechet_error is None else f" +- {verdict.frechet_error:.3f}"
    return f"{verdict.frechet:.3f}{error}"


def _cells(one: Contestant) -> list[str]:
    return [
        one.name,
        short(one.parameters),
        short(one.flops),
        f"{one.images_per_s:,.0f}",
        f"{one.images:,}",
        duration(one.seconds),
        f"{one.loss:.4f}",
        _distance(one.verdict),
        _asked(one.verdict),
    ]


HEADINGS = (
    *("network", "parameters", "FLOP/image", "images/s", "images", "time", "held-out loss"),
    *("distance", "as asked"),
)


def table(comparison: Comparison) -> list[str]:
    """Aligned lines: headings, a contestant each, the floor."""
    floor = comparison.floor
    rows = [list(HEADINGS), *(_cells(one) for one in comparison.contestants)]
    rows.append([REAL, *[""] * 6, _distance(floor), _asked(floor)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]


def notes(comparison: Comparison) -> list[str]:
    """What the numbers are of, in words: they mean nothing without it."""
    facts, n = comparison.facts, comparison.floor.images
    judge, sampling = facts["judge"], facts["sampling"]
    solver = sampling["solver"]["kind"]
    right = judge.get("held_out_accuracy")
    known = "" if right is None else f" (right on {right:.1%} of the real ones held out)"
    return [
        *_gaps(comparison),
        f"Same for all: {facts['data']}, {facts['budget']}, batch {facts['batch']}, seed "
        f"{facts['seed']}, {facts['process']}, {facts['parameterization']}; one seed each.",
        f"distance: squared Frechet distance of {n} samples to {judge['images']} training images, "
        f"in {judge['what']}{known}, and what other samples would change it by; it is no FID.",
        f"Samples: seeds 0 to {n - 1}, {solver}, {sampling['steps']} steps, guidance "
        f"{sampling['guidance']:g}, averaged weights, the classes of the real ones held out.",
        f"On {facts['device']}; time holds previews too. FLOP: forward, a multiply-add is 2.",
    ]


def _gaps(comparison: Comparison) -> list[str]:
    if not comparison.gaps:
        return []
    told = "; ".join(gap.words for gap in comparison.gaps)
    return [
        f"Farther than {comparison.gaps[0].than}: {told}. Of other samples; networks trained with "
        "another seed may differ by more."
    ]


# --- as a figure


def picked(labels: Sequence[int] | None, count: int) -> list[int]:
    """Which of `count` samples the figure shows: COLUMNS of each class, a class a row.

    Classes that have fewer are left out; without labels the first SQUARE * SQUARE.
    """
    if labels is None:
        return list(range(min(count, SQUARE**2)))
    places: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        places.setdefault(label, []).append(index)
    rows = [found[:COLUMNS] for _, found in sorted(places.items()) if len(found) >= COLUMNS]
    chosen = [index for row in rows[:MOST_ROWS] for index in row]
    return chosen or list(range(min(count, COLUMNS)))


def _draw_curves(axes: "Axes", comparison: Comparison, by_time: bool) -> None:
    losses = []
    for number, one in enumerate(comparison.contestants):
        x = [look.seconds if by_time else look.images for look in one.curve]
        losses += [look.loss for look in one.curve]
        axes.plot(
            x,
            [look.loss for look in one.curve],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=1.5,
            label=f"{one.name}  {one.loss:.4f}",
        )
    if not by_time:
        _count_images(
            axes,
            np.array(
                [look.images for one in comparison.contestants for look in one.curve], np.float64
            ),
        )
    against = "seconds of training" if by_time else "images shown"
    _plain(axes, f"Held-out loss against {against}", against)
    _scale_y(axes, np.array(losses))
    axes.legend(fontsize=9, title="last value", title_fontsize=9)


def _draw_samples(axes: "Axes", title: str, images: Tensor, columns: int) -> None:
    axes.imshow(
        np.asarray(grid(images, columns=columns).convert("RGB")), interpolation="antialiased"
    )
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def _title(one: Contestant) -> str:
    return (
        f"{one.name}\n{short(one.parameters)} parameters, {short(one.flops, 'FLOP')}\n"
        f"{one.images_per_s:,.0f} images/s, distance {_distance(one.verdict)}"
    )


def draw_comparison(
    comparison: Comparison, samples: Sequence[Tensor], real: Tensor, labels: Sequence[int] | None
) -> "Figure":
    """The figure of comparison_figure: two axes of losses, one of each set of images, the table."""
    chosen = picked(labels, len(real))
    columns = COLUMNS if labels is not None else SQUARE
    panels = len(samples) + 1
    tall = len(chosen) / columns / columns  # height of a panel in its widths
    middle = 0.7 + 12 / panels * tall
    figure = _figure(12, 5.2 + middle)
    cells = figure.add_gridspec(3, 2 * panels, height_ratios=[3.6, middle, 1.6])
    _draw_curves(figure.add_subplot(cells[0, :panels]), comparison, by_time=False)
    _draw_curves(figure.add_subplot(cells[0, panels:]), comparison, by_time=True)
    titles = [_title(one) for one in comparison.contestants]
    titles.append(f"{REAL}\n\ndistance {_distance(comparison.floor)}")
    for number, (title, images) in enumerate(zip(titles, [*samples, real])):
        axes = figure.add_subplot(cells[1, 2 * number : 2 * number + 2])
        _draw_samples(axes, title, images[chosen], columns)
    below = figure.add_subplot(cells[2, :])
    below.axis("off")
    wrapped = [line for note in notes(comparison) for line in wrap(note, NOTE_WIDTH)]
    told = "\n".join([*table(comparison), "", *wrapped])
    text = below.text(0, 1, told, family="monospace", fontsize=7.5, va="top")
    text.set_in_layout(False)  # or a long line would push the panels together
    return figure


def comparison_figure(
    comparison: Comparison,
    samples: Sequence[Tensor],
    real: Tensor,
    labels: Sequence[int] | None,
    path: str | Path,
) -> None:
    """Draws a comparison as a PNG: losses against images and seconds, samples, the table.

    Args:
        samples: of each contestant, uint8 (N, C, H, W), of the same seeds and classes.
        real: as many real images of the same classes.
        labels: the classes, or None.
    """
    figure = draw_comparison(comparison, samples, real, labels)
    _save(figure, path, {"made_by": "sfumato compare", **comparison.facts})
