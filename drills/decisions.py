"""Several processes decide alike: D2, D5, and the part of D3 with several."""

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from sfumato import checkpoint
from sfumato.commands import train as command_train
from sfumato.distributed import Follower
from sfumato.folder import read_metrics
from sfumato.session import Session

from . import together
from .drill import Count, Drill
from .nursery import forked
from .processes import EXACT, STEPS, expect, fsdp, matching, nth_call
from .signals import state_of
from .together import AtStep, Ranks, losses_of, started

# --- D2

FAULTS = [  # (what, in which process, of how many, whether FSDP2)
    *(("number", 0, 2, False), ("number", 1, 2, True), ("number", 3, 4, False)),
    *(("numbers", 1, 2, False), ("numbers", 0, 2, True)),
    *(("disk", 0, 2, False), ("disk", 1, 2, True), ("disk", 0, 2, True)),
    *(("full", 0, 2, False), ("full", 1, 2, True), ("full", 0, 4, False)),
    *(("image", 0, 2, False), ("image", 1, 2, False), ("image", 2, 4, False)),
    *(("hook", 0, 2, False), ("hook", 1, 2, False), ("hook", 3, 4, True)),
    *(("loss", 0, 2, False), ("loss", 1, 2, True), ("loss", 2, 4, False)),
]
GOES_ON, STOPS, NOT_FINITE = "goes on", "stops", "stops with 3"
DECISIONS = {"number": GOES_ON, "disk": GOES_ON, "numbers": NOT_FINITE}


def d2(short: bool) -> Count:
    """NaN, a full disk, another image or an exception in one process: one decision in all."""
    chosen = FAULTS[:1] if short else FAULTS
    held = sum(forked("decisions:faulty", *fault) for fault in chosen)
    return Count(len(chosen), held, "left out, gone on with or stopped, by 2 and 4 processes")


def faulty(what: str, victim: int, size: int, cut: bool) -> bool:
    """Whether all of them went on, or all of them stopped."""
    with TemporaryDirectory() as root:
        run = Path(root, "run")
        words = together.command(run, 2 * STEPS, *fsdp(cut))

        def arrange(rank: int) -> None:
            if rank == victim:
                BREAKS[what](rank, cut)

        ranks = started(words, size, Path(root), arrange, at_step_of(what, victim))
        codes = ranks.ended(60)
        decision = DECISIONS.get(what, STOPS)
        wanted = {GOES_ON: [0] * size, NOT_FINITE: [3] * size}
        alike = codes == wanted[decision] if decision in wanted else None not in codes
        if not alike or (decision == STOPS and 0 in codes):
            raise RuntimeError(f"{what} in process {victim}: exit codes {codes}")
        return _told(what, victim, run, ranks)


def at_step_of(what: str, victim: int) -> AtStep:
    def at_step(rank: int, finished: int, losses: Tensor) -> Tensor:
        if rank == victim and finished == 4 and what == "loss":
            raise RuntimeError("an error of the drill")
        bad = what == "numbers" or (what == "number" and finished == 4)
        return losses * float("nan") if rank == victim and finished > 3 and bad else losses

    return at_step


