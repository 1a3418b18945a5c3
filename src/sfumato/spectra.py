"""How much of each scale is in images: radial power spectra, and which scales come first.

    X(f)  = sum_n x(n) exp(-2 pi i f n) / sqrt(H W)
    P_k   = mean of |X(f)|^2 over images, channels and |f| in ring k, (k +- 1/2) / min(H, W)
    sum_k count_k P_k = mean over images and channels of sum_n x(n)^2                 (Parseval)

so white noise of variance v has P_k = v in every ring. Frequencies are in cycles a pixel: 0 is the
mean brightness, 1/2 a pixel on, a pixel off; rings beyond 1/2 hold the corners alone, (f, f).

Of Gaussian data with power P, the exact denoiser's estimate of x_0 has, at alpha = 1, the power

    E |X0(f)|^2 = P^2 / (P + sigma^2)

(the Wiener filter P / (P + sigma^2) applied to data and noise, P + sigma^2), so that a ring holds
half of its power when sigma^2 falls to P: where P falls with f, low frequencies come first, by
theorem. Whether a trained network and its training do the same is measured here. Power alone is not
structure: noise of the right colour has it. So where the same seeds are drawn again and again, the
likeness to the last ones is measured too, over images and channels and the f of a ring:

    L_k = Re sum X(f) conj Y(f) / sqrt(sum |X(f)|^2 sum |Y(f)|^2),    from -1 to 1
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .plots import EMA, RAW, TRAIN, _colours, _figure, _plain, _save, _scale_y

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NYQUIST = 0.5  # cycles a pixel
AT_ONCE = 256  # images transformed together
CURVES = 7  # of a series that are drawn
SETTLED = 0.9  # likeness


def rings(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(ring of each frequency (H, W), frequencies of the rings (K,), their counts (K,)).

    Ring k holds the frequencies of fft2 whose length rounds to k / min(H, W) cycles a pixel.
    """
    vertical, horizontal = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    length = torch.hypot(vertical[:, None], horizontal)
    ring = (length * min(height, width)).round().long()
    counts = ring.flatten().bincount()
    return ring, torch.arange(len(counts)).double() / min(height, width), counts


def hann(height: int, width: int) -> Tensor:
    """(H, W) of mean square 1: a raised cosine each way, nearly 0 at the border."""
    vertical, horizontal = (
        torch.hann_window(n + 2, periodic=False, dtype=torch.float64)[1:-1] for n in (height, width)
    )
    window = vertical[:, None] * horizontal
    return window / window.square().mean().sqrt()


def radial_power(images: Tensor, window: bool = False) -> tuple[Tensor, Tensor]:
    """(frequencies (K,) in cycles a pixel, power (K,)), float64, of images (N, C, H, W).

    uint8 images count as x = pixel / 127.5 - 1, floats as they are: in units of the square of that
    range, uint8 data and a denoiser's estimates may be compared.

    window: a Hann window first. Without one an image is taken to go round, and the jump from its
    right edge to its left leaks power into all rings, about as 1 / f^2. It is not the default: the
    equalities above hold without one only, data and samples leak alike, and a window smears each
    ring into the next. Turn it on for the faint high frequencies of photographs.

    Raises:
        ValueError: no images, or of another shape.
    """
    frequencies, counts, (total,) = _sums(lambda x: [x.abs().square()], [images], window)
    return frequencies, total / counts / (images.shape[0] * images.shape[1])


def radial_likeness(
    images: Tensor, reference: Tensor, window: bool = False
) -> tuple[Tensor, Tensor]:
    """(frequencies (K,), likeness (K,) from -1 to 1) of two batches (N, C, H, W), image by image.

    0 where either has no power. Unlike power it knows where things are: of x0 and its estimate by
    the exact denoiser of Gaussian data it is sqrt(P / (P + sigma^2)).

    Raises:
        ValueError: the batches differ in shape; see radial_power.
    """
    if images.shape != reference.shape:
        raise ValueError(
            f"images are {tuple(images.shape)}, those to compare with {tuple(reference.shape)}: "
            "give the same seeds twice"
        )
    frequencies, _, sums = _sums(_products, [images, reference], window)
    norm = (sums[1] * sums[2]).sqrt()
    return frequencies, torch.where(norm > 0, sums[0] / norm.clamp(min=1e-300), 0.0)


