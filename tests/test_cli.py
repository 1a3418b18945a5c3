"""The commands from end to end, on a run of a few seconds."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from sfumato import checkpoint, trainer
from sfumato.data import UnreadableWarning
from sfumato.folder import read_metrics
from sfumato.kinds import loads
from sfumato.pictures import read_settings

TINY = [
    *("network.channels=8", "network.multipliers=[1, 2]", "network.blocks=1", "network.groups=4"),
    *("network.attention_at=[]", "network.middle_attention=false"),
    *("--precision", "fp32", "--limit", "120", "--batch", "16", "--previews", "1"),
    *("--sample-steps", "3", "--device", "cpu"),
]


def test_train_sample_info(sfumato, tmp_path):
    printed = sfumato("train", "digits", "--steps", "4", *TINY)
    run = tmp_path / "runs" / "digits"
    for name in ("run.json", "data.json", "metrics.jsonl", "log.txt", "data-preview.png"):
        assert (run / name).is_file(), name
    for name in ("loss.png", "samples.png", "index.html", "samples/step-0000000.png"):
        assert (run / name).is_file(), name
    assert "parameters" in printed
    assert "FLOP" in printed
    assert re.search(r"step 4/4 +100 %.*images/s.*ETA.*GB", printed)
    assert "Next: sfumato sample runs/digits" in printed
    assert "\x1b" not in printed
    rows = read_metrics(run)
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]
    held = [row for row in rows if row["kind"] == "held_out"]
    assert [row["step"] for row in held] == [0, 4]
    assert len(held[0]["raw_by_level"]) == len(held[0]["level_log_snr"]) == 8
    assert read_settings(run / "samples.png")["step"] == 4

    printed = sfumato("sample", "last", "--seeds", "0-19", "--columns", "2", "--files")
    out = run / "drawn"
    assert (out / "film.webp").is_file()
    with Image.open(out / "film.webp") as film:
        assert film.n_frames >= 20
    assert (out / "3-000007.png").is_file()  # label 3, seed 7: two columns, a class a row
    settings = read_settings(out / "samples.png")
    assert settings["sampling"]["steps"] == 3
    assert settings["seeds"] == list(range(20))

    assert sfumato("info", str(out / "samples.png")).count("Heun") == 1
    assert "4 steps in" in sfumato("info", "digits")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_run_folders_are_never_overwritten(sfumato, tmp_path):
    for _ in range(2):
        sfumato("train", "digits", "--steps", "1", *TINY)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits", "digits-2"]


def test_dry_run_prints_every_field_and_makes_nothing(sfumato, tmp_path):
    printed = sfumato("train", "digits", "-n", "train.lr=0.5", *TINY)
    assert "train.lr=0.5" in printed
    assert "network.in_channels=1" in printed
    assert "network.classes=10" in printed
    assert list(tmp_path.iterdir()) == []


def test_config_gives_the_same_run_again(sfumato, tmp_path):
    sfumato("train", "digits", "--steps", "2", "--seed", "3", *TINY)
    sfumato("train", "--config", "runs/digits/run.json", "--name", "again")
    first, second = (
        loads((tmp_path / "runs" / name / "run.json").read_text()) for name in ("digits", "again")
    )
    assert second.train == first.train
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / "runs" / name) if row["kind"] == "train"]
        for name in ("digits", "again")
    ]
    assert losses[0] == losses[1]


def test_resume_by_the_same_command(sfumato, tmp_path):
    command = ["train", "digits", *TINY, "--save-every", "1"]
    sfumato(*command, "--steps", "2")
    broken = tmp_path / "runs" / "another" / "run.json"
    broken.parent.mkdir()
    broken.write_text('{"kind": "Run", ')
    printed = sfumato(*command, "--steps", "5", "--resume")
    assert "goes on at step 2" in printed
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["another", "digits"]
    rows = [row for row in read_metrics(tmp_path / "runs/digits") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert "goes on at step 5" in sfumato("train", "runs/digits", "--steps", "6")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "0.5"], "train.lr: 0.002 -> 0.5"),
        (["--batch", "8"], "train.batch: 16 -> 8"),
        (["--seed", "9"], "train.seed: 0 -> 9"),
        (["--limit", "100"], "not those that the run began with"),
    ],
)
def test_resuming_with_other_settings_is_refused_with_the_difference(sfumato, words, message):
    sfumato("train", "digits", "--steps", "1", *TINY)
    with pytest.raises(SystemExit, match=re.escape(message)):
        sfumato("train", "digits", "--steps", "2", *TINY, "--resume", *words)


def test_who_is_stopped_at_the_last_step_does_not_draw_pictures_first(
    sfumato, tmp_path, monkeypatch
):
    from sfumato.trainer import Trainer

    loop, run = Trainer._loop, tmp_path / "runs" / "late"

    def late(trainer, state, task, session, *rest):
        state = loop(trainer, state, task, session, *rest)
        session.stop(15, None)
        return state

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_loop", late)
        with pytest.raises(SystemExit) as end:
            sfumato("train", "digits", "--steps", "2", "--out", "runs/late", *TINY)
    assert end.value.code == 143
    assert not (run / "samples.png").exists()
    assert "The run had ended" in sfumato("train", "runs/late")
    assert (run / "samples.png").exists()


def test_what_changed_on_the_machine_is_told(sfumato, monkeypatch):
    sfumato("train", "digits", "--steps", "1", "--out", "runs/moved", *TINY)
    before = checkpoint.circumstances
    monkeypatch.setattr(
        checkpoint, "circumstances", lambda device: {**before(device), "threads": "77"}
    )
    told = sfumato("train", "runs/moved", "--steps", "2")
    assert re.search(r"not bit for bit: threads \d+ then, 77 now\.", told)


def test_a_run_of_bf16_moves_to_a_machine_that_has_none(sfumato, tmp_path, monkeypatch):
    rough = ["bf16" if word == "fp32" else word for word in TINY]
    sfumato("train", "digits", "--steps", "1", *rough)
    run = tmp_path / "runs" / "digits"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    drawn, slow = "in fp32: bf16 is done in software here", "--precision fp32` goes on so"
    assert drawn in sfumato("sample", "last", "--count", "2")
    assert read_settings(run / "drawn" / "samples.png")["precision"] == "fp32"
    assert drawn not in sfumato("sample", "last", "--count", "2", "--precision", "bf16")
    assert read_settings(run / "drawn-2" / "samples.png")["precision"] == "bf16"
    assert slow in sfumato("train", "last", "--steps", "2")
    assert loads((run / "run.json").read_text()).precision == "bf16"
    told = sfumato("train", "last", "--steps", "3", "--precision", "fp32")
    assert "in bf16 until now, in fp32 from here on" in told
    assert slow not in told
    assert loads((run / "run.json").read_text()).precision == "fp32"
    assert drawn not in sfumato("sample", "last", "--count", "2")


def test_a_spent_budget_is_said_and_a_larger_one_is_looked_at(sfumato, tmp_path):
    sfumato("train", "digits", "--steps", "2", *TINY)
    assert "To train it longer" in sfumato("train", "runs/digits")
    printed = sfumato("train", "last", "--steps", "4")
    held = [row for row in read_metrics(tmp_path / "runs/digits") if row["kind"] == "held_out"]
    assert held[-1]["step"] == 4
    assert f"held-out loss {held[-1]['ema']:.4f}" in printed


def test_the_test_loss_of_an_end_that_was_cut_short_is_measured_when_it_is_begun_again(
    sfumato, tmp_path
):
    def tests():
        return [row for row in read_metrics(tmp_path / "mine") if row["kind"] == "test"]

    sfumato("train", "digits", "--steps", "2", *TINY, "--out", "mine", "data.test=8")
    path, (measured,) = tmp_path / "mine" / "metrics.jsonl", tests()
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"test"' not in line))
    for _ in range(2):
        sfumato("train", "mine")
        assert tests() == [measured]


def test_a_start_that_failed_does_not_stand_in_its_own_way(sfumato, tmp_path, monkeypatch):
    words = ("train", "digits", "--steps", "1", *TINY, "--out", "mine")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "check_disk", full)
        with pytest.raises(SystemExit, match="too full"):
            sfumato(*words)
    assert {path.name for path in (tmp_path / "mine").iterdir()} <= trainer.LEFT
    sfumato(*words)
    assert (tmp_path / "mine" / "run.json").is_file()


def full(*told):
    raise ValueError("the disk is too full")


def test_an_out_folder_that_is_there_is_refused(sfumato, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("months of work")
    with pytest.raises(SystemExit, match="is there already, and no run is ever overwritten"):
        sfumato("train", "digits", "--steps", "1", *TINY, "--out", "mine")


def test_every_flag_reaches_its_field(sfumato):
    printed = sfumato(
        *("train", "digits", "-n", "--limit", "200", "--batch", "8", "--micro-batch", "4"),
        *("--lr", "0.5", "--warmup", "7", "--ema", "0.2", "--seed", "5", "--images", "99"),
        *("--label-dropout", "0.25", "--flip", "--previews", "3", "--save-every", "11"),
        *("--sampler", "ddim", "--sample-steps", "9", "--guidance", "3", "--precision", "bf16"),
    )
    for field in (
        *("data.limit=200", "train.batch=8", "train.micro_batch=4", "train.lr=0.5"),
        *("train.warmup_steps=7", "train.ema_length=0.2", "train.seed=5", "train.images=99"),
        *("train.seconds=None", "data.label_dropout=0.25", "data.flip=True", "train.previews=3"),
        *("train.save_every_steps=11", "sampling.solver=DDIM", "sampling.steps=9"),
        *("sampling.guidance=3.0", "precision='bf16'"),
    ):
        assert f"  {field}\n" in printed, field


def test_no_image_is_both_trained_on_and_held_out(sfumato, monkeypatch):
    from sfumato.commands import train as command

    seen = {}

    def look(trainer, state, task, session, *rest):
        seen.update(held=session.held_out["images"])
        seen["batches"] = torch.cat([task.batches()(step)["images"] for step in range(60)])
        return state

    monkeypatch.setattr(command.Trainer, "_loop", look)
    monkeypatch.setattr(command.Trainer, "_finish", lambda *rest, **more: None)
    sfumato("train", "digits", "--steps", "1", *TINY)
    rows = [{tuple(x.flatten().tolist()) for x in seen[name]} for name in ("batches", "held")]
    assert (len(rows[0]), len(rows[1])) == (108, 12)
    assert not rows[0] & rows[1]


def test_numbers_below_one_are_refused_before_a_folder_is_made(sfumato, tmp_path):
    sfumato("train", "digits", "--steps", "1", *TINY)
    for flag in ("--count", "--columns", "--batch", "--steps"):
        with pytest.raises(SystemExit, match="at least 1"):
            sfumato("sample", "last", flag, "0")
    assert not list((tmp_path / "runs/digits").glob("drawn*"))


def test_resuming_nothing_is_an_error(sfumato):
    with pytest.raises(SystemExit, match="holds no run to go on with"):
        sfumato("train", "digits", "--steps", "2", *TINY, "--resume")


def test_a_run_without_classes(sfumato, tmp_path):
    sfumato("train", "digits", "--steps", "1", "--no-labels", *TINY, "--guidance", "1")
    sfumato("sample", "last", "--count", "5", "--no-film")
    assert read_settings(tmp_path / "runs/digits/drawn/samples.png")["labels"] is None
    with pytest.raises(SystemExit, match="without classes"):
        sfumato("sample", "last", "--label", "3")
    with pytest.raises(SystemExit, match="model without classes"):
        sfumato("sample", "last", "--guidance", "2")


def test_labels_by_name_and_number(sfumato, tmp_path):
    sfumato("train", "digits", "--steps", "1", *TINY)
    sfumato("sample", "last", "--label", "7,3", "--count", "4", "--columns", "2", "--no-film")
    assert read_settings(tmp_path / "runs/digits/drawn/samples.png")["labels"] == [7, 7, 3, 3]
    with pytest.raises(SystemExit, match="no class '11'"):
        sfumato("sample", "last", "--label", "11")


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_drawn(
    sfumato, tmp_path, monkeypatch
):
    """And one that was made is gone again where drawing fails."""
    sfumato("train", "digits", "--steps", "1", *TINY)
    (tmp_path / "file").write_text("")

    def fail(*rest):
        raise ValueError("drawing has begun")

    monkeypatch.setattr("sfumato.commands.sample.draw_with_progress", fail)
    with pytest.raises(SystemExit, match=r"could not make file/new.*another folder by --out"):
        sfumato("sample", "last", "--out", "file/new")
    with pytest.raises(SystemExit, match="drawing has begun"):
        sfumato("sample", "last", "--out", "new")
    assert not (tmp_path / "new").exists()


def test_a_few_images_are_of_all_classes_in_turn_unless_one_is_asked_for(sfumato, tmp_path):
    sfumato("train", "digits", "--steps", "1", *TINY)

    def labels_of(*words):
        sfumato("sample", "last", "--no-film", "--steps", "1", "--out", "drawn", *words)
        labels = read_settings(tmp_path / "drawn" / "samples.png")["labels"]
        shutil.rmtree(tmp_path / "drawn")
        return labels

    assert labels_of("--count", "10") == list(range(10))
    assert labels_of("--seeds", "3,5,8") == [0, 1, 2]
    assert labels_of("--count", "2", "--label", "7") == [7, 7]
    assert labels_of("--count", "3", "--label", "7,3") == [7, 3, 7]


def test_image_k_depends_on_its_own_seed_only(sfumato, tmp_path):
    sfumato("train", "digits", "--steps", "2", *TINY)
    options = ("--label", "3", "--files", "--no-film", "--sampler", "ddpm", "--grid", "karras")
    sfumato("sample", "last", "--seeds", "0-6", *options)
    sfumato("sample", "last", "--seeds", "5,2", "--batch", "1", *options)
    for seed in (2, 5):
        pictures = [
            pixels(tmp_path / f"runs/digits/{out}/3-{seed:06d}.png") for out in ("drawn", "drawn-2")
        ]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1  # a last bit may round otherwise
    assert np.abs(pictures[0] - pixels(tmp_path / "runs/digits/drawn/3-000006.png")).max() > 9


def test_a_recipe_in_a_file_of_ones_own(sfumato, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from sfumato.recipes import RECIPES\n"
        "def small():\n"
        "    return replace(RECIPES['digits_flow'](), name='mine')\n"
    )
    sfumato("train", "mine.py:small", "--steps", "1", *TINY)
    assert (tmp_path / "runs" / "mine" / "samples.png").is_file()
    with pytest.raises(SystemExit, match="no function 'smal'; did you mean small"):
        sfumato("train", "mine.py:smal")


@pytest.mark.parametrize("recipe", ["digits_ddpm", "digits_flow"])
def test_the_other_recipes_train_and_sample(sfumato, tmp_path, recipe):
    sfumato("train", recipe, "--steps", "2", *TINY, "--sample-steps", "5")
    assert (tmp_path / "runs" / recipe / "samples.png").is_file()
    for sampler in ("ddim", "dpm++2m", "heun", "ddpm"):
        sfumato("sample", recipe, "--sampler", sampler, "--count", "2", "--no-film")


def test_a_folder_of_ones_own(sfumato, tmp_path):
    for name, shade in (("cat", 60), ("dog", 200)):
        for i in range(12):
            path = tmp_path / "pets" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 14), (shade, i * 10, 90)).save(path)
    (tmp_path / "pets" / "cat" / "broken.png").write_bytes(b"not a picture")
    with pytest.warns(UnreadableWarning, match=r"LOOKS DAMAGED, 4.0% of it: .*broken.png"):
        printed = sfumato("info", "pets")
    assert "broken.png" in printed
    assert "cat, dog" in printed
    tiny = [word for word in TINY if word not in ("--limit", "120")]
    with pytest.warns(UnreadableWarning, match=r"broken.png"):
        sfumato("train", "pets", "--steps", "1", "--flip", *tiny)
    assert "broken.png\t" in (tmp_path / "runs/pets-small/quarantine.txt").read_text()
    run = loads((tmp_path / "runs/pets-small/run.json").read_text())
    assert run.data.flip
    assert run.network.in_channels == 3
    assert json.loads((tmp_path / "runs/pets-small/data.json").read_text())["class_names"] == [
        "cat",
        "dog",
    ]
    sfumato("sample", "last", "--label", "dog", "--count", "2")
    (tmp_path / "pets" / "cat" / "broken.png").unlink()
    Image.new("RGB", (20, 14), (1, 2, 3)).save(tmp_path / "pets" / "dog" / "3.png")
    with pytest.raises(SystemExit, match=r"0 added; 0 removed; 1 changed \(.*3.png\)\. Bring"):
        sfumato("train", "runs/pets-small", "--steps", "2")
    (tmp_path / "pets" / "dog" / "3.png").write_bytes(b"no more")
    with pytest.raises(SystemExit, match=r"1 of 24 images cannot .*dog.3.png.*Up to 0.0%"):
        sfumato("train", "pets", "--steps", "1", "data.unreadable=0", *tiny)


def test_nonsense_is_answered_in_one_line(sfumato):
    for words in (["train"], ["train", "no-such-folder"], ["sample", "no-such-run"], ["info", "x"]):
        with pytest.raises(SystemExit) as exit_:
            sfumato(*words)
        assert str(exit_.value).startswith("sfumato: "), words
        assert "Traceback" not in str(exit_.value)


def test_python_m_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "sfumato", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"sfumato \d+\.\d+\.\d+\n", done.stdout)


def test_pictures_come_from_the_average_and_raw_ones_from_the_weights(
    sfumato, tmp_path, monkeypatch
):
    from sfumato import checkpoint
    from sfumato.loading import load_run
    from sfumato.tasks import diffusion

    drawn = []
    original = diffusion.draw

    def recording(denoiser, *rest, **more):
        drawn.append(denoiser)
        return original(denoiser, *rest, **more)

    monkeypatch.setattr(diffusion, "draw", recording)
    sfumato("train", "digits", "--steps", "3", *TINY)
    _, files = checkpoint.newest(tmp_path / "runs/digits")
    saved = {name: load(files[f"{name}.safetensors"]) for name in ("average", "weights")}
    loaded = {
        name: load_run("last", torch.device("cpu"), raw=name == "weights").denoiser.state_dict()
        for name in saved
    }
    name = "network.out.conv.bias"
    assert not torch.equal(saved["average"][name], saved["weights"][name])
    for kind in saved:
        assert torch.equal(loaded[kind][name], saved[kind][name]), kind
    assert len(drawn) == 3  # the previews at the start and the end, and samples.png
    assert all(torch.equal(model.state_dict()[name], saved["average"][name]) for model in drawn)
