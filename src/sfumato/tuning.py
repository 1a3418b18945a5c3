"""Fitting a sampler of N network calls to a teacher of many: a few dozen numbers, no training.

The teacher's images come from the same noise by many steps, and the student's table (tuned.py) is
what costs least by aim.py: near to them, at the levels of the data. In three stages, each from the
best so far:

    survey   every fixed solver on every standard grid, at N calls; each of them is such a table,
             and so is DPM-Solver++(2M) on steps even in log(sigma / alpha)
    fit      the weights at given times in closed form: step by step, the least squares of the
             teacher's x at s on the student's own D_j; what costs least goes on
    refine   times and weights together, down the gradient of the final cost through the network

Times move as log(sigma / alpha), and with them the weights of DPM-Solver++(2M), to which the fitted
ones are added: weights that stay behind when times move are wrong ones. What is kept is what cost
least on noise that the gradient never saw.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import cos, isfinite, log, pi

import torch
from torch import Tensor

from .aim import Aim
from .denoiser import Cond, Denoiser
from .grids import KarrasGrid
from .guidance import map_cond
from .prediction import Prediction
from .process import Process, match_dims
from .sampling import Point, prior, sample, trajectory
from .solvers import DPMSolverPP2M, Solver
from .tuned import TunedGrid, TunedSolver, advance

TEACHER = DPMSolverPP2M()
TEACHER_STEPS = 40
LOWEST = 0.002  # sigma / alpha, the least noise a call is made at
LEAST_STEP = 0.05  # of log(sigma / alpha), between two calls
RATE = 0.06  # of Adam, for logarithms of levels and for weights alike
FADE = 0.02  # of the sum of squares: how hard the closed form is held to the solver it begins with
CHECKS = 6  # looks at the noise that is kept apart
SIMULTANEOUS = 8  # images of one gradient step


@dataclass(frozen=True, eq=False)
class Pairs:
    """Noise (n, ...), the teacher's images from it (n, ...), and what they were told to be."""

    noise: Tensor
    images: Tensor
    cond: Cond

    def __len__(self) -> int:
        return len(self.noise)

    def at(self, index: Tensor) -> "Pairs":
        """Some of them. index: (k,) on the CPU."""
        place = index.to(self.noise.device)
        cond = map_cond(lambda rows: rows[index.to(rows.device)], self.cond)
        return Pairs(self.noise[place], self.images[place], cond)


@dataclass(frozen=True)
class Table:
    """A grid and a solver that belong together."""

    grid: TunedGrid
    solver: TunedSolver


Path = Sequence[Point]  # a trajectory, start first


# --- the teacher


def teacher_path(denoiser: Denoiser, noise: Tensor, cond: Cond) -> list[Point]:
    """The points of TEACHER in TEACHER_STEPS steps of Karras' grid, the start included."""
    times = KarrasGrid()(denoiser.process, TEACHER_STEPS)
    start = prior(denoiser.process, noise, times[0])
    return list(trajectory(denoiser, start, times, TEACHER, cond))


def on_path(path: Path, process: Process, s: Tensor) -> Tensor:
    """x at s, (B, ...): from the point before it by the mean estimate of both that are around it.

    Above the path there is noise alone, as at its start.
    """
    times = torch.stack([point.t for point in path])
    if s > times[0]:
        return prior(process, path[0].x / match_dims(process.sigma(times[0]), path[0].x), s)
    before = int((times >= s).nonzero()[-1])
    if before == len(path) - 1 or times[before] == s:
        return path[before].x
    after = [point.prediction for point in path[before + 1 : before + 3]]
    known = [made.x0 for made in after if made is not None]
    row = [1 / len(known)] * len(known)
    return advance(process, path[before].x, times[before], s, known, row)


# --- every linear solver as a table


