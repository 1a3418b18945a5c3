"""sfumato sweep: every sampler by network calls, grid, eta and guidance, and which is best.

RUN/sweep.json   a row a sampler, with all that was found of it and the command that draws by it
RUN/sweep.png    distance from the converged images against network calls
"""

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from ..arguments import Sweep, UsageError, seconds
from ..conditions import rows_of
from ..config import SamplingConfig
from ..console import Reporter, count, duration, reading
from ..denoiser import Denoiser
from ..devices import pick_device
from ..generation import wrapped
from ..kinds import to_dict
from ..loading import Loaded, load_run
from ..named import SOLVERS, grid_text, sampler_text
from ..page import write_page
from ..planning import given
from ..rivals import FIXED, Rival
from ..storage import write_file
from ..sweep_plot import sweep_figure
from ..sweep_words import tables, verdicts
from ..sweeping import (
    CHECK,
    GRIDS_EACH,
    REFERENCE,
    Row,
    calls_of,
    candidates,
    converged,
    floor,
    grids_looked_at,
    judged,
    nearest,
    noisy_of,
    surveyed_all,
    ties,
)
from ..tuned_runs import check_plain, find_tuned
from ..tuning import Pairs
from ..wrapping import prose
from .sweep_quality import Judge, judge_of
from .tune import AT_ONCE, asked_of, noise_of, seconds_a_call

MOST_CALLS = 200
SURVEY_SEED, JUDGE_SEED = 4_000_000, 5_000_000  # far from those people type, and from tune's
LEAST_STEPS, MOST_STEPS = 60, 200  # of the converged solution
EVERY = 5.0  # seconds between two lines of progress
FEATURES_SHARE = 0.5  # of the time goes to quality, where it is measured
SURVEY_SHARE = 0.6  # of the time of a number of calls; the rest is for judging
LEAST_JUDGED = 4
RANKS = 3  # of the nearest samplers of each number of calls whose quality is measured


@dataclass(frozen=True)
class Plan:
    """How many images each stage looks at, and the steps of the converged solution."""

    survey: int
    judge: int
    steps: int


def plan_of(budget: float, each: float, counts: Sequence[int], grids: int) -> Plan:
    """What fits into `budget` seconds where a network call for one image takes `each`.

    A quarter goes to the converged images, four tenths to the survey, three tenths to judging.
    """
    affordable, calls = budget / each, sum(counts)
    survey = _within(int(0.4 * affordable / (len(FIXED) * grids * calls)), 2, 16)
    judge = _within(int(0.3 * affordable / (len(FIXED) * GRIDS_EACH * calls)), 4, 64)
    least = max(LEAST_STEPS, 2 * max(counts))
    steps = int(0.25 * affordable / (2 * (survey + judge) + 2 * AT_ONCE))
    return Plan(survey, judge, _within(steps, least, max(least, MOST_STEPS)))


def _within(value: int, low: int, high: int) -> int:
    return min(high, max(low, value))


def numbers_of(text: str, flag: str, kind: type[int] | type[float]) -> list[Any]:
    """ "1,2.5" as numbers, each once. Raises: UsageError where one is none."""
    try:
        return list(dict.fromkeys(kind(word) for word in text.split(",")))
    except ValueError as error:
        wanted = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"--{flag} {text}: {wanted} are wanted, as 5,10,20.") from error


@dataclass(frozen=True)
class Asked:
    """What was typed, as values."""

    counts: list[int]
    scales: list[float] | None  # None for the run's own
    etas: list[float]
    budget: float


