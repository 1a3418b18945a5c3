"""Memory that is freed in a step is kept for the next one.

By default glibc gives the large blocks of a step back to the system, which clears their pages again
when the next step asks: 27,000 page faults and a tenth of the time of a step of 16 images
(experiments/LOG.md). The most that is ever taken stays the same.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEEP = 2**30  # bytes: blocks below it come from the heap, which shrinks by no less
USUAL = {TRIM_THRESHOLD: 2**26, MMAP_THRESHOLD: 2**25}  # what glibc's own rule comes to


def keep_freed(keep: bool = True) -> bool:
    """Set it, or what is usual; whether this system's allocator can be told, as glibc's can."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if not hasattr(libc, "mallopt") or libc is None:
        return False
    wanted = {TRIM_THRESHOLD: KEEP, MMAP_THRESHOLD: KEEP} if keep else USUAL
    taken = [libc.mallopt(name, value) for name, value in wanted.items()]
    if not keep:
        libc.malloc_trim(0)  # or what is kept already would go on to serve
    return all(taken)
