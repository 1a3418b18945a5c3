"""1,000 class-conditional images from a run: seconds and distance of each sampler at few calls.

The run's samplers of CALLS calls that `sfumato tune RUN --nfe 6 ...` has fitted, and every fixed
solver at as many calls on the grid that brings it nearest to a teacher of many steps, are compared
with Heun's method at 35 calls: all under the guidance that the first tuned sampler is for.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from sfumato.arguments import Sweep
from sfumato.commands.sweep_quality import Judge, judge_of
from sfumato.commands.tune import taught
from sfumato.config import SamplingConfig
from sfumato.generation import wrapped
from sfumato.grids import KarrasGrid
from sfumato.loading import Loaded, drawn_by, load_run
from sfumato.measuring import Estimate, frechet_estimate
from sfumato.memory import keep_freed
from sfumato.rivals import best_of_each, standard_grids, surveyed
from sfumato.sampling import sample
from sfumato.solvers import Heun
from sfumato.tuned_runs import Tuned, read_tuned
from sfumato.tuning import Letters

from .options import Options, chosen, keep, say
from .results import Row
from .rounds import Facts, Runner, in_turn, median

ROUNDS, IMAGES, AT_ONCE = 3, 1000, 125
CALLS, MANY = 6, 18  # MANY steps of Heun's method are 35 calls
SURVEY_SEED, SURVEYED = 2_000_000, 20  # images that a solver's grid is chosen by
RUN = "fashion_fast"  # the recipe's, in runs/
REFERENCE = "Heun, 35 calls"


def run(options: Options) -> None:
    keep_freed()
    options = replace(options, run=options.run or RUN)
    for case in chosen(options, ["sampling"]):
        keep("sampling", case, options, lambda: measured(options))


@dataclass(frozen=True)
class Contestant:
    """A sampler. seen: what it drew last, (N, C, H, W)."""

    name: str
    kind: str  # "reference", "tuned" or "fixed"
    sampling: SamplingConfig
    seen: list[Tensor] = field(default_factory=list)

    def draw(self, loaded: Loaded, judge: Judge) -> None:
        self.seen[:] = [drawn_by(loaded, judge.order, self.sampling, AT_ONCE)]


def measured(options: Options) -> tuple[Facts, list[Row], Facts]:
    loaded = load_run(options.run, torch.device("cpu"))
    judge = judge_of(Sweep(str(loaded.folder), images=20 if options.quick else IMAGES), loaded, say)
    if judge is None:
        raise ValueError(f"{options.run}: no features are known to measure its images by.")
    tuned = tuned_of(loaded)
    contestants = [of_many(tuned[0].sampling), *(of_tuned(one) for one in tuned)]
    contestants += fixed(loaded, tuned[0].sampling, options.quick)
    runners = [Runner(one.name, partial(one.draw, loaded, judge)) for one in contestants]
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    begun = time.monotonic()
    runners[0].step()  # the first draw of all sets things up
    say(f"  about {(time.monotonic() - begun) * rounds * (1 + len(runners) / 5):.0f} s to go")
    seconds = in_turn(runners, rounds, warm=0)
    rows = [row_of(one, seconds[one.name], loaded, judge) for one in contestants]
    sampling = tuned[0].sampling
    settings = {
        **{"rounds": rounds, "images": judge.images, "precision": loaded.run.precision},
        **{"run": loaded.folder.name, "step": loaded.step, "guidance": sampling.guidance},
        **{"guidance_from": sampling.guidance_from, "guidance_to": plain(sampling.guidance_to)},
        **{"network": type(loaded.run.network).__name__, "reference": judge.told},
        **{"measure": judge.network.frechet, "features": judge.network.digest},
    }
    return settings, rows, {**in_short(rows), "floor": judge.floor and judge.floor.mean}


def plain(value: float) -> float | None:
    """JSON has no infinity."""
    return None if value == float("inf") else value


# --- who takes part


def tuned_of(loaded: Loaded) -> list[Tuned]:
    """The run's samplers of CALLS calls, those for guidance in an interval first.

    Raises: FileNotFoundError where there is none, with the command that makes one.
    """
    paths = sorted((loaded.folder / "tuned").glob(f"nfe-{CALLS}-*.json"))
    found = sorted(map(read_tuned, paths), key=lambda one: one.sampling.guidance_to)
    if not found:
        raise FileNotFoundError(
            f"{loaded.folder} has no tuned sampler of {CALLS} calls. First: sfumato tune "
            f"{loaded.folder} --nfe {CALLS} --guidance 1.5 --guidance-from 0.3 --guidance-to 4"
        )
    return found


def of_tuned(tuned: Tuned) -> Contestant:
    return Contestant(f"tuned ({tuned.path.stem})", "tuned", tuned.sampling)


def of_many(asked: SamplingConfig) -> Contestant:
    sampling = replace(asked, solver=Heun(), grid=KarrasGrid(), steps=MANY, keep_eps=False)
    return Contestant(REFERENCE, "reference", sampling)


def fixed(loaded: Loaded, asked: SamplingConfig, quick: bool) -> list[Contestant]:
    """Every fixed solver of at most CALLS calls, on the standard grid that suits it best here."""
    denoiser = wrapped(loaded.denoiser, asked, loaded.conditions)
    with torch.inference_mode():
        pairs, _ = taught(loaded, denoiser, SURVEY_SEED, 2 if quick else SURVEYED, unheard)
        grids = standard_grids(denoiser.process)[: 1 if quick else None]
        rivals = best_of_each(surveyed(denoiser, pairs, CALLS, grids=grids))
    return [
        Contestant(
            one.name,
            "fixed",
            replace(asked, solver=one.solver, grid=one.grid, steps=one.steps, keep_eps=False),
        )
        for one in rivals
    ]


def unheard(done: int, total: int) -> None:
    """A notice of progress that nobody wants."""


# --- what came of it


def row_of(one: Contestant, seconds: Sequence[float], loaded: Loaded, judge: Judge) -> Row:
    found: Estimate = frechet_estimate(judge.network(one.seen[0]), judge.reference)
    facts = {
        "kind": one.kind,
        "nfe": calls_of(one.sampling, loaded),
        "grid": "its own" if one.kind == "tuned" else str(one.sampling.grid),
        "distance": found.mean,
        "error": found.error,
    }
    return Row(one.name, tuple(seconds), judge.images, "images", 0.0, facts)


def calls_of(sampling: SamplingConfig, loaded: Loaded) -> int:
    """How often an image's denoiser is asked; where guidance is on the network is asked twice."""
    letters = Letters(loaded.denoiser.process)
    times = sampling.grid(letters.process, sampling.steps)
    start = torch.zeros(1, 4 * len(times) + 1, dtype=torch.float64)
    sample(letters, start, times, sampling.solver)
    return len(letters.calls)


def in_short(rows: Sequence[Row]) -> Facts:
    """The tuned sampler's distance and time beside 35 calls' and the best fixed solver's."""
    reference, tuned = (
        next(row for row in rows if row.facts["kind"] == kind) for kind in ("reference", "tuned")
    )
    others = [row for row in rows if row.facts["kind"] == "fixed"]
    best = min(others, key=lambda row: row.facts["distance"])
    return {
        "distance_to_reference": tuned.facts["distance"] / reference.facts["distance"],
        "times_faster": median(reference.seconds) / median(tuned.seconds),
        "best_fixed": best.name,
        "best_fixed_to_reference": best.facts["distance"] / reference.facts["distance"],
    }
