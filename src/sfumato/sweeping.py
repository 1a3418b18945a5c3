"""Every sampler by network calls: how far its images are from the converged ones, same noise.

    far(solver, grid, N) = rms over images of  x(solver, grid, N) - x(Heun, REFERENCE steps)

That is the error of the discretization and nothing else: it says nothing of how good the model is,
and of a solver that adds noise it says nothing at all, since its images are other images. Those are
judged by the quality of what they draw.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import comb, inf, nan, sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from .denoiser import Cond, Denoiser
from .grids import Grid, KarrasGrid
from .measuring import Estimate
from .process import Process
from .rivals import Rival, measured, standard_grids, surveyed
from .sampling import prior, sample
from .solvers import DDIM, DPMSolverPP2M, Euler, Heun, Solver
from .tuning import Letters, Pairs, distances, mean_distance

REFERENCE = Heun()
CHECK = DPMSolverPP2M()  # another way to the same solution: how far apart they end is the floor
CHECKED = 8  # images that the floor is of
GRIDS_EACH = 2  # of a solver that are judged on new noise; the better one counts
MANY = 15  # calls from which the whole range of noise comes first
WRONG = 0.05  # of sweeps may call a solver clearly worse that is not
FEW = 16  # images; of fewer nothing is called worse
TINY = 1e-30  # of a squared distance: below it lies no float32's rounding
NOISY = {  # solvers that add noise, and whose grid and steps each takes
    "ddpm-large": "ddim",
    "sde-dpm++2m": "dpm++2m",
    "kdpm2-ancestral": "kdpm2",
    "churn": "heun",
}


@dataclass(frozen=True, eq=False)
class Row:
    """A sampler, and what was found of it.

    calls: network calls an image that it had to stay within; spent: those it takes. squares: (n,)
    of each image's distance, empty where it adds noise. seconds: of an image, of many together.
    quality: the Frechet distance of images that it drew, or None.
    """

    calls: int
    guidance: float
    rival: Rival
    spent: int
    squares: Tensor
    seconds: float
    quality: Estimate | None = None

    @property
    def error(self) -> float:
        """The standard error of the distance, the root of a mean square."""
        if len(self.squares) < 2 or not self.rival.distance > 0:
            return nan
        return (self.squares.std() / sqrt(len(self.squares)) / (2 * self.rival.distance)).item()


# --- the converged solution


def converged(
    denoiser: Denoiser,
    noise: Tensor,
    cond: Cond,
    steps: int,
    batch: int,
    notice: Callable[[int, int], None] = lambda done, of: None,
) -> Pairs:
    """The images of noise (n, ...) by REFERENCE in so many steps of Karras' grid."""
    pairs, images = Pairs(noise, noise, cond), []
    for start in range(0, len(noise), batch):
        part = pairs.at(torch.arange(start, min(len(noise), start + batch)))
        images.append(_drawn(denoiser, part, REFERENCE, steps))
        notice(start + len(part), len(noise))
    return Pairs(noise, torch.cat(images), cond)


def floor(denoiser: Denoiser, pairs: Pairs, steps: int) -> float:
    """How far CHECK in as many steps ends from the same noise: less than this says nothing."""
    few = pairs.at(torch.arange(min(CHECKED, len(pairs))))
    return mean_distance(distances(denoiser, few, KarrasGrid()(denoiser.process, steps), CHECK))


def _drawn(denoiser: Denoiser, pairs: Pairs, solver: Solver, steps: int) -> Tensor:
    times = KarrasGrid()(denoiser.process, steps)
    return sample(
        denoiser, prior(denoiser.process, pairs.noise, times[0]), times, solver, pairs.cond
    )


# --- a sampler


def calls_of(solver: Solver, grid: Grid, process: Process, steps: int) -> tuple[int, bool]:
    """(network calls of so many steps, whether it adds noise), found by running it on nothing."""
    letters, noisy = Letters(process), [False]

    def none(x: Tensor) -> Tensor:
        noisy[0] = True
        return torch.zeros_like(x)

    empty = torch.zeros(1, 4 * steps + 2, dtype=torch.float64)
    sample(letters, empty, grid(process, steps), solver, randn_like=none)
    return len(letters.calls), noisy[0]


def judged(denoiser: Denoiser, pairs: Pairs, rival: Rival, calls: int, guidance: float) -> Row:
    """The row of a solver that adds no noise."""
    process = denoiser.process
    begun = time.monotonic()
    each = distances(denoiser, pairs, rival.grid(process, rival.steps), rival.solver)
    squares = each.double().square().cpu()
    taken = (time.monotonic() - begun) / len(pairs)
    spent, _ = calls_of(rival.solver, rival.grid, process, rival.steps)
    found = replace(rival, distance=mean_distance(each))
    return Row(calls, guidance, found, spent, squares, taken)


