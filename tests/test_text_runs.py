"""Runs on captions: trained, gone on with and drawn from in words."""

import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load as tensors_of

from sfumato.data import load
from sfumato.folder import read_metrics
from sfumato.loading import guided, load_run
from sfumato.pictures import read_settings
from sfumato.recipes import RECIPES
from sfumato.text import load_table
from tiny import CAPTIONS, CPU, fake_text, images, pictures, small, train_in


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run on captions, with every picture and a test part."""
    folder = tmp_path_factory.mktemp("words")
    data = load(pictures(folder / "pictures"))
    with pytest.MonkeyPatch.context() as patch:
        fake_text(patch)
        run = small(RECIPES["emoji_text"](), previews=1, lr=0.05)
        settings = replace(run.data, source=str(folder / "pictures"), test=4)
        train_in(folder / "run", replace(run, data=settings), data)
        train_in(folder / "classifier", small(RECIPES["noisy_classifier"]()), data)
    return folder


def test_a_run_keeps_its_captions_and_shows_them(root):
    folder = root / "run"
    table = load_table(folder)
    assert sorted(table.captions) == sorted(CAPTIONS)
    for name in ("loss.png", "samples.png", "index.html", "samples/step-0000005.png"):
        assert (folder / name).is_file(), name
    assert len([row for row in read_metrics(folder) if row["kind"] == "test"]) == 1
    loaded = load_run(str(folder), CPU)
    assert loaded.run.network.context == 8
    assert loaded.run.network.classes == 0  # the labels are not the condition


def test_captions_of_the_test_part_alone_are_read_for_the_test(tmp_path, monkeypatch):
    fake_text(monkeypatch)
    monkeypatch.setattr("sfumato.trainer._write_page", lambda folder: None)
    data = load(pictures(tmp_path / "pictures"))
    each = replace(data, captions=tuple(f"picture {i}" for i in range(24)))
    run = small(RECIPES["emoji_text"](), steps=1)
    folder = train_in(tmp_path / "run", replace(run, data=replace(run.data, test=4)), each)
    assert len(load_table(folder).captions) == 1 + 20  # the empty one and those not of the test
    assert len([row for row in read_metrics(folder) if row["kind"] == "test"]) == 1


def test_a_classifier_does_not_guide_words(root):
    loaded = load_run(str(root / "run"), CPU)
    with pytest.raises(ValueError, match="in words, and a classifier knows classes"):
        guided(loaded, str(root / "classifier"))


def test_prompts_a_row_each_with_a_film(root, sfumato, tmp_path, monkeypatch):
    built = fake_text(monkeypatch)
    prompts = ("a dog", "a green cat", "two dogs in the grass")
    sfumato("sample", root / "run", "--prompt", *prompts, "--columns", "2", "--out", "drawn")
    settings = read_settings(tmp_path / "drawn" / "samples.png")
    assert settings["prompts"] == list(prompts)
    assert settings["seeds"] == list(range(6))
    with Image.open(tmp_path / "drawn" / "film.webp") as film:
        assert film.n_frames >= 20
    assert built  # for the cat, who is new
    built.clear()
    words = ("--prompt", "a dog", "--count", "2", "--no-film", "--files", "--out", "dogs")
    sfumato("sample", root / "run", *words)
    assert built == []
    assert (tmp_path / "dogs" / "a-dog-000001.png").is_file()


def test_without_prompts_it_draws_captions_of_its_own(root, sfumato, tmp_path):
    sfumato("sample", root / "run", "--columns", "1", "--no-film", "--out", "drawn")
    settings = read_settings(tmp_path / "drawn" / "samples.png")
    assert sorted(settings["prompts"]) == sorted(filter(None, CAPTIONS))


def test_the_words_decide_what_is_drawn_and_the_batch_does_not(root, sfumato, tmp_path):
    def drawn(name, *words):
        options = ("--no-film", "--files", "--steps", "6", "--guidance", "4", "--out", name)
        sfumato("sample", root / "run", *words, *options)
        paths = sorted((tmp_path / name).glob("*-000001.png"))
        return [Image.open(path).convert("RGB").tobytes() for path in paths]

    both = ("--prompt", "a dog", "a red cat", "--seeds", "1,1", "--columns", "1")
    dog, cat = drawn("both", *both)
    assert dog != cat
    assert drawn("one", *both, "--batch", "1") == [dog, cat]


def test_words_are_refused_where_they_mean_nothing(root, sfumato, tmp_path, monkeypatch):
    monkeypatch.setattr("sfumato.trainer._write_page", lambda folder: None)
    with pytest.raises(SystemExit, match="this run takes words: --prompt 'a dog'"):
        sfumato("sample", root / "run", "--label", "dog")
    train_in(tmp_path / "plain", small(RECIPES["digits"](), steps=1), images(size=16))
    with pytest.raises(SystemExit, match="was not trained on captions"):
        sfumato("sample", "plain", "--prompt", "a dog")
    with pytest.raises(ValueError, match="has no captions to learn from"):
        train_in(tmp_path / "new", small(RECIPES["emoji_text"]()), images(size=16))
    run = small(RECIPES["emoji_text"]())
    other = replace(run, network=small(RECIPES["digits"]()).network)
    fake_text(monkeypatch)
    with pytest.raises(ValueError, match="UNetConfig takes no text"):
        train_in(tmp_path / "new", other, load(root / "pictures"))


def test_resuming_takes_the_table_and_loads_no_encoder(root, sfumato, tmp_path, monkeypatch):
    built = fake_text(monkeypatch)
    shutil.copytree(root / "run", tmp_path / "run")
    sfumato("train", "run", "--steps", "6")
    assert built == []
    before, after = (
        tensors_of((folder / "run" / "captions.safetensors").read_bytes())
        for folder in (root, tmp_path)
    )
    assert all(torch.equal(value, after[name]) for name, value in before.items())
