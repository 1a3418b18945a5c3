"""A run's folder as working parts again: its denoiser, codec and conditions, for sampling."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from . import checkpoint
from .assembly import build
from .classification import NoisyClassifier, log_prob_of
from .codec import Codec, Pixels
from .conditions import Captions, Conditions, Labels, Nothing
from .config import ClassifierRun, Run, SamplingConfig
from .denoiser import Denoiser, NetworkDenoiser, OnProcess
from .devices import DTYPES, SLOW_BF16, emulates_bf16, precision_here
from .folder import DataCard, find, read_card
from .generation import OnPoint, Order, draw
from .guidance import Autoguidance, LogProb, Within
from .interop.fitting import check_weights, skeleton
from .interop.reading import tensors_of
from .kinds import read_run
from .storage import DamagedError, read_folder
from .tasks.classifying import build_classifier
from .text import load_table

NETWORK = "network."  # what a denoiser and a classifier call their network


@dataclass(frozen=True)
class Loaded:
    """A run that can be sampled."""

    folder: Path
    run: Run
    card: DataCard
    denoiser: NetworkDenoiser
    step: int
    device: torch.device
    weights: str  # "average", "best average" or "raw"
    codec: Codec
    conditions: Conditions
    guide: NoisyClassifier | None = None
    away: Denoiser | None = None  # what draws where a worse model guides: see autoguided

    @property
    def log_prob(self) -> LogProb | None:
        return None if self.guide is None else log_prob_of(self.guide)

    @property
    def precision(self) -> str:
        """What images are drawn in."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.denoiser.precision)

    def tell_moved(self, say: Callable[[str], None]) -> None:
        """Say that it draws in fp32 what was trained in bf16, where the device is the reason."""
        if (self.precision, self.run.precision) == ("fp32", "bf16") and emulates_bf16(self.device):
            say(f"  in fp32: {SLOW_BF16}, and the run was trained in it")

    @property
    def artist(self) -> Denoiser:
        """What images are drawn with."""
        return self.denoiser if self.away is None else self.away


def load_run(
    name: str,
    device: torch.device,
    raw: bool = False,
    precision: str | None = None,
    best: bool = False,
) -> Loaded:
    """The newest whole checkpoint of a run, or its best average, ready to draw from.

    precision: "fp32" or "bf16"; None is what it was trained in, unless the device emulates that.

    Raises: FileNotFoundError where there is no run, or none with a checkpoint; ValueError where it
    draws nothing.
    """
    if raw and best:
        raise ValueError("raw and best at once: best is an average, so choose one of them.")
    folder = find(name)
    run = read_run(folder)
    if not isinstance(run, Run):
        raise ValueError(
            f"{folder} is a {type(run).__name__}, which draws nothing: look at its samples.png, or "
            f"measure it by sfumato evaluate {folder}."
        )
    weights = "raw" if raw else "best average" if best else "average"
    step, tensors = load_weights(folder, raw, best)
    check_network(run, tensors, folder)
    denoiser = build(run, device).eval()
    take(denoiser, tensors, folder)
    denoiser.precision = DTYPES[precision or precision_here(run.precision, device)]
    card = read_card(folder)
    codec = run.codec.build(folder, device)
    conditions = conditions_in(folder, run)
    return Loaded(folder, run, card, denoiser, step, device, weights, codec, conditions)


def load_weights(folder: Path, raw: bool, best: bool) -> tuple[int, dict[str, torch.Tensor]]:
    """(step, state dict) of a run's newest checkpoint or of its best average.

    Raises: FileNotFoundError where there is none.
    """
    if best:
        kept = checkpoint.best_folders(folder)
        if not kept:
            raise FileNotFoundError(
                f"{folder} has no best average: it holds no image back, or has not looked yet."
            )
        return step_of(kept[-1]), tensors_in(kept[-1], files_in(kept[-1]), "average")
    found = checkpoint.newest(folder, lambda text: print(text, file=sys.stderr), mend=False)
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint yet; train it: sfumato train {folder}")
    path, files = found
    return step_of(path), tensors_in(path, files, "weights" if raw else "average")


def step_of(checkpoint_folder: Path) -> int:
    """The number in the folder's name. Raises: ValueError where there is none."""
    name = checkpoint_folder.name
    if not re.fullmatch(r"step-\d{1,18}", name, re.ASCII):
        raise ValueError(f"{checkpoint_folder}: a checkpoint is called step-000001000.")
    return int(name.partition("-")[2])


def files_in(folder: Path) -> dict[str, bytes]:
    """A committed folder's files. Raises: ValueError where one is not as it was written."""
    try:
        return read_folder(folder)
    except DamagedError as error:
        raise ValueError(f"{error} Leave --best out, to take the last checkpoint.") from error


def tensors_in(folder: Path, files: dict[str, bytes], part: str) -> dict[str, torch.Tensor]:
    """The tensors of one of a checkpoint's files. Raises: ValueError where they are none."""
    name = f"{part}.safetensors"
    if name not in files:
        raise ValueError(f"{folder} has no {name} in its manifest: it is no checkpoint of a run.")
    return tensors_of(files[name], folder / name)


