"""sfumato tune: the best sampler of a few network calls for one run, fitted in two minutes.

Writes RUN/tuned/nfe-N-guidance-G.json, which `sfumato sample RUN --nfe N` uses, and a picture: the
same seeds by the teacher of many calls, by the tuned sampler and by the best fixed one.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import Tune, UsageError, seconds
from ..conditions import Captions, rows_of
from ..config import SamplingConfig
from ..console import Reporter, duration, reading
from ..denoiser import Cond, Denoiser
from ..devices import pick_device
from ..generation import wrapped
from ..grids import KarrasGrid
from ..kinds import to_dict
from ..loading import Loaded, load_run
from ..pictures import grid, save_png
from ..planning import given
from ..rivals import FIXED, Rival, best_of_each, measured, standard_grids, surveyed
from ..sampling import Point, SeededNoise, prior, sample
from ..solvers import Solver
from ..tuned_runs import check_plain, path_of, save_tuned, with_table
from ..tuning import (
    TEACHER,
    TEACHER_STEPS,
    Pairs,
    Table,
    distance,
    distances,
    fitted_rows,
    mean_distance,
    on_path,
    refined,
    table_of,
    teacher_path,
)

MOST_CALLS = 20
SURVEY_BY, REFINE_BY = 0.35, 0.875  # shares of the time by which these stages end
LEAST_REFINING = 0.4  # share of the time that the gradient has in any case
LEARN_SEED, APART_SEED, JUDGE_SEED = 1_000_000, 2_000_000, 3_000_000  # far from those people type
AT_ONCE = 16  # images of the teacher drawn together; of the first of them the path is kept
STARTS = 4  # tables of the survey whose weights are fitted
GRIDS_EACH = 2  # of a fixed solver that are judged; the better one counts
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

    A quarter goes to the teacher, a twelfth to the survey, an eighth to judging; half at least is
    left for the gradient.
    """
    affordable = budget / each
    survey = int(affordable / 12 / (len(FIXED) * grids * calls))
    learn = int(affordable / 5 / TEACHER_STEPS)  # and a quarter of it again, to choose by
    judge = int(affordable / 8 / (TEACHER_STEPS + (len(FIXED) * GRIDS_EACH + 1) * calls))
    learn = min(128, max(AT_ONCE, learn))
    return Plan(learn, max(AT_ONCE, learn // 4), _within(judge, 16, 64), _within(survey, 4, 16))


def _within(value: int, low: int, high: int) -> int:
    return min(high, max(low, value))


@dataclass(frozen=True)
class Judged:
    """What was measured on seeds that were used for nothing else."""

    tuned: float
    rivals: list[Rival]  # the nearest first
    nearer: int  # images of which the tuned one is nearer than the best rival's
    images: int

    @property
    def better(self) -> bool:
        return self.tuned < self.rivals[0].distance

    def lines(self) -> list[str]:
        """The table, then the verdict."""
        rows = [("tuned", self.tuned, "")]
        rows += [(r.name, r.distance, f"{r.grid}, {r.steps} steps") for r in self.rivals]
        rows.sort(key=lambda row: row[1])
        told = [f"  {name:<8} {far:.4f}  {how}".rstrip() for name, far, how in rows]
        return [*told, self.verdict()]

    def verdict(self) -> str:
        best = self.rivals[0]
        if not self.better:
            return (
                f"The tuned sampler is no better than {best.name} ({self.tuned:.4f} against "
                f"{best.distance:.4f}): nothing was gained. More --time may help."
            )
        return (
            f"The tuned sampler is {best.distance / self.tuned:.2f} times nearer to the teacher "
            f"than the best fixed solver, {best.name}; nearer in {self.nearer} of {self.images} "
            "images."
        )


def run_tune(args: Tune) -> None:
    """Load, fit, judge, write."""
    begun = time.monotonic()
    if not 2 <= args.nfe <= MOST_CALLS:
        raise UsageError(f"--nfe {args.nfe}; 2 to {MOST_CALLS} network calls can be tuned.")
    budget = seconds(args.time)
    loaded = load_run(args.run, pick_device(args.device), precision=args.precision)
    loaded.denoiser.requires_grad_(False)
    sampling = sampling_asked(loaded.run.sampling, args)
    denoiser = wrapped(loaded.denoiser, sampling, loaded.conditions)
    with Reporter(quiet=args.quiet) as reporter:
        each = seconds_a_call(loaded, denoiser)
        plan = plan_of(budget, each, args.nfe, len(standard_grids(denoiser.process)))
        reporter.say(
            f"{loaded.folder}, step {loaded.step:,}, guidance {sampling.guidance:g}: a sampler of "
            f"{args.nfe} calls in about {duration(budget)}; {plan.learn} images to learn from"
        )
        stages = Stages(loaded, denoiser, args.nfe, plan, reporter)
        table, rivals = stages.fitted(begun, budget)
        judge, judged = stages.judged(table, rivals)
        path = path_of(loaded.folder, args.nfe, sampling.guidance)
        facts = facts_of(loaded, plan, judged, time.monotonic() - begun)
        tuned = with_table(sampling, table)
        save_tuned(path, tuned, loaded.step, loaded.weights, facts)
        draw_picture(stages, judge, table, judged, path.with_suffix(".png"), facts)
        for line in [*heading(judged, args.nfe), *judged.lines()]:
            reporter.say(line)
        reporter.say(
            f"{facts['seconds']:.0f} s. Written: {path} and a picture beside it. "
            f"Use it: {use_of(loaded, args)}"
        )


def typed_of(args: Tune) -> dict[str, Any]:
    """The settings of sampling that were typed."""
    names = ("guidance", "guidance_from", "guidance_to", "clipped")
    return given(**{name: getattr(args, name) for name in names})


def use_of(loaded: Loaded, args: Tune) -> str:
    """The command that draws by what was tuned: with the flags that it was tuned for."""
    words = [f"--{name.replace('_', '-')} {value}" for name, value in typed_of(args).items()]
    return " ".join([f"sfumato sample {loaded.folder} --nfe {args.nfe}", *words])


def heading(judged: Judged, calls: int) -> list[str]:
    return [
        f"Root mean square distance to the images of a teacher of {TEACHER_STEPS} calls, as they "
        f"are diffused, from the same noise: {judged.images} new seeds, {calls} calls:"
    ]


def sampling_asked(sampling: SamplingConfig, args: Tune) -> SamplingConfig:
    """The run's settings with what was typed. Raises: ValueError where a classifier guides."""
    sampling = replace(sampling, keep_eps=False, **typed_of(args))
    check_plain(sampling)
    return sampling


# --- noise and the teacher


def asked_of(loaded: Loaded, count: int) -> Cond:
    """A condition for each of `count` images, spread over the classes or captions."""
    if isinstance(loaded.conditions, Captions):
        prompts = loaded.conditions.examples(COLUMNS)
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
    reporter: Reporter

    def pairs(self, what: str, first: int, count: int) -> tuple[Pairs, list[Point]]:
        notice = reading(self.reporter.say, f"  teacher, {what}", EVERY)
        return taught(self.loaded, self.denoiser, first, count, notice)

    def fitted(self, begun: float, budget: float) -> tuple[Table, list[Rival]]:
        """The best table of this budget, and the fixed solvers that were surveyed.

        A machine that others use may be slower than it was when it was measured: then the survey
        is cut short, and the gradient has its least share though it ends late.
        """
        learn, path = self.pairs("images to learn from", LEARN_SEED, self.plan.learn)
        apart, _ = self.pairs("images to choose by", APART_SEED, self.plan.apart)
        notice = reading(self.reporter.say, "  fixed solvers on standard grids", EVERY)
        few = learn.at(torch.arange(self.plan.survey))
        end = begun + SURVEY_BY * budget
        rivals = surveyed(
            self.denoiser, few, self.calls, notice, late=lambda: time.monotonic() > end
        )
        start = nearest(self.denoiser, apart, starts(self.denoiser, rivals, learn, path))
        last = max(begun + REFINE_BY * budget, time.monotonic() + LEAST_REFINING * budget)
        return self.refined(learn, apart, start, last), rivals

    def refined(self, learn: Pairs, apart: Pairs, start: Table, end: float) -> Table:
        begun = time.monotonic()

        def done(step: int) -> float:
            return (time.monotonic() - begun) / max(1e-9, end - begun)

        def notice(share: float, least: float) -> None:
            left = duration((end - begun) * (1 - share))
            self.reporter.say(f"  times and weights: distance {least:.4f}, about {left} left")

        return refined(self.denoiser, learn, apart, start, done, AT_ONCE, notice)

    def judged(self, table: Table, rivals: list[Rival]) -> tuple[Pairs, Judged]:
        """The verdict, and the teacher's images that it was made by."""
        judge, _ = self.pairs("images to judge by", JUDGE_SEED, self.plan.judge)
        told = reading(self.reporter.say, "  judging", EVERY)
        names, again = {rival.name for rival in rivals}, []
        for i, name in enumerate(sorted(names)):
            of_name = [rival for rival in rivals if rival.name == name][:GRIDS_EACH]
            again += [measured(self.denoiser, judge, rival) for rival in of_name]
            told(i + 1, len(names))
        ordered = best_of_each(sorted(again, key=lambda rival: rival.distance))
        best, times = ordered[0], self.times_of(table)
        own = distances(self.denoiser, judge, times, table.solver)
        best_times = best.grid(self.denoiser.process, best.steps)
        others = distances(self.denoiser, judge, best_times, best.solver)
        nearer = int((own < others).sum())
        return judge, Judged(mean_distance(own), ordered, nearer, len(judge))

    def times_of(self, table: Table) -> Tensor:
        return table.grid(self.denoiser.process, self.calls)


def starts(
    denoiser: Denoiser, rivals: list[Rival], learn: Pairs, path: list[Point]
) -> Iterator[Table]:
    """The nearest fixed solvers as tables, each as it is and with its weights fitted."""
    process, made = denoiser.process, 0
    few = learn.at(torch.arange(len(path[0].x)))
    for rival in rivals:
        try:
            table = table_of(rival.solver, process, rival.grid(process, rival.steps))
        except ValueError:  # Heun's two calls at one time; the next one has a table
            continue
        yield table
        yield fitted_rows(denoiser, few.noise, few.cond, table, partial(on_path, path, process))
        made += 1
        if made == STARTS:
            return


def nearest(denoiser: Denoiser, apart: Pairs, tables: Iterable[Table]) -> Table:
    """The one whose images are nearest to the teacher's."""
    return min(tables, key=lambda table: distance(denoiser, apart, table))


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
        "nearer_than_the_best_fixed": judged.nearer,
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
    tuned = drawn(stages.denoiser, few, stages.times_of(table), table.solver)
    rows = torch.cat([few.images, tuned, fixed])
    images = stages.loaded.codec.decode(rows, stages.loaded.card.size).cpu()
    names = ["teacher", f"tuned {stages.calls}", best.name]
    save_png(grid(images, columns=len(few), row_labels=names), path, facts)


def drawn(denoiser: Denoiser, pairs: Pairs, times: Tensor, solver: Solver) -> Tensor:
    """The images, (n, ...), of the pairs' noise."""
    return sample(
        denoiser, prior(denoiser.process, pairs.noise, times[0]), times, solver, pairs.cond
    )
