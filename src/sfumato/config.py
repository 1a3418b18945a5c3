"""What a run is: frozen values all the way down.

kinds.py writes them as run.json and reads them back.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from . import grids, objective, parameterization, process, solvers, training
from .classification import ClassifierLoss
from .codec import CodecConfig, Pixels
from .networks.autoencoder import AutoencoderConfig
from .networks.classifier import ClassifierConfig
from .reconstruction import ReconstructionLoss
from .text import TextConfig

PRECISIONS = ("auto", "fp32", "bf16")
SPLITS = ("train", "test", "unlabeled")


@dataclass(frozen=True)
class DataConfig:
    """Which images, and what is random about them.

    source: a built-in name or a path. split: the part of a set that its authors divided: "train",
        "test", or of STL-10 "unlabeled". size: side after the centre crop; None keeps the images'.
    held_out: images kept out of training for the held-out loss, at most a tenth of all.
    test: images that training never sees in any form, not even as held-out loss, and that are
        measured once, at the end; at most a fifth of all.
    label_dropout: the share of labels or captions that become the null condition, for
        classifier-free guidance.
    unreadable: the share of the image files that may be broken; above it the set is refused.
    """

    source: str = "digits"
    size: int | None = None
    channels: int | None = None
    limit: int | None = None
    labels: bool = True
    held_out: int = 512
    test: int = 0
    flip: bool = False
    label_dropout: float = 0.1
    split: str = "train"
    unreadable: float = 0.2

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"data.split = {self.split!r}; it is one of {', '.join(SPLITS)}.")
        for name in ("label_dropout", "unreadable"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"data.{name} = {getattr(self, name)}; it is a share, from 0 to 1."
                )
        for name in ("size", "channels", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.{name} = {value}; it must be above 0.")
        for name in ("held_out", "test"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} = {getattr(self, name)}; 0 keeps no image back.")


@dataclass(frozen=True)
class SamplingConfig:
    """How images are drawn from the finished run, and in its previews.

    guidance: classifier-free scale, 1 as trained, applied where guidance_from <= sigma / alpha <=
        guidance_to. clipped: keep x0 in [-1, 1]; keep_eps: and leave eps as it was before, which is
        diffusers' DDIM; see denoiser.Clipped.
    classifier: the run of a classifier of noised images whose gradient guides, by
        classifier_scale; "" for none.
    worse: a run, or a checkpoint's folder of this run, from which to extrapolate away by
        worse_scale, at the same noise levels as guidance: autoguidance; "" for none.
    """

    solver: solvers.Solver = solvers.Heun()
    grid: grids.Grid = grids.KarrasGrid()
    steps: int = 18
    guidance: float = 1.0
    guidance_from: float = 0.0
    guidance_to: float = float("inf")
    clipped: bool = False
    keep_eps: bool = False
    classifier: str = ""
    classifier_scale: float = 1.0
    worse: str = ""
    worse_scale: float = 2.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling steps = {self.steps}; at least 1 is needed.")
        if not 0 <= self.guidance_from <= self.guidance_to:
            raise ValueError(
                f"guidance from {self.guidance_from} to {self.guidance_to}: these are noise levels "
                "sigma / alpha, the smaller one first, 0 or more."
            )


class NetworkConfig(Protocol):
    """The shape of a network. A field `context`, where it has one, is the width of text tokens."""

    @property
    def in_channels(self) -> int: ...

    @property
    def out_channels(self) -> int | None: ...

    @property
    def classes(self) -> int: ...

    def build(self) -> nn.Module: ...


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision = {precision!r}; it is one of {', '.join(PRECISIONS)}.")


@dataclass(frozen=True)
class Run:
    """Everything that decides what a training run does; see `sfumato train --help` for the flags.

    network's channels and classes and an EDM sigma_data of 0 are filled in from the data. codec:
    what the diffusion runs on, pixels or an autoencoder's latents. text: reads the captions, where
    they and not the labels are the condition.
    """

    name: str
    data: DataConfig
    process: process.Process
    parameterization: parameterization.Parameterization
    objective: objective.Objective
    network: NetworkConfig
    train: training.TrainConfig
    sampling: SamplingConfig = SamplingConfig()
    learned_variance: bool = False
    codec: CodecConfig = Pixels()
    text: TextConfig | None = None
    precision: str = "auto"
    recipe: str = ""

    def __post_init__(self) -> None:
        _check_precision(self.precision)

    @property
    def caption(self) -> tuple[int, int]:
        """(features of a token, tokens) of a text that the network reads; zeros where none is."""
        if self.text is None:
            return 0, 0
        return getattr(self.network, "context", 0), self.text.max_tokens


@dataclass(frozen=True)
class AutoencoderRun:
    """Training an autoencoder, whose latents another run can then diffuse in.

    crop: side of the random squares that it is trained on; None for whole images.
    """

    name: str
    data: DataConfig
    objective: ReconstructionLoss
    network: AutoencoderConfig
    train: training.TrainConfig
    crop: int | None = 64
    precision: str = "auto"
    recipe: str = ""

    def __post_init__(self) -> None:
        _check_precision(self.precision)


@dataclass(frozen=True)
class ClassifierRun:
    """Training a classifier of noised images, to guide a denoiser of any process."""

    name: str
    data: DataConfig
    process: process.Process
    objective: ClassifierLoss
    network: ClassifierConfig
    train: training.TrainConfig
    precision: str = "auto"
    recipe: str = ""

    def __post_init__(self) -> None:
        _check_precision(self.precision)


RUNS = (Run, AutoencoderRun, ClassifierRun)
AnyRun = Run | AutoencoderRun | ClassifierRun
