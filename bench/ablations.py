"""What each ingredient of fashion_fast is worth: one change at a time, two seeds, the same seconds.

times      seconds of each variant's training step, in turn, on a quiet machine
fashion    each trains as many steps as fit into 120 s of those, and draws 2,000 images

Every variant is drawn by the same solver on the same grid (DPM-Solver++ 2M, 12 steps, ratios of
40 to 0.02, guidance 1.5). Averages of other widths are kept beside the run's own, so that they and
the raw weights are of the same training. What is done stays in --runs and is not done again.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from sfumato import ema
from sfumato.config import Run, SamplingConfig
from sfumato.data import ImageData, load
from sfumato.discrete import CosineBetas
from sfumato.generation import Order, draw
from sfumato.grids import KarrasGrid
from sfumato.kinds import override
from sfumato.memory import keep_freed
from sfumato.objective import Denoising, DiscreteTimes, LogitNormalTimes
from sfumato.parameterization import PredictNoise, PredictVelocity
from sfumato.process import RectifiedFlow
from sfumato.schedules import Constant, CosineDecay
from sfumato.solvers import DPMSolverPP2M

from .contenders import OURS
from .keeping import CLASSES, kept
from .options import Options, chosen, keep, say
from .ours import Ours
from .quality import REPEATS, Yard, of_one
from .results import Row, read
from .rounds import Facts, Runner, in_turn

SECONDS, SEEDS, IMAGES, ROUNDS = 120, (0, 1), 2000, 5
BASE = "as it is"
WIDTHS = (0.03, 0.2)  # of averages, beside the recipe's 0.1
SAMPLING = SamplingConfig(
    DPMSolverPP2M(), KarrasGrid(0.02, 40.0), steps=12, guidance=1.5, clipped=True
)
Change = Callable[[Run], Run]


def settings(*pairs: str) -> Change:
    """Each "path=value", as --set takes it."""

    def changed(run: Run) -> Run:
        for pair in pairs:
            path, _, text = pair.partition("=")
            run = override(run, path, text)
        return run

    return changed


def flow(run: Run) -> Run:
    """Rectified flow, the velocity predicted, logit-normal times."""
    return replace(
        run,
        process=RectifiedFlow(),
        parameterization=PredictVelocity(),
        objective=Denoising(LogitNormalTimes()),
        network=replace(run.network, noise_scale=1.0),  # type: ignore[type-var]
    )


def noise(run: Run) -> Run:
    """DDPM with the cosine table, the noise predicted."""
    return replace(
        run,
        process=CosineBetas(steps=1000),
        parameterization=PredictNoise(),
        objective=Denoising(DiscreteTimes(steps=1000)),
        network=replace(run.network, noise_scale=1.0),  # type: ignore[type-var]
    )


def falling(decay: Any) -> Change:
    return lambda run: replace(run, train=replace(run.train, decay=decay))


@dataclass(frozen=True)
class Variant:
    """steps_as: whose step it takes as long as, where only luck would tell their times apart."""

    words: str
    change: Change = field(default=lambda run: run)
    steps_as: str = ""

    def run(self, seed: int, steps: int = 1_000_000, precision: str = "auto") -> Run:
        run = self.change(OURS.run())
        train = replace(run.train, seconds=None, steps=steps, seed=seed)
        return replace(run, train=train, precision=precision)


VARIANTS = {
    BASE: Variant("as it is"),
    "AdamW": Variant("AdamW in place of Muon", settings("train.muon=false")),
    "flow": Variant("rectified flow, velocity, in place of EDM", flow, BASE),
    "noise": Variant("DDPM, cosine table, noise, in place of EDM", noise, BASE),
    "constant": Variant("a constant rate in place of one that falls", falling(Constant()), BASE),
    "cosine": Variant("a rate that falls as a cosine", falling(CosineDecay()), BASE),
    "pixels": Variant("single pixels in place of squares of 2 x 2", settings("network.patch=1")),
    "one block": Variant("one block a level in place of two", settings("network.blocks=1")),
    "48 channels": Variant("48 channels in place of 32", settings("network.channels=48")),
    "batch 32": Variant("batch 32 in place of 64", settings("train.batch=32")),
    "batch 128": Variant(
        "batch 128 in place of 64, lr 3e-3", settings("train.batch=128", "train.lr=3e-3")
    ),
}


def run(options: Options) -> None:
    keep_freed()
    cases = {"times": partial(times, options), "fashion": partial(fashion, options)}
    for case in chosen(options, list(cases)):
        keep("ablations", case, options, cases[case])


def times(options: Options) -> tuple[Facts, list[Row], Facts]:
    data = load(options.data, limit=4000)
    base = Ours(VARIANTS[BASE].run(0), data)
    precision = base.task.run.precision  # the others' too, which differ little: each race takes 4 s
    steppers = {n: Ours(one.run(0, precision=precision), data) for n, one in VARIANTS.items()}
    rounds = 2 if options.quick else options.rounds or ROUNDS
    runners = [Runner(name, step, keep_freed) for name, step in steppers.items()]
    seconds = in_turn(runners, rounds, 1, REPEATS)
    rows = [
        Row(name, of_one(s), steppers[name].config.batch, "images", 0.0, facts_of(steppers[name]))
        for name, s in seconds.items()
    ]
    return {"rounds": rounds, "data": data.name}, rows, {}


def facts_of(stepper: Ours) -> Facts:
    return {"precision": stepper.task.run.precision}


def fashion(options: Options) -> tuple[Facts, list[Row], Facts]:
    """A row a variant, with the distances of every seed."""
    timed = read("ablations", options.out).get("times")
    if timed is None:
        raise ValueError("no step was timed: python -m bench ablations --only times first.")
    measured = {row.name: row for row in timed.rows}

    def step_of(name: str) -> Row:
        return measured[VARIANTS[name].steps_as or name]

    train = load(options.data)
    yard = Yard.of(options.data, "fashion", 40 if options.quick else IMAGES)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for seed in SEEDS:
        for name in VARIANTS:
            step = step_of(name)
            steps = 2 if options.quick else int(SECONDS / step.median)
            path = options.runs / f"ablation-{name.replace(' ', '-')}-{seed}.json"
            begin = partial(VARIANTS[name].run, seed, steps, step.facts["precision"])
            rows[name].append(
                kept(path, {"steps": steps}, partial(found, begin, train, yard, name))
            )
            say(f"  {name}, seed {seed}: {rows[name][-1]}")
    settings = {"seconds": SECONDS, "seeds": SEEDS, **yard.settings}
    return settings, [row_of(name, step_of(name), rows[name]) for name in VARIANTS], yard.floor


def found(begin: Callable[[], Run], data: ImageData, yard: Yard, name: str) -> Facts:
    """Distances of the run's average; of the first variant also of other averages and of none."""
    ours = Ours(begin(), data)
    widths = WIDTHS if name == BASE else ()
    averages: dict[str, nn.Module] = {
        str(width): copy.deepcopy(ours.state.average) for width in widths
    }
    for _ in range(ours.config.steps or 0):
        ours()
        for width in widths:
            decay = ema.decay_at(ours.state.step, width)
            ema.update(averages[str(width)], ours.state.model, decay)
    models = {"average": ours.state.average, **averages}
    if widths:
        models["raw"] = ours.state.model
    return {"distances": distances(models, ours, yard)}


def distances(models: Mapping[str, nn.Module], ours: Ours, yard: Yard) -> dict[str, list[float]]:
    """By name (distance, error) of the images that each draws."""
    count = yard.count
    shape = (yard.test.channels, *yard.test.size)
    order = Order(range(count), [k % CLASSES for k in range(count)], shape)
    made = {}
    for name, model in models.items():
        conditions, device = ours.task.conditions, torch.device("cpu")
        drawn = draw(model.eval(), order, SAMPLING, conditions, device)  # type: ignore[arg-type]
        estimate = yard.distance(drawn)
        made[name] = [round(estimate.mean, 4), round(estimate.error, 4)]
    return made


def row_of(name: str, step: Row, found: list[dict[str, Any]]) -> Row:
    facts = {
        "words": VARIANTS[name].words,
        "steps": found[0]["steps"],
        "images_seen": found[0]["steps"] * int(step.amount),
        "distances": [one["distances"] for one in found],
    }
    return Row(name, step.seconds, step.amount, "images", 0.0, facts)
