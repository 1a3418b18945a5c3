"""sfumato distill: a run that draws in one or two steps, tuned from a run that takes many.

RUN-distilled/    a run like any other: gone on with, sampled, measured by the same commands
    checkpoints/step-000000000   the teacher's averaged weights
    distilled.png                teacher and student from the same seeds, at the end
"""

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import checkpoint
from ..arguments import Distill, UsageError, seconds
from ..assembly import build
from ..conditions import Captions
from ..config import Run, SamplingConfig
from ..consistency import ConsistencyGrid, ConsistencyTuning, MultistepConsistency
from ..console import Reporter, duration, reading
from ..data import ImageData
from ..devices import pick_device
from ..distributed import started_together
from ..folder import append_metrics, write_card
from ..generation import Order, draw
from ..kinds import dumps, read_run, to_dict
from ..latents import IN_RUN
from ..loading import Loaded, load_run
from ..pictures import grid, save_png
from ..planning import data_of, given, with_settings
from ..storage import write_file
from ..text import CARD, TENSORS
from ..trainer import Trainer, list_files
from ..training import TrainState
from .import_ import folder_of

LR_SHARE = 0.5  # of the teacher's learning rate
# Of three trainings of the digits, 120 to 170 steps each, the one that came to small steps soonest
# was the best; and 1.6 better than 0.8 or 3 as the noise level between two steps.
TUNING, MIDDLE = ConsistencyTuning(q=16.0, stages=2), 1.6
OF_THE_START = ("time", "steps", "lr", "batch", "middle", "precision", "seed", "name")
COLUMNS, BLOCKS = 10, 3  # of the picture at the end; a block is a row of each sampler


def run_distill(args: Distill) -> None:
    """Make the student's folder, train in it, then draw it beside its teacher."""
    if started_together():
        raise UsageError(
            "sfumato distill is one process. Stop it after its first step, and go on with several: "
            "torchrun --nproc-per-node N -m sfumato train FOLDER"
        )
    device = pick_device(args.device)
    teacher = load_run(args.run, device)
    say = Reporter(quiet=args.quiet).say
    teacher.tell_moved(say)
    before = begun_before(args)
    run = student_of(teacher, args) if before is None else read_run(before)
    data = data_of(run, teacher.card, reading(say))
    folder = before or made(run, teacher, data, args.out)
    trainer = Trainer(run, data, device, args.quiet)
    _, finished = trainer.start(folder, None)
    if finished:
        with Reporter(folder / "log.txt", args.quiet) as reporter:
            for line in beside(teacher, load_run(str(folder), device)):
                reporter.say(line)
    else:
        say(f"and to see it beside its teacher: sfumato distill {args.run} --resume --out {folder}")
    if trainer.code:
        sys.exit(trainer.code)


def begun_before(args: Distill) -> Path | None:
    """The folder to go on in; None for a new one.

    Raises: UsageError where --resume comes without it, or with settings, which it has already;
    FileNotFoundError where it holds no run.
    """
    if not args.resume:
        return None
    if args.out is None:
        raise UsageError("--resume: add --out FOLDER, the one that the earlier call made.")
    flags = [f"--{name}" for name in OF_THE_START if getattr(args, name) is not None]
    if asked := [*flags, *args.settings]:
        raise UsageError(
            f"--resume goes on with the settings that {args.out} was begun with: leave out "
            f"{', '.join(asked)}. What may change on the way, such as --time, is changed by "
            f"sfumato train {args.out} --time 20m"
        )
    if not (args.out / "run.json").is_file():
        raise FileNotFoundError(
            f"--resume: {args.out} holds no run to go on with. Leave --resume out to start one."
        )
    return args.out


def student_of(teacher: Loaded, args: Distill) -> Run:
    """The teacher's run with another objective, sampler, budget and rate.

    Raises: ValueError where there are no images to train on, or it is a student itself.
    """
    run = teacher.run
    if type(run.objective) is ConsistencyTuning:
        raise ValueError(
            f"{teacher.folder} was distilled already, and has no trajectory to learn from. Go on "
            f"with it by sfumato train {teacher.folder} --time 20m, or distill its teacher."
        )
    if not run.data.source:
        raise ValueError(
            f"{teacher.folder} was imported without images, and tuning wants those it was trained "
            "on: import it again with --data."
        )
    budget = given(steps=args.steps, seconds=None if args.time is None else seconds(args.time))
    budget = budget or {"seconds": 600.0}
    none: dict[str, Any] = {"steps": None, "images": None, "epochs": None, "seconds": None}
    changes = given(batch=args.batch, seed=args.seed)
    lr = LR_SHARE * run.train.lr if args.lr is None else args.lr
    train = replace(run.train, **{**none, **budget, **changes}, lr=lr, preview_epochs=None)
    sampling = SamplingConfig(
        MultistepConsistency(),
        ConsistencyGrid(MIDDLE if args.middle is None else args.middle),
        steps=2,
        clipped=run.sampling.clipped,
    )
    student = replace(
        run,
        name=args.name or f"{run.name}-distilled",
        objective=TUNING,
        train=train,
        sampling=sampling,
        precision=args.precision or "fp32",
    )
    return with_settings(student, args.settings)


