"""Parameterizations: what the raw network output means, as four coefficients.

    x0_hat = c_skip * x_t + c_out * network(c_in * x_t, c_noise)

The names are those of Karras et al. (2022), eq. 7. The network's target is
(x0 - c_skip x_t) / c_out, so target and inverse cannot disagree. A new way to predict is a class.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .process import Process


class Coefficients(NamedTuple):
    """c_in, c_skip, c_out and what the network is told of the noise level; each shaped like t."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    c_noise: Tensor


class Parameterization(Protocol):
    """Gives the four coefficients; check refuses a process for which they are not defined."""

    def __call__(self, process: Process, t: Tensor) -> Coefficients: ...

    def check(self, process: Process) -> None: ...


def _refuse_zero_signal(name: str, process: Process, why: str, remedy: str) -> None:
    if process.signal_left == 0:
        raise ValueError(
            f"{name} is not defined on {process}: alpha is 0 at t = {process.t_max}, {why} {remedy}"
        )


def _clock(process: Process, t: Tensor, time_scale: float, time_offset: float) -> Tensor:
    return time_scale * t / process.t_max + time_offset


@dataclass(frozen=True)
class PredictNoise:
    """The network predicts eps: Ho et al. (2020), eq. 11. Not defined where alpha = 0.

    The network is told time_scale * t / t_max + time_offset. DDPM's networks count their steps
    from 0: PredictNoise(time_scale=T, time_offset=-1).
    """

    time_scale: float = 1000.0
    time_offset: float = 0.0

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha, sigma = process.alpha(t), process.sigma(t)
        c_noise = _clock(process, t, self.time_scale, self.time_offset)
        return Coefficients(torch.ones_like(t), 1 / alpha, -sigma / alpha, c_noise)

    def check(self, process: Process) -> None:
        why = "where the noise says nothing of the image."
        _refuse_zero_signal("PredictNoise", process, why, "Use PredictV or PredictVelocity.")


@dataclass(frozen=True)
class PredictData:
    """The network predicts x0."""

    time_scale: float = 1000.0
    time_offset: float = 0.0

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        c_noise = _clock(process, t, self.time_scale, self.time_offset)
        return Coefficients(torch.ones_like(t), torch.zeros_like(t), torch.ones_like(t), c_noise)

    def check(self, process: Process) -> None:
        """Defined on every process."""


@dataclass(frozen=True)
class PredictV:
    """The network predicts v = alpha eps - sigma x0: Salimans and Ho (2022), appendix D."""

    time_scale: float = 1000.0
    time_offset: float = 0.0

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha, sigma = process.alpha(t), process.sigma(t)
        power = alpha**2 + sigma**2
        c_noise = _clock(process, t, self.time_scale, self.time_offset)
        return Coefficients(torch.ones_like(t), alpha / power, -sigma / power, c_noise)

    def check(self, process: Process) -> None:
        """Defined on every process."""


@dataclass(frozen=True)
class PredictVelocity:
    """The network predicts dx_t/dt, which on RectifiedFlow is eps - x0.

    Lipman et al. (2023), eq. 14 (number from memory).
    """

    time_scale: float = 1000.0
    time_offset: float = 0.0

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha, sigma = process.alpha(t), process.sigma(t)
        alpha_rate, sigma_rate = process.rates(t)
        wronskian = sigma_rate * alpha - alpha_rate * sigma
        c_noise = _clock(process, t, self.time_scale, self.time_offset)
        c_skip, c_out = sigma_rate / wronskian, -sigma / wronskian
        return Coefficients(torch.ones_like(t), c_skip, c_out, c_noise)

    def check(self, process: Process) -> None:
        """Defined on every process."""


@dataclass(frozen=True)
class EDMPreconditioning:
    """Unit-variance input and target at every noise level: Karras et al. (2022), table 1.

    Generalized to alpha != 1; with alpha = 1 these are the paper's four formulas. sigma_data is
    the standard deviation of the data. The network is told log(sigma / alpha) / 4.

    skip=False, which is not in the paper: c_skip = 0 and c_out = sigma_data, so that the network
    gives x0 itself. For one that is too narrow for noise to pass through: what it can't pass would
    stay in the image.
    """

    sigma_data: float = 0.5
    skip: bool = True

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        alpha, sigma = process.alpha(t), process.sigma(t)
        variance = (alpha * self.sigma_data) ** 2 + sigma**2
        c_in, c_noise = variance.rsqrt(), -process.log_snr(t) / 8
        if not self.skip:
            ones = torch.ones_like(t)
            return Coefficients(c_in, 0 * ones, self.sigma_data * ones, c_noise)
        c_skip = alpha * self.sigma_data**2 / variance
        return Coefficients(c_in, c_skip, sigma * self.sigma_data * c_in, c_noise)

    def check(self, process: Process) -> None:
        if not self.sigma_data > 0:
            raise ValueError(
                f"sigma_data = {self.sigma_data}; it is the data's standard deviation, above 0: "
                "x0.std(). Training from the command line measures it where it is 0."
            )
        why = "where log(sigma / alpha), which the network is told, is infinite."
        remedy = "Use PredictV or PredictVelocity, or train on Karras()."
        _refuse_zero_signal("EDMPreconditioning", process, why, remedy)
