"""`load`: a name or a path to an ImageData.

name ("digits", "mnist", ...) -> path -> what lies there -> arrays or files -> ImageData
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sfumato.data import arrays, builtin, cifar, cifar100, idx, parquet, stl10, twemoji
from sfumato.data.arrays import CHANNELS, Arrays
from sfumato.data.cache import decode_once
from sfumato.data.containers import Container, open_container
from sfumato.data.decoding import Progress, fit_all
from sfumato.data.images import Size
from sfumato.data.places import find, spelt
from sfumato.data.quarantine import USUAL, Tolerance, judge
from sfumato.data.record import ImageData, spread, subset
from sfumato.data.sizes import enlarged_note
from sfumato.data.trees import Listing, list_images, take

_FORMS = (idx, cifar, cifar100, stl10)  # each knows its files by their names


def load(
    source: str | os.PathLike[str],
    size: int | Size | None = None,
    channels: int | None = None,
    limit: int | None = None,
    labels: bool = True,
    progress: Progress | None = None,
    *,
    split: str = "train",
    tolerance: Tolerance = USUAL,
    others: Sequence[str] = (),
    cache: Path | None = None,
) -> ImageData:
    """The images of a built-in name or a path, decoded to uint8.

    source: "digits" (built in); one of KNOWN, looked for where `find` says; or a path to a folder,
        .zip, .tar or .tar.gz of images or of the files of MNIST, CIFAR or STL-10; .npz, .npy;
        .parquet or a folder of these.
    size: a side or (H, W). None keeps the size that all images have, or chooses one and says so
        in the notes. Others are scaled until they cover it; the centre is kept.
    channels: 1, 3 or 4 (with opacity). None: 1 where every image is grey, else 3.
    limit: at most so many images, evenly spaced, each class in its share.
    labels: False leaves them out.
    progress: called with (done, of how many) files now and then, from this thread.
    split: "train" or "test", where there are both; of STL-10 also "unlabeled".
    tolerance: the share of image files that may be unreadable. They are left out, with a warning.
    others: names that are no data, for the hint where `source` is nothing at all.
    cache: a folder in which sets of many files are kept decoded, see `cache`; None for none.

    Raises ValueError, saying what was found, for whatever is not such a source, and where more
    images than tolerated cannot be read.
    """
    wanted = _Wanted(_shape(size), channels, limit, labels, progress, split, tolerance, cache)
    if spelt(source) == "digits":
        return _from_arrays(_digits(split), builtin.ORIGIN, wanted)
    path = find(source, others)
    if path.suffix.lower() in (".npy", ".npz"):
        return _from_arrays(_named(arrays.read(path, split), path), str(path), wanted)
    if path.suffix.lower() == parquet.SUFFIX and path.is_file():
        return _from_tables(path, wanted)
    with open_container(path) as container:
        if not parquet.present(container):
            return _from_container(container, path, wanted)
    return _from_tables(path, wanted)


@dataclass(frozen=True)
class _Wanted:
    """What the caller of `load` asked for."""

    size: Size | None
    channels: int | None
    limit: int | None
    labels: bool
    progress: Progress | None
    split: str
    tolerance: Tolerance
    cache: Path | None

    def __post_init__(self) -> None:
        if self.channels not in (None, *CHANNELS):
            raise ValueError(
                f"channels = {self.channels}: give 1 (grey), 3 (RGB) or 4 (with opacity)."
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit = {self.limit}: give 1 or more, or None for all images.")
        if self.split not in stl10.SPLITS:
            raise ValueError(f"split = {self.split!r}: give 'train' or 'test'.")


def _shape(size: int | Size | None) -> Size | None:
    shape = (size, size) if isinstance(size, int) else size
    if shape is not None and (len(shape) != 2 or min(shape) < 1):
        raise ValueError(f"size = {size}: give a side or (height, width), in pixels.")
    return shape


def _digits(split: str) -> Arrays:
    if split != "train":
        raise ValueError(
            f"the built-in digits have no {split} split: hold some back with data.split."
        )
    return builtin.digits()


def _name(path: Path) -> str:
    """The file or folder's name as a word that can stand in a run's name."""
    stem = re.sub(
        r"(\.tar)?\.(gz|tgz|tar|zip|npz|npy|parquet)$", "", path.name, flags=re.IGNORECASE
    )
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "images"


def _named(found: Arrays, path: Path) -> Arrays:
    return replace(found, name=found.name or _name(path))


def _from_arrays(found: Arrays, source: str, wanted: _Wanted) -> ImageData:
    if not len(found.images):
        raise ValueError(f"{source} holds no images at all.")
    labelled = wanted.labels and found.labels is not None
    whole = ImageData(
        images=torch.from_numpy(found.images),
        labels=torch.from_numpy(found.labels) if labelled else None,
        class_names=found.class_names if wanted.labels else (),
        name=found.name,
        source=source,
        notes=found.notes,
    )
    if wanted.limit is not None and wanted.limit < len(whole):
        whole = subset(whole, spread(len(whole), wanted.limit, whole.labels))
    fitted = fit_all(whole.images.numpy(), wanted.size, wanted.channels, wanted.progress)
    notes = whole.notes
    if any(new > old for new, old in zip(wanted.size or (), whole.size)):
        notes = (*notes, enlarged_note(len(whole)))
    return replace(whole, images=torch.from_numpy(fitted), notes=notes)


def _from_container(container: Container, path: Path, wanted: _Wanted) -> ImageData:
    form = next((form for form in _FORMS if form.present(container)), None)
    if wanted.split == "unlabeled" and form is not stl10:
        raise ValueError(f"{path} is not STL-10: only that has an unlabelled split.")
    if form is not None:
        return _from_arrays(_named(form.read(container, wanted.split), path), str(path), wanted)
    if twemoji.present(container):
        listing = twemoji.list_pictures(container, path, wanted.split, wanted.labels)
        credited = replace(container, where=f"{path} ({twemoji.CREDIT})")
        return _from_files(credited, listing, "twemoji", wanted)
    listing = list_images(container, wanted.split, wanted.labels)
    return _from_files(container, listing, _name(path), wanted)


def _from_tables(path: Path, wanted: _Wanted) -> ImageData:
    if path.is_file() and path.suffix.lower() != parquet.SUFFIX:
        raise ValueError(f"{path} holds Parquet tables: unpack it and give the folder.")
    with parquet.open_tables(path, wanted.split, wanted.labels) as (container, listing):
        return _from_files(container, listing, _name(path), wanted)


def _from_files(container: Container, listing: Listing, name: str, wanted: _Wanted) -> ImageData:
    if wanted.limit is not None and wanted.limit < len(listing.names):
        labels = None if listing.labels is None else torch.from_numpy(listing.labels)
        listing = take(listing, spread(len(listing.names), wanted.limit, labels).numpy())
    shape, rest = (wanted.size, wanted.channels), (wanted.progress, wanted.cache)
    batch, told = decode_once(container, listing.names, *shape, *rest)
    judge(batch.skipped, len(listing.names), container.where, wanted.tolerance)
    kept = take(listing, batch.kept)
    return ImageData(
        images=torch.from_numpy(batch.images),
        labels=None if kept.labels is None else torch.from_numpy(kept.labels),
        class_names=listing.class_names,
        name=name,
        source=container.where,
        skipped=(*listing.skipped, *batch.skipped),
        notes=(*listing.notes, *batch.notes, *told),
        captions=kept.captions,
        names=kept.names,
        unreadable=batch.skipped,
    )
