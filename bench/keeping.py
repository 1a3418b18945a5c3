"""Trainings and drawings of many minutes, done once, and never taken for others.

FOLDER          what was trained
FOLDER.json     what it was asked to be, how long it took so far, whether it is done
FOLDER-drawn/   uint8 images in batches, and as drawn.json what they were asked to be
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .contenders import Draw
from .options import say
from .rounds import Facts

BATCH = 250  # drawn between two looks at the disk
CLASSES = 10


def kept(path: Path, asked: Facts, find: Callable[[], Facts]) -> Facts:
    """What a file says of what is asked for, or what is found now, which is then put there."""
    told: Facts = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if told | asked != told:
        told = {**asked, **find()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told), "utf-8")
    return told


def agreed(note: Path, asked: Facts) -> Facts:
    """What the note says, or asked itself where there is none.

    Raises: ValueError where it is of something else.
    """
    if not note.exists():
        return dict(asked)
    told: Facts = json.loads(note.read_text("utf-8"))
    if told | asked != told:
        was = {key: told.get(key) for key in asked}
        raise ValueError(
            f"{note} tells of {was}, and {asked} is asked for now: remove it and what it tells of, "
            "or give another folder by --runs."
        )
    return told


def note_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def once(folder: Path, asked: Facts, train: Callable[[], None]) -> float:
    """Train unless it was done; seconds by the clock, over all its parts.

    Raises: ValueError where the folder holds something else than was asked for.
    """
    note = note_of(folder)
    told = {"begun": datetime.now(UTC).isoformat(), "wall_s": 0.0} | agreed(note, asked)
    if not told.get("done"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(told), "utf-8")
        say(f"training {folder.name}: {asked['steps']:,} steps")
        since = time.monotonic()
        try:
            train()
            told["done"] = True
        finally:
            told["wall_s"] = round(told["wall_s"] + time.monotonic() - since, 1)
            note.write_text(json.dumps(told), "utf-8")
    return float(told["wall_s"])


def begun(folder: Path) -> str | None:
    """When a training began, by its note: another one in the same place began at another time."""
    return agreed(note_of(folder), {}).get("begun")


def drawings_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-drawn")


def drawn_by(draw: Callable[[], Draw], folder: Path, count: int, asked: Facts) -> Tensor:
    """uint8 images, seed k of class k % 10; batches that are on the disk are not drawn again.

    Raises: ValueError where those were drawn otherwise than asked.
    """
    kept = drawings_of(folder)
    kept.mkdir(parents=True, exist_ok=True)
    note, asked = kept / "drawn.json", {**asked, "count": count}
    note.write_text(json.dumps(agreed(note, asked)), "utf-8")
    drawer: Draw | None = None
    for start in range(0, count, BATCH):
        path = kept / f"{start:06d}.npy"
        if path.exists():
            continue
        drawer = drawer or draw()
        seeds = range(start, min(start + BATCH, count))
        images = drawer(seeds, [seed % CLASSES for seed in seeds])
        np.save(kept / "new.npy", images.numpy())
        (kept / "new.npy").replace(path)
    return stored(folder)


def stored(folder: Path) -> Tensor:
    paths = sorted(drawings_of(folder).glob("[0-9]*.npy"))
    parts = [np.load(path, allow_pickle=False) for path in paths]
    return torch.from_numpy(np.concatenate(parts))
