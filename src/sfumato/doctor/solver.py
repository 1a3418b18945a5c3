"""What is wrong with a solver: it is tried on denoisers whose every answer is exact.

Of a normal distribution it should keep the mean and the deviation, of a single image nothing but
the image. Whatever is lost there is the solver's own doing, whoever wrote it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from ..config import SamplingConfig
from ..denoiser import Cond
from ..prediction import Prediction
from ..process import Process
from ..sampling import prior, trajectory
from ..solvers import Solver
from .finding import RISK, WRONG, Finding, found

MEAN, SPREAD, POINT = -0.3, 0.6, 1e-3  # of what is drawn: about digits', and a single image
DRAWS = 500
QUICK = 60  # steps up to which the solver is tried as asked; of more, COARSE show what it is
COARSE = 25
PALE_RISK, PALE_WRONG = 0.85, 0.65  # share of the spread that is left
EXPLODED = 10.0  # times the spread
NOISE_RISK, NOISE_WRONG = 0.02, 0.05  # left on a single image; 2 / 255 is a level of grey
CUT = 0.01  # of the draws at one and the same largest value


@dataclass(frozen=True)
class Drawn:
    """kept: deviation over what it should be. noise: left on a single image. cut: |x_t| where some
    of the draws were cut off, of which the noise went to `reached`; None where none were."""

    kept: float
    noise: float
    cut: float | None
    reached: float


@dataclass(frozen=True)
class Exact:
    """The denoiser of N(MEAN, spread^2), spread: (B, 1)."""

    process: Process
    spread: Tensor

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        gain = alpha * self.spread**2 / ((alpha * self.spread) ** 2 + sigma**2)
        return Prediction(x_t, MEAN + gain * (x_t - alpha * MEAN), t, self.process)


def drawn_by(process: Process, solver: Solver, times: Tensor) -> Drawn:
    """DRAWS of the normal distribution and as many of the single image, down the times."""
    generator = torch.Generator().manual_seed(0)

    def randn_like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    spread = torch.tensor([SPREAD, POINT], dtype=torch.float64).repeat_interleave(DRAWS)[:, None]
    x = prior(process, randn_like(spread), times[0])
    reached = x.abs().max().item()
    cut = None
    denoiser = Exact(process, spread)
    for point in trajectory(denoiser, x, times, solver, randn_like=randn_like):
        x = point.x
        cut = cut or cut_at(x)
    wide, single = x[:DRAWS], x[DRAWS:]
    return Drawn(wide.std().item() / SPREAD, single.std().item(), cut, reached)


def cut_at(x: Tensor) -> float | None:
    """The largest |x|, where many have exactly it; None where one has."""
    size = x.abs()
    same = (size == size.max()).double().mean().item()
    return size.max().item() if same > CUT else None


def check_solver(process: Process, sampling: SamplingConfig, times: Tensor) -> Iterator[Finding]:
    """times: the grid as asked."""
    if getattr(sampling.solver, "variance_mix", 0.0) is None:
        return
    asked = len(times) - 1 <= QUICK
    times = times if asked else sampling.grid(process, COARSE)
    steps, name = len(times) - 1, type(sampling.solver).__name__
    drawn = drawn_by(process, sampling.solver, times)
    seen = {"solver": name, "steps": steps}
    if not drawn.kept < EXPLODED:  # so that NaN is one of them
        yield found("solver-explodes", WRONG, times=drawn.kept, **seen)
        return
    if drawn.cut is not None:
        yield found("x-clamped", WRONG, largest=drawn.cut, reaches=drawn.reached)
        return
    if drawn.noise > NOISE_RISK:
        severity = WRONG if drawn.noise > NOISE_WRONG else RISK
        yield found("solver-noise", severity, noise=drawn.noise, **seen)
    if not PALE_RISK < drawn.kept < 1 / PALE_RISK:
        yield from _check_spread(process, sampling, drawn.kept, steps, asked)


def _check_spread(
    process: Process, sampling: SamplingConfig, kept: float, steps: int, asked: bool
) -> Iterator[Finding]:
    """Too few steps, or a step that is wrong: only the first gets better with twice as many."""
    more = _kept_by_twice(process, sampling, steps)
    seen = {"kept": kept, "solver": type(sampling.solver).__name__, "steps": steps}
    if more is not None and steps >= COARSE and abs(log(more)) > 0.9 * abs(log(kept)):
        yield found("solver-inconsistent", WRONG, more=more, twice=2 * steps, **seen)
    elif asked:
        severity = RISK if PALE_WRONG < kept < 1 / PALE_WRONG else WRONG
        yield found("solver-pale", severity, more=2 * steps, **seen)


def _kept_by_twice(process: Process, sampling: SamplingConfig, steps: int) -> float | None:
    """None where the grid can't be cut finer."""
    try:
        times = sampling.grid(process, 2 * steps)
    except ValueError:
        return None
    return drawn_by(process, sampling.solver, times).kept
