"""Seconds from a command to the first training step, and from another to the first image.

The commands are run as a user runs them; what they leave in their folder is watched for.
"""

import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from .commands import finished
from .options import Options, chosen, keep
from .results import Row
from .rounds import Facts

ROUNDS = 7
POLL = 0.005  # seconds
SFUMATO = [sys.executable, "-m", "sfumato"]
LONGEST = 1800.0


def run(options: Options) -> None:
    for case in chosen(options, ["startup"]):
        keep("startup", case, options, lambda: measured(options))


def measured(options: Options) -> tuple[Facts, list[Row], Facts]:
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepared = folder / "prepared"
        finished(train(prepared))
        moments: defaultdict[str, list[float]] = defaultdict(list)
        for turn in range(rounds):
            for row, seconds in one_turn(folder, prepared, turn).items():
                moments[row].append(seconds)
        imports = dearest_imports(train(folder / "imports"))
    rows = [Row(name, tuple(seconds)) for name, seconds in moments.items()]
    return {"rounds": rounds}, rows, {"imports": imports}


def train(out: Path) -> list[str]:
    return [*SFUMATO, "train", "digits", "--steps", "1", "--out", str(out)]


def one_turn(folder: Path, prepared: Path, turn: int) -> dict[str, float]:
    """Seconds to each moment of the two commands."""
    fresh, drawn = folder / f"run-{turn}", folder / f"drawn-{turn}"
    nothing = [sys.executable, "-c", "import torch"]
    begun, _ = watched(nothing, lambda: True, at_end=True)
    new = folder / f"new-{turn}"
    empty = {"SFUMATO_HOME": str(folder / f"home-{turn}")}  # what was compiled is kept there
    ever, _ = watched(train(new), lambda: has_row(new / "metrics.jsonl"), environment=empty)
    trained, done = watched(train(fresh), lambda: has_row(fresh / "metrics.jsonl"))
    sample = [*SFUMATO, "sample", str(prepared), "--out", str(drawn), "--no-film"]
    shown, _ = watched(sample, lambda: (drawn / "samples.png").exists())
    one = folder / f"one-{turn}"
    single = [*sample[:5], "--count", "1", "--no-film", "--out", str(one)]
    first, _ = watched(single, lambda: (one / "samples.png").exists())
    return {
        "import torch, for comparison": begun,
        "sfumato train digits: first step, with the C still to be compiled": ever,
        "sfumato train digits: first step": trained,
        "sfumato train digits --steps 1: done": done,
        "sfumato sample --count 1: first image": first,
        "sfumato sample: grid of 100": shown,
    }


def watched(
    command: list[str],
    seen: Callable[[], bool],
    at_end: bool = False,
    environment: Mapping[str, str] | None = None,
) -> tuple[float, float]:
    """Seconds until `seen`, or with at_end until it ended; and until the command's end.

    environment: beside this process's own.

    Raises: RuntimeError where it fails or nothing is seen, TimeoutError after LONGEST seconds.
    """
    begun, moment = time.perf_counter(), 0.0
    told = {**os.environ, **(environment or {})}
    process = subprocess.Popen(command, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        now = time.perf_counter() - begun
        if not moment and not at_end and seen():
            moment = now
        if now > LONGEST:
            process.kill()
            raise TimeoutError(f"{' '.join(command)} takes more than {LONGEST:.0f} s")
        time.sleep(POLL)
    ended = time.perf_counter() - begun
    if process.returncode or not seen():
        assert process.stderr is not None
        words = process.stderr.read().decode()[-2000:]
        raise RuntimeError(f"{' '.join(command)} failed, or left nothing to see: {words}")
    return moment or ended, ended


def has_row(path: Path) -> bool:
    """Whether metrics.jsonl has the row of a training step."""
    return path.exists() and '"kind": "train"' in path.read_text("utf-8")


def dearest_imports(command: list[str], most: int = 12) -> dict[str, float]:
    """Seconds spent in importing each top package's own modules, the dearest first."""
    told = finished([command[0], "-X", "importtime", *command[1:]])
    return by_package(told.stderr, most)


def by_package(report: str, most: int) -> dict[str, float]:
    """Of -X importtime's report: self times in seconds, summed by top package."""
    totals: defaultdict[str, float] = defaultdict(float)
    for match in re.finditer(r"^import time:\s+(\d+) \|\s+\d+ \| +(\S+)$", report, re.MULTILINE):
        totals[match[2].partition(".")[0]] += int(match[1]) / 1e6
    dearest = sorted(totals, key=lambda name: -totals[name])[:most]
    return {name: round(totals[name], 4) for name in dearest}
