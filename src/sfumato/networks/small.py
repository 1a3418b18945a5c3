"""Two small networks that other people trained on MNIST, with the names of their weights.

    PulferUNet    the U-Net of BrianPulfer/PapersReimplementations (MIT), 606,852 numbers
    StarterCNN    the CNN of Yichizz/hot_vs_cold_diffusion (MIT): 7 x 7 convolutions at full size

Both normalize a whole feature map at once, with a gain for each of its values. So their weights
fix the size of the image, and other sizes are refused. Both take no labels. They know nothing of
diffusion; interop.small reads their files.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import check_images
from .winograd import convolve

TIME_WIDTH = 128  # of the starter's layers that embed the noise level


@dataclass(frozen=True)
class PulferUNetConfig:
    """channels: of the first level; the next two have twice and four times as many.

    size: side of the images, a multiple of 4 but not of 8. steps, features: of the table that
    embeds the noise level, which is an index 0 ... steps - 1; between two it is interpolated.
    """

    in_channels: int = 1
    out_channels: int | None = None
    channels: int = 10
    size: int = 28
    steps: int = 1000
    features: int = 100
    classes: int = 0
    noise_scale: float = 1.0

    def build(self) -> "PulferUNet":
        """A new network, its weights drawn from torch's global generator."""
        return PulferUNet(self)


@dataclass(frozen=True)
class StarterCNNConfig:
    """hidden: channels after each 7 x 7 convolution. waves: of the noise level, in [0, 1].

    input_scale: multiplies the images first; 0.5 for a network made for [-0.5, 0.5].
    """

    in_channels: int = 1
    out_channels: int | None = None
    hidden: tuple[int, ...] = (16, 32, 32, 16)
    size: int = 28
    waves: int = 16
    input_scale: float = 1.0
    classes: int = 0
    noise_scale: float = 1.0

    def build(self) -> "StarterCNN":
        """A new network, its weights drawn from torch's global generator."""
        return StarterCNN(self)


def check_sizes(config: PulferUNetConfig | StarterCNNConfig) -> None:
    if config.classes:
        raise ValueError(
            f"classes is {config.classes}: {type(config).__name__} takes no labels; set it to "
            "0, or use UNetConfig"
        )
    if config.size < 1 or config.in_channels < 1:
        raise ValueError(f"size {config.size} and in_channels {config.in_channels} must be above 0")


def check_call(
    config: PulferUNetConfig | StarterCNNConfig, x: Tensor, noise_level: Tensor, cond: object
) -> None:
    """Raise ValueError for images of another size, or labels."""
    check_images(x, config.in_channels)
    if tuple(x.shape[2:]) != (config.size, config.size):
        raise ValueError(
            f"x is {x.shape[2]} x {x.shape[3]}: this network's norms have weights for "
            f"{config.size} x {config.size} alone; resize the images to that"
        )
    if noise_level.shape != (len(x),):
        raise ValueError(
            f"noise_level is {tuple(noise_level.shape)} for {len(x)} images: pass one level per "
            f"image, shape ({len(x)},)"
        )
    if cond is not None:
        raise ValueError("labels were given to a network without classes: pass cond=None")


# The U-Net


class Pair(nn.Module):
    """A norm of the whole map, (C, side, side), and two convolutions, each followed by SiLU."""

    def __init__(self, inputs: int, outputs: int, side: int, normalized: bool) -> None:
        super().__init__()
        self.ln = nn.LayerNorm((inputs, side, side))
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.normalized = normalized

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln(x) if self.normalized else x
        return F.silu(convolve(self.conv2, F.silu(convolve(self.conv1, h))))


def pairs(side: int, *widths: int, normalized: bool = True) -> nn.Sequential:
    """A Pair for each step from one width to the next; the last may leave out its norm."""
    last = len(widths) - 2
    return nn.Sequential(
        *(
            Pair(a, b, side, normalized or index < last)
            for index, (a, b) in enumerate(pairwise(widths))
        )
    )


def embedding(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))


def sinusoids(steps: int, features: int) -> Tensor:
    """(steps, features): sin and cos of i / 10000^(2 j / features) in turn, j = 0, 2, 4, ..."""
    j = torch.arange(0, features, 2, dtype=torch.float64)
    angle = torch.arange(steps, dtype=torch.float64)[:, None] * 10_000 ** (-2 * j / features)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :features].float()


