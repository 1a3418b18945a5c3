"""The recipe for images of one's own: chosen by the images, the machine and a preset, with reasons.

A CPU's network sees pixels in squares, so that an image takes at most about 0.4 GFLOP forward
whatever its size; a GPU's is wider and sees single pixels as long as it can. `reasons`
says of a settled run which of its settings were chosen here, and why.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from math import log, log2

import torch

from ..config import AnyRun, DataConfig, NetworkConfig, Run, SamplingConfig
from ..console import count, short
from ..data import ImageData
from ..grids import KarrasGrid
from ..networks.sd_unet import SDUNetConfig
from ..networks.unet import UNetConfig
from ..objective import Denoising, EDMWeight, LogNormalTimes, OutputMSE
from ..parameterization import EDMPreconditioning
from ..process import Karras
from ..solvers import Heun
from ..text import TextConfig
from ..training import TrainConfig
from .report import network_by_size

PRESETS = ("tiny", "small", "base")
SIZES = {"tiny": (32, 1), "small": (32, 2), "base": (64, 2)}  # preset: channels, blocks a level
SIZES_GPU = {"tiny": (32, 2), "small": (64, 2)}  # base is network_by_size
PATCHES = ((16, 1), (48, 2), (96, 4), (192, 8))  # side up to, pixels a side of a feature
PATCHES_GPU = ((64, 1), (128, 2), (256, 4))
TEXT_CHANNELS = {"tiny": 16, "small": 32, "base": 48}
TEXT_CHANNELS_GPU = {"tiny": 48, "small": 96, "base": 128}
CPU_FLOPS = 0.4e9  # of one image forward, at most, with the preset small
NAME = "own_images"


def own_images(
    data: ImageData,
    source: str,
    preset: str,
    deviation: float,
    accelerated: bool = False,
    captions: bool = False,
) -> Run:
    """EDM on the images; the noise levels move with their size and their deviation.

    accelerated: for a GPU. captions: the texts are the condition, and not the classes.

    sfumato train FOLDER --time 10m
    """
    told = captions or data.labels is not None
    guidance = 2.0 if captions else 1.5 if told else 1.0
    network = network_for(data, preset, accelerated, captions)
    passes = noise_passes(network, data.channels)
    weight = OutputMSE() if passes else EDMWeight(deviation, most=100.0)
    return Run(
        name=f"{data.name}-{preset}",
        recipe=NAME,
        data=DataConfig(source=source),
        process=Karras(),
        parameterization=EDMPreconditioning(sigma_data=deviation, skip=passes),
        objective=Denoising(noise_levels(max(data.size), deviation), weight),
        network=network,
        train=train_for(preset, accelerated),
        sampling=SamplingConfig(Heun(), KarrasGrid(), steps=18, guidance=guidance, clipped=True),
        text=TextConfig() if captions else None,
    )


def network_for(
    data: ImageData, preset: str, accelerated: bool = False, captions: bool = False
) -> NetworkConfig:
    """The U-Net for the images' larger side; its channels and classes are settled later."""
    side = max(data.size)
    if captions:
        return text_network(side, preset, accelerated)
    if accelerated and preset == "base":
        return replace(network_by_size(side), noise_scale=250.0)
    patch = patch_for(side, accelerated)
    levels = 2 if side <= 32 and not accelerated else 3
    channels, blocks = (SIZES_GPU if accelerated else SIZES)[preset]
    coarse = tuple(patch * 2**level for level in range(levels) if side / (patch * 2**level) <= 16)
    return UNetConfig(
        channels=channels,
        multipliers=tuple(range(1, levels + 1)),
        blocks=blocks,
        # On a CPU the middle attends alone; more cost 15 % and won nothing (experiments/LOG.md).
        attention_at=coarse if accelerated else (),
        patch=patch,
        noise_scale=250.0,
    )


def noise_passes(network: NetworkConfig, channels: int) -> bool:
    """Whether a square of pixels has no more values than the first level has channels.

    Else noise does not fit through the network: of 48 values and 32 channels a third of the
    noise's variance stays, and is seen (experiments/LOG.md). An image's squares do fit.
    """
    values = getattr(network, "patch", 1) ** 2 * channels
    return values <= getattr(network, "channels", values)


def patch_for(side: int, accelerated: bool) -> int:
    """Pixels a side of a feature of the first level, for images of `side` pixels."""
    table = PATCHES_GPU if accelerated else PATCHES
    return next((patch for most, patch in table if side <= most), 8 if accelerated else 16)


def text_network(side: int, preset: str, accelerated: bool) -> SDUNetConfig:
    """emoji_text's network: it halves until 8 features a side, and attends to the words there."""
    multipliers = (1, 2, 3) if side <= 32 else (1, 1, 2, 3) if side <= 64 else (1, 1, 2, 2, 3)
    channels = (TEXT_CHANNELS_GPU if accelerated else TEXT_CHANNELS)[preset]
    return SDUNetConfig(
        channels=channels,
        multipliers=multipliers,
        blocks=1,
        attention_at=(2 ** (len(multipliers) - 1),),
        dropout=0.0,
        groups=8,
        head_channels=min(channels, 48),
        noise_scale=250.0,
    )


