"""Training a denoiser: the task behind Run."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..assembly import (
    Examples,
    PixelExamples,
    batches,
    build,
    conditions_of,
    held_out_batch,
    level_log_snr,
    loss_of,
)
from ..codec import Codec
from ..conditions import Conditions, cond_of
from ..config import Run, SamplingConfig, to_dict
from ..data import ImageData
from ..generation import Order, class_rows, draw
from ..grids import KarrasGrid
from ..solvers import DPMSolverPP2M
from ..training import Batch, TrainState
from .task import Parts, Shown

MOST_ROWS = 10


def preview_of(sampling: SamplingConfig) -> SamplingConfig:
    """Settings for a quick look: twelve network calls, whatever the run's own sampler takes."""
    if sampling.steps <= 12:
        return sampling
    return replace(sampling, solver=DPMSolverPP2M(), grid=KarrasGrid(), steps=12)


@dataclass(frozen=True)
class Diffusion:
    """A denoiser to train, with its codec, examples and conditions."""

    run: Run
    parts: Parts
    codec: Codec
    examples: Examples
    held_examples: Examples | None
    conditions: Conditions
    held_conditions: Conditions | None

    @classmethod
    def of(cls, run: Run, parts: Parts) -> "Diffusion":
        codec = run.codec.build(parts.folder, parts.device)

        def told(data: ImageData | None) -> Conditions | None:
            return None if data is None else conditions_of(data, parts.device)

        def seen(data: ImageData | None) -> Examples | None:
            return None if data is None else PixelExamples(data, parts.device)

        train, held = parts.train, parts.held_out
        examples, conditions = seen(train), told(train)
        assert examples is not None
        assert conditions is not None
        return cls(run, parts, codec, examples, seen(held), conditions, told(held))

    def build(self) -> nn.Module:
        return build(self.run, self.parts.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return loss_of(self.run)(model, batch)

    def batches(self) -> Callable[[int], Batch]:
        parts = self.parts
        return batches(self.run, parts.train, parts.device, self.examples, self.conditions)

    def held_out_batch(self) -> Batch | None:
        parts = self.parts
        if parts.held_out is None:
            return None
        told = self.held_conditions
        return held_out_batch(self.run, parts.held_out, parts.device, self.held_examples, told)

    def levels(self, count: int) -> list[float]:
        return level_log_snr(self.run, count)

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        eps = batch["eps"]
        level = torch.linspace(-1, 1, len(eps), device=eps.device)
        return model.run_network(eps, level, cond_of(batch))  # type: ignore[operator]

    def show(self, model: nn.Module, quick: bool) -> Shown:
        """A class a row, from the seeds 0, 1, 2, ...; without classes a square of images."""
        classes = self.run.network.classes
        columns = 4 if quick else 10
        sampling = preview_of(self.run.sampling) if quick else self.run.sampling
        seeds, labels = class_rows(min(classes, MOST_ROWS), columns if classes else columns**2)
        order = Order(seeds, labels, self.parts.card.shape)
        device = self.parts.device
        images = draw(model, order, sampling, self.conditions, device, codec=self.codec)  # type: ignore[arg-type]
        names = list(self.parts.card.class_names[:MOST_ROWS]) if classes else None
        return Shown(images, columns, names, {"sampling": to_dict(sampling)})

    def finish(self, state: TrainState) -> list[str]:
        return [f"Next: sfumato sample {self.parts.folder}"]
