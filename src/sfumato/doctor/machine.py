"""What the machine has: asked once, so that what follows from it is a function of plain numbers."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

import torch
from torch import nn

from ..devices import emulates_bf16
from ..networks.winograd import convolve
from ..preflight import disk_needed, free_memory
from .finding import RISK, WRONG, Finding, found

OF_WEIGHTS = 20  # bytes a weight: itself, gradient, average and two moments, float32


@dataclass(frozen=True)
class Machine:
    """device: its type. memory, disk: free bytes; None where the system does not tell.

    gpu: one that PyTorch reaches. unreached: one that the system has and PyTorch does not reach.
    emulated: the device does bf16 in software.
    """

    device: str
    gpu: bool
    unreached: bool
    memory: int | None
    disk: int | None
    emulated: bool = False


def this_machine(device: torch.device, folder: Path = Path()) -> Machine:
    """As it is now; folder: on the disk that runs are written to."""
    mps = torch.backends.mps.is_available()
    gpu = torch.cuda.is_available() or mps
    there = Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()
    memory = free_memory({"": torch.empty(0, device=device)})
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder).free
    return Machine(device.type, gpu, there and not gpu, memory, disk, emulates_bf16(device))


def check_machine(
    machine: Machine, weights: int, keep: int, precision: str = "auto"
) -> Iterator[Finding]:
    """weights: of the network. keep: checkpoints. precision: of steps that are still to come."""
    if machine.device == "cpu" and machine.gpu:
        yield found("gpu-unused", RISK)
    if machine.device == "cpu" and machine.unreached:
        yield found("gpu-unreached", RISK, version=torch.__version__)
    if machine.emulated and precision == "bf16":
        yield found("bf16-emulated", RISK)
    needed = OF_WEIGHTS * weights
    if machine.memory is not None and needed > machine.memory:
        yield found("memory-short", WRONG, needed=needed / 1e9, free=machine.memory / 1e9)
    room = disk_needed(weights, keep)
    if machine.disk is not None and room > 0.95 * machine.disk:
        yield found("disk-short", WRONG, needed=room / 1e9, free=machine.disk / 1e9)


def pace(device: torch.device) -> float:
    """FLOP a second of a convolution that suits the device, in whichever precision is faster."""
    half = torch.float16 if device.type == "mps" else torch.bfloat16
    tried = (torch.float32,) if emulates_bf16(device) else (torch.float32, half)
    return max(_rate(device, dtype) for dtype in tried)


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    """As the networks convolve. A CPU's is by its own clock, as if no other program ran.

    Others are given more work, since starting it takes them longer than so little.
    """
    cpu = device.type == "cpu"
    clock, batch, width = (_own_time, 16, 64) if cpu else (perf_counter, 128, 256)
    layer = nn.Conv2d(width, width, 3, padding=1, device=device)
    x = torch.ones(batch, width, 32, 32, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    seconds = []
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for _ in range(4):
            begun = clock()
            convolve(layer, x).flatten()[0].item()  # waits for a GPU
            seconds.append(clock() - begun)
    return 2 * 9 * width**2 * x.shape[2] * x.shape[3] * batch / min(seconds)


def _own_time() -> float:
    return process_time() / torch.get_num_threads()
