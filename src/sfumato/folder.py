"""A run's folder: what training leaves behind, and where sampling finds it.

runs/NAME/  run.json        the settled settings; sfumato train --config reads it back
            data.json       the data set's name, size, classes and fingerprint
            metrics.jsonl   a JSON object a row      log.txt   all that was printed
            checkpoints/    see checkpoint.py
            samples/        grids from fixed seeds through training
            data-preview.png, loss.png, samples.png, film.webp, index.html
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import disk
from .interop.limits import shown
from .interop.reading import json_of
from .places import find as find
from .storage import write_file

LARGEST_COUNT = 10**12  # of images, and of pixels to a side


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
    """What the run in this folder remembers of its data.

    Raises: FileNotFoundError where there is no data.json; ValueError, naming it, where it is none.
    """
    where = folder / "data.json"
    fields = json_of(where.read_bytes(), where)
    wanted = {field.name for field in dataclasses.fields(DataCard)}
    if fields.keys() != wanted:
        odd = ", ".join(sorted(shown(name) for name in fields.keys() ^ wanted)[:4])
        raise ValueError(f"{where}: missing or unknown are {odd}; copy the run's folder again.")
    size, names = fields["size"], fields["class_names"]
    texts = (fields["name"], fields["source"], fields["fingerprint"])
    counts = (fields["images"], fields["channels"], *(size if isinstance(size, list) else [None]))
    if not all(isinstance(text, str) for text in texts) or not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"{where}: name, source, fingerprint and class_names are texts.")
    if len(counts) != 4 or not all(type(n) is int and 0 <= n <= LARGEST_COUNT for n in counts):
        raise ValueError(f"{where}: images, channels and size are {shown(counts)}: whole numbers.")
    return DataCard(**{**fields, "size": tuple(size), "class_names": tuple(names)})


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


def has_row(folder: Path, kind: str, step: int) -> bool:
    """Whether metrics.jsonl has a row of this kind at this step.

    A run that goes on looks again at the step of its checkpoint, whose rows rewind_metrics leaves:
    a checkpoint may be of before that step's look, and an end is looked at whenever it is started.
    """
    return any(row["kind"] == kind and row["step"] == step for row in read_metrics(folder))


def append_once(folder: Path, row: dict[str, Any]) -> None:
    """Add the row to metrics.jsonl unless one of its kind and step is there.

    Raises: OSError where the disk refuses.
    """
    if not has_row(folder, row["kind"], row["step"]):
        append_metrics(folder, row)


def rewind_metrics(folder: Path, step: int) -> None:
    """Drop the rows after `step`, which a resumed run will write again."""
    rows = [row for row in read_metrics(folder) if row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_file(folder / "metrics.jsonl", text.encode())