def asked_for(args: Sweep) -> Asked:
    """Raises: UsageError for what can't be swept."""
    counts = sorted(numbers_of(args.nfe, "nfe", int))
    if not all(1 <= calls <= MOST_CALLS for calls in counts):
        raise UsageError(f"--nfe {args.nfe}; 1 to {MOST_CALLS} network calls can be swept.")
    etas = numbers_of(args.eta, "eta", float)
    if not all(0 <= eta <= 1 for eta in etas):
        raise UsageError(f"--eta {args.eta}; it goes from 0 (DDIM) to 1 (DDPM).")
    if args.images < 8:
        raise UsageError(f"--images {args.images}; at least 8 are needed, better 500.")
    scales = None if args.guidance is None else numbers_of(args.guidance, "guidance", float)
    return Asked(counts, scales, etas, seconds(args.time))


def run_sweep(args: Sweep) -> None:
    """Load, look at every sampler, write, say which is best."""
    begun, asked = time.monotonic(), asked_for(args)
    loaded = load_run(args.run, pick_device(args.device), precision=args.precision)
    check_plain(loaded.run.sampling)
    loaded.denoiser.requires_grad_(False)
    with Reporter(quiet=args.quiet) as reporter:
        loaded.tell_moved(reporter.say)
        judge = judge_of(args, loaded, reporter.say)
        share = 1.0 if judge is None else 1 - FEATURES_SHARE
        scales = asked.scales or [loaded.run.sampling.guidance]
        swept: list[Swept] = []
        for i, scale in enumerate(scales):
            left = begun + asked.budget * share - time.monotonic()
            part = Part(loaded, scale, asked, max(1.0, left / (len(scales) - i)), reporter)
            swept.append(part.swept())
        if judge is not None:
            swept = with_quality(swept, judge, begun + asked.budget, reporter.say)
        record = record_of(loaded, swept, judge, time.monotonic() - begun)
        write(loaded, record)
        for line in [*tables(record), *verdicts(record)]:
            reporter.say(prose(line))
        reporter.say(f"Written to {loaded.folder}: sweep.json, sweep.png, and into index.html.")


# --- distances


@dataclass(frozen=True)
class Swept:
    """All rows of one guidance scale. own: the run's own setting."""

    guidance: float
    rows: list[Row]
    own: Row | None
    floor: float
    plan: Plan


