"""sfumato tune: the best sampler of a few network calls for one run, fitted in two minutes.

Writes RUN/tuned/nfe-N-guidance-G.json, which `sfumato sample RUN --nfe N` uses, and a picture: the
same seeds by the teacher of many calls, by the tuned sampler and by the best fixed one. The run's
training images say which levels there are (aim.py); where they are gone only the teacher counts.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..aim import Aim
from ..arguments import Evaluate, Tune, seconds
from ..conditions import Captions, rows_of
from ..config import SamplingConfig
from ..console import Reporter, duration, reading
from ..data import evenly
from ..denoiser import Cond, Denoiser
from ..devices import pick_device
from ..generation import wrapped
from ..grids import Grid, KarrasGrid
from ..kinds import to_dict
from ..loading import Loaded, load_run
from ..pictures import grid, save_png
from ..planning import given
from ..process import Process
from ..rivals import FIXED, Rival, best_of_each, even_grids, measured, standard_grids, surveyed
from ..sampling import Point, SeededNoise, prior
from ..tuned_runs import check_calls, check_plain, guided, path_of, save_tuned, with_table
from ..tuning import (
    TEACHER,
    TEACHER_STEPS,
    Pairs,
    Table,
    cost,
    differences,
    drawn,
    fitted_rows,
    images_of,
    on_path,
    refined,
    table_of,
    teacher_path,
)
from .evaluate import own_splits
from .tune_judged import Judged, heading

SURVEY_BY, REFINE_BY = 0.35, 0.84  # shares of the time by which these stages end
LEAST_REFINING = 0.4  # share of the time that the gradient has in any case
LEARN_SEED, APART_SEED, JUDGE_SEED = 1_000_000, 2_000_000, 3_000_000  # far from those people type
AT_ONCE = 16  # images of the teacher drawn together; of the first of them the path is kept
FIXED_GRIDS = 3  # of the nearest fixed solvers, where the gradient may begin too
GRIDS_EACH = 2  # of a fixed solver that are judged; the better one counts
REAL = 1000  # images of the data that say which levels there are
BOUNDING, NEARER = 4, 0.9  # fixed solvers, and how much nearer than these is wanted
COLUMNS = 10
EVERY = 5.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Plan:
    """How many images each stage draws."""

    learn: int
    apart: int
    judge: int
    survey: int


def plan_of(budget: float, each: float, calls: int, grids: int) -> Plan:
    """How many images fit into `budget` seconds where a network call for one takes `each`.

    A quarter goes to the teacher, a twelfth to the survey, a tenth to judging; half at least is
    left for the gradient, but where a network is so slow that the least of images takes more.
    """
    affordable = budget / each
    survey = int(affordable / 12 / (len(FIXED) * grids * calls))
    learn = int(affordable / 5 / TEACHER_STEPS)  # and a quarter of it again, to choose by
    judge = int(affordable / 10 / (TEACHER_STEPS + (len(FIXED) * GRIDS_EACH + 1) * calls))
    learn = min(128, max(AT_ONCE, learn))
    return Plan(learn, max(AT_ONCE, learn // 4), _within(judge, 16, 64), _within(survey, 4, 16))


def _within(value: int, low: int, high: int) -> int:
    return min(high, max(low, value))


def run_tune(args: Tune) -> None:
    """Load, fit, judge, write."""
    check_calls(args.nfe)
    budget = seconds(args.time)
    loaded = load_run(args.run, pick_device(args.device), precision=args.precision)
    loaded.denoiser.requires_grad_(False)
    sampling = sampling_asked(loaded.run.sampling, args)
    denoiser = wrapped(loaded.denoiser, sampling, loaded.conditions)
    with Reporter(quiet=args.quiet) as reporter:
        loaded.tell_moved(reporter.say)
        each = seconds_a_call(loaded, denoiser)
        plan = plan_of(budget, each, args.nfe, len(standard_grids(denoiser.process)))
        data = data_of_run(loaded, plan.learn, reporter.say)
        begun = time.monotonic()
        reporter.say(
            f"{loaded.folder}, step {loaded.step:,}, {guided(sampling)}: a sampler of "
            f"{args.nfe} calls in about {duration(budget)}; {plan.learn} images to learn from"
        )
        stages = Stages(loaded, denoiser, args.nfe, plan, data, reporter)
        table, rivals, aim = stages.fitted(begun, budget)
        judge, judged = stages.judged(table, rivals, aim)
        path = path_of(loaded.folder, args.nfe, sampling)
        facts = facts_of(loaded, plan, judged, time.monotonic() - begun)
        tuned = with_table(sampling, table)
        before = save_tuned(path, tuned, loaded.step, loaded.weights, facts)
        draw_picture(stages, judge, table, judged, path.with_suffix(".png"), facts)
        for line in [*heading(judged, args.nfe), *judged.lines()]:
            reporter.say(line)
        reporter.say(
            f"{facts['seconds']:.0f} s. Written: {path} and a picture beside it. "
            f"Use it: {use_of(loaded, args)}"
        )
        if before:
            reporter.say(f"The sampler that was there before is kept as {before}.")


def typed_of(args: Tune) -> dict[str, Any]:
    """The settings of sampling that were typed."""
    names = ("guidance", "guidance_from", "guidance_to", "clipped")
    return given(**{name: getattr(args, name) for name in names})


def use_of(loaded: Loaded, args: Tune) -> str:
    """The command that draws by what was tuned: with the flags that it was tuned for."""
    words = [f"--{name.replace('_', '-')} {value}" for name, value in typed_of(args).items()]
    return " ".join([f"sfumato sample {loaded.folder} --nfe {args.nfe}", *words])


def sampling_asked(sampling: SamplingConfig, args: Tune) -> SamplingConfig:
    """The run's settings with what was typed. Raises: ValueError where a classifier guides."""
    sampling = replace(sampling, keep_eps=False, **typed_of(args))
    check_plain(sampling)
    return sampling


