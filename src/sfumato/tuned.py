"""A sampler as a few dozen numbers: the noise levels of its calls, and how it weighs their answers.

    x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) sum_j w_j D_j
    sum_j w_j = 1

with D_j the estimates of x0 of this step and of all before it. A constant D is then integrated
exactly, and so is a constant eps. Every deterministic solver without a clamp of its own is such a
table: DDIM has w = (0, ..., 0, 1), DPM-Solver++(2M) has (0, ..., -r, 1 + r). tuning.py fits one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from .process import Process, match_dims
from .solvers import Step

CLOSE = 1e-6  # to 1, of a row's sum
AROUND = 1e-9  # relative, of the largest noise level: rounding in what was written and read


def advance(
    process: Process,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    known: Sequence[Tensor],
    row: Sequence[float] | Tensor,
) -> Tensor:
    """x at s from x at t, (B, ...): the formula above with known = D_j and row = w_j."""
    shrink = process.sigma(s) / process.sigma(t)
    weight = process.alpha(s) - shrink * process.alpha(t)
    estimate = torch.zeros_like(x)
    for w, x0 in zip(row, known, strict=True):
        estimate = estimate + w * x0
    return match_dims(shrink, x) * x + match_dims(weight, x) * estimate


@dataclass(frozen=True)
class TunedGrid:
    """Times whose sigma / alpha are the ratios given, then 0.

    Raises: ValueError unless they fall and are above 0.
    """

    ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        falling = all(before > after for before, after in pairwise(self.ratios))
        inside = all(ratio > 0 and isfinite(ratio) for ratio in self.ratios)
        if not self.ratios or not falling or not inside:
            raise ValueError(
                f"tuned noise levels {self.ratios}: numbers above 0 are wanted, each below the one "
                "before. Tune again: sfumato tune RUN."
            )

    def __str__(self) -> str:
        return f"times tuned from sigma / alpha = {self.ratios[0]:.3g} to {self.ratios[-1]:.3g}"

    @property
    def steps(self) -> int:
        """The one number of steps that there is a grid for."""
        return len(self.ratios)

    def __call__(self, process: Process, steps: int) -> Tensor:
        if steps != self.steps:
            raise ValueError(
                f"{steps} steps were asked of a grid that was tuned for {self.steps}: sfumato tune "
                f"RUN --nfe {steps} makes one for {steps}."
            )
        ratios = torch.tensor(self.ratios, dtype=torch.float64)
        if ratios[0] > process.largest_ratio * (1 + AROUND):
            raise ValueError(
                f"the grid was tuned from sigma / alpha = {ratios[0]:g} on, and {process} ends at "
                f"{process.largest_ratio:g}. Tune for this model: sfumato tune RUN."
            )
        times = process.time_at_ratio(ratios.clamp(max=process.largest_ratio))
        return torch.cat([times, times.new_zeros(1)])


@dataclass(frozen=True)
class TunedSolver:
    """One network call a step; step i weighs the i + 1 estimates of x0 that there are by row i.

    It belongs to the TunedGrid that it was fitted with.

    Raises: ValueError unless row i has i + 1 numbers with the sum 1.
    """

    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != i + 1 or not abs(sum(row) - 1) < CLOSE:
                raise ValueError(
                    f"row {i} of a tuned solver is {row}; {i + 1} numbers with the sum 1 are "
                    "wanted. Tune again: sfumato tune RUN."
                )

    def __str__(self) -> str:
        return f"solver tuned for {len(self.rows)} calls"

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        x0 = step.denoise(step.x, step.t).x0
        known = (*(step.memory or ()), x0)
        if len(known) > len(self.rows):
            raise ValueError(
                f"step {len(known)} of a solver that was tuned for {len(self.rows)}: sample with "
                f"--nfe {len(self.rows)}, or tune for more."
            )
        row = self.rows[len(known) - 1]
        return advance(step.process, step.x, step.t, step.s, known, row), known
