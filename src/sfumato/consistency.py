"""Consistency models: one call from any noise level to clean data, tuned from a trained denoiser.

    f(x_t, t) = f(x_r, r) along the probability flow,   f(x_0, 0) = x_0

f is the x0 of a denoiser's Prediction. Easy consistency tuning (Geng et al., 2024) starts from one
that denoises, which is this condition for the pair r = 0, and brings r towards t:

    loss = d(f(x_t, t), stopgrad f(x_r, r)) / (t - r),    x_t and x_r of the same x_0 and eps
    r / t = 1 - n(t) / q^stage,    n(t) = 1 + k sigmoid(-b t),    but 0 where that is negative
    d(x, y) = sqrt(|x - y|^2 + c^2) - c

Here t and r are noise levels sigma / alpha, EDM's sigma, on every process. The formulas and the
numbers of sections are from memory (Geng et al. 2024, sections 3 and 4; Song and Dhariwal 2023,
section 3.3; Song et al. 2023, algorithm 1): only the abstracts could be looked up. The constants
are those of the authors' program for CIFAR-10.
"""

from dataclasses import dataclass
from math import ceil, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from .denoiser import Cond, NetworkDenoiser
from .objective import LogNormalTimes, Objective, Times
from .process import Process, match_dims
from .solvers import Step

TUNED_AT = LogNormalTimes(mean=-1.1, std=2.0)  # Geng et al. (2024), for CIFAR-10


def pseudo_huber(x: Tensor, y: Tensor, c: float) -> Tensor:
    """(sqrt(|x - y|^2 + c^2 D) - c sqrt(D)) / sqrt(D) of (B, ...) with D values each: (B,).

    Song and Dhariwal (2023), whose constant is c sqrt(D) with c = 0.00054, over sqrt(D), so that it
    is a root mean square where c = 0. Its gradient is finite everywhere, and 0 where x = y.
    """
    gap = (x - y).flatten(1)
    root = sqrt(gap.shape[1])
    return torch.linalg.vector_norm(F.pad(gap, (0, 1), value=c * root), dim=1) / root - c


def earlier(ratio: Tensor, stage: int, q: float, k: float, b: float) -> Tensor:
    """The noise level r below each t, (B,): t (1 - n(t) / q^stage), or 0. Geng et al. (2024)."""
    apart = (1 + k * torch.sigmoid(-b * ratio)) * q**-stage
    return ratio * (1 - apart).clamp(min=0)


@dataclass(frozen=True)
class ConsistencyTuning:
    """Easy consistency tuning: Geng et al. (2024). Its stage grows over a run from 0 to `stages`.

    At stage 0 every r is 0 and the loss is that of denoising, in the metric d. q, k, b: of the
    mapping from t to r. huber: c of pseudo_huber, 0 for the plain norm.

    at(progress) is the objective at that share of the run. Called as it is it is the last stage, so
    that held-out losses mean the same throughout a run: they tell how far apart f is at the pairs
    that are trained on last, and not how good the images are. They rise while the images improve
    (a blurred f varies least), so a run's best average is not its best one. Inside
    ImportanceSampled, too, it is the last stage throughout.
    """

    times: Times = TUNED_AT
    q: float = 2.0
    stages: int = 8
    k: float = 8.0
    b: float = 1.0
    huber: float = 0.0

    def __post_init__(self) -> None:
        if not self.q > 1 or self.stages < 0:
            raise ValueError(
                f"q = {self.q}, stages = {self.stages}: t - r shrinks as q^-stage, so q is above 1 "
                "and stages 0 (denoising alone) or more."
            )
        if self.k < 0 or self.huber < 0:
            raise ValueError(f"k = {self.k}, huber = {self.huber}; both are 0 or more.")

    def stage(self, progress: float) -> int:
        """ceil(progress * stages): 0 at the start alone, then each stage for an equal share."""
        return min(self.stages, ceil(progress * self.stages))

    def at(self, progress: float) -> "ConsistencyStage":
        """The objective when this share of the run is done."""
        return ConsistencyStage(self, self.stage(progress))

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, u: Tensor, eps: Tensor
    ) -> Tensor:
        return self.at(1.0)(denoiser, x0, cond, u, eps)


