"""A U-Net of the ADM family: Dhariwal and Nichol (2021), section 3, in BigGAN's residual blocks.

    residual:   h = conv(silu(norm(x)))
                h = conv(dropout(silu(norm(h) (1 + scale(e)) + shift(e))))     scale_shift
                y = skip(x) + h
    attention:  y = x + project(softmax(q k^T / sqrt(d)) v),    q, k, v = linear(norm(x))

Every feature map of the way down is concatenated to the input of a block of the way up. The last
layer of each residual, attention and of the network starts at zero, so that a new block is its skip
and a new network returns zero. Knows nothing of diffusion.

Built for speed on two CPU cores too: channels last throughout, average pooling and nearest
neighbours instead of strided convolutions, and the way up narrows as it grows in resolution, where
ADM carries the coarser level's width up first. experiments/LOG.md has the numbers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolving import doubled, pointwise
from .embeddings import Conditioning
from .fused_attention import attend_together
from .layers import (
    GroupNorm,
    channels_last,
    check_attention_at,
    check_classes,
    check_counts,
    check_dropout,
    check_groups,
    check_images,
    check_multipliers,
    check_out_channels,
    pad_to_multiple,
    zeroed,
)
from .winograd import convolve


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net; build() makes one.

    in_channels, out_channels: of the images; None means as many out as in. A learned variance
        needs twice as many.
    channels, multipliers: level l is channels * multipliers[l] wide, and each level works at half
        the resolution of the one before.
    blocks: residual blocks a level on the way down; the way up has one more.
    attention_at: which levels attend, by how many image pixels a side of one feature covers: the
        first level covers `patch`, the next 2 patch, 4 patch, ... It means the same at any H x W.
    middle_attention: whether the middle, at the coarsest resolution, attends; ADM's always does.
    head_channels: channels of one attention head.
    groups: groups of a group norm; divides every level's width.
    classes: 0 is unconditional.
    scale_shift: the embedding scales and shifts each block's second norm (ADM's "adaptive group
        norm"); otherwise it is added before that norm, as in DDPM.
    patch: side of the square of pixels that one feature of the first level stands for; 2 or 4
        makes a network several times faster at the cost of detail.
    noise_scale: multiplies the noise level before its embedding; see NoiseEmbedding.
    """

    in_channels: int = 3
    out_channels: int | None = None
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention_at: tuple[int, ...] = (4,)
    middle_attention: bool = True
    head_channels: int = 32
    groups: int = 8
    classes: int = 0
    dropout: float = 0.0
    scale_shift: bool = True
    patch: int = 1
    noise_scale: float = 1.0

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def factors(self) -> tuple[int, ...]:
        """Image pixels a side of one feature covers, by level. H and W are padded to the last."""
        return tuple(self.patch * 2**level for level in range(len(self.multipliers)))

    def build(self) -> "UNet":
        """A new network, its weights drawn from torch's global generator."""
        return UNet(self)


class Residual(nn.Module):
    """Two convolutions around a modulated norm, beside a skip: (B, in, h, w) to (B, out, h, w)."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.scale_shift = config.scale_shift
        self.norm1 = GroupNorm(config.groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        modulations = 2 if config.scale_shift else 1
        self.modulation = nn.Linear(4 * config.channels, modulations * out_channels)
        self.norm2 = GroupNorm(config.groups, out_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """embedding: (B, 4 channels), after its SiLU."""
        h = convolve(self.conv1, self.norm1(x, silu=True))
        h = self.modulated(h, self.modulation(embedding))
        return pointwise(self.skip, x) + convolve(self.conv2, self.dropout(h))

    def modulated(self, h: Tensor, modulation: Tensor) -> Tensor:
        if not self.scale_shift:
            return self.norm2(h, add=modulation, silu=True)
        scale, shift = modulation.chunk(2, dim=1)
        return self.norm2(h, scale=scale, shift=shift, silu=True)


class Attention(nn.Module):
    """Self-attention over all positions of (B, C, h, w), in heads of head_channels channels."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.head_channels = config.head_channels
        self.norm = GroupNorm(config.groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C)
        qkv = self.qkv(tokens).unflatten(2, (3, -1, self.head_channels))  # (B, N, 3, heads, d)
        mixed = attend_together(qkv)  # (B, N, C)
        return x + self.project(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class Block(nn.Module):
    """A residual, then attention where the level has it."""

    def __init__(
        self, config: UNetConfig, in_channels: int, out_channels: int, attends: bool
    ) -> None:
        super().__init__()
        self.residual = Residual(config, in_channels, out_channels)
        self.attention = Attention(config, out_channels) if attends else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.residual(x, embedding))


