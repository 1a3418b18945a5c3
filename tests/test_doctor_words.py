"""What the doctor says can be typed as it stands: names are filled in, and every command parses."""

# ruff: noqa: RUF001  (full-width punctuation is right in Chinese)

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import test_doctor_faults as faults
import tiny
from sfumato.commands.doctor import as_text
from sfumato.config import Run
from sfumato.data import fingerprint
from sfumato.doctor import look_at_run, record
from sfumato.doctor.data import check_images, turned_share
from sfumato.doctor.finding import NOTE, RISK, WRONG, Finding, found
from sfumato.doctor.naming import Names, names_of_data, names_of_run, names_of_settings, twice
from sfumato.doctor.record import words_of, words_on_run
from sfumato.doctor.run import check_log
from sfumato.doctor.words import OF_RUN, TEXTS, said
from sfumato.folder import DataCard, append_metrics, write_card
from sfumato.kinds import dumps
from sfumato.parsing import parse
from sfumato.places import near_things
from sfumato.recipes import RECIPES
from sfumato.wrapping import cells

FOLDER = Path("my runs/a")
RUN = replace(RECIPES["digits"](), data=replace(RECIPES["digits"]().data, source="it's here"))
NAMES = {
    "a run": names_of_run(FOLDER, RUN),
    "a recipe": names_of_settings("mine.py:calm", RUN, "my data"),
    "a run.json": names_of_settings("my run.json", RUN),
    "images": names_of_data("my data/x.npy"),
}


