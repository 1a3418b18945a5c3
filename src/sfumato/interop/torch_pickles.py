"""What the pickle inside a file of torch.save asks for, found out without doing any of it.

A pickle is a program for a small machine that may name any class and call it. Two passes:

    1  its instructions are listed, as pickletools does it, and every name compared to NAMES
    2  it is run with stand-ins for those few names, which only note the sizes that are claimed

torch.load(weights_only=True) is a gate of its own, and comes after; but its list of names is longer
than a dict of tensors needs (bytearray(10**12) is on it), and it believes what a tensor says of its
own size.
"""

import io
import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

STORAGES = {
    f"torch.{name}": itemsize
    for name, itemsize in {
        **{"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2},
        **{"LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1},
        **{"ByteStorage": 1, "BoolStorage": 1},
    }.items()
}
DICT, SIZE = "collections.OrderedDict", "torch.Size"
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
OLD_TENSOR = "torch._utils._rebuild_tensor"
NAMES = {DICT, SIZE, TENSOR, OLD_TENSOR, PARAMETER, *STORAGES}

# Those of protocol 2 that torch.save writes and torch.load(weights_only=True) reads.
OPCODES = {
    *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
    *("LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1"),
    *("TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID", "BINGET", "LONG_BINGET", "BINPUT"),
    "LONG_BINPUT",
}
SAVE_AGAIN = (
    "If you trust the file, save the weights alone with the program that made it, "
    "safetensors.torch.save_file(model.state_dict(), PATH), and import that."
)


class Refused(Exception):
    """Why a file is not read: a whole sentence."""


@dataclass
class Claims:
    """The bytes of each storage that a pickle claims, by its key; and the pickle's own length."""

    length: int
    storages: dict[str, int] = field(default_factory=dict)


def look_through(content: bytes) -> Claims:
    """What the pickle at the beginning of `content` claims.

    Raises: Refused where it names anything but NAMES, or is damaged.
    """
    claims = Claims(length=_list_instructions(content))
    try:
        _Run(content[: claims.length], claims).load()
    except Refused:
        raise
    except Exception as error:  # a broken program breaks in any way it likes
        raise Refused(f"its pickle is damaged: {error or type(error).__name__}.") from error
    return claims


def _list_instructions(content: bytes) -> int:
    """The pickle's length in bytes; refuses, by name, what is no part of a dict of tensors."""
    count, end, texts, odd = 0, 0, [""], ""
    try:
        for opcode, argument, at in pickletools.genops(content):
            count, end = count + 1, (at or 0) + 1
            if opcode.name in ("GLOBAL", "INST"):
                _check_name(str(argument).replace(" ", ".", 1))
            elif opcode.name == "STACK_GLOBAL":
                _check_name(".".join(texts[-2:]))
            elif "PUT" in opcode.name and isinstance(argument, int) and argument > count:
                raise Refused("its pickle asks for memory that it has no use for.")
            if opcode.name not in OPCODES:
                odd = odd or opcode.name
            if isinstance(argument, str):
                texts.append(argument)
    except (ValueError, struct.error, IndexError) as error:
        raise Refused(f"its pickle is damaged or cut short: {error}.") from error
    if odd:
        raise Refused(f"its pickle uses {odd}, which torch.save's do not. {SAVE_AGAIN}")
    return end


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise Refused(
            f"its pickle asks for {name}, which no dict of tensors needs; loading it could run "
            f"anything. {SAVE_AGAIN}"
        )


# The run with stand-ins


def _sealed(self: object, state: object) -> None:
    raise Refused(f"its pickle changes what it has made. {SAVE_AGAIN}")


@dataclass(frozen=True)
class _Kind:
    """Stands in for a class of storages: how many bytes a number takes."""

    itemsize: int
    __setstate__ = _sealed


@dataclass(frozen=True)
class _Storage:
    """Stands in for a storage of so many numbers."""

    numel: int
    __setstate__ = _sealed


@dataclass(frozen=True)
class _Call:
    """Stands in for a function."""

    function: Callable[..., object]
    __setstate__ = _sealed

    def __call__(self, *arguments: object) -> object:
        return self.function(*arguments)


class _Run(pickle.Unpickler):
    """Runs a pickle whose names have been checked; the class that pickle wants for that."""

    def __init__(self, content: bytes, claims: Claims) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.claims = claims

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        _check_name(full)
        if full in STORAGES:
            return _Kind(STORAGES[full])
        found = {DICT: OrderedDict, SIZE: tuple, PARAMETER: _Call(_parameter)}
        return found.get(full, _Call(_tensor))

    def persistent_load(self, pid: Any) -> _Storage:
        """pid: ("storage", class, key, device, numbers), and None in the older format."""
        _, kind, key, _, numel, *view = pid
        if view not in ([], [None]) or type(numel) is not int or numel < 0:
            raise Refused(f"a storage claims {numel!r} numbers.")
        size = numel * kind.itemsize
        if self.claims.storages.setdefault(str(key), size) != size:
            raise Refused("two of its tensors disagree on the size of the storage that they share.")
        return _Storage(numel)


def _parameter(data: object, *rest: object) -> object:
    return data


def _tensor(
    storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *rest: object
) -> None:
    """Refuse a tensor that reaches beyond its storage or repeats it to any size."""
    numbers = [offset, *size, *stride]
    if any(type(n) is not int or n < 0 for n in numbers) or len(size) != len(stride):
        raise Refused(f"a tensor claims the size {size!r} with strides {stride!r}.")
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1
    count = prod(size)
    if count and (reach > storage.numel or count > storage.numel):
        raise Refused(
            f"a tensor of {tuple(size)} claims more than the {storage.numel:,} numbers it has."
        )
