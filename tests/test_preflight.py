"""Before a run: what it will take; --check; and compiled runs, and batches in uneven parts."""

import copy
import shutil
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load
from torch import nn

from sfumato import checkpoint
from sfumato.__main__ import NOT_FINITE
from sfumato.preflight import (
    BESIDE_SAVED,
    SHARE_OF_FREE,
    Rehearsal,
    bytes_an_image,
    check_disk,
    disk_needed,
    fitting,
    forecast,
    rehearse,
    settle_memory,
    spare_in_groups,
)
from sfumato.recipes import RECIPES
from sfumato.training import TrainConfig, TrainState, take_step
from tiny import commands, images, small, train_in

INPUTS, OUTPUTS = 7, 5


@dataclass(frozen=True)
class Linear:
    """A task of one linear layer: the loss is half the square of what it makes of x."""

    train: TrainConfig
    rows: int = 12

    @property
    def run(self):
        return SimpleNamespace(train=self.train)

    def build(self):
        torch.manual_seed(0)
        return nn.Linear(INPUTS, OUTPUTS)

    def loss(self, model, batch):
        return model(batch["x"]).square().mean(1) / 2

    def batches(self):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.rows, INPUTS, generator=generator)
        return lambda step: {"x": x}


def linear(rows=12, **train):
    return Linear(TrainConfig(**{"steps": 10, "batch": rows, **train}), rows)


@pytest.mark.parametrize("rows", [1, 2, 3, 12])
def test_the_memory_of_an_image_is_what_autograd_keeps_of_it(rows):
    """Of a linear layer its input, for the weight's gradient, and of a square what is squared."""
    task = linear(rows)
    found = bytes_an_image(task, task.build(), task.batches()(0))
    assert found == 4 * (INPUTS + OUTPUTS)


class Scaled(Linear):
    """Two layers, and a constant that the backward pass keeps once for all images."""

    def build(self):
        return nn.Sequential(super().build(), nn.Linear(OUTPUTS, OUTPUTS, bias=False))

    def loss(self, model, batch):
        return (model(batch["x"]) * torch.full((OUTPUTS,), 2.0)).square().mean(1)


@pytest.mark.parametrize(("rows", "once"), [(1, OUTPUTS), (2, 0), (12, 0)])
def test_what_is_kept_once_is_not_of_an_image_and_weights_are_not_counted(rows, once):
    """Both layers' inputs and what is squared; the second layer's weights are kept too."""
    task = Scaled(linear(rows).train, rows)
    found = bytes_an_image(task, task.build(), task.batches()(0))
    assert found == 4 * (INPUTS + OUTPUTS + OUTPUTS + once)


@pytest.mark.parametrize(("micro_batch", "seconds"), [(None, 2), (3, 5), (5, 3.4)])
def test_a_step_takes_its_parts_times_and_one_of_the_optimizer(monkeypatch, micro_batch, seconds):
    ticks = iter(range(100))  # each look at the clock is a second after the one before
    monkeypatch.setattr("sfumato.preflight.perf_counter", lambda: next(ticks))
    found = rehearse(linear(12, micro_batch=micro_batch)).step_seconds
    assert found == pytest.approx(seconds)


