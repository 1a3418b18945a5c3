"""Checkpoints under crashes, failing disks, damage and haste: K3, K4, K6, K7, K9, K10, K11."""

import errno
import itertools
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from sfumato import checkpoint, disk
from sfumato.folder import append_metrics, read_metrics
from sfumato.saving import Saver
from sfumato.storage import clear_unfinished, read_folder
from sfumato.training import TrainState

from . import crash, tiny
from .drill import Count, Drill

MOST_FAILED = 3  # saves in a row; docs/reliability.md promises it
FORMATS = Path(__file__).parent / "formats"


@contextmanager
def scratch() -> Iterator[Path]:
    with TemporaryDirectory(prefix="sfumato-drill-") as folder:
        yield Path(folder)


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint that is whole; -1 where there is none."""
    found = checkpoint.newest(run, mend=False)
    return -1 if found is None else checkpoint.step_of(found[0])


# --- K3


def k3(short: bool) -> Count:
    """Every state that a crash may leave of the writer's calls has the last reported checkpoint."""
    tried = held = 0
    with scratch() as root:
        run, state, calls = root / "run", tiny.fresh(), []
        run.mkdir()
        reported, files = [(0, -1)], {}
        for _ in range(3 if short else 6):
            tiny.advance(state)
            files[state.step] = checkpoint.files_of(state)
            with crash.recorded(calls):
                checkpoint.write(run, state, keep=2)
            reported.append((len(calls), state.step))
        found = crash.states(calls, run, random.Random(3))
        for done, now, chosen in itertools.islice(found, 0, None, 5 if short else 1):
            left = root / "left"
            crash.write_out(now.top, left, chosen)
            least = max(step for at, step in reported if at <= done)
            step = newest_step(left)
            whole = step < 0 or checkpoint.newest(left, mend=False)[1] == files[step]  # type: ignore[index]
            tried, held = tried + 1, held + (step >= least and whole)
            shutil.rmtree(left)
    return Count(tried, held, f"{len(calls)} calls")


# --- K4


