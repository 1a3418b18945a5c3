"""Noise processes: how much signal and how much noise a sample holds at time t.

    x_t = alpha(t) * x_0 + sigma(t) * eps,    eps ~ N(0, I)

t = 0 is clean data, t = t_max is (nearly) pure noise. A process knows nothing of networks, losses
or solvers. Times are floats, of shape () or (B,), best kept in float64 on the CPU: the scales are
computed in the dtype of t, and only the finished coefficient is moved to the images.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def match_dims(coefficient: Tensor, x: Tensor) -> Tensor:
    """A () or (B,) coefficient with singleton axes appended, in the dtype and place of x, (B, ...).

    Raises: ValueError for half-precision x, in which eps read back from x0 is wrong by up to 0.4.
    """
    if x.dtype in (torch.float16, torch.bfloat16) or not x.is_floating_point():
        raise ValueError(
            f"noisy images came as {x.dtype}; float32 or wider is wanted, because differences of "
            "large numbers are taken here. Only the network may run in lower precision: pass "
            "x.float() and set NetworkDenoiser(..., precision=torch.bfloat16)."
        )
    # From the CPU's own memory CUDA copies before it returns; to wait for the GPU too helps nobody.
    ahead = coefficient.device.type == "cpu"
    coefficient = coefficient.to(device=x.device, dtype=x.dtype, non_blocking=ahead)
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))


class Gaussian(NamedTuple):
    """An isotropic normal distribution; the variance broadcasts against the mean."""

    mean: Tensor
    variance: Tensor


class Process(ABC):
    """A forward process x_t = alpha(t) x_0 + sigma(t) eps.

    A process gives alpha, sigma, rates and time_at; everything else follows from them.
    """

    t_max: float = 1.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at time t: shaped like t, never increasing, 1 at t = 0."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at time t: shaped like t, increasing, 0 at t = 0."""

    @abstractmethod
    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Time derivatives (d alpha / dt, d sigma / dt), each shaped like t."""

    @abstractmethod
    def time_at(self, log_snr: Tensor) -> Tensor:
        """The time whose log_snr is the one given: the inverse of log_snr."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), decreasing in t: +inf at t = 0, -inf where alpha is 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def ratio(self, t: Tensor) -> Tensor:
        """sigma / alpha, the noise level in units of the data: EDM's sigma."""
        return self.sigma(t) / self.alpha(t)

    def time_at_ratio(self, ratio: Tensor) -> Tensor:
        """The time at which sigma / alpha is the one given."""
        return self.time_at(-2 * ratio.log())

    @property
    def largest_ratio(self) -> float:
        """sigma / alpha at t_max; inf where no signal is left."""
        return self.ratio(torch.tensor(self.t_max, dtype=torch.float64)).item()

    @property
    def signal_left(self) -> float:
        """alpha(t_max): the share of the image's amplitude left in the last noisy image."""
        return self.alpha(torch.tensor(self.t_max, dtype=torch.float64)).item()

    def diffuse(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Draw x_t ~ q(x_t | x_0) with the noise given."""
        return match_dims(self.alpha(t), x0) * x0 + match_dims(self.sigma(t), x0) * eps

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, variance) of q(x_t | x_s) = N(scale x_s, variance I) for s < t.

        For a DiscreteVP and neighbouring steps the variance is beta.
        """
        # sigma_t^2 - (scale * sigma_s)^2, in the form that cannot round to a negative number.
        variance = -torch.expm1(self.log_snr(t) - self.log_snr(s)) * self.sigma(t) ** 2
        return self.alpha(t) / self.alpha(s), variance

    def posterior(self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Gaussian:
        """q(x_s | x_t, x_0) for s < t: Ho et al. (2020), eqs. 6 and 7, for any process."""
        scale, added = self.transition(s, t)
        shrink = (self.sigma(s) / self.sigma(t)) ** 2
        weight_x_t, weight_x0 = scale * shrink, self.alpha(s) * added / self.sigma(t) ** 2
        mean = match_dims(weight_x_t, x_t) * x_t + match_dims(weight_x0, x_t) * x0
        return Gaussian(mean, match_dims(added * shrink, x_t))


def _beta_integral(t: Tensor, beta_min: float, beta_max: float) -> Tensor:
    """The integral from 0 to t of beta(t) = beta_min + t (beta_max - beta_min)."""
    return t * beta_min + t**2 * (beta_max - beta_min) / 2


def _time_of_integral(integral: Tensor, beta_min: float, beta_max: float) -> Tensor:
    """The inverse of _beta_integral, free of cancellation at small t."""
    slope = beta_max - beta_min
    return 2 * integral / (torch.sqrt(beta_min**2 + 2 * slope * integral) + beta_min)


@dataclass(frozen=True)
class LinearVP(Process):
    """Variance preserving, beta(t) linear in t: Y. Song et al. (2021), eqs. 32 and 33."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _integral(self, t: Tensor) -> Tensor:
        return _beta_integral(t, self.beta_min, self.beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        half_beta = (self.beta_min + t * (self.beta_max - self.beta_min)) / 2
        alpha = self.alpha(t)
        return -half_beta * alpha, half_beta * alpha**2 / self.sigma(t)

    def time_at(self, log_snr: Tensor) -> Tensor:
        # alpha^2 = sigmoid(log_snr) = exp(-integral)
        return _time_of_integral(F.softplus(-log_snr), self.beta_min, self.beta_max)


@dataclass(frozen=True)
class SubVP(Process):
    """Less variance than VP at every t, same signal: Y. Song et al. (2021), eqs. 27 and 29."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _integral(self, t: Tensor) -> Tensor:
        return _beta_integral(t, self.beta_min, self.beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        alpha = self.alpha(t)
        return -beta / 2 * alpha, beta * alpha**2

    def time_at(self, log_snr: Tensor) -> Tensor:
        # (1 - alpha^2) / alpha = 2 sinh(integral / 2) = ratio
        integral = 2 * torch.asinh(torch.exp(-log_snr / 2) / 2)
        return _time_of_integral(integral, self.beta_min, self.beta_max)


@dataclass(frozen=True)
class Karras(Process):
    """EDM's clock, also called VE: t is the noise level itself. Karras et al. (2022), table 1."""

    t_max: float = 80.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def time_at(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2)


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """The straight path from data to noise: Liu et al. (2023), section 2.1, with t = 1 as noise."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)

    def time_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


@dataclass(frozen=True)
class Trigonometric(Process):
    """A quarter turn from data to noise: alpha = cos(pi t / 2), sigma = sin(pi t / 2)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(pi / 2 * (1 - t))  # the cosine, exactly 0 at t = 1

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(pi / 2 * t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -pi / 2 * self.sigma(t), pi / 2 * self.alpha(t)

    def time_at(self, log_snr: Tensor) -> Tensor:
        return 2 / pi * torch.atan(torch.exp(-log_snr / 2))
