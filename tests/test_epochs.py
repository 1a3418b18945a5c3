"""Epochs: how many steps they are, their mean losses, previews by them, the test part, the best."""

import json
from dataclasses import replace
from math import ceil

import pytest
import torch
from safetensors.torch import load

from sfumato.assembly import splits_of
from sfumato.checkpoint import best_folders
from sfumato.config import DataConfig
from sfumato.folder import read_metrics
from sfumato.loading import load_run
from sfumato.recipes import RECIPES
from sfumato.session import Session, steps_of
from sfumato.storage import read_folder
from sfumato.training import TrainConfig, train
from tiny import CPU, Hooks, commands, images, parts, run, small, stop_after, train_in


def digits(**train):
    """A settled run's budget, the tiny images' 34 to train on and 3 held out."""
    config = small(RECIPES["digits"](), **train)
    return replace(config, data=replace(config.data, size=8))


def rows_of(folder, kind):
    return [row for row in read_metrics(folder) if row["kind"] == kind]


@pytest.mark.parametrize(
    ("epochs", "n", "batch"), [(2, 37, 12), (1.1, 50, 1), (0.5, 37, 5), (3, 12, 12), (1, 10, 64)]
)
def test_a_budget_of_epochs_is_so_many_steps_rounded_up(epochs, n, batch):
    config = TrainConfig(epochs=epochs, epoch_images=n, batch=batch)
    exact = ceil(round(epochs * n, 6) / batch)
    assert steps_of(config) == exact
    assert config.progress(exact, 0.0) >= 1
    assert config.progress(exact - 1, 0.0) < 1


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"epochs": 2, "images": 24}, 2),
        ({"epochs": 1, "images": 1000}, 4),
        ({"epochs": 1, "steps": 3}, 3),
        ({"seconds": 9.0}, None),
    ],
)
def test_the_first_of_several_budgets_counts(budget, steps):
    assert steps_of(TrainConfig(epoch_images=37, batch=12, **budget)) == steps


def test_the_loop_stops_after_the_epochs():
    config = run(steps=None, epochs=1.5)  # of 37 images in 12s
    assert config.train.epoch_images == 34  # 3 are held out
    state, loss, batch_at, settings = parts(config)
    train(state, loss, batch_at, settings, Hooks())
    assert state.step == ceil(1.5 * 34 / 12) == 5


def test_an_epochs_loss_is_the_mean_of_its_steps_also_where_the_run_stopped_in_it(
    tmp_path, monkeypatch
):
    config, data = digits(steps=None, epochs=2, batch=5), images()
    stop_after(monkeypatch, 4)
    folder = train_in(tmp_path / "run", config, data)
    assert rows_of(folder, "epoch") == []
    stop_after(monkeypatch, 0)
    train_in(folder, config, data, resume=True)
    losses = [row["loss"] for row in rows_of(folder, "train")]
    assert len(losses) == ceil(2 * 34 / 5) == 14
    found = [(row["epoch"], row["step"], row["loss"]) for row in rows_of(folder, "epoch")]
    means = [sum(losses[:7]) / 7, sum(losses[7:]) / 7]  # step 7 is the first past 34 images
    assert [row[:2] for row in found] == [(1, 7), (2, 14)]
    assert [row[2] for row in found] == pytest.approx(means, rel=1e-12)


@pytest.mark.parametrize(
    ("every", "epochs", "steps"),
    [(1, 3, [0, 3, 6, 9]), (0.5, 1, [0, 2, 3]), (2, 3, [0, 6, 9]), (5, 1, [0, 3])],
)
def test_previews_by_epochs_come_at_their_first_step_and_at_the_end(every, epochs, steps):
    config = replace(run(steps=None, epochs=epochs, preview_epochs=every).train, epoch_images=36)
    state, loss, batch_at, _ = parts(run())
    hooks = Hooks()
    train(state, loss, batch_at, config, hooks)
    assert hooks.previews == steps


def test_previews_by_epochs_are_numbered_by_step(tmp_path):
    config = digits(steps=None, epochs=2, batch=17, preview_epochs=1)
    folder = train_in(tmp_path / "run", config, images())
    names = sorted(path.name for path in (folder / "samples").glob("*.png"))
    assert names == ["step-0000000.png", "step-0000002.png", "step-0000004.png"]


def rows_as_sets(*parts):
    return [{tuple(image.flatten().tolist()) for image in part.images} for part in parts]


