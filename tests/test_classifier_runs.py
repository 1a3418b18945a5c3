"""Runs of classifiers, and a labelless model drawn from with one."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load as tensors_of

from sfumato import checkpoint
from sfumato.config import SamplingConfig
from sfumato.data import load
from sfumato.folder import read_metrics
from sfumato.generation import wrapped
from sfumato.guidance import ByClassifier, ClassifierFree, Unconditional
from sfumato.loading import guided, load_run
from sfumato.pictures import read_settings
from sfumato.process import Karras, LinearVP
from sfumato.recipes import RECIPES
from sfumato.tasks import classifying
from sfumato.tasks.classifying import RATIOS, reached
from tiny import CPU, images, pictures, small, train_in


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A labelless model, one of the same classes, and classifiers of these and of others."""
    folder = tmp_path_factory.mktemp("classifiers")
    rgb, grey = load(pictures(folder / "pictures")), images(size=16)
    others = replace(rgb, class_names=("hen", "egg"))
    labelless = replace(rgb, labels=None, class_names=())
    train_in(folder / "model", small(RECIPES["digits_unlabelled"]()), labelless)
    train_in(folder / "knowing", small(RECIPES["digits"]()), rgb)
    train_in(folder / "strangers", small(RECIPES["noisy_classifier"]()), others)
    train_in(folder / "grey", small(RECIPES["noisy_classifier"]()), grey)
    train_in(folder / "classifier", small(RECIPES["noisy_classifier"](), previews=1), rgb)
    return folder


def test_a_classifiers_run_leaves_its_accuracy_by_noise(root):
    folder = root / "classifier"
    for name in ("loss.png", "samples.png", "index.html", "samples/step-0000005.png"):
        assert (folder / name).is_file(), name
    (row,) = [row for row in read_metrics(folder) if row["kind"] == "accuracy"]
    assert [level["ratio"] for level in row["levels"]] == list(RATIOS)
    shown = read_settings(folder / "samples.png")["accuracy"]
    assert shown == {str(level["ratio"]): level["accuracy"] for level in row["levels"]}
    with pytest.raises(ValueError, match="classes: a classifier wants two or more"):
        train_in(folder / "new", small(RECIPES["noisy_classifier"]()), images(classes=1))


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (0, "22 of the images that it was trained on, none being held out"),
        (2, "2 held-out images"),
    ],
)
def test_it_is_said_which_images_were_classified_right(tmp_path, held, told):
    """Those of training say nothing of others."""
    run = small(RECIPES["noisy_classifier"](), steps=1)
    run = replace(run, data=replace(run.data, held_out=held))
    folder = train_in(tmp_path / "run", run, images(22, size=16))
    assert f"right on {told}, by sigma / alpha: " in (folder / "log.txt").read_text()
    (row,) = [row for row in read_metrics(folder) if row["kind"] == "accuracy"]
    assert row["of"] == read_settings(folder / "samples.png")["accuracy_of"] == told


def test_many_held_out_images_are_counted_beside_those_looked_at(monkeypatch):
    monkeypatch.setattr(classifying, "MOST_SCORED", 5)
    parts = SimpleNamespace(train=images(30), held_out=images(7))
    assert classifying.Classifying(None, parts)._which() == "5 of 7 held-out images"


def test_only_noise_that_there_is_is_told_of():
    assert reached(Karras(5.0)) == (0.01, 0.1, 0.3, 1.0, 2.0, 4.0)
    assert reached(LinearVP()) == RATIOS


def test_a_labelless_model_draws_the_classes_of_its_classifier(root, sfumato, tmp_path):
    words = ("--classifier", root / "classifier", "--classifier-scale", "3", "--files")
    sfumato("sample", root / "model", *words, "--columns", "2", "--out", "drawn")
    settings = read_settings(tmp_path / "drawn" / "samples.png")
    assert settings["labels"] == [0, 0, 1, 1]
    assert settings["sampling"]["classifier_scale"] == 3.0
    assert (tmp_path / "drawn" / "dog-000003.png").is_file()
    assert (tmp_path / "drawn" / "film.webp").is_file()
    sfumato("sample", root / "model", *words, "--label", "dog", "--count", "2", "--out", "dogs")
    assert read_settings(tmp_path / "dogs" / "samples.png")["labels"] == [1, 1]
    with pytest.raises(SystemExit, match="without classes"):
        sfumato("sample", root / "model", "--label", "dog")