# --- the data, noise and the teacher


def data_of_run(loaded: Loaded, learn: int, say: Callable[[str], None]) -> Tensor | None:
    """Some of the images that the run was trained on, as they are diffused; None, told, if gone.

    Of the classes that asked_of asks `learn` images for, which they are held against.
    """
    asked = Evaluate(run=str(loaded.folder))
    try:
        train = own_splits(asked, loaded.run, loaded.card, say).train
    except (ValueError, OSError) as error:
        say(f"Fitted to the teacher alone, there being no real images: {error}")
        return None
    images = train.images[evenly(train, min(learn, loaded.run.network.classes), REAL)]
    return loaded.codec.encode(images.to(loaded.device))


def asked_of(loaded: Loaded, count: int) -> Cond:
    """A condition for each of `count` images, spread over the classes or captions."""
    if isinstance(loaded.conditions, Captions):
        prompts = loaded.conditions.examples(count)
        return loaded.conditions.asked(None, [prompts[i % len(prompts)] for i in range(count)])
    classes = loaded.run.network.classes
    labels = [i % classes for i in range(count)] if classes else None
    return loaded.conditions.asked(labels, None)


def noise_of(loaded: Loaded, first: int, count: int) -> Tensor:
    """Standard normal (count, ...) in the space that is diffused, of seeds first, first + 1, ..."""
    shape = loaded.codec.shape(loaded.card.shape)
    empty = torch.empty(count, *shape, device=loaded.device)
    return SeededNoise(range(first, first + count))(empty)


