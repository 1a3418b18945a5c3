"""Many encoded images to one array, on all cores; the broken ones named and left out."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.data.containers import Container
from sfumato.data.images import (
    READ_ERRORS,
    Pixels,
    Size,
    cover,
    decode,
    probe,
    reason,
    recolour,
)
from sfumato.data.sizes import ALIGNED, Frame, choose_frame, enlarged_note, face_frame

Progress = Callable[[int, int], None]  # (done, of how many)
T = TypeVar("T")

_CHUNK = 32  # files a task: enough that handing them out costs nothing


@dataclass(frozen=True)
class Batch:
    """Pixels, and what became of what was given."""

    images: Pixels  # (M, C, H, W)
    kept: NDArray[np.int64]  # (M,) which of the given ones they are, ascending
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def decode_all(
    container: Container,
    names: Sequence[str],
    size: Size | None,
    channels: int | None,
    progress: Progress | None,
) -> Batch:
    """The images called `names`, in that order; see `images.decode` for size and channels.

    size None: see `sizes`. channels None: 1 where every image is grey, else 3. `progress` counts
    the files, and does so twice where the headers are read first: where size is None, or the
    first image has the size of CelebA's. Raises ValueError where not one image can be read.
    """
    with _quiet_pillow():
        frame = _frame(container, names, size, channels, progress)
        canvas = np.empty((len(names), channels or 3, *frame.size), dtype=np.uint8)

        def place(index: int) -> _Placed:
            return _place(container, names[index], frame, channels, canvas[index])

        placed = list(_parallel(place, len(names), progress))
    skipped = tuple((names[i], p.failure) for i, p in enumerate(placed) if p.failure)
    kept = np.array([i for i, p in enumerate(placed) if not p.failure], dtype=np.int64)
    if not len(kept):
        raise ValueError(_none_left(container.where, skipped))
    if channels is None and all(p.grey for p in placed if not p.failure):
        canvas = canvas[:, :1]
    enlarged = sum(p.enlarged for p in placed)
    notes = (*frame.notes, enlarged_note(enlarged)) if enlarged else frame.notes
    return Batch(_compact(canvas, kept), kept, skipped, notes)


def fit_all(
    images: Pixels, size: Size | None, channels: int | None, progress: Progress | None = None
) -> Pixels:
    """(N, C, H, W) with C of 1, 3 or 4, to another size or other channels, as files would be."""
    if channels is None:
        grey = images.shape[1] == 3 and bool((images == images[:, :1]).all())
        images = images[:, :1] if grey else images
        channels = 1 if images.shape[1] == 1 else 3
    if images.shape[1] == channels and size in (None, images.shape[2:]):
        return images
    fitted = np.empty((len(images), channels, *(size or images.shape[2:])), dtype=np.uint8)

    def fit(index: int) -> None:
        pixels = np.ascontiguousarray(images[index].transpose(1, 2, 0))
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        _lay(fitted[index], np.asarray(cover(recolour(image, channels), size)))

    for _ in _parallel(fit, len(images), progress):
        pass
    return fitted


def _frame(
    container: Container,
    names: Sequence[str],
    size: Size | None,
    channels: int | None,
    progress: Progress | None,
) -> Frame:
    if size is not None and _header(container, names[0]) != ALIGNED:
        return Frame(size)
    if size is not None and _is_celeba(container, names):
        return face_frame(size)  # saves reading 202,599 headers
    headers = _parallel(lambda i: _header(container, names[i]), len(names), progress)
    sizes = [s for s in headers if s is not None]
    if size is None:
        return choose_frame(sizes, channels)
    return face_frame(size) if set(sizes) == {ALIGNED} else Frame(size)


def _is_celeba(container: Container, names: Sequence[str]) -> bool:
    return "img_align_celeba" in f"{container.where}/{names[0]}".lower()


@dataclass(frozen=True)
class _Placed:
    failure: str = ""  # why there are no pixels
    grey: bool = False
    enlarged: bool = False


def _header(container: Container, name: str) -> Size | None:
    """(H, W); None where it cannot be read, which decoding will report."""
    try:
        return probe(container.read(name))
    except READ_ERRORS:
        return None


def _place(
    container: Container, name: str, frame: Frame, channels: int | None, target: Pixels
) -> _Placed:
    """Decode into `target` (C, H, W)."""
    try:
        decoded = decode(container.read(name), frame.size, channels, frame.crop)
    except READ_ERRORS as error:
        return _Placed(failure=reason(error))
    _lay(target, decoded.pixels)
    return _Placed(grey=decoded.pixels.ndim == 2, enlarged=decoded.enlarged)


def _lay(target: Pixels, pixels: Pixels) -> None:
    """(H, W) or (H, W, C) into (C, H, W); grey fills every channel."""
    target[:] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _parallel(work: Callable[[int], T], count: int, progress: Progress | None) -> Iterator[T]:
    """work(0), work(1), ... in order, from as many threads as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            chunks = [range(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]
            tasks = [pool.submit(_run, work, chunk) for chunk in chunks]
            for chunk, task in zip(chunks, tasks, strict=True):
                yield from task.result()
                if progress is not None:
                    progress(chunk.stop, count)
        finally:  # Ctrl-C shall not wait for the rest
            pool.shutdown(cancel_futures=True)


def _run(work: Callable[[int], T], chunk: range) -> list[T]:
    return [work(i) for i in chunk]


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """No Pillow warnings on single files: each either decodes or is reported by name.

    A warning of too many pixels is an error; the others tell of metadata, and the pixels are there.
    """
    Image.init()  # here, before threads ask for it
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _compact(canvas: Pixels, kept: NDArray[np.int64]) -> Pixels:
    """The kept rows, moved up in place: a copy would double the memory."""
    for to, row in enumerate(kept):
        if to != row:
            canvas[to] = canvas[row]
    return np.ascontiguousarray(canvas[: len(kept)])


def _none_left(where: str, skipped: Sequence[tuple[str, str]]) -> str:
    shown = "; ".join(f"{path} ({why})" for path, why in skipped[:3])
    return f"{where}: not one of {len(skipped):,} images can be read, for example {shown}."
