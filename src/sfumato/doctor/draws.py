"""What is wrong with how a run will be sampled: the grid, the solver, clipping, guidance.

The solver is tried on the exact denoiser of a normal distribution, where any loss is its own.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..codec import Pixels
from ..config import Run, SamplingConfig
from ..consistency import ConsistencyGrid
from ..exact import GaussianMixture
from ..parameterization import PredictNoise
from ..process import Process
from ..sampling import prior, sample
from ..solvers import DDIM
from ..tuned import TunedGrid
from .finding import RISK, WRONG, Finding, found
from .process import LEFT_WRONG, left

FITTED = (ConsistencyGrid, TunedGrid)  # made for one model, of few and wide steps
LAST = 0.5  # sigma / alpha before the last step: what is above it ends as a blur
MEAN, SPREAD = -0.3, 0.6  # of the normal distribution that is drawn, about that of digits
DRAWS = 500
QUICK = 60  # steps up to which the solver is tried: more of them lose nothing
PALE_RISK, PALE_WRONG = 0.85, 0.65  # share of the spread that is left
STRONG = 10.0
BRIEF = 1_500  # steps of training; unet2d_small drew blots by DDIM after 489 (experiments/LOG.md)


def check_sampling(run: Run) -> Iterator[Finding]:
    """All that needs only the run's settings."""
    sampling = run.sampling
    if sampling.clipped and not isinstance(run.codec, Pixels):
        yield found("clipped-latents", WRONG)
    if getattr(sampling.solver, "variance_mix", 0.0) is None and not run.learned_variance:
        yield found("variance-missing", WRONG)
    if run.learned_variance and hasattr(run.objective, "weight"):
        yield found("variance-untrained", WRONG, objective=type(run.objective).__name__)
    try:
        times = sampling.grid(run.process, sampling.steps)
    except ValueError as error:
        yield found("grid-refused", WRONG, steps=sampling.steps, error=str(error))
        return
    if not isinstance(sampling.grid, FITTED):
        yield from _check_grid(run.process, times)
        yield from _check_solver(run.process, sampling, times)


def _check_grid(process: Process, times: Tensor) -> Iterator[Finding]:
    share, end = left(process, times[0]), torch.tensor(process.t_max, dtype=torch.float64)
    if share > LEFT_WRONG / 2 and share > 2 * left(process, end):
        severity = WRONG if share > LEFT_WRONG else RISK
        yield found("grid-starts-late", severity, share=share, first=times[0].item())
    last = process.ratio(times[-2]).item()
    if last > LAST:
        yield found("grid-ends-early", WRONG, last=last, steps=len(times) - 1)


def _check_solver(process: Process, sampling: SamplingConfig, times: Tensor) -> Iterator[Finding]:
    mix = getattr(sampling.solver, "variance_mix", 0.0)
    if len(times) - 1 > QUICK or mix is None:
        return
    kept = spread_kept(process, sampling.solver, times)
    if not PALE_RISK < kept < 1 / PALE_RISK:
        severity = RISK if PALE_WRONG < kept < 1 / PALE_WRONG else WRONG
        solver = type(sampling.solver).__name__
        yield found("solver-pale", severity, kept=kept, solver=solver, steps=len(times) - 1)


def spread_kept(process: Process, solver: Any, times: Tensor) -> float:
    """The deviation of exactly denoised draws over that of what they are draws of: 1 is right."""
    mean = torch.tensor([[MEAN]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def randn_like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    start = prior(process, randn_like(mean.expand(DRAWS, 1)), times[0])
    denoiser = GaussianMixture(process, mean, SPREAD)
    return sample(denoiser, start, times, solver, randn_like=randn_like).std().item() / SPREAD


def check_guidance(run: Run, labelled: bool) -> Iterator[Finding]:
    """labelled: whether the network is told a class or a caption."""
    scale, dropout = run.sampling.guidance, run.data.label_dropout
    if scale != 1 and not labelled:
        yield found("guidance-no-classes", WRONG, scale=scale)
    elif scale != 1 and dropout == 0:
        yield found("guidance-no-dropout", WRONG, scale=scale)
    elif abs(scale) > STRONG:
        yield found("guidance-strong", RISK, scale=scale)
    if labelled and dropout > 0.5:
        yield found("dropout-high", RISK, dropout=dropout)


def check_brief(run: Run, steps: int) -> Iterator[Finding]:
    """DDIM without noise and a noise predictor of few steps: its first guess stays, as blots."""
    solver = run.sampling.solver
    if solver == DDIM() and isinstance(run.parameterization, PredictNoise) and steps < BRIEF:
        yield found("ddim-brief", RISK, steps=steps, enough=BRIEF)