@dataclass(frozen=True)
class Letters:
    """A denoiser that answers call j with the j-th letter of an alphabet, and remembers it."""

    process: Process
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        self.calls.append((t, x_t))
        letter = torch.zeros_like(x_t)
        letter[0, len(self.calls)] = 1
        return Prediction(x_t, letter, t, self.process)


def table_of(solver: Solver, process: Process, times: Tensor) -> Table:
    """The table that does what the solver does on these times, call by call.

    Raises: ValueError where it adds noise, or two of its calls are at one time, as Heun's are.
    """
    letters = Letters(process)
    start = torch.zeros(1, 4 * len(times) + 1, dtype=torch.float64)
    start[0, 0] = 1  # the noise; then D_0, D_1, ...
    final = sample(letters, start, times, solver)
    at = [*(t for t, _ in letters.calls), times[-1].double()]
    points = [*(x for _, x in letters.calls), final]
    if not all(s < t for t, s in pairwise(at)):
        raise ValueError(f"{solver} makes two calls at one time: it has no table of its own.")
    rows = [
        _row_of(process, t, s, x, x_s, i + 1)
        for i, ((t, s), (x, x_s)) in enumerate(zip(pairwise(at), pairwise(points)))
    ]
    ratios = process.ratio(torch.stack(at[:-1])).tolist()
    return Table(TunedGrid(tuple(ratios)), TunedSolver(tuple(rows)))


def _row_of(
    process: Process, t: Tensor, s: Tensor, x: Tensor, x_s: Tensor, calls: int
) -> tuple[float, ...]:
    """The weights of one step, from what it makes of the letters."""
    shrink = process.sigma(s) / process.sigma(t)
    made = (x_s - shrink * x)[0] / (process.alpha(s) - shrink * process.alpha(t))
    row = made[1 : calls + 1]
    if made[0].abs() > 1e-6 or not abs(row.sum() - 1) < 1e-6:
        raise ValueError("the solver adds noise, or bends what it is given: it has no table.")
    return tuple(row.tolist())


# --- the distance


def drawn(denoiser: Denoiser, pairs: Pairs, times: Tensor, solver: Solver) -> Tensor:
    """The solver's images, (n, ...), of the pairs' noise."""
    start = prior(denoiser.process, pairs.noise, times[0])
    return sample(denoiser, start, times, solver, pairs.cond)


def differences(images: Tensor, wanted: Tensor) -> Tensor:
    """The root mean square difference of each image, (n,), from the one wanted."""
    return (images - wanted).square().flatten(1).mean(1).sqrt()


def distances(denoiser: Denoiser, pairs: Pairs, times: Tensor, solver: Solver) -> Tensor:
    """The root mean square difference of each image from the teacher's, (n,)."""
    return differences(drawn(denoiser, pairs, times, solver), pairs.images)


def mean_distance(each: Tensor) -> float:
    """The root mean square difference over all images; inf where one is no number."""
    value = each.double().square().mean().sqrt().item()
    return value if isfinite(value) else float("inf")


def distance(denoiser: Denoiser, pairs: Pairs, table: Table) -> float:
    """mean_distance of a table's images."""
    return mean_distance(differences(images_of(denoiser, pairs, table), pairs.images))


def images_of(denoiser: Denoiser, pairs: Pairs, table: Table) -> Tensor:
    """A table's images, (n, ...), of the pairs' noise."""
    times = table.grid(denoiser.process, table.grid.steps)
    return drawn(denoiser, pairs, times, table.solver)


def cost(denoiser: Denoiser, pairs: Pairs, table: Table, aim: Aim) -> float:
    """The aim's, of a table's images; inf where one is no number."""
    value = aim(images_of(denoiser, pairs, table), pairs.images).item()
    return value if isfinite(value) else float("inf")


# --- the closed form


