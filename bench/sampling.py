"""1,000 class-conditional images from a run: seconds and distance of each sampler at few calls.

The run's samplers of CALLS calls that `sfumato tune RUN --nfe 6 ...` has fitted, and every fixed
solver at as many calls on the two standard grids that suit it best, are compared with Heun's method
at 35 calls: all under the guidance that the first tuned sampler is for. The case
`calls` draws once by 4 to 8 calls (sampling_calls.py).
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from sfumato.arguments import Evaluate
from sfumato.commands.evaluate import real_images
from sfumato.commands.sweep_quality import Judge, judge_by
from sfumato.config import SamplingConfig
from sfumato.features import features_of, fitting
from sfumato.grids import KarrasGrid
from sfumato.loading import Loaded, load_run
from sfumato.measuring import Estimate, frechet_estimate
from sfumato.memory import keep_freed
from sfumato.solvers import Heun

from .contests import Contestant, all_grids, calls_of, fixed, of_tuned, raced_of, tuned_of
from .options import Options, chosen, keep, say
from .results import Row
from .rounds import Facts, Runner, in_turn
from .sampling_calls import COUNTS, compared

ROUNDS, IMAGES = 3, 1000
CALLS, MANY = 6, 18  # MANY steps of Heun's method are 35 calls
RUN = "fashion_fast"  # the recipe's, in runs/
REFERENCE = "Heun, 35 calls"


def run(options: Options) -> None:
    keep_freed()
    options = replace(options, run=options.run or RUN)
    measures = {"sampling": measured, "calls": measured_calls}
    for case in chosen(options, list(measures)):
        keep("sampling", case, options, partial(measures[case], options))


def measured(options: Options) -> tuple[Facts, list[Row], Facts]:
    loaded, judge = opened(options)
    tuned = tuned_of(loaded, CALLS)
    contestants = [of_many(tuned[0].sampling), *(of_tuned(one) for one in tuned)]
    contestants += fixed(loaded, judge, tuned[0].sampling, CALLS, options.quick)
    runners = [Runner(one.name, partial(one.draw, loaded, judge)) for one in contestants]
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    begun = time.monotonic()
    runners[0].step()  # the first draw of all sets things up
    say(f"  about {(time.monotonic() - begun) * rounds * (1 + len(runners) / 5):.0f} s to go")
    seconds = in_turn(runners, rounds, warm=0)
    rows = [row_of(one, seconds[one.name], loaded, judge) for one in contestants]
    raced = raced_of(options.quick)
    settings = {"rounds": rounds, **settings_of(loaded, judge, tuned[0].sampling, raced)}
    return settings, rows, {**in_short(rows), "floor": judge.floor and judge.floor.mean}


def measured_calls(options: Options) -> tuple[Facts, list[Row], Facts]:
    loaded, judge = opened(options)
    rows, more = compared(loaded, judge, options.quick)
    asked = tuned_of(loaded, COUNTS[0])[0].sampling
    settings = settings_of(loaded, judge, asked, raced_of(options.quick))
    return settings, rows, {**more, "floor": judge.floor and judge.floor.mean}


def opened(options: Options) -> tuple[Loaded, Judge]:
    """The run, and a judge by the test images of its data, to which no sampler is fitted."""
    loaded = load_run(options.run, torch.device("cpu"))
    images = 20 if options.quick else IMAGES
    asked = Evaluate(str(loaded.folder), samples=images, against="test")
    compared = real_images(asked, loaded.run, loaded.card, say)
    network = features_of(fitting(compared[1].reference))
    return loaded, judge_by(network, loaded, compared, images)


def settings_of(loaded: Loaded, judge: Judge, sampling: SamplingConfig, raced: int) -> Facts:
    return {
        **{"images": judge.images, "raced": raced, "precision": loaded.precision},
        **{"grids": len(all_grids(loaded.denoiser.process))},
        **{"run": loaded.folder.name, "step": loaded.step, "seed": loaded.run.train.seed},
        **{"guidance": sampling.guidance},
        **{"guidance_from": sampling.guidance_from, "guidance_to": plain(sampling.guidance_to)},
        **{"network": type(loaded.run.network).__name__, "reference": judge.told},
        **{"measure": judge.network.frechet, "features": judge.network.digest},
    }


def plain(value: float) -> float | None:
    """JSON has no infinity."""
    return None if value == float("inf") else value


def of_many(asked: SamplingConfig) -> Contestant:
    sampling = replace(asked, solver=Heun(), grid=KarrasGrid(), steps=MANY, keep_eps=False)
    return Contestant(REFERENCE, "reference", sampling)


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


def in_short(rows: Sequence[Row]) -> Facts:
    """The tuned sampler's distance beside 35 calls' and the best fixed solver's."""
    reference, tuned = (
        next(row for row in rows if row.facts["kind"] == kind) for kind in ("reference", "tuned")
    )
    others = [row for row in rows if row.facts["kind"] == "fixed"]
    best = min(others, key=lambda row: row.facts["distance"])
    return {
        "distance_to_reference": tuned.facts["distance"] / reference.facts["distance"],
        "best_fixed": best.name,
        "best_fixed_to_reference": best.facts["distance"] / reference.facts["distance"],
    }