def taught(
    loaded: Loaded,
    denoiser: Denoiser,
    first: int,
    count: int,
    notice: Callable[[int, int], None],
) -> tuple[Pairs, list[Point]]:
    """The teacher's images of so many seeds, and the path of the first AT_ONCE of them."""
    noise, cond = noise_of(loaded, first, count), asked_of(loaded, count)
    images: list[Tensor] = []
    kept: list[Point] = []
    for start in range(0, count, AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        path = teacher_path(denoiser, noise[rows], rows_of(cond, rows, loaded.device))
        kept = kept or path
        images.append(path[-1].x)
        notice(min(count, start + AT_ONCE), count)
    return Pairs(noise, torch.cat(images), rows_of(cond, slice(None), loaded.device)), kept


def seconds_a_call(loaded: Loaded, denoiser: Denoiser) -> float:
    """Seconds of a network call for one image, of AT_ONCE together."""
    noise = noise_of(loaded, LEARN_SEED, AT_ONCE)
    cond = rows_of(asked_of(loaded, AT_ONCE), slice(None), loaded.device)
    t = denoiser.process.time_at_ratio(torch.tensor(1.0, dtype=torch.float64))
    x, taken = prior(denoiser.process, noise, t), []
    with torch.no_grad():
        for _ in range(3):  # the first call prepares things
            begun = time.monotonic()
            denoiser(x, t, cond).x0.sum().item()
            taken.append(time.monotonic() - begun)
    return max(1e-9, sorted(taken)[1] / AT_ONCE)


# --- the stages


@dataclass(frozen=True)
class Stages:
    """What all stages share."""

    loaded: Loaded
    denoiser: Denoiser
    calls: int
    plan: Plan
    data: Tensor | None
    reporter: Reporter

    def pairs(self, what: str, first: int, count: int) -> tuple[Pairs, list[Point]]:
        notice = reading(self.reporter.say, f"  teacher, {what}", EVERY)
        return taught(self.loaded, self.denoiser, first, count, notice)

    def fitted(self, begun: float, budget: float) -> tuple[Table, list[Rival], Aim]:
        """The best table of this budget, the fixed solvers that were surveyed, and the aim.

        A machine that others use may be slower than it was when it was measured: then the survey
        is cut short, and the gradient has its least share though it ends late.
        """
        learn, path = self.pairs("images to learn from", LEARN_SEED, self.plan.learn)
        apart, _ = self.pairs("images to choose by", APART_SEED, self.plan.apart)
        notice = reading(self.reporter.say, "  fixed solvers on standard grids", EVERY)
        aim = Aim.of(learn.images, self.data)
        few = learn.at(torch.arange(self.plan.survey))
        end = begun + SURVEY_BY * budget
        rivals = surveyed(
            self.denoiser, few, self.calls, notice, late=lambda: time.monotonic() > end
        )
        aim = bounded(self.denoiser, apart, rivals, aim)
        tables = [
            *nearest_tables(self.denoiser.process, rivals),
            *even_tables(self.denoiser.process, self.calls),
        ]
        begin = start_of(self.denoiser, tables, learn, path, apart, aim)
        last = max(begun + REFINE_BY * budget, time.monotonic() + LEAST_REFINING * budget)
        return self.refined(learn, apart, begin, aim, last), rivals, aim

    def refined(self, learn: Pairs, apart: Pairs, start: Table, aim: Aim, end: float) -> Table:
        """Down the gradient from the start, until the end."""
        begun = time.monotonic()

        def done(step: int) -> float:
            return (time.monotonic() - begun) / max(1e-9, end - begun)

        def notice(share: float, least: float) -> None:
            left = duration((end - begun) * (1 - share))
            self.reporter.say(f"  times and weights: cost {least:.4f}, about {left} left")

        return refined(self.denoiser, learn, apart, start, done, notice=notice, aim=aim)

    def judged(self, table: Table, rivals: list[Rival], aim: Aim) -> tuple[Pairs, Judged]:
        """The verdict, and the teacher's images that it was made by."""
        judge, _ = self.pairs("images to judge by", JUDGE_SEED, self.plan.judge)
        told = reading(self.reporter.say, "  judging", EVERY)
        names, again = {rival.name for rival in rivals}, []
        for i, name in enumerate(sorted(names)):
            of_name = [rival for rival in rivals if rival.name == name][:GRIDS_EACH]
            again += [measured(self.denoiser, judge, rival) for rival in of_name]
            told(i + 1, len(names))
        ordered = best_of_each(sorted(again, key=lambda rival: rival.distance))
        best = ordered[0]
        own, theirs = (
            images_of(self.denoiser, judge, table),
            drawn(self.denoiser, judge, best.grid(self.denoiser.process, best.steps), best.solver),
        )
        near, other = (differences(images, judge.images) for images in (own, theirs))
        sets = {"teacher": judge.images, "tuned": own, best.name: theirs}
        missed = {} if self.data is None else missed_by(aim, sets, judge.images)
        grids = len({r.grid for r in rivals}), len(standard_grids(self.denoiser.process))
        return judge, Judged(near, other, ordered, grids, missed)


def missed_by(aim: Aim, sets: Mapping[str, Tensor], wanted: Tensor) -> dict[str, float]:
    """The root of aim.missed, of each of the sets of images."""
    return {name: aim.missed(images, wanted).sqrt().item() for name, images in sets.items()}


def bounded(denoiser: Denoiser, apart: Pairs, rivals: list[Rival], aim: Aim) -> Aim:
    """The aim, with NEARER times the far of the best of the nearest fixed solvers for its bound."""
    found = []
    for rival in rivals[:BOUNDING]:
        times = rival.grid(denoiser.process, rival.steps)
        images = drawn(denoiser, apart, times, rival.solver)
        found.append(aim.far(images, apart.images).item())
    return replace(aim, bound=NEARER * min(filter(isfinite, found), default=inf))


def start_of(
    denoiser: Denoiser,
    tables: list[Table],
    learn: Pairs,
    path: list[Point],
    apart: Pairs,
    aim: Aim,
) -> Table:
    """What costs least of the tables, as they are or with their weights fitted to the path."""
    few, target = learn.at(torch.arange(len(path[0].x))), partial(on_path, path, denoiser.process)
    fitted = [fitted_rows(denoiser, few.noise, few.cond, table, target) for table in tables]
    some = apart.at(torch.arange(min(AT_ONCE, len(apart))))
    return cheapest(denoiser, some, [*tables, *fitted], aim)


def nearest_tables(process: Process, rivals: list[Rival]) -> list[Table]:
    """The nearest fixed solver that is a table, of each of FIXED_GRIDS grids."""
    found = dict[Grid, Table]()
    for rival in rivals:
        if rival.grid in found or len(found) == FIXED_GRIDS:
            continue
        try:
            times = rival.grid(process, rival.steps)
            found[rival.grid] = table_of(rival.solver, process, times)
        except ValueError:  # Heun's two calls at one time; the next one has a table
            continue
    return list(found.values())


def even_tables(process: Process, calls: int) -> list[Table]:
    """DPM-Solver++(2M) on each of the even grids."""
    return [table_of(TEACHER, process, grid(process, calls)) for grid in even_grids(process)]


def cheapest(denoiser: Denoiser, apart: Pairs, tables: Iterable[Table], aim: Aim) -> Table:
    """The one that costs least."""
    return min(tables, key=lambda table: cost(denoiser, apart, table, aim))


# --- what is written


def facts_of(loaded: Loaded, plan: Plan, judged: Judged, taken: float) -> dict[str, Any]:
    """What the file and the picture say of how they were made."""
    return {
        "run": loaded.folder.name,
        "data": loaded.card.name,
        "better": judged.better,
        "seconds": round(taken, 1),
        "teacher": {**to_dict(TEACHER), "grid": to_dict(KarrasGrid()), "steps": TEACHER_STEPS},
        "seeds": {
            "learn": [LEARN_SEED, plan.learn],
            "apart": [APART_SEED, plan.apart],
            "judge": [JUDGE_SEED, plan.judge],
        },
        "measure": "root mean square difference from the teacher's images of the judge's seeds",
        "tuned": judged.tuned,
        "error_of_the_difference": judged.error,
        "nearer_than_the_best_fixed": judged.nearer,
        "standard_grids": judged.grids,
        "levels_missed": dict(judged.missed),
        "fixed": [
            {"name": r.name, "distance": r.distance, "grid": to_dict(r.grid), "steps": r.steps}
            for r in judged.rivals
        ],
    }


def draw_picture(
    stages: Stages, judge: Pairs, table: Table, judged: Judged, path: Path, facts: dict[str, Any]
) -> None:
    """A row each of teacher, tuned and the best fixed solver: the same seeds below one another."""
    best, process = judged.rivals[0], stages.denoiser.process
    few = judge.at(torch.arange(min(COLUMNS, len(judge))))
    fixed = drawn(stages.denoiser, few, best.grid(process, best.steps), best.solver)
    tuned = images_of(stages.denoiser, few, table)
    rows = torch.cat([few.images, tuned, fixed])
    images = stages.loaded.codec.decode(rows, stages.loaded.card.size).cpu()
    names = ["teacher", f"tuned {stages.calls}", best.name]
    save_png(grid(images, columns=len(few), row_labels=names), path, facts)