def _products(x: Tensor, y: Tensor) -> list[Tensor]:
    return [(x * y.conj()).real, x.abs().square(), y.abs().square()]


def _sums(
    of: Callable[..., list[Tensor]], batches: Sequence[Tensor], window: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(frequencies, counts, ring sums (K,) of what `of` makes of the transforms of the batches)."""
    images = batches[0]
    if images.ndim != 4 or not images.numel():
        raise ValueError(
            f"a spectrum needs images (N, C, H, W), at least one, not {tuple(images.shape)}"
        )
    size = (images.shape[2], images.shape[3])
    ring, frequencies, counts = rings(*size)
    taper = hann(*size) if window else torch.ones(size, dtype=torch.float64)
    totals: list[Tensor] = []
    for parts in zip(*(batch.detach().cpu().split(AT_ONCE) for batch in batches)):
        made = of(*(torch.fft.fft2(_wide(part) * taper, norm="ortho") for part in parts))
        sums = [ring.flatten().bincount(values.sum((0, 1)).flatten()) for values in made]
        totals = [total + more for total, more in zip(totals, sums)] if totals else sums
    return frequencies, counts, totals


def _wide(images: Tensor) -> Tensor:
    """float64, pixels in [-1, 1]."""
    return images.double() / 127.5 - 1 if images.dtype == torch.uint8 else images.double()


def whole(frequencies: Tensor) -> Tensor:
    """(K,) bool: the rings that go all the way round, and are not the mean brightness."""
    return (frequencies > 0) & (frequencies <= NYQUIST)


@dataclass(frozen=True)
class Spectra:
    """Spectra in the order in which they came about.

    at: S numbers, one a spectrum: steps of training, or noise levels sigma / alpha of sampling.
    frequencies: (K,); power: (S, K); both as radial_power gives them.
    likeness: (S, K) to the last images of the same seeds, or None.
    """

    at: tuple[float, ...]
    frequencies: Tensor
    power: Tensor
    likeness: Tensor | None = None


def spectra_of(
    batches: Iterable[Tensor],
    at: Sequence[float],
    window: bool = False,
    final: Tensor | None = None,
) -> Spectra:
    """The spectrum of each batch (N, C, H, W): samples of checkpoints, or estimates of x0.

    final: what each is compared with, for the likeness: the last samples of the same seeds.

    Raises:
        ValueError: another number of batches than of `at`, none, or images of different sizes.
    """
    found, alike = [], []
    for images in batches:
        found.append(radial_power(images, window))
        if final is not None:
            alike.append(radial_likeness(images, final, window)[1])
    sizes = {len(frequencies) for frequencies, _ in found}
    if len(found) != len(at) or len(sizes) != 1:
        raise ValueError(
            f"{len(found)} batches with {sorted(sizes)} rings came for {len(at)} places: give one "
            "for each, at least one, all of the same size"
        )
    power = torch.stack([power for _, power in found])
    return Spectra(tuple(at), found[0][0], power, torch.stack(alike) if alike else None)


# --- which scales come first


def reached(power: Tensor, target: Tensor, share: float = 0.5) -> Tensor:
    """(K,) integers: the first of S spectra from which on a ring stays within a factor of target.

    share <= power / target <= 1 / share from there to the last one; S where it is not so even in
    the last. Both ways, since too much power, as of early samples, is as wrong as too little.

    Args:
        power: (S, K), in the order of time.
        target: (K,), of the data.
        share: in (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}: a number between 0 and 1, as 0.5 for half the power")
    if power.ndim != 2 or power.shape[1:] != target.shape:
        raise ValueError(
            f"power is {tuple(power.shape)}, target {tuple(target.shape)}: (S, K) and (K,) are "
            "wanted, of the same rings"
        )
    outside = (power < share * target) | (power > target / share)
    after = torch.arange(1, len(power) + 1)[:, None]
    return (outside * after).amax(0)  # one past the last spectrum that is outside


def ranks(values: Tensor) -> Tensor:
    """(K,) float64: 0 for the least; equal values share the mean of their ranks."""
    less = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return less + (equal - 1).double() / 2


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's: 1 where both rise together, -1 where one falls; 0 where either is constant."""
    x, y = (ranks(values) - ranks(values).mean() for values in (first, second))
    norm = (x.square().sum() * y.square().sum()).sqrt().item()
    return (x * y).sum().item() / norm if norm else 0.0


@dataclass(frozen=True)
class Arrival:
    """Which scales came first, as numbers.

    low, middle, high: median over a third of the rings each of the places in `at` where they were
        reached; None where most of them were not.
    correlation: of frequency and place, by rank: 1 is "low first, details later" without exception.
    rings, missing: how many were looked at, and how many of them never came within.
    share: see reached; of likeness, the least that counts.
    """

    low: float | None
    middle: float | None
    high: float | None
    correlation: float
    rings: int
    missing: int
    share: float


def arrival_of(spectra: Spectra, target: Tensor, share: float = 0.5) -> Arrival:
    """When the rings up to half a cycle a pixel came within a factor of the data's power (K,).

    Raises:
        ValueError: fewer than 3 such rings: an image of less than 6 pixels a side.
    """
    return _arrival(spectra, reached(spectra.power, target, share), share)


def settled_of(spectra: Spectra, share: float = 0.9) -> Arrival:
    """When the rings up to half a cycle a pixel came to be like the last images, and stayed so.

    Raises:
        ValueError: the spectra have no likeness (spectra_of with final=...), or too few rings.
    """
    return _arrival(spectra, _settled(spectra, share), share)


def _settled(spectra: Spectra, share: float) -> Tensor:
    if spectra.likeness is None:
        raise ValueError("these spectra have no likeness: make them by spectra_of(..., final=...)")
    return reached(spectra.likeness, torch.ones_like(spectra.frequencies), share)


def _arrival(spectra: Spectra, index: Tensor, share: float) -> Arrival:
    kept = whole(spectra.frequencies)
    index = index[kept]
    if len(index) < 3:
        raise ValueError(
            f"{len(index)} rings are too few to order: take images of 6 pixels or more"
        )
    places = (*spectra.at, None)
    low, middle, high = (places[int(third.median())] for third in index.tensor_split(3))
    correlation = rank_correlation(spectra.frequencies[kept], index)
    missing = int((index == len(spectra.at)).sum())
    return Arrival(low, middle, high, correlation, len(index), missing, share)


# --- a figure


def _draw_powers(axes: "Axes", spectra: Spectra, target: Tensor, noise: bool) -> None:
    kept = whole(spectra.frequencies)
    x = spectra.frequencies[kept].numpy()
    drawn = torch.linspace(0, len(spectra.at) - 1, min(CURVES, len(spectra.at))).round().long()
    for colour, row in zip(_colours(len(drawn)), drawn.tolist()):
        label = f"{spectra.at[row]:.3g}" if noise else f"{spectra.at[row]:,.0f}"
        axes.plot(x, spectra.power[row][kept].numpy(), color=colour, linewidth=1.4, label=label)
    axes.plot(x, target[kept].numpy(), color="black", linestyle="--", linewidth=1.6, label="data")
    title = "sigma / alpha" if noise else "step"
    axes.legend(fontsize=8, title=title, title_fontsize=8, loc="lower left")
    axes.set_xscale("log")
    axes.set_yscale("log")
    lowest = target[kept].min().item()
    if lowest > 0:  # early estimates hold next to nothing of the details, and would set the scale
        axes.set_ylim(bottom=lowest / 100)


def _draw_reached(axes: "Axes", spectra: Spectra, target: Tensor, share: float) -> None:
    """When each ring arrived, by power and, where it is known, by likeness."""
    kept = whole(spectra.frequencies)
    x = spectra.frequencies[kept].numpy()
    places = torch.tensor([*spectra.at, float("nan")], dtype=torch.float64)
    arrived = places[reached(spectra.power, target, share)[kept]].numpy()
    label = f"power within a factor of {1 / share:g}"
    axes.plot(x, arrived, color=TRAIN, marker="o", markersize=3.5, linewidth=1, label=label)
    if spectra.likeness is not None:
        settled = places[_settled(spectra, SETTLED)[kept]].numpy()
        label = f"likeness to the last over {SETTLED:g}"
        axes.plot(x, settled, color=RAW, marker="s", markersize=3.5, linewidth=1, label=label)
    axes.set_xscale("log")
    _scale_y(axes, places[:-1].numpy())


def _ticks(axes: "Axes", size: float) -> None:
    """Frequencies as parts of a cycle a pixel: 1/32, 1/16, ... 1/2."""
    from matplotlib.ticker import NullLocator

    parts = [2**power for power in range(1, 12) if 2**power <= size]
    axes.set_xticks([1 / part for part in parts], labels=[f"1/{part}" for part in parts])
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_column(
    cells: "Sequence[Axes]", spectra: Spectra, target: Tensor, share: float, noise: bool
) -> None:
    name = "noise level" if noise else "training step"
    above, below = cells
    _draw_powers(above, spectra, target, noise)
    _draw_reached(below, spectra, target, share)
    kept = whole(spectra.frequencies)
    if noise:
        level = (target[kept] * (1 - share) / share).sqrt().numpy()
        x = spectra.frequencies[kept].numpy()
        below.plot(x, level, color=EMA, linestyle="--", linewidth=1.2, label="Gaussian data, exact")
    _plain(above, "Estimate of x0 while sampling" if noise else "Samples in training", "")
    _plain(below, f"{name.capitalize()} at which each frequency has come to stay", "")
    below.legend(fontsize=8, loc="lower left" if noise else "upper left")
    below.set_xlabel("frequency, cycles a pixel")
    above.set_ylabel("power")
    below.set_ylabel(name)
    _ticks(below, 1 / spectra.frequencies[1].item())
    above.tick_params(labelbottom=False)


def draw_spectra(
    target: Tensor, training: Spectra | None, sampling: Spectra | None, share: float = 0.5
) -> "Figure":
    """The figure of spectrum_figure; a column for each of the two that is given."""
    columns = [(part, noise) for part, noise in ((training, False), (sampling, True)) if part]
    if not columns:
        raise ValueError("nothing to draw: give spectra of training, of sampling, or of both")
    figure = _figure(5.5 * len(columns), 6.4)
    axes = figure.subplots(
        2, len(columns), sharex="col", squeeze=False, gridspec_kw={"height_ratios": [1.7, 1]}
    )
    for column, (part, noise) in enumerate(columns):
        _draw_column(axes[:, column].tolist(), part, target, share, noise)
    return figure


def spectrum_figure(
    target: Tensor,
    path: str | Path,
    training: Spectra | None = None,
    sampling: Spectra | None = None,
    share: float = 0.5,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Draws, as a PNG, spectra against the data's, and below when each ring came near it.

    Left by training step, right along a sampling trajectory by noise level, with the noise level
    at which the exact denoiser of Gaussian data of this power would reach it:
    sigma / alpha = sqrt(P (1 - share) / share).

    Args:
        target: (K,) power of the data.
        training, sampling: spectra in the order of time, of the same rings.
        settings: plain JSON values, kept in the file for read_settings.
    """
    _save(draw_spectra(target, training, sampling, share), path, settings)
