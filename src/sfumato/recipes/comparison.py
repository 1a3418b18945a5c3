"""Three networks of one cost under one objective, for `sfumato compare`.

compare takes all but the network from the first of its recipes: data, process, parameterization,
objective, optimizer, sampler. So recipes of any kind can be named, and still only networks differ.
"""

from dataclasses import replace

from ..config import DataConfig, NetworkConfig, Run, SamplingConfig
from ..grids import KarrasGrid
from ..networks.dit import DiTConfig
from ..networks.sd_unet import SDUNetConfig
from ..networks.unet2d import UNet2DConfig
from ..objective import Denoising, LogNormalTimes
from ..parameterization import EDMPreconditioning
from ..process import Karras
from ..solvers import Heun
from ..training import TrainConfig


def _contestant(name: str, network: NetworkConfig) -> Run:
    return Run(
        name=name,
        recipe=name,
        data=DataConfig(source="digits", held_out=500),
        process=Karras(),
        parameterization=EDMPreconditioning(sigma_data=0.0),
        objective=Denoising(LogNormalTimes(mean=-1.0, std=1.2)),
        network=network,
        train=TrainConfig(seconds=600, batch=64, lr=1e-3),
        sampling=SamplingConfig(Heun(), KarrasGrid(), steps=18, guidance=1.5, clipped=True),
    )


def compare_unet2d() -> Run:
    """diffusers' U-Net, attending in its two deeper levels, at about 0.4 GFLOP an image.

    Source: 003
    Command: sfumato compare
    """
    network = UNet2DConfig(
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        attention_down=(False, True, True),
        attention_up=(True, True, False),
        norm_num_groups=8,
        noise_scale=250.0,
    )
    return _contestant("compare_unet2d", network)


def compare_sd_unet() -> Run:
    """The survey's Stable-Diffusion U-Net at about 0.4 GFLOP an image.

    Without text it is DDPM's U-Net, as diffusers' is; what differs is where they attend (here in
    the deepest level alone, with one head) and how they start (here the last layers at zero).

    Source: 003
    Command: sfumato compare
    """
    network = SDUNetConfig(
        channels=32, multipliers=(1, 2, 2), blocks=1, groups=8, dropout=0.0, noise_scale=250.0
    )
    return _contestant("compare_sd_unet", network)


def compare_dit() -> Run:
    """DiT with patches of 4 at about 0.4 GFLOP an image.

    Source: 003
    Command: sfumato compare
    """
    network = DiTConfig(patch=4, depth=8, width=192, heads=3, noise_scale=250.0)
    return _contestant("compare_dit", network)


def same_for_all(run: Run, other: Run) -> Run:
    """`other` with everything but its network and name taken from `run`."""
    return replace(run, name=other.name, recipe=other.recipe, network=other.network)
