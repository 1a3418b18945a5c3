"""sfumato info of every kind of run: what its files hold, and what to type next."""

import json

import pytest

from sfumato.commands.info import FIELDS, NEXT, caption_facts, codec_facts, metric_facts
from sfumato.config import RUNS
from sfumato.folder import DataCard, append_metrics, write_card
from sfumato.kinds import dumps
from sfumato.latents import IN_RUN, save_codec
from sfumato.recipes import RECIPES
from sfumato.storage import write_file
from sfumato.text import caption_table, save_table
from tiny import FakeEncoder, commands

CARD = DataCard("digits", "a drawer", "0", 1234, 1, (28, 28), ("a", "b"))
TIMED = {"kind": "train", "step": 40, "seconds": 90.0, "loss": 1.0}


def run_in(root, name):
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    write_card(folder, CARD)
    write_file(folder / "run.json", dumps(RECIPES[name]()).encode())
    append_metrics(folder, TIMED)
    append_metrics(folder, {"kind": "test", "step": 40, "ema": 0.25})
    return folder


@pytest.mark.parametrize("name", ["digits", "noisy_classifier", "autoencoder_f4", "emoji_text"])
def test_every_kind_of_run_is_told_field_by_field(monkeypatch, tmp_path, capsys, name):
    sfumato = commands(monkeypatch, tmp_path, capsys)
    run_in(tmp_path, name)
    told = " ".join(sfumato("info", name).split())
    run = RECIPES[name]()
    there = {label: getattr(run, field, None) for label, field in FIELDS.items()}
    for label, value in there.items():
        if value is not None:
            assert f"{label} {value}" in told
    assert "data digits: 1,234 images of (28, 28), from a drawer" in told
    assert "trained 40 steps in 1 min 30 s" in told  # although the last row is the test's
    assert "test loss 0.2500" in told
    assert " ".join(NEXT[type(run).__name__].format(f"runs/{name}").split()) in told


def test_every_kind_of_run_has_something_to_do_next():
    assert set(NEXT) == {cls.__name__ for cls in RUNS}


def test_a_codec_is_told_with_its_moments_and_facts(tmp_path):
    assert codec_facts(tmp_path) == {}
    config = RECIPES["autoencoder_f4"]().network
    facts = {"psnr_db": 27.123456, "trained_on": "flowers"}
    save_codec(tmp_path / IN_RUN, config, {}, (0.0, -0.5), (1.25, 2.0), facts)
    assert codec_facts(tmp_path) == {
        "latents": "AutoencoderConfig, f = 4; means 0, -0.5; deviations 1.25, 2; psnr_db 27.12; "
        "trained_on flowers"
    }


def test_captions_are_counted_without_the_empty_one(tmp_path):
    assert caption_facts(tmp_path) == {}
    save_table(caption_table(["a cat", "", "a dog", "a cat"], FakeEncoder()), tmp_path)
    assert caption_facts(tmp_path) == {"captions": "2 different ones, read by fake"}


def test_the_last_row_of_each_kind_counts():
    rows = [
        TIMED,
        {"kind": "held_out", "step": 40, "seconds": 80.0, "raw": 3.0, "ema": 2.0},
        {**TIMED, "step": 50, "seconds": 100.0},
        {"kind": "held_out", "step": 50, "seconds": 101.0, "raw": 1.5, "ema": 1.25},
        {"kind": "codec", "step": 50, "psnr_db": 20.0},
        {
            "kind": "accuracy",
            "step": 50,
            "of": "8 held-out images",
            "levels": [{"ratio": 0.1, "accuracy": 0.875}],
        },
    ]
    assert metric_facts(json.loads(json.dumps(rows))) == {
        "trained": "50 steps in 1 min 40 s",
        "held-out loss": "1.5000, averaged weights 1.2500",
        "right by sigma / alpha": "87.5% at 0.1, of 8 held-out images",
    }
    assert metric_facts([]) == {}
