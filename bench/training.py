"""Images a second of a training step, ours and the peers', on the same network and batch.

peer, as documented   fp32, the optimizer that its example has
peer, at its best     bf16 autocast (where the processor has it), channels_last and the fused
                      optimizer, all combinations tried, the fastest two also under torch.compile;
                      all with memory kept between steps as ours is; the two fastest measured, the
                      faster one shown
ours                  as `sfumato train` runs it, but that its waiting threads spin as PyTorch's do
                      by default, so that one program can hold the peers too
ours, fp32            the same without lower precision
"""

import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from sfumato.devices import emulates_bf16
from sfumato.memory import keep_freed

from .cases import Case, cases
from .commands import finished
from .options import Options, for_each, say
from .ours import Ours, ours
from .peers import Peer, Tuning
from .results import BEST, DOCUMENTED, Row
from .rounds import Facts, Runner, in_turn, trial

ROUNDS = 25
OURS, OURS_FP32 = "ours", "ours, fp32"
EAGER = [Tuning(*flags, keeps_memory=True) for flags in itertools.product((False, True), repeat=3)]
COMPILED = 2  # of the fastest of them are tried once more with torch.compile: minutes each


def run(options: Options) -> None:
    if options.loss:
        from . import curves

        curves.run(options)
        return
    there = cases(options.quick)
    for_each("training", options, there, lambda name: measured(there[name], options))


def measured(case: Case, options: Options) -> tuple[Facts, list[Row], Facts]:
    tried = tunings(case, options.quick)
    finalists = sorted(tried, key=lambda tuning: tried[tuning])[:2]
    runners: dict[str, Callable[[], float]] = {DOCUMENTED: Peer(case)}
    runners |= {f"{BEST}: {tuning}": Peer(case, tuning) for tuning in finalists}
    runners |= {OURS: step_of(case), OURS_FP32: step_of(case, "fp32")}
    rounds = options.rounds or ROUNDS
    turns = [Runner(name, step, partial(keep_freed, keeps(step))) for name, step in runners.items()]
    seconds = in_turn(turns, rounds)
    rows = [row_of(case, name, values) for name, values in seconds.items()]
    kept = with_one_best(rows)
    found = [with_facts(row, case, runners, options) for row in kept]
    settings = {"words": case.words, "peer": case.peer, "batch": case.batch, "shape": case.shape}
    trials = {str(tuning): case.batch / took for tuning, took in tried.items()}
    return {**settings, "rounds": rounds}, found, {"tried_images_per_s": trials}


def keeps(step: Callable[[], float]) -> bool:
    """Whether it is run with memory kept between steps: ours as the command does."""
    return step.tuning.keeps_memory if isinstance(step, Peer) else True


def step_of(case: Case, precision: str = "auto") -> Ours:
    return ours(case.network, case.batch, case.shape, precision, case.data())


def tunings(case: Case, quick: bool) -> dict[Tuning, float]:
    """Seconds a step of the peer under each combination of settings; with quick of a few."""
    tried: dict[Tuning, float] = {}

    def attempt(tuning: Tuning) -> None:
        keep_freed(tuning.keeps_memory)
        tried[tuning] = trial(Peer(case, tuning))
        torch.compiler.reset()  # past eight compiled variants it would quietly stop compiling
        say(f"  tried {tuning}: {case.batch / tried[tuning]:.2f} images/s")

    eager = [one for one in EAGER if not (one.bf16 and emulates_bf16(torch.device("cpu")))]
    for tuning in eager[::7] if quick else eager:
        attempt(tuning)
    for tuning in sorted(tried, key=lambda tuning: tried[tuning])[: 0 if quick else COMPILED]:
        attempt(replace(tuning, compiled=True))
    return tried


def row_of(case: Case, name: str, seconds: tuple[float, ...]) -> Row:
    return Row(name, seconds, case.batch, "images", case.flops)


def with_one_best(rows: list[Row]) -> list[Row]:
    """Of the two finalists the one that was faster in the rounds, under the plain name."""
    finalists = [row for row in rows if row.name.startswith(BEST)]
    best = min(finalists, key=lambda row: row.median)
    tuning = best.name.partition(": ")[2]
    shown = Row(BEST, best.seconds, best.amount, best.unit, best.flops, {"tuning": tuning})
    return [shown if row is best else row for row in rows if row is best or row not in finalists]


def with_facts(
    row: Row, case: Case, runners: dict[str, Callable[[], Any]], options: Options
) -> Row:
    """The row with its precision in words and the peak memory of a process of its own."""
    facts = dict(row.facts)
    step = runners.get(row.name)
    if isinstance(step, Ours):
        facts["precision"] = step.reason
    facts |= memory_of(case, row.name, facts.get("tuning", ""), options.quick)
    return Row(row.name, row.seconds, row.amount, row.unit, row.flops, facts)


def memory_of(case: Case, name: str, tuning: str, quick: bool) -> Facts:
    """Peak memory in MB of three steps in a fresh process, and what it held before the first."""
    words = [case.name, name, tuning, *(["quick"] if quick else [])]
    command = [sys.executable, "-m", "bench.memory", *words]
    told = finished(command)
    return json.loads(told.stdout.splitlines()[-1])


def stepper(case: Case, name: str, tuning: str) -> Callable[[], float]:
    """The step behind a row's name."""
    makers: dict[str, Callable[[], Callable[[], float]]] = {
        DOCUMENTED: lambda: Peer(case),
        BEST: lambda: Peer(case, Tuning.named(tuning)),
        OURS: lambda: step_of(case),
        OURS_FP32: lambda: step_of(case, "fp32"),
    }
    return makers[name]()
