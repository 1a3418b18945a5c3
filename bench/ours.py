"""One training step as `sfumato train` takes it: the pieces of its own loop, in their order."""

from dataclasses import replace
from pathlib import Path

import torch

from sfumato.config import DataConfig, NetworkConfig, Run
from sfumato.data import ImageData, fingerprint
from sfumato.discrete import CosineBetas
from sfumato.folder import DataCard
from sfumato.objective import Denoising, DiscreteTimes
from sfumato.parameterization import PredictNoise
from sfumato.tasks import TASKS, Parts, settle_precision
from sfumato.training import TrainConfig, TrainState, take_step

from .cases import shaped


class Ours:
    """A run that has begun; each call is one training step and returns its loss."""

    def __init__(self, run: Run, data: ImageData) -> None:
        settled = TASKS[Run].settled(run, data)
        task = TASKS[Run].of(settled, parts(data))
        precision, self.reason = settle_precision(task)
        self.task = replace(task, run=replace(settled, precision=precision))
        self.config = self.task.run.train
        self.state = TrainState.fresh(self.task.build(), self.config)
        if self.config.compiled:
            self.state.model.compile()
        self.batch_at = self.task.batches()

    def __call__(self) -> float:
        batch = self.batch_at(self.state.step)
        return take_step(self.state, self.task.loss, batch, self.config)["loss"]


def ours(
    network: NetworkConfig,
    batch: int,
    shape: tuple[int, int, int] = (3, 32, 32),
    precision: str = "auto",
    data: ImageData | None = None,
    seed: int = 0,
) -> Ours:
    """The step of a run with that network on images of `shape`, `batch` of them at a time."""
    data = data or shaped(shape, 512, network.classes)
    return Ours(run_of(network, batch, precision, seed), data)


def run_of(network: NetworkConfig, batch: int, precision: str = "auto", seed: int = 0) -> Run:
    """DDPM's training with the cosine schedule, as source 000 has it, and sfumato's own loop."""
    return Run(
        name="bench",
        data=DataConfig(source="digits", held_out=0, labels=bool(network.classes)),
        process=CosineBetas(steps=1000),
        parameterization=PredictNoise(time_scale=1000, time_offset=-1),
        objective=Denoising(DiscreteTimes(steps=1000)),
        network=network,
        train=TrainConfig(steps=1_000_000, batch=batch, lr=4e-4, seed=seed),
        precision=precision,
    )


def parts(data: ImageData) -> Parts:
    card = DataCard(
        name=data.name,
        source=data.source,
        fingerprint=fingerprint(data),
        images=len(data),
        channels=data.channels,
        size=data.size,
        class_names=data.class_names,
    )
    return Parts(Path("."), card, data, None, torch.device("cpu"), lambda text: None)