def made(run: Run, teacher: Loaded, data: ImageData, out: Path | None) -> Path:
    """A new folder whose only checkpoint, of step 0, is the teacher."""
    denoiser = build(run, torch.device("cpu"))
    denoiser.network.load_state_dict(teacher.denoiser.network.state_dict())
    state = TrainState.fresh(denoiser, run.train)
    folder = folder_of(out, run.name)
    if (teacher.folder / IN_RUN).exists():
        shutil.copytree(teacher.folder / IN_RUN, folder / IN_RUN)
    for name in (CARD, TENSORS):
        if (teacher.folder / name).exists():
            shutil.copyfile(teacher.folder / name, folder / name)
    list_files(folder, data)
    write_card(folder, teacher.card)
    whose = {"run": str(teacher.folder), "of_step": teacher.step, "weights": teacher.weights}
    append_metrics(folder, {"kind": "teacher", "step": 0, **whose})
    checkpoint.write(folder, state, keep=run.train.keep)
    write_file(folder / "run.json", dumps(run).encode())  # last: it makes a folder a run
    return folder


# --- the picture at the end


@dataclass(frozen=True)
class Drawn:
    """A row of each block: images (N, C, H, W), how they came to be, and the time it took."""

    label: str
    images: Tensor
    sampling: SamplingConfig
    seconds: float


def order_for(loaded: Loaded) -> tuple[Order, list[str] | None]:
    """BLOCKS rows of seeds, a class or caption a column, and the names of the columns."""
    if isinstance(loaded.conditions, Captions):
        prompts = loaded.conditions.examples(COLUMNS)
        seeds = range(BLOCKS * len(prompts))
        return Order(seeds, None, loaded.card.shape, prompts * BLOCKS), None
    classes = min(loaded.run.network.classes, COLUMNS)
    seeds = range(BLOCKS * (classes or COLUMNS))
    labels = list(range(classes)) * BLOCKS if classes else None
    names = list(loaded.card.class_names[:classes]) if classes else None
    return Order(seeds, labels, loaded.card.shape), names


def timed(loaded: Loaded, label: str, sampling: SamplingConfig, order: Order) -> Drawn:
    """The images of these seeds by one sampler."""
    begun = time.perf_counter()
    device, codec = loaded.device, loaded.codec
    images = draw(loaded.denoiser, order, sampling, loaded.conditions, device, codec=codec)
    return Drawn(label, images, sampling, time.perf_counter() - begun)


def beside(teacher: Loaded, student: Loaded) -> Iterator[str]:
    """Draw distilled.png: teacher and student at the same guidance; what to say of it."""
    order, names = order_for(student)
    own = student.run.sampling
    many = replace(teacher.run.sampling, guidance=own.guidance, classifier="", worse="")
    rows = [
        timed(teacher, f"teacher, {many.steps} steps", many, order),
        timed(student, "student, 1 step", replace(own, steps=1), order),
        timed(student, "student, 2 steps", replace(own, steps=2), order),
    ]
    path = student.folder / "distilled.png"
    draw_beside(rows, order, names, path, {"teacher": teacher, "student": student})
    times = "; ".join(f"{row.label}: {duration(row.seconds)}" for row in rows)
    yield f"{len(order)} images took: {times}."
    yield f"Teacher and student from the same seeds: {path}"
    yield f"In one step: sfumato sample {student.folder} --steps 1"


def draw_beside(
    rows: list[Drawn],
    order: Order,
    names: list[str] | None,
    path: Path,
    runs: dict[str, Loaded],
) -> None:
    """Blocks of the same seeds, a sampler a row."""
    width = len(order) // BLOCKS
    parts = [row.images[i : i + width] for i in range(0, len(order), width) for row in rows]
    picture = grid(
        torch.cat(parts),
        columns=width,
        row_labels=[row.label for row in rows] * BLOCKS,
        column_labels=names,
    )
    settings = {
        "made_by": "sfumato distill",
        **{name: f"{loaded.folder.name}, step {loaded.step}" for name, loaded in runs.items()},
        "seeds": list(order.seeds),
        "rows": {row.label: to_dict(row.sampling) for row in rows},
    }
    save_png(picture, path, settings)
