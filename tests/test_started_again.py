"""A run that is started again at a step that was looked at tells of it once."""

from dataclasses import replace

import pytest

import tiny
from sfumato import training
from sfumato.folder import read_metrics
from sfumato.recipes import RECIPES

RECIPE_OF = {"held_out": "digits", "accuracy": "noisy_classifier", "codec": "autoencoder_f4"}


class KilledError(Exception):
    """What ends a run in the middle."""


def run_of(kind, **train):
    run = tiny.small(RECIPES[RECIPE_OF[kind]](), previews=2, **train)
    return replace(run, data=replace(run.data, held_out=6))


def rows_of(folder, kind):
    return [row for row in read_metrics(folder) if row["kind"] == kind]


@pytest.mark.parametrize("kind", RECIPE_OF)
def test_an_end_is_told_once_however_often_the_run_is_started(tmp_path, kind):
    """With a checkpoint at every step the last one is of before the last look."""
    run, data = run_of(kind, save_every_steps=1), tiny.images(60, size=16)
    folder = tiny.train_in(tmp_path / "run", run, data)
    before = read_metrics(folder)
    assert [row["step"] for row in rows_of(folder, kind)][-1] == 5
    for _ in range(2):
        tiny.train_in(folder, run, data, resume=True)
    assert read_metrics(folder) == before


def test_a_look_that_a_stop_follows_is_told_once(tmp_path, monkeypatch):
    """Stopped right after the look of step 2, whose checkpoint is of before it."""
    run, data = run_of("held_out", save_every_steps=1), tiny.images(60, size=16)
    monkeypatch.setattr("sfumato.session.PREVIEW_SHARE", 1e9)  # none is left out for its time
    whole = tiny.train_in(tmp_path / "whole", run, data)
    looked = [row["step"] for row in rows_of(whole, "held_out")]
    assert looked == [0, 2, 5]
    step_that_fits = training.step_that_fits

    def killed(state, *rest):
        if state.step == 2:
            raise KilledError
        return step_that_fits(state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training, "step_that_fits", killed)
        with pytest.raises(KilledError):
            tiny.train_in(tmp_path / "run", run, data)
    tiny.train_in(tmp_path / "run", run, data, resume=True)
    assert [row["step"] for row in rows_of(tmp_path / "run", "held_out")] == looked
    same = [{**row, "seconds": 0} for row in rows_of(whole, "held_out")]
    assert [{**row, "seconds": 0} for row in rows_of(tmp_path / "run", "held_out")] == same
