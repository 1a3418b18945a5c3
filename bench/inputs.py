"""Whether images are there when they are wanted: waiting while training, and a first reading."""

import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from sfumato.arguments import Train
from sfumato.planning import plan
from sfumato.prefetching import source_for
from sfumato.training import Batch, take_step

from .commands import finished
from .machine import ROOT
from .options import Options, chosen, keep, say
from .ours import Ours
from .results import Row
from .rounds import Facts, Runner, in_turn

ROUNDS, REPEATS, MANY = 15, 4, 50_000
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "catsdogs128-train.tar"


def run(options: Options) -> None:
    measures = {"folder": folder_of_jpegs, "cold": cold_start}
    for case in chosen(options, list(measures)):
        keep("input", case, options, partial(measures[case], options))


def jpegs(folder: Path, count: int, side: int) -> Path:
    """A folder of `count` JPEGs of smooth random colours, a thousand to a sub-folder."""
    dice = np.random.default_rng(0)
    for index in range(count):
        into = folder / f"class-{index // 1000:03d}"
        into.mkdir(parents=True, exist_ok=True)
        coarse = dice.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(into / f"{index:06d}.jpg", quality=90)
    return folder


def photographs(folder: Path, quick: bool) -> tuple[Path, str]:
    """(a folder of 128 px JPEGs, what they are): real ones where they are to be had."""
    if PHOTOGRAPHS.exists() and not quick:
        with tarfile.open(PHOTOGRAPHS) as archive:
            archive.extractall(folder, filter="data")
        return folder, "2,000 photographs, JPEG, 128 px"
    count = 64 if quick else 2000
    return jpegs(folder, count, 128), f"{count:,} synthetic JPEGs, 128 px"


def folder_of_jpegs(options: Options) -> tuple[Facts, list[Row], Facts]:
    """Training steps in turn: on one batch that is there, and on batches as they come."""
    rounds = options.rounds or ROUNDS
    with TemporaryDirectory() as name:
        folder, words = photographs(Path(name), options.quick)
        begun = time.perf_counter()
        settings = ("network.channels=16", "network.head_channels=16") if options.quick else ()
        wanted = Train(source=str(folder), steps=1_000_000, batch=4 if options.quick else None)
        run, data = plan(replace(wanted, settings=settings))
        read = time.perf_counter() - begun
        step = Ours(run, data)  # type: ignore[arg-type]
    size = step.config.batch
    waits: list[list[float]] = [[]]  # of each turn, its first step not timed
    with source_for(torch.device("cpu"), step.batch_at) as source:
        there = source(0)

        def ready(_: int) -> Batch:
            return there

        def waited(at: int) -> Batch:
            begun = time.perf_counter()
            batch = source(at)
            waits[-1].append(time.perf_counter() - begun)
            return batch

        def turn() -> None:
            waits.append([])

        ways = {
            "a batch that is there already": ready,
            "batches as sfumato train makes them": waited,
            "each made when it is asked for": step.batch_at,
        }
        runners = [Runner(name, partial(stepped, step, way), turn) for name, way in ways.items()]
        seconds = in_turn(runners, rounds, repeats=REPEATS)
    rows = [Row(name, s, size * REPEATS, "images") for name, s in seconds.items()]
    waiting = sum(sum(turn[1:]) for turn in waits[1:])
    base, made = rows[:2]
    more = {
        "waiting_share": waiting / sum(made.seconds),
        "slower_than_ready": 1 / made.speedup_over(base) - 1,
        "reading_seconds": read,
        "images": len(data),
    }
    settings = {"rounds": rounds, "steps_a_round": REPEATS, "words": words, "batch": size}
    return settings, rows, more


def stepped(step: Ours, batch_at: Callable[[int], Batch]) -> None:
    """A training step on the batch that batch_at has for it."""
    take_step(step.state, step.task.loss, batch_at(step.state.step), step.config)


def cold_start(options: Options) -> tuple[Facts, list[Row], Facts]:
    """The first and the second plan of a folder of very many files, and what is said meanwhile."""
    count = 500 if options.quick else MANY
    with TemporaryDirectory() as name:
        folder = jpegs(Path(name) / "images", count, 32)
        first, lines = reading(folder, Path(name) / "home")
        again, _ = reading(folder, Path(name) / "home")
    say(f"  first reading {first:.1f} s, {len(lines)} lines of progress; again {again:.1f} s")
    rows = [
        Row("first reading", (first,), count, "files"),
        Row("second reading", (again,), count, "files"),
    ]
    words = f"{count:,} JPEGs of 32 px, by sfumato train FOLDER --dry-run"
    return {"words": words}, rows, {"lines": len(lines), "first_lines": lines[:5]}


def reading(folder: Path, home: Path) -> tuple[float, list[str]]:
    """Seconds of a dry run of training on the folder, and its lines of progress."""
    command = [sys.executable, "-m", "sfumato", "train", str(folder), "--dry-run"]
    begun = time.perf_counter()
    told = finished(command, {"SFUMATO_HOME": str(home)})
    seconds = time.perf_counter() - begun
    lines = (told.stdout + told.stderr).splitlines()
    return seconds, [line.strip() for line in lines if "reading images" in line]
