"""What a measurement was made on, and whether anything else was running meanwhile."""

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")  # those that decide speed
PEERS = ("diffusers", "denoising-diffusion-pytorch")
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT")
SETTINGS += ("ONEDNN_MAX_CPU_ISA", "LD_PRELOAD")
LOUD = 0.05  # of the cores' time, used by others


def description() -> dict[str, Any]:
    """The machine, the software and the settings that speed depends on; nothing that names it."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "flags": cpu_flags(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "peers": {name: installed(name) for name in PEERS},
        "environment": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "commit": commit(),
    }


def cpu_model() -> str:
    """As the processor calls itself, with family and model where that says little."""
    lines = of_processor()
    name = lines.get("model name", platform.processor() or "unknown")
    return f"{name} (family {lines['cpu family']}, model {lines['model']})" if lines else name


def cpu_flags() -> list[str]:
    there = of_processor().get("flags", "").split()
    return [flag for flag in FLAGS if flag in there]


def of_processor() -> dict[str, str]:
    """The first processor's lines in /proc/cpuinfo; none where there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    lines = path.read_text().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """Of this repository; with a "+" where files of the package differ from it."""
    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if git("status", "--porcelain", "--", "src", "bench/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*words: str) -> str:
    told = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return told.stdout.strip()


@dataclass(frozen=True)
class Ticks:
    """Time that all cores have spent so far, in clock ticks: in all, idle, and by this program."""

    total: int
    idle: int
    own: float

    @classmethod
    def now(cls) -> "Ticks | None":
        """None where the system does not say."""
        path = Path("/proc/stat")
        if not path.exists():
            return None
        user, nice, system, idle, wait, *rest = map(int, path.read_text().split()[1:9])
        own = sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")
        return cls(user + nice + system + idle + wait + sum(rest), idle + wait, own)


def share_of_others(begun: Ticks | None, ended: Ticks | None) -> float | None:
    """Of the cores' time between the two, what other programs used; None where it is not known."""
    if begun is None or ended is None or ended.total <= begun.total:
        return None
    busy = (ended.total - ended.idle) - (begun.total - begun.idle)
    return max(0.0, (busy - (ended.own - begun.own)) / (ended.total - begun.total))


class Watch:
    """From its making to report(): how busy the machine was with other things."""

    def __init__(self, look: float = 1.0) -> None:
        """Looks for `look` seconds whether it is quiet now, and warns at once where it is not."""
        self.begun, self.load = datetime.now(UTC), os.getloadavg()
        before = Ticks.now()
        time.sleep(look)
        self.ticks = Ticks.now()
        self.before = share_of_others(before, self.ticks)
        if (self.before or 0.0) > LOUD:
            warn(f"other programs take {self.before:.0%} of the cores' time now")

    def report(self) -> dict[str, Any]:
        """Date, load averages before and after, and the share of the cores that others used.

        What this program's children used counts as its own once they have ended.
        """
        share = share_of_others(self.ticks, Ticks.now())
        told: dict[str, Any] = {
            "date": self.begun.isoformat(timespec="seconds"),
            "minutes": round((datetime.now(UTC) - self.begun).total_seconds() / 60, 2),
            "load_before": [round(value, 2) for value in self.load],
            "load_after": [round(value, 2) for value in os.getloadavg()],
            "others_share_before": self.before if self.before is None else round(self.before, 4),
            "others_share": share if share is None else round(share, 4),
        }
        loud = told["load_before"][0] > 0.5 if share is None else share > LOUD
        if loud:
            told["warning"] = (
                f"the machine was not quiet: the load average before was {self.load[0]:.2f}, and "
                f"other programs took {share or 0:.0%} of the cores' time; ratios are of turns "
                "that all were slowed alike, but rates are too low"
            )
            warn(told["warning"])
        return told


def warn(text: str) -> None:
    print(f"WARNING: {text}", file=sys.stderr, flush=True)


def peak_memory_mb() -> float:
    """The most memory that this process has held at once, in MB: VmHWM.

    getrusage would also count what its parent held when it was started.
    """
    path = Path("/proc/self/status")
    if path.exists():
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