def test_a_batch_is_halved_until_it_fits():
    each, share = 1000.0, SHARE_OF_FREE / BESIDE_SAVED
    assert fitting(each, 64, None) == 64  # nobody tells how much is free
    for most in (64, 32, 16, 1):
        free = int(most * each / share) + 1
        assert fitting(each, 64, free) == most
        assert fitting(each, 64, free - 2) == max(1, most // 2)
    assert fitting(each, 9, int(5 * each / share) + 1) == 5  # 9 is 5 and 4


V2, V1 = ("max", "current"), ("limit_in_bytes", "usage_in_bytes")


def group(folder, names, most, used, stat):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (most, used), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text(stat)


def test_a_containers_limit_is_what_is_free(tmp_path):
    """Of the innermost group and of all around it, with what files hold counted as free."""
    inner = tmp_path / "slice" / "job"
    group(inner, V2, "max", 50, "anon 3\ninactive_file 20\n")
    assert list(spare_in_groups("0::/slice/job\n", tmp_path)) == []
    group(inner.parent, V2, 100, 70, "anon 3\ninactive_file 20\n")
    assert list(spare_in_groups("0::/slice/job\n", tmp_path)) == [50]
    group(inner, V2, 60, 50, "inactive_file 5\n")
    assert list(spare_in_groups("0::/slice/job\n", tmp_path)) == [15, 50]
    old = "3:cpu,cpuacct:/\n4:hugetlb,memory:/docker/17\n"
    group(tmp_path / "memory", V1, 200, 150, "inactive_file 1\ntotal_inactive_file 30\n")
    assert list(spare_in_groups(old, tmp_path)) == [80]


def test_memory_decides_only_where_nothing_was_asked(monkeypatch):
    said = []
    rehearsal = Rehearsal(1.0, bytes_an_image=1e6, weights=40)
    monkeypatch.setattr("sfumato.preflight.free_memory", lambda batch: int(10e6))
    assert settle_memory(linear(micro_batch=3), rehearsal, said.append) == 3
    assert settle_memory(linear(4), rehearsal, said.append) is None
    assert said == []
    assert settle_memory(linear(64), rehearsal, said.append) == 4  # 4 x 1.6 MB of 0.7 x 10
    assert "4 of the 64 images run at once" in said[0]


def test_what_runs_at_once_reaches_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sfumato.preflight.fitting", lambda *_: 3)
    config = small(RECIPES["digits"](), micro_batch=None, steps=1)
    folder = train_in(tmp_path / "run", config, images())
    assert '"micro_batch": 3' in (folder / "run.json").read_text("utf-8")


def test_a_rehearsal_counts_the_weights():
    trial = rehearse(linear())
    assert trial.weights == INPUTS * OUTPUTS + OUTPUTS
    assert trial.step_seconds > 0


@pytest.mark.parametrize("keep", [1, 3])
def test_the_disk_needed_is_what_checkpoints_take(tmp_path, keep):
    """keep + 1 of weights, average and both moments, and the best average, in float32."""
    state = TrainState.fresh(nn.Linear(400, 400), TrainConfig(steps=9))
    take_step(state, lambda model, batch: model(batch["x"]).sum(1), {"x": torch.ones(2, 400)},
              TrainConfig(steps=9))  # fmt: skip
    for step in range(1, keep + 2):
        state.step = step
        checkpoint.write(tmp_path, state, keep=keep + 1)
    checkpoint.write_best(tmp_path, state, 1.0)
    taken = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert disk_needed(400 * 400 + 400, keep) == pytest.approx(taken, rel=0.01)


def test_a_disk_that_is_too_full_is_refused_with_what_to_do(tmp_path, monkeypatch):
    def usage(path):
        assert path == tmp_path  # the nearest folder that is there
        return SimpleNamespace(free=free)

    monkeypatch.setattr("sfumato.preflight.shutil.disk_usage", usage)
    needed, folder = disk_needed(1_000_000, 2), tmp_path / "runs" / "new"
    assert needed == 4 * 1_000_000 * 13
    free = int(needed / 0.95) + 1
    assert check_disk(folder, 1_000_000, 2) == "52 MB for checkpoints, 0.1 GB free"
    free = int(needed / 0.95) - 1
    with pytest.raises(ValueError, match=r"too full: 52 MB .*train\.keep=1"):
        check_disk(folder, 1_000_000, 2)


def test_a_run_on_a_full_disk_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sfumato.preflight.shutil.disk_usage", lambda path: SimpleNamespace(free=1000)
    )
    with pytest.raises(ValueError, match="is too full"):
        train_in(tmp_path / "run", small(RECIPES["digits"]()), images())
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("budget", "seconds", "steps", "words"),
    [
        ({"steps": 600}, 0.1, 600, "0.1 s a step: about 1 min 00 s for 600 steps"),
        ({"seconds": 60.0}, 0.5, None, "0.5 s a step: about 120 steps, 12 epochs in 1 min 00 s"),
        ({"steps": 9, "seconds": 60.0}, 0.5, 9, "0.5 s a step: about 4.5 s for 9 steps"),
        ({"steps": 900, "seconds": 60.0}, 0.5, 900, "about 120 steps, 12 epochs in 1 min 00 s"),
        ({"steps": 50, "seconds": 60.0}, 5.0, 50, "about 12 steps, 1.2 epochs in 1 min 00 s"),
        ({"seconds": 1.0}, 5.0, None, "5 s a step: about 1 steps, 0.1 epochs in 1.0 s"),
    ],
)
def test_the_forecast_is_of_the_budget_that_ends_first(budget, seconds, steps, words):
    config = TrainConfig(batch=10, epoch_images=100, **budget)
    assert words in forecast(config, seconds, steps)


