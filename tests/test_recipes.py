"""Every recipe, made tiny, through the command: trained, stopped, gone on with, drawn from."""

import math

import pytest
import torch

from sfumato.assembly import fitted
from sfumato.config import AutoencoderRun, ClassifierRun, Run
from sfumato.folder import read_metrics
from sfumato.kinds import loads
from sfumato.latents import read_codec
from sfumato.networks.describe import asked
from sfumato.pictures import read_settings
from sfumato.recipes import RECIPES
from tiny import autoencoder_in, fake_text, small, stop_after


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, and autoencoders of both sizes trained on them."""
    folder = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI", "true")
        for name in ("autoencoder_f4", "autoencoder_f8"):
            autoencoder_in(folder, name)
    return folder


def look_at_denoiser(sfumato, folder):
    sfumato("sample", folder, "--count", "2", "--columns", "2", "--no-film", "--quiet")
    assert read_settings(folder / "drawn" / "samples.png")["step"] == 5


def look_at_autoencoder(sfumato, folder):
    saved = read_codec(folder / "codec")
    assert saved.config.f == 4 * 2 ** (len(saved.config.widths) - 1)
    assert saved.facts["steps"] == 5
    with pytest.raises(SystemExit, match="is a AutoencoderRun, which draws nothing"):
        sfumato("sample", folder)


def look_at_classifier(sfumato, folder):
    (row,) = [row for row in read_metrics(folder) if row["kind"] == "accuracy"]
    assert all(0 <= level["accuracy"] <= 1 for level in row["levels"])
    with pytest.raises(SystemExit, match="is a ClassifierRun, which draws nothing"):
        sfumato("sample", folder)


LOOKS = {
    Run: look_at_denoiser,
    AutoencoderRun: look_at_autoencoder,
    ClassifierRun: look_at_classifier,
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_stops_goes_on_and_draws(name, root, sfumato, tmp_path, monkeypatch):
    fake_text(monkeypatch)
    whole = RECIPES[name]()
    run = small(whole)
    monkeypatch.setitem(RECIPES, name, lambda: run)
    words = ["--data", root / "pictures", "--device", "cpu", "--quiet"]
    if type(whole) is Run and (weights := getattr(whole.codec, "weights", "")):
        words.append(f"codec.weights={root / weights.removeprefix('runs/')}")
    stop_after(monkeypatch, 3)
    sfumato("train", name, *words)
    folder = tmp_path / "runs" / name
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000000003"]
    assert not (folder / "samples.png").exists()
    stop_after(monkeypatch, 0)
    sfumato("train", name, *words, "--resume")
    rows = [row for row in read_metrics(folder) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert (folder / "samples.png").is_file()
    saved = loads((folder / "run.json").read_text("utf-8"))
    assert (saved.recipe, type(saved.network)) == (name, type(whole.network))
    LOOKS[type(run)](sfumato, folder)


def called(run, x, level):
    """What the recipe's network makes of two images, with a condition where it has one."""
    if isinstance(run, AutoencoderRun):
        network = run.network.build()
        return network(x, torch.empty(2, *run.network.latent_shape(*x.shape[2:])))[0]
    if isinstance(run, ClassifierRun):
        return run.network.build()(x, level)
    context = 384 if run.text is not None else 0
    classes = 10 if run.data.labels and not context else 0
    outputs = x.shape[1] * (2 if run.learned_variance else 1)
    network = fitted(run.network, x.shape[1], outputs, classes, context).build()
    cond = asked(classes, context)
    if isinstance(cond, dict):
        cond = {name: value.expand(2, *value.shape[1:]) for name, value in cond.items()}
    return network(x, level, cond if cond is None or context else cond.expand(2))


@pytest.mark.parametrize("name", RECIPES)
def test_the_whole_network_takes_the_images_of_its_recipe(name):
    run = RECIPES[name]()
    latent = {"runs/autoencoder_f4": (4, 32), "runs/autoencoder_f8": (8, 16)}
    plain = (3, run.data.size or 32)
    channels, side = latent.get(getattr(getattr(run, "codec", None), "weights", ""), plain)
    with torch.device("meta"):  # shapes without numbers
        out = called(run, torch.empty(2, channels, side, side), torch.empty(2))
    if isinstance(run, ClassifierRun):
        assert out.shape == (2, run.network.classes)
    else:
        outputs = channels * (2 if getattr(run, "learned_variance", False) else 1)
        assert out.shape == (2, outputs, side, side)
