"""What is written of images in files beside them: captions, and labels in the same tables.

    metadata.jsonl   a line an image: {"file_name": "a/1.png", "text": "a red hat", "label": 3}
    metadata.csv     the same as a table whose first row names the columns
    1.txt            the caption of 1.png in its first line, where no table has captions

The tables are those of Hugging Face's "imagefolder": file_name is relative to the table's own
folder, and there may be one in every folder. The caption's column is text or caption.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from posixpath import basename, splitext
from typing import Any

from sfumato.data.containers import Container, Skipped, plain_name
from sfumato.data.images import READ_ERRORS, reason

TABLES = ("metadata.jsonl", "metadata.csv")
CAPTION_COLUMNS = ("text", "caption")  # the first that is there
LABEL_COLUMN = "label"


@dataclass(frozen=True)
class Written:
    """Captions and labels by the images' names; no captions at all where none are written."""

    captions: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, int | str] = field(default_factory=dict)
    where: str = ""  # the tables' names, for people
    skipped: Skipped = ()
    notes: tuple[str, ...] = ()


def read_written(container: Container, names: Sequence[str]) -> Written:
    """What the files in `container` say of the images called `names`.

    Raises ValueError for a table that is not in the form above, with its line.
    """
    tables = [name for name in container.names if basename(name) in TABLES]
    _check_single(tables, container.where)
    table = _read_tables(container, tables, names) if tables else Written()
    return table if table.captions else _with_text_files(table, container, names)


def in_order(written: Written, names: Sequence[str]) -> tuple[str, ...] | None:
    """The caption of each of `names`, "" where it has none; None where not one has any.

    Text encoders take "" for no condition at all.
    """
    captions = tuple(written.captions.get(name, "") for name in names)
    return captions if any(captions) else None


def gap_note(captions: Sequence[str]) -> tuple[str, ...]:
    """A sentence on images that got an empty caption, where there are any."""
    missing = captions.count("")
    if not missing:
        return ()
    have = "has" if missing == 1 else "have"
    return (f"{missing:,} of {len(captions):,} images {have} no caption: an empty one.",)


def _check_single(tables: Sequence[str], where: str) -> None:
    folders = [str(PurePosixPath(name).parent) for name in tables]
    double = next((folder for folder in folders if folders.count(folder) > 1), None)
    if double is not None:
        raise ValueError(
            f"{where} has both {' and '.join(TABLES)} in its folder {double}: remove one of them."
        )


def _read_tables(container: Container, tables: Sequence[str], names: Sequence[str]) -> Written:
    captions: dict[str, str] = {}
    labels: dict[str, int | str] = {}
    columns: set[str] = set()
    there, wanted, strays = set(container.names), set(names), []
    for table in tables:
        folder = PurePosixPath(table).parent
        for line, row in _rows(container.read(table), table, container.where):
            what = f"line {line} of {table} in {container.where}"
            name = plain_name(str(folder / _file_name(row, what)))
            columns.update(row)
            if name not in there:
                strays.append(name)
            elif name in wanted:
                captions[name] = _caption(row, what)
                _add_label(labels, name, row.get(LABEL_COLUMN), what)
    where = ", ".join(tables)
    notes = (*_on_strays(strays, where), *_on_columns(columns, where))
    captions = {name: text for name, text in captions.items() if text}
    return Written(captions, _whole_numbers(labels), where, notes=notes)


def _rows(contents: bytes, table: str, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, row by column)."""
    try:
        text = contents.decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} in {where} is not UTF-8 ({error}): save it as UTF-8.") from error
    yield from (_csv_rows if table.endswith(".csv") else _json_rows)(text, f"{table} in {where}")


def _csv_rows(text: str, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            if None in row:
                raise ValueError(f"more values than columns in line {reader.line_num}")
            yield reader.line_num, dict(row)
    except (csv.Error, ValueError) as error:
        raise ValueError(
            f"{what} is no table of comma-separated values ({error}): put a value that has a comma "
            "in it between double quotes."
        ) from error


def _json_rows(text: str, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} of {what} is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} of {what} is {line[:40]!r}: give one JSON object.")
        yield number, row


def _file_name(row: Mapping[str, Any], what: str) -> str:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        found = ", ".join(map(str, row)) or "nothing"
        raise ValueError(f"{what} has no file_name (it has {found}): each row names its image.")
    return name


def _caption(row: Mapping[str, Any], what: str) -> str:
    column = next((name for name in CAPTION_COLUMNS if row.get(name) is not None), None)
    if column is None:
        return ""
    if not isinstance(row[column], str):
        raise ValueError(f"{what} has the {column} {row[column]!r}: give one string or null.")
    return row[column].strip()


def _add_label(labels: dict[str, int | str], name: str, label: Any, what: str) -> None:
    if label is None or label == "":
        return
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise ValueError(f"{what} has the label {label!r}: give a whole number, a word or null.")
    labels[name] = label


def _whole_numbers(labels: dict[str, int | str]) -> dict[str, int | str]:
    """Numbers where all are: a CSV file has words only."""
    if all(re.fullmatch("-?[0-9]+", str(label)) for label in labels.values()):
        return {name: int(label) for name, label in labels.items()}
    return {name: str(label) for name, label in labels.items()}


def _on_strays(strays: Sequence[str], where: str) -> tuple[str, ...]:
    if not strays:
        return ()
    rows = "1 row names an image" if len(strays) == 1 else f"{len(strays):,} rows name images"
    return (f"{rows} that {where} does not lie beside, the first: {strays[0]}.",)


def _on_columns(columns: set[str], where: str) -> tuple[str, ...]:
    if columns & {*CAPTION_COLUMNS, LABEL_COLUMN}:
        return ()
    found = ", ".join(sorted(columns)) or "no rows"
    return (f"Nothing was taken from {where}: no text, caption or label among its {found}.",)


def _with_text_files(table: Written, container: Container, names: Sequence[str]) -> Written:
    """The captions of .txt files that are called as the images are."""
    there = set(container.names)
    captions, unread = {}, []
    for name in names:
        beside = splitext(name)[0] + ".txt"
        if beside not in there:
            continue
        try:
            captions[name] = _first_line(container.read(beside).decode("utf-8-sig"))
        except READ_ERRORS as error:
            unread.append((beside, reason(error)))
    captions = {name: text for name, text in captions.items() if text}
    return Written(captions, table.labels, table.where, tuple(unread), table.notes)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