def check_network(run: Run | ClassifierRun, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Raise ValueError, before memory is taken, unless the weights are those of run.json."""
    shapes = skeleton(run.network.build, folder / "run.json")
    wanted = {f"{NETWORK}{name}": value for name, value in shapes.items()}
    check_weights(
        wanted, {name: v for name, v in tensors.items() if name.startswith(NETWORK)}, folder
    )


def take(model: torch.nn.Module, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Load the state dict. Raises: ValueError for what lies beside the network and does not fit."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder}: its weights are not those of run.json: {error}") from error


def conditions_in(folder: Path, run: Run) -> Conditions:
    """What the run in this folder can be asked for."""
    if run.text is not None:
        return Captions(load_table(folder), run.text)
    return Labels(run.network.classes) if run.network.classes else Nothing()


def guided_as(loaded: Loaded, sampling: SamplingConfig) -> Loaded:
    """The loaded run with the classifier and the worse model that the settings name."""
    if sampling.classifier:
        loaded = guided(loaded, sampling.classifier)
    return autoguided(loaded, sampling) if sampling.worse else loaded


def drawn_by(
    loaded: Loaded,
    order: Order,
    sampling: SamplingConfig,
    batch: int,
    on_point: OnPoint | None = None,
) -> torch.Tensor:
    """draw, with all that the loaded run brings: uint8 images (N, C, H, W)."""
    how = (sampling, loaded.conditions, loaded.device, batch, on_point)
    return draw(loaded.artist, order, *how, loaded.codec, loaded.log_prob)


def guided(loaded: Loaded, name: str) -> Loaded:
    """The loaded run with the classifier of another run, averaged weights, to guide it.

    Raises: ValueError where that run trained something else, or on other classes or channels.
    """
    folder = find(name)
    run = read_run(folder)
    if not isinstance(run, ClassifierRun):
        raise ValueError(f"--classifier {name}: {folder} is a {type(run).__name__}, no classifier.")
    if loaded.run.text is not None:
        raise ValueError(
            f"{loaded.folder} is told what to draw in words, and a classifier knows classes: guide "
            "it by --guidance."
        )
    _check_sees(run, loaded)
    _, tensors = load_weights(folder, False, False)
    check_network(run, tensors, folder)
    guide = build_classifier(run, loaded.device).eval()
    guide.precision = loaded.denoiser.precision
    take(guide, tensors, folder)
    guide.requires_grad_(False)
    names, own = read_card(folder).class_names, loaded.card.class_names
    if loaded.run.network.classes:
        if names != own:
            raise ValueError(
                f"the classifier knows the classes {names}, the model {own}: train one of them "
                "again on the other's images."
            )
        return replace(loaded, guide=guide)
    card = replace(loaded.card, class_names=names)
    return replace(loaded, guide=guide, card=card, conditions=Nothing())


def autoguided(loaded: Loaded, sampling: SamplingConfig) -> Loaded:
    """The loaded run drawing away from a worse one, where sampling's interval says so.

    Raises: ValueError where that run draws something else.
    """
    path = Path(sampling.worse)
    if path.parent.name == "checkpoints":
        worse: Denoiser = _earlier(loaded, path)
    else:
        other = load_run(sampling.worse, loaded.device, precision=loaded.precision)
        _check_same_kind(loaded, other)
        worse = other.denoiser
    process = loaded.denoiser.process
    alike = worse if worse.process == process else OnProcess(worse, process)
    away = Autoguidance(loaded.denoiser, alike, sampling.worse_scale)
    low, high = sampling.guidance_from, sampling.guidance_to
    everywhere = (low, high) == (0.0, float("inf"))
    return replace(loaded, away=away if everywhere else Within(away, loaded.denoiser, low, high))


def _earlier(loaded: Loaded, path: Path) -> Denoiser:
    """The denoiser of a checkpoint's folder of the same run, averaged weights."""
    tensors = tensors_in(path, files_in(path), "average")
    check_network(loaded.run, tensors, path)
    worse = build(loaded.run, loaded.device).eval()
    take(worse, tensors, path)
    worse.precision = loaded.denoiser.precision
    return worse


def _check_same_kind(loaded: Loaded, other: Loaded) -> None:
    """Raise ValueError where two runs differ in what they draw, or by what they are told."""
    for name in ("shape", "class_names"):
        own, theirs = getattr(loaded.card, name), getattr(other.card, name)
        if own != theirs:
            raise ValueError(
                f"--worse {other.folder}: its images have {name} {theirs}, those of "
                f"{loaded.folder} {own}. Autoguidance wants a worse model of the same images."
            )
    if (loaded.run.codec, loaded.run.text) != (other.run.codec, other.run.text):
        raise ValueError(
            f"--worse {other.folder}: it diffuses by {other.run.codec}, told by {other.run.text}; "
            f"{loaded.folder} by {loaded.run.codec}, told by {loaded.run.text}."
        )


def _check_sees(run: ClassifierRun, loaded: Loaded) -> None:
    """Raise ValueError where the classifier was not trained on what the model denoises."""
    if not isinstance(loaded.run.codec, Pixels):
        raise ValueError(
            f"{loaded.folder} diffuses latents, and a classifier knows pixels: guide a model of "
            "pixels, or by --guidance."
        )
    if run.network.in_channels != loaded.card.channels:
        raise ValueError(
            f"the classifier sees {run.network.in_channels} channels, the model draws "
            f"{loaded.card.channels}: train one of them again with --channels."
        )
