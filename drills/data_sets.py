"""Data sets that are partly broken, hostile, or change under a run; long runs: I2, I5, I7, I8."""

import hashlib
import io
import os
import random
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from sfumato import checkpoint
from sfumato.assembly import batches, build, loss_of, settle
from sfumato.config import Run
from sfumato.data import ImageData, UnreadableWarning, load
from sfumato.data.changes import changes, index, index_text, read_index
from sfumato.data.containers import plain_name
from sfumato.data.quarantine import as_text
from sfumato.networks.four_conv import FourConvConfig
from sfumato.recipes import RECIPES
from sfumato.schedules import Constant
from sfumato.trainer import Trainer
from sfumato.training import Batch, TrainState, train

from .drill import Count, Drill
from .memory import open_files, resident
from .mutants import encoded, write

CPU = torch.device("cpu")


def tiny_run(data: ImageData, steps: int) -> Run:
    """The digits recipe with a network of four small convolutions."""
    recipe = RECIPES["digits"]()
    fields = {"seconds": None, "steps": steps, "batch": 8, "previews": 0, "decay": Constant()}
    return settle(
        replace(
            recipe,
            data=replace(recipe.data, flip=True, label_dropout=0.3, held_out=0),
            network=FourConvConfig(widths=(4, 4)),
            train=replace(recipe.train, **fields),
            sampling=replace(recipe.sampling, guidance=1.0, steps=1),
            precision="fp32",
        ),
        data,
    )


