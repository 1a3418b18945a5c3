"""Parquet tables of encoded images, in the layout of Hugging Face's data sets.

    image    struct {bytes, path}, or plain binary: an encoded file a row
    label    integers, with their names in the schema's metadata; or words
    text     or caption: strings

One table or a folder of shards, of which those named after the split are read. Rows become the
files of a Container, read a row group at a time, so that a table may be larger than memory.
Needs pyarrow, an extra: 170 MB that most users never need.
"""

import json
import os
import re
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from posixpath import splitext
from typing import Any

import numpy as np

from sfumato.data.arrays import index_labels
from sfumato.data.captions import CAPTION_COLUMNS, gap_note
from sfumato.data.containers import Container
from sfumato.data.images import SUFFIXES
from sfumato.data.trees import TEST, TRAIN, Listing, take

SUFFIX = ".parquet"
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_IN_FLIGHT = 32  # rows that one thread asks for in one go: decoding's chunk


def present(container: Container) -> bool:
    """Whether there are tables and no image files."""
    suffixes = {splitext(name)[1].lower() for name in container.names}
    return SUFFIX in suffixes and not suffixes & set(SUFFIXES)


@contextmanager
def open_tables(path: Path, split: str, labels: bool) -> Iterator[tuple[Container, Listing]]:
    """(the rows as files, which of them and of what class) of the table or folder at `path`.

    Raises ValueError where pyarrow is not installed, and for tables without images.
    """
    names, notes = _shards(path, split)
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(path / name if name else path)) for name in names]
        whats = [str(path / name if name else path) for name in names]
        layouts = [_layout(file.schema_arrow, what) for file, what in zip(files, whats)]
        odd = next((what for what, own in zip(whats, layouts) if own != layouts[0]), None)
        if odd is not None:
            raise ValueError(f"{odd} has other columns or classes than {whats[0]}: part them.")
        prefixes = [name or path.name for name in names]
        container = _rows_as_files(str(path), prefixes, files, layouts[0].image)
        listing = _captioned(Listing(container.names, notes=notes), files, layouts[0])
        yield container, _labelled(listing, files, layouts[0], str(path)) if labels else listing


def _opened(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"{path} is a Parquet table, which takes pyarrow to read: pip install "
            '"sfumato[parquet]".'
        ) from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
        raise ValueError(f"{path} is no Parquet table, or damaged: {error}") from error


# --- which tables -------------------------------------------------------------------------------


def _shards(path: Path, split: str) -> tuple[list[str], tuple[str, ...]]:
    """Names below `path` ("" for `path` itself) of one split's tables, and what was left."""
    if path.is_file():
        if split != "train":
            raise ValueError(f"{path} is one table, with no {split} split: give its own file.")
        return [""], ()
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob(f"*{SUFFIX}") if p.is_file())
    named = {name: _split_word(name) for name in names if "/." not in f"/{name}"}
    there = {word for word in named.values() if word}
    if not there & set(TRAIN) and split == "train":
        return list(named), ()
    words = {"train": TRAIN, "test": TEST}.get(split, ())
    wanted = next((word for word in words if word in there), None)
    if wanted is None:
        raise ValueError(f"{path} has no tables with {split} in their names, so no such split.")
    left = ", ".join(sorted(there - {wanted}))
    notes = (f"Of its tables only {wanted} was read, not {left}.",) if left else ()
    return [name for name, word in named.items() if word == wanted], notes


def _split_word(name: str) -> str | None:
    """train, test or another word for a split in a path, set off by what is no letter."""
    words = re.split("[^a-z]+", name.lower())
    return next((word for word in words if word in (*TRAIN, *TEST)), None)


# --- which columns ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    image: str
    label: str | None
    caption: str | None
    class_names: tuple[str, ...] | None


def _layout(schema: Any, what: str) -> _Layout:
    features = _features(schema)
    image = _first(_IMAGE_COLUMNS, [n for n in schema.names if _holds_images(schema, n)])
    if image is None:
        raise ValueError(
            f"{what} has no column of images called image (struct of bytes and path, or binary); "
            f"it has: {', '.join(map(str, schema)).replace(chr(10), ' ')}."
        )
    label = _first(_LABEL_COLUMNS, [n for n in schema.names if _type(features, n) == "ClassLabel"])
    if label is None:
        label = next((name for name in _LABEL_COLUMNS if name in schema.names), None)
    names = features.get(label, {}).get("names") if label else None
    texts = [n for n in schema.names if str(schema.field(n).type) in ("string", "large_string")]
    caption = next((name for name in CAPTION_COLUMNS if name in texts), None)
    return _Layout(image, label, caption, None if names is None else tuple(map(str, names)))