def test_at_scale_0_the_model_draws_what_it_draws_alone(root, sfumato, tmp_path):
    def drawn(name, *words):
        sfumato(
            *("sample", root / "model", "--seeds", "4", "--no-film", "--files", "--out", name),
            *("--steps", "8", *words),
        )
        (file,) = (tmp_path / name).glob("*000004.png")
        with Image.open(file) as picture:
            return picture.tobytes()

    by = ("--classifier", root / "classifier", "--label", "dog", "--classifier-scale")
    alone = drawn("alone")
    assert drawn("none", *by, "0") == alone
    assert drawn("much", *by, "500") != alone


def test_what_guides_what(root):
    """A model that knows no class is never told one; one that does is guided by both."""
    plain = guided(load_run(str(root / "model"), CPU), str(root / "classifier"))
    assert plain.card.class_names == ("cat", "dog")
    found = wrapped(plain.denoiser, SamplingConfig(), plain.conditions, plain.log_prob)
    assert type(found) is ByClassifier
    assert type(found.denoiser) is Unconditional
    knowing = guided(load_run(str(root / "knowing"), CPU), str(root / "classifier"))
    sampling = SamplingConfig(guidance=2.0, classifier_scale=0.5)
    both = wrapped(knowing.denoiser, sampling, knowing.conditions, knowing.log_prob)
    assert (type(both), both.scale) == (ByClassifier, 0.5)
    assert (type(both.denoiser), both.denoiser.scale) == (ClassifierFree, 2.0)
    alone = replace(sampling, guidance=0.0, guidance_to=5.0)
    untold = wrapped(knowing.denoiser, alone, knowing.conditions, knowing.log_prob)
    assert type(untold.denoiser) is Unconditional
    x, t = torch.randn(2, 3, 16, 16), torch.tensor(0.5, dtype=torch.float64)
    plain = knowing.denoiser(x, t, None)
    by = replace(untold, scale=0.0)(x, t, torch.tensor([0, 1]))
    assert torch.equal(by.x0, plain.x0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_guide_computes_in_what_the_model_does(root, precision):
    loaded = guided(
        load_run(str(root / "model"), CPU, precision=precision), str(root / "classifier")
    )
    assert loaded.precision == precision
    assert loaded.guide.precision == loaded.denoiser.precision


def test_the_guide_is_the_average_of_its_run_and_is_not_trained(root):
    loaded = guided(load_run(str(root / "model"), CPU), str(root / "classifier"))
    assert loaded.guide is not None
    found = checkpoint.newest(root / "classifier")
    assert found is not None
    average = tensors_of(found[1]["average.safetensors"])
    assert all(
        torch.equal(value, average[name]) for name, value in loaded.guide.state_dict().items()
    )
    assert not any(parameter.requires_grad for parameter in loaded.guide.parameters())


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        ("model", "knowing", "is a Run, no classifier"),
        ("model", "grey", "sees 1 channels, the model draws 3"),
        ("knowing", "strangers", r"knows the classes \('hen', 'egg'\), the model \('cat', 'dog'\)"),
    ],
)
def test_what_is_no_classifier_of_this_model_is_refused(root, sfumato, model, name, message):
    with pytest.raises(SystemExit, match=message):
        sfumato("sample", root / model, "--classifier", root / name)


def test_classifier_free_guidance_of_a_labelless_model_stays_refused(root, sfumato):
    with pytest.raises(SystemExit, match="model without classes"):
        sfumato("sample", root / "model", "--classifier", root / "classifier", "--guidance", "2")
