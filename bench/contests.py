"""Samplers that draw the same images from a run: what a user tuned, and every fixed solver."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sfumato.commands.sweep_quality import Judge
from sfumato.config import SamplingConfig
from sfumato.generation import Order
from sfumato.grids import Grid
from sfumato.loading import Loaded, drawn_by
from sfumato.measuring import frechet_estimate
from sfumato.process import Process
from sfumato.rivals import Rival, best_of_each, entrants, even_grids, standard_grids
from sfumato.sampling import sample
from sfumato.tuned_runs import Tuned, read_tuned
from sfumato.tuning import Letters

from .options import say

AT_ONCE = 125
GRIDS, NEXT_GRID = 2, ", next grid"
RACE_SEED, RACED = 5_000_000, 250  # images that a solver's grid is chosen by


@dataclass(frozen=True)
class Contestant:
    """A sampler. seen: what it drew last, (N, C, H, W)."""

    name: str
    kind: str  # "reference", "tuned" or "fixed"
    sampling: SamplingConfig
    seen: list[Tensor] = field(default_factory=list)

    def draw(self, loaded: Loaded, judge: Judge) -> None:
        self.seen[:] = [self.drawn(loaded, judge)]

    def drawn(self, loaded: Loaded, judge: Judge) -> Tensor:
        return drawn_by(loaded, judge.order, self.sampling, AT_ONCE)


def tuned_of(loaded: Loaded, calls: int) -> list[Tuned]:
    """The run's samplers of so many calls, those for guidance in an interval first.

    Raises: FileNotFoundError where there is none, with the command that makes one.
    """
    paths = sorted((loaded.folder / "tuned").glob(f"nfe-{calls}-*.json"))
    found = sorted(map(read_tuned, paths), key=lambda one: inside(one.sampling))
    if not found:
        raise FileNotFoundError(
            f"{loaded.folder} has no tuned sampler of {calls} calls. First: sfumato tune "
            f"{loaded.folder} --nfe {calls} --guidance 1.5 --guidance-from 0.3 --guidance-to 4"
        )
    return found


def inside(sampling: SamplingConfig) -> tuple[float, float]:
    """The ends of the interval that guidance is on in: what is less ends sooner or begins later."""
    return sampling.guidance_to, -sampling.guidance_from


def of_tuned(tuned: Tuned) -> Contestant:
    return Contestant(f"tuned ({tuned.path.stem})", "tuned", tuned.sampling)


def fixed(
    loaded: Loaded, judge: Judge, asked: SamplingConfig, calls: int, quick: bool
) -> list[Contestant]:
    """Every fixed solver of at most so many calls, on the GRIDS grids that suit it best.

    Of all_grids, by the distance that they are compared by in the end, of other seeds.
    """
    order = replace(judge.order, seeds=range(RACE_SEED, RACE_SEED + len(judge.order)))
    raced = replace(judge, order=first_of(order, raced_of(quick)))
    found = list[tuple[float, Rival]]()
    grids = all_grids(loaded.denoiser.process)[: 1 if quick else None]
    for rival in (r for grid in grids for r in entrants(loaded.denoiser.process, grid, calls)):
        try:
            images = contestant(rival, asked).drawn(loaded, raced)
        except FloatingPointError as error:  # what draws no numbers takes no part
            say(f"  {rival.name} on {rival.grid}: {error}")
            continue
        found.append((frechet_estimate(raced.network(images), raced.reference).mean, rival))
    ordered = [rival for _, rival in sorted(found, key=lambda one: one[0])]
    met: set[str] = set()
    return [
        replace(contestant(one, asked), name=named_once(one.name, met))
        for one in best_of_each(ordered, GRIDS)
    ]


def all_grids(process: Process) -> list[Grid]:
    """The standard grids, and the even ones that tuned samplers begin with."""
    return [*standard_grids(process), *even_grids(process)]


def raced_of(quick: bool) -> int:
    return 4 if quick else RACED


def contestant(one: Rival, asked: SamplingConfig) -> Contestant:
    sampling = replace(asked, solver=one.solver, grid=one.grid, steps=one.steps, keep_eps=False)
    return Contestant(one.name, "fixed", sampling)


def first_of(order: Order, count: int) -> Order:
    """The first of the order's images, spread over its classes as the order is."""
    labels, prompts = (None if x is None else x[:count] for x in (order.labels, order.prompts))
    return replace(order, seeds=order.seeds[:count], labels=labels, prompts=prompts)


def named_once(name: str, met: set[str]) -> str:
    """The name, or where it was met before another one for its next grid."""
    name = f"{name}{NEXT_GRID}" if name in met else name
    met.add(name)
    return name


def calls_of(sampling: SamplingConfig, loaded: Loaded) -> int:
    """How often an image's denoiser is asked; where guidance is on the network is asked twice."""
    letters = Letters(loaded.denoiser.process)
    times = sampling.grid(letters.process, sampling.steps)
    start = torch.zeros(1, 4 * len(times) + 1, dtype=torch.float64)
    sample(letters, start, times, sampling.solver)
    return len(letters.calls)