class Down(nn.Module):
    """A level on the way down; returns blocks + 1 feature maps, from its entry to its last."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        width = config.widths[level]
        entry = config.widths[max(level - 1, 0)]
        attends = config.factors[level] in config.attention_at
        inputs = [entry] + [width] * (config.blocks - 1)
        self.shrink = nn.Conv2d(entry, entry, 3, padding=1) if level else None
        self.blocks = nn.ModuleList(Block(config, c, width, attends) for c in inputs)

    def forward(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        features = [x if self.shrink is None else convolve(self.shrink, F.avg_pool2d(x, 2))]
        for block in self.blocks:
            features.append(block(features[-1], embedding))
        return features


class Middle(nn.Module):
    """The coarsest resolution: a block, attending if so configured, and a plain one."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.block1 = Block(config, width, width, config.middle_attention)
        self.block2 = Block(config, width, width, False)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.block2(self.block1(x, embedding), embedding)


class Up(nn.Module):
    """A level on the way up: a block for each feature map of the way down, the last one first."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        width = config.widths[level]
        below = level + 1 < len(config.widths)
        attends = config.factors[level] in config.attention_at
        features = [width] * config.blocks + [config.widths[max(level - 1, 0)]]
        self.grow = nn.Conv2d(config.widths[level + 1], width, 3, padding=1) if below else None
        self.blocks = nn.ModuleList(Block(config, width + c, width, attends) for c in features)

    def forward(self, x: Tensor, features: list[Tensor], embedding: Tensor) -> Tensor:
        """features: what this level's Down returned, each (B, C_i, h, w)."""
        if self.grow is not None:
            x = doubled(self.grow, x)
        for block, feature in zip(self.blocks, reversed(features), strict=True):
            x = block(torch.cat([x, feature], dim=1), embedding)
        return x


class Out(nn.Module):
    """Feature maps to pixels: norm, SiLU and a convolution that starts at zero."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.widths[0]
        out_channels = config.out_channels or config.in_channels
        self.norm = GroupNorm(config.groups, width)
        self.conv = zeroed(nn.Conv2d(width, out_channels * config.patch**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x, silu=True))


class UNet(nn.Module):
    """The network that a UNetConfig describes.

    forward: x (B, in_channels, H, W) of any H and W, noise_level (B,), cond (B,) integers or None;
    returns (B, out_channels, H, W). Label `classes`, like None, means "no class".
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        levels = range(len(config.widths))
        self.embedding = Conditioning(
            config.channels, 4 * config.channels, config.classes, config.noise_scale
        )
        self.stem = nn.Conv2d(config.in_channels * config.patch**2, config.widths[0], 3, padding=1)
        self.down = nn.ModuleList(Down(config, level) for level in levels)
        self.middle = Middle(config)
        self.up = nn.ModuleList(Up(config, level) for level in reversed(levels))
        self.out = Out(config)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Tensor | None = None) -> Tensor:
        check_images(x, self.config.in_channels)
        embedding = F.silu(self.embedding(noise_level, cond, x.shape[0]))
        padded, box = pad_to_multiple(x, self.config.factors[-1])
        h = F.pixel_unshuffle(padded, self.config.patch)
        h = self.stem(channels_last(h))
        levels: list[list[Tensor]] = []
        for down in self.down:
            levels.append(down(h, embedding))
            h = levels[-1][-1]
        h = self.middle(h, embedding)
        for up in self.up:
            h = up(h, levels.pop(), embedding)
        return F.pixel_shuffle(self.out(h), self.config.patch)[box]


def check(config: UNetConfig) -> None:
    """Raise ValueError, with the remedy, if no network of this shape can be built."""
    check_counts(config, "in_channels", "channels", "blocks", "head_channels", "groups", "patch")
    check_out_channels(config.out_channels)
    check_multipliers(config.multipliers)
    check_classes(config.classes)
    check_dropout(config.dropout)
    remedy = f"change channels ({config.channels}), multipliers {config.multipliers} or groups"
    check_groups(config.widths, config.groups, remedy)
    check_attention_at(config.attention_at, config.factors)
    check_heads(config)


def check_heads(config: UNetConfig) -> None:
    attending = [w for w, f in zip(config.widths, config.factors) if f in config.attention_at]
    if config.middle_attention:
        attending.append(config.widths[-1])
    for width in attending:
        if width % config.head_channels:
            raise ValueError(
                f"attention on {width} channels does not split into heads of "
                f"{config.head_channels}: choose head_channels that divides each of {attending}"
            )
