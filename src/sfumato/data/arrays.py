"""Images that are arrays already: numpy's .npy and .npz."""

import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.images import Pixels
from sfumato.data.unpacking import check_ratio

CHANNELS = (1, 3, 4)
MAX_CLASSES = 32_768  # a higher label is taken for an identifier, and the labels are renumbered


@dataclass(frozen=True)
class Arrays:
    """A data set as it was found: before limit, size and channels."""

    images: Pixels  # (N, C, H, W), C of 1, 3 or 4
    labels: NDArray[np.int64] | None  # (N,)
    class_names: tuple[str, ...]
    name: str = ""  # a well-known set's; else the path names it
    notes: tuple[str, ...] = ()


def read(path: Path, split: str) -> Arrays:
    """The images of an .npz (x, images or arr_0; y or labels) or .npy file.

    Arrays called x_train, train_images and so on are taken by `split`. Images are (N, H, W),
    (N, H, W, C) or (N, C, H, W). Raises ValueError for other dtypes than uint8, or a damaged
    file. Pickled objects in the file are not read.
    """
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        start = file.read(6)
        if start != b"\x93NUMPY" and not start.startswith(b"PK"):
            raise ValueError(f"{path} begins with {start.hex() or 'nothing'}: it is no numpy file.")
        file.seek(0)
        if start.startswith(b"PK"):
            _loaded(lambda: _check_ratios(file), str(path))
            file.seek(0)
        found = _loaded(lambda: np.load(file, allow_pickle=False), str(path))
        if isinstance(found, np.ndarray):
            if split != "train":
                raise ValueError(f"{path} is one array, with no {split} split: give its own file.")
            return Arrays(to_nchw(found, str(path)), None, ())
        return _read_npz(stack.enter_context(found), path, split)


_DAMAGE = (  # what numpy raises on headers that were tampered with
    *(ValueError, OSError, EOFError, MemoryError, OverflowError, RecursionError, SyntaxError),
    *(TypeError, KeyError, zipfile.BadZipFile, zlib.error),
)


def _loaded(read: Callable[[], Any], what: str) -> Any:
    try:
        return read()
    except _DAMAGE as error:
        raise ValueError(
            f"{what} cannot be read ({error}): it is damaged, or holds Python objects, which are "
            "not read. Fetch it anew, or save plain uint8 arrays."
        ) from error


def _check_ratios(file: IO[bytes]) -> None:
    """Raise ValueError for an .npz whose arrays are packed as bombs are."""
    for member in zipfile.ZipFile(file).infolist():
        check_ratio(member.file_size, member.compress_size)


def _read_npz(found: Any, path: Path, split: str) -> Arrays:
    names = list(found.files)
    image_names: tuple[str, ...] = (f"x_{split}", f"{split}_images", f"images_{split}")
    label_names: tuple[str, ...] = (f"y_{split}", f"{split}_labels", f"labels_{split}")
    if split == "train":
        image_names = ("x", "images", "arr_0", *image_names)
        label_names = ("y", "labels", "arr_1", *label_names)
    image_name = next((n for n in image_names if n in names), None)
    if image_name is None:
        raise ValueError(
            f"{path} holds the arrays {', '.join(names) or '(none)'}: the images of "
            f"the {split} split should be called one of {', '.join(image_names)}."
        )
    what = f"{image_name} in {path}"
    images = to_nchw(_loaded(lambda: found[image_name], what), what)
    label_name = next((n for n in label_names if n in names), None)
    if label_name is None:
        return Arrays(images, None, ())
    what = f"{label_name} in {path}"
    given = _loaded(lambda: found[label_name], what)
    labels, class_names = index_labels(given, len(images), what)
    return Arrays(images, labels, class_names)


def to_nchw(images: NDArray[Any], what: str) -> Pixels:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) uint8 as (N, C, H, W), contiguous."""
    if images.dtype != np.uint8:
        raise ValueError(f"{what} is {images.dtype}{_range(images)}: {_REMEDY}")
    if images.ndim == 3:
        return np.ascontiguousarray(images[:, None])
    if images.ndim != 4:
        raise ValueError(
            f"{what} has the shape {images.shape}: give (N, H, W), (N, H, W, C) or (N, C, H, W)."
        )
    first, last = images.shape[1] in CHANNELS, images.shape[3] in CHANNELS
    if first == last:
        raise ValueError(
            f"{what} has the shape {images.shape}, which does not tell the channels: 1, 3 or 4 of "
            "them should stand either second or last, and that number in one place only."
        )
    return np.ascontiguousarray(images if first else images.transpose(0, 3, 1, 2))


_REMEDY = "save it as uint8 from 0 to 255 (of values in [0, 1]: (x * 255).round().astype('uint8'))."


def _range(images: NDArray[Any]) -> str:
    if images.size == 0 or images.dtype.kind not in "iufb":
        return ""
    return f" from {images.min():g} to {images.max():g}"


def index_labels(
    labels: NDArray[Any] | Sequence[Any], count: int, what: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as they were found (numbers or words) to ((N,) indices, the names of the classes).

    Numbers from 0 stay what they are, so that two splits agree even where one lacks a class;
    negative or huge ones, and words, are numbered in sorted order.
    """
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (count,) or values.dtype.kind not in "iuU":
        raise ValueError(
            f"{what}: labels are {values.dtype} of shape {values.shape}; for {count:,} images give "
            f"({count},) integers or words, one class for each image."
        )
    if values.dtype.kind != "U" and count and 0 <= values.min() <= values.max() < MAX_CLASSES:
        return values.astype(np.int64), tuple(str(k) for k in range(int(values.max()) + 1))
    kinds, indices = np.unique(values, return_inverse=True)
    return indices.astype(np.int64), tuple(str(kind) for kind in kinds)
