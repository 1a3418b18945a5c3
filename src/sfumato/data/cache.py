"""Decoded images on disk, so that the second start from many files does not decode them again.

    CACHE/NAME/{images.npy, rest.json, manifest.json}      NAME is a hash of `key_of`

The key holds every file's name, size and times and all that decides what its pixels become. How
folders come and go is kept.py's; together they take at most MOST bytes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from sfumato import disk
from sfumato.data.containers import Container
from sfumato.data.decoding import Batch, Progress, decode_all
from sfumato.data.images import Size
from sfumato.kept import mark_read, room_for
from sfumato.storage import (
    TEMPORARY,
    DamagedError,
    check_folder,
    commit_written,
    remove_what_can_be,
    retire,
)

LEAST_FILES = 1000  # fewer are decoded in about a second
MOST = 16 * 2**30  # bytes of all sets together
FORMAT = 3  # to be raised where decoding gives other pixels than before
IMAGES, REST = "images.npy", "rest.json"
MADE_ANEW = "The cache of decoded images was damaged ({}) and was made anew."


def decode_once(
    container: Container,
    names: Sequence[str],
    size: Size | None,
    channels: int | None,
    progress: Progress | None,
    cache: Path | None,
) -> tuple[Batch, tuple[str, ...]]:
    """(decoding.decode_all, sentences on the cache): out of the cache, or decoded and put there.

    cache: the folder for all sets; None goes without, as sets of few files do.
    """
    stamp = container.stamp
    if cache is None or stamp is None or len(names) < LEAST_FILES:
        return decode_all(container, names, size, channels, progress), ()
    folder = cache / key_of(container, stamp, names, size, channels)
    told: tuple[str, ...] = ()
    if folder.exists():
        try:
            kept = opened(folder)
        except DamagedError as error:
            retire(folder)
            told = (MADE_ANEW.format(error),)
        else:
            return kept, (
                f"Decoded at an earlier start: read from {folder} (--no-cache does not).",
            )
    batch = decode_all(container, names, size, channels, progress)
    return batch, (*told, keep(folder, batch))


def key_of(
    container: Container,
    stamp: Callable[[str], tuple[int, ...]],
    names: Sequence[str],
    size: Size | None,
    channels: int | None,
) -> str:
    """What tells sets apart: files, settings, and the versions of what decodes."""
    settings = (FORMAT, PIL.__version__, container.where, size, channels)
    digest = hashlib.sha256(repr(settings).encode())
    for name in names:
        digest.update(repr((name, stamp(name))).encode())
    return digest.hexdigest()[:20]


def opened(folder: Path) -> Batch:
    """A set as it was kept; its pixels map the file, and writing into them changes no file.

    Raises: DamagedError where it is not what was written.
    """
    check_folder(folder)
    try:
        rest = json.loads((folder / REST).read_bytes())
        images = np.load(folder / IMAGES, mmap_mode="c")
        kept = np.array(rest["kept"], dtype=np.int64)
        skipped = tuple((str(path), str(why)) for path, why in rest["skipped"])
        batch = Batch(images, kept, skipped, tuple(map(str, rest["notes"])))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"{folder}: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(kept):
        raise DamagedError(f"{folder / IMAGES} holds {images.dtype} {images.shape}")
    mark_read(folder)
    return batch


def keep(folder: Path, batch: Batch) -> str:
    """Put a set into the cache; a sentence on it, also where the disk refuses."""
    try:
        wanted = batch.images.nbytes
        if not room_for(folder.parent, wanted, MOST):
            free = shutil.disk_usage(folder.parent).free / 1e9
            return f"Not kept for the next start: {wanted / 1e9:,.1f} GB, {free:,.1f} GB free."
        write(folder, batch)
    except OSError as error:
        return f"Not kept for the next start: {error}."
    return f"Kept for the next start in {folder} ({wanted / 1e6:,.0f} MB; --no-cache does not)."


def write(folder: Path, batch: Batch) -> None:
    """All or nothing. Raises: OSError where the disk refuses; then nothing is left behind."""
    rest: dict[str, Any] = {"kept": batch.kept.tolist(), "skipped": batch.skipped}
    rest["notes"] = batch.notes
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}")
    disk.make_folder(temporary)
    try:
        np.save(temporary / IMAGES, batch.images)
        if folder.exists():  # another process of the same run was faster
            return remove_what_can_be(temporary)
        commit_written(temporary, folder, {REST: json.dumps(rest).encode()})
    except OSError:
        if temporary.exists():
            remove_what_can_be(temporary)
        raise
