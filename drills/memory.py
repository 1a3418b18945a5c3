"""What a process holds: memory and open files, by Linux's /proc."""

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MB = 1e6


def resident() -> float:
    """MB of memory held now."""
    return _status("VmRSS")


def open_files() -> int:
    """Files, pipes and sockets that are open."""
    return len(os.listdir("/proc/self/fd"))


@dataclass(frozen=True)
class Cost:
    """What a call took: CPU seconds of all threads, MB at its peak above before, its answer."""

    seconds: float
    megabytes: float
    answer: Any


def cost_of(work: Callable[[], Any]) -> Cost:
    """Do it, with what is free handed back before, so that a peak is seen where it is reached."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, begun = resident(), time.process_time()
    answer = work()
    return Cost(time.process_time() - begun, _status("VmHWM") - before, answer)


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024 / MB
    raise OSError(f"/proc/self/status has no {key}: this drill needs Linux")
