"""A run so small that a hundred of its steps take a second; and every recipe made that small."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sfumato.__main__ import main
from sfumato.assembly import batches, build, loss_of, settle
from sfumato.checkpoint import optimizer_tensors
from sfumato.config import AnyRun, AutoencoderRun, Run
from sfumato.data import ImageData, load
from sfumato.networks.autoencoder import AutoencoderConfig
from sfumato.networks.classifier import ClassifierConfig
from sfumato.networks.dit import DiTConfig
from sfumato.networks.four_conv import FourConvConfig
from sfumato.networks.handmade import HandmadeConfig
from sfumato.networks.lucid import LucidUNetConfig
from sfumato.networks.sd_unet import SDUNetConfig
from sfumato.networks.unet import UNetConfig
from sfumato.networks.unet2d import UNet2DConfig
from sfumato.recipes import RECIPES
from sfumato.session import Session
from sfumato.tasks import TASKS
from sfumato.trainer import Trainer
from sfumato.training import TrainState

CPU = torch.device("cpu")


def images(n: int = 37, classes: int = 3, size: int = 8) -> ImageData:
    """Random pictures, brighter for higher classes."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(n) % classes
    pixels = torch.randint(0, 120, (n, 1, size, size), generator=generator)
    pixels = (pixels + 40 * labels[:, None, None, None]).to(torch.uint8)
    return ImageData(pixels, labels, tuple("abc"[:classes]), "tiny", "a test")


def run(**train: object) -> Run:
    """The digits recipe with a network of a few thousand weights and everything random on."""
    recipe = RECIPES["digits"]()
    network = replace(
        recipe.network,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention_at=(),
        middle_attention=False,
        groups=4,
        dropout=0.1,
    )
    settings = {"seconds": None, "steps": 20, "batch": 12, "micro_batch": 5, "warmup_steps": 4}
    changed = replace(
        recipe,
        data=replace(recipe.data, flip=True, label_dropout=0.3),
        network=network,
        train=replace(recipe.train, **{**settings, **train}),  # type: ignore[arg-type]
        precision="fp32",
    )
    return settle(changed, images())


