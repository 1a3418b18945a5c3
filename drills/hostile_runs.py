"""What a stranger's files are planted in: small runs, whole and untrained."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from sfumato import checkpoint
from sfumato.config import ClassifierRun, Run
from sfumato.data import ImageData, fingerprint
from sfumato.folder import DataCard, write_card
from sfumato.kinds import dumps
from sfumato.latents import save_codec
from sfumato.networks.autoencoder import AutoencoderConfig
from sfumato.planning import load_data
from sfumato.recipes import RECIPES
from sfumato.storage import write_file
from sfumato.tasks import TASKS, Parts, task_of
from sfumato.training import TrainState

from .hostile_pickles import MODULE

CPU = torch.device("cpu")


def prepare(root: Path, canary: Path) -> None:
    """All of them in `root`, images with captions, and the module that leaves the canary."""
    for make in (small_run, small_classifier, small_codec):
        make(root)
    (root / f"{MODULE}.py").write_text(f"open({str(canary)!r}, 'w').close()")
    sys.path.insert(0, str(root))
    captioned = root / "captioned"
    captioned.mkdir()
    for number in range(12):
        Image.new("RGB", (8, 8), (20 * number, 0, 90)).save(captioned / f"{number}.png")
        (captioned / f"{number}.txt").write_text(f"number {number}")


def small_run(root: Path) -> Path:
    """A run on the built-in digits, with a checkpoint and a best average."""
    run = RECIPES["digits"]()
    network = replace(
        run.network, channels=8, multipliers=(1,), blocks=1, attention_at=(),
        middle_attention=False, groups=4,
    )  # fmt: skip
    train = replace(run.train, seconds=None, steps=3, batch=4)
    data = replace(run.data, limit=40)
    return _written(root / "run", replace(run, network=network, train=train, data=data))


def small_classifier(root: Path) -> Path:
    run = RECIPES["noisy_classifier"]()
    network = replace(
        run.network, channels=8, multipliers=(1,), blocks=1, attention_at=(), groups=4,
        head_channels=8,
    )  # fmt: skip
    train = replace(run.train, seconds=None, images=None, epochs=None, steps=3, batch=4)
    data = replace(run.data, source="digits", size=None, limit=40)
    return _written(root / "classifier", replace(run, network=network, train=train, data=data))


def _written(folder: Path, run: Run | ClassifierRun) -> Path:
    data = load_data(run.data)
    settled = replace(TASKS[type(run)].settled(run, data), precision="fp32")
    folder.mkdir(parents=True)
    parts = Parts(folder, card_of(data), data, None, CPU, print)
    state = TrainState.fresh(task_of(settled, parts).build(), settled.train)
    write_card(folder, card_of(data))
    checkpoint.write(folder, state, keep=1)
    checkpoint.write_best(folder, state, 1.0)
    write_file(folder / "run.json", dumps(settled).encode())
    return folder


def card_of(data: ImageData) -> DataCard:
    shape = {"images": len(data), "channels": data.channels, "size": data.size}
    names = {"name": data.name, "source": data.source, "class_names": data.class_names}
    return DataCard(fingerprint=fingerprint(data), **shape, **names)  # type: ignore[arg-type]


def small_codec(root: Path) -> Path:
    config = AutoencoderConfig(in_channels=1, widths=(8, 8), groups=4)
    means, stds = (0.0,) * 4, (1.0,) * 4
    save_codec(root / "codec", config, config.build().state_dict(), means, stds, {})
    return root / "codec"