@dataclass(frozen=True)
class ConsistencyStage:
    """The loss of one stage of consistency tuning."""

    tuning: ConsistencyTuning
    stage: int

    @property
    def times(self) -> Times:
        return self.tuning.times

    def pairs(self, process: Process, u: Tensor) -> tuple[Tensor, Tensor]:
        """(t, r) as times of the process, each (B,), r < t."""
        tuning = self.tuning
        t = self.times(process, u).clamp(max=process.t_max)
        level = earlier(process.ratio(t), self.stage, tuning.q, tuning.k, tuning.b)
        some = torch.where(level > 0, level, 1.0)  # the log of 0 is no time of a table
        return t, torch.where(level > 0, process.time_at_ratio(some), 0.0)

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, u: Tensor, eps: Tensor
    ) -> Tensor:
        process = denoiser.process
        t, r = self.pairs(process, u)
        target = self.target(denoiser, x0, cond, t, r, eps)
        found = denoiser(process.diffuse(x0, t, eps), t, cond).x0
        between = process.ratio(t) - process.ratio(r)
        return pseudo_huber(found, target, self.tuning.huber) / between.to(x0)

    @torch.no_grad()
    def target(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, t: Tensor, r: Tensor, eps: Tensor
    ) -> Tensor:
        """f(x_r, r), (B, ...), and x0 itself where r = 0. Leaves torch's dice as they were.

        So the call that follows drops the same units (Song and Dhariwal, 2023), on CPU and CUDA.
        """
        clean = r == 0
        if clean.all():
            return x0
        inside = torch.where(clean, t, r)  # networks that are told log(sigma) have no t = 0
        gpus = [x0.device] if x0.device.type == "cuda" else []
        with torch.random.fork_rng(gpus):
            found = denoiser(denoiser.process.diffuse(x0, inside, eps), inside, cond).x0
        return torch.where(match_dims(clean, x0) > 0, x0, found)


def at_progress(objective: Objective, progress: Tensor | None) -> Objective:
    """The objective at this share of the run, (B,) all alike; itself where it stays the same."""
    if isinstance(objective, ConsistencyTuning) and progress is not None:
        return objective.at(progress[0].item())
    return objective


@dataclass(frozen=True)
class MultistepConsistency:
    """x0 = f(x_t, t), then noise up to s: Song et al. (2023), algorithm 1, for any process.

    Exact in every step for the consistency function of the data; a denoiser's x0 is none.
    """

    def __call__(self, step: Step) -> tuple[Tensor, None]:
        x0 = step.denoise(step.x, step.t).x0
        alpha, sigma = step.process.alpha(step.s), step.process.sigma(step.s)
        if sigma == 0:
            return x0, None
        return match_dims(alpha, x0) * x0 + match_dims(sigma, x0) * step.randn_like(x0), None


@dataclass(frozen=True)
class ConsistencyGrid:
    """Noise levels for few steps: from sigma_max in equal factors to `last`, then 0.

    One step goes from sigma_max to 0, two by way of `last`, whose default is ECT's for CIFAR-10.
    Levels are ratios sigma / alpha; sigma_max = None is 80, or less where the process ends before.
    """

    last: float = 0.821
    sigma_max: float | None = None

    def __call__(self, process: Process, steps: int) -> Tensor:
        """(steps + 1,) times. Raises: ValueError for levels that the process does not hold."""
        most = process.largest_ratio
        top = min(80.0, most) if self.sigma_max is None else self.sigma_max
        if steps < 1 or not 0 < self.last < top <= most * (1 + 1e-6):
            raise ValueError(
                f"{steps} steps from noise level {top:g} by way of {self.last:g}: give 1 step or "
                f"more, and levels that fall; {process} holds those above 0 and up to {most:g}."
            )
        share = torch.arange(steps, dtype=torch.float64) / max(1, steps - 1)
        levels = top * (self.last / top) ** share
        return torch.cat([process.time_at_ratio(levels), levels.new_zeros(1)])
