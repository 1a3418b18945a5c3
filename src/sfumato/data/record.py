"""A data set at rest: every image decoded once, all in one tensor.

    images[i] is (C, H, W) uint8: 0 is black, 255 is white; a fourth channel is opacity

Nothing here is float or in [-1, 1]: that is the codec's work, and its alone.
"""

import hashlib
import json
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images, their classes and captions, and what became of the files they were read from.

    Raises ValueError where the parts do not fit one another.
    """

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor | None  # (N,) int64, indices into class_names
    class_names: tuple[str, ...]
    name: str  # short: it names the run's folder
    source: str  # where the images come from, for people
    skipped: tuple[tuple[str, str], ...] = ()  # (path, reason) of each file left out
    notes: tuple[str, ...] = ()  # whole sentences on what was decided for the caller
    captions: tuple[str, ...] | None = None  # one an image, "" where it has none
    names: tuple[str, ...] | None = None  # of the files that the images were, one an image
    unreadable: tuple[tuple[str, str], ...] = ()  # those of `skipped` that are broken images

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}: "
                "give uint8 (N, C, H, W)."
            )
        if self.labels is not None:
            _check_labels(self.labels, len(self.images), len(self.class_names))
        if self.captions is not None and len(self.captions) != len(self.images):
            raise ValueError(
                f"{len(self.captions):,} captions for {len(self.images):,} images: give one for "
                'each, "" where there is none.'
            )
        if self.names is not None and len(self.names) != len(self.images):
            raise ValueError(
                f"{len(self.names):,} names for {len(self.images):,} images: give one for each."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def describe(self) -> str:
        """One paragraph: count, size, channels, classes, captions, origin, left out, notes."""
        height, width = self.size
        parts = [
            f"{self.name}: {len(self):,} images of {height} x {width} (height x width), "
            f"{_CHANNELS.get(self.channels, f'{self.channels} channels')}, {self._classes()}"
            f"{self._texts()}, from {self.source}."
        ]
        if self.skipped:
            path, reason = self.skipped[0]
            files = "1 file was" if len(self.skipped) == 1 else f"{len(self.skipped):,} files were"
            parts.append(f"{files} left out, the first: {path} ({reason}).")
        return " ".join((*parts, *self.notes))

    def _classes(self) -> str:
        if self.labels is None:
            return "no labels"
        counts = torch.bincount(self.labels, minlength=len(self.class_names)).tolist()
        few, many = min(counts), max(counts)
        each = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        word = "class" if len(self.class_names) == 1 else "classes"
        names = list(self.class_names)
        if len(names) > 12:
            names = [*names[:5], "...", names[-1]]
        return f"{len(self.class_names)} {word} of {each} ({', '.join(names)})"

    def _texts(self) -> str:
        if self.captions is None:
            return ""
        different = set(self.captions) - {""}
        if not different:
            return ", captions that are all empty"
        word = "caption" if len(different) == 1 else "captions"
        first = _shortened(next(text for text in self.captions if text))
        return f", {len(different):,} different {word} ({first!r} for one)"


_CHANNELS = {1: "grey", 3: "RGB", 4: "RGB with opacity"}

_SHOWN = 60  # letters of a caption that are enough to see what captions are like


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _check_labels(labels: Tensor, count: int, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: give int64 ({count},), "
            "one for each image."
        )
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but there are {classes} "
            "class names: give indices into class_names."
        )


def spread(count: int, wanted: int, labels: Tensor | None = None) -> Tensor:
    """(wanted,) indices below `count`, ascending and evenly spaced; each class in its share.

    No chance is involved: the same call gives the same indices on every machine and version.
    Systematic sampling of the list sorted by class: class k of n_k images gets
    wanted * n_k / count of them, rounded up or down.
    """
    order = torch.arange(count) if labels is None else torch.argsort(labels, stable=True)
    at = (2 * torch.arange(wanted) + 1) * count // (2 * wanted) if wanted else torch.arange(0)
    return order[at].sort().values


def evenly(data: ImageData, classes: int, wanted: int) -> Tensor:
    """Indices of about `wanted` images, as many of each of the first `classes`: not in its share.

    A class of fewer has its images more than once. Without classes or labels: of all, once each.
    """
    rows = [torch.arange(len(data))]
    if data.labels is not None and classes:
        rows = [(data.labels == k).nonzero()[:, 0] for k in range(classes)]
        rows = [index for index in rows if len(index)]
    each = min(max(1, wanted // max(1, len(rows))), max(map(len, rows), default=0))
    middles = 2 * torch.arange(each) + 1
    return torch.cat([middles[:0], *(row[middles * len(row) // (2 * each)] for row in rows)])


def subset(data: ImageData, indices: Tensor) -> ImageData:
    """The images at `indices` (int64, any order), with their labels, captions and names."""
    labels = None if data.labels is None else data.labels[indices]
    captions, names = (_at(words, indices) for words in (data.captions, data.names))
    return replace(data, images=data.images[indices], labels=labels, captions=captions, names=names)


def _at(words: tuple[str, ...] | None, indices: Tensor) -> tuple[str, ...] | None:
    return None if words is None else tuple(words[i] for i in indices.tolist())


def split(data: ImageData, held_out: int) -> tuple[ImageData, ImageData]:
    """(the rest to train on, `held_out` images to measure on), always the same ones.

    Each class gives its share, so that both parts have the class balance of the whole; a class
    of very few images can fall wholly to one side.
    """
    if not 0 < held_out < len(data):
        raise ValueError(
            f"held_out = {held_out} of {len(data)} images: give a number from 1 to {len(data) - 1}."
        )
    chosen = spread(len(data), held_out, data.labels)
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[chosen] = False
    return subset(data, rest.nonzero()[:, 0]), subset(data, chosen)


def fingerprint(data: ImageData) -> str:
    """SHA-256 (hex) over shape, pixels, labels and captions; names and origin do not count.

    Without captions it is what it was before there were any, so that older runs know their data.
    """
    labels = data.labels
    digest = hashlib.sha256(repr((tuple(data.images.shape), labels is not None)).encode())
    digest.update(data.images.contiguous().numpy().data)
    if labels is not None:
        digest.update(labels.contiguous().numpy().astype("<i8").data)
    if data.captions is not None:
        digest.update(json.dumps(data.captions).encode())
    return digest.hexdigest()
