"""Lines no wider than the terminal, in words or in Chinese; a command in `...` is never broken.

A broken command can't be copied, and half of one may do something else: it stays whole on a line of
its own where it must, and the terminal wraps it.
"""

import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator

from .console import WIDTH

_WIDE = "\u2e80-\u9fff\uff00-\uffef"  # Chinese, and its punctuation: breaks are between any two
_WORD = re.compile(r"(?:`[^`]*`|\S)+")
_PART = re.compile(rf"`[^`]*`|[{_WIDE}]|[^{_WIDE}`]+|`")
_OPENING, _CLOSING = "(（“[《", ")）”]》,.;:!?，。；：！？、%"  # noqa: RUF001


def columns() -> int:
    """Of the terminal, at most WIDTH, at least 40; WIDTH where the output goes to a file."""
    if not sys.stdout.isatty():
        return WIDTH
    return min(WIDTH, max(40, shutil.get_terminal_size((WIDTH, 24)).columns))


def for_reader(text: str) -> str:
    """The text wrapped where standard error is a terminal; as it is in a log, for grep."""
    if not sys.stderr.isatty():
        return text
    return paragraphs(text, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def cells(text: str) -> int:
    """Columns that a text takes: two for a Chinese letter."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def wrapped(text: str, width: int | None = None, first: str = "", rest: str = "") -> str:
    """The text in lines of at most `width` columns, columns() by default.

    first, rest: what the first line and the others begin with. What can't be broken may be wider.
    """
    most = columns() if width is None else width
    lines, line, begun = [], first, False
    for space, piece in _pieces(text):
        if begun and cells(line + space + piece) > most:
            lines.append(line)
            line, space = rest, ""
        line += (space if begun else "") + piece
        begun = True
    return "\n".join([*lines, line])


def paragraphs(text: str, width: int | None = None) -> str:
    """Each line of the text wrapped; an indented one goes on below its own start."""
    made = []
    for line in text.splitlines():
        pad = line[: len(line) - len(line.lstrip())]
        made.append(wrapped(line.strip(), width, pad, pad))
    return "\n".join(made)


def prose(text: str, width: int | None = None) -> str:
    """Each line that is not indented wrapped; tables and commands, which are, as they came."""
    lines = text.split("\n")
    return "\n".join(line if line[:1] in ("", " ") else wrapped(line, width) for line in lines)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """(the space before, what may not be broken), in order."""
    for word in _WORD.findall(text):
        space, piece = " ", ""
        for part in _PART.findall(word):
            if piece and _may_break(piece, part):
                yield space, piece
                space, piece = "", ""
            piece += part
        yield space, piece


def _may_break(before: str, after: str) -> bool:
    wide = any(re.match(f"[{_WIDE}]", letter) for letter in (before[-1], after[0]))
    return wide and before[-1] not in _OPENING and after[0] not in _CLOSING
