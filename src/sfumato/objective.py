"""Objectives: which times to train on, and how much the error at each one weighs.

    loss = weight(t) * mean((x0_hat - x0)^2),    t = times(u),    x_t = alpha x0 + sigma eps

The randomness comes in as arguments: u, uniform in (0, 1), and eps, so that a batch and all that
is random about it can be a function of (seed, step), and be cut into parts without changing it.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .denoiser import Cond, NetworkDenoiser
from .prediction import Prediction
from .process import Process


class Times(Protocol):
    """Map u ~ U(0, 1), (B,), to training times, (B,)."""

    def __call__(self, process: Process, u: Tensor) -> Tensor: ...


class Weight(Protocol):
    """The weight, (B,), of the x0 error at times t, (B,)."""

    def __call__(self, denoiser: NetworkDenoiser, t: Tensor) -> Tensor: ...


class Objective(Protocol):
    """The loss of each example, (B,), for clean images, (B, ...), uniforms, (B,), and noise."""

    @property
    def times(self) -> Times: ...

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, u: Tensor, eps: Tensor
    ) -> Tensor: ...


def stratified(n: int, generator: torch.Generator | None = None) -> Tensor:
    """n uniforms, one in each of n equal cells of (0, 1), in random order: float64, (n,)."""
    cells = torch.randperm(n, generator=generator)
    inside = torch.rand(n, generator=generator, dtype=torch.float64)
    return ((cells + inside) / n).clamp(1e-9, 1 - 1e-9)  # ndtri is infinite at 0 and 1


def draws(images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """(u, eps) for one batch: stratified uniforms and normal noise shaped like images.

    The noise is drawn on the CPU, in the images' dtype, or in float32 for uint8 images.
    """
    u = stratified(len(images), generator)
    dtype = images.dtype if images.is_floating_point() else torch.float32
    return u, torch.randn(images.shape, generator=generator, dtype=dtype).to(images.device)


@dataclass(frozen=True)
class UniformTimes:
    """Uniform in [t_min, t_max]."""

    t_min: float = 1e-5

    def __call__(self, process: Process, u: Tensor) -> Tensor:
        return self.t_min + u * (process.t_max - self.t_min)


@dataclass(frozen=True)
class DiscreteTimes:
    """Uniform over T equal steps up to t_max, as of a DiscreteVP: Ho et al. (2020), algorithm 1."""

    steps: int = 1000

    def __call__(self, process: Process, u: Tensor) -> Tensor:
        step = (torch.floor(u * self.steps) + 1).clamp(max=self.steps)
        return process.t_max * step / self.steps


@dataclass(frozen=True)
class LogNormalTimes:
    """log(sigma / alpha) ~ N(mean, std^2): Karras et al. (2022), table 1."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, process: Process, u: Tensor) -> Tensor:
        return process.time_at(-2 * (self.mean + self.std * torch.special.ndtri(u)))


@dataclass(frozen=True)
class LogitNormalTimes:
    """logit(t / t_max) ~ N(mean, std^2): Esser et al. (2024), eq. 19."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, process: Process, u: Tensor) -> Tensor:
        return process.t_max * torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclass(frozen=True)
class OutputMSE:
    """1 / c_out^2: the plain mean squared error of the network's own output.

    For PredictNoise this is L_simple, for PredictV the v loss, for PredictVelocity the
    flow-matching loss, for EDMPreconditioning EDM's lambda(sigma).
    """

    def __call__(self, denoiser: NetworkDenoiser, t: Tensor) -> Tensor:
        return denoiser.parameterization(denoiser.process, t).c_out ** -2


@dataclass(frozen=True)
class DataMSE:
    """1: the plain error of x0 at every noise level."""

    def __call__(self, denoiser: NetworkDenoiser, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class EDMWeight:
    """lambda = (r^2 + sigma_data^2) / (r sigma_data)^2, r = sigma / alpha, for any network.

    That is 1 / sigma_data^2 + SNR. most: of the SNR, so that a network which is wrong by something
    at the lowest noise, where EDM's own is not, is not trained on that alone.
    """

    sigma_data: float = 0.5
    most: float = float("inf")

    def __call__(self, denoiser: NetworkDenoiser, t: Tensor) -> Tensor:
        return self.sigma_data**-2 + denoiser.process.log_snr(t).exp().clamp(max=self.most)


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) on the x0 error: Hang et al. (2023), section 3.4, for every prediction."""

    gamma: float = 5.0

    def __call__(self, denoiser: NetworkDenoiser, t: Tensor) -> Tensor:
        return denoiser.process.log_snr(t).exp().clamp(max=self.gamma)


def squared_error(prediction: Prediction, x0: Tensor) -> Tensor:
    """Mean squared error of x0 for each example: (B,)."""
    return (prediction.x0 - x0).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Denoising:
    """Weighted squared error of x0: the loss of every method that trains by regression."""

    times: Times
    weight: Weight = OutputMSE()

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, u: Tensor, eps: Tensor
    ) -> Tensor:
        t = self.times(denoiser.process, u)
        prediction = denoiser(denoiser.process.diffuse(x0, t, eps), t, cond)
        return self.weight(denoiser, t).to(x0) * squared_error(prediction, x0)