class Watched:
    """Training's hooks: each step is told of, and the run stops after `stop_at`."""

    def __init__(self, each: Callable[[TrainState], None], stop_at: int | None = None) -> None:
        self.each, self.stop_at, self.now = each, stop_at, 0

    def log(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.now = state.step
        self.each(state)

    def preview(self, state: TrainState) -> None: ...

    def save(self, state: TrainState) -> None: ...

    def stopped(self) -> bool:
        return self.stop_at is not None and self.now >= self.stop_at


def noise(number: int, side: int = 8) -> bytes:
    values = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    return encoded(Image.fromarray(values), "PNG")


# --- I2 -----------------------------------------------------------------------------------------


def i2(short: bool) -> Count:
    """A set with broken files trains, stops and goes on with the same batches; too many stop it"""
    count, steps = (100, 8) if short else (1000, 60)
    broken = sorted(random.Random(2).sample(range(count), count // 10))
    held = 0
    with TemporaryDirectory() as root:
        folder = write(Path(root), {f"{k:04}.png": noise(k) for k in range(count)})
        for number, k in enumerate(broken):
            path = folder / f"{k:04}.png"
            path.write_bytes(path.read_bytes()[: 60 * (number % 2)])
        data, words = _loaded(folder)
        held += _listed(data) == [f"{k:04}.png" for k in broken] == _listed_in(as_text, data)
        held += "LOOKS DAMAGED, 10.0% of it" in words
        whole, parted = _trained(folder, steps, steps), _trained(folder, steps, steps // 2)
        held += whole == parted
        held += _shares_hold(folder, count)
    return Count(4, held, f"{len(broken)} of {count} broken, {steps} steps")


def _loaded(folder: Path) -> tuple[ImageData, str]:
    """The set, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load(folder, 8, 3)
    words = [str(w.message) for w in caught if issubclass(w.category, UnreadableWarning)]
    return data, "\n".join(words)


def _listed(data: ImageData) -> list[str]:
    return [name for name, why in data.unreadable if why]


def _listed_in(text: Callable[..., str], data: ImageData) -> list[str]:
    return [line.partition("\t")[0] for line in text(data.unreadable).splitlines()]


def _trained(folder: Path, steps: int, stop_at: int) -> list[str]:
    """A digest of every batch and of the last weights; stopped at a step, read anew, gone on."""
    seen, saved, at = [], None, 0
    while at < steps:
        data, _ = _loaded(folder)
        run = tiny_run(data, steps)
        state = TrainState.fresh(build(run, CPU), run.train)
        if saved is not None:
            checkpoint.restore(state, saved)
        batch_at = batches(run, data, CPU)

        def seen_batch(step: int, batch_at: Callable[[int], Batch] = batch_at) -> Batch:
            batch = batch_at(step)
            seen.append(_digest(*batch.values()))
            return batch

        train(state, loss_of(run), seen_batch, run.train, Watched(lambda _: None, stop_at))
        saved, at, stop_at = checkpoint.files_of(state), state.step, steps
    return [*seen, _digest(*state.model.state_dict().values())]


def _digest(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _shares_hold(folder: Path, count: int) -> bool:
    """One broken file of all is a warning with its name; more than a fifth are an error."""
    paths = sorted(folder.iterdir())
    for k, path in enumerate(paths):
        path.write_bytes(noise(k) if k else b"")
    _, words = _loaded(folder)
    for path in paths[: count // 5 + 1]:
        path.write_bytes(b"")
    try:
        _loaded(folder)
    except ValueError as error:
        told = f"{count // 5 + 1:,} of {count:,} images cannot be read: 0000.png" in str(error)
        return told and "0000.png (the file is empty)" in words and "DAMAGED" not in words
    return False


# --- I5 -----------------------------------------------------------------------------------------

NAMES = (
    *("../{}.png", "../../{}.png", "a/../../{}.png", "/{}.png", "//x/{}.png", "C:\\{}.png"),
    *("..\\..\\{}.png", "\\\\host\\share\\{}.png", "./{}.png", "a/./{}.png", "a//{}.png"),
    *("\u2025/{}.png", "\uff0e\uff0e/{}.png", "%2e%2e/{}.png", "~/{}.png", "$HOME/{}.png"),
    *("a\n{}.png", "a\x1b[2J{}.png", "\u202e{}.png", "con.{}.png", "{}.png/.."),
)
KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


def i5(short: bool) -> Count:
    """Archives whose members are called or linked to what lies outside: nothing is written"""
    tried, held = (24, 0) if short else (200, 0)
    with TemporaryDirectory() as root:
        (Path(root) / "canary.png").write_bytes(noise(0))
        for number in range(tried):
            inside = Path(root, "deep", "er", f"{number}")
            inside.mkdir(parents=True)
            held += _stays_inside(Path(root), inside, random.Random(number))
    return Count(tried, held)


def _stays_inside(root: Path, folder: Path, dice: random.Random) -> bool:
    """One archive: read, every name plain, and the folders around it as they were."""
    names = [name.format(f"n{k}") for k, name in enumerate(dice.sample(NAMES, 8))]
    names += [f"{root}/absolute.png", "Same.png", "same.png", "twice.png", "twice.png"]
    make = dice.choice((_zip, _tar))
    path = make(folder / "set", names, root / "canary.png")
    before = _tree(root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = load(path, 8)
    plain = all(_is_plain(name) for name in data.names or ())
    wanted = {plain_name(n) for n in names if plain_name(n)}
    return _tree(root) == before and plain and set(data.names or ()) == wanted


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return name.isprintable() and not {"", ".", ".."} & set(parts) and "\\" not in name


def _zip(path: Path, names: list[str], target: Path) -> Path:
    path = path.with_suffix(".zip")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of names that stand twice
        for number, name in enumerate(names):
            archive.writestr(zipfile.ZipInfo(name), noise(number))
    return path


def _tar(path: Path, names: list[str], target: Path) -> Path:
    path = path.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = len(noise(number))
            archive.addfile(member, io.BytesIO(noise(number)))
        for number, kind in enumerate(KINDS):
            member = tarfile.TarInfo(f"odd{number}.png")
            member.type, member.linkname = kind, str(target)
            archive.addfile(member)
    return path


def _tree(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*")}


# --- I7 -----------------------------------------------------------------------------------------


def i7(short: bool) -> Count:
    """Files added, removed and changed between stop and going on: refused, and counted"""
    held = 0
    with TemporaryDirectory() as root:
        folder = write(Path(root, "set"), {f"{k:03}.png": noise(k) for k in range(120)})
        data = load(folder, 8)
        run, _ = Trainer(tiny_run(data, 1), data, CPU, quiet=True).start(None, Path(root, "run"))
        before = read_index(index_text(index(data) or {}))
        held += str(changes(before, index(load(folder, 8)) or {})) == UNCHANGED
        for alter, told in CHANGES:
            alter(folder)
            now = load(folder, 8)
            held += str(changes(before, index(now) or {})) == told
            held += _refused(now, run) == (alter is not _rename)
    return Count(1 + 2 * len(CHANGES), held)


def _refused(data: ImageData, folder: Path) -> bool:
    try:
        Trainer(tiny_run(data, 2), data, CPU, quiet=True).start(folder, None)
    except ValueError as error:
        return "not those that the run began with" in str(error)
    return False


def _change(folder: Path) -> None:
    for k in (3, 4, 5, 6):
        (folder / f"{k:03}.png").write_bytes(noise(100 + k))


def _add(folder: Path) -> None:
    write(folder, {f"new{k}.png": noise(200 + k) for k in range(2)})


def _remove(folder: Path) -> None:
    for k in (0, 1, 119):
        (folder / f"{k:03}.png").unlink()


def _rename(folder: Path) -> None:
    """The files of the start, the last one under another name: the same images in their order."""
    for path in folder.iterdir():
        path.unlink()
    write(folder, {f"{k:03}.png": noise(k) for k in range(119)} | {"zz.png": noise(119)})


UNCHANGED = "0 added; 0 removed; 0 changed"
CHANGES = (
    (_change, "0 added; 0 removed; 4 changed (003.png, 004.png, 005.png, ...)"),
    (_add, "2 added (new0.png, new1.png); 0 removed; 4 changed (003.png, 004.png, 005.png, ...)"),
    (
        _remove,
        "2 added (new0.png, new1.png); 3 removed (000.png, 001.png, 119.png); "
        "4 changed (003.png, 004.png, 005.png, ...)",
    ),
    (_rename, "1 added (zz.png); 1 removed (119.png); 0 changed"),
)


# --- I8 -----------------------------------------------------------------------------------------


def i8(short: bool) -> Count:
    """A long run that reads its set again and saves now and then: memory and open files stay"""
    # A short run is still warming up; it can only show leaks of 20 kilobytes a step and more.
    return soak(400, 20, most=20) if short else soak(20_000, 250, most=1)


def soak(steps: int, every: int, most: float) -> Count:
    """Memory may grow by `most` MB in 1,000 steps of the second half, looked at `every` so many."""
    with TemporaryDirectory() as root:
        folder = write(Path(root, "set"), {f"{k:02}.png": noise(k) for k in range(40)})
        data = load(folder, 8)
        run = tiny_run(data, steps)
        state = TrainState.fresh(build(run, CPU), run.train)
        memory, files, shared = [], [], _shared()

        def look(state: TrainState) -> None:
            if state.step % every == 0:
                load(folder, 8)
                checkpoint.write(Path(root, "run"), state, 1)
                memory.append(resident())
                files.append(open_files())

        train(state, loss_of(run), batches(run, data, CPU), run.train, Watched(look))
    half = len(memory) // 2
    slope = float(np.polyfit(np.arange(half) * every / 1000, memory[half : 2 * half], 1)[0])
    held = (slope < most) + (len(set(files)) == 1) + (_shared() == shared)
    return Count(3, held, f"{slope:+.2f} MB each 1,000 of {steps:,} steps, {files[-1]} files open")


def _shared() -> set[str]:
    """What this process has in shared memory: torch puts its number into the names."""
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else ()
    return {name for name in names if str(os.getpid()) in name}


DRILLS: dict[str, Drill] = {"I2": i2, "I5": i5, "I7": i7, "I8": i8}
