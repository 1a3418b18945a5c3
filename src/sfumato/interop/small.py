"""Small public weights for MNIST, read as runs of ours; see networks.small for whose they are.

    network.*                 PulferUNet; linear betas 1e-4 ... 0.02, T = 1000, eps, [-1, 1]
    gt.*, beta_t, alpha_t     StarterCNN; T + 1 linear betas, eps, [-0.5, 0.5], told i / T

The second counts its T + 1 betas from 0 and tells the network i / T at step i, which has i + 1 of
them behind it: here step i + 1 of T + 1, at t = (i + 1) / (T + 1).
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..config import DataConfig, Run, SamplingConfig
from ..discrete import LinearBetas
from ..grids import UniformGrid
from ..networks.small import PulferUNetConfig, StarterCNNConfig
from ..noising import ScaledInput
from ..objective import Denoising, DiscreteTimes
from ..parameterization import PredictNoise
from ..schedules import Constant
from ..solvers import Ancestral
from ..training import TrainConfig
from .fitting import sides
from .imported import Imported
from .lucid_shapes import check_fits
from .reading import naming
from .torch_files import Tree, read_tensors

HALF = 0.5  # its images are in [-0.5, 0.5]


def read(path: Path) -> Imported | None:
    """The run of one of these files, or None where the file is of another program.

    Raises: ValueError where the file is no torch file, unsafe, or only looks like one of these.
    """
    return None if path.is_dir() else of_tree(read_tensors(path), str(path))


def of_tree(tree: Tree, source: str) -> Imported | None:
    """The same of what read_tensors returned."""
    with naming(source):
        return _of_tree(tree, source)


def _of_tree(tree: Tree, source: str) -> Imported | None:
    tensors = {str(key): value for key, value in tree.items() if isinstance(value, Tensor)}
    if {"network.time_embed.weight", "network.te1.0.weight"} <= set(tensors):
        return _pulfer(tensors, source)
    if {"beta_t", "alpha_t", "gt.frequencies"} <= set(tensors):
        return _starter(tensors, source)
    return None


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}


def _pulfer(tensors: dict[str, Tensor], source: str) -> Imported:
    weights = _below(tensors, "network.")
    steps, features = sides(weights, "time_embed.weight", 2)
    channels, images, _, _ = sides(weights, "b1.0.conv1.weight", 4)
    size = weights["b1.0.ln.weight"].shape[-1]
    network = PulferUNetConfig(images, None, channels, size, steps, features)
    check_fits(network, weights, "BrianPulfer/PapersReimplementations")
    run = _run(
        source,
        network,
        LinearBetas(steps, rescaled=False),
        PredictNoise(time_scale=float(steps), time_offset=-1.0),
        steps,
    )
    # Its norms take the mean of the image away, so that nothing else holds the brightness.
    run = replace(run, sampling=replace(run.sampling, clipped=True))
    notes = (
        "The file holds no schedule: linear betas from 0.0001 to 0.02, as its program has them.",
        "The network does not see how bright an image is; samples are clipped to keep it in range.",
    )
    return Imported(run, weights, (images, size, size), source, notes=notes)


def _starter(tensors: dict[str, Tensor], source: str) -> Imported:
    weights = _below(tensors, "gt.")
    count = sum(key.endswith(".net.0.weight") for key in weights)
    hidden = tuple(weights[f"blocks.{i}.net.0.weight"].shape[0] for i in range(count))
    images, size = (
        weights["blocks.0.net.0.weight"].shape[1],
        weights["blocks.0.net.1.bias"].shape[1],
    )
    waves = len(weights["frequencies"])
    network = StarterCNNConfig(images, None, hidden, size, waves, input_scale=HALF)
    check_fits(network, weights, "Yichizz/hot_vs_cold_diffusion")
    betas = linear_betas(tensors["beta_t"])
    last = betas.steps - 1
    predicts = PredictNoise(time_scale=betas.steps / last, time_offset=-1 / last)
    run = _run(source, network, ScaledInput(betas, HALF), predicts, betas.steps)
    note = "Its images are in [-0.5, 0.5]; here they are in [-1, 1], and the noise twice as strong."
    return Imported(run, weights, (images, size, size), source, notes=(note,))


def linear_betas(table: Tensor) -> LinearBetas:
    """The process of these betas, (T,) float32.

    Raises: ValueError where they do not lie on a line.
    """
    first, last = (float(f"{value:.6g}") for value in (table[0].item(), table[-1].item()))
    process = LinearBetas(len(table), first, last, rescaled=False)
    if not torch.allclose(process.betas(), table.double(), rtol=1e-4):
        raise ValueError(
            f"its {len(table)} betas from {first} to {last} do not lie on a line; only linear ones "
            "can be imported."
        )
    return process


def _run(
    source: str,
    network: PulferUNetConfig | StarterCNNConfig,
    process: LinearBetas | ScaledInput,
    predicts: PredictNoise,
    steps: int,
) -> Run:
    data = DataConfig(source="", size=network.size, channels=network.in_channels, labels=False)
    return Run(
        name=Path(source).stem,
        data=data,
        process=process,
        parameterization=predicts,
        objective=Denoising(DiscreteTimes(steps)),
        network=network,
        train=TrainConfig(steps=10_000, batch=128, lr=2e-4, decay=Constant(), weight_decay=0.0),
        sampling=SamplingConfig(Ancestral(variance_mix=1.0), UniformGrid(), steps),
        precision="fp32",
    )
