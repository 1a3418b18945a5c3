"""How drawn images look beside real ones: colours and scales, without any network.

    shift_c = mean of drawn - mean of real,    spread_c = sd of drawn / sd of real,  of channel c
    gap_k   = 10 log10(P_k of drawn / P_k of real) decibels,  P_k the radial power of spectra.py

Pixels count as x = pixel / 127.5 - 1, so that a shift of 0.08 is ten of 255 levels: a tint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .measuring import AT_ONCE, Estimate, bootstrap
from .plots import EMA, RAW, _figure, _plain, _save
from .spectra import radial_power, whole

LEAST = 1e-12  # of a standard deviation that is divided by


@dataclass(frozen=True)
class Colour:
    """Of one channel; shift: drawn minus real, in units of [-1, 1]; spread: ratio of the sds."""

    shift: Estimate
    spread: Estimate


def colours(drawn: Tensor, real: Tensor) -> list[Colour]:
    """A Colour a channel of uint8 images (N, C, H, W) and (M, C, H, W).

    The errors are those of both sets: of a shift that of the means over images, of a spread the
    bootstrap's.
    """
    found = []
    for one, two in zip(drawn.unbind(1), real.unbind(1)):
        pair = [_moments(pixels) for pixels in (one, two)]
        means = [Estimate.of(moments[:, 0]) for moments in pair]
        sds = [_deviation(moments).item() for moments in pair]
        doubts = [bootstrap(_deviation, moments) for moments in pair]
        ratio = sds[0] / max(sds[1], LEAST)
        doubt = hypot(doubts[0], ratio * doubts[1]) / max(sds[1], LEAST)
        shift = Estimate(means[0].mean - means[1].mean, hypot(means[0].error, means[1].error))
        found.append(Colour(shift, Estimate(ratio, doubt)))
    return found


def _moments(pixels: Tensor) -> Tensor:
    """(N, 2): the mean and the mean square of each image, (N, H, W) uint8, of -1 to 1."""
    parts = [part.double().flatten(1) / 127.5 - 1 for part in pixels.split(AT_ONCE)]
    return torch.cat([torch.stack([x.mean(1), x.square().mean(1)], 1) for x in parts])


def _deviation(moments: Tensor) -> Tensor:
    """The standard deviation of all pixels."""
    mean, square = moments.mean(0)
    return (square - mean.square()).clamp(min=0).sqrt()


@dataclass(frozen=True, eq=False)
class Scales:
    """frequencies (K,) in cycles a pixel, coarsest first; gap (K,) in decibels, drawn over real."""

    frequencies: Tensor
    gap: Tensor

    @property
    def largest(self) -> tuple[float, float]:
        """(gap in decibels, frequency) where the power is farthest off."""
        at = int(self.gap.abs().argmax())
        return self.gap[at].item(), self.frequencies[at].item()


def scales(drawn: Tensor, real: Tensor) -> Scales:
    """Of uint8 images (N, C, H, W) and (M, C, H, W), over the rings that go all the way round."""
    frequencies, power = radial_power(drawn)
    reference = radial_power(real)[1]
    kept = whole(frequencies)
    least = torch.finfo(torch.float64).tiny
    gap = 10 * (power.clamp(min=least) / reference.clamp(min=least)).log10()
    return Scales(frequencies[kept], gap[kept])


def scales_figure(
    drawn: Scales, control: Scales | None, path: Path, settings: Mapping[str, Any]
) -> None:
    """Draws the gap of drawn images, and of as many other real ones, as a PNG."""
    figure = _figure(6, 3.8)
    axes = figure.subplots()
    _plain(axes, "Power beside that of real images, in decibels", "cycles a pixel: coarse to fine")
    axes.axhline(0, color="#999999", linewidth=1)
    curves = [("drawn", EMA, drawn)]
    if control is not None:
        curves.append(("other real images", RAW, control))
    for label, colour, of in curves:
        axes.plot(of.frequencies.tolist(), of.gap.tolist(), "o-", color=colour, ms=4, label=label)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -1.0), max(high, 1.0))  # a tenth of a decibel should look like nothing
    axes.legend(frameon=False)
    _save(figure, path, settings)
