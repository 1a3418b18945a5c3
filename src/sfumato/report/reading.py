"""What a page reads of a run's folder: JSON, metrics, and which pictures there are."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_rows(path: str | Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a metrics.jsonl, and how many of its lines are no rows.

    A run that was killed leaves half a line at most; more than one says that the file is damaged.
    """
    rows: list[dict[str, Any]] = []
    broken = 0
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(dict(json.loads(line)))
        except (TypeError, ValueError):
            broken += 1
    return rows, broken


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; an empty one where there is no file.

    Raises: ValueError, naming it, where it is none.
    """
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the JSON object that a run writes: {error}") from error


def step_grids(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the sample grids through training, in order."""
    found = [(re.fullmatch(r"step-(\d+)\.png", file.name), file) for file in folder.glob("*.png")]
    return sorted((int(match[1]), file) for match, file in found if match)


def newest(folder: Path, pattern: str) -> Path | None:
    """The file of this pattern that was written last."""
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)
    return found[-1] if found else None


def versions_of(folder: Path) -> str:
    """The versions and the commit that trained the run, as its log says; the last of several."""
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    told = re.findall(r"^  versions +(.*)$", text, re.MULTILINE)
    commits = re.findall(r"^  program +\S+ \((.+)\)$", text, re.MULTILINE)
    commit = f", commit {commits[-1]}" if commits else ""
    return f"{told[-1].strip()}{commit}" if told else ""


def draws(run: Mapping[str, Any]) -> bool:
    """Whether sfumato sample can draw from a run of this record: autoencoders draw nothing."""
    return run.get("kind", "Run") == "Run"
