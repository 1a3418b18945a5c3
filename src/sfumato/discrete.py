"""Variance-preserving processes given by a table of T betas, on a continuous clock.

    x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) eps,    alpha_bar_i = prod_{j <= i} (1 - beta_j)
    alpha(i / T) = sqrt(alpha_bar_i),    sigma(i / T) = sqrt(1 - alpha_bar_i),    i = 1..T

Step i of the papers (index i - 1 in code that counts from 0) is t = i / T; t = 0 is clean data.
Between the steps (alpha, sigma) turns at constant speed along the unit circle, so that alpha,
sigma and both rates are finite everywhere, also at t = 0 and where alpha_bar ends at exactly 0
(zero_terminal_snr=True; PredictNoise is not defined there: use PredictV).
"""

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import pi

import torch
from torch import Tensor

from .process import Process

MAX_BETA = 0.999  # beyond it one step would wipe out the signal: Nichol and Dhariwal (2021), 3.2
SIGNAL_LEFT_WORTH_A_WARNING = 0.02


class SignalLeftWarning(UserWarning):
    """The last noisy image still shows the picture, but sampling starts from pure noise."""


class DiscreteVP(Process):
    """A process with T = steps betas; see the module's text for the clock."""

    steps: int
    zero_terminal_snr: bool

    @abstractmethod
    def _betas(self) -> Tensor:
        """The schedule's own T betas: float64, (T,)."""

    def betas(self) -> Tensor:
        """The T variances of q(x_i | x_{i-1}), in (0, 1]: float64, (T,)."""
        return _end_at_zero_signal(self._betas()) if self.zero_terminal_snr else self._betas()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}; a process needs at least 1 step.")
        betas = self.betas()
        if not ((betas > 0) & (betas <= 1)).all():
            low, high = betas.min().item(), betas.max().item()
            raise ValueError(f"betas of {self} span [{low:g}, {high:g}]; they must lie in (0, 1].")
        if self.signal_left > SIGNAL_LEFT_WORTH_A_WARNING:
            warnings.warn(self._signal_left_text(), SignalLeftWarning, stacklevel=3)

    def _signal_left_text(self) -> str:
        return (
            f"{type(self).__name__}: {self.signal_left:.1%} of the image's amplitude is left at "
            f"the last of {self.steps} steps, but sampling starts from pure noise, so brightness "
            "and colour will be off. Use more steps, leave the betas rescaled (rescaled=True), "
            "take CosineBetas, or set zero_terminal_snr=True and train with PredictV."
        )

    def times_of(self, indices: Tensor) -> Tensor:
        """Times of 0-based step indices, as diffusers and most code count them: (i + 1) / T."""
        return (indices.double() + 1) / self.steps

    @cached_property
    def log_alpha_bar(self) -> Tensor:
        """log(prod(1 - beta)) at t = 0, 1/T, ..., 1: float64, (T + 1,)."""
        return torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-self.betas())]).cumsum(
            0
        )

    @cached_property
    def _circle(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma, angle at the T + 1 grid points, and the T turns between them: float64."""
        alpha = torch.exp(self.log_alpha_bar / 2)
        sigma = torch.sqrt(-torch.expm1(self.log_alpha_bar))
        across = sigma[1:] * alpha[:-1] - alpha[1:] * sigma[:-1]
        along = alpha[1:] * alpha[:-1] + sigma[1:] * sigma[:-1]
        return alpha, sigma, torch.atan2(sigma, alpha), torch.atan2(across, along)

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The interval that holds t and the position in it, in [0, 1]."""
        if not t.is_floating_point():
            raise ValueError(
                f"t came as {t.dtype}; times are floats, step i of T at i / T. "
                "Turn 0-based step indices into times with process.times_of(indices)."
            )
        position = (t.double() * self.steps).clamp(0, self.steps)
        low = position.floor().long().clamp(max=self.steps - 1)
        return low, position - low

    def _on_circle(self, table: Tensor, t: Tensor) -> Tensor:
        low, part = self._locate(t)
        table, turn = table.to(t.device), self._circle[3].to(t.device)[low]
        start, end = torch.sin((1 - part) * turn), torch.sin(part * turn)
        return ((start * table[low] + end * table[low + 1]) / torch.sin(turn)).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return self._on_circle(self._circle[0], t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._on_circle(self._circle[1], t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, _ = self._locate(t)
        speed = (self._circle[3].to(t.device)[low] * self.steps).to(t.dtype)
        return -speed * self.sigma(t), speed * self.alpha(t)

    def time_at(self, log_snr: Tensor) -> Tensor:
        angle = torch.atan(torch.exp(-log_snr.double() / 2))
        angles, turn = self._circle[2].to(angle.device), self._circle[3].to(angle.device)
        low = torch.searchsorted(angles, angle).clamp(1, self.steps) - 1
        part = ((angle - angles[low]) / turn[low]).clamp(0, 1)
        return ((low + part) / self.steps).to(log_snr.dtype)


def _linspace(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def _end_at_zero_signal(betas: Tensor) -> Tensor:
    """Betas that leave no signal at T: Lin et al. (2024), algorithm 1.

    sqrt(alpha_bar) is shifted to end at 0 and stretched to begin where it began. A single step
    can't do both, and ends at 0.
    """
    if len(betas) == 1:
        return torch.ones_like(betas)
    root = torch.exp(torch.log1p(-betas).cumsum(0) / 2)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), root**2])
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


def _rescale(betas: Tensor, steps: int, rescaled: bool) -> Tensor:
    """Multiply by 1000 / T, so that any T ends as noisy as T = 1000 does."""
    if not rescaled:
        return betas
    # The cap is for what rescaling does; a beta that was out of range before it stays so.
    return torch.minimum(betas * (1000 / steps), betas.clamp(min=MAX_BETA))


@dataclass(frozen=True)
class LinearBetas(DiscreteVP):
    """DDPM's schedule: Ho et al. (2020), section 4.

    rescaled: multiply the betas by 1000 / steps. Without it T = 300 leaves 22 % of the image.
    """

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    rescaled: bool = True
    zero_terminal_snr: bool = False

    def _betas(self) -> Tensor:
        betas = _linspace(self.beta_start, self.beta_end, self.steps)
        return _rescale(betas, self.steps, self.rescaled)


@dataclass(frozen=True)
class ScaledLinearBetas(DiscreteVP):
    """Linear in sqrt(beta): the schedule of latent diffusion, Rombach et al. (2022)."""

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    rescaled: bool = True
    zero_terminal_snr: bool = False

    def _betas(self) -> Tensor:
        betas = _linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps) ** 2
        return _rescale(betas, self.steps, self.rescaled)


@dataclass(frozen=True)
class SigmoidBetas(DiscreteVP):
    """Beta rises along a sigmoid over [-6, 6]: the schedule of GeoDiff, Xu et al. (2022)."""

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    rescaled: bool = True
    zero_terminal_snr: bool = False

    def _betas(self) -> Tensor:
        rise = torch.sigmoid(_linspace(-6, 6, self.steps))
        betas = self.beta_start + rise * (self.beta_end - self.beta_start)
        return _rescale(betas, self.steps, self.rescaled)


@dataclass(frozen=True)
class CosineBetas(DiscreteVP):
    """Improved DDPM's schedule: Nichol and Dhariwal (2021), eq. 17, beta clipped at 0.999."""

    steps: int = 1000
    offset: float = 0.008
    max_beta: float = MAX_BETA
    zero_terminal_snr: bool = False

    def _betas(self) -> Tensor:
        part = _linspace(0, 1, self.steps + 1)
        f = torch.cos((part + self.offset) / (1 + self.offset) * pi / 2) ** 2
        return (1 - f[1:] / f[:-1]).clamp(max=self.max_beta)