@pytest.fixture
def sfumato(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("LANG", raising=False)
    return tiny.commands(monkeypatch, tmp_path, capsys)


def every(lang):
    """(code, what is told) of all findings, each fact 7."""
    for code, words in TEXTS[lang].items():
        facts = {name: 7 for text in words for name in faults.names_in(text)}
        for name in KNOWN:
            facts.pop(name, None)
        yield found(code, RISK, **facts)


KNOWN = {*vars(Names()), "load", "saved"}


def typed_in(finding, lang, names):
    """The commands in what it says to do."""
    spans = re.findall(r"`([^`]*)`", said(finding, lang, names).do)
    return [span for span in spans if span.startswith("sfumato ")]


def test_every_command_can_be_typed():
    commands = {
        typed for lang in TEXTS for f in every(lang) for typed in typed_in(f, lang, NAMES["a run"])
    }
    assert len(commands) > 40
    for typed in commands:
        words = shlex.split(typed)[1:]
        command = parse(words)
        if words[0] in ("sample", "evaluate", "spectra"):
            assert command.run == "my runs/a"
        if words[0] == "train" and "--config" in words:
            assert (command.source, command.config) == ("", FOLDER / "run.json")
        elif words[0] == "train":
            assert command.source in ("my runs/a", "it's here", "7-bytes.npy", "FILE-bytes.npy")


@pytest.mark.parametrize("of", NAMES)
def test_what_was_looked_at_is_quoted(of):
    names = NAMES[of]
    train = parse(shlex.split(f"{names.train} --lr 1e-3 data.flip=false")[1:])
    assert (train.lr, train.settings) == (1e-3, ("data.flip=false",))
    if of == "a recipe":
        assert (train.source, train.data) == ("mine.py:calm", "my data")
    doctor = parse(shlex.split(f"{names.doctor} --data x")[1:])
    assert doctor.thing in ("my runs/a", "mine.py:calm", "my run.json", "my data/x.npy")
    assert parse(["info", *shlex.split(names.data)]).thing in (
        "it's here",
        "my data/x.npy",
        "my data",
    )


@pytest.mark.parametrize("lang", TEXTS)
def test_no_capitals_are_left_to_be_filled_in(lang):
    for finding in every(lang):
        told = said(finding, lang, NAMES["a run"])
        text = f"{told.seen} {told.why} {told.do}"
        assert not re.search(r"\b(RUN|DATA|RECIPE|CONFIG)\b|sfumato \w+ \.\.\.", text), finding


def test_no_fact_is_called_as_a_name_is():
    for code, words in TEXTS["en"].items():
        seen, why, _ = (faults.names_in(text) for text in words)
        assert not (seen | why) & KNOWN, code


def test_an_array_is_loaded_by_its_own_name_and_never_overwritten():
    finding = found("range-01", WRONG, name="x", dtype="float32", low=0.0, high=1.0)
    do = said(finding, "en", names_of_data("d/images.npz")).do
    assert "np.load('d/images.npz')['x']; np.save('images-bytes.npy', (x.clip(0, 1)" in do
    assert "`sfumato train images-bytes.npy`" in do
    assert "np.load('FILE')" in said(finding, "en", names_of_data('a"b.npy')).do


def test_twice_a_budget_is_of_its_kind():
    train = RECIPES["digits"]().train
    assert twice(replace(train, seconds=600.0)) == "--time 20m"
    assert twice(replace(train, seconds=45.0)) == "--time 90s"
    assert twice(replace(train, seconds=None, steps=700_000)) == "--steps 1400000"
    assert twice(replace(train, seconds=None, epochs=2.5)) == "--epochs 5"


# ---- misspelt


def test_a_misspelt_name_is_answered_with_those_that_are_near(sfumato, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "my_fashion"
    run.mkdir(parents=True)
    (run / "run.json").write_text(dumps(RUN))
    (tmp_path / "my-pictures").mkdir()
    for typed, wanted in (
        ("my_fashoin", "the run runs/my_fashion"),
        ("runs/my_fashoin", "the run runs/my_fashion"),
        ("fashion_fats", "the recipe fashion_fast"),
        ("my-pictres/", "the path my-pictures"),
        ("cifar11", "the data set cifar10"),
    ):
        with pytest.raises(SystemExit, match=f"no recipe, run, data set .*{wanted}"):
            sfumato("doctor", typed)
    with pytest.raises(SystemExit, match=r"没有叫 'digitts' 的.*配方 digits"):
        sfumato("doctor", "digitts", "--lang", "zh")
    with pytest.raises(SystemExit, match=r"'zzzz'. `sfumato recipes` lists"):
        sfumato("doctor", "zzzz")
    assert near_things("zzzz", tmp_path / "runs") == []


def test_settings_whose_name_a_run_has_too_say_so(sfumato, tmp_path):
    (tmp_path / "runs" / "celeba64").mkdir(parents=True)
    (tmp_path / "runs" / "celeba64" / "run.json").write_text(dumps(RUN))
    assert "A run is called so, too: `sfumato doctor runs/celeba64`" in sfumato(
        "doctor", "celeba64"
    )
    assert "called so" not in sfumato("doctor", "celebahq128")


# ---- where a run stands


def rows_of(steps, seconds):
    """A log whose last row of training lies before the last step, as every tenth is written."""
    a_step = seconds / steps
    rows = [
        {"kind": "train", "step": step, "seconds": step * a_step, "loss": 1.0}
        for step in range(1, steps - 1)
    ]
    return [*rows, {"kind": "held_out", "step": steps, "seconds": seconds, "raw": 1.0, "ema": 1.0}]


def test_a_run_that_has_ended_is_judged_by_the_steps_it_took(tmp_path):
    data = faults.digits()
    run = faults.TASKS[Run].settled(faults.settings("digits", "train.seconds=100"), data)
    (tmp_path / "run.json").write_text(dumps(run))
    card = DataCard("digits", "digits", fingerprint(data), 5000, 1, (28, 28), data.class_names)
    write_card(tmp_path, card)
    append_metrics(tmp_path, *rows_of(42, 101.0))
    seen = {f.code: dict(f.facts) for f in look_at_run(str(tmp_path), faults.GOOD, data)}
    assert seen["few-steps"]["steps"] == 42
    (tmp_path / "run.json").write_text(dumps(replace(run, precision="bf16")))
    there = look_at_run(str(tmp_path), replace(faults.GOOD, emulated=True), data)
    assert "bf16-emulated" not in {f.code for f in there}  # no step of it is to come


def test_a_machine_that_slowed_is_no_risk_to_a_run_that_has_ended():
    run = faults.settings("digits", "train.seconds=400")
    for steps, severity in ((400, NOTE), (200, RISK)):
        rows = faults.log(steps=steps, speed=lambda n: 100.0 if n < 100 else 30.0)
        assert {f.code: f.severity for f in check_log(run, rows)}["slowed"] == severity


def test_the_last_lines_of_a_run_are_a_line_a_finding(tmp_path):
    findings = [
        found("ema-young", RISK, share=0.5, first=100, step=120),
        found("guidance-strong", RISK, scale=15),
        found("improving", NOTE, before=80, step=120, low=0.1, middle=0.1, high=0.2),
        found("unfinished", NOTE, done=0.5, step=120),
    ]
    told = json.loads(record.as_text(record.record_of("a", findings, "en", NAMES["a run"])))
    lines = words_of(told, "a").split("\n")
    assert lines[0] == "The doctor says of it: something may be wrong with it."
    assert [line[:8] for line in lines if line.startswith("  ") and line[2] != " "] == [
        *("  risk  ", "  risk  ", "  note  ", "  1 more"),
    ]
    first = "        -> Train on: `sfumato train 'my runs/a' --time 5m`; meanwhile"
    assert f"\n{first}" in "\n".join(lines)
    assert lines[-1] == "  1 more: `sfumato doctor a`"
    assert words_on_run(tmp_path).startswith("The doctor was not asked")


def test_chinese_lines_are_no_wider_than_the_others():
    finding = found("improving", NOTE, before=80, step=120, low=0.1, middle=0.1, high=0.2)
    both = [finding, Finding("flat", RISK, finding.facts)]
    text = as_text("a", both, "zh", NAMES["a run"], OF_RUN)
    assert text.endswith("a: 可能有问题（1 项风险）")
    assert max(map(cells, text.split("\n"))) <= 100


# ---- pictures that are there twice


def twice_told(captions):
    images = faults.pictures(1200)
    images[1::10] = images[::10]
    return replace(faults.data_of(images), captions=captions)


def test_one_picture_under_two_captions_is_no_copy():
    alone = {f.code: f.severity for f in check_images(twice_told(None))}
    assert alone == {"duplicates": RISK}
    names = tuple(f"flag {i}" for i in range(1200))
    assert {f.code: f.severity for f in check_images(twice_told(names))} == {
        "shared-pictures": NOTE
    }
    same = tuple(f"flag {i - (i % 10 == 1)}" for i in range(1200))
    assert {f.code for f in check_images(twice_told(same))} == {"duplicates"}


def test_an_arrow_to_the_left_is_no_arrow_to_the_right_that_was_turned():
    arrows = faults.pictures(50)
    both = torch.cat([arrows, arrows.rot90(2, (2, 3))])
    assert turned_share(both, [None] * 100) == 1
    assert turned_share(both, ["right"] * 50 + ["left"] * 50) == 0
    assert turned_share(both, ["right"] * 100) == 1
