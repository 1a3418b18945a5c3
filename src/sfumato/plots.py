"""Figures of a run: how its losses fell, how its process adds noise, what an evaluation found.

    smoothed(k) = median of loss(j) over |j - k| <= window / 2

matplotlib is imported by the first figure, without pyplot: no window, no backend, no global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .pictures import TEXT_KEY, as_json, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]

Row = Mapping[str, Any]

DOTS_PER_INCH = 120
FAINT, TRAIN, RAW, EMA = "#c3cbd6", "#52647d", "#e08214", "#1b7837"  # told apart when colour-blind
EPOCH, TEST = "#762a83", "#b2182b"
EPOCHS = (2, 300)  # fewest and most whose means are drawn: one is no curve, many are no points
FEW = 40  # points of a curve up to which each gets a marker
BUCKETS = 1500  # of a long curve, more than its pixels
SMOOTH_POINTS = 400


def _column(rows: Sequence[Row], key: str) -> Floats:
    """(len(rows),) values; NaN where a row lacks the key or holds null, as JSON writes NaN."""
    return np.array([row.get(key) for row in rows], dtype=np.float64)  # of None numpy makes NaN


def _levels(rows: Sequence[Row], key: str) -> Floats:
    """(len(rows), L): a curve for each noise level."""
    levels = [row.get(key) or [] for row in rows]
    counts = sorted({len(values) for values in levels})
    if len(counts) > 1:
        raise ValueError(
            f"{key} has {counts} levels in the rows of one run: draw rows of one setting only"
        )
    return np.array(levels, dtype=np.float64).reshape(len(rows), counts[0] if counts else 0)


def smoothed(values: Floats, window: int, points: int = SMOOTH_POINTS) -> tuple[Indices, Floats]:
    """At most `points` indices k, and the median of values[j] with |j - k| <= window // 2 there.

    The median: one wild batch in a mean would raise the curve for a whole window.
    """
    index = np.unique(np.linspace(0, len(values) - 1, min(points, len(values))).astype(np.intp))
    half = window // 2
    medians = [np.median(values[max(0, k - half) : k + half + 1]) for k in index]
    return index, np.array(medians, dtype=np.float64)


def thinned(values: Floats, buckets: int = BUCKETS) -> Indices:
    """Indices of at most 2 points a bucket, its least and its greatest: a spike is never lost."""
    known = np.flatnonzero(np.isfinite(values))
    if len(known) <= 2 * buckets:
        return known
    parts = np.array_split(known, buckets)
    ends = [part[pick(values[part])] for part in parts for pick in (np.argmin, np.argmax)]
    return np.unique(np.array(ends))


def _of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows of one kind by step; of a step that was run again after a resume, the later row."""
    by_step = {row["step"]: row for row in rows if row.get("kind") == kind}
    return [by_step[step] for step in sorted(by_step)]


