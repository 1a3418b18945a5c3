"""From settings to working parts: a settled run, its denoiser, its loss and its batches.

Batch k is a function of (seed, k): the examples, flips, dropped labels, times and noise of the
whole batch are drawn at once, so that cutting it into parts changes none of them.
"""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor

from .codec import Pixels
from .config import Run
from .data import ImageData, batch_indices, flip, flip_mask, generator_at
from .denoiser import NetworkDenoiser
from .objective import draws
from .parameterization import EDMPreconditioning
from .training import Batch, Loss

CODEC = Pixels()
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


def deviation_of(data: ImageData) -> float:
    """The standard deviation of the encoded images, of 10,000 spread over all: EDM's sigma_data."""
    some = data.images[:: max(1, len(data) // 10_000)]
    return max(0.05, round(CODEC.encode(some).std().item(), 3))


def settle(run: Run, data: ImageData) -> Run:
    """The run with what only the data can say filled in: channels, classes, sigma_data of 0."""
    classes = 0 if data.labels is None else len(data.class_names)
    outputs = data.channels * (2 if run.learned_variance else 1)
    network = replace(run.network, in_channels=data.channels, out_channels=outputs, classes=classes)
    parameterization = run.parameterization
    if isinstance(parameterization, EDMPreconditioning) and parameterization.sigma_data == 0:
        parameterization = EDMPreconditioning(sigma_data=deviation_of(data))
    return replace(run, network=network, parameterization=parameterization)


def build(run: Run, device: torch.device) -> NetworkDenoiser:
    """The run's denoiser with fresh weights, which depend on train.seed alone."""
    torch.manual_seed(generator_at(run.train.seed, "weights").initial_seed())
    network = run.network.build().to(device)
    precision = DTYPES[run.precision if run.precision in DTYPES else "fp32"]
    return NetworkDenoiser(
        network, run.process, run.parameterization, run.learned_variance, precision
    )


def loss_of(run: Run) -> Loss:
    """The objective as the training loop wants it: (model, batch) to one loss an example."""

    def loss(model: torch.nn.Module, batch: Batch) -> Tensor:
        x0 = CODEC.encode(batch["images"])
        return run.objective(model, x0, batch.get("labels"), batch["u"], batch["eps"])  # type: ignore[arg-type]

    return loss


def batches(run: Run, data: ImageData, device: torch.device) -> Callable[[int], Batch]:
    """The function from a step to its batch."""
    images = data.images.to(device)
    labels = None if data.labels is None else data.labels.to(device)
    seed, size = run.train.seed, run.train.batch

    def batch_at(step: int) -> Batch:
        index = batch_indices(len(data), size, seed, step).to(device)
        chosen = images[index]
        if run.data.flip:
            chosen = flip(chosen, flip_mask(size, generator_at(seed, "flip", step)))
        u, eps = draws(chosen, generator_at(seed, "noise", step))
        batch = {"images": chosen, "u": u, "eps": eps}
        if labels is not None:
            drop = torch.rand(size, generator=generator_at(seed, "label", step))
            dropped = (drop < run.data.label_dropout).to(device)
            batch["labels"] = torch.where(dropped, run.network.classes, labels[index])
        return batch

    return batch_at


def held_out_batch(run: Run, data: ImageData, device: torch.device) -> Batch:
    """The held-out images with fixed noise and fixed times, one in each n-th of their quantiles.

    Times increase along the batch and the images are shuffled against them once and for all.
    """
    n, seed = len(data), run.train.seed
    order = torch.randperm(n, generator=generator_at(seed, "held-out order"))
    images = data.images[order].to(device)
    _, eps = draws(images, generator_at(seed, "held-out noise"))
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    batch = {"images": images, "u": u, "eps": eps}
    if data.labels is not None:
        batch["labels"] = data.labels[order].to(device)
    return batch


def level_log_snr(run: Run, levels: int) -> list[float]:
    """The log-SNR in the middle of each of `levels` equal shares of the training times."""
    u = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    return run.process.log_snr(run.objective.times(run.process, u)).tolist()


def by_level(losses: Tensor, levels: int) -> list[float]:
    """Means over equal runs of losses that are sorted by time."""
    return [part.mean().item() for part in losses.tensor_split(levels)]


def settle_precision(run: Run, data: ImageData, device: torch.device) -> tuple[Run, str]:
    """The run with precision "auto" decided, and the reason in words.

    bf16 is taken where training steps, timed in turn with fp32's, are at least 1.15 times faster
    and the network's output is fp32's to within a twentieth.
    """
    if run.precision != "auto":
        return run, f"{run.precision}, as asked"
    trials = {name: _Trial(replace(run, precision=name), data, device) for name in DTYPES}
    for _ in range(5):
        for trial in trials.values():
            trial.step()
    share = min(trials["bf16"].seconds[1:]) / min(trials["fp32"].seconds[1:])
    exact, rough = trials["fp32"].output(), trials["bf16"].output()
    error = ((rough - exact).norm() / exact.norm()).item()
    if not error < 0.05:
        return replace(run, precision="fp32"), f"fp32: here bf16 is wrong by {error:.0%}"
    name = "bf16" if share <= 1 / 1.15 else "fp32"
    return replace(run, precision=name), f"{name}: here bf16 takes {share:.2f} of fp32's time"


class _Trial:
    """A few training steps in one precision, timed."""

    def __init__(self, run: Run, data: ImageData, device: torch.device) -> None:
        self.model, self.loss, self.device = build(run, device), loss_of(run), device
        generator = torch.Generator().manual_seed(0)
        for parameter in self.model.parameters():  # else the last layer's zeros hide the network
            if not parameter.any():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(0.02 * noise)
        most = run.train.micro_batch or run.train.batch
        whole = batches(run, data, device)(0)
        self.batch = {name: rows[:most] for name, rows in whole.items()}
        self.seconds: list[float] = []

    def step(self) -> None:
        begun = perf_counter()
        self.loss(self.model, self.batch).mean().backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds.append(perf_counter() - begun)

    @torch.no_grad()
    def output(self) -> Tensor:
        """The network's raw output for the batch's noise, (B, C, H, W)."""
        self.model.eval()
        eps = self.batch["eps"].to(self.device)
        level = torch.linspace(-1, 1, len(eps), device=self.device)
        return self.model.run_network(eps, level, self.batch.get("labels"))
