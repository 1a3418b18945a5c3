"""Wrapped text: no line too wide, no word lost, no command broken."""

# ruff: noqa: RUF001  (full-width punctuation is right in Chinese)

import re

import pytest

from sfumato.doctor.words import TEXTS
from sfumato.wrapping import cells, paragraphs, wrapped

TOLD = [text for texts in TEXTS.values() for words in texts.values() for text in words]


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("width", [40, 80])
def test_all_that_the_doctor_says_fits_and_nothing_is_lost(width):
    for text in TOLD:
        lines = wrapped(text, width, "    ", "  ").split("\n")
        assert squeezed("".join(lines)) == squeezed(text)
        for line in lines:
            unbroken = re.search(r"`[^`]*`|[!-_a-~]{20,}", line)
            assert cells(line) <= width or unbroken, line


def test_a_command_stays_whole():
    text = "Train on: `sfumato train runs/a --time 20m`; meanwhile `sfumato sample runs/a --raw`"
    lines = wrapped(text, 40).split("\n")
    assert lines[1] == "`sfumato train runs/a --time 20m`;"
    assert lines[2] == "meanwhile `sfumato sample runs/a --raw`"


def test_chinese_is_two_columns_wide_and_no_line_begins_with_a_comma():
    lines = wrapped("一二三四五，六七（八九）十", 10).split("\n")
    assert lines == ["一二三四", "五，六七", "（八九）十"]
    assert wrapped("一二三 abc四五", 9) == "一二三\nabc四五"


def test_lines_keep_their_own_indent():
    assert (
        paragraphs("one two three\n  four five six", 9) == "one two\nthree\n  four\n  five\n  six"
    )
