"""Image files in folders: which of them, of what class and with what caption.

    dataset.json beside them (EDM's form: {"labels": [["00000/img.png", 6], ...]})  -> its labels
    else metadata.jsonl or metadata.csv with a column "label"                      -> its labels
    else every image in some sub-folder                                            -> a class each
    else                                                                           -> no labels

Captions: see `captions`.

Folders that all images share do not count, and folders named train and test (val, test1,
test_images, ...) choose the split. Classes are numbered in the sorted
order of their folders' names.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import PurePosixPath
from posixpath import basename, splitext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.arrays import index_labels
from sfumato.data.captions import Written, gap_note, in_order, read_written
from sfumato.data.containers import Container, Skipped, plain_name
from sfumato.data.images import SUFFIXES

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation", "eval")  # the first that is there
_WORDS = "|".join((*TRAIN, *TEST))
_WITHIN = "(?:images?|imgs?|pictures|photos|set|data|split)"
# Of a name in small letters: the word, a number (test1, val2017), what is in it (test_images)
_SPLIT = re.compile(rf"({_WORDS})[\W\d_]*{_WITHIN}?[\W\d_]*")
_LIKE_SPLIT = re.compile(rf"({_WORDS})(?![a-z]{{2}})")  # trainA, too

# What cameras, telephones and drawing programs write, and Pillow alone does not read
UNREAD = {".heic", ".heif", ".jxl", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"}


@dataclass(frozen=True)
class Listing:
    """The files to decode, in order, with their classes and captions."""

    names: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    skipped: Skipped = ()
    notes: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = None


def take(listing: Listing, indices: NDArray[np.int64]) -> Listing:
    """The files at `indices`, with their classes and captions."""
    return replace(
        listing,
        names=tuple(listing.names[i] for i in indices),
        labels=None if listing.labels is None else listing.labels[indices],
        captions=None if listing.captions is None else tuple(listing.captions[i] for i in indices),
    )


def list_images(container: Container, split: str, labels: bool = True) -> Listing:
    """The images of one split ("train" or "test"), sorted by name.

    Raises ValueError where there are none, or no such split.
    """
    images = tuple(n for n in container.names if splitext(n)[1].lower() in SUFFIXES)
    if not images:
        raise ValueError(_nothing_found(container))
    names, notes = _of_split(images, split, container.where)
    notes = (*notes, *_unread_note(container))
    written = read_written(container, names)
    captions = in_order(written, names)
    listing = Listing(
        names,
        skipped=(*container.skipped, *written.skipped),
        notes=(*notes, *written.notes, *gap_note(captions or ())),
        captions=captions,
    )
    return _labelled(listing, container, written) if labels else listing


def _unread_note(container: Container) -> tuple[str, ...]:
    """Of pictures in formats that are not read."""
    found = Counter(splitext(name)[1].lower() for name in container.names)
    there = [f"{count:,} {kind}" for kind, count in sorted(found.items()) if kind in UNREAD]
    if not there:
        return ()
    return (f"Not read: {', '.join(there)}. Save them as PNG or JPEG to have them too.",)


def _labelled(listing: Listing, container: Container, written: Written) -> Listing:
    found = min(
        (name for name in container.names if basename(name) == "dataset.json"),
        key=lambda name: name.count("/"),
        default=None,
    )
    if found is not None:
        return _by_json(listing, container, found)
    if written.labels:
        return _by_table(listing, written.labels, written.where)
    return _by_folder(listing)


def _parts(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The folders of each name, less those that all of them share."""
    folders = [tuple(name.split("/")[:-1]) for name in names]
    ends = zip(min(folders), max(folders), strict=False)  # what these two share, all do
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return [f[shared:] for f in folders]


def _of_split(
    names: tuple[str, ...], split: str, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    tops = [parts[0].lower() if parts else "" for parts in _parts(names)]
    there = sorted(set(tops))
    words = {top: found[1] for top in there if (found := _SPLIT.fullmatch(top))}
    if len(words) < len(there) or not _both(words.values()):
        if split == "test":
            raise ValueError(
                f"{where} has no folders named train and test, so no test split: give the folder "
                "of the test images itself, or hold some back with data.split."
            )
        return names, ()
    wanted = TEST if split == "test" else TRAIN
    chosen = next(top for word in wanted for top in there if words[top] == word)
    kept = tuple(name for name, top in zip(names, tops, strict=True) if top == chosen)
    return kept, (f"Of its folders {', '.join(there)} only {chosen} was read.",)


def _both(words: Collection[str]) -> bool:
    """Whether there is something to train on among them, and something to test on."""
    return any(word in TRAIN for word in words) and any(word in TEST for word in words)


def _splits_note(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Of classes that look like splits, and are none as other folders lie beside them."""
    words = {name: found[1] for name in class_names if (found := _LIKE_SPLIT.match(name.lower()))}
    if not _both(words.values()):
        return ()
    train = next(name for name, word in words.items() if word in TRAIN)
    return (
        f"Its folders {', '.join(words)} look like parts for training and testing, but are taken "
        f"for classes, {len(class_names)} in all: give the folder {train} alone to train on that.",
    )


def _by_folder(listing: Listing) -> Listing:
    parts = _parts(listing.names)
    outside = [name for name, p in zip(listing.names, parts, strict=True) if not p]
    if len(outside) == len(parts):
        return listing
    if outside:
        note = (
            f"No labels: {len(outside):,} images lie beside the folders, {outside[0]} for one. "
            "Move them into class folders, or away, to train by class."
        )
        return replace(listing, notes=(*listing.notes, note))
    class_names = tuple(sorted({p[0] for p in parts}))
    index = {name: k for k, name in enumerate(class_names)}
    labels = np.array([index[p[0]] for p in parts], dtype=np.int64)
    notes = (*listing.notes, *_splits_note(class_names))
    return replace(listing, labels=labels, class_names=class_names, notes=notes)


def _by_json(listing: Listing, container: Container, name: str) -> Listing:
    """Labels out of a dataset.json. Null says none: EDM's folders 00000, ... are no classes."""
    what = f"{name} in {container.where}"
    given = _pairs(container.read(name), what, PurePosixPath(name).parent)
    if given is None:
        return replace(
            listing, notes=(*listing.notes, "dataset.json says that there are no labels.")
        )
    if not any(name in given for name in listing.names):
        raise ValueError(f"{what} has no label for any image there. Correct or remove it.")
    return _by_table(listing, given, "dataset.json")


def _by_table(listing: Listing, given: Mapping[str, Any], what: str) -> Listing:
    """Labels by the images' names; images without one are left out."""
    known = [i for i, name in enumerate(listing.names) if name in given]
    unknown = tuple(
        (name, f"{what} has no label for it") for name in listing.names if name not in given
    )
    kept = take(listing, np.array(known, dtype=np.int64))
    labels, class_names = index_labels([given[name] for name in kept.names], len(known), what)
    skipped = (*listing.skipped, *unknown)
    return replace(kept, labels=labels, class_names=class_names, skipped=skipped)


def _pairs(contents: bytes, what: str, folder: PurePosixPath) -> dict[str, Any] | None:
    """Label by name; None where the labels are null."""
    try:
        pairs = json.loads(contents)["labels"]
        return None if pairs is None else {str(folder / plain_name(n)): k for n, k in pairs}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f'{what} is not in the form {{"labels": [["path.png", 0], ...]}} or '
            f'{{"labels": null}} ({type(error).__name__}: {error}). Correct or remove it.'
        ) from error


def _nothing_found(container: Container) -> str:
    kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in container.names)
    found = ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common(5)) or "nothing"
    return f"{container.where} holds no image; found: {found}."
