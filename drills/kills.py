"""Runs that are killed, disks that are full, and two writers at once: K1, K2, K5, K8."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from sfumato import checkpoint, storage
from sfumato.folder import read_metrics
from sfumato.locking import sole_writer
from sfumato.storage import clear_unfinished, read_folder
from sfumato.training import TrainState

from . import tiny
from .drill import Count, Drill
from .nursery import command, exit_code, forked

# --- children


def child(work: Callable[[int], None]) -> tuple[int, int]:
    """A forked process that does work(the end of a pipe to write to); (its number, our end)."""
    ours, theirs = os.pipe()
    number = os.fork()
    if number:
        os.close(theirs)
        return number, ours
    os.close(ours)
    with contextlib.suppress(BaseException):
        work(theirs)
    os._exit(0)


def killed(number: int, end: int) -> bytes:
    """kill -9, and all that the child had written."""
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    with open(end, "rb") as file:
        return file.read()


# --- K1


def k1(short: bool) -> Count:
    """kill -9 around and inside saves: the last that was reported is there, and nothing else."""
    kills = 25 if short else 1000
    held, inside, cut = forked("kills:storm", kills)
    note = f"{inside:,} of them inside a save, {cut:,} left a part of one behind"
    return Count(kills + 1, held + (3 * cut > kills // 10), note)


def storm(kills: int) -> tuple[int, int, int]:
    """How many kills lost nothing, how many fell into a save, and how many left a part of one."""
    torch.set_num_threads(1)
    dice, state, reported = random.Random(1), tiny.advance(tiny.fresh()), 0
    held = inside = cut = 0
    with TemporaryDirectory() as folder:
        run = Path(folder)
        length = _seconds_of_a_save(Path(folder, "trial"), state)

        def work(end: int) -> None:
            for state.step in itertools.count(reported + 1):
                os.write(end, b"b")
                checkpoint.write(run, state, keep=2)
                os.write(end, b"e")

        for _ in range(kills):
            number, end = child(work)
            begun = os.read(end, 1)  # else a busy machine is killed before it has done anything
            time.sleep(dice.uniform(0, 3 * length))
            said = begun + killed(number, end)
            inside += said.endswith(b"b")
            least = reported + said.count(b"e")
            cut += bool(list(run.rglob(".unfinished*")))
            found = checkpoint.newest(run, mend=False)
            reported = 0 if found is None else checkpoint.step_of(found[0])
            if (run / "checkpoints").exists():
                clear_unfinished(run / "checkpoints")
            there = reported in (least, least + 1) and not list(run.rglob(".unfinished*"))
            held += there and all(map(_is_whole, checkpoint.folders(run)))
    return held, inside, cut


def _is_whole(folder: Path) -> bool:
    try:
        read_folder(folder)
    except storage.DamagedError:
        return False
    return True


def _seconds_of_a_save(run: Path, state: TrainState) -> float:
    """As long as it takes now, with whatever else the machine does."""
    begun = time.monotonic()
    for state.step in range(1, 6):
        checkpoint.write(run, state, keep=2)
    return (time.monotonic() - begun) / 5


# --- K2

COMMAND = [
    *("train", "digits", "--device", "cpu", "--limit", "200", "--batch", "12"),
    *("--micro-batch", "5", "--precision", "fp32", "--flip", "--label-dropout", "0.3"),
    *("--save-every", "3", "--previews", "2", "--sample-steps", "2", "network.channels=8"),
    *("network.multipliers=[1, 2]", "network.blocks=1", "network.groups=4"),
    *("network.attention_at=[]", "network.middle_attention=false", "network.dropout=0.1"),
    *("train.keep=3", "--quiet"),
]
RECIPE = [  # as it is, but for how often it saves and looks
    *("train", "digits", "--device", "cpu", "--save-every", "5", "--previews", "2", "--quiet"),
]


def start(folder: Path, steps: int, words: list[str] = COMMAND) -> int:
    """The command as a user types it, new or going on, in a process of its own; its number."""
    more = ["--resume"] if (folder / "run.json").exists() else []
    return command([*words, "--steps", str(steps), "--out", str(folder), *more])


def rows_of(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(folder) if row["kind"] == "train"]


def kill_at(number: int, folder: Path, step: int, delay: float) -> None:
    """kill -9 a moment after `step` is logged; or once it has ended before."""
    metrics = folder / "metrics.jsonl"
    while os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if metrics.exists() and metrics.read_text().count('"train"') >= step:
            break
        time.sleep(0.003)
    time.sleep(delay)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)


def k2(short: bool) -> Count:
    """A run of the command killed again and again ends bit for bit like one that never was."""
    if short:
        return Count(7, forked("kills:chain", 40, 6, COMMAND), "40 steps, 6 kills, and the end")
    small = forked("kills:chain", 400, 50, COMMAND)
    whole = forked("kills:chain", 150, 50, RECIPE)
    return Count(102, small + whole, "a small run of 400 steps, the recipe digits of 150")


def chain(steps: int, kills: int, words: list[str]) -> int:
    """How many of the kills left a checkpoint, and one more where the end is the same."""
    dice = random.Random(7)
    with TemporaryDirectory() as root:
        whole, broken = Path(root, "whole"), Path(root, "broken")
        if exit_code(start(whole, steps, words)):
            raise RuntimeError("the unbroken run failed")
        held = 0
        for mark in sorted(dice.choices(range(1, steps - 3), k=kills)):
            kill_at(start(broken, steps, words), broken, mark, dice.random() * 0.05)
            held += checkpoint.newest(broken, mend=False) is not None or mark < 10
        if exit_code(start(broken, steps, words)):
            raise RuntimeError("the run can't go on")
        return held + _same_end(whole, broken, steps)


def _same_end(whole: Path, broken: Path, steps: int) -> bool:
    """Weights, averages, moments and every logged loss."""
    first, second = (read_folder(checkpoint.folders(folder)[-1]) for folder in (whole, broken))
    files = ("weights.safetensors", "average.safetensors", "optimizer.safetensors")
    logged = rows_of(whole)
    return (
        all(first[name] == second[name] for name in files)
        and logged == rows_of(broken)
        and [step for step, _ in logged] == list(range(1, steps + 1))
        and not list(broken.rglob(".unfinished*"))
    )


# --- K5


@contextmanager
def small_disk(root: Path, size: int) -> Iterator[Callable[[int], None]]:
    """`root` has room for `size` bytes; yields what makes it larger.

    A file system of its own; for users who may not mount one, a limit to the size of a file.
    """
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)]
    if subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield lambda more: _remount(root, more)
        finally:
            subprocess.run(["umount", str(root)], check=True)
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(bytes_of_a_file: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_of_a_file, hard))

    try:
        yield limit
    finally:
        limit(soft)


def _remount(root: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(root)], check=True)


def k5(short: bool) -> Count:
    """A disk that fills up in a save, known before or not: the old one stays, the next succeeds."""
    state = tiny.advance(tiny.fresh(width=128))
    one = sum(map(len, checkpoint.files_of(state).values()))
    tried = held = 0
    with TemporaryDirectory() as folder:
        for number, known in itertools.product(range(0, 20, 7 if short else 1), (True, False)):
            size = int(one * (1 + number / 20)) + 16_384
            with small_disk(Path(folder, f"{number}-{known}"), 4 * one) as resize:
                run = Path(folder, f"{number}-{known}")
                tried, held = tried + 1, held + _survives(run, state, known, resize, size)
    return Count(tried, held, f"a checkpoint of {one:,} bytes, room for 1 to 2 of them")


def _survives(
    run: Path, state: TrainState, known: bool, resize: Callable[[int], None], size: int
) -> bool:
    """Save, let the disk be full, fail to save, make room, save."""
    first = checkpoint.write(run, tiny.advance(state), keep=1)
    wanted, before = read_folder(first), storage.check_room
    resize(size if os.path.ismount(run) else 20_000)
    if not known:
        storage.check_room = lambda folder, size: None  # as if another program took the room
    try:
        checkpoint.write(run, tiny.advance(state), keep=1)
        return False
    except OSError as error:
        # Seen before a byte is written, the message has the numbers. A limit to a file is not seen.
        told = str(run) in str(error) and (
            not (known and os.path.ismount(run)) or "are free" in str(error)
        )
    finally:
        storage.check_room = before
    kept = read_folder(first) == wanted and not list(run.rglob(".unfinished*"))
    resize(2**40)
    second = checkpoint.write(run, state, keep=1)
    return told and kept and checkpoint.folders(run) == [second]


# --- K8


def k8(short: bool) -> Count:
    """A second writer of a run is refused by name; a dead one's lock is free at once."""
    rounds = 5 if short else 50
    return Count(2 * rounds, forked("kills:two_writers", rounds), "within a second")


def two_writers(rounds: int) -> int:
    """How often the second was refused, and how often the next one after a kill was not."""
    held = 0
    with TemporaryDirectory() as folder:
        run = Path(folder)

        def work(end: int) -> None:
            with sole_writer(run):
                os.write(end, b"locked")
                time.sleep(60)

        for _ in range(rounds):
            number, end = child(work)
            os.read(end, 6)
            begun = time.monotonic()
            try:
                with sole_writer(run):
                    pass
            except ValueError as error:
                held += f"process {number} on" in str(error) and time.monotonic() - begun < 1
            killed(number, end)
            with sole_writer(run):
                held += 1
    return held


DRILLS: dict[str, Drill] = {"K1": k1, "K2": k2, "K5": k5, "K8": k8}
