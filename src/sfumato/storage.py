"""All writing of things that must not be lost: a folder appears whole, or not at all.

    write every file into a temporary folder and fsync each; manifest.json with the SHA-256 of each
    last; fsync the temporary folder; rename it to its name; fsync the folder that holds it.

A reader checks the manifest before it uses a byte. Damaged folders are renamed, never deleted. The
calls that write are those of disk.py, and no others.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from . import disk

MANIFEST = "manifest.json"
TEMPORARY = ".unfinished-"


class DamagedError(Exception):
    """A committed folder is not what its manifest says."""


def make_folders(path: Path) -> None:
    """The folder and those above it that are missing, their names durable."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with naming(folder):
            disk.make_folder(folder)
            disk.sync_folder(folder.parent)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file's content so that a reader sees the old or the new, never a part."""
    temporary = path.with_name(TEMPORARY + path.name)
    with naming(path):
        disk.write(temporary, content)
        disk.sync(temporary)
        disk.rename(temporary, path)
        disk.sync_folder(path.parent)


@contextmanager
def naming(path: Path, doing: str = "write") -> Iterator[None]:
    """What the disk refuses within the block is told with the path that it was about."""
    try:
        yield
    except OSError as error:
        told = error.strerror or str(error)
        raise OSError(error.errno, f"could not {doing} {path}: {told}") from error


def commit_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `target` with these files and a manifest, all or nothing.

    Raises: FileExistsError where target exists; OSError, naming path and cause, where the disk
    refuses or has no room, and then nothing is left behind that the disk let be removed.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already; a committed folder is never overwritten.")
    make_folders(target.parent)
    manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    whole = {**files, MANIFEST: json.dumps(manifest, indent=1).encode()}
    check_room(target.parent, sum(map(len, whole.values())))
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}")
    try:
        with naming(target):
            if temporary.exists():
                remove_tree(temporary)
            disk.make_folder(temporary)
            for name, content in whole.items():
                disk.write(temporary / name, content)
                disk.sync(temporary / name)
            disk.sync_folder(temporary)
            disk.rename(temporary, target)
            disk.sync_folder(target.parent)
    except OSError:
        if temporary.exists():
            remove_what_can_be(temporary)
        raise


def commit_written(temporary: Path, target: Path, files: Mapping[str, bytes]) -> None:
    """Commit a folder that others have written files into, with these beside them.

    Raises: as commit_folder.
    """
    with naming(target):
        for name, content in files.items():
            disk.write(temporary / name, content)
        paths = sorted(path for path in temporary.iterdir() if path.name != MANIFEST)
        manifest = {path.name: digest_of(path) for path in paths}
        disk.write(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        for path in (*paths, temporary / MANIFEST):
            disk.sync(path)
        disk.sync_folder(temporary)
        disk.rename(temporary, target)
        disk.sync_folder(target.parent)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file that may be larger than memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_room(folder: Path, size: int) -> None:
    """Raise OSError (ENOSPC) where the disk of `folder` has fewer than `size` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(
            errno.ENOSPC, f"{size:,} bytes are to be written and {free:,} are free", str(folder)
        )


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a committed folder, each checked against the manifest.

    Raises: DamagedError, naming the file, where one is missing or changed; OSError where the
    system can't read now, which says nothing of the files.
    """
    with _finding_damage(folder):
        manifest = checked_manifest(json.loads((folder / MANIFEST).read_bytes()))
        files = {name: (folder / name).read_bytes() for name in manifest}
    for name, content in files.items():
        _check_digest(folder / name, hashlib.sha256(content).hexdigest(), manifest[name])
    return files


def check_folder(folder: Path) -> None:
    """read_folder for files that are larger than memory: checked, and not kept."""
    with _finding_damage(folder):
        manifest = checked_manifest(json.loads((folder / MANIFEST).read_bytes()))
        digests = {name: digest_of(folder / name) for name in manifest}
    for name, digest in digests.items():
        _check_digest(folder / name, digest, manifest[name])


@contextmanager
def _finding_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, ValueError, TypeError) as error:
        raise DamagedError(f"{folder}: {error}") from error


def _check_digest(path: Path, found: str, written: str) -> None:
    if found != written:
        raise DamagedError(f"{path} does not have the SHA-256 that the manifest says.")


def checked_manifest(found: object) -> dict[str, str]:
    """The manifest as it was written: plain names of files here, and their SHA-256.

    Raises: ValueError for anything else.
    """
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"{MANIFEST} is not an object of names and their SHA-256")
    strange = [name for name in found if name in ("", ".", "..") or Path(name).name != name]
    if strange:
        raise ValueError(f"{MANIFEST} names {strange[0]!r}, which is no plain name of a file")
    return found


def remove_tree(path: Path) -> None:
    """A folder and all in it, or a file; links are removed, not followed."""
    if path.is_symlink() or not path.is_dir():
        return disk.remove(path)
    for inner in sorted(path.iterdir()):
        remove_tree(inner)
    disk.remove_folder(path)


def remove_what_can_be(folder: Path) -> None:
    """Make room after a failed write; what stays is cleared at the next start."""
    try:
        remove_tree(folder)
    except OSError:
        return


def retire(folder: Path) -> None:
    """Remove a committed folder; a crash on the way can't leave a part of it under its name."""
    doomed = folder.with_name(f"{TEMPORARY}{folder.name}-old")
    with naming(folder, "remove"):
        disk.rename(folder, doomed)
        disk.sync_folder(folder.parent)
        remove_tree(doomed)


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed writer left behind."""
    for path in folder.glob(f"{TEMPORARY}*"):
        remove_tree(path)