@pytest.mark.parametrize("recipe", ["digits", "digits_unlabelled", "noisy_classifier"])
def test_a_check_does_everything_once_and_leaves_nothing(recipe, tmp_path, monkeypatch, capsys):
    sfumato = commands(monkeypatch, tmp_path, capsys)
    run = small(RECIPES[recipe](), steps=70_000)
    monkeypatch.setitem(RECIPES, recipe, lambda: run)
    printed = sfumato("train", recipe, "--limit", "30", "--check", "--device", "cpu")
    assert "All of it works" in printed
    assert "70,000 steps" in printed  # the forecast is of the run, not of the check
    assert "held-out loss at step 2" in printed
    assert "Next:" not in printed  # nothing is there to go on with
    assert [path.name for path in tmp_path.iterdir()] == []
    (tmp_path / "mine").mkdir()
    sfumato("train", recipe, "--limit", "30", "--check", "--out", "mine/a/new", "--device", "cpu")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_check_fails_as_the_run_would_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    sfumato = commands(monkeypatch, tmp_path, capsys)
    run = small(RECIPES["digits"](), lr=1e30)
    monkeypatch.setitem(RECIPES, "digits", lambda: run)
    with pytest.raises(SystemExit) as end:
        sfumato("train", "digits", "--limit", "30", "--check", "--device", "cpu")
    assert end.value.code == NOT_FINITE
    assert "sfumato: 40 of 40 images hold values that are not numbers" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_uneven_parts_of_a_batch_are_the_batch():
    """Thirteen rows in fives, in float64: the same step, to rounding."""
    task = linear(13)
    steps = {}
    for most in (None, 5, 12, 1):
        model = copy.deepcopy(task.build()).double()
        config = TrainConfig(steps=5, batch=13, micro_batch=most, lr=0.1, warmup_steps=0)
        state = TrainState.fresh(model, config)
        batch = {"x": task.batches()(0)["x"].double()}
        scalars = take_step(state, task.loss, batch, config)
        steps[most] = (scalars["loss"], scalars["grad_norm"], model.weight.grad, model.weight)
    for most in (5, 12, 1):
        for part, whole in zip(steps[most], steps[None], strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="no C++ compiler")
def test_a_compiled_run_is_the_run(tmp_path):
    """The same names in its checkpoints, the same weights after three steps but for rounding."""
    found = {}
    for compiled in (False, True):
        config = small(RECIPES["four_conv_mnist"](), compiled=compiled, steps=3, micro_batch=None)
        folder = train_in(tmp_path / str(compiled), config, replace(images(), labels=None))
        newest = checkpoint.newest(folder)
        assert newest is not None
        found[compiled] = {
            name: load(newest[1][f"{name}.safetensors"]) for name in ("weights", "average")
        }
    torch.testing.assert_close(found[True], found[False], rtol=1e-4, atol=1e-4)
    assert not any("_orig_mod" in name for name in found[True]["weights"])