def _features(schema: Any) -> dict[str, Any]:
    """What Hugging Face's library notes of the columns; {} where it did not write the table."""
    noted = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(noted)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {k: v for k, v in features.items() if isinstance(v, dict)}


def _type(features: dict[str, Any], name: str) -> str | None:
    return features.get(name, {}).get("_type")


def _holds_images(schema: Any, name: str) -> bool:
    kind = str(schema.field(name).type)
    return kind in ("binary", "large_binary") or re.match("struct<.*bytes: ", kind) is not None


def _first(preferred: Sequence[str], found: Sequence[str]) -> str | None:
    """The first preferred name among those found; else the only one found."""
    named = next((name for name in preferred if name in found), None)
    return found[0] if named is None and len(found) == 1 else named


# --- rows ---------------------------------------------------------------------------------------


def _rows_as_files(
    where: str, prefixes: Sequence[str], files: Sequence[Any], column: str
) -> Container:
    """Each row as a file called TABLE/ROW."""
    by_name = dict(zip(prefixes, files, strict=True))
    starts = {name: _group_starts(file) for name, file in by_name.items()}
    rows = max(1, files[0].metadata.num_rows // max(1, files[0].num_row_groups))
    lock = threading.Lock()  # one thread reads a row group, the others wait for it

    @lru_cache(maxsize=2 + _IN_FLIGHT * (os.cpu_count() or 1) // rows)  # what threads are at
    def group(name: str, index: int) -> Any:
        return by_name[name].read_row_group(index, columns=[column]).column(0)

    def read(name: str) -> bytes:
        table, row = name.rsplit("/", 1)
        index = bisect_right(starts[table], int(row)) - 1
        with lock:
            cells = group(table, index)
        return _contents(cells[int(row) - starts[table][index]].as_py())

    names = tuple(f"{t}/{row:06}" for t, f in by_name.items() for row in range(f.metadata.num_rows))
    if not names:
        raise ValueError(f"{where} has no rows.")
    return Container(where, names, read)


def _group_starts(file: Any) -> list[int]:
    """The first row of each row group."""
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    return [0, *accumulate(sizes[:-1])]


def _contents(cell: Any) -> bytes:
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    if found is None:
        raise ValueError("its row has no bytes, at most the path of a file elsewhere")
    return bytes(found)


def _column(files: Sequence[Any], name: str) -> list[Any]:
    return [value for file in files for value in file.read(columns=[name]).column(0).to_pylist()]


def _captioned(listing: Listing, files: Sequence[Any], layout: _Layout) -> Listing:
    if layout.caption is None:
        return listing
    captions = tuple((text or "").strip() for text in _column(files, layout.caption))
    if not any(captions):
        return listing
    return replace(listing, captions=captions, notes=(*listing.notes, *gap_note(captions)))


def _labelled(listing: Listing, files: Sequence[Any], layout: _Layout, where: str) -> Listing:
    """Rows without a label (null, or -1 as in hidden test splits) are left out."""
    if layout.label is None:
        return listing
    found = _column(files, layout.label)
    known = [i for i, label in enumerate(found) if label not in (None, -1)]
    if not known:
        return replace(listing, notes=(*listing.notes, f"Its column {layout.label} is empty."))
    without = set(range(len(found))) - set(known)
    gaps = tuple((listing.names[i], f"its {layout.label} is empty") for i in sorted(without))
    what = f"{layout.label} in {where}"
    labels, class_names = index_labels([found[i] for i in known], len(known), what)
    if layout.class_names is not None:
        if labels.max() >= len(layout.class_names) or class_names[0] != "0":
            raise ValueError(f"{what} has labels beyond its {len(layout.class_names)} names.")
        class_names = layout.class_names
    kept = take(listing, np.array(known, dtype=np.int64))
    return replace(kept, labels=labels, class_names=class_names, skipped=gaps)
