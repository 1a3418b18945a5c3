"""JSON and safetensors out of bytes that anybody may have written, checked before they are used.

    JSON           a size, a depth, no NaN, no key twice; an object
    safetensors    u64 length, a JSON header, numbers: dtypes that torch has, shapes whose products
                   are the bytes claimed, offsets that fill the file without gap or overlap

Both formats hold values and no programs: what is left to fear is size, and what they leave open.
The limits are far above what any real file has.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from .limits import check_sizes, shown

MAX_JSON = 64_000_000  # bytes; the captions of a large data set
MAX_HEADER = 16_000_000  # bytes; 50,000 tensors take about 5 million
MAX_TENSORS = 50_000  # a large U-Net has 2,000
COLONS = 5 * MAX_TENSORS  # a tensor's entry has 4; what is read takes 15 times its text in memory
MAX_DEPTH = 40  # lists and objects within one another; a run.json has 6
ITEMSIZES = {  # the dtypes that torch has, by safetensors' names
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "C64": 8, "BOOL": 1},
    **{"F8_E4M3": 1, "F8_E4M3FNUZ": 1, "F8_E5M2": 1, "F8_E5M2FNUZ": 1},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1},
}
MAKE_ANEW = "it is damaged or not what its name says; copy it again from where it was made"


def json_of(content: bytes, where: object, most: int = MAX_JSON) -> dict[str, Any]:
    """The object that a JSON text holds.

    where: the file, for messages. most: bytes.

    Raises: ValueError, naming the file, for anything else; for NaN, a key that stands twice, or
    lists within lists beyond MAX_DEPTH.
    """
    if len(content) > most:
        raise ValueError(f"{where} has {len(content):,} bytes; {most:,} are the most that is read.")
    try:
        found = json.loads(
            content.decode("utf-8"), object_pairs_hook=_once_each, parse_constant=_infinity
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON that can be read ({error}): {MAKE_ANEW}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} holds a {type(found).__name__}; a JSON object is wanted.")
    _check_depth(found, where)
    return found


def read_settings(path: Path) -> dict[str, Any]:
    """The object in another program's JSON file.

    Raises: ValueError, naming the file, where it holds none, or sizes beyond all use.
    """
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path} has over {MAX_JSON:,} bytes, which no file of settings has.")
    found = json_of(path.read_bytes(), path)
    for name, value in found.items():
        check_sizes(value, f"{path}: {shown(name)}")
    return found


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Within the block foreign settings and tensors are used as what they should be.

    Raises: ValueError, naming the file, for what comes of it where they are something else.
    """
    try:
        yield
    except (TypeError, ArithmeticError, RuntimeError, LookupError, AttributeError) as error:
        told = f"{type(error).__name__}: {shown(str(error))}"
        raise ValueError(
            f"{path} holds settings or tensors that are not what their names say ({told}): bring "
            "the file again from where it was made."
        ) from error
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"the key {twice[:80]!r} stands there twice")
    return found


def _infinity(word: str) -> float:
    """What Python's own writer makes of infinity, as some of diffusers' files have it."""
    if word == "NaN":
        raise ValueError("NaN is no number")
    return float(word)


def _check_depth(found: dict[str, Any], where: object) -> None:
    inside: list[Any] = [found]
    for _ in range(MAX_DEPTH):
        parts = [item.values() if isinstance(item, dict) else item for item in inside]
        inside = [v for part in parts for v in part if isinstance(v, dict | list)]
        if not inside:
            return
    raise ValueError(f"{where} nests deeper than {MAX_DEPTH} levels: {MAKE_ANEW}.")


def tensors_of(content: bytes, where: object) -> dict[str, Tensor]:
    """The tensors of a safetensors file's bytes, on the CPU.

    Raises: ValueError, naming the file, where it is none or claims what it does not hold.
    """
    check_safetensors(content[: 8 + MAX_HEADER], len(content), where)
    try:
        return load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that came after its version
        raise ValueError(f"{where}: {error}: {MAKE_ANEW}.") from error


def check_safetensors(begin: bytes, size: int, where: object) -> None:
    """Raise ValueError, naming the file, unless the header describes exactly the bytes there are.

    begin: the file's first 8 + MAX_HEADER bytes, or all of it; size: the whole file's.
    """
    if size < 10 or begin[8:9] != b"{":
        raise ValueError(
            f"{where} begins with {begin[:12]!r}: it is no safetensors file, which alone is read "
            f"here; {MAKE_ANEW}."
        )
    (length,) = struct.unpack("<Q", begin[:8])
    if length > min(MAX_HEADER, size - 8):
        raise ValueError(
            f"{where} claims a header of {length:,} bytes; it has {size:,} in all, and "
            f"{MAX_HEADER:,} are the most that is read: {MAKE_ANEW}."
        )
    if begin.count(b":", 8, 8 + length) > COLONS:
        raise ValueError(f"{where} has more than {MAX_TENSORS:,} tensors, the most that are read.")
    header = json_of(begin[8 : 8 + length], f"{where}: its header")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    try:
        _check_entries(entries, size - 8 - length)
    except ValueError as error:
        raise ValueError(f"{where}: {error}: {MAKE_ANEW}.") from error


def _check_entries(entries: Mapping[str, Any], room: int) -> None:
    """Raise ValueError unless the tensors follow one another and fill the room, in bytes."""
    end = 0
    for begin, stop, name in sorted(_span(name, entry) for name, entry in entries.items()):
        if begin != end:
            raise ValueError(
                f"tensor {name!r} begins at byte {begin:,}, the one before ends {end:,}"
            )
        end = stop
    if end != room:
        raise ValueError(f"its tensors claim {end:,} bytes, of {room:,} that are there")


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    """(first byte, byte after the last, name) of a tensor whose shape takes just that."""
    if not name.isprintable() or len(name) > 1_000:
        raise ValueError(f"{name[:80]!r} is no name of a tensor")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} is not described by dtype, shape and data_offsets alone")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEMSIZES:
        raise ValueError(f"tensor {name!r} has the dtype {str(dtype)[:40]!r}, which is not read")
    if not (_counts(shape) and len(shape) <= 64 and _counts(offsets) and len(offsets) == 2):
        raise ValueError(f"tensor {name!r} has a shape or offsets that are no whole numbers from 0")
    begin, stop = offsets
    if prod(shape) * ITEMSIZES[dtype] != stop - begin:
        few = list(islice(shape, 8))
        raise ValueError(f"tensor {name!r} of {few} {dtype} claims {stop - begin:,} bytes")
    return begin, stop, name


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 2**63 for n in values)


def check_format(described: Mapping[str, Any], newest: int, where: object) -> None:
    """Raise ValueError, naming the file, where its format is of a newer sfumato, or none at all."""
    number = described.get("format")
    if type(number) is not int or number < 1:
        raise ValueError(f"{where}: format = {shown(number)}; a whole number from 1 is wanted.")
    if number > newest:
        raise ValueError(
            f"{where} has format {number}, this sfumato reads up to {newest}: update sfumato."
        )