def fitted_rows(
    denoiser: Denoiser,
    noise: Tensor,
    cond: Cond,
    table: Table,
    target: Callable[[Tensor], Tensor],
    fade: float = FADE,
) -> Table:
    """The table with its weights fitted, step by step, to `target`: the teacher's x at time s.

    Each row is the least squares of target(s) on the estimates gathered by running the student
    itself, rows before it fitted. Its sum stays 1. fade: ridge towards the weights of `table`, as
    a share of the mean square of what they multiply; 0 for plain least squares.
    """
    process, times = denoiser.process, table.grid(denoiser.process, table.grid.steps)
    x, known = prior(process, noise, times[0]), []
    rows = []
    for (t, s), row in zip(pairwise(times), table.solver.rows):
        with torch.no_grad():
            known.append(denoiser(x, t, cond).x0)
        row = _fitted_row(process, x, (t, s), known, row, target(s), fade)
        rows.append(row)
        x = advance(process, x, t, s, known, row)
    return Table(table.grid, TunedSolver(tuple(rows)))


def _fitted_row(
    process: Process,
    x: Tensor,
    step: tuple[Tensor, Tensor],
    known: Sequence[Tensor],
    row: tuple[float, ...],
    wanted: Tensor,
    fade: float,
) -> tuple[float, ...]:
    """row + the least-squares change that sums to 0: in the differences D_j - D_i it is free."""
    t, s = step
    if len(known) == 1:
        return row
    shrink = process.sigma(s) / process.sigma(t)
    weight = (process.alpha(s) - shrink * process.alpha(t)).item()
    left = (wanted - advance(process, x, t, s, known, row)).double().flatten() / weight
    moves = torch.stack([(x0 - known[-1]).double().flatten() for x0 in known[:-1]])
    gram = moves @ moves.T
    ridge = fade * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    change = torch.linalg.lstsq(gram + ridge, (moves @ left)[:, None]).solution[:, 0].cpu()
    settled = [w + c for w, c in zip(row, change.tolist())]
    return (*settled, 1 - sum(settled))


# --- both together, down the gradient


def multistep_rows(levels: Tensor) -> list[Tensor]:
    """Row i, (i,): DPM-Solver++(2M)'s weights of the estimates before the newest.

    levels: log(sigma / alpha) of the calls, (N,). The last step goes to no noise at all, h = inf,
    and is of first order, as the solver's is.
    """
    h = -levels.diff()
    rows = [levels.new_zeros(i) for i in range(len(levels))]
    for i in range(1, len(levels) - 1):
        rows[i] = torch.cat([levels.new_zeros(i - 1), -(h[i] / h[i - 1] / 2)[None]])
    return rows


@dataclass(frozen=True, eq=False)
class Knobs:
    """What the gradient turns.

    levels: log(sigma / alpha) of the calls, (N,). lower: (N, N), below the diagonal what is added
    to the weights of multistep_rows. span: of the levels, the highest and the lowest.
    """

    levels: Tensor
    lower: Tensor
    span: tuple[float, float]

    @classmethod
    def of(cls, table: Table, span: tuple[float, float]) -> "Knobs":
        """Those of a table, its calls moved apart where they are closer than LEAST_STEP."""
        levels = torch.tensor(table.grid.ratios, dtype=torch.float64).log()
        knobs = cls(levels, torch.zeros(len(levels), len(levels), dtype=torch.float64), span)
        knobs.settle()
        for i, (row, known) in enumerate(zip(table.solver.rows, multistep_rows(levels))):
            knobs.lower[i, :i] = torch.tensor(row[:-1], dtype=torch.float64) - known
        return knobs

    @torch.no_grad()
    def settle(self) -> None:
        """Move the levels into the span and apart, those of less noise downwards."""
        high, low = self.span
        for i, left in enumerate(reversed(range(len(self.levels)))):
            self.levels[i].clamp_(low + left * LEAST_STEP, high)
            high = self.levels[i].item() - LEAST_STEP

    def ratios(self) -> Tensor:
        """(N,), falling."""
        return self.levels.exp()

    def rows(self) -> list[Tensor]:
        """Row i: (i + 1,), with the sum 1."""
        known = multistep_rows(self.levels)
        kept = [self.lower[i, :i] + row for i, row in enumerate(known)]
        return [torch.cat([row, 1 - row.sum()[None]]) for row in kept]

    def table(self) -> Table:
        rows = tuple(tuple(row.tolist()) for row in self.rows())
        return Table(TunedGrid(tuple(self.ratios().tolist())), TunedSolver(rows))


