"""Runs on latents: they need no other run, mirror images as images, and make films."""

import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from sfumato.assembly import LatentExamples, PixelExamples, examples_of, splits_of
from sfumato.data import load
from sfumato.folder import read_metrics
from sfumato.latents import AutoencoderCodec, read_codec
from sfumato.loading import guided, load_run
from sfumato.recipes import RECIPES
from sfumato.tasks import TASKS
from tiny import CPU, autoencoder_in, small, stop_after, train_in


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    autoencoder_in(folder)
    return folder


@pytest.fixture
def settled(root):
    """(run, images, codec) of a tiny run on latents, settled."""
    data = load(root / "pictures")
    run = small(RECIPES["latent_unet"]())
    run = replace(run, codec=AutoencoderCodec(str(root / "autoencoder_f4")))
    run = TASKS[type(run)].settled(run, data)
    return run, data, run.codec.build(root / "nowhere", CPU)


def test_an_autoencoders_run_is_a_codec_that_says_what_it_is_worth(root):
    folder = root / "autoencoder_f4"
    saved = read_codec(folder / "codec")
    (row,) = [row for row in read_metrics(folder) if row["kind"] == "codec"]
    assert saved.facts == {key: row[key] for key in saved.facts}
    assert saved.facts["trained_on"] == "pictures"
    assert saved.facts["images"] == 2  # those held out
    codec, images = saved.codec(CPU), load(root / "pictures").images
    error = codec.decode(codec.encode(images), (16, 16)).double() - images.double()
    assert error.shape == (24, 3, 16, 16)


def test_a_run_on_latents_needs_no_other_run(root, sfumato, tmp_path, monkeypatch):
    shutil.copytree(root / "autoencoder_f4", tmp_path / "coder")
    run = small(RECIPES["latent_unet"](), previews=1)
    monkeypatch.setitem(RECIPES, "latent_unet", lambda: run)
    stop_after(monkeypatch, 3)
    words = ("--data", root / "pictures", "--device", "cpu")
    sfumato("train", "latent_unet", *words, "codec.weights=coder")
    shutil.rmtree(tmp_path / "coder")
    shutil.rmtree(tmp_path / "home")  # and the cache of latents
    stop_after(monkeypatch, 0)
    folder = tmp_path / "runs" / "latent_unet"
    assert "goes on at step 3" in sfumato("train", folder)
    for name in ("loss.png", "samples.png", "index.html", "samples/step-0000005.png"):
        assert (folder / name).is_file(), name
    shutil.move(folder, tmp_path / "moved")
    sfumato("sample", "moved", "--columns", "2", "--files")
    with Image.open(tmp_path / "moved" / "drawn" / "film.webp") as film:
        assert film.n_frames >= 20
    with Image.open(tmp_path / "moved" / "drawn" / "dog-000002.png") as picture:
        assert picture.size == (16, 16)
        assert picture.mode == "RGB"


def test_without_its_autoencoder_a_new_run_is_refused(root, sfumato):
    with pytest.raises(SystemExit, match="no autoencoder at gone"):
        sfumato("train", "latent_unet", "--data", root / "pictures", "codec.weights=gone")


def test_mirrored_latents_are_those_of_mirror_images(settled, monkeypatch, tmp_path):
    """Latents turned around are not: the autoencoder does not commute with mirroring."""
    monkeypatch.setenv("SFUMATO_HOME", str(tmp_path))
    run, data, codec = settled
    assert run.data.flip
    examples = examples_of(run, data, codec, CPU, print, flips=run.data.flip)
    index, mirrored = torch.tensor([5, 5, 2]), torch.tensor([False, True, True])
    found = examples.rows(index, mirrored)["x0"]
    images = data.images[index]
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    torch.testing.assert_close(found, codec.encode(images), rtol=2e-3, atol=2e-3)
    assert (found[1] - found[0].flip(-1)).abs().max() > 0.05
    plain = examples_of(run, data, codec, CPU, print, flips=False)
    assert plain.latents.shape[0] == 1
    assert examples.latents.shape == (2, 24, 4, 4, 4)
    assert torch.equal(plain.rows(index, None)["x0"], examples.rows(index, None)["x0"])


def test_latents_are_written_once_and_read_after(settled, monkeypatch, tmp_path):
    monkeypatch.setenv("SFUMATO_HOME", str(tmp_path))
    run, data, codec = settled
    said = []
    for _ in range(2):
        examples_of(run, data, codec, CPU, said.append, flips=True)
    assert len(list((tmp_path / "latents").iterdir())) == 1
    monkeypatch.setattr(type(codec), "encode", None)  # is not asked again
    examples_of(run, data, codec, CPU, said.append, flips=True)


def test_pixels_are_mirrored_where_asked():
    data = load("digits", limit=4)
    index, mirrored = torch.arange(4), torch.tensor([True, False, True, False])
    rows = PixelExamples(data, CPU).rows(index, mirrored)["images"]
    for i in range(4):
        assert torch.equal(rows[i], data.images[i].flip(-1) if mirrored[i] else data.images[i])
    whole = LatentExamples(torch.arange(8.0).reshape(2, 1, 1, 1, 4), CPU)
    assert whole.rows(torch.tensor([0]), torch.tensor([True]))["x0"].tolist() == [[[[4, 5, 6, 7]]]]


def test_a_run_on_latents_knows_channels_and_deviation_from_its_codec(settled):
    run, data, codec = settled
    assert (run.network.in_channels, run.network.out_channels) == (4, 4)
    assert run.parameterization.sigma_data == 1.0
    assert codec.shape((3, 16, 16)) == (4, 4, 4)
    latents = codec.encode(splits_of(run.data, data).train.images)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0.01, atol=0.0)


def test_latents_are_not_guided_by_a_classifier_of_pixels(root, settled, tmp_path, monkeypatch):
    monkeypatch.setenv("SFUMATO_HOME", str(tmp_path / "home"))
    run, data, _ = settled
    train_in(tmp_path / "model", replace(run, train=replace(run.train, steps=1)), data)
    train_in(tmp_path / "classifier", small(RECIPES["noisy_classifier"](), steps=1), data)
    with pytest.raises(ValueError, match="diffuses latents, and a classifier knows pixels"):
        guided(load_run(str(tmp_path / "model"), CPU), str(tmp_path / "classifier"))
