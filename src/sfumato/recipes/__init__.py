"""Recipes: functions that return a Run. `sfumato train NAME` runs one, or FILE.py:FUNCTION."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from ..config import Run, near
from .digits import digits, digits_ddpm, digits_flow
from .own_images import own_images

RECIPES: dict[str, Callable[[], Run]] = {
    "digits": digits,
    "digits_ddpm": digits_ddpm,
    "digits_flow": digits_flow,
}

__all__ = ["RECIPES", "own_images", "recipe_at"]


def recipe_at(name: str) -> Callable[[], Run] | None:
    """The recipe of this name, or in a file of the user's, FILE.py:FUNCTION; None if it is neither.

    Raises: ValueError where the file has no such function.
    """
    if name in RECIPES:
        return RECIPES[name]
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        return None
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file!r} to take the recipe {function!r} from.")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        there = [key for key, value in vars(module).items() if callable(value)]
        raise ValueError(f"{file} has no function {function!r}; {near(function, there)}")
    return found