@dataclass(frozen=True)
class Part:
    """The sweep at one scale of guidance, in so many seconds."""

    loaded: Loaded
    scale: float
    asked: Asked
    budget: float
    reporter: Reporter

    @property
    def sampling(self) -> SamplingConfig:
        return replace(self.loaded.run.sampling, guidance=self.scale, keep_eps=False)

    def swept(self) -> Swept:
        begun, say = time.monotonic(), self.reporter.say
        denoiser = wrapped(self.loaded.denoiser, self.sampling, self.loaded.conditions)
        each = seconds_a_call(self.loaded, denoiser)
        plan = plan_of(self.budget, each, self.asked.counts, grids_looked_at(denoiser.process))
        say(
            f"{self.loaded.folder}, step {self.loaded.step:,}, guidance {self.scale:g}: "
            f"{len(FIXED)} solvers of {', '.join(map(str, self.asked.counts))} calls in about "
            f"{duration(self.budget)}"
        )
        few = self.pairs(denoiser, SURVEY_SEED, plan.survey, plan.steps)
        many = self.pairs(denoiser, JUDGE_SEED, plan.judge, plan.steps)
        least = floor(denoiser, many, plan.steps)
        rows, end = [], begun + self.budget
        for i, calls in enumerate(self.asked.counts):
            now = time.monotonic()
            mine = max(0.0, end - now) * calls / sum(self.asked.counts[i:])
            found = self.surveyed(denoiser, few, calls, now + SURVEY_SHARE * mine)
            rows += self.judged(denoiser, many, found, calls, now + mine)
        own = self.own(denoiser, many)
        return Swept(self.scale, rows, own, least, plan)

    def pairs(self, denoiser: Denoiser, first: int, images: int, steps: int) -> Pairs:
        noise = noise_of(self.loaded, first, images)
        cond = rows_of(asked_of(self.loaded, images), slice(None), self.loaded.device)
        notice = reading(self.reporter.say, "  converged images", EVERY)
        return converged(denoiser, noise, cond, steps, AT_ONCE, notice)

    def surveyed(self, denoiser: Denoiser, few: Pairs, calls: int, until: float) -> list[Rival]:
        notice = reading(self.reporter.say, f"  {calls} calls, solvers on grids", EVERY)
        found = surveyed_all(denoiser, few, calls, notice, lambda: time.monotonic() > until)
        looked = len({rival.grid for rival in found})
        if looked < grids_looked_at(denoiser.process):
            self.reporter.say(
                f"  {calls} calls: {looked} of {grids_looked_at(denoiser.process)} grids in this "
                "time; a longer --time looks at all"
            )
        return found

    def judged(
        self, denoiser: Denoiser, many: Pairs, found: list[Rival], calls: int, until: float
    ) -> list[Row]:
        """The solvers without noise, those with, and the tuned one, at so many calls.

        Where the time is over only the first LEAST_JUDGED of them are looked at.
        """
        told = reading(self.reporter.say, f"  {calls} calls, judging", EVERY)
        chosen = [*self.tuned(calls), *candidates(found)]
        rows = []
        for i, rival in enumerate(chosen):
            if i >= LEAST_JUDGED and time.monotonic() > until:
                self.reporter.say(
                    f"  {calls} calls: {len(chosen) - i} of the farther ones were left out for "
                    "time; a longer --time has them"
                )
                break
            rows.append(judged(denoiser, many, rival, calls, self.scale))
            told(i + 1, len(chosen))
        return nearest_first(rows, self.asked.etas, denoiser)

    def tuned(self, calls: int) -> list[Rival]:
        """The sampler that was tuned for this, where there is one."""
        try:
            kept = find_tuned(self.loaded.folder, calls, self.sampling)
        except FileNotFoundError:  # nothing was tuned for so many calls
            return []
        return [Rival("tuned", kept.sampling.solver, kept.sampling.grid, calls, 0.0)]

    def own(self, denoiser: Denoiser, many: Pairs) -> Row | None:
        """The setting that the run draws by; None where it adds noise."""
        now = self.sampling
        spent, noisy = calls_of(now.solver, now.grid, denoiser.process, now.steps)
        if noisy:
            return None
        rival = Rival("as the run", now.solver, now.grid, now.steps, 0.0)
        return judged(denoiser, many, rival, spent, self.scale)


def nearest_first(rows: list[Row], etas: list[float], denoiser: Denoiser) -> list[Row]:
    """The best of each solver, the nearest first; then those that add noise."""
    near = nearest(rows)
    return [*near, *noisy_of(near, SOLVERS, etas, denoiser.process)]


# --- quality


def with_quality(
    swept: list[Swept], judge: Judge, end: float, say: Callable[[str], None]
) -> list[Swept]:
    """The rows with the quality of the most promising, until the time is over."""
    wanted = [row for part in swept for row in promising(part.rows)]
    say(f"drawing {count(judge.images)} images by each of {len(wanted)} samplers for their quality")
    found, progress = {}, reading(say, "  samplers", EVERY)
    for i, row in enumerate(by_rank(wanted)):
        if time.monotonic() > end:
            say(f"  {len(wanted) - i} samplers were left out for time; a longer --time has them")
            break
        found[id(row)] = judge.of(row)
        progress(i + 1, len(wanted))
    return [replace(part, rows=[found.get(id(row), row) for row in part.rows]) for part in swept]


def promising(rows: Sequence[Row]) -> list[Row]:
    """Of each number of calls the RANKS nearest, and all that add noise."""
    chosen = []
    for calls in sorted({row.calls for row in rows}):
        of = [row for row in rows if row.calls == calls]
        chosen += [row for row in of if len(row.squares)][:RANKS]
        chosen += [row for row in of if not len(row.squares)]
    return chosen


