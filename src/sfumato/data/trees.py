"""Image files in folders: which of them, of what class and with what caption.

    dataset.json beside them (EDM's form: {"labels": [["00000/img.png", 6], ...]})  -> its labels
    else metadata.jsonl or metadata.csv with a column "label"                      -> its labels
    else every image in some sub-folder                                            -> a class each
    else                                                                           -> no labels

Captions: see `captions`.

Folders that all images share do not count, and folders named train and test (val, test1,
test_images, ...) choose the split; a part may lie in several (train_1, train_2). Classes are
numbered in the sorted order of their folders' names.
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
_LIKE_SPLIT = re.compile(rf"{_SPLIT.pattern}|({_WORDS})[\W\d_]*[ab]")  # trainA, too

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


Folders = list[tuple[str, ...]]  # of each image, from the uppermost


@dataclass(frozen=True)
class _Part:
    """The images of one split, and the folders of each that may say its class."""

    names: tuple[str, ...]
    folders: Folders
    notes: tuple[str, ...]


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
    part = _of_split(images, split, container.where)
    written = read_written(container, part.names)
    captions = in_order(written, part.names)
    notes = (*part.notes, *_unread_note(container), *written.notes, *gap_note(captions or ()))
    skipped = (*container.skipped, *written.skipped)
    listing = Listing(part.names, skipped=skipped, notes=notes, captions=captions)
    if labels:
        listing = _labelled(listing, part, container, written)
    return replace(listing, notes=(*listing.notes, *_splits_note(_folders(listing.names))))


def _unread_note(container: Container) -> tuple[str, ...]:
    """Of pictures in formats that are not read."""
    found = Counter(splitext(name)[1].lower() for name in container.names)
    there = [f"{count:,} {kind}" for kind, count in sorted(found.items()) if kind in UNREAD]
    if not there:
        return ()
    return (f"Not read: {', '.join(there)}. Save them as PNG or JPEG to have them too.",)


def _labelled(listing: Listing, part: _Part, container: Container, written: Written) -> Listing:
    found = min(
        (name for name in container.names if basename(name) == "dataset.json"),
        key=lambda name: name.count("/"),
        default=None,
    )
    if found is not None:
        return _by_json(listing, container, found)
    if written.labels:
        return _by_table(listing, written.labels, written.where)
    return _by_folder(listing, part.folders)


def _folders(names: Sequence[str]) -> Folders:
    """Those of each name, less those that all of them share."""
    return _unshared([tuple(name.split("/")[:-1]) for name in names])


def _unshared(folders: Folders) -> Folders:
    """Less those that all of them share: what the first and the last in order share."""
    ends = zip(min(folders, default=()), max(folders, default=()), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return [f[shared:] for f in folders]


def _of_split(names: tuple[str, ...], split: str, where: str) -> _Part:
    folders = _folders(names)
    tops = [f[0].lower() if f else "" for f in folders]
    there = sorted(set(tops))
    words = {top: found[1] for top in there if (found := _SPLIT.fullmatch(top))}
    if len(words) < len(there) or not _both(words.values()):
        if split == "test":
            raise ValueError(
                f"{where} has no folders named train and test, so no test split: give the folder "
                "of the test images itself, or hold some back with data.split."
            )
        return _Part(names, folders, ())
    wanted = TEST if split == "test" else TRAIN
    word = next(word for word in wanted if word in words.values())
    chosen = [top for top in there if words[top] == word]
    kept = [i for i, top in enumerate(tops) if top in chosen]
    below = _unshared([folders[i][1:] for i in kept])
    read = f"{', '.join(chosen)} {'was' if len(chosen) == 1 else 'were'} read"
    note = f"Of its folders {', '.join(there)} only {read}."
    return _Part(tuple(names[i] for i in kept), below, (note,))


def _both(words: Collection[str]) -> bool:
    """Whether there is something to train on among them, and something to test on."""
    return any(word in TRAIN for word in words) and any(word in TEST for word in words)


def _splits_note(folders: Folders) -> tuple[str, ...]:
    """Of folders that look like splits, and are none as others lie beside them."""
    tops = sorted({f[0] for f in folders if f})
    found = {top: _LIKE_SPLIT.fullmatch(top.lower()) for top in tops}
    words = {top: match[1] or match[2] for top, match in found.items() if match}
    if not _both(words.values()):
        return ()
    train = next(top for top, word in words.items() if word in TRAIN)
    return (
        f"Its folders {', '.join(words)} look like parts for training and testing, but all its "
        f"folders are read, {len(tops)} in all: give the folder {train} alone to train on that.",
    )


def _by_folder(listing: Listing, folders: Folders) -> Listing:
    outside = [name for name, f in zip(listing.names, folders, strict=True) if not f]
    if len(outside) == len(folders):
        return listing
    if outside:
        note = (
            f"No labels: {len(outside):,} images lie beside the folders, {outside[0]} for one. "
            "Move them into class folders, or away, to train by class."
        )
        return replace(listing, notes=(*listing.notes, note))
    class_names = tuple(sorted({f[0] for f in folders}))
    index = {name: k for k, name in enumerate(class_names)}
    labels = np.array([index[f[0]] for f in folders], dtype=np.int64)
    return replace(listing, labels=labels, class_names=class_names)


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
