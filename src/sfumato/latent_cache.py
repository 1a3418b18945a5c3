"""The latents of a data set on disk, so that training does not encode every batch again.

    CACHE/NAME/{latents.npy, manifest.json}     NAME is a hash of codec, data and mirroring

The file is written part by part, so that it may be larger than the memory, and read as a map of it.
It appears whole or not at all, and is checked against its SHA-256 before it is used. Where the disk
has no room for it, that is said before the first image is encoded.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from io import BytesIO
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .disk import sync, sync_folder
from .kept import clear_abandoned
from .latents import LatentCodec, at_once
from .storage import MANIFEST, TEMPORARY, DamagedError, digest_of, make_folders, naming, write_file

LATENTS = "latents.npy"
SHARE = 0.95  # of the free room that may be taken: other programs need some too

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

    Raises: ValueError where the disk has no room for them.
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
    make_folders(cache)
    clear_abandoned(cache, say)
    check_fits(cache, shape_of(codec, images, flips))
    write(folder, codec, images, flips, progress)
    return opened(folder)


def shape_of(codec: LatentCodec, images: Tensor, flips: bool) -> tuple[int, ...]:
    """(1 or 2, N, c, h, w) of the latents in the file; 2 with the mirror images."""
    channels, height, width = images.shape[1:]
    return (1 + flips, len(images), *codec.shape((channels, height, width)))


def check_fits(cache: Path, shape: tuple[int, ...]) -> None:
    """Raise ValueError where the cache's disk has no room for float16 of this shape."""
    needed, free = 2 * prod(shape), shutil.disk_usage(cache).free
    if needed <= SHARE * free:
        return
    half = " With data.flip=false they take half." if shape[0] == 2 else ""
    raise ValueError(
        f"the latents of {shape[1]:,} images take {needed / 1e6:,.1f} MB, and the disk of {cache} "
        f"has {free / 1e6:,.1f} MB free: free some, set SFUMATO_HOME to a folder on a larger disk, "
        f"or train on fewer images (--limit).{half}{unfinished(cache)}"
    )


def unfinished(cache: Path) -> str:
    """A sentence on what lies there half written; empty where nothing does."""
    sizes = {path: size for path in cache.glob(f"{TEMPORARY}*") if (size := size_of(path))}
    if not sizes:
        return ""
    several = f"{len(sizes)} unfinished ones in {cache} ({TEMPORARY}*): remove those"
    where = several if len(sizes) > 1 else f"{next(iter(sizes))}: remove that"
    return (
        f" {sum(sizes.values()) / 1e6:,.1f} MB are in {where} if no other run is encoding images "
        "now."
    )


def size_of(path: Path) -> int:
    """Bytes of a file, or of those in a folder; 0 where it is gone by now, or is not ours to read.

    It is for a hint in an error, which must not be replaced by another.
    """
    try:
        return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    except OSError:
        return 0


def write(
    folder: Path, codec: LatentCodec, images: Tensor, flips: bool, progress: Progress | None
) -> None:
    """Encode into a temporary folder, and give it its name when all is on the disk."""
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        fill(temporary / LATENTS, codec, images, flips, progress)
        manifest = {LATENTS: digest_of(temporary / LATENTS)}
        write_file(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        if not folder.exists():  # else another process was faster
            temporary.rename(folder)
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fill(
    path: Path, codec: LatentCodec, images: Tensor, flips: bool, progress: Progress | None
) -> None:
    """Write the array of all latents, and see it onto the disk.

    Never through a map of the file: where another program takes the room meanwhile, a map ends the
    process by a signal, and a write raises OSError.
    """
    n, done = len(images), 0
    shape = shape_of(codec, images, flips)
    append(path, header(shape))
    for side in range(1 + flips):
        for part in images.split(at_once(images)):
            latents = codec.encode(part.flip(-1) if side else part)
            check_shape(latents, (len(part), *shape[2:]))
            append(path, latents.half().cpu().numpy().tobytes())
            done += len(part)
            if progress is not None:
                progress(done, n * (1 + flips))
    with naming(path):
        sync(path)


def check_shape(latents: Tensor, wanted: tuple[int, ...]) -> None:
    """The file says one shape for all: too few numbers, or turned ones, would be read as others.

    Raises: ValueError where the codec does not encode to what its `shape` says.
    """
    if latents.shape != wanted:
        raise ValueError(
            f"the codec encoded {wanted[0]:,} images to {tuple(latents.shape)}, and its shape() "
            f"says {wanted[1:]} for each: encode and shape of a codec must agree."
        )


def append(path: Path, content: bytes) -> None:
    with naming(path), open(path, "ab") as file:
        file.write(content)


def header(shape: tuple[int, ...]) -> bytes:
    """What .npy begins with, for float16."""
    kind = np.lib.format.dtype_to_descr(np.dtype(np.float16))
    file = BytesIO()
    facts = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.getvalue()


def opened(folder: Path) -> Tensor:
    """The latents of a finished cache.

    Raises: DamagedError where it is not what was written.
    """
    try:
        wanted = json.loads((folder / MANIFEST).read_bytes())[LATENTS]
        found = digest_of(folder / LATENTS)
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"{folder}: {error}") from error
    if found != wanted:
        raise DamagedError(f"{folder / LATENTS} does not have the SHA-256 that the manifest says.")
    # Copy on write: a tensor must be writable, the file must not change.
    latents = torch.from_numpy(np.load(folder / LATENTS, mmap_mode="c"))
    return latents if len(latents) == 2 else latents[0]


def set_aside(folder: Path) -> Path:
    """Rename a damaged cache to NAME.corrupt, or NAME.2.corrupt where that is taken."""
    names = [f"{folder.name}.corrupt", *(f"{folder.name}.{n}.corrupt" for n in range(2, 1000))]
    return folder.rename(next(p for p in map(folder.with_name, names) if not p.exists()))
