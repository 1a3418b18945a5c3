"""What is typed after a flag: times, lists of seeds and numbers, and plain words on wrong ones.

Nothing here imports torch.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from math import inf
from typing import Any, Literal, get_args, get_origin


class UsageError(Exception):
    """What was typed can't be understood; the message says what to type."""


def seconds(text: str) -> float:
    """90, 90s, 20m, 1.5h, 2d or 1h30m as seconds. Raises UsageError for anything else."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
        return sum(float(number) * units[unit] for number, unit in parts)
    raise UsageError(f"{text!r} is no time; write 90s, 20m, 1h30m or 2d.")


def numbers(text: str) -> list[int]:
    """ "0-3,7" as [0, 1, 2, 3, 7]. Raises UsageError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise UsageError(f"{text!r} is no list of seeds; write 0-63 or 1,2,5-9.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


GRID_NAMES = ("karras", "uniform", "leading", "trailing", "linspace")


def check_grid(text: str) -> None:
    """Raise UsageError unless the text begins with the name of a grid; named.py reads the rest."""
    name = text.partition(":")[0]
    if name not in GRID_NAMES:
        close = get_close_matches(name, GRID_NAMES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(GRID_NAMES)}."
        raise UsageError(f"--grid {text}: there is no grid {name!r}; {hint}")


def check_values(words: Sequence[str], kinds: Mapping[str, Any]) -> None:
    """Raise UsageError where a flag for a number, or for one of some words, gets another.

    kinds: the type of each flag, by its name with underscores. What follows no flag, or is missing,
    is left to the parser.
    """
    apart = [part for word in words for part in (word.split("=", 1) if _is_flag(word) else [word])]
    for flag, value in pairwise(apart):
        kind = kinds.get(flag.lstrip("-").replace("-", "_")) if _is_flag(flag) else None
        if _is_flag(value) or kind is None:
            continue
        if kind is int or int in get_args(kind):
            _check(flag, value, int, "a whole number, as 1000")
        elif kind is float or float in get_args(kind):
            _check(flag, value, float, "a number, as 0.5")
        elif (names := choices(kind)) and value not in (*names, "None"):
            close = get_close_matches(value, names, n=1)
            hint = f"did you mean {close[0]}? There is" if close else "there is"
            raise UsageError(f"{flag} {value}: {hint} {', '.join(names)}.")


def choices(kind: Any) -> list[str]:
    """The words that a Literal, or None beside one, leaves the choice of."""
    return [
        word
        for one in (kind, *get_args(kind))
        if get_origin(one) is Literal
        for word in get_args(one)
    ]


def _is_flag(word: str) -> bool:
    return word.startswith("--")


def _check(flag: str, value: str, kind: type[int] | type[float], wanted: str) -> None:
    try:
        kind(value)
    except ValueError as error:
        raise UsageError(f"{flag} {value}: {wanted}, is wanted.") from error


def guidance_words(scale: float, low: float, high: float) -> str:
    """As "guidance 2 from 0.3 to 4": the ends of its interval of noise where it has such."""
    ends = [f" from {low:g}"] if low else []
    return "".join([f"guidance {scale:g}", *ends, *([f" to {high:g}"] if high < inf else [])])


def guidance_flags(scale: float, low: float, high: float) -> str:
    """The flags that ask for the same."""
    words = guidance_words(scale, low, high).replace(" from", " --guidance-from")
    return f"--{words.replace(' to', ' --guidance-to')}"
