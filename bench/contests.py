"""Samplers that draw the same images from a run: what a user tuned, and every fixed solver."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sfumato.commands.sweep_quality import Judge
from sfumato.commands.tune import taught
from sfumato.config import SamplingConfig
from sfumato.generation import wrapped
from sfumato.loading import Loaded, drawn_by
from sfumato.rivals import best_of_each, standard_grids, surveyed
from sfumato.tuned_runs import Tuned, read_tuned

AT_ONCE = 125
GRIDS, NEXT_GRID = 2, ", next grid"
SURVEY_SEED, SURVEYED = 2_000_000, 20  # images that a solver's grid is chosen by


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
    found = sorted(map(read_tuned, paths), key=lambda one: one.sampling.guidance_to)
    if not found:
        raise FileNotFoundError(
            f"{loaded.folder} has no tuned sampler of {calls} calls. First: sfumato tune "
            f"{loaded.folder} --nfe {calls} --guidance 1.5 --guidance-from 0.3 --guidance-to 4"
        )
    return found


def of_tuned(tuned: Tuned) -> Contestant:
    return Contestant(f"tuned ({tuned.path.stem})", "tuned", tuned.sampling)


def fixed(loaded: Loaded, asked: SamplingConfig, calls: int, quick: bool) -> list[Contestant]:
    """Every fixed solver of at most so many calls, on the GRIDS standard ones that suit it best.

    By the pixels' distance from a teacher, which is not what they are compared by in the end.
    """
    denoiser = wrapped(loaded.denoiser, asked, loaded.conditions)
    with torch.inference_mode():
        pairs, _ = taught(loaded, denoiser, SURVEY_SEED, 2 if quick else SURVEYED, unheard)
        grids = standard_grids(denoiser.process)[: 1 if quick else None]
        rivals = best_of_each(surveyed(denoiser, pairs, calls, grids=grids), GRIDS)
    met: set[str] = set()
    return [
        Contestant(
            named_once(one.name, met),
            "fixed",
            replace(asked, solver=one.solver, grid=one.grid, steps=one.steps, keep_eps=False),
        )
        for one in rivals
    ]


def named_once(name: str, met: set[str]) -> str:
    """The name, or where it was met before another one for its next grid."""
    name = f"{name}{NEXT_GRID}" if name in met else name
    met.add(name)
    return name


def unheard(done: int, total: int) -> None:
    """A notice of progress that nobody wants."""
