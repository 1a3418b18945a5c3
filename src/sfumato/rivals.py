"""What a tuned sampler has to beat: every fixed solver, each on the best of the standard grids."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch

from .denoiser import Denoiser
from .discrete import DiscreteVP
from .grids import Grid, KarrasGrid, LeadingGrid, TrailingGrid, UniformGrid
from .named import SOLVERS
from .process import Process
from .sampling import sample
from .solvers import Solver
from .tuning import Letters, Pairs, distances, mean_distance

NAMES = ("ddim", "heun", "kdpm2", "dpm++2m", "dpm++3m", "unipc", "unipc3")
TOPS, ENDS = (25.0, 40.0, 80.0), (0.04, 0.08, 0.15)  # sigma / alpha of first and last calls
FIXED = {name: SOLVERS[name] for name in (*NAMES, "deis", "deis-t", "lms", "ipndm")}


@dataclass(frozen=True)
class Rival:
    """A fixed solver on a grid, and how far from the teacher it was."""

    name: str
    solver: Solver
    grid: Grid
    steps: int
    distance: float


def standard_grids(process: Process) -> list[Grid]:
    """The grids in use that this process has, those that are best of few calls first."""
    top = min(20.0, process.largest_ratio)
    grids: list[Grid] = [KarrasGrid(0.02, top), KarrasGrid(0.1, top), KarrasGrid()]
    grids += [UniformGrid(), KarrasGrid(0.02), KarrasGrid(0.02, top, rho=3.0)]
    if isinstance(process, DiscreteVP):
        grids += [TrailingGrid(), LeadingGrid()]
    return grids


def even_grids(process: Process) -> list[Grid]:
    """Even in log(sigma / alpha), from each of TOPS to each of ENDS: where tuned samplers begin.

    Tops are at most what the process has, and each is there once.
    """
    tops = sorted({min(top, process.largest_ratio) for top in TOPS})
    return [KarrasGrid(end, top, inf) for top in tops for end in ENDS]


def steps_within(solver: Solver, grid: Grid, process: Process, calls: int) -> int | None:
    """The most steps that take no more than so many network calls; None where one takes more."""
    for steps in range(calls, 0, -1):
        letters = Letters(process)
        times = grid(process, steps)
        sample(letters, torch.zeros(1, 4 * calls + 1, dtype=torch.float64), times, solver)
        if len(letters.calls) <= calls:
            return steps
    return None


def entrants(process: Process, grid: Grid, calls: int) -> list[Rival]:
    """Every fixed solver that takes at most so many calls on this grid, with the most steps."""
    steps = {name: steps_within(solver, grid, process, calls) for name, solver in FIXED.items()}
    return [Rival(name, FIXED[name], grid, n, 0.0) for name, n in steps.items() if n is not None]


def surveyed(
    denoiser: Denoiser,
    pairs: Pairs,
    calls: int,
    notice: Callable[[int, int], None] | None = None,
    late: Callable[[], bool] = lambda: False,
    grids: Sequence[Grid] | None = None,
) -> list[Rival]:
    """Every fixed solver on every standard grid, the nearest to the teacher first.

    notice: told how many of how many are done. late: where it says so, no further grid is begun;
    the first grid is always looked at. grids: in this order, instead of the standard.
    """
    grids, found = grids or standard_grids(denoiser.process), []
    for i, grid in enumerate(grids):
        if i and late():
            break
        entered = entrants(denoiser.process, grid, calls)
        for j, rival in enumerate(entered):
            found.append(measured(denoiser, pairs, rival))
            if notice is not None:
                notice(i * len(entered) + j + 1, len(grids) * len(entered))
    return sorted(found, key=lambda rival: rival.distance)


def measured(denoiser: Denoiser, pairs: Pairs, rival: Rival) -> Rival:
    """The rival with its distance on these pairs."""
    times = rival.grid(denoiser.process, rival.steps)
    far = mean_distance(distances(denoiser, pairs, times, rival.solver))
    return Rival(rival.name, rival.solver, rival.grid, rival.steps, far)


def best_of_each(rivals: list[Rival], most: int = 1) -> list[Rival]:
    """The first of each solver, or the first `most`, in the order given."""
    met: Counter[str] = Counter()
    kept = []
    for rival in rivals:
        met[rival.name] += 1
        if met[rival.name] <= most:
            kept.append(rival)
    return kept
