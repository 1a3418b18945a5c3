"""Time grids: the times that sampling walks down, float64, (N + 1,), from noise to clean.

uniform   t_i = t_max (1 - i / N)
karras    ratio_i = (max^(1/rho) + i / (N - 1) (min^(1/rho) - max^(1/rho)))^rho, then 0; where rho
          grows without end, ratio_i = max (min / max)^(i / (N - 1)): even in its logarithm
leading, trailing, linspace   N of the T steps of a DiscreteVP, as diffusers spaces them, then 0
"""

from dataclasses import dataclass
from math import inf
from typing import Protocol

import torch
from torch import Tensor

from .discrete import DiscreteVP
from .process import Process


def _check(steps: int, most: int | None = None) -> None:
    if steps < 1 or (most is not None and steps > most):
        limit = "" if most is None else f" and at most {most}, the process's own number"
        raise ValueError(f"steps = {steps}; a grid needs at least 1 step{limit}.")


def uniform_times(process: Process, steps: int, t_min: float = 0.0) -> Tensor:
    """steps + 1 equally spaced times from t_max to t_min. Raises: ValueError unless they fall."""
    _check(steps)
    if not 0 <= t_min < process.t_max:
        raise ValueError(f"t_min = {t_min}; times fall from {process.t_max:g} to 0 or above it.")
    return torch.linspace(process.t_max, t_min, steps + 1, dtype=torch.float64)


def karras_times(
    process: Process,
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float | None = None,
    rho: float = 7.0,
) -> Tensor:
    """Noise levels of Karras et al. (2022), eq. 5, as times of any process, then 0.

    sigma_min and sigma_max are ratios sigma / alpha; sigma_max = None is 80 or, if that is less,
    all the noise that the process has. rho = inf: even steps of log(sigma / alpha), the formula's
    limit.

    Raises: ValueError for a sigma_max that the process never reaches, or a rho of 0 or less.
    """
    _check(steps)
    largest = process.largest_ratio
    top = min(80.0, largest) if sigma_max is None else sigma_max
    if top > largest * (1 + 1e-6) or not 0 < sigma_min <= top:
        raise ValueError(
            f"noise levels from {top:g} down to {sigma_min:g} were asked for; {process} holds "
            f"ratios above 0 and up to {largest:g}."
        )
    if not rho > 0:
        raise ValueError(f"rho = {rho}; a number above 0 is wanted, as 7, or inf.")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    if rho == inf:
        ratio = top * (sigma_min / top) ** ramp
    else:
        ratio = (top ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - top ** (1 / rho))) ** rho
    return torch.cat([process.time_at_ratio(ratio), ramp.new_zeros(1)])


def _then_clean(process: DiscreteVP, indices: Tensor) -> Tensor:
    """Times of 0-based step indices, then 0."""
    return torch.cat([process.times_of(indices), torch.zeros(1, dtype=torch.float64)])


def leading_times(process: DiscreteVP, steps: int, offset: int = 0) -> Tensor:
    """Every (T // steps)-th step counted from the clean end: DDIM's grid.

    offset, 0-based, is the last step before clean data: diffusers' steps_offset. The first is below
    T unless the offset brings it there.
    """
    _check(steps, process.steps)
    stride = process.steps // steps
    most = process.steps - 1 - (steps - 1) * stride
    if not 0 <= offset <= most:
        raise ValueError(f"offset = {offset}; {steps} of {process.steps} steps leave 0..{most}.")
    return _then_clean(process, torch.arange(steps).flip(0) * stride + offset)


def trailing_times(process: DiscreteVP, steps: int) -> Tensor:
    """Every (T / steps)-th step counted from T: Lin et al. (2024), table 2."""
    _check(steps, process.steps)
    # Not -T / steps, but so that a step halfway between two rounds as numpy.arange's in diffusers.
    stride = (process.steps - process.steps / steps) - process.steps
    positions = process.steps + torch.arange(steps, dtype=torch.float64) * stride
    return _then_clean(process, positions.round() - 1)


def linspace_times(process: DiscreteVP, steps: int) -> Tensor:
    """steps equally spaced steps from T to 1, both ends in, rounded; then 0."""
    _check(steps, process.steps)
    if steps == 1:
        return _then_clean(process, torch.tensor([process.steps - 1]))
    # The product, not torch.linspace, so that a step halfway between two rounds as in diffusers.
    stride = (process.steps - 1) / (steps - 1)
    indices = torch.arange(steps, dtype=torch.float64).flip(0) * stride
    return _then_clean(process, indices.round())


class Grid(Protocol):
    """A kind of time grid as a value: what a run's settings hold."""

    def __call__(self, process: Process, steps: int) -> Tensor: ...


@dataclass(frozen=True)
class UniformGrid:
    """uniform_times."""

    t_min: float = 0.0

    def __call__(self, process: Process, steps: int) -> Tensor:
        return uniform_times(process, steps, self.t_min)


@dataclass(frozen=True)
class KarrasGrid:
    """karras_times."""

    sigma_min: float = 0.002
    sigma_max: float | None = None
    rho: float = 7.0

    def __call__(self, process: Process, steps: int) -> Tensor:
        return karras_times(process, steps, self.sigma_min, self.sigma_max, self.rho)


def _discrete(process: Process, grid: str) -> DiscreteVP:
    if not isinstance(process, DiscreteVP):
        raise ValueError(
            f"{grid} picks among the steps of a table of betas, and {process} has none. "
            "Use UniformGrid or KarrasGrid."
        )
    return process


@dataclass(frozen=True)
class LeadingGrid:
    """leading_times."""

    offset: int = 0

    def __call__(self, process: Process, steps: int) -> Tensor:
        return leading_times(_discrete(process, "LeadingGrid"), steps, self.offset)


@dataclass(frozen=True)
class TrailingGrid:
    """trailing_times."""

    def __call__(self, process: Process, steps: int) -> Tensor:
        return trailing_times(_discrete(process, "TrailingGrid"), steps)


@dataclass(frozen=True)
class LinspaceGrid:
    """linspace_times."""

    def __call__(self, process: Process, steps: int) -> Tensor:
        return linspace_times(_discrete(process, "LinspaceGrid"), steps)
