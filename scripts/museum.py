"""The museum: mistakes of five tutorials, each switched on and off under an exact denoiser.

python scripts/museum.py    writes docs/museum/*.webp, docs/museum.md and docs/museum.zh-CN.md

The denoiser is that of 200 real digits, each with a little noise around it: what a network that
learned them perfectly would say. So whatever is wrong in a picture, the fault that is named did it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sfumato as sf

sys.path.insert(0, str(Path(__file__).parent))
import museum_faults as faults
from museum_doctor import told
from museum_words import WORDS, page

ROOT = Path(__file__).resolve().parents[1]
STEPS, SHOWN, SPREAD = faults.STEPS, 8, 0.05
DDPM = sf.LinearBetas(1000)
STEP_BACK = sf.Ancestral()


# --- what all exhibits share


@cache
def digits() -> Tensor:
    """(200, 1, 28, 28) in [-1, 1]."""
    return sf.Pixels().encode(sf.load("digits").images[:200])


def exact(process: Any = DDPM, data: Tensor | None = None) -> sf.GaussianMixture:
    return sf.GaussianMixture(process, digits() if data is None else data, SPREAD)


def start() -> Tensor:
    return torch.randn(SHOWN, 1, 28, 28, generator=torch.Generator().manual_seed(7))


def dice() -> Callable[[Tensor], Tensor]:
    """The same draws every time it is made."""
    generator = torch.Generator().manual_seed(8)
    return lambda x: torch.randn(x.shape, generator=generator)


def drawn(denoiser: Any, solver: Any = STEP_BACK, **more: Any) -> Tensor:
    times = sf.uniform_times(denoiser.process, STEPS)
    return sf.sample(denoiser, start(), times, solver, **{"randn_like": dice(), **more})


@cache
def moments() -> tuple[Tensor, Tensor, Tensor]:
    """Of all digits: the mean, (784,), and the covariance's values, (784,), and vectors."""
    flat = sf.Pixels().encode(sf.load("digits").images).flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    return flat.mean(0), values.clamp(min=0), vectors