# --- axes


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def _save(figure: Figure, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
    texts = {"Software": "sfumato"}
    if settings is not None:
        texts[TEXT_KEY] = as_json(settings)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", metadata=texts)


def _plain(axes: Axes, title: str, x_label: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.grid(True, which="major", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _count_images(axes: Axes, seen: Floats) -> None:
    """The x axis from 0 to the last image seen, in whole numbers: 0, 50k, 100k."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    end = max([1.0, *seen[np.isfinite(seen)]])
    axes.set_xlim(-0.02 * end, 1.02 * end)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _scale_y(axes: Axes, values: Floats) -> None:
    """Logarithmic if that shows more: all positive, over more than a factor of 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    known = values[np.isfinite(values)]
    if not known.size:
        axes.text(0.5, 0.5, "nothing measured yet", ha="center", transform=axes.transAxes)
        axes.set_yticks([])
    elif known.min() > 0 and known.max() > 5 * known.min():
        axes.set_yscale("log")
        few_decades = known.max() < 300 * known.min()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _curve(axes: Axes, x: Floats, y: Floats, **style: Any) -> None:
    """A line where there are values, with markers while they are few; a gap where one is NaN."""
    if np.isfinite(y).any():
        axes.plot(x, y, marker="o" if len(x) <= FEW else "", markersize=3.5, **style)


def _last(values: Floats) -> str:
    known = values[np.isfinite(values)]
    return f"{known[-1]:.4g}" if known.size else "none"


# --- the losses of a run


def _draw_epochs(axes: Axes, epochs: Sequence[Row]) -> None:
    """Each epoch's mean loss, at its last image."""
    fewest, most = EPOCHS
    if fewest <= len(epochs) <= most:
        loss = _column(epochs, "loss")
        label = f"epoch mean  {_last(loss)}"
        _curve(axes, _column(epochs, "images"), loss, color=EPOCH, linewidth=1.2, label=label)


def _draw_test(axes: Axes, test: Sequence[Row], train: Sequence[Row]) -> None:
    """A star where the run ended; a row of the test says its step, not its images."""
    if not test or not train:
        return
    last, loss = train[-1], _column(test[-1:], "ema")
    seen = np.array([test[-1]["step"] * last["images"] / max(1, last["step"])])
    style: dict[str, Any] = {"marker": "*", "markersize": 11, "linestyle": "", "zorder": 5}
    axes.plot(seen, loss, color=TEST, label=f"test, EMA  {_last(loss)}", **style)


def _draw_losses(axes: Axes, train: Sequence[Row], held_out: Sequence[Row]) -> None:
    images, loss = _column(train, "images"), _column(train, "loss")
    seen, raw, ema = (_column(held_out, key) for key in ("images", "raw", "ema"))
    known, points = np.flatnonzero(np.isfinite(loss)), thinned(loss)
    dots: dict[str, Any] = {
        "linestyle": "-" if len(points) < len(known) else "",
        "marker": ".",
        "markersize": 2,
    }
    axes.plot(images[points], loss[points], color=FAINT, linewidth=0.5, zorder=1, **dots)
    index, median = smoothed(loss[known], len(known) // 40)
    _curve(axes, images[known][index], median, color=TRAIN, label=f"training  {_last(median)}")
    _curve(axes, seen, raw, color=RAW, linestyle="--", label=f"held-out, raw  {_last(raw)}")
    _curve(axes, seen, ema, color=EMA, label=f"held-out, EMA  {_last(ema)}")
    _plain(axes, "Loss", "")
    _scale_y(axes, np.concatenate([loss, raw, ema]))


def _name_curves(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", fontsize=9, title="last value", title_fontsize=9)


def _draw_rate(axes: Axes, train: Sequence[Row]) -> None:
    rate = _column(train, "lr")
    points = thinned(rate)
    _curve(axes, _column(train, "images")[points], rate[points], color=TRAIN)
    _plain(axes, "", "images seen")
    axes.set_ylabel("learning rate", fontsize=9)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    axes.set_ylim(bottom=0)
    if not len(points):
        axes.set_yticks([])


def _draw_levels(axes: Axes, held_out: Sequence[Row]) -> None:
    raw, ema = _levels(held_out, "raw_by_level"), _levels(held_out, "ema_by_level")
    log_snr = _levels(held_out[-1:], "level_log_snr").reshape(-1)
    order = np.argsort(log_snr)  # the noisiest first
    colours = _colours(len(order))
    seen = _column(held_out, "images")
    for colour, level in zip(colours, order):
        _curve(axes, seen, raw[:, level], color=colour, linestyle="--", linewidth=1)
        _curve(axes, seen, ema[:, level], color=colour)
    _plain(axes, "Held-out loss by noise level", "images seen")
    _scale_y(axes, np.concatenate([raw.reshape(-1), ema.reshape(-1)]))
    if len(order):
        for style, name in (("-", "EMA"), ("--", "raw")):
            axes.plot([], [], color="#606060", linestyle=style, label=name)
        axes.legend(loc="upper right", fontsize=9, ncols=2)
        _colour_bar(axes, colours, log_snr[order])


def _colours(count: int) -> Any:
    """(count, 4) colours from noisy to clean that all stand out on white."""
    from matplotlib import colormaps

    return colormaps["plasma"](np.linspace(0.0, 0.85, count))


def _colour_bar(axes: Axes, colours: Any, log_snr: Floats) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    count = len(log_snr)
    norm = BoundaryNorm(np.arange(count + 1) - 0.5, count)
    bar = axes.figure.colorbar(
        ScalarMappable(norm, ListedColormap(colours)), ax=axes, aspect=35, pad=0.02
    )
    ticks = range(0, count, 1 + (count - 1) // 16)
    bar.set_ticks(ticks, labels=[f"{log_snr[tick]:.1f}" for tick in ticks], fontsize=9)
    bar.set_label("log-SNR:  noisy to clean", fontsize=9)
    bar.ax.tick_params(which="both", length=0)


def draw_losses(rows: Sequence[Row]) -> Figure:
    """The figure of `loss_figure`, of axes for losses, learning rate, noise levels, colour bar.

    The last two are left out where held-out losses were measured without noise levels.
    """
    train, held_out = _of_kind(rows, "train"), _of_kind(rows, "held_out")
    figure = _figure(11, 4.6)
    with_levels = not held_out or any(row.get("level_log_snr") for row in held_out)
    cells = figure.add_gridspec(2, 2 if with_levels else 1, height_ratios=[3.2, 1])
    losses = figure.add_subplot(cells[0, 0])
    rate = figure.add_subplot(cells[1, 0], sharex=losses)
    _draw_losses(losses, train, held_out)
    _draw_epochs(losses, _of_kind(rows, "epoch"))
    _draw_test(losses, _of_kind(rows, "test"), train)
    _name_curves(losses)
    _draw_rate(rate, train)
    seen = _column([*train, *held_out], "images")
    if with_levels:
        levels = figure.add_subplot(cells[:, 1])
        _draw_levels(levels, held_out)
        _count_images(levels, seen)
    _count_images(losses, seen)  # the learning rate follows it
    losses.tick_params(labelbottom=False)
    return figure


def loss_figure(
    rows: Sequence[Row], path: str | Path, settings: Mapping[str, Any] | None = None
) -> None:
    """Draws the rows of metrics.jsonl as a PNG: losses, learning rate, losses by noise level.

    settings: plain JSON values, kept in the file for read_settings.

    Rows of kind "train" give step, images, loss and lr; rows of kind "held_out" give step, images,
    raw, ema, and of L levels raw_by_level, ema_by_level, level_log_snr (natural logarithm); rows of
    kind "epoch" images and loss, its mean, drawn where EPOCHS allows; a row of kind "test" step and
    ema. Losses may be NaN or null; there may be no rows at all.

    Raises:
        ValueError: the number of levels differs between rows.
    """
    _save(draw_losses(rows), path, settings)


# --- the process


def schedule_figure(
    process_values: Mapping[str, ArrayLike], path: str | Path, title: str = ""
) -> None:
    """Draws how a process adds noise as a PNG: alpha and sigma against t, and the log-SNR beside.

    Args:
        process_values: "t", "alpha", "sigma" and "log_snr", each (N,); infinities are left out.
    """
    wanted = ("t", "alpha", "sigma", "log_snr")
    if missing := [name for name in wanted if name not in process_values]:
        raise ValueError(f"a schedule needs {', '.join(wanted)}; missing: {', '.join(missing)}")
    t, alpha, sigma, log_snr = (np.asarray(process_values[name], np.float64) for name in wanted)
    figure = _figure(9, 3.2)
    scales, snr = figure.subplots(1, 2)
    scales.plot(t, alpha, color=EMA, label="alpha, signal")
    scales.plot(t, sigma, color=RAW, label="sigma, noise")
    scales.legend(fontsize=9)
    snr.plot(t, log_snr, color=TRAIN)
    _plain(scales, title or "Scales of signal and noise", "t")
    _plain(snr, "log-SNR = 2 log(alpha / sigma)", "t")
    _save(figure, path)


# --- an evaluation

Bars = Sequence[Mapping[str, float]]  # each x, mean and error


def _draw_terms(axes: Axes, log_snr: Floats, terms: Floats) -> None:
    """The decoder's term, the last step's, is a star: all others are divergences."""
    points: dict[str, Any] = {"marker": "." if len(terms) <= 300 else "", "color": TRAIN}
    axes.plot(log_snr[1:], terms[1:], linewidth=1, label="divergence of a step", **points)
    axes.plot(log_snr[:1], terms[:1], "*", color=TEST, markersize=11, label="decoder")
    _plain(axes, f"Terms of the bound, {len(terms):,} steps", "log-SNR:  noisy to clean")
    axes.set_ylabel("bits per dimension", fontsize=9)
    _scale_y(axes, terms)
    axes.legend(fontsize=9)


def _draw_spent(axes: Axes, log_snr: Floats, terms: Floats, prior: float) -> None:
    """The bound's terms added up, from the prior down to the decoder."""
    spent = prior + np.cumsum(terms[::-1])[::-1]
    axes.plot(log_snr, spent, color=TRAIN)
    axes.plot(log_snr[:1], spent[:1], "*", color=TEST, markersize=11)
    axes.set_ylim(bottom=0)
    _plain(axes, f"Bits spent so far: {spent[0]:.3f} in all", "log-SNR:  noisy to clean")


def _draw_bars(axes: Axes, bars: Bars, title: str, x_label: str) -> None:
    x, mean, error = (np.array([bar[key] for bar in bars]) for key in ("x", "mean", "error"))
    style: dict[str, Any] = {"color": EMA, "marker": "o", "markersize": 4, "capsize": 3}
    axes.errorbar(x, mean, yerr=error, **style)
    _plain(axes, title, x_label)
    _scale_y(axes, mean)


def draw_bound(
    log_snr: Sequence[float], terms: Sequence[float], prior: float, levels: Bars
) -> Figure:
    """The figure of `bound_figure`: axes for the terms, their sum so far, the loss by level."""
    figure = _figure(13, 3.8)
    each, spent, loss = figure.subplots(1, 3)
    known, values = np.array(log_snr, np.float64), np.array(terms, np.float64)
    finite = np.where(np.isfinite(known), known, np.nan)  # pure noise has no place on the axis
    _draw_terms(each, finite, values)
    _draw_spent(spent, finite, values, prior)
    _draw_bars(loss, levels, "Loss by noise level", "log-SNR:  noisy to clean")
    return figure


def bound_figure(
    log_snr: Sequence[float],
    terms: Sequence[float],
    prior: float,
    levels: Bars,
    path: str | Path,
    settings: Mapping[str, Any],
) -> None:
    """Draws a variational bound as a PNG: its terms, where its bits are spent, losses by level.

    log_snr, terms: (steps,), natural logarithm and bits per dimension, the cleanest step first.
    levels: x is the log-SNR.
    """
    _save(draw_bound(log_snr, terms, prior, levels), path, settings)


def bars_figure(
    panels: Mapping[str, tuple[str, Bars]], path: str | Path, settings: Mapping[str, Any]
) -> None:
    """Draws means with their errors as a PNG, a panel for each title: (x axis, points)."""
    figure = _figure(1 + 4.3 * len(panels), 3.8)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, (x_label, bars)) in zip(row, panels.items()):
        _draw_bars(axes, bars, title, x_label)
    _save(figure, path, settings)
