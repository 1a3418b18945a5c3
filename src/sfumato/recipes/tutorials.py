"""The systems of the three tutorials: diffusers' U-Net on MNIST, one written by hand, and T = 300.

Each is what its text meant to build, mended where the text is wrong (docs/sources.md).
"""

from dataclasses import replace

from ..config import DataConfig, Run, SamplingConfig
from ..discrete import CosineBetas, LinearBetas
from ..grids import LeadingGrid, TrailingGrid
from ..networks.four_conv import FourConvConfig, tiny_like_four_conv
from ..networks.handmade import HandmadeConfig
from ..networks.unet2d import UNet2DConfig
from ..objective import Denoising, DiscreteTimes
from ..parameterization import PredictNoise
from ..schedules import CosineDecay
from ..solvers import DDIM, Ancestral
from ..training import TrainConfig

INDEX = PredictNoise(time_scale=1000, time_offset=-1)  # tells the network t = 0 ... 999
# A noise predictor of few steps is furthest off where the signal is faintest, and DDIM carries that
# to the end as blots; fresh noise at every step forgets it.
FORGIVING = SamplingConfig(Ancestral(), TrailingGrid(), steps=100, clipped=True)


def unet2d_mnist() -> Run:
    """diffusers' UNet2DModel on digits: cosine schedule, AdamW at 4e-4, 30 epochs.

    The text's network, 64-128-128-256 with attention in the two deep levels, 18.5 M weights.

    Source: 000
    Command: sfumato train unet2d_mnist --data data/mnist
    Trained: on one batch alone, loss 1.0342 to 0.0055 in 20 steps, 4 images
    """
    return Run(
        name="unet2d_mnist",
        recipe="unet2d_mnist",
        data=DataConfig(source="digits", labels=False, held_out=500, test=500),
        process=CosineBetas(steps=1000),
        parameterization=INDEX,
        objective=Denoising(DiscreteTimes(steps=1000)),
        network=UNet2DConfig(),
        train=TrainConfig(epochs=30, batch=64, lr=4e-4, decay=CosineDecay(), preview_epochs=5),
        sampling=SamplingConfig(DDIM(), TrailingGrid(), steps=50, clipped=True),
    )


def unet2d_small() -> Run:
    """The same structure at 2.1 M weights: what two cores can train in minutes.

    Source: 000
    Command: sfumato train unet2d_small
    Trained: 22 min 01 s on one core, 1,008 steps; held-out loss 0.0475
    """
    run = unet2d_mnist()
    network = UNet2DConfig(
        block_out_channels=(32, 48, 64, 96), layers_per_block=1, norm_num_groups=8
    )
    train = replace(run.train, epochs=None, seconds=900, lr=1e-3, preview_epochs=None)
    return replace(
        run,
        name="unet2d_small",
        recipe="unet2d_small",
        network=network,
        train=train,
        sampling=FORGIVING,
    )


def handmade_cifar10() -> Run:
    """The U-Net written by hand, on CIFAR-10: strided convolutions down, transposed ones up.

    A grid of samples every epoch, as the text has it; DDPM's own sampler with sigma^2 = beta.

    Source: 001
    Command: sfumato train handmade_cifar10 --data data/cifar10
    Trained: on one batch alone, loss 0.9886 to 0.0929 in 20 steps, 4 images
    """
    return Run(
        name="handmade_cifar10",
        recipe="handmade_cifar10",
        data=DataConfig(source="cifar10", size=32, labels=False, flip=True),
        process=LinearBetas(steps=1000),
        parameterization=INDEX,
        objective=Denoising(DiscreteTimes(steps=1000)),
        network=HandmadeConfig(),
        train=TrainConfig(epochs=10, batch=64, lr=1e-3, preview_epochs=1),
        sampling=SamplingConfig(Ancestral(1.0), LeadingGrid(), steps=1000, clipped=True),
    )


def handmade_small() -> Run:
    """The same at half the width, 1.4 M weights, sampled in 100 steps.

    Source: 001
    Command: sfumato train handmade_small --data data/cifar10
    Trained: 12 min 00 s on one core, 1,155 steps; held-out loss 0.0334
    """
    run = handmade_cifar10()
    train = TrainConfig(seconds=1200, batch=64, lr=2e-3)
    network = HandmadeConfig(widths=(32, 64, 128))
    return replace(
        run,
        name="handmade_small",
        recipe="handmade_small",
        network=network,
        train=train,
        sampling=FORGIVING,
    )


def four_conv_mnist() -> Run:
    """Four convolutions that see 9 x 9 pixels, on digits at T = 300: strokes, but no digits.

    A lesson: the network is told t / T as a channel, and can't see what a digit is as a whole.
    Compare with tiny_mnist, which has as many weights.

    Source: 002
    Command: sfumato train four_conv_mnist
    Trained: 12 min 00 s on two cores, 6,660 steps; held-out loss 0.0339
    """
    return Run(
        name="four_conv_mnist",
        recipe="four_conv_mnist",
        data=DataConfig(source="digits", labels=False, held_out=500),
        process=LinearBetas(steps=300, rescaled=True),
        parameterization=PredictNoise(time_scale=300, time_offset=-1),
        objective=Denoising(DiscreteTimes(steps=300)),
        network=FourConvConfig(noise_scale=1 / 300),
        train=TrainConfig(seconds=600, batch=64, lr=1e-3),
        sampling=SamplingConfig(Ancestral(), LeadingGrid(), steps=300, clipped=True),
    )


def tiny_mnist() -> Run:
    """A real U-Net of the same 37,000 weights, which sees the whole image: digits.

    Source: 002
    Command: sfumato train tiny_mnist
    Trained: 10 min 00 s on one core, 1,124 steps; held-out loss 0.0308
    """
    run = four_conv_mnist()
    network = replace(tiny_like_four_conv(), noise_scale=1000 / 300)
    train = replace(run.train, lr=4e-3)
    return replace(run, name="tiny_mnist", recipe="tiny_mnist", network=network, train=train)
