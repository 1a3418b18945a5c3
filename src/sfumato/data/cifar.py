"""CIFAR-10 in its own two forms: binary records, and pickles that are read without unpickling.

    binary: one byte of label, then 3 x 32 x 32 bytes (R, G, B, row by row), 10,000 times
    python: {b"data": (10000, 3072) uint8, b"labels": [...]}, pickled by Python 2

A pickle is a program. This one's few words are understood here: containers, numbers, strings,
and the three names by which numpy pickles an array, which stand for recorders that only keep what
they are given. Any other name is refused before anything is made of it.

Krizhevsky (2009), "Learning multiple layers of features from tiny images".
"""

import pickle
import re
from io import BytesIO
from pathlib import PurePosixPath
from posixpath import basename
from typing import Any, NoReturn

import numpy as np

from sfumato.data.arrays import Arrays, index_labels
from sfumato.data.containers import Container
from sfumato.data.images import Pixels

CLASS_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_NAME = re.compile(r"(data_batch_[1-5]|test_batch)(\.bin)?")
_PIXELS = 3 * 32 * 32
_MAX_FILE = 128 * 2**20  # bytes; a true one has 31 million


def present(container: Container) -> bool:
    """Whether there is any file with one of CIFAR-10's names."""
    return any(_NAME.fullmatch(basename(name)) for name in container.names)


def read(container: Container, split: str) -> Arrays:
    """All images of one split ("train" or "test"), in the order of the files."""
    names = _find(container, split)
    parts = [_read_file(name, container) for name in names]
    images = np.concatenate([pixels for pixels, _ in parts])
    labels, _ = index_labels(
        np.concatenate([numbers for _, numbers in parts]), len(images), container.where
    )
    if len(labels) and labels.max() > 9:
        raise ValueError(f"{container.where} has a label {labels.max()}; CIFAR-10's are 0 to 9.")
    notes: tuple[str, ...] = ()
    if split == "train" and len(names) < 5:
        notes = (f"Only {len(names)} of CIFAR-10's 5 training files are there.",)
    return Arrays(images, labels, CLASS_NAMES, "cifar10", notes)


def _find(container: Container, split: str) -> list[str]:
    start = "data" if split == "train" else "test"
    found: dict[tuple[str, str], list[str]] = {}  # by folder and form
    for name in container.names:
        match = _NAME.fullmatch(PurePosixPath(name).name)
        if match and match[1].startswith(start):
            found.setdefault((str(PurePosixPath(name).parent), match[2] or ""), []).append(name)
    if len(found) != 1:
        where = ", ".join(f"{folder}/*{form}" for folder, form in sorted(found)) or "none"
        raise ValueError(
            f"{container.where} should hold one set of CIFAR-10's files of the {split} split "
            f"({start}_batch...), and holds: {where}."
        )
    return next(iter(found.values()))


def _read_file(name: str, container: Container) -> tuple[Pixels, Pixels]:
    """(n, 3, 32, 32) pixels and (n,) labels."""
    contents, what = container.read(name), f"{name} in {container.where}"
    if len(contents) > _MAX_FILE:
        raise ValueError(f"{what} has {len(contents):,} bytes; a file of CIFAR-10 has 31 million.")
    return (_read_binary if name.endswith(".bin") else _read_pickle)(contents, what)


def _read_binary(contents: bytes, what: str) -> tuple[Pixels, Pixels]:
    if not contents or len(contents) % (1 + _PIXELS):
        raise ValueError(
            f"{what} has {len(contents):,} bytes, no multiple of {1 + _PIXELS} (a label and "
            "3 x 32 x 32 pixels): it is damaged, or not CIFAR-10's."
        )
    rows = np.frombuffer(contents, np.uint8).reshape(-1, 1 + _PIXELS)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


def _read_pickle(contents: bytes, what: str) -> tuple[Pixels, Pixels]:
    table = restricted_load(contents, what)
    if not isinstance(table, dict):
        raise ValueError(f"{what} holds a {type(table).__name__}: CIFAR-10's hold a dict.")
    table = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in table.items()}
    data, labels = table.get("data"), table.get("labels")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
        found = ", ".join(sorted(map(str, table)))
        raise ValueError(f"{what} has no data of shape (n, {_PIXELS}); it has: {found}.")
    if not isinstance(labels, list) or not all(type(k) is int and 0 <= k < 256 for k in labels):
        raise ValueError(f"{what} has no labels that are a list of class numbers.")
    if len(labels) != len(data):
        raise ValueError(f"{what} has {len(data):,} images and {len(labels):,} labels.")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.uint8)


def restricted_load(contents: bytes, what: str) -> Any:
    """The plain containers and uint8 arrays of a pickle; nothing that it names is called.

    Raises ValueError, with the name, for any class or function but numpy's array and dtype.
    """
    try:
        return _settled(_Unpickler(BytesIO(contents), encoding="bytes").load())
    except _Refused as refused:
        raise ValueError(
            f"{what} asks for {refused}, which arrays and lists do not need: a pickle can run any "
            "program, so it was not read. Do not open it elsewhere either unless you trust it."
        ) from None
    except _PICKLE_ERRORS as error:
        raise ValueError(f"{what} is not a pickle of CIFAR-10's kind: {error}.") from error


_PICKLE_ERRORS = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError),
    *(AttributeError, OverflowError, MemoryError, RecursionError, ImportError),
)


class _Refused(Exception):
    """The name that a pickle asked for."""


class _Record:
    """Keeps what a pickle would have built an array or a dtype of."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Record):
    pass


class _DType(_Record):
    pass


def _reconstruct(*args: Any) -> _Array:
    return _Array(*args)


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the old protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"bytes written as {encoding!r}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """The one override that the standard library offers for this: no import, a table."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _Refused(f"{module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused(f"an object outside the file ({pid!r})")


def _settled(value: Any) -> Any:
    """The loaded dict with its recorded arrays made real."""
    if not isinstance(value, dict):
        return value
    return {k: _real_array(v) if isinstance(v, _Array) else v for k, v in value.items()}


def _real_array(record: _Array) -> Pixels:
    """numpy's state is (version, shape, dtype, Fortran order, bytes)."""
    _, shape, dtype, fortran, raw = record.state
    if not isinstance(dtype, _DType) or dtype.args[0] not in ("u1", b"u1"):
        raise ValueError("an array that is not uint8")
    if not isinstance(raw, bytes):
        raise ValueError("an array without its bytes")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C").copy()
