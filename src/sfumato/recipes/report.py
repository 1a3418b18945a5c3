"""The systems of the report: denoising-diffusion-pytorch, the optimised loop, high resolution."""

from dataclasses import replace

from ..config import DataConfig, Run, SamplingConfig
from ..discrete import LinearBetas
from ..grids import TrailingGrid
from ..networks.lucid import LucidUNetConfig
from ..networks.unet import UNetConfig
from ..noising import SigmoidSignal
from ..objective import Denoising, DiscreteTimes, MinSNR
from ..parameterization import PredictData, PredictNoise, PredictV
from ..schedules import CosineDecay
from ..solvers import DDIM
from ..training import TrainConfig
from .tutorials import FORGIVING, INDEX

TABLE = (  # side up to, channels, multipliers: the report's, by resolution
    (32, 64, (1, 2, 4, 8)),
    (64, 128, (1, 2, 4, 8)),
    (96, 160, (1, 2, 4, 8)),
    (256, 192, (1, 1, 2, 2, 4, 4)),
)


def network_by_size(side: int) -> UNetConfig:
    """The report's width and depth for images of `side` pixels, attending at 16 and at 8 a side.

    Raises: ValueError above 256 pixels.
    """
    for most, channels, multipliers in TABLE:
        if side <= most:
            factors = [2**level for level in range(len(multipliers))]
            attending = tuple(f for f in factors if side // f in (8, 12, 16))
            return UNetConfig(
                channels=channels, multipliers=multipliers, attention_at=attending, head_channels=64
            )
    raise ValueError(
        f"images of {side} pixels: the table ends at 256. Train on latents: autoencoder_f8, then "
        "latent_unet."
    )


def lucid_cifar10() -> Run:
    """denoising-diffusion-pytorch's own training: dim 64, multipliers 1-2-4-8, v, sigmoid schedule.

    Source: 004
    Command: sfumato train lucid_cifar10 --data data/cifar10
    Trained: on one batch alone, loss 0.8860 to 0.6281 in 20 steps, 4 images
    """
    return Run(
        name="lucid_cifar10",
        recipe="lucid_cifar10",
        data=DataConfig(source="cifar10", size=32, labels=False, flip=True),
        process=SigmoidSignal(steps=1000),
        parameterization=PredictV(time_scale=1000, time_offset=-1),
        objective=Denoising(DiscreteTimes(steps=1000), MinSNR(gamma=float("inf"))),  # its weight
        network=LucidUNetConfig(),
        train=TrainConfig(steps=700_000, batch=32, lr=8e-5, betas=(0.9, 0.99), weight_decay=0.0),
        sampling=SamplingConfig(DDIM(), TrailingGrid(), steps=250, clipped=True),
    )


def lucid_small() -> Run:
    """The same structure at 1.5 M weights, with linear attention at every level but the last.

    Source: 004
    Command: sfumato train lucid_small --data data/cifar10
    Trained: 20 min 02 s on one core, 801 steps; held-out loss 0.0676
    """
    return replace(
        lucid_cifar10(),
        name="lucid_small",
        recipe="lucid_small",
        network=LucidUNetConfig(channels=24, multipliers=(1, 2, 4)),
        train=TrainConfig(seconds=1200, batch=32, lr=1e-3),
        sampling=SamplingConfig(DDIM(), TrailingGrid(), steps=50, clipped=True),
    )


def optimised_cifar10() -> Run:
    """The report's optimised loop: AdamW, cosine to a tenth, accumulation, bf16, best by held-out.

    Source: 004
    Command: sfumato train optimised_cifar10 --data data/cifar10 --compile
    Trained: on one batch alone, loss 0.9873 to 0.7588 in 20 steps, 4 images
    """
    return Run(
        name="optimised_cifar10",
        recipe="optimised_cifar10",
        data=DataConfig(source="cifar10", size=32, flip=True),
        process=LinearBetas(steps=1000),
        parameterization=INDEX,
        objective=Denoising(DiscreteTimes(steps=1000)),
        network=network_by_size(32),
        train=TrainConfig(
            epochs=100, batch=128, micro_batch=32, lr=2e-4, decay=CosineDecay(floor=0.1)
        ),
        sampling=SamplingConfig(DDIM(), TrailingGrid(), steps=50, guidance=1.5, clipped=True),
    )


def optimised_small() -> Run:
    """The same loop with 3.7 M weights that see pixels in twos: CIFAR-10 on two cores.

    Source: 004
    Command: sfumato train optimised_small --data data/cifar10
    Trained: 11 min 00 s on one core, 460 steps; held-out loss 0.0524
    """
    run = optimised_cifar10()
    network = UNetConfig(channels=48, multipliers=(1, 2, 2), attention_at=(), patch=2)
    train = replace(run.train, epochs=None, seconds=1800, batch=64, lr=1.5e-3)
    return replace(
        run,
        name="optimised_small",
        recipe="optimised_small",
        network=network,
        train=train,
        sampling=replace(FORGIVING, guidance=1.5),
    )


def _high_resolution(name: str, source: str, side: int, batch: int) -> Run:
    return Run(
        name=name,
        recipe=name,
        data=DataConfig(source=source, size=side, flip=True, labels=source == "stl10"),
        process=LinearBetas(steps=1000),
        parameterization=PredictNoise(time_scale=1000, time_offset=-1),
        objective=Denoising(DiscreteTimes(steps=1000)),
        network=network_by_size(side),
        train=TrainConfig(epochs=200, batch=batch, lr=1e-4, decay=CosineDecay(floor=0.1)),
        sampling=SamplingConfig(DDIM(), TrailingGrid(), steps=50, clipped=True),
    )


def stl10() -> Run:
    """STL-10 at its native 96 pixels: 160 channels, 1-2-4-8.

    Source: 004
    Command: sfumato train stl10 --data stl10_binary
    Trained: on one batch alone, loss 1.0035 to 0.9361 in 3 steps, 1 image
    """
    return _high_resolution("stl10", "stl10", 96, 64)


def celeba64() -> Run:
    """CelebA's aligned faces, centre 140 of 178 x 218, at 64 pixels: 128 channels, 1-2-4-8.

    Source: 004
    Command: sfumato train celeba64 --data img_align_celeba
    Trained: on one batch alone, loss 0.9886 to 0.8462 in 8 steps, 1 image
    """
    return _high_resolution("celeba64", "celeba", 64, 64)


def celebahq128() -> Run:
    """A folder like CelebA-HQ at 128 pixels: 192 channels, 1-1-2-2-4-4.

    Source: 004
    Command: sfumato train celebahq128 --data FOLDER
    Trained: on one batch alone, loss 1.0042 to 0.8439 in 6 steps, 1 image
    """
    return _high_resolution("celebahq128", "celebahq", 128, 32)


def celebahq256() -> Run:
    """A folder like CelebA-HQ at 256 pixels: 192 channels, 1-1-2-2-4-4.

    Source: 004
    Command: sfumato train celebahq256 --data FOLDER
    Trained: on one batch alone, loss 1.0018 to 0.9486 in 2 steps, 1 image
    """
    return _high_resolution("celebahq256", "celebahq", 256, 16)


def high_resolution_small() -> Run:
    """The same loop at 128 pixels with 3.18 M weights that see pixels in fours, and predict x0.

    A patch of 4 x 4 has 48 values and the first level 32 channels. Noise does not fit through them,
    so what predicts noise, or v, leaves the rest of it in the image; an image's patches do fit.

    Source: 004
    Command: sfumato train high_resolution_small --data FOLDER
    Trained: 16 min 01 s on one core, 1,077 steps; held-out loss 0.0127
    """
    run = celebahq128()
    network = UNetConfig(channels=32, multipliers=(1, 2, 2, 3), attention_at=(), patch=4)
    train = TrainConfig(seconds=1800, batch=16, lr=1.5e-3, decay=CosineDecay(floor=0.1))
    return replace(
        run,
        name="high_resolution_small",
        recipe="high_resolution_small",
        parameterization=PredictData(time_scale=1000, time_offset=-1),
        objective=Denoising(DiscreteTimes(steps=1000), MinSNR(gamma=5.0)),
        network=network,
        train=train,
        sampling=FORGIVING,
    )
