"""Every kind of run, and every kind of input: five steps are three and, gone on with, two more."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load as tensors_of

from sfumato import checkpoint
from sfumato.bound import VariationalBound
from sfumato.data import load
from sfumato.folder import read_metrics
from sfumato.importance import ImportanceSampled
from sfumato.kinds import loads
from sfumato.latents import AutoencoderCodec
from sfumato.recipes import RECIPES
from sfumato.tasks import TASKS
from tiny import autoencoder_in, fake_text, small, stop_after, train_in


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    autoencoder_in(folder)
    return folder


@pytest.fixture
def data(root):
    return load(root / "pictures")


@pytest.fixture(autouse=True)
def _lean(monkeypatch, tmp_path):
    monkeypatch.setenv("SFUMATO_HOME", str(tmp_path / "home"))
    fake_text(monkeypatch)


def everything_random(run):
    """Dropout, mirroring and dropped labels on, where the run has them."""
    network = replace(run.network, dropout=0.2) if hasattr(run.network, "dropout") else run.network
    return replace(run, network=network, data=replace(run.data, flip=True, label_dropout=0.4))


def in_pixels(root):
    return small(RECIPES["digits"]())


def with_learned_variance(root):
    return small(RECIPES["improved_ddpm"]())


def in_latents(root):
    run = small(RECIPES["latent_unet"]())
    return replace(run, codec=AutoencoderCodec(str(root / "autoencoder_f4")))


def of_captions(root):
    return small(RECIPES["emoji_text"]())


def with_importance(root):
    """Of two steps that remember two losses, so that the history is full, and used, in a step."""
    objective = ImportanceSampled(VariationalBound(steps=1000), steps=2, keep=2)
    return replace(small(RECIPES["improved_ddpm_vlb"]()), objective=objective)


def autoencoding(root):
    return small(RECIPES["autoencoder_f8"]())


def classifying(root):
    return small(RECIPES["noisy_classifier"]())


KINDS = [
    *(in_pixels, with_learned_variance, in_latents, of_captions, with_importance),
    *(autoencoding, classifying),
]


def saved(folder):
    """Every tensor of the newest checkpoint, by file and name; and its epoch's sum."""
    found = checkpoint.newest(folder)
    assert found is not None
    files = {
        f"{file}:{name}": value
        for file, content in found[1].items()
        if file.endswith(".safetensors")
        for name, value in tensors_of(content).items()
    }
    assert {name.partition(".")[0] for name in files} == {"weights", "average", "optimizer"}
    return found[0].name, files


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_went_on_is_the_run_that_never_stopped(kind, root, data, tmp_path, monkeypatch):
    run = everything_random(kind(root))
    straight = train_in(tmp_path / "straight", run, data)
    stop_after(monkeypatch, 3)
    train_in(tmp_path / "stopped", run, data)
    name, early = saved(tmp_path / "stopped")
    assert name == "step-000000003"
    stop_after(monkeypatch, 0)
    torch.manual_seed(99)  # what else happened to the global generator must not matter
    run = loads((tmp_path / "stopped" / "run.json").read_text("utf-8"))
    train_in(tmp_path / "stopped", run, data, resume=True)
    (last, first), (step, second) = saved(straight), saved(tmp_path / "stopped")
    assert last == step == "step-000000005"
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert any(not torch.equal(early[key], second[key]) for key in early)
    losses = [
        [row["loss"] for row in read_metrics(folder) if row["kind"] == "train"]
        for folder in (straight, tmp_path / "stopped")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", KINDS)
def test_settling_twice_changes_nothing(kind, root, data):
    run = kind(root)
    once = TASKS[type(run)].settled(run, data)
    assert TASKS[type(run)].settled(once, data) == once
    assert once.train.epoch_images == 22  # of 24 two are held out
    assert once.network.in_channels == (4 if kind is in_latents else 3)
