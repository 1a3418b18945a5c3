"""What is wrong with how a run will be sampled: grid, clipping, guidance. solver.py: the step."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..codec import Pixels
from ..config import Run
from ..consistency import ConsistencyGrid
from ..parameterization import PredictNoise
from ..process import Process
from ..solvers import DDIM
from ..tuned import TunedGrid
from .finding import RISK, WRONG, Finding, found
from .process import LEFT_WRONG, LOW, left
from .solver import check_solver

FITTED = (ConsistencyGrid, TunedGrid)  # made for one model, of few and wide steps
LAST = 0.5  # sigma / alpha before the last step: what is above it ends as a blur
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
    if run.process.ratio(times[-1]) > LOW:
        yield found("grid-unfinished", WRONG, end=run.process.ratio(times[-1]).item())
    elif not isinstance(sampling.grid, FITTED):
        yield from _check_grid(run.process, times)
        yield from check_solver(run.process, sampling, times)


def _check_grid(process: Process, times: Tensor) -> Iterator[Finding]:
    share = left(process, times[0])
    at_the_end = left(process, torch.tensor(process.t_max, dtype=torch.float64))
    if share > LEFT_WRONG / 2 and share > 2 * at_the_end:
        severity = WRONG if share > LEFT_WRONG else RISK
        yield found("grid-starts-late", severity, share=share, first=times[0].item())
    last = process.ratio(times[-2]).item()
    if last > LAST:
        yield found("grid-ends-early", WRONG, last=last, steps=len(times) - 1)


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