class Hooks:
    """Stops after a given step; remembers what was logged and saved."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.now = stop_at, 0
        self.rows: list[dict[str, float]] = []
        self.previews: list[int] = []
        self.saved: list[int] = []
        self.left_out: list[int] = []
        self.parts: list[int] = []

    def log(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.now = state.step
        self.rows.append({"step": state.step, **scalars})

    def preview(self, state: TrainState) -> None:
        self.previews.append(state.step)

    def save(self, state: TrainState) -> None:
        self.saved.append(state.step)

    def skipped(self, state: TrainState, reason: str) -> None:
        self.left_out.append(state.step)

    def smaller(self, state: TrainState, micro_batch: int) -> None:
        self.parts.append(micro_batch)

    def stopped(self) -> bool:
        return self.stop_at is not None and self.now >= self.stop_at


def parts(config: Run) -> tuple:  # type: ignore[type-arg]
    """(fresh state, loss, batch_at, TrainConfig) of a run on the tiny images."""
    state = TrainState.fresh(build(config, CPU), config.train)
    return state, loss_of(config), batches(config, images(), CPU), config.train


def fingerprint(state: TrainState) -> list[torch.Tensor]:
    """Everything that a run carries on, as a flat list of tensors."""
    moments, _ = optimizer_tensors(state)
    moments = [moments[name] for name in sorted(moments)]
    return [*state.model.state_dict().values(), *state.average.state_dict().values(), *moments]


def same(first: TrainState, second: TrainState) -> bool:
    """Bit for bit."""
    pairs = zip(fingerprint(first), fingerprint(second), strict=True)
    return first.step == second.step and all(torch.equal(a, b) for a, b in pairs)


UNET = {"channels": 8, "blocks": 1, "groups": 4, "head_channels": 8, "attention_at": ()}
SMALL: dict[type, dict[str, Any]] = {  # what makes a network of each kind a tiny one of its kind
    UNetConfig: UNET,
    SDUNetConfig: UNET,
    ClassifierConfig: {**UNET, "multipliers": (1, 2)},
    UNet2DConfig: {"layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4},
    DiTConfig: {"depth": 2, "width": 16, "heads": 2},
    HandmadeConfig: {"widths": (8, 16), "embedding": 8, "groups": 4},
    FourConvConfig: {"widths": (4, 4)},
    LucidUNetConfig: {"channels": 8, "heads": (2,), "head_channels": (4,)},
    AutoencoderConfig: {"blocks": 1, "groups": 4},
}


def small_network(network: Any) -> Any:
    """A network of the same class and number of levels, of some thousand weights."""
    changes = dict(SMALL[type(network)])
    for levels in ("multipliers", "block_out_channels", "widths"):
        if hasattr(network, levels) and levels not in changes and not _derived(network, levels):
            each = 1 if levels == "multipliers" else 8
            changes[levels] = (each,) * min(_most(network), len(getattr(network, levels)))
    if getattr(network, "context", 0):
        changes["context"] = 8
    return replace(network, **changes)


def _most(network: Any) -> int:
    return 4 if isinstance(network, UNet2DConfig) else 3  # its attention is told level by level


def _derived(network: Any, name: str) -> bool:
    return isinstance(getattr(type(network), name, None), property)


def small(config: Any, **train: object) -> Any:
    """A recipe's run with a tiny network, for five steps; all else is the recipe's."""
    budget = {"steps": 5, "images": None, "epochs": None, "seconds": None, "epoch_images": 0}
    settings = {**budget, "batch": 6, "micro_batch": 4, "previews": 0, "preview_epochs": None}
    changed = replace(
        config,
        data=replace(config.data, size=16),
        network=small_network(config.network),
        train=replace(config.train, **{**settings, **train}),
        precision="fp32",
    )
    if isinstance(config, AutoencoderRun):
        return replace(changed, crop=8)
    if isinstance(config, Run):
        return replace(changed, sampling=replace(config.sampling, steps=2))
    return changed


NAMES = ("cat", "dog")
CAPTIONS = ("a red cat", "a dog", "two dogs in the grass", "")


def pictures(folder: Path, n: int = 24, size: int = 16) -> Path:
    """A folder of RGB images in two classes, with captions."""
    lines = []
    generator = torch.Generator().manual_seed(7)
    for i in range(n):
        pixels = torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8)
        path = folder / NAMES[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)
        words = {"file_name": f"{path.parent.name}/{path.name}", "text": CAPTIONS[i % 4]}
        lines.append(json.dumps(words))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@dataclass(frozen=True)
class FakeEncoder:
    """A text encoder of one vector a word: that of a generator seeded by its letters."""

    max_tokens: int = 16
    features: int = 8
    name: str = "fake"

    def encode(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        words = [["[", *caption.split(), "]"][: self.max_tokens] for caption in captions]
        tokens = torch.zeros(len(words), max(map(len, words)), self.features)
        for row, line in enumerate(words):
            for column, word in enumerate(line):
                generator = torch.Generator().manual_seed(int.from_bytes(word.encode()[:7], "big"))
                tokens[row, column] = torch.randn(self.features, generator=generator)
        lengths = torch.tensor([len(line) for line in words])
        return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def fake_text(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every TextConfig builds the fake encoder; a list that grows with each that is built."""
    built: list[int] = []

    def build_fake(text: Any) -> FakeEncoder:
        built.append(text.max_tokens)
        return FakeEncoder(text.max_tokens)

    monkeypatch.setattr("sfumato.text.TextConfig.build", build_fake)
    return built


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Training stops after this step, as by Ctrl-C; undone by monkeypatch.undo or another call."""
    original = getattr(Session.log, "original", Session.log)

    def log(self: Session, state: TrainState, scalars: dict[str, float]) -> None:
        original(self, state, scalars)
        self.stop.asked = state.step == step

    log.original = original  # type: ignore[attr-defined]
    monkeypatch.setattr(Session, "log", log)


def commands(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """A function that runs `sfumato WORDS` in the folder, and returns what it printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("SFUMATO_HOME", str(folder / "home"))

    def call(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["sfumato", *map(str, words)])
        main()
        return capsys.readouterr().out

    return call


def train_in(folder: Path, config: AnyRun, data: ImageData, resume: bool = False) -> Path:
    """Train the run in a new folder, or go on in it, as `sfumato train` does."""
    settled = TASKS[type(config)].settled(config, data)
    trainer = Trainer(settled, data, CPU, quiet=True)
    return trainer.start(folder if resume else None, folder)[0]


def autoencoder_in(root: Path, name: str = "autoencoder_f4") -> Path:
    """A trained autoencoder's run in root/name, on root/pictures."""
    source = root / "pictures"
    data = load(source if source.exists() else pictures(source))
    config = small(RECIPES[name](), steps=4, lr=1e-2)
    return train_in(root / name, config, data)


SHARED = Path(__file__).parents[2] / "shared" / "data"
