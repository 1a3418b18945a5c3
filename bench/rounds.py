"""Timing in turn: A B C A B C ..., so that whatever slows the machine slows all of them."""

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any


def nothing() -> None:
    """What has to be done before a turn where nothing has."""


@dataclass(frozen=True)
class Runner:
    """Something to time: each call of `step` is the same work once more.

    prepare: sets what is the whole program's for its turn; where there is one, a step that is not
    timed follows it.
    """

    name: str
    step: Callable[[], object]
    prepare: Callable[[], object] = nothing


def in_turn(
    runners: Sequence[Runner],
    rounds: int,
    warm: int = 2,
    repeats: int = 1,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, tuple[float, ...]]:
    """Seconds of each runner in each round, for `repeats` steps together; by name."""
    for runner in runners:
        for _ in range(warm):
            runner.step()
    seconds: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for _ in range(rounds):
        for runner in runners:
            gc.collect()
            if runner.prepare is not nothing:
                runner.prepare()
                runner.step()
            begun = clock()
            for _ in range(repeats):
                runner.step()
            seconds[runner.name].append(clock() - begun)
    return {name: tuple(values) for name, values in seconds.items()}


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third, by linear interpolation; of a single value that value."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def speedups(seconds: Sequence[float], base: Sequence[float]) -> list[float]:
    """How many times faster than `base` in each round.

    Raises: ValueError where the two did not take turns.
    """
    if len(seconds) != len(base):
        raise ValueError(
            f"{len(seconds)} rounds against {len(base)}: ratios are of rounds that took turns; "
            "measure both by one command."
        )
    return [theirs / own for own, theirs in zip(seconds, base, strict=True)]


def speedup(seconds: Sequence[float], base: Sequence[float]) -> float:
    """The median of speedups."""
    return median(speedups(seconds, base))


def trial(step: Callable[[], object], warm: int = 2, count: int = 3) -> float:
    """The median of a few steps, to choose among settings before the rounds."""
    for _ in range(warm):
        step()
    found: list[float] = []
    for _ in range(count):
        begun = perf_counter()
        step()
        found.append(perf_counter() - begun)
    return median(found)


Facts = dict[str, Any]
