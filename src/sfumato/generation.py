"""Drawing images from a trained denoiser: image k depends on its own seed and label only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .assembly import CODEC
from .config import SamplingConfig
from .denoiser import Clipped, Denoiser
from .guidance import ClassifierFree
from .sampling import Point, SeededNoise, prior, trajectory

OnPoint = Callable[[int, Point], None]  # (first image's index, where its batch stands)


@dataclass(frozen=True)
class Order:
    """What to draw: one image a seed; labels, of the same length, for class-conditional models."""

    seeds: Sequence[int]
    labels: Sequence[int] | None
    shape: tuple[int, ...]  # (C, H, W)

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.seeds):
            raise ValueError(
                f"{len(self.labels)} labels for {len(self.seeds)} seeds; give one label an image."
            )

    def __len__(self) -> int:
        return len(self.seeds)


def class_rows(
    classes: int, columns: int, first_seed: int = 0
) -> tuple[list[int], list[int] | None]:
    """(seeds, labels) of a grid with a class a row; without classes ten rows of none."""
    seeds = list(range(first_seed, first_seed + columns * max(1, classes)))
    labels = [row for row in range(classes) for _ in range(columns)]
    return seeds, labels if classes else None


def wrapped(denoiser: Denoiser, sampling: SamplingConfig, classes: int) -> Denoiser:
    """The denoiser with the guidance and the clipping that the settings ask for."""
    if sampling.guidance != 1:
        if not classes:
            raise ValueError(
                f"guidance = {sampling.guidance} was asked of a model without classes; its scale "
                "is 1. Train on images with labels (a sub-folder a class) for guidance."
            )
        null = torch.tensor([classes])
        denoiser = ClassifierFree(denoiser, null, sampling.guidance)
    return Clipped(denoiser) if sampling.clipped else denoiser


def draw(
    denoiser: Denoiser,
    order: Order,
    sampling: SamplingConfig,
    classes: int,
    device: torch.device,
    batch: int = 128,
    on_point: OnPoint | None = None,
) -> Tensor:
    """uint8 images (N, C, H, W), on the CPU; on_point sees every point of every batch.

    Raises: FloatingPointError where an image is not finite, naming its seed.
    """
    denoiser = wrapped(denoiser, sampling, classes)
    times = sampling.grid(denoiser.process, sampling.steps)
    images = []
    for start in range(0, len(order), batch):
        seeds = order.seeds[start : start + batch]
        labels = None
        if order.labels is not None:
            labels = torch.tensor(order.labels[start : start + batch], device=device)
        noise = SeededNoise(seeds)
        x = noise(torch.empty(len(seeds), *order.shape, device=device))
        with torch.inference_mode():
            for point in trajectory(
                denoiser,
                prior(denoiser.process, x, times[0]),
                times,
                sampling.solver,
                labels,
                randn_like=noise,
            ):
                x = point.x
                if on_point is not None:
                    on_point(start, point)
        _check_finite(x, seeds)
        images.append(CODEC.decode(x).cpu())
    return torch.cat(images)


def _check_finite(x: Tensor, seeds: Sequence[int]) -> None:
    broken = (~torch.isfinite(x)).flatten(1).any(1)
    if broken.any():
        bad = [seeds[i] for i in broken.nonzero()[:5, 0].tolist()]
        raise FloatingPointError(
            f"{int(broken.sum())} of {len(x)} images hold values that are not numbers (seeds "
            f"{bad}, ...). The solver left the range of the model: try more steps, less guidance, "
            "or --clipped."
        )