def noise_levels(side: int, deviation: float) -> LogNormalTimes:
    """log sigma ~ N(-1.2, 1.2^2) for 32 pixels and a deviation of 0.5: Karras et al. (2022).

    Neighbouring pixels of a larger image repeat one another, so that more noise is needed to hide
    it: Chen (2023), arXiv:2301.10972. Above 32 pixels the mean rises by log(side / 32) / 2 and the
    width by 0.2 a doubling. At 64 pixels these are -0.85 and 1.4, beside -0.8 and 1.6 of EDM2's
    settings for ImageNet at 64.
    """
    doublings = max(0.0, log2(side / 32))
    mean = -1.2 + log(deviation / 0.5) + doublings * log(2) / 2
    return LogNormalTimes(mean=round(mean, 3), std=round(min(1.6, 1.2 + 0.2 * doublings), 2))


def train_for(preset: str, accelerated: bool) -> TrainConfig:
    """Ten minutes; a rate that falls with the network's width."""
    if not accelerated:
        return TrainConfig(seconds=600, muon=True)
    return TrainConfig(seconds=600, batch=256, lr=3e-4 if preset == "base" else 1e-3)


# ---- why


def reasons(run: AnyRun, data: ImageData, device: torch.device) -> dict[str, str]:
    """What was chosen by itself, name by name, and why; nothing for a run of another recipe.

    A setting that is not what would be chosen for this data and device is said to be as asked.
    """
    if not isinstance(run, Run) or run.recipe != NAME:
        return {}
    accelerated = device.type != "cpu"
    return {
        "detail": on_detail(run, data, accelerated),
        "batch": on_batch(run, accelerated),
        "optimizer": on_optimizer(run, accelerated),
        "noise": on_noise(run, max(data.size)),
        "guidance": on_guidance(run, data),
        "flip": on_flip(run.data),
    }


def machine(accelerated: bool) -> str:
    return "a GPU" if accelerated else f"a CPU of {os.cpu_count()} cores"


def presets_of(run: Run, data: ImageData, accelerated: bool) -> Iterator[str]:
    """The presets whose network the run has."""
    for preset in PRESETS:
        if accelerated and preset == "base" and max(data.size) > 256:
            continue  # which has no such network
        wanted = network_for(data, preset, accelerated, run.text is not None)
        settled = ("in_channels", "out_channels", "classes", "context", "dropout")
        if replace_as(wanted, run.network, settled) == run.network:
            yield preset


def replace_as(
    config: NetworkConfig, other: NetworkConfig, names: tuple[str, ...]
) -> NetworkConfig:
    """`config` with the fields of `other` by these names, where both have them."""
    there = vars(config).keys() & vars(other).keys() & set(names)
    return replace(config, **{name: getattr(other, name) for name in there})  # type: ignore[type-var]


def on_detail(run: Run, data: ImageData, accelerated: bool) -> str:
    height, width = data.size
    preset = next(presets_of(run, data, accelerated), None)
    if preset is None:
        return "of the network as asked"
    if run.text is not None:
        faster = "" if accelerated or max(height, width) <= 32 else "; --size 32 is much faster"
        return f"the network that reads captions sees single pixels{faster}; {of_presets(preset)}"
    patch = getattr(run.network, "patch", 1)
    seen = "single pixels" if patch == 1 else f"squares of {patch} x {patch} pixels as one feature"
    said = (
        f"it sees {seen}, because images are {height} x {width} and this is {machine(accelerated)}"
    )
    if not accelerated:
        said += f", whose pace allows about {short(CPU_FLOPS, 'FLOP')} an image"
    if not noise_passes(run.network, data.channels):
        said += "; it gives the image rather than the noise, which would not fit through it"
    if patch >= 8:
        said += "; for finer detail train an autoencoder_f8 first, then latent_unet"
    return f"{said}; {of_presets(preset)}"


def of_presets(preset: str) -> str:
    return f"preset {preset}, of {', '.join(PRESETS)}"


def on_batch(run: Run, accelerated: bool) -> str:
    batch = count(run.train.batch)
    if run.train.batch != train_for("small", accelerated).batch:
        return f"{batch}, as asked"
    if accelerated:
        return f"{batch}, because a GPU works at a small batch with most of it idle"
    return f"{batch}, because a CPU takes twice as long for twice the batch: rather more steps"


def on_optimizer(run: Run, accelerated: bool) -> str:
    said = "Muon for what is a matrix, AdamW for the rest" if run.train.muon else "AdamW"
    if run.train.muon == accelerated:
        return f"{said}, as asked"
    return said if accelerated else f"{said}: on a CPU it came further in the same minutes"


def on_noise(run: Run, side: int) -> str:
    deviation = getattr(run.parameterization, "sigma_data", 0.5)
    times = run.objective.times
    if times != noise_levels(side, deviation):
        return f"{times}, as asked"
    said = f"log sigma ~ N({times.mean:g}, {times.std:g}^2), for a deviation of {deviation:g}"
    if side <= 32:
        return f"{said} and images of up to 32 pixels"
    return f"{said}; more noise than at 32 pixels, as the pixels of larger images repeat each other"


def on_guidance(run: Run, data: ImageData) -> str:
    scale = run.sampling.guidance
    if run.text is not None:
        told = "captions" if scale == 2.0 else None
    elif run.network.classes:
        told = f"{run.network.classes} classes" if scale == 1.5 else None
    else:
        return "none, because there are no classes"
    return f"{scale:g}, because there are {told}" if told else f"{scale:g}, as asked"


def on_flip(config: DataConfig) -> str:
    if config.flip:
        return "half of the images are mirrored, as asked"
    return (
        "off unless asked: photographs of things without left and right gain from --flip, letters "
        "and digits lose"
    )
