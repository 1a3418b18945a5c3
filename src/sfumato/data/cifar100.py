"""CIFAR-100 in its own two forms, with the 100 fine classes.

    binary: train.bin, test.bin: a byte of coarse label, one of fine label, 3 x 32 x 32 bytes
    python: train, test: {b"data": (n, 3072) uint8, b"fine_labels": [...], ...}, pickled

Pickles are read without unpickling, as CIFAR-10's are. The names of the classes come from
fine_label_names.txt or the pickle meta. Krizhevsky (2009), as CIFAR-10.
"""

from pathlib import PurePosixPath
from posixpath import basename
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.arrays import Arrays
from sfumato.data.cifar import restricted_load
from sfumato.data.containers import Container
from sfumato.data.images import Pixels

CLASSES = 100
_PIXELS = 3 * 32 * 32
_BESIDE = {"fine_label_names.txt": ".bin", "meta": ""}  # the names' file: the images' suffix


def present(container: Container) -> bool:
    """Whether there is a file of class names with a train or test file beside it."""
    return _form(container) is not None


def read(container: Container, split: str) -> Arrays:
    """All images of one split ("train" or "test"), in the order of the file."""
    form = _form(container)
    assert form is not None  # `present` was asked before
    names_file, suffix = form
    name = str(PurePosixPath(names_file).with_name(f"{split}{suffix}"))
    if name not in container.names:
        raise ValueError(f"{container.where} has no {name} beside {names_file}.")
    what = f"{name} in {container.where}"
    images, labels = (_binary if suffix else _pickled)(container.read(name), what)
    if len(labels) != len(images) or not 0 <= labels.min() <= labels.max() < CLASSES:
        raise ValueError(
            f"{what} should hold {len(images):,} fine labels from 0 to {CLASSES - 1}; it has "
            f"{len(labels):,}, or others: it is damaged."
        )
    return Arrays(images, labels, _class_names(container, names_file), "cifar100")


def _form(container: Container) -> tuple[str, str] | None:
    """(the file of class names, the suffix of the files of images)."""
    there = set(container.names)
    for name in container.names:
        suffix = _BESIDE.get(basename(name))
        if suffix is None:
            continue
        path = PurePosixPath(name)
        if {str(path.with_name(split + suffix)) for split in ("train", "test")} & there:
            return name, suffix
    return None


def _binary(contents: bytes, what: str) -> tuple[Pixels, NDArray[np.int64]]:
    if not contents or len(contents) % (2 + _PIXELS):
        raise ValueError(
            f"{what} has {len(contents):,} bytes, no multiple of {2 + _PIXELS} (two labels and "
            "3 x 32 x 32 pixels): it is damaged, or not CIFAR-100's."
        )
    rows = np.frombuffer(contents, np.uint8).reshape(-1, 2 + _PIXELS)
    return rows[:, 2:].reshape(-1, 3, 32, 32).copy(), rows[:, 1].astype(np.int64)


def _pickled(contents: bytes, what: str) -> tuple[Pixels, NDArray[np.int64]]:
    table = _by_word(restricted_load(contents, what), what)
    data, labels = table.get("data"), table.get("fine_labels")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise ValueError(f"{what} has no data of shape (n, {_PIXELS}); it has: {_keys(table)}.")
    if not isinstance(labels, list) or not all(type(k) is int for k in labels) or not labels:
        raise ValueError(f"{what} has no fine_labels that are a list; it has: {_keys(table)}.")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _class_names(container: Container, file: str) -> tuple[str, ...]:
    contents, what = container.read(file), f"{file} in {container.where}"
    if file.endswith(".txt"):
        lines = contents.decode("utf-8", "replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    else:
        found = _by_word(restricted_load(contents, what), what).get("fine_label_names")
        names = [_word(name) for name in found] if isinstance(found, list) else []
    if len(names) != CLASSES:
        raise ValueError(f"{what} has {len(names)} names of fine classes; CIFAR-100 has {CLASSES}.")
    return tuple(names)


def _by_word(table: Any, what: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ValueError(f"{what} holds a {type(table).__name__}: CIFAR-100's hold a dict.")
    return {_word(key): value for key, value in table.items()}


def _word(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _keys(table: dict[str, Any]) -> str:
    return ", ".join(sorted(table)) or "nothing"
