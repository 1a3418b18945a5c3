"""A run's folder: what training leaves behind, and where sampling finds it.

runs/NAME/  run.json        the settled settings; sfumato train --config reads it back
            data.json       the data set's name, size, classes and fingerprint
            metrics.jsonl   a JSON object a row      log.txt   all that was printed
            checkpoints/    see checkpoint.py
            samples/        grids from fixed seeds through training
            data-preview.png, loss.png, samples.png, film.webp, index.html
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import disk
from .storage import write_file


def new_folder(root: Path, name: str) -> Path:
    """root/name, or root/name-2, -3, ... : created here, never one that was there before."""
    for number in range(1, 100_000):
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise OSError(f"no free name like {name} is left in {root}.")


def find(run: str, root: Path = Path("runs")) -> Path:
    """The folder of a run given as a path, as a name in `root`, or as "last" (newest there).

    Raises: FileNotFoundError that lists what is there.
    """
    known = sorted(root.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if run == "last" and known:
        return known[-1].parent
    for path in (Path(run), root / run):
        if (path / "run.json").is_file():
            return path
    there = ", ".join(str(path.parent) for path in known[-8:]) or "none yet"
    raise FileNotFoundError(
        f"{run!r} is no run: no run.json is in it. Runs in {root}/: {there}. "
        "Give one of them, or 'last' for the newest."
    )


@dataclass(frozen=True)
class DataCard:
    """What a run remembers of its data set, so that sampling needs no data."""

    name: str
    source: str
    fingerprint: str
    images: int
    channels: int
    size: tuple[int, int]
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return (self.channels, *self.size)


def write_card(folder: Path, card: DataCard) -> None:
    write_file(folder / "data.json", json.dumps(vars(card), indent=1).encode())


def read_card(folder: Path) -> DataCard:
    fields = json.loads((folder / "data.json").read_text("utf-8"))
    fields["size"] = tuple(fields["size"])
    fields["class_names"] = tuple(fields["class_names"])
    return DataCard(**fields)


def append_metrics(folder: Path, *rows: dict[str, Any]) -> None:
    """Add rows to metrics.jsonl, all or none.

    Raises: OSError where the disk refuses.
    """
    text = "".join(json.dumps(row) + "\n" for row in rows)
    disk.append(folder / "metrics.jsonl", text.encode())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line that a kill cut short is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines) - 1:
                raise
    return rows


def rewind_metrics(folder: Path, step: int) -> None:
    """Drop the rows after `step`, which a resumed run will write again."""
    rows = [row for row in read_metrics(folder) if row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_file(folder / "metrics.jsonl", text.encode())