class PulferUNet(nn.Module):
    """The network that a PulferUNetConfig describes.

    forward: x (B, in_channels, size, size), noise_level (B,), cond None; returns the same shape.
    """

    def __init__(self, config: PulferUNetConfig) -> None:
        super().__init__()
        check_sizes(config)
        if config.size % 8 != 4 or config.size < 12:
            raise ValueError(
                f"size is {config.size}: this network wants 12, 20, 28, 36, ..., as it halves it "
                "twice and then takes one pixel off"
            )
        self.config = config
        c, side, images, d = config.channels, config.size, config.in_channels, config.features
        half, quarter, least = side // 2, side // 4, (side // 4 - 1) // 2
        self.time_embed = nn.Embedding(config.steps, d, _weight=sinusoids(config.steps, d))
        self.time_embed.requires_grad_(False)
        self.te1, self.b1 = embedding(d, images), pairs(side, images, c, c, c)
        self.down1 = nn.Conv2d(c, c, 4, 2, 1)
        self.te2, self.b2 = embedding(d, c), pairs(half, c, 2 * c, 2 * c, 2 * c)
        self.down2 = nn.Conv2d(2 * c, 2 * c, 4, 2, 1)
        self.te3, self.b3 = embedding(d, 2 * c), pairs(quarter, 2 * c, 4 * c, 4 * c, 4 * c)
        self.down3 = nn.Sequential(
            nn.Conv2d(4 * c, 4 * c, 2), nn.SiLU(), nn.Conv2d(4 * c, 4 * c, 4, 2, 1)
        )
        self.te_mid, self.b_mid = embedding(d, 4 * c), pairs(least, 4 * c, 2 * c, 2 * c, 4 * c)
        self.up1 = nn.Sequential(
            nn.ConvTranspose2d(4 * c, 4 * c, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(4 * c, 4 * c, 2),
        )
        self.te4, self.b4 = embedding(d, 8 * c), pairs(quarter, 8 * c, 4 * c, 2 * c, 2 * c)
        self.up2 = nn.ConvTranspose2d(2 * c, 2 * c, 4, 2, 1)
        self.te5, self.b5 = embedding(d, 4 * c), pairs(half, 4 * c, 2 * c, c, c)
        self.up3 = nn.ConvTranspose2d(c, c, 4, 2, 1)
        self.te_out = embedding(d, 2 * c)
        self.b_out = pairs(side, 2 * c, c, c, c, normalized=False)
        self.conv_out = nn.Conv2d(c, config.out_channels or images, 3, 1, 1)

    def forward(self, x: Tensor, noise_level: Tensor, cond: None = None) -> Tensor:
        check_call(self.config, x, noise_level, cond)
        e = self.features(self.config.noise_scale * noise_level)

        def told(h: Tensor, layers: nn.Module) -> Tensor:
            return h + layers(e)[:, :, None, None]

        fine = self.b1(told(x, self.te1))
        middle = self.b2(told(self.down1(fine), self.te2))
        coarse = self.b3(told(self.down2(middle), self.te3))
        h = self.b_mid(told(self.down3(coarse), self.te_mid))
        h = self.b4(told(torch.cat([coarse, self.up1(h)], dim=1), self.te4))
        h = self.b5(told(torch.cat([middle, self.up2(h)], dim=1), self.te5))
        h = self.b_out(told(torch.cat([fine, self.up3(h)], dim=1), self.te_out))
        return self.conv_out(h)

    def features(self, index: Tensor) -> Tensor:
        """Rows of the table, (B, features), in a straight line between whole indices."""
        index = index.clamp(0, self.config.steps - 1)
        low = index.floor().long().clamp(max=max(0, self.config.steps - 2))
        part = (index - low).to(self.time_embed.weight)[:, None]
        high = (low + 1).clamp(max=self.config.steps - 1)
        return torch.lerp(self.time_embed(low), self.time_embed(high), part)


# The CNN


class Wide(nn.Module):
    """A 7 x 7 convolution, a norm of the whole map and GELU."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        norm = nn.LayerNorm((outputs, side, side))
        self.net = nn.Sequential(nn.Conv2d(inputs, outputs, 7, padding=3), norm, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class StarterCNN(nn.Module):
    """The network that a StarterCNNConfig describes: no U, so a pixel sees 25 x 25 of them at most.

    forward: x (B, in_channels, size, size), noise_level (B,), cond None; returns the same shape.
    """

    frequencies: Tensor

    def __init__(self, config: StarterCNNConfig) -> None:
        super().__init__()
        check_sizes(config)
        self.config = config
        widths = (config.in_channels, *config.hidden)
        wide = [Wide(a, b, config.size) for a, b in pairwise(widths)]
        outputs = config.out_channels or config.in_channels
        last = nn.Conv2d(widths[-1], outputs, 3, padding=1)
        self.blocks = nn.ModuleList([*wide, last])
        sizes = (2 * config.waves, TIME_WIDTH, TIME_WIDTH, TIME_WIDTH)
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.GELU())]
        self.time_embed = nn.Sequential(*layers, nn.Linear(TIME_WIDTH, config.hidden[0]))
        rising = 2 * pi * 1.5 ** torch.arange(config.waves - 1)
        self.register_buffer("frequencies", torch.cat([torch.zeros(1), rising]))

    def forward(self, x: Tensor, noise_level: Tensor, cond: None = None) -> Tensor:
        check_call(self.config, x, noise_level, cond)
        angle = self.config.noise_scale * noise_level[:, None] * self.frequencies
        phases = torch.cat([angle.sin(), angle.cos() - 1], dim=1)
        first, *rest = self.blocks
        h = first(self.config.input_scale * x)
        h = h + self.time_embed(phases.to(x))[:, :, None, None]
        for block in rest:
            h = block(h)
        return h
