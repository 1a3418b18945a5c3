"""Wrapped text: no line too wide, no word lost, no command broken."""

# ruff: noqa: RUF001  (full-width punctuation is right in Chinese)

import io
import re

import pytest

from sfumato.doctor.words import TEXTS
from sfumato.wrapping import cells, for_reader, paragraphs, prose, wrapped

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


def test_errors_are_wrapped_for_a_terminal_and_whole_in_a_log(monkeypatch):
    text = "sfumato: " + 30 * "word "
    assert for_reader(text) == text
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, for_reader(text).split("\n"))) == 59


def test_tables_and_commands_stay_as_they_are():
    text = "one two three\n  a      b\n\n  sfumato sample runs/a"
    assert prose(text, 9) == "one two\nthree\n  a      b\n\n  sfumato sample runs/a"


def test_lines_keep_their_own_indent():
    assert (
        paragraphs("one two three\n  four five six", 9) == "one two\nthree\n  four\n  five\n  six"
    )
