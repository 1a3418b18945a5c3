"""The primitives through which all that must not be lost reaches the disk.

storage.py calls nothing else that writes. So a drill can record every call to enumerate the states
that a crash could leave, or make any one of them fail (drills/checkpoints.py).
"""

import errno
import os
from pathlib import Path


def make_folder(path: Path) -> None:
    """One new folder, in a folder that is there."""
    os.mkdir(path)


def write(path: Path, content: bytes) -> None:
    """A file with this content: not durable before sync, and may be cut short by a crash."""
    with open(path, "wb") as file:
        file.write(content)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, which is made where there is none; nothing where that fails."""
    with open(path, "ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            written = file.write(content)
            if written != len(content):  # the disk filled up in the middle
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(before)
            raise


def sync(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    _sync(path, os.O_RDWR)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk; systems that can't open folders skip it."""
    if os.name != "nt":
        _sync(path, os.O_RDONLY)


def _sync(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(old: Path, new: Path) -> None:
    """At once: a reader sees the one name or the other. A file that was at `new` is replaced."""
    os.replace(old, new)


def remove(path: Path) -> None:
    """A file."""
    os.unlink(path)


def remove_folder(path: Path) -> None:
    """An empty folder."""
    os.rmdir(path)
