"""One evaluator for all contestants: features of images made of the data set itself.

How far sets of images are apart is measuring.frechet of these features. The network comes from the
data set at hand and nothing is downloaded. Where images have classes it is a classifier of the
clean training images, so that it can also say whether a sample is of the class that was asked for;
else its weights are random and never trained. A distance is therefore in units of this evaluator
alone: it compares the contestants that it measured, at one n, and is no published number. What a
perfect model would get at that n is the distance of as many real images that were held out, the
floor.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from math import ceil, isfinite, log2
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from .codec import Pixels
from .data import ImageData, batch_indices, generator_at
from .interop.limits import check_sizes
from .interop.reading import json_of, naming, tensors_of
from .measuring import Estimate, Moments, class_accuracy, frechet_difference, frechet_estimate
from .storage import commit_folder, read_folder
from .training import Batch, TrainConfig, TrainState, take_step

AT_ONCE = 500  # images that are looked at together
BATCH = 64
LEAST_STEPS = 1000  # of training, or two epochs
FULL_SIZE = 32  # pixels a side up to which the first layer looks at every pixel
SMALLEST = 8  # pixels a side that the last layer is left with, about

Notice = Callable[[int, int], None]  # (steps done, of)


# --- the features


@dataclass(frozen=True)
class EyeConfig:
    """The shape of the evaluator's network; classes of 0: it only has features."""

    in_channels: int
    classes: int
    widths: tuple[int, ...]
    first_stride: int
    features: int = 64

    @classmethod
    def fitting(cls, data: ImageData) -> "EyeConfig":
        """As many halvings as bring the images down to about SMALLEST pixels."""
        side = max(data.size)
        stride = 1 if side <= FULL_SIZE else 2
        halvings = max(1, ceil(log2(max(2.0, side / stride / SMALLEST))))
        widths = tuple(min(128, 16 * 2**level) for level in range(halvings + 1))
        classes = len(data.class_names) if data.labels is not None else 0
        return cls(data.channels, classes if classes > 1 else 0, widths, stride)


class Eye(nn.Module):
    """Strided convolutions, then a vector: x (B, C, H, W) in [-1, 1] to features (B, D).

    logits: features to (B, classes).
    """

    def __init__(self, config: EyeConfig) -> None:
        super().__init__()
        inputs = (config.in_channels, *config.widths)
        strides = (config.first_stride, *[2] * (len(config.widths) - 1))
        layers: list[nn.Module] = []
        for into, out, stride in zip(inputs, config.widths, strides):
            layers += [nn.Conv2d(into, out, 3, stride, 1), nn.GroupNorm(8, out), nn.SiLU()]
        self.stages = nn.Sequential(*layers)
        self.project = nn.Linear(4 * config.widths[-1], config.features)
        self.out = nn.Linear(config.features, max(1, config.classes))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stages(x.contiguous(memory_format=torch.channels_last))
        return self.project(F.adaptive_avg_pool2d(h, 2).flatten(1))

    def logits(self, features: Tensor) -> Tensor:
        return self.out(F.silu(features))


