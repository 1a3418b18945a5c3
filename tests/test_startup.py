"""Starting quickly: what is known without torch, what is imported late, how short the race is."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.arguments import Compare, Export, Sample, Train
from sfumato.devices import Trial, faster_precision
from sfumato.interop.fitting import skeleton
from sfumato.places import check_names
from sfumato.recipes import RECIPES
from sfumato.vocabulary import RECIPE_NAMES

CPU = torch.device("cpu")


def imported_by(code):
    """The modules that a fresh interpreter has after `code`."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_the_names_that_need_no_import_are_the_recipes():
    assert sorted(RECIPE_NAMES) == sorted(RECIPES)


def test_names_are_checked_without_torch():
    modules = imported_by(
        "from sfumato.parsing import parse\n"
        "from sfumato.places import check_names\n"
        "check_names(parse(['train', 'digits']))\n"
        "try: check_names(parse(['train', 'digts']))\n"
        "except ValueError as error: assert 'Did you mean digits?' in str(error), error"
    )
    assert "torch" not in modules
    assert "numpy" not in modules


def test_the_start_imports_no_plots_compiler_or_peer():
    """Not even where weights are compared with the network that run.json describes."""
    modules = imported_by(
        "import sfumato.commands.train, sfumato.commands.sample\n"
        "from sfumato.interop.fitting import skeleton\n"
        "from sfumato.networks.unet import UNetConfig\n"
        "skeleton(UNetConfig(classes=3).build, 'here')"
    )
    assert "torch" in modules
    assert not modules & {"matplotlib", "torch._dynamo", "sympy", "diffusers", "scipy"}


def test_a_skeleton_has_the_shapes_of_what_it_is_of():
    build = RECIPES["digits"]().network.build
    real, meta = build().state_dict(), skeleton(build, "here")
    assert {name: value.shape for name, value in meta.items()} == {
        name: value.shape for name, value in real.items()
    }
    assert all(value.is_meta for value in meta.values())


@pytest.mark.parametrize(
    "command",
    [
        Train("digts"),
        Train("digits", data="no/such/folder"),
        Train("FILE.py"),
        Sample("no-such-run"),
        Export("no-such-run"),
        Compare(data="minst"),
    ],
)
def test_a_name_of_nothing_is_refused(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)):
        check_names(command)


@pytest.mark.parametrize("command", [Train("digits", data="FOLDER"), Train("FOLDER"), "out"])
def test_a_folder_whose_name_is_no_utf_8_is_refused_by_its_name(command, tmp_path, monkeypatch):
    """Its name can't be written into run.json, and was told as a codec's position 229."""
    monkeypatch.chdir(tmp_path)
    folder = Path(os.fsdecode(b"caf\xe9"))
    folder.mkdir()
    if command == "out":
        command = Train("digits", out=folder)
    else:
        fields = {
            name: str(folder) for name in ("source", "data") if vars(command)[name] == "FOLDER"
        }
        command = replace(command, **fields)
    with pytest.raises(ValueError, match=r"caf\\udce9.* is not UTF-8.*: rename the"):
        check_names(command)


def test_a_new_folder_whose_name_is_no_utf_8_gets_another_and_is_renamed_by_nobody():
    """There is nothing there yet that could be renamed."""
    name = Path(os.fsdecode(b"caf\xe9"))
    with pytest.raises(ValueError, match=r"caf\\udce9.* run's files: give another name\.$"):
        check_names(Train("digits", out=name))


def test_what_is_there_is_let_through(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "run.json").touch()
    (tmp_path / "cats").mkdir()
    for command in (
        *(Train(""), Train("digits"), Train("Digits"), Train("dit_flow", data="cats")),
        *(Train("cats"), Train("runs/a"), Train("last"), Train("mine.py:recipe")),
        *(Train("x", config=tmp_path), Sample("a"), Sample("last"), Compare(data="digits")),
    ):
        check_names(command)


@pytest.mark.parametrize(("share", "rounds"), [(0.6, 3), (0.8, 5), (0.9, 5), (1.2, 3)])
def test_a_race_without_doubt_is_short(share, rounds):
    def trial(low):
        made = Trial(lambda: None, lambda: torch.ones(2), CPU)
        made.step = lambda: made.seconds.append(share if low else 1.0)
        return made

    trials = {"fp32": trial(False), "bf16": trial(True)}
    assert faster_precision(trials)[0] == ("bf16" if share < 0.87 else "fp32")
    assert [len(trial.seconds) for trial in trials.values()] == [rounds, rounds]
