"""Drawing images from a trained denoiser: image k depends on its own seed and condition only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .codec import Codec, Pixels
from .conditions import Conditions, rows_of
from .config import SamplingConfig
from .denoiser import Clipped, Denoiser
from .guidance import ByClassifier, ClassifierFree, LogProb, Unconditional, Within
from .sampling import Point, SeededNoise, prior, trajectory

OnPoint = Callable[[int, Point], None]  # (first image's index, where its batch stands)


@dataclass(frozen=True)
class Order:
    """What to draw: one image a seed; of the same length labels, or prompts, or neither.

    shape: (C, H, W) of the images in pixels.
    """

    seeds: Sequence[int]
    labels: Sequence[int] | None
    shape: tuple[int, int, int]
    prompts: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, rows in (("labels", self.labels), ("prompts", self.prompts)):
            if rows is not None and len(rows) != len(self.seeds):
                raise ValueError(
                    f"{len(rows)} {name} for {len(self.seeds)} seeds; give one {name[:-1]} an "
                    "image."
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


def wrapped(
    denoiser: Denoiser,
    sampling: SamplingConfig,
    conditions: Conditions,
    log_prob: LogProb | None = None,
) -> Denoiser:
    """The denoiser with the guidance and the clipping that the settings ask for.

    log_prob: of the condition given a noisy image, where a classifier guides.
    """
    plain = denoiser
    if sampling.guidance != 1:
        if conditions.null is None:
            raise ValueError(
                f"guidance = {sampling.guidance} was asked of a model without classes; its scale "
                "is 1. Train on images with labels (a sub-folder a class) or captions for guidance."
            )
        guided = ClassifierFree(denoiser, conditions.null, sampling.guidance)
        low, high = sampling.guidance_from, sampling.guidance_to
        everywhere = (low, high) == (0.0, float("inf"))
        denoiser = guided if everywhere else Within(guided, denoiser, low, high)
    if log_prob is not None:
        knows = conditions.null is not None and sampling.guidance != 0
        inner = denoiser if knows else Unconditional(plain)
        denoiser = ByClassifier(inner, log_prob, sampling.classifier_scale)
    return Clipped(denoiser, keep_eps=sampling.keep_eps) if sampling.clipped else denoiser


def draw(
    denoiser: Denoiser,
    order: Order,
    sampling: SamplingConfig,
    conditions: Conditions,
    device: torch.device,
    batch: int = 128,
    on_point: OnPoint | None = None,
    codec: Codec | None = None,
    log_prob: LogProb | None = None,
) -> Tensor:
    """uint8 images (N, C, H, W), on the CPU; on_point sees every point of every batch.

    Raises: FloatingPointError where an image is not finite, naming its seed.
    """
    codec = codec or Pixels()
    denoiser = wrapped(denoiser, sampling, conditions, log_prob)
    times = sampling.grid(denoiser.process, sampling.steps)
    cond = conditions.asked(order.labels, order.prompts)
    images = []
    for start in range(0, len(order), batch):
        rows = slice(start, start + batch)
        seeds = order.seeds[rows]
        noise = SeededNoise(seeds)
        x = noise(torch.empty(len(seeds), *codec.shape(order.shape), device=device))
        with torch.inference_mode():
            for point in trajectory(
                denoiser,
                prior(denoiser.process, x, times[0]),
                times,
                sampling.solver,
                rows_of(cond, rows, device),
                randn_like=noise,
            ):
                x = point.x
                if on_point is not None:
                    on_point(start, point)
            _check_finite(x, seeds)
            images.append(codec.decode(x, order.shape[1:]).cpu())
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
