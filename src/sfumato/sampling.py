"""The sampling loop: one loop for every solver, denoiser and time grid.

x = prior;   for t, s in pairwise(times): x = solver step from t to s;  x = project(x, s)
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .denoiser import Cond, Denoiser
from .prediction import Prediction
from .process import Process, match_dims
from .solvers import RandnLike, Solver, Step

Project = Callable[[Tensor, Tensor], Tensor]
DRAWN_IN = torch.float32  # the stream of a generator differs by dtype, so one is held to


class Point(NamedTuple):
    """Where a trajectory stands."""

    t: Tensor  # ()
    x: Tensor  # (B, ...)
    prediction: Prediction | None  # the step's first one, made before it; None at the start


class SeededNoise:
    """Normal draws in which image i depends on seeds[i] only, never on the batch or the device.

    Called with x, (B, ...), it returns the next draw, shaped like x. Draws are made on the CPU in
    float32, so that every device starts alike; the x given to draw k must be the same kind each
    time. Holds a generator an image: make a new one for every batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) != len(self.generators):
            raise ValueError(f"{len(x)} images for {len(self.generators)} seeds; give one each.")
        draws = [torch.randn(x.shape[1:], generator=g, dtype=DRAWN_IN) for g in self.generators]
        return torch.stack(draws).to(x)


def prior(process: Process, noise: Tensor, t: Tensor | None = None) -> Tensor:
    """Standard normal noise, (B, ...), scaled to be x at t, the first of the times; or at t_max."""
    end = torch.tensor(process.t_max, dtype=torch.float64) if t is None else t
    return match_dims(process.sigma(end), noise) * noise


def _identity(x: Tensor, t: Tensor) -> Tensor:
    return x


def _noise_again(step: Step) -> Tensor:
    """Draw x_s ~ q(x_s | x_t) for s > t."""
    scale, variance = step.process.transition(step.t, step.s)
    noise = match_dims(variance.sqrt(), step.x) * step.randn_like(step.x)
    return match_dims(scale, step.x) * step.x + noise


def trajectory(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    solver: Solver,
    cond: Cond = None,
    project: Project = _identity,
    randn_like: RandnLike = torch.randn_like,
) -> Iterator[Point]:
    """Yield the points along `times`, the start included.

    Args:
        x: (B, ...) noise drawn at times[0]: see prior.
        times: (N + 1,). A step to a smaller time denoises; one to a larger time adds noise back.
        project: called after each step with (x_t, t), to impose what is known of x_t.
        randn_like: normal draws shaped like x; SeededNoise makes image i depend on its seed alone.
    """
    process, memory, seen = denoiser.process, None, []

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        seen.append(denoiser(x, t, cond))
        return seen[-1]

    yield Point(times[0], x, None)
    times = times.double().cpu()
    ends_clean = bool(process.sigma(times[-1]) == 0)
    for i, (t, s) in enumerate(pairwise(times)):
        seen.clear()
        left = len(times) - 1 - i if ends_clean else None
        step = Step(denoise, process, x, t, s, memory, randn_like, left)
        with torch.no_grad():
            x, memory = solver(step) if s < t else (_noise_again(step), None)
            x = project(x, s)
        yield Point(s, x, seen[0] if seen else None)


def sample(
    denoiser: Denoiser, x: Tensor, times: Tensor, solver: Solver, cond: Cond = None, **options: Any
) -> Tensor:
    """The last x of trajectory, (B, ...): same arguments."""
    for point in trajectory(denoiser, x, times, solver, cond, **options):
        x = point.x
    return x


def known_region(
    process: Process, image: Tensor, mask: Tensor, randn_like: RandnLike = torch.randn_like
) -> Project:
    """A `project` that holds x to `image` where mask is True: inpainting by replacement."""

    def project(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(mask, process.diffuse(image, t, randn_like(x)), x)

    return project


def back_and_forth(times: Tensor, jump: int, repeats: int) -> Tensor:
    """RePaint's grid: down `times`, going back up `jump` steps and down again `repeats` times."""
    path = [0]
    for start in range(0, len(times) - 1, jump):
        down = list(range(start + 1, min(start + jump, len(times) - 1) + 1))
        path += down
        if down[-1] < len(times) - 1:
            path += [start, *down] * repeats
    return times[path]
