"""The museum: each fault moves its number as told, the repair does not, and the page shows them."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from sfumato.solvers import Ancestral

ROOT = Path(__file__).parents[1]
MUSEUM = runpy.run_path(str(ROOT / "scripts" / "museum.py"))
EXHIBITS = MUSEUM["EXHIBITS"]
DOCTOR = sys.modules["museum_doctor"]
PAGES = {"en": "museum.md", "zh": "museum.zh-CN.md"}


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_a_fault_moves_its_number_and_the_repair_does_not(exhibit):
    wrong, right = exhibit.measure(exhibit.fault()), exhibit.measure(exhibit.right())
    assert abs(right - exhibit.truth) < abs(exhibit.moves)
    assert (wrong - right) / exhibit.moves > 1


def test_there_are_fifteen_and_each_has_its_words_and_picture():
    names = [exhibit.name for exhibit in EXHIBITS]
    assert len(names) >= 15
    for words in MUSEUM["WORDS"].values():
        assert list(words) == names
    sizes = [(ROOT / "docs" / "museum" / f"{name}.webp").stat().st_size for name in names]
    assert max(sizes) < 40_000


@pytest.mark.parametrize("language", PAGES)
def test_the_page_is_what_the_script_writes(language):
    text = (ROOT / "docs" / PAGES[language]).read_text("utf-8")
    assert text == MUSEUM["page"](language, [exhibit.name for exhibit in EXHIBITS], MUSEUM["told"])


FOUND = {
    "clamped": {"x-clamped"},
    "one-step": {"grid-unfinished"},
    "noise-at-the-end": {"solver-noise"},
    "mean-only": {"solver-inconsistent"},
    "t300": {"signal-left"},
    "alpha": {"diffuse-off"},
    "one-noise": {"diffuse-off"},
    "root": {"diffuse-off"},
    "divided": {"solver-explodes"},
    "variance": {"solver-inconsistent"},
    "log": {"solver-inconsistent"},
    "zero-to-one": {"range-01"},
    "twice": {"range-31"},
    "own-range": {"tint", "pale"},
    "no-time": {"level-untold"},
    "rotated": {"turned-copies"},
}


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_the_doctor_finds_the_fault_and_nothing_else(exhibit):
    told = [f.code for f in DOCTOR.findings_of(exhibit.name) if f.severity != "note"]
    assert set(told) == FOUND[exhibit.name]


def test_the_doctor_sees_nothing_in_what_is_repaired_or_stretched_after_drawing():
    assert DOCTOR.on_run(repaired) == ()
    assert DOCTOR.of_own_range(stretched=True) == ()


def repaired():
    return DOCTOR.faults.sampled(Ancestral())


def test_the_lines_are_those_of_the_page_of_sources():
    sources = (ROOT / "docs" / "sources.md").read_text("utf-8")
    sections = dict(re.findall(r"^## (\d{3}):(.*?)(?=^## |\Z)", sources, re.M | re.S))
    for exhibit in EXHIBITS:
        line, *_ = MUSEUM["WORDS"]["en"][exhibit.name]
        assert line == MUSEUM["WORDS"]["zh"][exhibit.name][0]
        text, number = line.split(":")
        cells = re.findall(r"^\| ([\d, -]+) \|", sections[text], re.M)
        spans = [span.strip().split("-") for cell in cells for span in cell.split(",")]
        assert any(int(span[0]) <= int(number) <= int(span[-1]) for span in spans), line
