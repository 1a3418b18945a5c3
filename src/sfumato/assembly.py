"""From settings to working parts: a settled run, its denoiser, its loss and its batches.

Batch k is a function of (seed, k): the examples, flips, dropped conditions, times and noise of the
whole batch are drawn at once, so that cutting it into parts changes none of them.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .codec import Pixels
from .conditions import Conditions, Labels, Nothing, cond_of
from .config import AnyRun, ClassifierRun, DataConfig, NetworkConfig, Run
from .consistency import at_progress
from .console import reading
from .data import ImageData, batch_indices, fingerprint, flip, flip_mask, generator_at, split
from .data.held import held_back
from .denoiser import NetworkDenoiser
from .devices import DTYPES
from .importance import ImportanceSampled
from .latent_cache import encode_all
from .objective import draws
from .parameterization import EDMPreconditioning
from .training import Batch, Loss


@dataclass(frozen=True)
class Splits:
    """A data set in parts that share no image; None is a part of none."""

    train: ImageData
    held_out: ImageData | None  # for the losses that are looked at on the way
    test: ImageData | None  # for one measurement at the end


def splits_of(config: DataConfig, data: ImageData) -> Splits:
    """The parts asked for; test is at most a fifth of all, held_out a tenth of the rest."""
    held_out, tested = held_back(len(data), config.held_out, config.test)
    rest, test = split(data, tested) if tested else (data, None)
    train, held = split(rest, held_out) if held_out else (rest, None)
    return Splits(train, held, test)


SHOWN = 5  # classes that a warning names


def lost_classes(run: AnyRun, splits: Splits) -> str:
    """A warning of the classes of which no image is trained on; empty where there are none.

    A class of few images can fall wholly to the others: see data.split.
    """
    train = splits.train
    if train.labels is None or not getattr(run.network, "classes", 0):
        return ""
    kept = [part.labels for part in (splits.held_out, splits.test) if part is not None]
    away = Counter(label for labels in kept if labels is not None for label in labels.tolist())
    lost = sorted(set(range(len(train.class_names))) - set(train.labels.tolist()))
    if not lost:
        return ""
    told = [f"{train.class_names[k]} ({_where(away[k])})" for k in lost[:SHOWN]]
    more = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
    return (
        f"{len(lost):,} of {len(train.class_names):,} classes have no image to train on: "
        f"{', '.join(told)}{more}. The model learns nothing of them and can draw none. Add "
        "images of them, hold fewer back (data.held_out=0, --test 0), or take them out of the data."
    )


def _where(held: int) -> str:
    return f"{held:,} held back from training" if held else "none was read"


def fitted(
    network: NetworkConfig, channels: int, outputs: int, classes: int, context: int
) -> NetworkConfig:
    """The network's settings with the data's channels, classes and width of text tokens.

    Raises: ValueError where text is wanted of a network that takes none.
    """
    changes: dict[str, Any] = {"in_channels": channels, "out_channels": outputs, "classes": classes}
    if context:
        if "context" not in {field.name for field in fields(network)}:  # type: ignore[arg-type]
            raise ValueError(
                f"{type(network).__name__} takes no text; train on captions with SDUNetConfig, as "
                "the recipe emoji_text does."
            )
        changes["context"] = context
    return replace(network, **changes)  # type: ignore[type-var]


def settle(run: Run, data: ImageData) -> Run:
    """The run with what only the data can say filled in: channels, classes, sigma_data of 0.

    Moments are those of the images to train on: what is held out is not looked at.
    """
    images = splits_of(run.data, data).train.images
    codec = run.codec.settled(images)
    channels = codec.channels(data.channels)
    outputs = channels * (2 if run.learned_variance else 1)
    network = fitted(run.network, channels, outputs, _classes(run, data), _context(run, data))
    parameterization = run.parameterization
    if isinstance(parameterization, EDMPreconditioning) and parameterization.sigma_data == 0:
        parameterization = replace(parameterization, sigma_data=codec.deviation(images))
    train = replace(run.train, epoch_images=len(images))
    return replace(
        run, network=network, codec=codec, parameterization=parameterization, train=train
    )


def _classes(run: Run, data: ImageData) -> int:
    """Labels count where no text is asked for."""
    return 0 if data.labels is None or run.text is not None else len(data.class_names)


def _context(run: Run, data: ImageData) -> int:
    """Features of a token of the captions; 0 where no text is asked for.

    Raises: ValueError where it is, and the images have no captions.
    """
    if run.text is None:
        return 0
    if data.captions is None:
        raise ValueError(
            f"{data.name} has no captions to learn from. Put a metadata.jsonl beside the images "
            '({"file_name": "a.png", "text": "a red heart"} a line), or a .txt beside each, or use '
            "twemoji."
        )
    return getattr(run.network, "context", 0) or run.text.build().features


def build(run: Run, device: torch.device) -> NetworkDenoiser:
    """The run's denoiser with fresh weights, which depend on train.seed alone."""
    torch.manual_seed(generator_at(run.train.seed, "weights").initial_seed())
    network = run.network.build().to(device)
    precision = DTYPES[run.precision if run.precision in DTYPES else "fp32"]
    denoiser = NetworkDenoiser(
        network, run.process, run.parameterization, run.learned_variance, precision
    )
    if isinstance(run.objective, ImportanceSampled):
        run.objective.attach(denoiser)
    return denoiser