@contextmanager
def failing(at: int, number: int, sticky: bool, part: bool) -> Iterator[list[str]]:
    """The at-th call of disk's primitives fails, or all from there on; yields what was called."""
    before, called = {name: getattr(disk, name) for name in crash.CALLS}, []

    def broken(name: str) -> Callable[..., None]:
        def call(*words: Any) -> None:
            called.append(name)
            if len(called) == at or (sticky and len(called) > at):
                if part and name == "write":
                    before[name](words[0], words[1][: len(words[1]) // 2])
                raise OSError(number, os.strerror(number), str(words[0]))
            before[name](*words)

        return call

    for name in crash.CALLS:
        setattr(disk, name, broken(name))
    try:
        yield called
    finally:
        for name, primitive in before.items():
            setattr(disk, name, primitive)


@dataclass
class Told:
    """What a series of saves said of itself."""

    steps: list[int] = field(default_factory=list)  # whose save was reported
    rows: list[int] = field(default_factory=list)  # whose row was
    said: list[str] = field(default_factory=list)
    stopped: bool = False


SAVES = 4


def saves(run: Path, state: TrainState) -> Told:
    """Four saves with rotation, a row each; the last one is waited for by closing alone."""
    told = Told()
    saver = Saver(run, replace(tiny.CONFIG, keep=2), told.said.append)
    try:
        for number in range(1, SAVES + 1):
            tiny.advance(state)
            before = len(told.said)
            saver.begin(state)
            saver.settle() if number < SAVES else saver.close()
            if len(told.said) == before:
                told.steps.append(state.step)
            try:
                append_metrics(run, {"step": state.step})
                told.rows.append(state.step)
            except OSError as error:
                told.said.append(f"{run}: {error}")
    except OSError as error:
        told.said.append(str(error))
        told.stopped = True
    return told


def stops_rightly(told: Told, state: TrainState) -> bool:
    """Three saves in a row that fail end a run at once, and so does the last one; no other does."""
    three = not any(step <= MOST_FAILED for step in told.steps)
    last = MOST_FAILED if three else SAVES
    return state.step == last and told.stopped == (last not in told.steps)


def k4(short: bool) -> Count:
    """The n-th call fails, for every n, once and for good: told by path, nothing lost, goes on."""
    numbers = ("ENOSPC", "EIO", "EDQUOT", "EMFILE", "EACCES", "EINTR")[: 1 if short else 6]
    tried = held = 0
    for word, sticky in itertools.product(numbers, (False, True)):
        number = getattr(errno, word)
        for at in itertools.count(1, 3 if short else 1):
            with scratch() as run:
                state = tiny.fresh()
                with failing(at, number, sticky, part=at % 2 == 0) as called:
                    told = saves(run, state)
                if len(called) < at:
                    break
                tried, held = tried + 1, held + (stops_rightly(told, state) and sound(run, told))
    return Count(tried, held, f"{', '.join(numbers)}; once and for good")


def sound(run: Path, told: Told) -> bool:
    """Once the disk works again: nothing reported is lost, all was told by path, and it goes on."""
    kept = newest_step(run) >= max(told.steps, default=-1)
    named = all(str(run) in text for text in told.said)
    rows = [row["step"] for row in read_metrics(run)] == told.rows  # none broken, lost or twice
    if (run / "checkpoints").exists():
        clear_unfinished(run / "checkpoints")
    state = tiny.advance(tiny.fresh(), SAVES + 1)
    checkpoint.write(run, state, keep=2)
    left = [path for path in run.rglob("*") if path.name.startswith(".unfinished")]
    return kept and named and rows and newest_step(run) == state.step and not left


# --- K6


def damages(folder: Path, dice: random.Random, counts: tuple[int, int, int]) -> Iterator[None]:
    """Damage a committed folder, wait to be looked at, and mend it again."""
    files = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    total = sum(map(len, files.values()))
    for _ in range(counts[0]):
        path = dice.choices(list(files), [len(content) / total for content in files.values()])[0]
        content = bytearray(files[path])
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(content)
        yield
        path.write_bytes(files[path])
    for _ in range(counts[1]):
        path = dice.choice(list(files))
        path.write_bytes(files[path][: dice.randrange(len(files[path]))])
        yield
        path.write_bytes(files[path])
    for number in range(counts[2]):
        one, other = dice.sample(list(files), 2)
        if number % 3 == 0:
            one.write_bytes(files[other])
            other.write_bytes(files[one])
        elif number % 3 == 1:
            one.write_bytes(bytes(len(files[one])))
        else:
            one.unlink()
        yield
        for path in (one, other):
            path.write_bytes(files[path])


def k6(short: bool) -> Count:
    """Flipped bits, cut, swapped, zeroed and deleted files are found before a tensor is used."""
    counts = (60, 20, 12) if short else (2000, 500, 200)
    tried = held = 0
    with scratch() as run:
        state = tiny.fresh()
        for _ in range(2):
            checkpoint.write(run, tiny.advance(state), keep=2)
        older, newer = checkpoint.folders(run)
        wanted = read_folder(older)
        for _ in damages(newer, random.Random(6), counts):
            said: list[str] = []
            found = checkpoint.newest(run, said.append)
            (aside,) = (run / "checkpoints").glob("*.corrupt")
            tried += 1
            held += found == (older, wanted) and len(said) == 1 and newer.name in said[0]
            aside.rename(newer)
    return Count(tried, held, "the one before was taken, the damaged renamed *.corrupt")


# --- K7


def k7(short: bool) -> Count:
    """Rotation keeps what it should, and never touches a file that is not its own."""
    tried = held = 0
    for keep, every in itertools.product(range(1, 6), (None, 4)):
        with scratch() as run:
            state = tiny.fresh()
            (run / "checkpoints").mkdir()
            strangers = [run / "checkpoints" / name for name in ("step-old", "notes.txt", "step-7")]
            for path in strangers:
                path.write_text("mine")
            for step in range(1, (12 if short else 50) + 1):
                checkpoint.write(run, tiny.advance(state), keep, every)
                steps = {checkpoint.step_of(path) for path in checkpoint.folders(run)}
                wanted = set(range(max(1, step - keep + 1), step + 1))
                wanted |= {s for s in range(1, step + 1) if every and s % every == 0}
                mine = all(path.read_text() == "mine" for path in strangers)
                tried, held = tried + 1, held + (steps == wanted and mine)
    return Count(tried, held, "keep 1 to 5, with and without every 4th")


# --- K9


def k9(short: bool) -> Count:
    """Checkpoints of every format that was ever written can be gone on with."""
    tried = held = 0
    for folder in sorted(FORMATS.iterdir()):
        state = tiny.fresh(seed=9)
        checkpoint.restore(state, read_folder(folder))
        wanted = tiny.advance(tiny.fresh(), 3)
        same = all(map(torch.equal, _tensors(state), _tensors(wanted)))
        tried, held = tried + 1, held + (same and state.step == 3)
    return Count(tried, held, f"formats {', '.join(p.name for p in sorted(FORMATS.iterdir()))}")


def _tensors(state: TrainState) -> list[torch.Tensor]:
    moments, _ = checkpoint.optimizer_tensors(state)
    weights = [*state.model.state_dict().values(), *state.average.state_dict().values()]
    return [*weights, *(moments[name] for name in sorted(moments))]


# --- K10


class Odd(nn.Module):
    """Tensors of one unusual kind beside an ordinary layer."""

    def __init__(self, value: torch.Tensor, twice: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("odd", value)
        if twice:
            self.again = nn.Linear(4, 4)
            self.again.weight = self.layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def k10(short: bool) -> Count:
    """Tied, strided, empty, scalar, low-precision, complex and ten thousand tensors come back."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 4, generator=generator)
    kinds = {
        "tied": (base, True),
        "transposed": (base.T, False),
        "strided": (base[::2, 1::2], False),
        "channels last": (torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), False),
        "empty": (torch.empty(0, 3), False),
        "scalar": (torch.tensor(3), False),
        "bool": (base > 0, False),
        "bf16": (base.bfloat16(), False),
        "fp16": (base.half(), False),
        "fp8": (base.to(torch.float8_e4m3fn), False),
        "complex": (torch.complex(base, base), False),
        "float64": (base.double() / 3, False),  # no float32 has these
    }
    held = 0
    for value, twice in kinds.values():
        held += _comes_back(lambda value=value, twice=twice: Odd(value.clone(), twice))
    many = 500 if short else 10_000
    held += _comes_back(lambda: nn.ParameterList([nn.Parameter(torch.ones(1))] * 0 + _many(many)))
    return Count(len(kinds) + 1, held, f"{', '.join(kinds)}, {many:,} tensors")


def _many(count: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.full((1,), float(index))) for index in range(count)]


def _comes_back(build: Callable[[], nn.Module]) -> bool:
    with scratch() as run:
        saved, again = (TrainState.fresh(build(), tiny.CONFIG) for _ in range(2))
        for parameter in again.model.parameters():
            parameter.data.zero_()
        checkpoint.write(run, saved, keep=1)
        checkpoint.restore(again, checkpoint.newest(run)[1])  # type: ignore[index]
    pairs = zip(saved.model.state_dict().values(), again.model.state_dict().values())
    names = list(saved.model.state_dict())
    plain = all("module." not in name and "_orig_mod" not in name for name in names)
    return plain and all(
        a.dtype == b.dtype and a.shape == b.shape and bytes_of(a) == bytes_of(b) for a, b in pairs
    )


def bytes_of(value: torch.Tensor) -> bytes:
    flat = value.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


# --- K11


def k11(short: bool) -> Count:
    """Training goes on while a save is written: what is saved is the state as it was."""
    tried = held = 0
    with scratch() as run:
        state, slow = tiny.fresh(), disk.sync
        disk.sync = lambda path: (slow(path), torch.ones(50_000).sum())[0]  # type: ignore[assignment]
        try:
            for _ in range(10 if short else 100):
                saver = Saver(run, replace(tiny.CONFIG, keep=1), print)
                wanted = checkpoint.files_of(tiny.advance(state))
                saver.begin(state)
                tiny.advance(state)
                saver.close()
                tried, held = tried + 1, held + (checkpoint.newest(run)[1] == wanted)  # type: ignore[index]
        finally:
            disk.sync = slow
    for number in range(10 if short else 100):
        with scratch() as run:
            told: list[str] = []
            saver = Saver(run, tiny.CONFIG, told.append)
            state = tiny.advance(tiny.fresh())
            with failing(1 + number % 10, errno.EIO, sticky=True, part=False):
                saver.begin(state)
                late = time.monotonic() + 5
                while not told and time.monotonic() < late:
                    saver.look()  # as every step does
            tried, held = tried + 1, held + (len(told) == 1 and "1 of 3 in a row" in told[0])
            saver.close()
            if not told:
                break  # each of them would be waited for
    return Count(tried, held, "saved while training goes on; errors told at the next step")


DRILLS: dict[str, Drill] = {
    **{"K3": k3, "K4": k4, "K6": k6, "K7": k7, "K9": k9, "K10": k10, "K11": k11},
}
