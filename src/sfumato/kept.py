"""What is kept on disk since making it takes long: read where it is sound, put where it fits.

    CACHE/NAME/{manifest.json, ...}      NAME is a hash of all that decides what is in it

A folder appears whole or not at all (storage.py) and is checked against its SHA-256 before it is
used: a damaged one is removed, told of and made anew. A cache takes at most so many bytes as its
owner says, and one more folder at most SHARE of what the disk has left; those that were not read
for the longest time go first. A disk that refuses is told of, and nothing is lost.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .storage import MANIFEST, TEMPORARY, DamagedError, make_folders, remove_tree, retire

SHARE = 0.2  # of what the disk has left that one more folder may take
ABANDONED = 3600.0  # seconds after which an unfinished folder is one that a killed process left

T = TypeVar("T")
Say = Callable[[str], None]


def read(path: Path, opened: Callable[[Path], T], what: str, warn: Say) -> T | None:
    """opened(path), which raises DamagedError; None for nothing, or nothing sound, told."""
    if not path.exists():
        return None
    try:
        found = opened(path)
        mark_read(path)
    except DamagedError as error:
        warn(f"{what}: what was kept is damaged ({error}) and is made anew.")
        _removed(path, warn)
    except OSError as error:
        warn(f"{what}: what was kept can't be read ({error}) and is made anew.")
    else:
        return found
    return None


def _removed(path: Path, warn: Say) -> None:
    try:
        retire(path)
    except OSError as error:
        warn(f"It could not be removed: {error}")


def put(
    path: Path, size: int, most: int, write: Callable[[Path], None], what: str, warn: Say
) -> None:
    """write(path) where its `size` bytes fit into the cache, which is path's parent."""
    try:
        if room_for(path.parent, size, most, warn) and not path.exists():
            write(path)
    except OSError as error:
        warn(f"{what}: not kept for the next time: {error}")


def mark_read(path: Path) -> None:
    """When it was last read decides which folders go first."""
    os.utime(path / MANIFEST)


def room_for(cache: Path, size: int, most: int, say: Say | None = None) -> bool:
    """Whether so many bytes may be put into the cache; then there is room, which was made."""
    make_folders(cache)
    clear_abandoned(cache, say)
    if size > min(most, SHARE * shutil.disk_usage(cache).free):
        return False
    make_room(cache, most - size)
    return True


def clear_abandoned(cache: Path, say: Say | None = None) -> None:
    """Remove what killed writers left; not what another process may be writing now.

    What can't be removed, being another user's, stays and is told to `say`: nothing depends on it,
    so that where nobody is told no harm is done.
    """
    for path in cache.glob(f"{TEMPORARY}*"):
        try:
            if time.time() - last_written(path) > ABANDONED:
                remove_tree(path)
        except FileNotFoundError:  # another process finished it just now, or removed it
            continue
        except OSError as error:
            if say is not None:
                say(
                    f"{path}, which an unfinished run seems to have left, could not be removed "
                    f"({error.strerror or error}): it takes room there, and is not needed."
                )


def last_written(path: Path) -> float:
    """When a file was, or the newest in a folder: a writer may take hours over one file."""
    return max(inner.stat().st_mtime for inner in (path, *path.rglob("*")))


def make_room(cache: Path, most: int) -> None:
    """Remove the folders that were not read for the longest time until all take at most `most`."""
    there = [path for path in cache.iterdir() if (path / MANIFEST).is_file()]
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in there}
    for path in sorted(there, key=lambda path: (path / MANIFEST).stat().st_mtime):
        if sum(sizes.values()) <= most:
            return
        retire(path)
        del sizes[path]