def loss_of(run: Run) -> Loss:
    """The objective as the training loop wants it: (model, batch) to one loss an example."""

    def loss(model: torch.nn.Module, batch: Batch) -> Tensor:
        x0 = batch["x0"] if "x0" in batch else Pixels().encode(batch["images"])
        objective = at_progress(run.objective, batch.get("progress"))
        return objective(model, x0, cond_of(batch), batch["u"], batch["eps"])  # type: ignore[arg-type]

    return loss


class Examples(Protocol):
    """The training images as the loss wants them: (B, ...) at index, mirrored where asked."""

    def rows(self, index: Tensor, mirrored: Tensor | None) -> Batch: ...


class PixelExamples:
    """uint8 images, (N, C, H, W), held on the device."""

    def __init__(self, data: ImageData, device: torch.device) -> None:
        self.images = data.images.to(device)

    def rows(self, index: Tensor, mirrored: Tensor | None) -> Batch:
        # Not images[index], which copies byte by byte where this copies image by image.
        chosen = self.images.index_select(0, index.to(self.images.device))
        return {"images": chosen if mirrored is None else flip(chosen, mirrored)}


class LatentExamples:
    """Latents, (N, c, h, w), or with those of the mirror images (2, N, c, h, w), on the CPU."""

    def __init__(self, latents: Tensor, device: torch.device) -> None:
        self.latents = latents if latents.ndim == 5 else latents[None]
        self.device = device

    def rows(self, index: Tensor, mirrored: Tensor | None) -> Batch:
        index = index.cpu()
        side = torch.zeros_like(index) if mirrored is None else mirrored.cpu().long()
        return {"x0": self.latents[side, index].float().to(self.device)}


def examples_of(
    run: Run,
    data: ImageData,
    codec: Any,
    device: torch.device,
    say: Callable[[str], None],
    flips: bool,
) -> Examples:
    """The images themselves, or their latents out of the cache; with flips also the mirrored."""
    if isinstance(run.codec, Pixels):
        return PixelExamples(data, device)
    home = Path(os.environ.get("SFUMATO_HOME") or Path.home() / ".cache" / "sfumato")
    latents = encode_all(
        codec,
        data.images,
        home / "latents",
        fingerprint(data),
        reading(say, "encoding images"),
        flips,
        say,
    )
    return LatentExamples(latents, device)


def conditions_of(data: ImageData, device: torch.device) -> Conditions:
    """What images with labels, or without, tell a model."""
    if data.labels is None:
        return Nothing()
    return Labels(len(data.class_names), data.labels.to(device))


def batches(
    run: Run | ClassifierRun,
    data: ImageData,
    device: torch.device,
    examples: Examples | None = None,
    conditions: Conditions | None = None,
) -> Callable[[int], Batch]:
    """The function from a step to its batch."""
    source = examples or PixelExamples(data, device)
    told = conditions or conditions_of(data, device)
    seed, size = run.train.seed, run.train.batch

    def batch_at(step: int) -> Batch:
        index = batch_indices(len(data), size, seed, step).to(device)
        mirrored = flip_mask(size, generator_at(seed, "flip", step)) if run.data.flip else None
        batch = source.rows(index, mirrored)
        (clean,) = batch.values()
        u, eps = draws(clean, generator_at(seed, "noise", step))
        drop = torch.rand(size, generator=generator_at(seed, "label", step))
        dropped = (drop < run.data.label_dropout).to(device)
        return {**batch, "u": u, "eps": eps, **told.rows(index, dropped)}

    return batch_at


def held_out_batch(
    run: Run | ClassifierRun,
    data: ImageData,
    device: torch.device,
    examples: Examples | None = None,
    conditions: Conditions | None = None,
) -> Batch:
    """The held-out images with fixed noise and fixed times, one in each n-th of their quantiles.

    Times increase along the batch and the images are shuffled against them once and for all.
    """
    n, seed = len(data), run.train.seed
    order = torch.randperm(n, generator=generator_at(seed, "held-out order")).to(device)
    batch = (examples or PixelExamples(data, device)).rows(order, None)
    (clean,) = batch.values()
    _, eps = draws(clean, generator_at(seed, "held-out noise"))
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    told = conditions or conditions_of(data, device)
    none_dropped = torch.zeros(n, dtype=torch.bool)
    return {**batch, "u": u, "eps": eps, **told.rows(order, none_dropped)}


def level_log_snr(run: Run | ClassifierRun, levels: int) -> list[float]:
    """The log-SNR in the middle of each of `levels` equal shares of the training times."""
    u = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    return run.process.log_snr(run.objective.times(run.process, u)).tolist()


def by_level(losses: Tensor, levels: int) -> list[float]:
    """Means over equal runs of losses that are sorted by time."""
    return [part.mean().item() for part in losses.tensor_split(levels)]
