"""What training needs of a kind of run: its parts, its pictures, and its last words."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..console import count, short
from ..data import ImageData
from ..devices import SLOW_BF16, Trial, emulates_bf16, faster_precision
from ..folder import DataCard
from ..networks.describe import parameter_count
from ..networks.exactness import worst_convolution
from ..training import Batch, TrainState

EXACT = 0.02  # of a convolution's result: what bf16 may be wrong by; of its making it is 0.004


@dataclass(frozen=True)
class Parts:
    """What a run is made with, beside its settings. say tells the user something."""

    folder: Path
    card: DataCard
    train: ImageData
    held_out: ImageData | None
    device: torch.device
    say: Callable[[str], None]


@dataclass(frozen=True)
class Shown:
    """A grid to look at: uint8 images (N, C, H, W), and what stands beside each row."""

    images: Tensor
    columns: int
    row_labels: list[str] | None
    settings: dict[str, Any]  # how it was made, for the picture's metadata


class Task(Protocol):
    """One run, ready to train. A frozen dataclass with the field `run`."""

    @property
    def run(self) -> Any: ...

    @staticmethod
    def settled(run: Any, data: ImageData) -> Any:
        """The run with what only the data can say filled in."""
        ...

    @staticmethod
    def facts(run: Any, data: ImageData) -> dict[str, str]:
        """What the settled run trains, for people."""
        ...

    @classmethod
    def of(cls, run: Any, parts: Parts) -> "Task":
        """The settled run with its parts; may read, encode and write into its folder."""
        ...

    def build(self) -> nn.Module:
        """The model with fresh weights, which depend on train.seed alone."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """(B,), one an example."""
        ...

    def batches(self) -> Callable[[int], Batch]:
        """The function from a step to its batch."""
        ...

    def held_out_batch(self) -> Batch | None:
        """The held-out images with fixed dice, sorted by noise level where there is one."""
        ...

    def levels(self, count: int) -> list[float]:
        """The log-SNR of `count` equal shares of the held-out batch; [] where there is none."""
        ...

    def remember(self, model: nn.Module, batch: Batch, losses: Tensor) -> None:
        """Told once a step, after it: the batch's losses, (B,)."""
        ...

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the model itself computes for the batch, to compare precisions by."""
        ...

    def show(self, model: nn.Module, quick: bool) -> Shown | None:
        """Pictures from fixed seeds; quick ones for a preview. None where there are none."""
        ...

    def finish(self, state: TrainState) -> list[str]:
        """Leave what only a finished run can; the lines that tell the user what to do next."""
        ...


def cost(network: nn.Module, forward: int) -> str:
    """Size and FLOPs of a network, in words."""
    return (
        f"{count(parameter_count(network))} parameters, {short(forward, 'FLOP')} an image forward, "
        f"about {short(3 * forward, 'FLOP')} in training"
    )


def settle_precision(task: Any) -> tuple[str, str]:
    """(the precision to train in, the reason in words): timed here where it is "auto".

    bf16 is taken where it is faster, the network's output is fp32's, and each of its convolutions,
    forward and backward, is right to EXACT on the shapes that this network gives it. Half a batch
    is tried: what fp32 keeps of it is no more than bf16 keeps of the whole.
    """
    slow = emulates_bf16(task.parts.device)
    if task.run.precision != "auto":
        more = f"; {SLOW_BF16}" if slow and task.run.precision == "bf16" else ""
        return task.run.precision, f"{task.run.precision}, as asked{more}"
    if slow:
        return "fp32", f"fp32: {SLOW_BF16}"
    most = task.run.train.micro_batch or task.run.train.batch
    batch = {name: rows[: (most + 1) // 2] for name, rows in task.batches()(0).items()}
    trials = {name: _trial(task, name, batch) for name in ("fp32", "bf16")}
    name, reason = faster_precision(trials)
    if name != "bf16":
        return name, reason
    model = task.build()
    worst = worst_convolution(model, lambda: task.output(model, batch))
    if worst is None:
        return name, reason
    if not worst.share < EXACT:
        return "fp32", f"fp32: here bf16's convolution {worst.words} is wrong by {worst.share:.0%}"
    return name, f"{reason} and its convolutions are right to {worst.share:.1%}"


def _trial(task: Any, precision: str, batch: Batch) -> Trial:
    task = replace(task, run=replace(task.run, precision=precision))
    model = task.build()
    _fill_zeros(model)

    def step() -> None:
        task.loss(model, batch).mean().backward()
        model.zero_grad()  # two models' gradients at once would be the most of a run's memory

    @torch.no_grad()
    def output() -> Tensor:
        return task.output(model.eval(), batch)

    return Trial(step, output, next(model.parameters()).device)


def _fill_zeros(model: nn.Module) -> None:
    """Small noise where a layer starts at zero, or the last layer would hide all the others."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.02 * noise)
