"""IDX files, the format of MNIST and of the sets made in its image.

    magic (2 zero bytes, type 8 = uint8, number of dimensions), one big-endian uint32 a dimension,
    then the bytes

LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
"""

import gzip
import hashlib
import re
import struct
import zlib
from io import BytesIO
from pathlib import PurePosixPath
from posixpath import basename

import numpy as np

from sfumato.data.arrays import Arrays, index_labels
from sfumato.data.containers import MAX_MEMBER, Container
from sfumato.data.images import Pixels
from sfumato.data.unpacking import read_packed

DIGITS = tuple("0123456789")
GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_KNOWN = {  # SHA-256 of the label files, decompressed
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5": "mnist",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2": "mnist",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9": "fashion-mnist",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34": "fashion-mnist",
}
_NAME = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?", re.IGNORECASE)


def present(container: Container) -> bool:
    """Whether there is any IDX file with one of the canonical names."""
    return any(_NAME.fullmatch(basename(name)) for name in container.names)


def read(container: Container, split: str) -> Arrays:
    """The images and, where they are there too, the labels of one split ("train" or "test")."""
    images_name = _find(container, split, "images")
    if images_name is None:
        raise ValueError(
            f"{container.where} has no IDX file with the images of the {split} split: "
            f"{'train' if split == 'train' else 't10k'}-images-idx3-ubyte or the same with .gz."
        )
    images = _numbers(_plain(container, images_name), 3, images_name)[:, None]
    labels_name = _find(container, split, "labels")
    if labels_name is None:
        return Arrays(images, None, ())
    contents = _plain(container, labels_name)
    labels, class_names = index_labels(
        _numbers(contents, 1, labels_name), len(images), f"{labels_name} in {container.where}"
    )
    name = _KNOWN.get(hashlib.sha256(contents).hexdigest(), "")
    if name == "fashion-mnist" or "fashion" in PurePosixPath(container.where).name.lower():
        class_names = GARMENTS if len(class_names) <= len(GARMENTS) else class_names
    elif name == "mnist":
        class_names = DIGITS
    return Arrays(images, labels, class_names, name)


def _find(container: Container, split: str, kind: str) -> str | None:
    """The one file of that split and kind; of a plain and a gzipped one the plain."""
    wanted = ("train" if split == "train" else "t10k", kind)
    found: dict[str, str] = {}  # by folder
    for name in sorted(container.names, reverse=True):  # so that the plain one comes last
        match = _NAME.fullmatch(PurePosixPath(name).name)
        if match and (match[1].lower(), match[2].lower()) == wanted:
            found[str(PurePosixPath(name).parent)] = name
    if len(found) > 1:
        raise ValueError(
            f"{container.where} holds IDX files in {', '.join(sorted(found))}: give one of these."
        )
    return next(iter(found.values()), None)


def _plain(container: Container, name: str) -> bytes:
    """The file's bytes, decompressed, no more of them than its header announces."""
    contents = container.read(name)
    if not contents.startswith(b"\x1f\x8b"):
        return contents
    try:
        with BytesIO(contents) as raw, gzip.open(raw) as packed:
            return _announced(packed, raw)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{name} in {container.where} is damaged: {error}.") from error


def _announced(stream: gzip.GzipFile, raw: BytesIO) -> bytes:
    start = stream.read(4)
    sizes = stream.read(4 * start[3]) if len(start) == 4 else b""
    count = 1
    for (size,) in struct.iter_unpack(">I", sizes[: len(sizes) // 4 * 4]):
        count *= size
    most = min(count, MAX_MEMBER) + 1  # 1: to see too long a file
    return start + sizes + read_packed(stream, raw, most)


def _numbers(contents: bytes, dimensions: int, name: str) -> Pixels:
    """A uint8 array of so many dimensions; a copy that may be written to."""
    head = 4 + 4 * dimensions
    if contents[:4] != bytes((0, 0, 8, dimensions)) or len(contents) < head:
        raise ValueError(
            f"{name} begins with {contents[:4].hex() or 'nothing'}: an IDX file of uint8 in "
            f"{dimensions} dimensions begins with {bytes((0, 0, 8, dimensions)).hex()}."
        )
    shape = struct.unpack(f">{dimensions}I", contents[4:head])
    values = np.frombuffer(contents, np.uint8, offset=head)
    expected = 1
    for size in shape:
        expected *= size
    if values.size != expected:
        raise ValueError(
            f"{name} announces {' x '.join(map(str, shape))} values and holds {values.size:,} "
            "or more: it is damaged, fetch it anew."
        )
    return values.reshape(shape).copy()
