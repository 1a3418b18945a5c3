"""sfumato doctor as it is typed; what train and demo show of it; the numbers behind the words."""

import json
from dataclasses import replace
from html import escape
from math import prod
from pathlib import Path
from shutil import copytree, ignore_patterns

import numpy as np
import pytest
import torch

import test_doctor_faults as faults
import tiny
from sfumato import trainer
from sfumato.arguments import Doctor
from sfumato.commands import train as commands_train
from sfumato.commands.doctor import run_doctor
from sfumato.commands.train import look_back
from sfumato.data import load
from sfumato.doctor import look_at_run, record, verdict
from sfumato.doctor.before import seconds_planned, warn_before
from sfumato.doctor.draws import BRIEF, check_brief, check_guidance
from sfumato.doctor.machine import pace
from sfumato.doctor.plan import planned_steps, share_of_first
from sfumato.doctor.record import words_on_run
from sfumato.doctor.solver import drawn_by
from sfumato.doctor.words import language
from sfumato.ema import decay_at
from sfumato.grids import karras_times, uniform_times
from sfumato.kinds import dumps
from sfumato.parameterization import PredictNoise
from sfumato.process import Karras
from sfumato.recipes import RECIPES
from sfumato.solvers import DDIM, Heun

CALM = """
from dataclasses import dataclass, replace
from sfumato.process import RectifiedFlow
from sfumato.recipes import RECIPES

class Clamped(RectifiedFlow):
    def diffuse(self, x0, t, eps):
        return super().diffuse(x0, t, eps).clamp(-1, 1)

def mine():
    return replace(RECIPES["digits_flow"](), process=Clamped())
"""