def unrolled(denoiser: Denoiser, pairs: Pairs, knobs: Knobs) -> Tensor:
    """The student's images, (n, ...), with the gradient for the knobs."""
    process, ratios = denoiser.process, knobs.ratios()
    times = [*process.time_at_ratio(ratios), ratios.new_zeros(())]
    x, known = prior(process, pairs.noise, times[0]), []
    for (t, s), row in zip(pairwise(times), knobs.rows()):
        known.append(denoiser(x, t, pairs.cond).x0)
        x = advance(process, x, t, s, known, row)
    return x


def refined(
    denoiser: Denoiser,
    pairs: Pairs,
    apart: Pairs,
    table: Table,
    done: Callable[[int], float],
    batch: int = SIMULTANEOUS,
    notice: Callable[[float, float], None] | None = None,
    aim: Aim | None = None,
) -> Table:
    """The table after steps of Adam on the aim's cost, or the best on the way.

    pairs: to learn from. apart: to judge by, never learned from. done: the share of the budget that
    is used after so many steps; at 1 it ends. notice: told that share and the least cost so far.
    aim: by default near to the teacher's images and nothing else.
    """
    aim = aim or Aim.of(pairs.images, None)
    knobs = Knobs.of(table, span_of(denoiser.process))
    turned = [knobs.levels.requires_grad_(), knobs.lower.requires_grad_()]
    optimizer = torch.optim.Adam(turned, RATE, betas=(0.9, 0.95))
    batches = _batches(len(pairs), batch)
    best, least, step, looks = table, cost(denoiser, apart, table, aim), 0, 0
    while (share := done(step)) < 1:
        if share * CHECKS >= looks:
            best, least = _cheaper(denoiser, apart, knobs.table(), aim, (best, least))
            looks += 1
            if notice is not None:
                notice(share, least)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 5) * (1 + cos(pi * share)) / 2
        _turn(denoiser, pairs.at(next(batches)), knobs, optimizer, aim)
        step += 1
    return _cheaper(denoiser, apart, knobs.table(), aim, (best, least))[0]


def span_of(process: Process) -> tuple[float, float]:
    """The logarithms of the highest and the lowest sigma / alpha that calls are made at."""
    high = process.ratio(KarrasGrid()(process, TEACHER_STEPS)[0]).item()
    return log(high), log(LOWEST)


def _batches(n: int, batch: int) -> Iterator[Tensor]:
    """Rows without end: all n in an order, then all again in another."""
    generator = torch.Generator().manual_seed(0)
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < batch:
            left = torch.cat([left, torch.randperm(n, generator=generator)])
        yield left[:batch]
        left = left[batch:]


def _turn(
    denoiser: Denoiser, pairs: Pairs, knobs: Knobs, optimizer: torch.optim.Optimizer, aim: Aim
) -> None:
    """One step of Adam; none where a gradient is no number, as next to a clamp's corner."""
    optimizer.zero_grad()
    with torch.enable_grad():
        loss = aim(unrolled(denoiser, pairs, knobs), pairs.images)
    loss.backward()
    gradients = [knob.grad for knob in (knobs.levels, knobs.lower) if knob.grad is not None]
    if all(torch.isfinite(gradient).all() for gradient in gradients):
        optimizer.step()
        knobs.settle()


def _cheaper(
    denoiser: Denoiser, apart: Pairs, table: Table, aim: Aim, best: tuple[Table, float]
) -> tuple[Table, float]:
    found = cost(denoiser, apart, table, aim)
    return (table, found) if found < best[1] else best
