"""Latent diffusion: autoencoders trained here, and diffusion on what they encode."""

from dataclasses import replace

from ..bound import Hybrid
from ..config import AutoencoderRun, DataConfig, Run, SamplingConfig
from ..discrete import LinearBetas
from ..grids import KarrasGrid, TrailingGrid, UniformGrid
from ..latents import AutoencoderCodec
from ..networks.autoencoder import AutoencoderConfig
from ..networks.dit import DiTConfig, dit_size
from ..networks.unet import UNetConfig
from ..objective import Denoising, LogitNormalTimes, LogNormalTimes
from ..parameterization import EDMPreconditioning, PredictVelocity
from ..process import Karras, RectifiedFlow
from ..reconstruction import ReconstructionLoss
from ..solvers import Ancestral, Heun
from ..training import TrainConfig
from .tutorials import INDEX


def autoencoder_f4() -> AutoencoderRun:
    """A KL autoencoder that shrinks the sides four times: 128 x 128 to 32 x 32 x 4.

    Source: 003
    Command: sfumato train autoencoder_f4 --data FOLDER
    Trained: 20 min 00 s on one core, 4,590 steps; held-out loss 0.1208
    """
    return AutoencoderRun(
        name="autoencoder_f4",
        recipe="autoencoder_f4",
        data=DataConfig(source="images", labels=False, flip=True, held_out=200),
        objective=ReconstructionLoss(),
        network=AutoencoderConfig(latent_channels=4, widths=(64,), blocks=2, patch=4),
        train=TrainConfig(seconds=900, batch=16, lr=2e-3, previews=8),
    )


def autoencoder_f8() -> AutoencoderRun:
    """A KL autoencoder that shrinks the sides eight times: 128 x 128 to 16 x 16 x 16.

    Source: 003
    Command: sfumato train autoencoder_f8 --data FOLDER
    Trained: 12 min 59 s on one core, 2,380 steps; held-out loss 0.2111
    """
    return replace(
        autoencoder_f4(),
        name="autoencoder_f8",
        recipe="autoencoder_f8",
        objective=ReconstructionLoss(coarse=2.0),
        network=AutoencoderConfig(latent_channels=16, widths=(64, 128), patch=4),
    )


def latent_unet() -> Run:
    """Diffusion on the latents of an autoencoder, with EDM's method and a U-Net.

    Source: 003
    Command: sfumato train latent_unet --data FOLDER codec.weights=runs/autoencoder_f4
    Trained: 12 min 01 s on one core, 706 steps; held-out loss 0.4736
    """
    return Run(
        name="latent_unet",
        recipe="latent_unet",
        data=DataConfig(source="images", flip=True, held_out=200),
        process=Karras(),
        parameterization=EDMPreconditioning(sigma_data=0.0),
        objective=Denoising(LogNormalTimes(mean=-0.4, std=1.2)),
        network=UNetConfig(
            channels=64, multipliers=(1, 2, 3), attention_at=(), patch=2, noise_scale=250.0
        ),
        train=TrainConfig(seconds=1800, batch=64, lr=2e-3),
        sampling=SamplingConfig(Heun(), KarrasGrid(), steps=18, guidance=1.5),
        codec=AutoencoderCodec(weights="runs/autoencoder_f4"),
    )


def latent_dit() -> Run:
    """A small DiT on the latents of an autoencoder, as a rectified flow.

    Source: 003
    Command: sfumato train latent_dit --data FOLDER codec.weights=runs/autoencoder_f8
    Trained: 30 min 00 s on one core, 1,243 steps; held-out loss 0.4730
    """
    return replace(
        latent_unet(),
        name="latent_dit",
        recipe="latent_dit",
        process=RectifiedFlow(),
        parameterization=PredictVelocity(),
        objective=Denoising(LogitNormalTimes()),
        network=DiTConfig(patch=2, depth=8, width=192, heads=3),
        train=TrainConfig(seconds=1800, batch=64, lr=1e-3),
        sampling=SamplingConfig(Heun(), UniformGrid(), steps=25, guidance=1.5),
        codec=AutoencoderCodec(weights="runs/autoencoder_f8"),
    )


def dit_s_2() -> Run:
    """DiT-S/2 as its authors train it, on latents: linear betas, noise, a learned sigma.

    32.5 M weights on latents of 16 channels; dit_size("B"), ("L") and ("XL") are the larger ones.

    Source: 003
    Command: sfumato train dit_s_2 --data FOLDER codec.weights=AUTOENCODER
    Trained: on one batch alone, loss 1.0164 to 0.8749 in 20 steps, 1 image
    """

    return replace(
        latent_unet(),
        name="dit_s_2",
        recipe="dit_s_2",
        process=LinearBetas(steps=1000),
        parameterization=INDEX,
        objective=Hybrid(steps=1000, vlb_weight=0.001),
        network=dit_size("S", DiTConfig(patch=2)),
        train=TrainConfig(steps=400_000, batch=256, lr=1e-4, weight_decay=0.0),
        sampling=SamplingConfig(Ancestral(None), TrailingGrid(), steps=250, guidance=1.5),
        learned_variance=True,
        codec=AutoencoderCodec(weights="runs/autoencoder_f8"),
    )
