"""Several processes that train one model: R3, and D1, where one of them is killed."""

import os
import random
import shutil
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from sfumato import checkpoint, disk, distributed
from sfumato.commands import train as command_train
from sfumato.distributed import Follower, Group
from sfumato.trainer import Trainer

from . import together
from .drill import Count, Drill
from .nursery import forked
from .together import LIMIT, Arrange, AtStep, Ranks, end_of, losses_of, started, stop_after

EXACT = ("network.dropout=0.0",)  # else each process drops by dice of its own
CLOSE = 1e-6  # of losses, relative


def fsdp(wanted: bool) -> list[str]:
    if wanted:
        from sfumato import sharding  # noqa: F401  once, before the fork

    return ["--fsdp"] if wanted else ["train.fsdp=false"]


def matching(first: dict[int, float], second: dict[int, float]) -> int:
    """How many losses agree."""
    return sum(
        step in second and abs(second[step] - loss) <= CLOSE * abs(loss)
        for step, loss in first.items()
    )


def expect(codes: list[int], ranks: Ranks, limit: float = 60.0) -> None:
    found = ranks.ended(limit)
    if found != codes:
        told = [ranks.words(rank)[-300:] for rank in range(len(found))]
        raise RuntimeError(f"exit codes {found} instead of {codes}: {told}")


# --- R3

CHAINS = [  # (processes, whether FSDP2) of the parts of a run
    [(2, False), (1, False), (2, False)],
    [(2, False), (4, False), (1, False)],
    [(2, False), (2, True), (4, False)],
    [(4, True), (1, False), (2, True)],
    [(1, False), (4, True), (2, False)],
    [(2, True), (4, True), (1, False)],
]


def r3(short: bool) -> Count:
    """Gone on with by other numbers of processes, DDP or FSDP2: same images, noise and losses."""
    steps, tried, held = 4 if short else 30, 0, 0
    chains = [CHAINS[0][:2]] if short else CHAINS
    for number, chain in enumerate(chains):
        batch = 13 if number % 2 else 12
        tried, held = tried + 2 * steps, held + forked("processes:chain", chain, batch, steps)
    return Count(tried, held, f"{len(chains)} runs in parts by 1, 2 and 4 processes")


def chain(parts: list[tuple[int, bool]], batch: int, steps: int) -> int:
    """How many steps had the examples, and how many the loss, of one unbroken process."""
    more = ("--batch", str(batch), *EXACT)
    with TemporaryDirectory() as root:
        whole, broken = Path(root, "whole"), Path(root, "broken")
        alone = started(together.command(whole, steps, *more), 1, Path(root, "0"))
        expect([0], alone)
        seen: dict[int, list[str]] = {}
        for number, (size, cut) in enumerate(parts, 1):
            stop = steps * number // len(parts)
            words = together.command(broken, steps, *more, *fsdp(cut))
            at_step = stop_after(stop, size - 1) if stop < steps else together.as_given
            ranks = started(words, size, Path(root, str(number)), at_step=at_step)
            expect([143 if stop < steps else 0] * size, ranks)
            for step, examples in ranks.batches().items():
                seen.setdefault(step, []).extend(examples)
        wanted = alone.batches()
        same = sum(seen.get(step) == examples for step, examples in wanted.items())
        return same + matching(losses_of(whole), losses_of(broken))


# --- D1

PLACES = [
    *("start", "load", "meet", "prepare", "forward", "backward", "reduce", "save", "any"),
]


def suicide() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killing_at(place: str, victim: int, step: int) -> tuple[Arrange, AtStep]:
    """What makes a process end by kill -9 at a place of the program, in a step."""

    def instead(*arguments: Any, **more: Any) -> Any:
        suicide()

    def arrange(rank: int) -> None:
        if rank != victim:
            return
        if place == "start":
            suicide()
        if place == "load":
            command_train.plan = instead
        if place == "meet":
            distributed.dist.init_process_group = instead
        if place == "prepare":
            Trainer._prepare = Trainer._check_data = instead  # type: ignore[method-assign]
        if place == "reduce":
            nth_call(Group, "whole", step, instead)
        if place == "save":
            nth_call(Follower, "save", 1, instead)
            nth_call(disk, "write", 8, instead)  # in a checkpoint; before it are the run's files
            _in_shards(instead)

    def at_step(rank: int, finished: int, losses: Tensor) -> Tensor:
        if rank == victim and finished == step:
            if place == "forward":
                suicide()
            if place == "backward":
                losses.register_hook(instead)
        return losses

    return arrange, at_step