@dataclass(frozen=True, eq=False)
class Judge:
    """The evaluator: its network, and what standardizes its features over the training images.

    eye: forward gives features of x in [-1, 1], and `logits` the classes of these.
    mean, std: (D,) float64 of the features as they are; judged ones have mean 0 and deviation 1.
    facts: how it was made, as plain JSON values.
    """

    config: EyeConfig
    eye: Eye
    mean: Tensor
    std: Tensor
    facts: dict[str, Any]

    @property
    def words(self) -> str:
        """What its features are, in words."""
        if not self.config.classes:
            return f"{self.config.features} features of a network with random, untrained weights"
        return f"{self.config.features} features of a classifier trained on the same images"

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(features (N, D) float64, standardized; classes (N,) int64) of uint8 images, on the CPU.

        Classes mean nothing where the judge knows none.
        """
        return standardized(self.eye, images, self.mean, self.std)

    def moments(self, images: Tensor) -> Moments:
        """The moments of the features of uint8 images, (N, C, H, W)."""
        parts = [Moments.of(self.look(part)[0]) for part in images.split(AT_ONCE)]
        return reduce(Moments.merged, parts)


@torch.no_grad()
def standardized(
    eye: nn.Module, images: Tensor, mean: Tensor, std: Tensor
) -> tuple[Tensor, Tensor]:
    """((features - mean) / std, (N, D) float64; classes (N,)) of uint8 images, on the CPU.

    eye: features of x in [-1, 1], and by `logits` the classes of these.
    """
    device = next(eye.parameters()).device
    features, classes = [], []
    for part in images.split(AT_ONCE):
        raw = eye(Pixels().encode(part.to(device)))
        features.append(raw.double().cpu())
        classes.append(eye.logits(raw).argmax(1).cpu())  # type: ignore[operator]
    return (torch.cat(features) - mean) / std, torch.cat(classes)


@dataclass(frozen=True)
class Verdict:
    """What a judge measured of a set of images.

    frechet: squared distance to the training images, in its units, and what another draw of as many
    images would change it by; None where the images are too few to say. agreement: the share of
    images that it takes for the class asked for, with its error; None where nothing was asked for.
    images: how many.
    """

    images: int
    frechet: float
    frechet_error: float | None
    agreement: float | None
    agreement_error: float | None


def measure(
    judge: Judge, images: Tensor, labels: Sequence[int] | None, reference: Moments
) -> Verdict:
    """The verdict on uint8 images, (N, C, H, W), against the moments of the training images.

    labels: the classes asked for, one an image; None, or a judge without classes: no agreement.
    """
    features, classes = judge.look(images)
    distance = frechet_estimate(features, reference)
    found = (len(images), distance.mean, known(distance.error))
    if labels is None or not judge.config.classes:
        return Verdict(*found, None, None)
    share = class_accuracy(classes, torch.tensor(list(labels)))
    return Verdict(*found, share.mean, share.error)


def farther(judge: Judge, images: Tensor, than: Tensor, reference: Moments) -> Estimate:
    """How much farther images are than others, with its error, which is infinite for few images.

    Row i of both is of one seed and class, so that what they share by it is no doubt.
    """
    return frechet_difference(judge.look(images)[0], judge.look(than)[0], reference)


def known(error: float) -> float | None:
    """The error, or None for one that is infinite, which JSON has no word for."""
    return error if isfinite(error) else None


# --- making one


def train_judge(
    data: ImageData,
    device: torch.device,
    seed: int = 0,
    steps: int | None = None,
    notice: Notice | None = None,
) -> Judge:
    """The judge of a data set, of its training images; trained only where they have classes.

    steps: of BATCH images; by default LEAST_STEPS, or two epochs where that is more.
    """
    config = EyeConfig.fitting(data)
    torch.manual_seed(generator_at(seed, "judge").initial_seed())
    eye = Eye(config).to(device)
    wanted = steps or max(LEAST_STEPS, 2 * len(data) // BATCH)
    if config.classes:
        eye = _taught(eye, data, device, seed, wanted, notice)
    facts = {
        "features": config.features,
        "trained": bool(config.classes),
        "images": len(data),
        "steps": wanted if config.classes else 0,
        "batch": BATCH,
        "seed": seed,
    }
    return _standardized(config, eye.eval().requires_grad_(False), data.images, facts)


def _taught(
    eye: Eye, data: ImageData, device: torch.device, seed: int, steps: int, notice: Notice | None
) -> Eye:
    """The average of the weights after `steps` steps of cross-entropy on clean images."""
    assert data.labels is not None
    config = TrainConfig(steps=steps, batch=BATCH, lr=3e-3, seed=seed)
    state = TrainState.fresh(eye, config)
    for step in range(steps):
        index = batch_indices(len(data), BATCH, seed, step)
        batch = {"images": data.images[index].to(device), "labels": data.labels[index].to(device)}
        take_step(state, _loss, batch, config)
        if notice is not None:
            notice(step + 1, steps)
    return state.average  # type: ignore[return-value]


def _loss(eye: nn.Module, batch: Batch) -> Tensor:
    logits = eye.logits(eye(Pixels().encode(batch["images"])))  # type: ignore[operator]
    return F.cross_entropy(logits, batch["labels"], reduction="none")


def _standardized(config: EyeConfig, eye: Eye, images: Tensor, facts: dict[str, Any]) -> Judge:
    """The judge for which the features of `images` have mean 0 and deviation 1."""
    width = config.features
    plain = Judge(config, eye, torch.zeros(width).double(), torch.ones(width).double(), facts)
    moments = plain.moments(images)
    std = moments.covariance.diagonal().sqrt().clamp(min=1e-6)
    return replace(plain, mean=moments.mean, std=std)


# --- at rest


def save_judge(judge: Judge, folder: Path) -> None:
    """Commit the judge as a folder of safetensors and JSON.

    Raises: FileExistsError where the folder exists.
    """
    tensors = {f"eye.{name}": value.contiguous() for name, value in judge.eye.state_dict().items()}
    tensors |= {"mean": judge.mean, "std": judge.std}
    record = {"config": asdict(judge.config), "facts": judge.facts, "what": judge.words}
    plain = {name: value.cpu() for name, value in tensors.items()}
    files = {"judge.safetensors": save(plain), "judge.json": json.dumps(record, indent=1).encode()}
    commit_folder(folder, files)


def load_judge(folder: Path, device: torch.device) -> Judge:
    """Undo save_judge.

    Raises: storage.DamagedError where a file is not what was saved; ValueError, naming the folder,
    where it is no judge's.
    """
    files = read_folder(folder)
    with naming(folder):
        record = json_of(files["judge.json"], "judge.json")
        tensors = tensors_of(files["judge.safetensors"], "judge.safetensors")
        for name, value in record["config"].items():
            check_sizes(value, f"judge.json: {name}")
        config = EyeConfig(**{**record["config"], "widths": tuple(record["config"]["widths"])})
        eye = Eye(config)
        eye.load_state_dict(
            {name.removeprefix("eye."): t for name, t in tensors.items() if name.startswith("eye.")}
        )
        eye = eye.to(device).eval().requires_grad_(False)
        return Judge(config, eye, tensors["mean"], tensors["std"], record["facts"])
