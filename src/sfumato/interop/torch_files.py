"""Tensors out of files that anybody may have written, without running anything that is in them.

    safetensors                             header checked by reading, then read by its own library
    .pt, .pth, .bin, .ckpt of torch.save    a pickle, which is a program: looked through by
                                            torch_pickles, then torch.load(weights_only=True)

What a file is follows from its first bytes, not from its name. A file is refused, with the reason,
where its pickle names anything but what a dict of tensors needs, where a tensor claims more numbers
than the file holds, and where a zip archive is compressed or ambiguous: those of torch never are.
"""

import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .reading import MAX_HEADER, check_safetensors
from .torch_pickles import Claims, Refused, look_through

Value: TypeAlias = "Tensor | bool | int | float | str | list[Value] | Tree | None"
Tree: TypeAlias = "dict[str | int, Value]"

ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
MAX_PICKLE = 64_000_000  # bytes; a dict of 100,000 tensors takes about 20 MB
MAX_DEPTH, MAX_VALUES = 32, 1_000_000
LEGACY_PICKLES = 5  # magic number, protocol, machine, the object, the order of the storages

READ_ERRORS = (  # what torch.load raises on damaged files, beside OSError
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    UnicodeDecodeError,
    pickle.UnpicklingError,
)


def read_tensors(path: Path) -> Tree:
    """What a safetensors file or one of torch.save holds: dicts, lists, numbers, text, tensors.

    Tensors are on the CPU, in the file's own precision, and require no gradient.

    Raises: ValueError where the file is of another kind, damaged, or asks for anything beyond
    tensors and plain values. OSError where it can't be read.
    """
    with path.open("rb") as file:
        begin = file.read(64)
    try:
        if begin.startswith(ZIP):
            _check_zip(path)
        elif begin.startswith(LEGACY):
            _check_legacy(path)
        elif begin[8:9] == b"{":
            return _safetensors(path)
        else:
            raise Refused(_unknown(begin))
        return _loaded(path)
    except (Refused, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error


def _safetensors(path: Path) -> Tree:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        check_safetensors(file.read(8 + min(length, MAX_HEADER)), path.stat().st_size, path)
    tensors: Tree = {}
    tensors.update(load_file(path))
    return tensors


def _unknown(begin: bytes) -> str:
    if begin.startswith(b"version https://git-lfs"):
        return "this is the pointer that Git LFS left in the file's place; run `git lfs pull`."
    return (
        f"it begins with {begin[:8]!r}: neither a safetensors file nor one of torch.save "
        "(.pt, .pth, .bin, .ckpt)."
    )


def _loaded(path: Path) -> Tree:
    try:
        with path.open("rb") as file:  # given a name, torch.load believes its suffix
            tree = torch.load(file, weights_only=True, map_location="cpu")
    except READ_ERRORS as error:
        raise Refused(f"damaged, or no file of torch.save: {_first_line(error)}") from error
    budget = iter(range(MAX_VALUES))
    plain = _plain(tree, MAX_DEPTH, budget)
    if not isinstance(plain, dict):
        raise Refused(f"it holds a {type(tree).__name__}, where a dict of tensors is wanted.")
    return plain


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        return "torch.load refuses its pickle."  # its own text advises to load it anyway
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _plain(value: object, depth: int, budget: Iterator[int]) -> Value:
    """The value rebuilt of dicts, lists and scalars; shared parts are counted each time."""
    if not depth or next(budget, None) is None:
        raise Refused(
            f"its values nest deeper than {MAX_DEPTH} or are more than {MAX_VALUES:,}: no weights."
        )
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int):
                raise Refused(f"a dict in it has the key {key!r}: text or a whole number is wanted")
        return {key: _plain(item, depth - 1, budget) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1, budget) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise Refused(f"it holds a {type(value).__name__}, which is neither a tensor nor plain.")


# The two containers


def _check_zip(path: Path) -> None:
    """Refuse unless torch.save may have written the archive, and its pickle is harmless."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            folder = _check_entries(entries, path.stat().st_size)
            sizes = {entry.filename: entry.file_size for entry in entries}
            name = f"{folder}/data.pkl"
            if sizes.get(name, MAX_PICKLE + 1) > MAX_PICKLE:
                raise Refused(f"no {name} of at most {MAX_PICKLE:,} bytes in this zip archive.")
            with archive.open(name) as file:
                claims = look_through(file.read())
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        raise Refused(f"damaged: {error}") from error
    for key, size in claims.storages.items():
        here = sizes.get(f"{folder}/data/{key}")
        if here is None or here < size:
            raise Refused(f"a tensor claims {size:,} bytes where the file holds {here or 0:,}.")


def _check_entries(entries: list[zipfile.ZipInfo], file_size: int) -> str:
    """The one folder that all is in."""
    # torch's own reader takes names without regard to case, and the first of equal ones
    names = [entry.filename.lower() for entry in entries]
    folders = {entry.filename.partition("/")[0] for entry in entries}
    if len(set(names)) < len(names) or len(folders) != 1:
        raise Refused("its entries share names or lie in several folders; torch.save's do not.")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Refused(
            "it is compressed, which torch.save's files are not: it could unpack to any size."
        )
    if sum(entry.file_size for entry in entries) > file_size:
        raise Refused("its entries claim more bytes than the file has.")
    folder = folders.pop()
    if f"{folder}/constants.pkl".lower() in names:
        raise Refused(
            "this is a TorchScript program. In the program that made it: "
            "torch.save(model.state_dict(), PATH)."
        )
    return folder


def _check_legacy(path: Path) -> None:
    """The same for the format of PyTorch before 1.6: pickles one after the other, then numbers."""
    if tarfile.is_tarfile(path):
        raise Refused("it is a tar archive at the same time.")
    size = path.stat().st_size
    with path.open("rb") as file:
        pickles = _first_pickles(file, min(size, MAX_PICKLE))
    needed = sum(sum(claims.storages.values()) for claims in pickles)
    if needed > size:
        raise Refused(f"its tensors claim {needed:,} bytes; the whole file has {size:,}.")


def _first_pickles(file: IO[bytes], most: int) -> list[Claims]:
    """What each of the leading pickles claims."""
    content, found, start = file.read(most), [], 0
    for _ in range(LEGACY_PICKLES):
        claims = look_through(content[start:])
        found.append(claims)
        start += claims.length
    return found