def surveyed_all(
    denoiser: Denoiser,
    pairs: Pairs,
    calls: int,
    notice: Callable[[int, int], None] | None = None,
    late: Callable[[], bool] = lambda: False,
) -> list[Rival]:
    """rivals.surveyed, and Euler's method where it is not DDIM."""
    found = surveyed(denoiser, pairs, calls, notice, late, grids_for(denoiser.process, calls))
    if bent(denoiser.process):
        grids = {rival.grid for rival in found}
        for grid in grids:
            made = Rival("euler", Euler(), grid, calls, 0.0)
            found.append(measured(denoiser, pairs, made))
    return sorted(found, key=lambda rival: rival.distance)


def grids_for(process: Process, calls: int) -> list[Grid]:
    """The standard grids, those first that are best of so many calls.

    With few calls it pays to begin where the noise is 20 times the signal; with many that beginning
    is the largest error that is left.
    """
    grids = standard_grids(process)
    if calls < MANY:
        return grids

    def beginning(grid: Grid) -> float:
        """Up to rounding, so that grids that begin alike stay in their order."""
        return round(min(80.0, process.ratio(grid(process, 2)[0]).item()), 1)

    return sorted(grids, key=beginning, reverse=True)


def bent(process: Process) -> bool:
    """Whether Euler's steps in the process's own time are other than DDIM's."""
    start = torch.eye(1, 9, dtype=torch.float64)
    times = standard_grids(process)[0](process, 3)
    euler, ddim = (sample(Letters(process), start, times, by) for by in (Euler(), DDIM()))
    return not torch.allclose(euler, ddim, atol=1e-9)


def candidates(found: Sequence[Rival]) -> list[Rival]:
    """Of a survey the best GRIDS_EACH of each solver: all the first ones, then all the second."""
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int, Rival]] = []
    for i, rival in enumerate(found):
        seen[rival.name] = seen.get(rival.name, 0) + 1
        ranked.append((seen[rival.name], i, rival))
    kept = [entry for entry in ranked if entry[0] <= GRIDS_EACH]
    return [rival for _, _, rival in sorted(kept, key=lambda entry: entry[:2])]


def noisy_of(
    rows: Sequence[Row], solvers: dict[str, Solver], etas: Sequence[float], process: Process
) -> list[Row]:
    """Rows of the solvers that add noise, each on the grid that is best for its noiseless kin.

    solvers: by name, those of NOISY at least. etas: of ddim. Nothing is measured of them yet.
    """
    kin = {row.rival.name: row for row in rows}
    named: list[tuple[str, str, Solver]] = [
        (f"ddim, eta {eta:g}", "ddim", DDIM(eta)) for eta in etas if eta > 0
    ]
    named += [(name, of, solvers[name]) for name, of in NOISY.items()]
    made = []
    for name, of, solver in named:
        if of in kin:
            model = kin[of]
            rival = replace(model.rival, name=name, solver=solver, distance=inf)
            spent, _ = calls_of(solver, rival.grid, process, rival.steps)
            made.append(replace(model, rival=rival, spent=spent, squares=torch.empty(0)))
    return made


def grids_looked_at(process: Process) -> int:
    return len(standard_grids(process))


# --- the best


def nearest(rows: Sequence[Row]) -> list[Row]:
    """The best row of each solver that adds no noise, the nearest first."""
    near = sorted((r for r in rows if len(r.squares)), key=lambda row: row.rival.distance)
    first: dict[str, Row] = {}
    for row in near:
        first.setdefault(row.rival.name, row)
    return list(first.values())


def ties(rows: Sequence[Row], times: int = 1) -> list[Row]:
    """The rows after the first, of those of nearest, that these images can't tell from it.

    times: at how many numbers of calls and guidances the sweep asks. The first was picked by the
    same images, so that either of any pair could have been found farther.
    """
    looks = 2 * comb(len(rows), 2) * times
    return [row for row in rows[1:] if not is_farther(row.squares, rows[0].squares, looks)]


def clear_from(chance: float, freedom: int) -> float:
    """About Student's t that is not exceeded with this chance: Cornish and Fisher's expansion.

    Abramowitz and Stegun (1964), 26.7.5 (from memory). Of 15 degrees and a chance
    of 1e-5 it is exceeded 1.2 times as often.
    """
    z = NormalDist().inv_cdf(chance)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def is_farther(squares: Tensor, others: Tensor, looks: int = 1) -> bool:
    """Whether squared distances (images,) are clearly larger than others' of the same images.

    Of them or of their logarithms, whose mean no single image decides. looks: at how many such
    gaps one looks; the more, the larger one is found by chance (Bonferroni's bound). Of fewer than
    FEW images none is clear.
    """
    if len(squares) < FEW:
        return False
    clear = clear_from(1 - WRONG / (2 * looks), len(squares) - 1)
    gaps = (squares - others, squares.clamp(min=TINY).log() - others.clamp(min=TINY).log())
    return any(bool(gap.mean() > clear * gap.std() / sqrt(len(gap))) for gap in gaps)
