"""The latents of a data set on disk, so that training does not encode every batch again.

    CACHE/NAME/{latents.npy, manifest.json}     NAME is a hash of codec, data and mirroring

The file is written part by part, so that it may be larger than the memory, and read as a map of it.
It appears whole or not at all, and is checked against its SHA-256 before it is used.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .disk import sync_folder
from .latents import LatentCodec, at_once
from .storage import MANIFEST, TEMPORARY, DamagedError, write_file

LATENTS = "latents.npy"

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


def encode_all(
    codec: LatentCodec,
    images: Tensor,
    cache: Path,
    key: str,
    progress: Progress | None = None,
    flips: bool = False,
    say: Say | None = None,
) -> Tensor:
    """The latents of all images: out of the cache, or encoded and put there.

    images: (N, C, H, W) uint8. cache: the folder for all caches. key: what identifies the images,
    as data.fingerprint does. progress: told (done, all) as images are encoded. flips: encode the
    mirror images too, since latents can't be mirrored themselves.

    Returns float16 on the CPU, (N, c, h, w), or (2, N, c, h, w) with flips, images before mirror
    images. It maps the file: writing into it changes no file.
    """
    digest = hashlib.sha256(
        repr((codec.fingerprint(), key, tuple(images.shape), flips)).encode()
    ).hexdigest()
    folder = cache / digest[:20]
    try:
        if folder.exists():
            return opened(folder)
    except DamagedError as error:
        aside = set_aside(folder)
        if say is not None:
            say(f"Damaged cache of latents: {error} It is {aside.name} now and made anew.")
    write(folder, codec, images, flips, progress)
    return opened(folder)


def write(
    folder: Path, codec: LatentCodec, images: Tensor, flips: bool, progress: Progress | None
) -> None:
    """Encode into a temporary folder, and give it its name when all is on the disk."""
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        fill(temporary / LATENTS, codec, images, flips, progress)
        manifest = {LATENTS: sha256(temporary / LATENTS)}
        write_file(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        if not folder.exists():  # else another process was faster
            temporary.rename(folder)
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fill(
    path: Path, codec: LatentCodec, images: Tensor, flips: bool, progress: Progress | None
) -> None:
    """Write the array of all latents, and see it onto the disk."""
    n, (channels, height, width) = len(images), tuple(images.shape[1:])
    shape = (1 + flips, n, *codec.shape((channels, height, width)))
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    done, total = 0, n * (1 + flips)
    for side in range(1 + flips):
        for start, part in zip(range(0, n, at_once(images)), images.split(at_once(images))):
            latents = codec.encode(part.flip(-1) if side else part)
            file[side, start : start + len(part)] = latents.half().cpu().numpy()
            done += len(part)
            if progress is not None:
                progress(done, total)
    file.flush()
    del file
    with open(path, "rb+") as written:
        os.fsync(written.fileno())


def opened(folder: Path) -> Tensor:
    """The latents of a finished cache.

    Raises: DamagedError where it is not what was written.
    """
    try:
        wanted = json.loads((folder / MANIFEST).read_bytes())[LATENTS]
        found = sha256(folder / LATENTS)
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"{folder}: {error}") from error
    if found != wanted:
        raise DamagedError(f"{folder / LATENTS} does not have the SHA-256 that the manifest says.")
    # Copy on write: a tensor must be writable, the file must not change.
    latents = torch.from_numpy(np.load(folder / LATENTS, mmap_mode="c"))
    return latents if len(latents) == 2 else latents[0]


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(folder: Path) -> Path:
    """Rename a damaged cache to NAME.corrupt, or NAME.2.corrupt where that is taken."""
    names = [f"{folder.name}.corrupt", *(f"{folder.name}.{n}.corrupt" for n in range(2, 1000))]
    return folder.rename(next(p for p in map(folder.with_name, names) if not p.exists()))
