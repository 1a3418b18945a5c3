"""sfumato distill: a student that begins as its teacher, an ordinary run, a picture of both."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load as tensors_of

from sfumato.arguments import Distill, UsageError
from sfumato.commands import distill as command
from sfumato.consistency import ConsistencyGrid, ConsistencyTuning, MultistepConsistency
from sfumato.folder import read_metrics
from sfumato.generation import draw
from sfumato.kinds import read_run
from sfumato.latents import AutoencoderCodec
from sfumato.loading import load_run
from sfumato.pictures import read_settings
from sfumato.planning import as_used, load_data
from sfumato.recipes import RECIPES
from tiny import CPU, autoencoder_in, commands, fake_text, pictures, small, stop_after, train_in

QUICK = ("--steps", "4", "--device", "cpu", "train.previews=1", "objective.stages=3")


def taught(root, name, recipe, **changes):
    config = small(RECIPES[recipe](), lr=1e-2, steps=3)
    data = replace(config.data, source=str(root / "pictures"), held_out=4)
    config = replace(config, name=name, data=data, **changes)
    return train_in(root / "runs" / name, config, as_used(config, load_data(config.data)))


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    monkeypatch.setattr("sfumato.trainer._write_page", lambda folder: None)
    monkeypatch.setattr(command, "COLUMNS", 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A teacher, runs/edm, and the pictures that it was trained on."""
    folder = tmp_path_factory.mktemp("distill")
    pictures(folder / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.trainer._write_page", lambda folder: None)
        taught(folder, "edm", "digits")
    return folder


@pytest.fixture
def call(root, tmp_path, monkeypatch, capsys):
    """Runs a command in a folder of its own, with the teachers in runs/."""
    shutil.copytree(root / "runs", tmp_path / "runs")
    fake_text(monkeypatch)
    return commands(monkeypatch, tmp_path, capsys)


def part(folder, step, name):
    path = folder / "checkpoints" / f"step-{step:09d}" / f"{name}.safetensors"
    return tensors_of(path.read_bytes())


def test_the_student_begins_as_its_teachers_average_and_is_drawn_beside_it(call, tmp_path):
    out = call("distill", "edm", *QUICK, "--middle", "0.5", "train.keep=9")
    folder, teacher = tmp_path / "runs" / "digits-distilled", tmp_path / "runs" / "edm"
    assert not folder.exists()
    folder = tmp_path / "runs" / "edm-distilled"
    was = part(teacher, 3, "average")
    assert any(not torch.equal(was[name], part(teacher, 3, "weights")[name]) for name in was)
    for name in ("weights", "average"):
        first = part(folder, 0, name)
        assert first.keys() == was.keys()
        assert all(torch.equal(first[key], was[key]) for key in was)
    assert any(not torch.equal(part(folder, 4, "weights")[key], was[key]) for key in was)
    run = read_run(folder)
    assert run.objective == ConsistencyTuning(q=16.0, stages=3)
    assert (run.sampling.solver, run.sampling.grid) == (
        MultistepConsistency(),
        ConsistencyGrid(0.5),
    )
    assert (run.sampling.steps, run.sampling.guidance, run.precision) == (2, 1.0, "fp32")
    before = read_run(teacher)
    assert run.train.lr == before.train.lr / 2
    assert (run.network, run.process, run.data) == (before.network, before.process, before.data)
    (row,) = [row for row in read_metrics(folder) if row["kind"] == "teacher"]
    assert row["of_step"] == 3
    assert [row["step"] for row in read_metrics(folder) if row["kind"] == "train"] == [1, 2, 3, 4]
    assert "distilled.png" in out
    settings = read_settings(folder / "distilled.png")
    assert settings["student"] == "edm-distilled, step 4"
    assert [row["steps"] for row in settings["rows"].values()] == [2, 1, 2]


def test_a_new_student_is_trained_and_a_stopped_one_gone_on_with(call):
    assert "training edm-distilled" in call("distill", "edm", *QUICK)
    assert "going on with edm-distilled" in call("train", "runs/edm-distilled", "--steps", "5")


def test_a_student_is_asked_for_what_it_learned(call):
    call("distill", "edm", *QUICK)
    drawn = ("sample", "edm-distilled", "--count", "1", "--no-film", "--device", "cpu")
    assert "the run was distilled" not in call(*drawn, "--steps", "1")
    assert "asks it for a path that it does not know" in call(*drawn, "--sampler", "heun")
    assert "distilled without guidance" in call(*drawn, "--guidance", "2")


def test_the_pictures_rows_are_those_samplers_from_the_same_seeds(call, tmp_path):
    call("distill", "edm", *QUICK)
    student = load_run("runs/edm-distilled", CPU)
    order, names = command.order_for(student)
    assert names == ["cat", "dog"]
    assert list(order.labels) == [0, 1, 0, 1, 0, 1]
    settings = read_settings(tmp_path / "runs" / "edm-distilled" / "distilled.png")
    assert settings["seeds"] == list(order.seeds) == list(range(6))
    one = replace(student.run.sampling, steps=1)
    want = draw(student.denoiser, order, one, student.conditions, CPU)
    with Image.open(tmp_path / "runs" / "edm-distilled" / "distilled.png") as picture:
        cell = 72 // 16 * 16  # the nearest whole multiple
        left = picture.width - 2 * (cell + 2)
        top = picture.height - 9 * (cell + 2)
        y = top + (cell + 2) * 1 + cell // 2  # the middle of the first block's second row
        x = left + cell // 2
        got = picture.convert("RGB").getpixel((x, y))
    pixel = want[0, :, 8, 8].tolist()
    assert list(got) == (pixel * 3 if len(pixel) == 1 else pixel)


OTHERS = {
    "vp": "digits_ddpm",
    "flow": "digits_flow",
    "text": "emoji_text",
    "latents": "latent_unet",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_processes_words_and_latents_go_the_same_way(call, tmp_path, monkeypatch, name):
    pictures(tmp_path / "pictures")
    codec = {}
    if name == "latents":
        codec["codec"] = AutoencoderCodec(weights=str(autoencoder_in(tmp_path)))
    taught(tmp_path, name, OTHERS[name], **codec)
    shutil.rmtree(tmp_path / "autoencoder_f4", ignore_errors=True)  # the teacher has its own
    monkeypatch.setattr("sfumato.text.TextConfig.build", None)  # and its encoded captions
    call("distill", name, *QUICK, "--out", "student")
    assert read_settings(tmp_path / "student" / "distilled.png")["teacher"] == f"{name}, step 3"
    student = load_run("student", CPU)
    order, _ = command.order_for(student)
    drawn = command.timed(student, "", student.run.sampling, order)
    assert drawn.images.shape == (len(order), *student.card.shape)
    words = order.prompts is not None
    assert words == (name == "text")


def test_a_student_that_was_stopped_goes_on_bit_for_bit(call, tmp_path, monkeypatch):
    call("distill", "edm", *QUICK, "--out", "whole")
    stop_after(monkeypatch, 3)
    out = call("distill", "edm", *QUICK, "--out", "stopped")
    assert "sfumato distill edm --resume --out stopped" in out
    assert not (tmp_path / "stopped" / "distilled.png").exists()
    stop_after(monkeypatch, 0)
    call("distill", "edm", "--resume", "--out", "stopped", "--device", "cpu")
    for name in ("weights", "average"):
        whole, stopped = (part(tmp_path / run, 4, name) for run in ("whole", "stopped"))
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    assert (tmp_path / "stopped" / "distilled.png").is_file()


def test_settings_beside_resume_are_refused_with_the_command_that_takes_them(call, tmp_path):
    call("distill", "edm", *QUICK, "--out", "student")
    begun = ("distill", "edm", "--resume", "--out", "student", "--device", "cpu")
    for words in (["--precision", "bf16"], ["--steps", "6"], ["train.lr=1"]):
        with pytest.raises(SystemExit, match=f"leave out {words[0]}") as told:
            call(*begun, *words)
    assert "sfumato train student --time 20m" in str(told.value)
    call("train", "student", "--steps", "6", "--device", "cpu")
    assert part(tmp_path / "student", 6, "average")
    assert read_run(tmp_path / "student").objective == ConsistencyTuning(q=16.0, stages=3)


def test_what_cannot_be_distilled_is_refused(call, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="add --out FOLDER"):
        call("distill", "edm", "--resume", "--device", "cpu")
    with pytest.raises(SystemExit, match="holds no run to go on with"):
        call("distill", "edm", "--resume", "--out", "nowhere", "--device", "cpu")
    with pytest.raises(SystemExit, match="is there already"):
        call("distill", "edm", *QUICK, "--out", "runs/edm")
    call("distill", "edm", *QUICK)
    with pytest.raises(
        SystemExit, match=r"was distilled already.* sfumato train runs/edm-distilled"
    ):
        call("distill", "edm-distilled", *QUICK)
    path = tmp_path / "runs" / "edm" / "run.json"
    settings = json.loads(path.read_text())
    settings["data"]["source"] = ""
    path.write_text(json.dumps(settings))
    with pytest.raises(SystemExit, match="import it again with --data"):
        call("distill", "edm", *QUICK)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun"):
        command.run_distill(Distill("edm"))
