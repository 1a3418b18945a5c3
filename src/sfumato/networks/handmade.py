"""The hand-written U-Net of source 001, made to work: plain blocks, no attention.

    block:  h = silu(norm(conv(x))) + linear(silu(e))
            y = skip(x) + silu(norm(conv(h)))
    down:   feature = block(x, e),  x = conv(feature), stride 2
    up:     x = block([transposed conv(x), feature], e)

What is wrong in the text's listing, and stands right here:

- a skip was taken *after* the strided convolution, so none had the full resolution, and the last
  way up was handed its own input in its place, which does not even fit; a feature map is now kept
  before it shrinks, one for each way up, and the finest is as large as the image;
- the time went as a bare number up to 999 into a linear layer; it is now sinusoids and two layers;
- the middle was told no time; every block is told it now;
- the time was added behind a block's last layer, where the last block's is a constant on the whole
  image; it now comes between the two convolutions, and every block has a skip of its own.

Group norm of 8, SiLU (x sigmoid(x), not "sigmoid and ReLU"), the 3 x 3 convolution of stride 2 down
and the transposed 2 x 2 convolution up are the text's. Knows nothing of diffusion.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .embeddings import Conditioning
from .layers import GroupNorm, channels_last, check_images, pad_to_multiple, zeroed
from .winograd import convolve


@dataclass(frozen=True)
class HandmadeConfig:
    """The shape of source 001's U-Net; build() makes one.

    widths: channels of each level, finest first; each level halves the resolution, and the middle
        works below the last. H and W are padded to a multiple of 2 ** len(widths).
    embedding: features of the time embedding, an even number.
    groups: groups of a group norm; divides every width.
    noise_scale: multiplies the noise level before its embedding; see NoiseEmbedding.
    """

    in_channels: int = 3
    out_channels: int | None = None
    widths: tuple[int, ...] = (64, 128, 256)
    embedding: int = 256
    groups: int = 8
    classes: int = 0
    noise_scale: float = 1.0

    def build(self) -> "Handmade":
        """A new network, its weights drawn from torch's global generator."""
        return Handmade(self)


class Block(nn.Module):
    """Two convolutions around the embedding, beside a skip: (B, in, h, w) to (B, out, h, w)."""

    def __init__(self, config: HandmadeConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm1 = GroupNorm(config.groups, out_channels)
        self.told = nn.Linear(config.embedding, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(config.groups, out_channels)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """embedding: (B, config.embedding), after its SiLU."""
        h = self.norm1(convolve(self.conv1, x), silu=True) + self.told(embedding)[:, :, None, None]
        return self.skip(x) + self.norm2(convolve(self.conv2, h), silu=True)


class Down(nn.Module):
    """A level on the way down; returns its feature map, and the same at half the resolution."""

    def __init__(self, config: HandmadeConfig, in_channels: int, width: int) -> None:
        super().__init__()
        self.block = Block(config, in_channels, width)
        self.shrink = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.block(x, embedding)
        return feature, self.shrink(feature)


class Up(nn.Module):
    """A level on the way up: x (B, in, h, w) and a feature map (B, width, 2 h, 2 w) to its like."""

    def __init__(
        self, config: HandmadeConfig, in_channels: int, width: int, out_channels: int
    ) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(in_channels, in_channels, 2, stride=2)
        self.block = Block(config, in_channels + width, out_channels)

    def forward(self, x: Tensor, feature: Tensor, embedding: Tensor) -> Tensor:
        return self.block(torch.cat([self.grow(x), feature], dim=1), embedding)


class Handmade(nn.Module):
    """The network that a HandmadeConfig describes; a new one returns zero.

    forward: x (B, in_channels, H, W) of any H and W, noise_level (B,), cond (B,) integers or None;
    returns (B, out_channels, H, W). Label `classes`, like None, means "no class".
    """

    def __init__(self, config: HandmadeConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        widths, features = config.widths, config.embedding
        self.embedding = Conditioning(features, features, config.classes, config.noise_scale)
        entries = (config.in_channels, *widths[:-1])
        self.down = nn.ModuleList(Down(config, c, w) for c, w in zip(entries, widths))
        self.middle = Block(config, widths[-1], widths[-1])
        exits = (widths[0], *widths[:-1])  # of each way up, finest first: the next one's width
        inputs = (*exits[1:], widths[-1])
        ups = [Up(config, *sizes) for sizes in zip(inputs, widths, exits, strict=True)]
        self.up = nn.ModuleList(reversed(ups))
        self.out = zeroed(nn.Conv2d(widths[0], config.out_channels or config.in_channels, 1))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Tensor | None = None) -> Tensor:
        check_images(x, self.config.in_channels)
        embedding = F.silu(self.embedding(noise_level, cond, x.shape[0]))
        h, box = pad_to_multiple(x, 2 ** len(self.config.widths))
        h = channels_last(h)
        features: list[Tensor] = []
        for down in self.down:
            feature, h = down(h, embedding)
            features.append(feature)
        h = self.middle(h, embedding)
        for up in self.up:
            h = up(h, features.pop(), embedding)
        return self.out(h)[box]


def check(config: HandmadeConfig) -> None:
    """Raise ValueError, with the remedy, if no network of this shape can be built."""
    for name in ("in_channels", "groups"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be 1 or more")
    if config.out_channels is not None and config.out_channels < 1:
        raise ValueError(
            f"out_channels is {config.out_channels}: 1 or more, or None for as many as in"
        )
    if config.classes < 0:
        raise ValueError(f"classes is {config.classes}: give 0 for none, or their number")
    if not config.widths:
        raise ValueError("widths is (): give the channels of one level or more, as (64, 128, 256)")
    for width in config.widths:
        if width < 1 or width % config.groups:
            raise ValueError(
                f"widths is {config.widths}, and {config.groups} groups do not divide {width}: "
                f"choose multiples of {config.groups}, or fewer groups"
            )
