"""What a training step costs against resolution, width and batch; and two processes against one."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from sfumato.devices import emulates_bf16
from sfumato.networks import UNetConfig, flops, parameter_count

from .commands import finished
from .options import Options, chosen, keep
from .ours import ours
from .results import Row
from .rounds import Facts, Runner, in_turn, median

ROUNDS, STEPS, PROCESS_ROUNDS = 7, 60, 3  # under 8 minutes in all on two quiet cores
AXES = {
    "resolution": (16, 32, 64, 128),
    "width": (16, 32, 64, 128),
    "batch": (1, 2, 4, 8, 16, 32, 64, 128),
}
WORDS = {
    "resolution": "side of the images, width 32, batch 8",
    "width": "channels of the finest level, 32 x 32, batch 8",
    "batch": "images a step, 32 x 32, width 32",
}


@dataclass(frozen=True)
class Point:
    """A place on the three axes."""

    resolution: int = 32
    width: int = 32
    batch: int = 8

    @property
    def network(self) -> UNetConfig:
        return UNetConfig(channels=self.width, multipliers=(1, 2, 2), classes=0)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, self.resolution, self.resolution)

    @property
    def flops(self) -> float:
        """Of a training step."""
        return 3.0 * self.batch * flops(self.network.build(), self.shape)


def run(options: Options) -> None:
    for case in chosen(options, [*AXES, "processes"]):
        measure = processes if case == "processes" else partial(along, case)
        keep("scale", case, options, partial(measure, options))


def along(axis: str, options: Options) -> tuple[Facts, list[Row], Facts]:
    """Seconds a step at each value of an axis, and the exponents of the fit."""
    values = AXES[axis][: 2 if options.quick else None]
    rounds = options.rounds or ROUNDS
    middle = Point()
    # one for all axes, and not the self-test's, whose choice may differ from one to the next
    precision = "fp32" if emulates_bf16(torch.device("cpu")) else "bf16"
    points = [replace(middle, **{axis: value}) for value in values]
    steps = [
        Runner(str(value), ours(point.network, point.batch, point.shape, precision))
        for value, point in zip(values, points, strict=True)
    ]
    seconds = in_turn(steps, rounds)
    rows = [
        Row(str(value), seconds[str(value)], point.batch, "images", point.flops, {"value": value})
        for value, point in zip(values, points, strict=True)
    ]
    medians = [row.median for row in rows]
    fits = {"exponent": exponent(values, medians)}
    fits["exponent_of_last_two"] = exponent(values[-2:], medians[-2:])
    settings = {"rounds": rounds, "precision": precision, "axis": WORDS[axis]}
    return settings, rows, fits


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """p of the least-squares fit y = c x^p, in logarithms."""
    across, up = [math.log(v) for v in x], [math.log(v) for v in y]
    centre, middle = sum(across) / len(across), sum(up) / len(up)
    rise = sum((a - centre) * (u - middle) for a, u in zip(across, up, strict=True))
    return rise / sum((a - centre) ** 2 for a in across)


def processes(options: Options) -> tuple[Facts, list[Row], Facts]:
    """`sfumato train digits` by one process on all cores, and by two with half of them each."""
    threads, rounds = torch.get_num_threads(), options.rounds or PROCESS_ROUNDS
    steps = 8 if options.quick else STEPS
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with TemporaryDirectory() as folder:
        for turn in range(rounds):
            for count in (1, 2):
                out = Path(folder) / f"{count}-{turn}"
                train(out, steps, count, max(1, threads // count))
                seconds[count].append(seconds_a_step(out))
        config = json.loads((Path(folder) / "1-0" / "run.json").read_text("utf-8"))
    batch = config["train"]["batch"]
    names = {1: f"one process, {threads} threads", 2: f"two by DDP, {max(1, threads // 2)} each"}
    rows = [Row(names[count], tuple(values), batch, "images") for count, values in seconds.items()]
    return {"rounds": rounds, "steps": steps, "batch": batch}, rows, of_digits()


def train(out: Path, steps: int, count: int, threads: int) -> None:
    """Train digits for so many steps by so many processes of so many threads each."""
    words = ["train", "digits", "--steps", str(steps), "--previews", "0", "--out", str(out)]
    start = [sys.executable, "-m", "sfumato"]
    if count > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        start = [sys.executable, *torchrun, "-m", "sfumato"]
    finished([*start, *words], {"OMP_NUM_THREADS": str(threads)})


def seconds_a_step(folder: Path) -> float:
    """The median time between the rows of two steps; the first three left out."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    times = [row["seconds"] for row in rows if row["kind"] == "train"][2:]
    return median([b - a for a, b in pairwise(times)])


def of_digits() -> Facts:
    """What the estimate on paper needs of a network: parameters, and FLOPs of an image."""
    large = UNetConfig(channels=128, multipliers=(1, 2, 2, 2))
    network = large.build()
    return {
        "paper": {
            "words": "U-Net 128-256-256-256 at 32 x 32",
            "parameters": parameter_count(network),
            "flops_per_image": 3.0 * flops(network, (3, 32, 32)),
        }
    }


@dataclass(frozen=True)
class Cluster:
    """GPUs on paper. rate: FLOP/s that one reaches. bandwidth: bytes/s of its slowest link."""

    gpus: int
    rate: float
    bandwidth: float
    latency: float = 20e-6  # seconds, a hop of the ring
    hidden: float = 0.6  # the share of a step in which gradients can travel: the backward pass

    def compute(self, flops_per_image: float, batch: int) -> float:
        """Seconds of a GPU's own `batch` images."""
        return flops_per_image * batch / self.rate

    def exchange(self, parameters: int) -> float:
        """Seconds of a ring all-reduce of float32 gradients: 2 (n - 1) / n of their bytes."""
        n = self.gpus
        return 2 * (n - 1) / n * 4 * parameters / self.bandwidth + 2 * (n - 1) * self.latency

    def parts(self, parameters: int) -> tuple[float, float]:
        """Seconds of the exchange: of its bytes, and of its hops."""
        hops = 2 * (self.gpus - 1) * self.latency
        return self.exchange(parameters) - hops, hops

    def efficiency(self, flops_per_image: float, batch: int, parameters: int) -> float:
        """Images/s of all GPUs, as a share of gpus times one GPU's."""
        own = self.compute(flops_per_image, batch)
        shown = max(0.0, self.exchange(parameters) - self.hidden * own)
        return own / (own + shown)

    def least_batch(self, flops_per_image: float, parameters: int) -> int:
        """Images a GPU from which on the exchange is wholly hidden."""
        return math.ceil(self.exchange(parameters) * self.rate / self.hidden / flops_per_image)