def test_the_parts_share_no_image_and_hold_them_all():
    data = images(60)
    found = splits_of(DataConfig(held_out=500, test=9), data)
    train_, held, test = rows_as_sets(found.train, found.held_out, found.test)
    assert (len(train_), len(held), len(test)) == (46, 5, 9)  # held out: a tenth of the other 51
    assert (train_ & held, train_ & test, held & test) == (set(), set(), set())
    assert len(train_ | held | test) == 60
    assert len(splits_of(DataConfig(test=500), data).test) == 12  # a fifth at most


def test_the_test_part_is_neither_trained_on_nor_held_out_and_is_measured_once(
    tmp_path, monkeypatch
):
    data, seen = images(60), {"test": []}
    config = replace(digits(previews=1), data=DataConfig(size=8, held_out=5, test=9))
    original, measure = Session.log, Session._evaluate

    def log(self, state, scalars):
        seen["batches"] = [self.task.batches()(step)["images"] for step in range(40)]
        original(self, state, scalars)

    def evaluate(self, state):
        seen["held_out"] = self.held_out["images"]
        measure(self, state)

    monkeypatch.setattr(Session, "log", log)
    monkeypatch.setattr(Session, "_evaluate", evaluate)
    folder = train_in(tmp_path / "run", config, data)
    test = rows_as_sets(splits_of(config.data, data).test)[0]
    for shown in (*seen["batches"], seen["held_out"]):
        assert not test & {tuple(image.flatten().tolist()) for image in shown}
    (row,) = rows_of(folder, "test")
    assert row["step"] == 5
    train_in(folder, config, data, resume=True)
    assert len(rows_of(folder, "test")) == 1


def test_the_test_loss_is_that_of_the_average_on_those_images(tmp_path, monkeypatch):
    """The held-out loss is the test loss, where the same images are both."""
    data = images(60)
    config = replace(digits(previews=1), data=DataConfig(size=8, held_out=5, test=9))
    found = splits_of(config.data, data)
    same = replace(found, test=found.held_out)
    monkeypatch.setattr("sfumato.trainer.splits_of", lambda *_: same)
    folder = train_in(tmp_path / "run", config, data)
    assert rows_of(folder, "test")[0]["ema"] == rows_of(folder, "held_out")[-1]["ema"]


def test_the_best_average_is_that_of_the_lowest_loss_and_is_drawn_from(
    tmp_path, monkeypatch, capsys
):
    """Losses that were written in advance: the third look is the best, then they rise."""
    told = iter([9.0, 9.0, 5.0, 5.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0])
    monkeypatch.setattr("sfumato.session.losses_of", lambda *_: torch.full((3,), next(told, 4.0)))
    averages = {}
    original = Session._keep_best

    def keep(self, state, loss):
        values = state.average.state_dict()
        averages[state.step] = {name: value.clone() for name, value in values.items()}
        original(self, state, loss)

    monkeypatch.setattr(Session, "_keep_best", keep)
    config = digits(steps=None, epochs=2, batch=17, preview_epochs=0.5)
    folder = train_in(tmp_path / "run", config, images())
    assert [row["ema"] for row in rows_of(folder, "held_out")] == [9, 5, 2, 3, 4]
    (best,) = best_folders(folder)
    assert best.name == "step-000000002"
    assert json.loads((best / "state.json").read_text())["loss"] == 2.0
    kept = load(read_folder(best)["average.safetensors"])
    loaded = load_run(str(folder), CPU, best=True)
    assert (loaded.step, loaded.weights) == (2, "best average")
    for name, value in averages[2].items():
        assert torch.equal(kept[name], value)
        assert torch.equal(loaded.denoiser.state_dict()[name], value)
    assert any(not torch.equal(averages[4][name], value) for name, value in kept.items())
    sfumato = commands(monkeypatch, tmp_path, capsys)
    words = ("--count", "2", "--no-film", "--columns", "2")
    assert "step 2, best average weights" in sfumato("sample", folder, "--best", *words)
    assert "step 4, average weights" in sfumato("sample", folder, *words)
    with pytest.raises(SystemExit, match="choose one"):
        sfumato("sample", folder, "--best", "--raw")


def test_a_run_that_looked_at_nothing_has_no_best(tmp_path):
    folder = train_in(tmp_path / "run", digits(previews=0), images())
    with pytest.raises(FileNotFoundError, match="no best average"):
        load_run(str(folder), CPU, best=True)
