"""The recipe for a folder of one's own: sized by the images and a preset."""

from math import log

from ..config import DataConfig, Run, SamplingConfig
from ..data import ImageData
from ..grids import KarrasGrid
from ..networks.unet import UNetConfig
from ..objective import Denoising, LogNormalTimes
from ..parameterization import EDMPreconditioning
from ..process import Karras
from ..solvers import Heun
from ..training import TrainConfig

SIZES = {  # preset: base channels, blocks a level
    "tiny": (32, 1),
    "small": (32, 2),
    "base": (64, 2),
}


def network_for(data: ImageData, preset: str) -> UNetConfig:
    """A network whose first level has at most 16 features a side, so that it runs on a laptop."""
    side = max(data.size)
    patch = 1 if side <= 16 else 2 if side <= 48 else 4
    levels = 2 if side <= 32 else 3
    channels, blocks = SIZES[preset]
    return UNetConfig(
        channels=channels,
        multipliers=tuple(range(1, levels + 1)),
        blocks=blocks,
        attention_at=(),  # the middle attends; more cost 15 % and won nothing (experiments/LOG.md)
        patch=patch,
        noise_scale=250.0,
    )


def own_images(data: ImageData, source: str, preset: str, deviation: float) -> Run:
    """EDM on the images; the noise levels trained on move with the data's deviation.

    sfumato train FOLDER --time 10m
    """
    guidance = 1.0 if data.labels is None else 1.5
    return Run(
        name=f"{data.name}-{preset}",
        recipe="own_images",
        data=DataConfig(source=source),
        process=Karras(),
        parameterization=EDMPreconditioning(sigma_data=deviation),
        objective=Denoising(LogNormalTimes(mean=round(-1.2 + log(deviation / 0.5), 3))),
        network=network_for(data, preset),
        train=TrainConfig(seconds=600),
        sampling=SamplingConfig(Heun(), KarrasGrid(), steps=18, guidance=guidance, clipped=True),
    )
