"""bench/gpu.sh: all of it on tiny sizes, and what it does where a GPU refuses a part."""

import json

import pytest
import torch
from PIL import Image

from bench import gpu

PARTS = ("training", "picture", "sampling")


def found_in(folder, monkeypatch, refusing):
    def refuse(*told):
        raise RuntimeError("out of memory")

    stand_ins = {
        "ceiling": lambda options: {"best": 1e9},
        "training": lambda case, mode, *rest: {"network": case.name, "mode": mode, "images/s": 1.0},
        "picture": lambda *told: ({"steps": 1}, None),
        "sampling": lambda *told: {"images/s": 2.0},
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(gpu, name, refuse if name == refusing else stand_in)
    gpu.measured(gpu.Options(folder, "", 600.0, True, torch.device("cpu")))
    return json.loads((folder / "gpu.json").read_text())


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_refused_says_so_and_the_others_stay(part, tmp_path, monkeypatch):
    found = found_in(tmp_path, monkeypatch, part)
    told = {
        "training": [row.get("refused", "") for row in found["training"]],
        "picture": [found["a training"].get("refused", "")],
        "sampling": [found.get("sampling", {}).get("refused", "")],
    }
    for name, words in told.items():
        assert all(("out of memory" in one) == (name == part) for one in words), name
    assert ("sampling" in found) == (part != "picture")


@pytest.mark.slow
def test_everything_runs_on_tiny_sizes(tmp_path):
    gpu.measured(gpu.options_of(["--smoke", "--out", str(tmp_path)]))
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["network"] for row in found["training"]] == ["U-Net", "DiT-B/2"]
    assert all(row["images/s"] > 0 and row["share of the ceiling"] > 0 for row in found["training"])
    assert found["a training"]["steps"] > 0
    assert found["sampling"]["images/s"] > 0
    with Image.open(tmp_path / "grid.png") as picture:
        assert 4 < picture.height / picture.width < 6  # ten classes, two images of each