@pytest.fixture
def sfumato(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("LANG", raising=False)
    return tiny.commands(monkeypatch, tmp_path, capsys)


def test_a_file_in_the_wrong_range_exits_with_1(sfumato, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.linspace(-3, 1, 1280, dtype=np.float32).reshape(20, 8, 8))
    with pytest.raises(SystemExit, match="1"):
        sfumato("doctor", "x.npy", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "wrong"
    (finding,) = told["findings"]
    assert (finding["code"], finding["facts"]["low"]) == ("range-31", -3.0)
    with pytest.raises(SystemExit, match="1"):
        sfumato("doctor", "x.npy", "--lang", "zh")
    assert "归一化做了两次" in capsys.readouterr().out


def test_settings_from_a_file_and_a_function_are_looked_at(sfumato, tmp_path, capsys):
    (tmp_path / "calm.py").write_text(CALM)
    with pytest.raises(SystemExit, match="1"):
        sfumato("doctor", "calm.py:mine")
    assert "[x-clamped]" in capsys.readouterr().out
    (tmp_path / "mine.json").write_text(dumps(faults.settings("digits", "network.noise_scale=1")))
    with pytest.raises(SystemExit, match="1"):
        sfumato("doctor", "mine.json")
    assert "network.noise_scale=507" in capsys.readouterr().out  # 1000 over a range of 1.97


def test_a_recipe_whose_images_are_elsewhere_is_told_by_its_settings(sfumato):
    told = json.loads(sfumato("doctor", "celebahq128", "--json"))
    assert [finding["code"] for finding in told["findings"]] == ["no-data"]
    assert told["verdict"] == "healthy"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six steps, for looking only."""
    folder = tmp_path_factory.mktemp("doctor") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.trainer.look_and_leave", record.look_and_leave)
        return tiny.train_in(folder, tiny.run(steps=6, previews=1), tiny.images())


def test_a_run_is_judged_by_its_log_and_its_drawings(trained):
    folder = trained
    codes = {finding.code for finding in look_at_run(str(folder))}
    assert {"data-gone", "ema-young"} <= codes  # its images were never on a disk
    assert "[flip-letters]" in words_on_run(folder)


def test_training_leaves_the_verdict_where_the_page_and_the_last_line_read_it(trained):
    folder = trained
    told = json.loads((folder / "doctor.json").read_text("utf-8"))
    codes = {finding["code"] for finding in told["findings"]}
    assert (told["verdict"], "data-gone" in codes) == ("wrong", False)  # its images were at hand
    page = (folder / "index.html").read_text("utf-8")
    assert all(escape(finding["seen"]) in page for finding in told["findings"])
    assert told["findings"][0]["seen"] in words_on_run(folder)


def test_doctor_run_writes_the_same_file_anew_and_a_locked_folder_is_no_failure(
    sfumato, tmp_path, trained, capsys, monkeypatch
):
    folder = tmp_path / "run"
    copytree(trained, folder, ignore=ignore_patterns("doctor.json", "index.html"))
    printed = json.loads(sfumato("doctor", "run", "--json"))
    left = json.loads((folder / "doctor.json").read_text("utf-8"))
    assert left["findings"] == printed["findings"]
    assert left["findings"][0]["seen"] in (folder / "index.html").read_text("utf-8")

    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(record, "write_file", refuse)
    run_doctor(Doctor("run"))
    assert "does not show this: " in capsys.readouterr().err


def test_a_run_of_over_a_minute_ends_with_its_film_and_any_with_the_verdict(
    trained, tmp_path, monkeypatch
):
    folder = Path(copytree(trained, tmp_path / "run"))
    look_back(folder, torch.device("cpu"), quiet=True)
    assert "The doctor says of it: something is wrong" in (folder / "log.txt").read_text("utf-8")
    assert not (folder / "film.webp").exists()
    monkeypatch.setattr(commands_train, "WORTH_A_FILM", 0.0)
    look_back(folder, torch.device("cpu"), quiet=True)
    assert (folder / "film.webp").stat().st_size > 1000
    assert "From noise to images" in (folder / "index.html").read_text("utf-8")


def test_a_doctor_that_cannot_look_does_not_fail_the_training(tmp_path):
    warned: list[str] = []
    record.look_and_leave(tmp_path, tiny.images(), torch.device("cpu"), warned.append)
    assert "could not look at the run" in warned[0]
    asked = f"`sfumato doctor {tmp_path}`"
    assert words_on_run(tmp_path) == f"The doctor was not asked about it: {asked}"


@pytest.mark.slow
def test_a_small_run_that_was_trained_is_healthy(tmp_path):
    run = faults.settings("digits", "data.size=16 data.limit=1200 network.channels=16")
    train = replace(run.train, seconds=None, steps=500, batch=32, previews=6)
    run = replace(run, data=replace(run.data, held_out=100), train=train, precision="fp32")
    folder = tiny.train_in(tmp_path / "run", run, load("digits", size=16, limit=1200))
    found = look_at_run(str(folder), faults.GOOD)
    assert [f.code for f in found if f.severity != "note"] == []
    assert any(f.code.startswith("improving") for f in found)


def test_training_asks_before_it_begins(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "warn_before", lambda *given: asked.append(given))
    tiny.train_in(tmp_path / "run", tiny.run(steps=2, previews=0), tiny.images())
    ((run, data, seconds, device, folder, _),) = asked
    assert (run.train.steps, len(data), device.type) == (2, 37, "cpu")
    assert seconds > 0
    assert folder == tmp_path / "run"


def test_only_long_runs_are_warned_of(tmp_path):
    warned: list[str] = []
    run = faults.settings("digits", "train.steps=200000 train.seconds=null data.flip=true")
    data = faults.digits()
    run = faults.TASKS[type(run)].settled(run, data)
    rest = (torch.device("cpu"), tmp_path, warned.append)
    warn_before(run, data, 1e-5, *rest)
    assert warned == []
    warn_before(run, data, 10 / 3, *rest)
    assert any("200,000 steps take 7.7 days" in line for line in warned)
    assert any("[flip-letters]" in line for line in warned)


def test_the_budget_in_seconds_is_what_ends_first():
    plain = RECIPES["digits"]()
    both = faults.settings("digits", "train.steps=100")
    assert planned_steps(plain.train) is None
    assert seconds_planned(plain, 0.5) == plain.train.seconds == 150
    assert seconds_planned(both, 0.5) == 50


def test_the_share_of_the_first_steps_is_the_product_of_the_decays():
    for first, step, length in ((1, 7, 0.1), (100, 250, 0.05), (40, 41, 0.2)):
        decays = prod(decay_at(n, length) for n in range(first + 1, step + 1))
        assert share_of_first(first, step, length) == pytest.approx(decays)


def test_a_fine_grid_keeps_the_spread_and_one_step_keeps_none():
    process = Karras()
    assert drawn_by(process, Heun(), karras_times(process, 60)).kept == pytest.approx(1, abs=0.1)
    assert drawn_by(process, DDIM(), uniform_times(process, 1)).kept < 0.02


def test_lang_speaks_chinese(monkeypatch):
    for value, wanted in (("zh_CN.UTF-8", "zh"), ("en_US.UTF-8", "en"), ("", "en")):
        monkeypatch.setenv("LANG", value)
        assert language(None) == wanted
        assert language("en") == "en"


def test_the_page_has_every_planted_fault():
    page = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text("utf-8")
    for plant in faults.PLANTED:
        assert f"| {plant.what} | `{plant.code}` " in page, plant.code
    assert page.count("\n| ") == len(faults.PLANTED) + 1


def test_the_verdict_of_nothing_is_healthy():
    assert verdict([]) == "healthy"


def test_the_pace_that_is_at_best_is_that_of_the_faster_precision(monkeypatch):
    rates = {torch.float32: 1e9, torch.bfloat16: 3e9}
    monkeypatch.setattr("sfumato.doctor.machine._rate", lambda device, dtype: rates[dtype])
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert pace(torch.device("cpu")) == 3e9
    rates[torch.bfloat16] = 1e8
    assert pace(torch.device("cpu")) == 1e9
    del rates[torch.bfloat16]  # where it is emulated it is not even timed
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert pace(torch.device("cpu")) == 1e9


def test_ddim_of_a_noise_predictor_is_warned_of_until_it_has_trained_enough():
    run = RECIPES["digits"]()
    run = replace(run, parameterization=PredictNoise())
    run = replace(run, sampling=replace(run.sampling, solver=DDIM()))
    assert [found.code for found in check_brief(run, BRIEF - 1)] == ["ddim-brief"]
    assert not list(check_brief(run, BRIEF))


def test_a_network_without_classes_drops_none_too_often():
    run = RECIPES["digits"]()
    run = replace(run, data=replace(run.data, label_dropout=0.9))
    plain = replace(run, sampling=replace(run.sampling, guidance=1.0))
    assert [found.code for found in check_guidance(plain, True)] == ["dropout-high"]
    assert not list(check_guidance(plain, False))