def nth_call(owner: Any, name: str, n: int, instead: Any) -> None:
    before, calls = getattr(owner, name), []

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return instead(*arguments) if len(calls) == n + 1 else before(*arguments)

    setattr(owner, name, counted)


def _in_shards(instead: Any) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    nth_call(HuggingFaceStorageWriter, "write_data", 1, instead)


STEPS = 12


def d1(short: bool) -> Count:
    """kill -9 one of 2 or 4 processes anywhere: the others end and name it; going on is exact."""
    dice, tried, held, slowest = random.Random(1), 1 if short else 30, 0, 0.0
    wanted: dict[tuple[int, bool], Any] = {}
    lost: list[Any] = []
    for number in range(tried):
        size = 2 if short or number % 3 else 4
        cut = number % 5 == 4
        place = "reduce" if short else PLACES[number % len(PLACES)]
        if (size, cut) not in wanted:
            wanted[size, cut] = forked("processes:unbroken", size, cut)
        victim, step = dice.randrange(size), dice.randrange(1, STEPS - 2)
        settings = (size, cut, place, victim, step, dice.uniform(0, 3))
        fine, seconds = forked("processes:killed", *settings, wanted[size, cut])
        held, slowest = held + fine, max(slowest, seconds)
        lost += [] if fine else [settings]
    found = f"; not exact: {lost}" if lost else ""
    return Count(tried, held, f"the slowest to notice took {slowest:.1f} s{found}")


def unbroken(size: int, cut: bool) -> list[Any]:
    with TemporaryDirectory() as root:
        run = Path(root, "run")
        expect([0] * size, started(together.command(run, STEPS, *fsdp(cut)), size, Path(root)))
        return end_of(run)


def killed(
    size: int, cut: bool, place: str, victim: int, step: int, delay: float, wanted: list[Any]
) -> tuple[bool, float]:
    """(whether all that is promised held, seconds until the last of the others had ended)."""
    with TemporaryDirectory() as root:
        run = Path(root, "run")
        arrange, at_step = killing_at(place, victim, step)
        words = together.command(run, STEPS, *fsdp(cut))
        ranks = started(words, size, Path(root), arrange, at_step)
        if place == "any":
            time.sleep(delay)
            os.kill(ranks.numbers[victim], signal.SIGKILL)
        _await(ranks.numbers[victim])
        begun = time.monotonic()
        codes = ranks.ended(LIMIT)
        seconds = time.monotonic() - begun
        others = codes[:victim] + codes[victim + 1 :]
        if place == "any" and others == [0] * (size - 1):  # all was trained and saved before
            return _same(end_of(run), wanted), 0.0
        _check_others(ranks, codes, victim, place)
        if (run / "checkpoints").exists() and checkpoint.folders(run):
            assert checkpoint.newest(run, mend=False) is not None, "no checkpoint loads"
        if not (run / "run.json").exists():
            shutil.rmtree(run, ignore_errors=True)
        expect([0] * size, started(together.command(run, STEPS, *fsdp(cut)), size, Path(root)))
        return _same(end_of(run), wanted), seconds


def _await(number: int) -> None:
    """Until a process has ended; it is still there to be asked how."""
    until = time.monotonic() + 60
    while os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            raise RuntimeError("the process that was to be killed never came there")
        time.sleep(0.01)


def _check_others(ranks: Ranks, codes: list[int | None], victim: int, place: str) -> None:
    for rank, code in enumerate(codes):
        told = ranks.words(rank)
        if rank != victim and (code in (0, None) or f"process {victim} of 0" not in told):
            raise RuntimeError(f"{place}: process {rank} ended with {code}: {told[-400:]!r}")


def _same(found: list[Any], wanted: list[Any]) -> bool:
    """Also where one of them went through JSON."""
    return found[:2] == wanted[:2] and [*map(list, found[2])] == [*map(list, wanted[2])]


DRILLS: dict[str, Drill] = {"R3": r3, "D1": d1}
