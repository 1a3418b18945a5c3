"""Which average is kept as RUN/best: that of the least held-out loss, the newer of equals."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load

from sfumato import checkpoint, session
from sfumato.folder import read_metrics
from sfumato.stopping import StopRequest
from tiny import CPU, parts, run

AVERAGE = [0.1, 0.9, 0.5, 0.7, 0.5]  # by step; at 0 nothing is trained and nothing is kept
RAW = [0.1, 0.2, 0.9, 0.3, 0.9]
BEST = [None, 1, 2, 2, 4]


@pytest.fixture
def looking(tmp_path, monkeypatch):
    """(state, a look at its losses), which are those above."""
    state, *_ = parts(run())
    monkeypatch.setattr(session, "losses_of", lambda model, *rest: given(model is state.average))
    task = SimpleNamespace(run=run(), loss=None, levels=lambda count: [])
    told = SimpleNamespace(say=print, warn=print)
    held = {"images": torch.zeros(4)}
    looks = session.Session(task, tmp_path, "", held, CPU, told, StopRequest())

    def given(average):
        return torch.full((4,), (AVERAGE if average else RAW)[state.step])

    return state, looks._evaluate


def test_a_best_that_could_not_be_written_is_not_the_one_to_beat(looking, tmp_path, monkeypatch):
    state, look = looking
    state.step = 1
    look(state)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "commit_folder", full)
        state.step = 2  # the least loss of all
        with pytest.raises(OSError, match="No space"):
            look(state)
    state.step = 3  # less than the first
    look(state)
    assert [path.name for path in checkpoint.best_folders(tmp_path)] == ["step-000000003"]
    assert checkpoint.best_loss(tmp_path) == pytest.approx(AVERAGE[3])


def full(*told):
    raise OSError(28, "No space left on device")


def test_the_best_is_the_average_of_the_least_held_out_loss(looking, tmp_path):
    state, look = looking
    for step, wanted in enumerate(BEST):
        state.step = step
        for parameter in state.average.parameters():
            parameter.data.fill_(step)
        look(state)
        names = [path.name for path in checkpoint.best_folders(tmp_path)]
        assert names == ([] if wanted is None else [f"step-{wanted:09d}"])
    (kept,) = checkpoint.best_folders(tmp_path)
    weights = load((kept / "average.safetensors").read_bytes())
    assert all((weights[name] == 4).all() for name, _ in state.average.named_parameters())
    assert json.loads((kept / "state.json").read_text())["loss"] == pytest.approx(0.5)
    assert [row["ema"] for row in read_metrics(tmp_path)] == pytest.approx(AVERAGE)
    assert [row["raw"] for row in read_metrics(tmp_path)] == pytest.approx(RAW)
