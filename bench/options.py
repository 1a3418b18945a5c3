"""What every benchmark is told, and how its parts reach the disk."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .machine import Watch, description
from .results import RESULTS, Part, Row, put


@dataclass(frozen=True)
class Options:
    """rounds: None is the benchmark's own. quick: tiny sizes, to see that it works.

    only: the case to measure; "" for all. run: a run's folder, where a benchmark needs one.
    loss: of `training`, the curves instead of the speed. data, minutes, runs: of `quality`, the
    images, how long to train (None: all its own lengths), and where its runs are kept.
    """

    rounds: int | None = None
    quick: bool = False
    only: str = ""
    out: Path = RESULTS
    run: str = ""
    loss: bool = False
    data: str = "fashion-mnist"
    minutes: int | None = None
    runs: Path = Path("runs/quality")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chosen(options: Options, names: list[str]) -> list[str]:
    """The cases to measure. Raises: ValueError where the one asked for is none of them."""
    if options.only and options.only not in names:
        raise ValueError(f"--only {options.only}: there is no such case; {', '.join(names)}.")
    return [options.only] if options.only else names


class Missing(RuntimeError):
    """A peer is not installed; the words say how to."""


def for_each(
    bench: str, options: Options, cases: Iterable[str], measure: Callable[[str], Any]
) -> None:
    """keep, of each case that is asked for; one whose peer is missing is said and left out."""
    for name in chosen(options, list(cases)):
        try:
            keep(bench, name, options, partial(measure, name))
        except Missing as missing:
            say(f"SKIPPED {name}: {missing}")


def keep(
    bench: str,
    case: str,
    options: Options,
    measure: Callable[[], tuple[dict[str, Any], list[Row], dict[str, Any]]],
) -> Part:
    """Measure (settings, rows, more), write them with the machine's state, and show them.

    Raises: ValueError where a quick look would overwrite what was measured.
    """
    if options.quick and options.out.resolve() == RESULTS.resolve():
        raise ValueError("--quick measures nothing worth keeping: give --out FOLDER with it.")
    watch, machine = Watch(), description()
    settings, rows, more = measure()
    machine |= watch.report()
    named = "training" if options.loss else bench  # whose option it is
    words = ["python -m bench", named, f"--only {case}"]
    words += [f"--run {from_here(Path(options.run))}"] if options.run else []
    words += ["--loss"] if options.loss else []
    words += [f"--data {Path(options.data).name}"] if options.data != Options.data else []
    words += [f"--minutes {options.minutes}"] if options.minutes else []
    words += [f"--rounds {options.rounds}"] if options.rounds else []
    words += ["--quick"] if options.quick else []
    settings = {"quick": options.quick, **settings}
    part = Part(case, " ".join(words), machine, settings, tuple(rows), more)
    path = put(bench, part, options.out)
    show(part)
    say(f"  written to {path}")
    return part


def from_here(path: Path) -> Path:
    """As it can be typed in this folder by anybody, or its name alone."""
    if not path.is_absolute():
        return path
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(path.name)


def show(part: Part) -> None:
    """A line a row."""
    say(f"{part.case}")
    for row in part.rows:
        low, high = row.quartiles
        turns = len(row.seconds) == len(part.rows[0].seconds)
        times = f"{row.speedup_over(part.rows[0]):6.2f} x" if turns else ""
        flops = f"{row.flops_rate / 1e9:8.1f} GFLOP/s" if row.flops else ""
        say(
            f"  {row.name:44} {row.rate:9.2f} {row.unit}/s  {row.median:9.4f} s "
            f"[{low:.4f}, {high:.4f}] {times} {flops}"
        )
