"""docs/recipes.md: it is what its records say, and the records are what the runs' folders say."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sfumato.commands.recipes import line_of
from sfumato.folder import DataCard, append_metrics, write_card
from sfumato.kinds import dumps
from sfumato.recipes import RECIPES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOG = """training tiny_mnist
  device    cpu, 2 threads
  network   37,001 parameters, 5.21 MFLOP an image forward, about 15.6 MFLOP in training; predicts
            by PredictNoise
  split     4,500 images to train on, 500
            held out
"""


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("recipes_page")


@pytest.fixture
def words(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("recipes_words")


def finished(folder: Path, name: str = "tiny_mnist") -> Path:
    """A run's folder as training leaves it, as far as the page reads it."""
    run = RECIPES[name]()
    data = replace(run.data, source="/somebody/here")
    run = replace(run, data=data, train=replace(run.train, lr=5e-3), precision="bf16")
    folder.mkdir()
    (folder / "run.json").write_text(dumps(run))
    (folder / "log.txt").write_text(LOG)
    write_card(folder, DataCard("digits", "/somebody/here", "f", 5000, 1, (28, 28), ()))
    append_metrics(folder, {"kind": "held_out", "step": 0, "ema": 1.0})
    for step, speed in ((1, 0.0), (2, 90.0), (3, 110.0), (9, 100.0)):
        row = {"kind": "train", "step": step, "seconds": 61.2 * step, "images_per_s": speed}
        append_metrics(folder, row)
    append_metrics(folder, {"kind": "held_out", "step": 9, "ema": 0.25})
    for picture in ("samples.png", "loss.png"):
        Image.effect_noise((1000, 400), 90).save(folder / picture)
    return folder


def test_the_page_is_that_of_its_records(script, words):
    assert words.page(*map(script.read_all, (DOCS / "recipes", DOCS / "measured"))) == (
        DOCS / "recipes.md"
    ).read_text("utf-8")


def test_every_recipe_is_on_the_page():
    text = (DOCS / "recipes.md").read_text("utf-8")
    assert [
        name for name in RECIPES if f"`{name}`" not in text and f"### {name}\n" not in text
    ] == []


@pytest.mark.parametrize("name", RECIPES)
def test_docstrings_say_what_the_records_say(script, words, name):
    record = script.read_all(DOCS / "recipes").get(name, {})
    assert line_of(RECIPES[name], "Trained") == words.trained_words(record)


def test_records_are_of_recipes_and_pictures_are_small(script):
    for name, record in script.read_all(DOCS / "recipes").items():
        assert name == record["recipe"]
        assert name in RECIPES
        if "steps" in record:
            for picture in (f"{name}.webp", f"{name}-loss.webp"):
                assert 0 < (DOCS / "recipes" / picture).stat().st_size <= script.MOST_BYTES


def test_what_is_too_large_has_a_smaller_sister(script, words):
    records = script.read_all(DOCS / "recipes")
    for name, sister in words.SISTERS.items():
        assert sister.name in set(RECIPES) - set(words.SISTERS)
        assert "weights" in records[name]


@pytest.mark.parametrize("name", ["handmade_cifar10", "lucid_cifar10", "dit_s_2"])
def test_sizes_are_those_of_the_networks(script, name):
    """What --sizes would write is what is there."""
    there = script.read_all(DOCS / "recipes")[name]
    assert {key: there[key] for key in ("weights", "flops", "size")} == {
        key: value
        for key, value in script.size_of(name).items()
        if key in ("weights", "flops", "size")
    }


def test_a_record_is_what_the_folder_says_and_no_path(script, words, tmp_path):
    assert script.add(tmp_path / "docs", finished(tmp_path / "run"), None) == "tiny_mnist"
    record = json.loads((tmp_path / "docs/recipes/tiny_mnist.json").read_text())
    assert record == {
        "recipe": "tiny_mnist",
        "data": "5,000 MNIST digits that come with sfumato; 28 x 28 pixels",
        "size": "28 x 28",
        "split": "4,500 images to train on, 500 held out",
        "weights": "37,001",
        "flops": "5.21 MFLOP",
        "device": "cpu, 2 threads",
        "precision": "bf16",
        "batch": 64,
        "steps": 9,
        "seconds": 551,
        "images_per_s": 100.0,
        "held_out": 0.25,
        "held_out_at_start": 1.0,
        "changed": ["train.lr: 0.004 -> 0.005"],
        "numbers": {},
        "shown": "Samples: Ancestral, 300 steps, seeds from 0",
    }
    text = words.page({"tiny_mnist": record}, {})
    assert "sfumato train tiny_mnist\n" in text
    assert "somebody" not in text
    for picture in ("tiny_mnist.webp", "tiny_mnist-loss.webp"):
        assert (tmp_path / "docs/recipes" / picture).stat().st_size <= script.MOST_BYTES


def test_numbers_come_with_what_they_are_of(script, tmp_path):
    rows = [
        {"kind": "codec", "psnr_db": 27.125, "images": 200, "kl_nats_an_image": 5400.4},
        {"kind": "accuracy", "levels": [{"ratio": 0.1, "accuracy": 0.976}]},
        {"kind": "test", "ema": 0.12345},
    ]
    evaluation = tmp_path / "evaluation" / "evaluation.json"
    evaluation.parent.mkdir()
    bits = {"total": {"mean": 1.5, "error": 0.02}}
    evaluation.write_text(json.dumps({"images": "64 of 500 held-out", "variational_bits": bits}))
    assert script.numbers_of(tmp_path, rows) == {
        "PSNR": "27.12 dB on 200 held-out images",
        "KL": "5,400 nats an image",
        "right, by sigma / alpha": "97.6% at 0.1",
        "test loss": "0.1235",
        "bits/dim (bound)": "1.500 ± 0.020, 64 of 500 held-out",
    }


def test_part_of_a_set_is_told_as_such(words):
    card = DataCard("catsdogs128-train", "", "f", 300, 3, (128, 128), ())
    told = "300 of the 2,000 photographs of cats and dogs; 128 x 128 pixels"
    assert words.data_words(card) == told
    assert words.data_words(replace(card, name="mine")) == "300 images of mine; 128 x 128 pixels"


def test_the_command_has_the_budget_of_the_run(words):
    steps = ["train.previews: 12 -> 1", "train.seconds: 600 -> None", "train.steps: None -> 40"]
    assert words.with_budget("sfumato train d", "d", steps) == "sfumato train d --steps 40"
    seconds = ["train.seconds: 600 -> 90.0", "train.batch: 64 -> 8"]
    assert words.with_budget("sfumato train d", "d", seconds) == "sfumato train d --time 90s"
    assert words.with_budget("sfumato train d", "d", ["train.batch: 64 -> 8"]) == "sfumato train d"


def test_runs_that_do_not_belong_on_the_page_are_refused(script, tmp_path):
    whose = finished(tmp_path / "codec", "autoencoder_f8")
    with pytest.raises(ValueError, match="--free FOLDER"):
        script.add(tmp_path, whose, None)
    cut = finished(tmp_path / "cut")
    (cut / "samples.png").unlink()
    with pytest.raises(ValueError, match="did not finish"):
        script.add(tmp_path, cut, None)
    own = finished(tmp_path / "own")
    text = (own / "run.json").read_text().replace('"recipe": "tiny_mnist"', '"recipe": "mine"')
    (own / "run.json").write_text(text)
    with pytest.raises(ValueError, match="no recipe"):
        script.add(tmp_path, own, None)
