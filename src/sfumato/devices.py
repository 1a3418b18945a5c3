"""Devices and number formats: which there are, and which of them is fastest here."""

from collections.abc import Callable, Sequence
from functools import reduce
from time import perf_counter

import torch
from torch import Tensor

_GPU_HINT = (
    " For an NVIDIA GPU install PyTorch's CUDA build, for example by GO_TORCH=cuda and go.py."
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """The device asked for; auto is CUDA, then Apple's MPS, then the CPU.

    Raises: ValueError where it is none, or PyTorch can't reach it.
    """
    mps = torch.backends.mps.is_available()
    there = {"cuda": torch.cuda.is_available(), "mps": mps, "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    kind, _, number = name.partition(":")
    if not there.get(kind) or (number and not number.isdecimal()):
        usable = ", ".join(kind for kind, found in there.items() if found)
        raise ValueError(
            f"device {name!r}: PyTorch {torch.__version__} can use {usable} here.{_GPU_HINT}"
        )
    return torch.device(name)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused: by Python, by a GPU's allocator or by the CPU's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def read(values: Sequence[Tensor]) -> list[float]:
    """Numbers () of one device in one transfer: what waits for a GPU in a training step, once."""
    kind = reduce(torch.promote_types, (value.dtype for value in values))
    return torch.stack([value.to(kind) for value in values]).tolist()


def wait(device: torch.device) -> None:
    """Until an accelerator has done what it was given: only then does a clock tell of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def circumstances(device: torch.device) -> dict[str, str]:
    """What bit-for-bit equality of a run depends on, besides its settings and its data."""
    cpu = device.type == "cpu"
    name = torch.backends.cpu.get_cpu_capability() if cpu else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else name
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "PyTorch": torch.__version__,
        "device": f"{device.type} {name}",
        "threads": str(torch.get_num_threads()) if cpu else "",
        "processes": str(torch.distributed.get_world_size() if together else 1),
    }


def emulates_bf16(device: torch.device) -> bool:
    """Whether bf16 is done in software there: ten times slower than fp32 (experiments/LOG.md)."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


SLOW_BF16 = "bf16 is done in software here, about ten times slower than fp32"


def precision_here(precision: str, device: torch.device) -> str:
    """What to draw in there, of what was trained in `precision`: fp32 where bf16 is emulated."""
    return "fp32" if precision == "bf16" and emulates_bf16(device) else precision


class Trial:
    """A few training steps in one precision, timed; and the network's output in it."""

    def __init__(
        self,
        step: Callable[[], None],
        output: Callable[[], Tensor],
        device: torch.device,
    ) -> None:
        self._step, self.output, self.device = step, output, device
        self.seconds: list[float] = []

    def step(self) -> None:
        begun = perf_counter()
        self._step()
        wait(self.device)
        self.seconds.append(perf_counter() - begun)


WORTH = 1 / 1.15  # of fp32's time: what bf16 may take at most
DOUBTFUL = (0.85, 1.15)  # times WORTH: where two more rounds decide


def faster_precision(trials: dict[str, Trial]) -> tuple[str, str]:
    """(the precision to take, the reason in words) of the trials "fp32" and "bf16".

    bf16 is taken where training steps, timed in turn with fp32's, are at least 1.15 times faster
    and the network's output is fp32's to within a twentieth. The first step of each sets things up
    and does not count; of four more the fastest does, or of two where they leave no doubt.
    """
    share = WORTH
    for rounds in range(5):
        for trial in trials.values():
            trial.step()
        if rounds >= 2:
            share = min(trials["bf16"].seconds[1:]) / min(trials["fp32"].seconds[1:])
            if not DOUBTFUL[0] < share / WORTH < DOUBTFUL[1]:
                break
    exact, rough = trials["fp32"].output(), trials["bf16"].output()
    error = ((rough - exact).norm() / exact.norm()).item()
    if not error < 0.05:
        return "fp32", f"fp32: here bf16 is wrong by {error:.0%}"
    name = "bf16" if share <= WORTH else "fp32"
    return name, f"{name}: here bf16 takes {share:.2f} of fp32's time"
