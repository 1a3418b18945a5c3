"""One writer a run folder: a lock that the system lets go of when its process ends, however."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

NAME = ".lock"


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock within the block. Its file stays, since it says who had it last.

    Raises: ValueError at once where another process holds it, naming it; OSError where the disk
    knows no locks.
    """
    with open(folder / NAME, "a+", encoding="utf-8") as file:
        if not _locked(file):
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise ValueError(
                f"{folder} is being written by {holder}. Two at once would spoil it: wait for that "
                "one, stop it, or give another --out."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _locked(file: IO[str]) -> bool:
    """Take the lock of an open file; whether it was free. It ends with the file or the process."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(2**30)  # a byte that nobody reads, so that others can read the text
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
