"""Training a denoiser: the task behind Run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..assembly import (
    Examples,
    batches,
    build,
    conditions_of,
    examples_of,
    held_out_batch,
    level_log_snr,
    loss_of,
    settle,
)
from ..codec import Codec
from ..conditions import Captions, Conditions, Nothing, cond_of
from ..config import Run, SamplingConfig
from ..data import ImageData
from ..folder import DataCard
from ..generation import Order, class_rows, draw
from ..grids import KarrasGrid
from ..importance import ImportanceSampled
from ..kinds import to_dict
from ..networks.describe import flops
from ..solvers import DPMSolverPP2M
from ..text import (
    CARD,
    CaptionTable,
    TextConfig,
    caption_table,
    load_table,
    prompts_of,
    save_table,
)
from ..training import Batch, TrainState
from .task import Parts, Shown, cost

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

    @staticmethod
    def settled(run: Run, data: ImageData) -> Run:
        return settle(run, data)

    @staticmethod
    def facts(run: Run, data: ImageData) -> dict[str, str]:
        network = run.network.build()
        f = getattr(run.codec, "f", 1)  # not of the weights: a run that goes on has its own
        shape = (run.codec.channels(data.channels), -(-data.size[0] // f), -(-data.size[1] // f))
        forward = flops(network, shape, run.network.classes, *run.caption)
        facts = {"process": str(run.process)}
        if shape != (data.channels, *data.size):
            facts["codec"] = f"{run.codec}: diffusion on {shape[0]} channels of {shape[1:]}"
        if run.text is not None:
            facts["captions"] = f"read by {run.text.encoder}, {run.text.max_tokens} tokens at most"
        facts["network"] = (
            f"{cost(network, forward)}; predicts by {type(run.parameterization).__name__}"
        )
        return facts

    @classmethod
    def of(cls, run: Run, parts: Parts) -> "Diffusion":
        run.codec.install(parts.folder)
        codec = run.codec.build(parts.folder, parts.device)
        train, held = parts.train, parts.held_out
        conditions, held_conditions = told(run, parts)
        rest = (codec, parts.device, parts.say)
        examples = examples_of(run, train, *rest, flips=run.data.flip)
        held_examples = None if held is None else examples_of(run, held, *rest, flips=False)
        return cls(run, parts, codec, examples, held_examples, conditions, held_conditions)

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

    def remember(self, model: nn.Module, batch: Batch, losses: Tensor) -> None:
        if isinstance(self.run.objective, ImportanceSampled):
            self.run.objective.remember(model, batch["u"], losses)

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        eps = batch["eps"]
        level = torch.linspace(-1, 1, len(eps), device=eps.device)
        return model.run_network(eps, level, cond_of(batch))  # type: ignore[operator]

    def show(self, model: nn.Module, quick: bool) -> Shown | None:
        """A class or caption a row, from the seeds 0, 1, ...; without either a square of images."""
        columns = 4 if quick else 10
        sampling = preview_of(self.run.sampling) if quick else self.run.sampling
        order, names = rows_to_draw(self.run, self.conditions, self.parts.card, columns)
        device = self.parts.device
        images = draw(model, order, sampling, self.conditions, device, codec=self.codec)  # type: ignore[arg-type]
        return Shown(images, columns, names, {"sampling": to_dict(sampling)})

    def finish(self, state: TrainState) -> list[str]:
        return [f"Next: sfumato sample {self.parts.folder}"]


def rows_to_draw(
    run: Run, conditions: Conditions, card: DataCard, columns: int
) -> tuple[Order, list[str] | None]:
    """What a grid of at most MOST_ROWS rows shows, and the rows' names."""
    if isinstance(conditions, Captions):
        prompts = conditions.examples(MOST_ROWS)
        each = [prompt for prompt in prompts for _ in range(columns)]
        return Order(range(len(each)), None, card.shape, each), prompts
    classes = run.network.classes
    seeds, labels = class_rows(min(classes, MOST_ROWS), columns if classes else columns**2)
    names = list(card.class_names[:MOST_ROWS]) if classes else None
    return Order(seeds, labels, card.shape), names


def told(run: Run, parts: Parts) -> tuple[Conditions, Conditions | None]:
    """What the images to train on, and those held out, tell the model."""
    train, held = parts.train, parts.held_out
    if run.text is not None:
        return captions_of(run.text, parts)
    if not run.network.classes:
        return Nothing(), None if held is None else Nothing()
    device = parts.device
    return conditions_of(train, device), None if held is None else conditions_of(held, device)


def captions_of(text: TextConfig, parts: Parts) -> tuple[Conditions, Conditions | None]:
    """Encoded captions: out of the run's folder, or encoded and put there."""
    train = parts.train.captions
    held = None if parts.held_out is None else parts.held_out.captions
    assert train is not None
    if (parts.folder / CARD).exists():
        table = load_table(parts.folder)
    else:
        parts.say("encoding captions ...")
        table = caption_table([*train, *(held or ())], text.build())
        save_table(table, parts.folder)
    conditions = Captions(table, text, table.rows(train))
    return conditions, None if held is None else conditions_by(table, text, held)


def conditions_by(table: CaptionTable, text: TextConfig, captions: Sequence[str]) -> Captions:
    """Of captions that the table may lack: those of the test part are read at the end alone."""
    wanted = prompts_of(table, captions, text.build)
    return Captions(wanted, text, wanted.index)