def _refuse(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _break_disk(rank: int, cut: bool, calls: int = 1) -> None:
    """A save that fails, or all of them."""
    if not cut:
        _failing(checkpoint, "commit", calls)
        return
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    _failing(HuggingFaceStorageWriter, "write_data", calls)


def _failing(owner: Any, name: str, calls: int) -> None:
    """The first so many calls fail."""
    before, made = getattr(owner, name), []

    def call(*arguments: Any, **more: Any) -> Any:
        made.append(1)
        return _refuse() if len(made) <= calls else before(*arguments, **more)

    setattr(owner, name, call)


def _break_image(rank: int, cut: bool) -> None:
    before = command_train.plan

    def plan(*arguments: Any) -> Any:
        run, data = before(*arguments)
        images = data.images.clone()
        images[0, 0, 0, 0] ^= 1
        return run, replace(data, images=images)

    command_train.plan = plan


def _break_hook(rank: int, cut: bool) -> None:
    def log(*arguments: Any) -> None:
        raise RuntimeError("an error of the drill")

    nth_call(Follower if rank else Session, "log", 3, log)


def _break_nothing(rank: int, cut: bool) -> None: ...


BREAKS: dict[str, Callable[[int, bool], None]] = {
    "number": _break_nothing,
    "numbers": _break_nothing,
    "loss": _break_nothing,
    "disk": _break_disk,
    "full": lambda rank, cut: _break_disk(rank, cut, calls=1000),
    "image": _break_image,
    "hook": _break_hook,
}


def _told(what: str, victim: int, run: Path, ranks: Ranks) -> bool:
    """Whether the reason can be read, and all did the same steps until then."""
    size = len(ranks.numbers)
    said = [ranks.words(rank) for rank in range(size)]
    last = [max((step for step, _ in ranks.rows(rank)), default=-1) for rank in range(size)]
    if what in ("number", "numbers"):
        left_out = [row["step"] for row in read_metrics(run) if row["kind"] == "skipped"]
        wanted = [5] if what == "number" else list(range(5, 14))
        return left_out == wanted and len(set(last)) == 1
    if what == "disk":
        return "a save failed" in (run / "log.txt").read_text() and set(last) == {2 * STEPS - 1}
    if what == "full":
        return "No space left" in said[0] and max(last) < 2 * STEPS
    if what == "image":
        return any("images are not those" in words for words in said) and set(last) == {-1}
    return all(words for words in said) and "an error of the drill" in said[0] + said[victim]


# --- D5

UNEVEN = [  # (batch, at once, processes, whether FSDP2, images)
    *((13, 3, 4, False, 200), (13, 3, 4, True, 200), (12, 5, 2, True, 200)),
    *((5, 1, 4, False, 200), (5, 1, 4, True, 200), (4, 4, 4, True, 200)),
    *((2, 1, 2, False, 200), (16, 7, 2, False, 10), (16, 5, 4, True, 12)),
]
TOO_FEW = [(3, 4, False), (1, 2, False), (1, 2, True)]  # (batch, processes, whether FSDP2)


def d5(short: bool) -> Count:
    """Batches and data sets that no number divides: exact; too small for all: told before step 1"""
    uneven, few = (UNEVEN[:0], TOO_FEW[1:2]) if short else (UNEVEN, TOO_FEW)
    held = sum(forked("decisions:exact", *case) for case in uneven)
    held += sum(forked("decisions:refused", *case) for case in few)
    return Count(len(uneven) + len(few), held, "the last part short, fewer images than a batch")


def exact(batch: int, most: int, size: int, cut: bool, limit: int) -> bool:
    """Whether each step has the images, the noise and the loss of one process."""
    steps = 6
    more = ("--batch", str(batch), "--micro-batch", str(most), "--limit", str(limit), *EXACT)
    with TemporaryDirectory() as root:
        whole, parted = Path(root, "whole"), Path(root, "parted")
        alone = started(together.command(whole, steps, *more), 1, Path(root, "0"))
        expect([0], alone)
        ranks = started(together.command(parted, steps, *more, *fsdp(cut)), size, Path(root, "1"))
        expect([0] * size, ranks)
        same = ranks.batches() == alone.batches()
        return same and matching(losses_of(whole), losses_of(parted)) == steps


def refused(batch: int, size: int, cut: bool) -> bool:
    """Whether all end with 1 before a folder is made, and one of them says why."""
    with TemporaryDirectory() as root:
        run = Path(root, "run")
        words = together.command(run, 3, "--batch", str(batch), *fsdp(cut))
        ranks = started(words, size, Path(root))
        codes = ranks.ended(60)
        said = [rank for rank in range(size) if "can't be shared" in ranks.words(rank)]
        return codes == [1] * size and said == [0] and not run.exists()


# --- D3


def signalled(
    name: str, size: int, cut: bool, victims: list[int], delay: float, seed: int
) -> tuple[list[int | None], str, bool, bool]:
    """(exit codes, where it was, whether all was saved, whether all stopped after one step).

    A delay below zero is counted from the first step on.
    """
    with TemporaryDirectory() as root:
        run = Path(root, "run")
        words = together.command(run, 60, "--seed", str(seed), *fsdp(cut))
        ranks = started(words, size, Path(root))
        while delay < 0 and not ranks.rows(0):
            time.sleep(0.002)
        time.sleep(abs(delay))
        for victim in victims:
            os.kill(ranks.numbers[victim], getattr(signal, name))
        codes = ranks.ended(30)
        last = {max((step for step, _ in ranks.rows(rank)), default=-1) for rank in range(size)}
        return codes, *state_of(run), len(last) == 1


def of_several(short: bool) -> tuple[int, int, int]:
    """(tried, held, in the middle): SIGTERM or SIGUSR1 to one of several processes or to all."""
    dice, tried, held, middle = random.Random(5), 1 if short else 24, 0, 0
    for number in range(tried):
        name, size = ("SIGTERM", "SIGUSR1")[number % 2], 4 if number % 4 == 3 else 2
        cut = number % 6 == 5
        victims = list(range(size)) if number % 3 == 2 else [dice.randrange(size)]
        settings = (name, size, cut, victims, -dice.uniform(0.0, 0.5), number)
        codes, where, saved, together_ = forked("decisions:signalled", *settings)
        n = int(getattr(signal, name))
        middle += where == "middle"
        wanted = [[128 + n] * size] if where == "middle" else [[128 + n] * size, [0] * size]
        held += saved and together_ and codes in wanted
    return tried, held, middle


DRILLS: dict[str, Drill] = {"D2": d2, "D5": d5}
