"""The museum's faults as settings of runs and as images: what the doctor is asked about.

sfumato doctor scripts/museum_faults.py:clamped    a fault of the process, the sampler, the network

A fault of the sampler is a solver, of the process a `diffuse`, of the network a module: written as
one's own would be, in FILE.py:FUNCTION.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.config import Run, SamplingConfig
from sfumato.grids import UniformGrid
from sfumato.process import match_dims
from sfumato.recipes import RECIPES

STEPS = 50
BETAS = sf.LinearBetas(1000)


# --- solvers


@dataclass(frozen=True)
class ClampedX:
    """x_t itself is kept in [-1, 1]."""

    inner: Any = sf.Ancestral()

    def __call__(self, step: Any) -> tuple[Tensor, Any]:
        x, memory = self.inner(step)
        return x.clamp(-1, 1), memory


@dataclass(frozen=True)
class NoisyEnd:
    """Noise of the transition's variance at every step, the last one included."""

    inner: Any = sf.Ancestral()

    def __call__(self, step: Any) -> tuple[Tensor, Any]:
        x, memory = self.inner(step)
        if step.process.sigma(step.s) == 0:
            beta = step.process.transition(step.s, step.t)[1]
            x = x + match_dims(beta.sqrt(), x) * step.randn_like(x)
        return x, memory


@dataclass(frozen=True)
class MeanOnly:
    """DDPM's mean without its noise."""

    inner: Any = sf.Ancestral()

    def __call__(self, step: Any) -> tuple[Tensor, Any]:
        return self.inner(step._replace(randn_like=torch.zeros_like))


@dataclass(frozen=True)
class DividedByTheProduct:
    """The mean from the noise, over sqrt(alpha_bar_t) where sqrt(alpha_t) belongs."""

    def __call__(self, step: Any) -> tuple[Tensor, Any]:
        process, x, t = step.process, step.x, step.t
        beta = match_dims(process.transition(step.s, t)[1], x)
        mean = x - beta / match_dims(process.sigma(t), x) * step.denoise(x, t).eps
        mean = mean / match_dims(process.alpha(t), x)
        drawn = mean if step.s == 0 else mean + beta.sqrt() * step.randn_like(mean)
        return drawn.clamp(-1e4, 1e4), None


@dataclass(frozen=True)
class PrintedVariance:
    """1 - alpha_t where 1 - alpha_bar_t belongs, in the mean's weight of the noise."""

    def __call__(self, step: Any) -> tuple[Tensor, Any]:
        scale, beta = (match_dims(c, step.x) for c in step.process.transition(step.s, step.t))
        mean = (step.x - beta / beta.sqrt() * step.denoise(step.x, step.t).eps) / scale
        return (mean if step.s == 0 else mean + beta.sqrt() * step.randn_like(mean)), None


@dataclass(frozen=True)
class LogLeftOut:
    """exp(v log beta + (1 - v) beta tilde) at v = 1/2: about the root of beta."""

    def __call__(self, step: Any) -> tuple[Tensor, Any]:
        x0 = step.denoise(step.x, step.t).x0
        mean, small = step.process.posterior(step.x, x0, step.t, step.s)
        beta = match_dims(step.process.transition(step.s, step.t)[1], mean)
        noise = torch.exp(beta.log() / 2 + small / 2).sqrt() * step.randn_like(mean)
        return (mean if step.s == 0 else mean + noise), None


@dataclass(frozen=True)
class FirstStepOnly:
    """The grid of `return x` inside the loop: of all steps the first."""

    inner: Any = UniformGrid()

    def __call__(self, process: Any, steps: int) -> Tensor:
        return self.inner(process, steps)[:2]


# --- processes


class AlphaForItsProduct(sf.LinearBetas):
    """alpha_t and not the product of all alphas, in x_t."""

    def diffuse(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        beta = self.betas()[(t * self.steps).round().long() - 1]
        return match_dims((1 - beta).sqrt(), x0) * x0 + match_dims(beta.sqrt(), x0) * eps


class OneNoise(sf.LinearBetas):
    """Step after step with the same eps in each: deviations add, where variances should."""

    def diffuse(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        last, x = (t * self.steps).round(), x0
        for k, beta in enumerate(self.betas().tolist()):
            before = (k < last).reshape(-1, *[1] * (x.ndim - 1))
            x = torch.where(before, (1 - beta) ** 0.5 * x + beta**0.5 * eps, x)
        return x


class RootOfTheProduct(sf.LinearBetas):
    """alpha_bar taken to be its own root."""

    def diffuse(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        bar = self.alpha(t)
        return match_dims(bar.sqrt(), x0) * x0 + match_dims((1 - bar).sqrt(), x0) * eps


# --- a network


class Untold(nn.Module):
    """A U-Net that gets the noise level, and leaves it out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, level: Tensor, cond: Any = None) -> Any:
        return self.inner(x, torch.full((len(x),), 0.5, device=x.device), cond)


@dataclass(frozen=True)
class UntoldConfig(sf.UNetConfig):
    def build(self) -> nn.Module:
        return Untold(super().build())


# --- runs


def ddpm(**changed: Any) -> Run:
    """The digits by DDPM, without labels."""
    run = RECIPES["digits_ddpm"]()
    sampling = replace(run.sampling, guidance=1.0)
    run = replace(run, **{"name": "museum", "sampling": sampling, **changed})
    network = replace(run.network, classes=0)  # type: ignore[type-var]
    return replace(run, data=replace(run.data, labels=False), network=network)


def sampled(solver: Any, grid: Any = None) -> Run:
    return ddpm(sampling=SamplingConfig(solver, grid or UniformGrid(), steps=STEPS))


def clamped() -> Run:
    return sampled(ClampedX())


def one_step() -> Run:
    return sampled(sf.Ancestral(), FirstStepOnly())


def noise_at_the_end() -> Run:
    return sampled(NoisyEnd())


def mean_only() -> Run:
    return sampled(MeanOnly())


def t300() -> Run:
    return ddpm(process=short(), objective=sf.Denoising(sf.DiscreteTimes(300)))


def short() -> Any:
    """Three hundred of the thousand's betas, unscaled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says what the exhibit shows
        return sf.LinearBetas(300, rescaled=False)


def alpha() -> Run:
    return ddpm(process=AlphaForItsProduct(1000))


def one_noise() -> Run:
    return ddpm(process=OneNoise(1000))


def root() -> Run:
    return ddpm(process=RootOfTheProduct(1000))


def divided() -> Run:
    return sampled(DividedByTheProduct())


def variance() -> Run:
    return sampled(PrintedVariance())


def log() -> Run:
    return sampled(LogLeftOut())


def no_time() -> Run:
    old = ddpm().network
    return ddpm(network=UntoldConfig(**vars(old)))


RUNS: tuple[Callable[[], Run], ...] = (
    *(clamped, one_step, noise_at_the_end, mean_only, t300, alpha, one_noise, root, divided),
    *(variance, log, no_time),
)


# --- images, (N, 28, 28)


def zero_to_one() -> Tensor:
    return sf.load("digits").images[:, 0] / 255


def twice() -> Tensor:
    return 2 * (2 * zero_to_one() - 1) - 1


def rotated() -> Tensor:
    images = sf.load("digits").images[:, 0]
    return torch.cat([images.rot90(k, (1, 2)) for k in range(4)])


IMAGES: tuple[Callable[[], Tensor], ...] = (zero_to_one, twice, rotated)