@dataclass(frozen=True)
class Normal:
    """The exact denoiser of normal data with the digits' mean and covariance.

    Where the digits' own denoiser snaps to one of them and hides a small fault, this one does not.
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor
    process: Any = DDPM

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any = None) -> sf.Prediction:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        off = x_t.flatten(1).double() - alpha * self.mean
        x0 = self.mean + (off @ self.vectors * gain) @ self.vectors.T
        return sf.Prediction(x_t, x0.reshape(x_t.shape).to(x_t), t, self.process)


def normal_digits() -> Tensor:
    return drawn(Normal(*moments()))


# --- what the pictures are measured by


def distance(x: Tensor) -> float:
    """Root mean square difference from the nearest digit."""
    flat = x.flatten(1)
    return (torch.cdist(flat, digits().flatten(1)).amin(1) / flat.shape[1] ** 0.5).mean().item()


def brightness(x: Tensor) -> float:
    return x.mean().item()


def contrast(x: Tensor) -> float:
    return x.clamp(-1, 1).std().item()


def noise_left(x: Tensor) -> float:
    """Deviation of x from the digits that it was made of, scaled to fit."""
    x0 = digits()[: len(x)]
    scale = (x * x0).sum() / x0.square().sum()
    return (x - scale * x0).std().item()


# --- the faults


def clamped_x() -> Tensor:
    return drawn(Normal(*moments()), faults.ClampedX())


def one_step() -> Tensor:
    times = faults.FirstStepOnly()(DDPM, STEPS)
    return sf.sample(exact(), start(), times, sf.Ancestral(), randn_like=dice())


def noise_at_the_end() -> Tensor:
    return drawn(exact(), faults.NoisyEnd())


def mean_only() -> Tensor:
    return drawn(exact(), faults.MeanOnly())


def unscaled_betas() -> Tensor:
    return drawn(Normal(*moments(), faults.short()), sf.DDIM())


def diffused(process: Any, t: float) -> Tensor:
    return process.diffuse(digits()[:SHOWN], torch.tensor([t]).double(), start())


def alpha_for_its_product() -> Tensor:
    return diffused(faults.AlphaForItsProduct(1000), 0.5)


def half_way() -> Tensor:
    return diffused(DDPM, 0.5)


def one_noise_for_all_steps() -> Tensor:
    return diffused(faults.OneNoise(1000), 0.2)


def a_fifth_of_the_way() -> Tensor:
    return diffused(DDPM, 0.2)


def root_of_the_product() -> Tensor:
    return diffused(faults.RootOfTheProduct(1000), 0.5)


def divided_by_the_product() -> Tensor:
    return drawn(exact(), faults.DividedByTheProduct())


def printed_variance() -> Tensor:
    return drawn(exact(), faults.PrintedVariance())


def log_left_out() -> Tensor:
    return drawn(exact(), faults.LogLeftOut())


def zero_to_one() -> Tensor:
    return drawn(exact(data=(digits() + 1) / 2))


def normalised_twice() -> Tensor:
    """Images in [-3, 1], an estimate that is clipped to [-1, 1]."""
    return drawn(sf.Clipped(exact(data=2 * digits() - 1)))


def own_range() -> Tensor:
    """Half the contrast is gone, and each picture is stretched to its own range."""
    x = zero_to_one()
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return 2 * (x - low) / (high - low) - 1


@dataclass(frozen=True)
class Untimed:
    """A denoiser that is never told how noisy its input is: it takes half-way for granted."""

    inner: Any
    process: Any = DDPM

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Any:
        half = torch.full_like(t, 0.5)
        return sf.Prediction(x_t, self.inner(x_t, half).x0, t, self.process)


def without_time() -> Tensor:
    return drawn(Untimed(Normal(*moments())))


def rotated() -> Tensor:
    turned = torch.cat([digits().rot90(k, (2, 3)) for k in range(4)])
    return drawn(exact(data=turned))


def repaired() -> Tensor:
    return drawn(exact())


def rescaled_betas() -> Tensor:
    return drawn(Normal(*moments(), sf.LinearBetas(300)), sf.DDIM())


Picture = Callable[[], Tensor]


@dataclass(frozen=True)
class Exhibit:
    """A fault beside its repair, and the number that the fault moves.

    truth: what the number is without the fault, within abs(moves). moves: by at least so much, up
    or, below 0, down.
    """

    name: str
    fault: Picture
    right: Picture
    measure: Callable[[Tensor], float]
    truth: float
    moves: float


GRAIN = SPREAD / 2  # what fifty steps leave of the noise around each digit
INK, RANGE = -0.74, 0.6  # mean and deviation of the digits' pixels
EXHIBITS = (
    Exhibit("clamped", clamped_x, normal_digits, brightness, INK, 0.1),
    Exhibit("one-step", one_step, repaired, distance, GRAIN, 1.0),
    Exhibit("noise-at-the-end", noise_at_the_end, repaired, distance, GRAIN, 0.04),
    Exhibit("mean-only", mean_only, repaired, contrast, RANGE, -0.1),
    Exhibit("t300", unscaled_betas, rescaled_betas, brightness, INK, 0.05),
    Exhibit("alpha", alpha_for_its_product, half_way, noise_left, 0.96, -0.8),
    Exhibit("one-noise", one_noise_for_all_steps, a_fifth_of_the_way, noise_left, 0.586, 7.0),
    Exhibit("root", root_of_the_product, half_way, noise_left, 0.96, -0.1),
    Exhibit("divided", divided_by_the_product, repaired, distance, GRAIN, 50.0),
    Exhibit("variance", printed_variance, repaired, distance, GRAIN, 0.01),
    Exhibit("log", log_left_out, repaired, distance, GRAIN, 0.08),
    Exhibit("zero-to-one", zero_to_one, repaired, contrast, RANGE, -0.25),
    Exhibit("twice", normalised_twice, repaired, brightness, INK, 0.015),
    Exhibit("own-range", own_range, zero_to_one, contrast, RANGE / 2, 0.2),
    Exhibit("no-time", without_time, normal_digits, contrast, 0.5, 0.1),
    Exhibit("rotated", rotated, repaired, distance, GRAIN, 0.3),
)


def pictured(exhibit: Exhibit) -> Any:
    """The fault above, the repair below."""
    images = sf.Pixels().decode(torch.cat([exhibit.fault(), exhibit.right()]))
    return sf.grid(images, columns=SHOWN, row_labels=["fault", "right"], scale=2)


if __name__ == "__main__":
    folder = ROOT / "docs" / "museum"
    folder.mkdir(exist_ok=True)
    for shown in EXHIBITS:
        path = folder / f"{shown.name}.webp"
        pictured(shown).save(path, quality=75, method=6)
        numbers = [shown.measure(make()) for make in (shown.fault, shown.right)]
        print(f"{shown.name:18} {shown.measure.__name__:10} {numbers[0]:.4f} {numbers[1]:.4f}")
    for language in WORDS:
        text = page(language, [shown.name for shown in EXHIBITS], told)
        name = "museum.md" if language == "en" else "museum.zh-CN.md"
        (ROOT / "docs" / name).write_text(text, "utf-8")