def by_rank(rows: Sequence[Row]) -> list[Row]:
    """The first of every number of calls and guidance, then the second of each, and so on."""
    seen: dict[tuple[int, float], int] = {}
    ranked: list[tuple[int, int, Row]] = []
    for row in rows:
        key = (row.calls, row.guidance)
        seen[key] = seen.get(key, 0) + 1
        ranked.append((seen[key], len(ranked), row))
    return [row for _, _, row in sorted(ranked, key=lambda item: item[:2])]


# --- what is written


def command_of(loaded: Loaded, row: Row) -> str | None:
    """What to type to draw by the sampler of this row."""
    words = ["sfumato sample", shlex.quote(str(loaded.folder))]
    sampler, grid = sampler_text(row.rival.solver), grid_text(row.rival.grid)
    if row.rival.name == "tuned":
        words.append(f"--nfe {row.calls}")
    elif sampler is None or grid is None:
        return None
    else:
        words.append(f"--sampler {sampler} --steps {row.rival.steps} --grid {grid}")
    other = row.guidance if row.guidance != loaded.run.sampling.guidance else None
    flags = given(guidance=other)
    return " ".join([*words, *(f"--{name} {value:g}" for name, value in flags.items())])


def row_record(loaded: Loaded, row: Row) -> dict[str, Any]:
    far, quality = row.rival.distance, row.quality
    known = bool(len(row.squares)) and isfinite(far)
    return {
        "calls": row.calls,
        "spent": row.spent,
        "guidance": row.guidance,
        "sampler": row.rival.name,
        "steps": row.rival.steps,
        "grid": to_dict(row.rival.grid),
        "solver": to_dict(row.rival.solver),
        "adds_noise": not len(row.squares),
        "distance": far if known else None,
        "error": row.error if known and isfinite(row.error) else None,
        "seconds_an_image": row.seconds,
        "quality": None if quality is None else {"value": quality.mean, "error": quality.error},
        "command": command_of(loaded, row),
    }


def rows_record(loaded: Loaded, rows: Sequence[Row], guidances: int) -> list[dict[str, Any]]:
    """The rows; the nearest of each number of calls with the names of those that it ties with."""
    made, counts = [], sorted({row.calls for row in rows})
    for calls in counts:
        of = [row for row in rows if row.calls == calls]
        near = nearest(of)
        for row in of:
            made.append(row_record(loaded, row))
            if near[:1] == [row]:
                same = ties(near, len(counts) * guidances)
                made[-1]["ties"] = [one.rival.name for one in same]
    return made


def record_of(
    loaded: Loaded, swept: Sequence[Swept], judge: Judge | None, taken: float
) -> dict[str, Any]:
    """sweep.json. What the time left decides, or the guidance, is by guidance."""
    parts = {f"{part.guidance:g}": part for part in swept}
    return {
        "made_by": "sfumato sweep",
        "run": loaded.folder.name,
        "step": loaded.step,
        "weights": loaded.weights,
        "precision": loaded.precision,
        "clipped": loaded.run.sampling.clipped,
        "measure": "root mean square distance, as they are diffused, to the images of "
        f"{REFERENCE} on Karras' grid, in reference_steps, from the same noise",
        "reference_steps": {scale: part.plan.steps for scale, part in parts.items()},
        "images": {scale: part.plan.judge for scale, part in parts.items()},
        "seed": JUDGE_SEED,
        "check": f"{CHECK} in as many steps ends this far from it",
        "floor": {scale: part.floor for scale, part in parts.items()},
        "seconds": round(taken, 1),
        "quality": None if judge is None else judge.record(),
        "own": [row_record(loaded, part.own) for part in swept if part.own is not None],
        "rows": [row for part in swept for row in rows_record(loaded, part.rows, len(swept))],
    }


def write(loaded: Loaded, record: dict[str, Any]) -> None:
    write_file(loaded.folder / "sweep.json", json.dumps(record, indent=1).encode())
    about = {k: v for k, v in record.items() if k not in ("rows", "own")}
    sweep_figure(record, loaded.folder / "sweep.png", about)
    write_page(loaded.folder)
