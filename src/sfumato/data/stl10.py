"""STL-10's binary files: 96 x 96 photographs in ten classes, and many without a class.

    *_X.bin   uint8, an image 3 x 96 x 96: channel by channel, each column by column
    *_y.bin   uint8, the classes 1 to 10
    train 5,000, test 8,000, unlabeled 100,000 images; class_names.txt has a name a line

Coates, Ng, Lee (2011), "An analysis of single-layer networks in unsupervised feature learning";
the layout is told on https://cs.stanford.edu/~acoates/stl10/.
"""

from posixpath import basename

import numpy as np

from sfumato.data.arrays import Arrays
from sfumato.data.containers import MAX_MEMBER, Container
from sfumato.data.images import Pixels

SIDE = 96
CLASS_NAMES = (
    *("airplane", "bird", "car", "cat", "deer"),
    *("dog", "horse", "monkey", "ship", "truck"),
)
SPLITS = ("train", "test", "unlabeled")
_PIXELS = 3 * SIDE * SIDE


def present(container: Container) -> bool:
    """Whether there is any file with one of the names of STL-10's images."""
    return any(_find(container, f"{split}_X.bin") for split in SPLITS)


def read(container: Container, split: str) -> Arrays:
    """All images of one split ("train", "test" or "unlabeled"), in the order of the file.

    Where the unlabelled images are the only ones there, "train" means them. Raises ValueError
    where the split's images are not there, or do not fit their labels.
    """
    there = [other for other in SPLITS if _find(container, f"{other}_X.bin")]
    if split == "train" and there == ["unlabeled"]:
        split = "unlabeled"
    name = _find(container, f"{split}_X.bin")
    if name is None:
        raise ValueError(
            f"{container.where} has no {split}_X.bin; of STL-10 it has the images of "
            f"{', '.join(there)}."
        )
    images = _images(container, name)
    labels_name = _find(container, f"{split}_y.bin")
    notes = _on_unlabeled(container, split)
    if labels_name is None:
        return Arrays(images, None, (), "stl10", notes)
    labels = np.frombuffer(container.read(labels_name), np.uint8).astype(np.int64) - 1
    names = _class_names(container)
    if len(labels) != len(images) or not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(
            f"{labels_name} in {container.where} should hold {len(images):,} labels from 1 to "
            f"{len(names)}, a byte each; it has {len(labels):,}, or others: it is damaged."
        )
    return Arrays(images, labels, names, "stl10", notes)


def _find(container: Container, file: str) -> str | None:
    """The file of that name that lies highest."""
    found = (name for name in container.names if basename(name) == file)
    return min(found, key=lambda name: (name.count("/"), name), default=None)


def _images(container: Container, name: str) -> Pixels:
    """(n, 3, 96, 96), row by row."""
    try:
        contents = container.read(name)
    except ValueError as error:
        raise ValueError(
            f"{name} in {container.where} cannot be read ({error}). Unpack the archive and give "
            f"the folder: files there may be larger than {MAX_MEMBER / 2**20:g} MiB."
        ) from error
    if not contents or len(contents) % _PIXELS:
        raise ValueError(
            f"{name} in {container.where} has {len(contents):,} bytes, no multiple of {_PIXELS} "
            "(3 x 96 x 96 pixels): it is damaged, or not STL-10's."
        )
    columns = np.frombuffer(contents, np.uint8).reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(columns.transpose(0, 1, 3, 2))


def _class_names(container: Container) -> tuple[str, ...]:
    name = _find(container, "class_names.txt")
    if name is None:
        return CLASS_NAMES
    lines = container.read(name).decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _on_unlabeled(container: Container, split: str) -> tuple[str, ...]:
    if split != "train" or not _find(container, "unlabeled_X.bin"):
        return ()
    return ('The unlabelled images beside them were left: load(..., split="unlabeled").',)
