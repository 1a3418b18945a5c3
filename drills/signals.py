"""Signals at any moment, and a terminal that is gone: D3, D4."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sfumato import checkpoint, training
from sfumato.folder import read_metrics

from .drill import Count, Drill
from .kills import COMMAND
from .nursery import command, exit_code, forked

STEPS, FEW = 60, 20  # FEW: where the run has only to come to its end
WORDS = [*COMMAND, "--steps", str(STEPS), "--previews", "6"]


def signalled(name: str, delay: float, again: float | None, seed: int) -> list[Any]:
    """[exit code, where it was, whether all was saved]; the signal comes after `delay` seconds.

    A delay below zero is counted from the first step on.
    """
    with TemporaryDirectory() as folder:
        run = Path(folder, "run")
        number = command([*WORDS, "--seed", str(seed), "--out", str(run)])
        while delay < 0 and '"train"' not in _metrics(run):
            time.sleep(0.002)
        time.sleep(abs(delay))
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, getattr(signal, name))
        if again is not None:
            time.sleep(again)
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, getattr(signal, name))
        return [exit_code(number), *state_of(run)]


def _metrics(run: Path) -> str:
    path = run / "metrics.jsonl"
    return path.read_text() if path.exists() else ""


def state_of(run: Path, steps: int = STEPS) -> tuple[str, bool]:
    """Where a run was when it ended, and whether its newest checkpoint has every logged step."""
    if not (run / "run.json").exists():
        return "before", True
    logged = [row["step"] for row in read_metrics(run) if row["kind"] == "train"]
    found = checkpoint.newest(run, mend=False)
    saved = -1 if found is None else checkpoint.step_of(found[0])
    clean = not list((run / "checkpoints").glob(".unfinished*"))
    if not logged:
        return "start", clean
    return ("end" if logged[-1] == steps else "middle"), saved == logged[-1] and clean


def d3(short: bool) -> Count:
    """SIGTERM, SIGUSR1 and SIGHUP, once or twice, at any time: every step is saved, 128 + n."""
    from . import decisions

    dice, tried, held, middle = random.Random(3), 6 if short else 100, 0, 0
    for number in range(tried):
        name = ("SIGTERM", "SIGUSR1", "SIGHUP")[number % 3]
        again = dice.uniform(0, 0.05) if number % 2 else None
        delay = dice.uniform(0, 3) if number % 4 == 3 else -dice.uniform(0, 0.4)
        code, where, saved = forked("signals:signalled", name, delay, again, number)
        n = int(getattr(signal, name))
        middle += where == "middle"
        wanted = (128 + n,) if where == "middle" else (128 + n, -n, 0)
        held += saved and code in wanted
    more, fine, inside = decisions.of_several(short)
    note = f"{middle + inside} in the middle of training; {more} to one or all of 2 or 4 processes"
    return Count(tried + more, held + fine, note)


def pipes(closed: bool) -> list[Any]:
    """[exit code, where, saved] of a run whose output goes nowhere: a broken pipe, or closed."""
    with TemporaryDirectory() as folder:
        run = Path(folder, "run")
        reading, writing = os.pipe()
        words = [word for word in WORDS if word != "--quiet"]
        number = command([*words, "--steps", str(FEW), "--out", str(run)], writing, reading)
        os.close(writing)
        if closed:
            os.close(reading)
        else:
            os.read(reading, 100)
            os.close(reading)
        return [exit_code(number), *state_of(run, FEW)]


SLOW = 5.0  # seconds of a step that Ctrl-C has to wait for once, and not twice


def in_a_slow_step(presses: int) -> list[Any]:
    """[exit code, seconds from the first Ctrl-C to the end] where the second step takes SLOW."""
    fast = training.take_step

    def slow(state: training.TrainState, *rest: Any, **more: Any) -> dict[str, float]:
        time.sleep(SLOW if state.step == 1 else 0)
        return fast(state, *rest, **more)

    training.take_step = slow
    with TemporaryDirectory() as folder:
        run = Path(folder, "run")
        number = command([*WORDS, "--out", str(run)])
        while '"train"' not in _metrics(run):
            time.sleep(0.002)
        time.sleep(0.5)
        begun = time.monotonic()
        for _ in range(presses):
            os.kill(number, signal.SIGINT)
            time.sleep(0.3)
        return [exit_code(number), time.monotonic() - begun]


def d4(short: bool) -> Count:
    """A pipe that breaks does not end a run; Ctrl-C saves, and again ends it at once."""
    once, waited = forked("signals:in_a_slow_step", 1)
    twice, at_once = forked("signals:in_a_slow_step", 2)
    slow = [once == 130 and waited > SLOW / 2, twice == 1 and at_once < SLOW / 2]
    held = tried = 0
    for closed in (True, False):
        code, where, saved = forked("signals:pipes", closed)
        tried, held = tried + 1, held + (saved and where == "end" and code == 0)
    for number in range(2 if short else 20):
        again = 0.002 if number % 2 else None
        code, where, saved = forked("signals:signalled", "SIGINT", -0.02 * (number + 1), again, 4)
        tried += 1
        held += code in (130, 1, 0) and (saved or again is not None)
    return Count(tried + 2, held + sum(slow))


DRILLS: dict[str, Drill] = {"D3": d3, "D4": d4}
