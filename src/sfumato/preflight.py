"""Before a long run: how long it will take, whether memory and disk suffice.

Nothing is looked up in a table of machines: a few steps are run here and now.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from .console import count, duration
from .devices import wait
from .tasks import Task
from .training import Batch, TrainConfig, optimizer_of

GROUPS, STAT = Path("/sys/fs/cgroup"), "memory.stat"
LIMITS = {  # by what a line of /proc/self/cgroup names: most, used, and of it what files hold
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
SHARE_OF_FREE = 0.7  # of free memory that a step may take
BESIDE_SAVED = 1.6  # times what is kept for the backward pass: its own buffers come on top


LITTLE = 1e-12  # a rate at which the model stays as it is


@dataclass(frozen=True)
class Rehearsal:
    """What a few steps on a throw-away model told."""

    step_seconds: float
    bytes_an_image: float  # kept from the forward pass for the backward pass
    weights: int  # numbers


def rehearse(task: Task) -> Rehearsal:
    """Run two steps of the task; the faster one counts, as the first also sets things up."""
    batch = task.batches()(0)
    model = task.build()
    optimizer = optimizer_of(model, replace(task.run.train, lr=LITTLE))
    per_image = bytes_an_image(task, model, batch)
    settings = task.run.train
    most = settings.micro_batch or fitting(per_image, settings.batch, free_memory(batch))
    seconds = []
    for _ in range(2):
        begun = perf_counter()
        rows = {name: value[:most] for name, value in batch.items()}
        task.loss(model, rows).mean().backward()
        wait(next(model.parameters()).device)
        forward_and_back = (perf_counter() - begun) * settings.batch / most
        begun = perf_counter()
        optimizer.step()
        seconds.append(forward_and_back + perf_counter() - begun)
    return Rehearsal(min(seconds), per_image, sum(p.numel() for p in model.parameters()))


def bytes_an_image(task: Task, model: nn.Module, batch: Batch) -> float:
    """Memory that the forward pass keeps for the backward pass, an image: measured on 1 and 3.

    Of a batch of one it is all that is kept.
    """
    most = min(3, len(next(iter(batch.values()))))
    one, more = (_saved_bytes(task, model, batch, rows) for rows in (1, most))
    return float(one) if most == 1 else max(0.0, (more - one) / (most - 1))


def _saved_bytes(task: Task, model: nn.Module, batch: Batch, rows: int) -> int:
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    part = {name: value[:rows].repeat_interleave(1, 0) for name, value in batch.items()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = task.loss(model, part).sum()  # kept alive: a freed address could come twice
        total = sum(kept.values())
    del loss
    return total


def free_memory(batch: Batch) -> int | None:
    """Bytes that the batch's device has free for this process; None where no one tells."""
    device = next(iter(batch.values())).device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    table = Path("/proc/meminfo")
    if device.type != "cpu" or not table.exists():
        return None
    lines = dict(line.split(":", 1) for line in table.read_text().splitlines())
    groups = Path("/proc/self/cgroup")
    limits = spare_in_groups(groups.read_text(), GROUPS) if groups.exists() else ()
    return min([int(lines["MemAvailable"].split()[0]) * 1024, *limits])


def spare_in_groups(groups: str, root: Path) -> Iterator[int]:
    """Bytes left to this process by each limit of its control groups: a container's, a job's.

    groups: the text of /proc/self/cgroup. What files keep in memory is counted as left.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        kind = "memory" if "memory" in controllers.split(",") else controllers
        if kind not in LIMITS:
            continue
        place = PurePosixPath(path.lstrip("/"))
        for group in (place, *place.parents):
            folder, (limit, used, files) = root / kind / group, LIMITS[kind]
            most = (folder / limit).read_text().strip() if (folder / limit).exists() else "max"
            if most != "max":
                held = dict(line.split() for line in (folder / STAT).read_text().splitlines())
                yield int(most) - int((folder / used).read_text()) + int(held.get(files, 0))


def fitting(bytes_an_image: float, batch: int, free: int | None) -> int:
    """The most images, halved from `batch`, whose step fits into the free memory; at least 1."""
    size = batch
    while (
        free is not None
        and size > 1
        and size * bytes_an_image * BESIDE_SAVED > (SHARE_OF_FREE * free)
    ):
        size = -(-size // 2)
    return size


def disk_needed(weights: int, keep: int) -> int:
    """Bytes for the checkpoints kept, one being written, and the best average."""
    return 4 * weights * (4 * (keep + 1) + 1)  # weights, average and two moments, float32


def check_disk(folder: Path, weights: int, keep: int) -> str:
    """How much room the checkpoints take, in words.

    Raises: ValueError where the disk has too little.
    """
    needed, free = disk_needed(weights, keep), shutil.disk_usage(_existing(folder)).free
    words = f"{needed / 1e6:,.0f} MB for checkpoints, {free / 1e9:,.1f} GB free"
    if needed > 0.95 * free:
        raise ValueError(
            f"the disk of {folder} is too full: {words}. Free some, choose another --out, or keep "
            "fewer checkpoints (train.keep=1)."
        )
    return words


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} can't be written to: choose another --out.")
    return folder


def forecast(config: TrainConfig, step_seconds: float, steps: int | None) -> str:
    """How far the budget will go, in words; steps: the budget's, None where there is only time."""
    per_step = f"{step_seconds:.2g} s a step"
    limit = config.seconds
    if steps is not None and (limit is None or steps * step_seconds < limit):
        return f"{per_step}: about {duration(steps * step_seconds)} for {count(steps)} steps"
    assert limit is not None
    reached = max(1, int(limit / step_seconds))
    epochs = config.epochs_at(reached)
    shown = f", {epochs:.2g} epochs" if epochs else ""
    return f"{per_step}: about {count(reached)} steps{shown} in {duration(limit)}"


Say = Callable[[str], None]


def settle_memory(task: Any, rehearsal: Rehearsal, say: Say) -> int | None:
    """The micro-batch to train with: as asked, else the whole batch, else what fits."""
    config = task.run.train
    if config.micro_batch is not None:
        return config.micro_batch
    free = free_memory(task.batches()(0))
    most = fitting(rehearsal.bytes_an_image, config.batch, free)
    if most == config.batch:
        return None
    assert free is not None
    say(
        f"  memory     an image takes {rehearsal.bytes_an_image / 1e6:,.1f} MB in training and "
        f"{free / 1e9:,.1f} GB are free: {most} of the {config.batch} images run at once"
    )
    return most
