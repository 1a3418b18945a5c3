"""Autoguidance: away from a worse model of the same data."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from sfumato.denoiser import OnProcess
from sfumato.exact import GaussianMixture
from sfumato.guidance import Autoguidance, Within
from sfumato.loading import autoguided, load_run
from sfumato.pictures import read_settings
from sfumato.process import Karras, RectifiedFlow
from sfumato.recipes import RECIPES
from tiny import CPU, images, small, train_in


def one_gaussian(std, process=None):
    return GaussianMixture(process or Karras(), torch.zeros(1, 2), std)


def test_between_two_gaussians_the_estimate_is_linear():
    """D = v / (v + s^2) x for data of variance v; the scale extrapolates between two slopes."""
    x, t = torch.randn(3, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    near, far = 1 / (1 + 0.25), 4 / (4 + 0.25)
    found = Autoguidance(one_gaussian(1.0), one_gaussian(2.0), 3.0)(x, t)
    assert torch.allclose(found.x0, (far + 3 * (near - far)) * x)
    alone = Autoguidance(one_gaussian(1.0), one_gaussian(2.0), 1.0)(x, t)
    assert torch.equal(alone.x0, one_gaussian(1.0)(x, t).x0)


def test_of_another_process_it_has_to_be_brought_over():
    flow = one_gaussian(2.0, RectifiedFlow())
    with pytest.raises(ValueError, match="OnProcess"):
        Autoguidance(one_gaussian(1.0), flow, 2.0)
    x, t = torch.randn(3, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    over = Autoguidance(one_gaussian(1.0), OnProcess(flow, Karras()), 2.0)(x, t).x0
    same = Autoguidance(one_gaussian(1.0), one_gaussian(2.0), 2.0)(x, t).x0
    assert torch.allclose(over, same)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoguidance")
    run = small(RECIPES["digits"]())
    kept = replace(run, train=replace(run.train, steps=4, save_every_steps=2, keep=9))
    train_in(folder / "good", kept, images(size=16))
    train_in(folder / "worse", replace(run, train=replace(run.train, steps=1)), images(size=16))
    train_in(folder / "other", run, images(size=16, classes=2))
    return folder


def test_an_earlier_checkpoint_or_another_run_guides(root, sfumato, tmp_path):
    def drawn(name, *words):
        sfumato(
            *("sample", root / "good", "--seeds", "4", "--no-film", "--files", "--out", name),
            *("--steps", "6", *words),
        )
        (file,) = (tmp_path / name).glob("*000004.png")
        with Image.open(file) as picture:
            return picture.tobytes(), read_settings(file)

    alone, _ = drawn("alone")
    earlier = root / "good" / "checkpoints" / "step-000000002"
    assert drawn("none", "--worse", earlier, "--worse-scale", "1")[0] == alone
    by_earlier, settings = drawn("earlier", "--worse", earlier, "--worse-scale", "30")
    assert by_earlier != alone
    assert settings["sampling"]["worse_scale"] == 30.0
    assert drawn("other", "--worse", root / "worse", "--worse-scale", "30")[0] != alone


def test_only_inside_the_interval(root):
    loaded = load_run(str(root / "good"), CPU)
    sampling = replace(loaded.run.sampling, worse=str(root / "worse"), guidance_to=2.0)
    found = autoguided(loaded, sampling).artist
    assert isinstance(found, Within)
    x = torch.randn(2, 1, 16, 16)
    outside = torch.tensor(5.0, dtype=torch.float64)
    label = torch.tensor([0, 1])
    assert torch.equal(found(x, outside, label).x0, loaded.denoiser(x, outside, label).x0)
    inside = torch.tensor(1.0, dtype=torch.float64)
    worse = load_run(str(root / "worse"), CPU).denoiser(x, inside, label).x0
    own = loaded.denoiser(x, inside, label).x0
    assert not torch.allclose(own, worse)
    assert torch.allclose(found(x, inside, label).x0, worse + 2.0 * (own - worse), atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_worse_model_computes_in_what_the_better_one_does(root, precision):
    loaded = load_run(str(root / "good"), CPU, precision=precision)
    found = autoguided(loaded, replace(loaded.run.sampling, worse=str(root / "worse"))).artist
    assert found.worse.precision == loaded.denoiser.precision


def test_a_model_of_other_images_is_refused(root):
    loaded = load_run(str(root / "good"), CPU)
    with pytest.raises(ValueError, match="class_names"):
        autoguided(loaded, replace(loaded.run.sampling, worse=str(root / "other")))
