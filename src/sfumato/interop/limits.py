"""What a stranger's settings may be: sizes that fit a machine, names that stay in their folder."""

import re
from typing import Any

LARGEST = 1_000_000  # of whole numbers: channels, steps of a process
DEEPEST = {"depth": 200, "layers": 200, "num_layers": 200, "blocks": 32, "layers_per_block": 32}
LONGEST = 4_096  # values of a list: channels of latents
LEVELS = 16  # whole numbers of a list: a level of a network each
LONGEST_NAME = 200


def shown(value: Any) -> str:
    """A value in a message: short, and nothing that a terminal would obey."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_sizes(value: Any, where: str, most: int = LARGEST) -> None:
    """Raise ValueError for numbers so large that making anything of them would fill any memory.

    where: the field's dotted path; the last word of it says what is counted.
    """
    parts = value if isinstance(value, tuple | list) else (value,)
    counts = [part for part in parts if type(part) is int]
    longest = LEVELS if counts else LONGEST
    if len(parts) > longest:
        raise ValueError(f"{where} has {len(parts):,} values; {longest:,} are the most there are.")
    field = re.findall(r"\w+", where)[-1]
    most = DEEPEST.get(field, most)  # these are made one by one
    if any(abs(count) > most for count in counts):
        raise ValueError(f"{where} = {shown(value)}; {most:,} is the largest that is read.")


def is_float(number: int) -> bool:
    """Whether the whole number is within a float's range."""
    return abs(number) < 2**1023


def check_name(name: str, where: object) -> None:
    """Raise ValueError unless a folder of this name lies below the one that it is put into."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and ":" not in parts[0]
    if not plain or len(name) > LONGEST_NAME or name[:1] == "/" or {"", ".", ".."} & set(parts):
        raise ValueError(
            f"{where}: name = {shown(name)}; it becomes a folder's name: letters, digits and -, "
            f"{LONGEST_NAME} at most."
        )


def like(value: Any, default: Any, where: str) -> Any:
    """A value out of JSON as what the default is: lists become tuples, whole numbers floats.

    Raises: ValueError where it is something else, or beyond all use.
    """
    check_sizes(value, where)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(like(part, default[0], where) for part in value)
    if isinstance(default, float) and type(value) is int and is_float(value):
        return float(value)
    if type(value) is not type(default):
        raise ValueError(f"{where} = {shown(value)}; {type(default).__name__} is wanted.")
    return value


def floats_of(value: Any, where: str) -> tuple[float, ...]:
    """A list of numbers out of JSON. Raises: ValueError where it is none."""
    found: tuple[float, ...] = like(value, (0.0,), where)
    return found
