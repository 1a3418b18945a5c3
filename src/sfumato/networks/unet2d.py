"""The U-Net of diffusers' `UNet2DModel`: its submodules' names and shapes, its arithmetic.

    down     layers_per_block residual blocks a level, then half the size
    middle   residual, attention, residual
    up       layers_per_block + 1 residual blocks a level, each reads a feature map of the way
             down, the last one first; then twice the size

`state_dict()` has the keys and shapes of diffusers' own, so weights move either way by
load_state_dict; and a network built from the same seed starts from the same weights. What differs
is outside of them: any H and W, padded to what the levels halve, where diffusers' needs multiples.

For networks begun here UNetConfig is the better choice: it starts at zero and trains faster on a
CPU. Knows nothing of diffusion.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .embeddings import check_labels
from .layers import (
    GroupNorm,
    channels_last,
    check_classes,
    check_counts,
    check_dropout,
    check_images,
    pad_to_multiple,
)
from .unet2d_parts import (
    Attention,
    Grow,
    RandomWaves,
    Residual,
    Shared,
    Shrink,
    TimeEmbedding,
    Waves,
    double,
    halve,
)


@dataclass(frozen=True)
class UNet2DConfig:
    """The shape of a UNet2DModel; build() makes one. Fields named as diffusers' mean the same.

    in_channels, out_channels: of the images; None means as many out as in.
    block_out_channels: width of each level, finest first; each level halves the one before.
    layers_per_block: residual blocks a level on the way down; the way up has one more.
    attention_down, attention_up: whether a level attends (AttnDownBlock2D, AttnUpBlock2D), in the
        order of the blocks: down from the finest, up from the coarsest.
    middle, middle_attention: whether there is a middle at all, and attention in it.
    attention_head_dim: channels of a head; None: a single head.
    norm_num_groups, norm_eps: of every group norm; attn_norm_num_groups: of the middle attention's,
        where None means norm_num_groups, or no norm at all with scale_shift.
    scale_shift: resnet_time_scale_shift="scale_shift"; otherwise "default".
    mid_block_scale_factor: what the sums in the middle are divided by.
    downsample_padding: 1, or 0: one row and column of zeros at the far ends instead.
    resnet_downsample, resnet_upsample: levels with attention change size in a residual block
        (downsample_type="resnet") and not by a convolution. Levels without it never do.
    flip_sin_to_cos: cosines first. freq_shift: see unet2d_parts.Waves.
    fourier: time_embedding_type="fourier": noise_level is a sigma above 0, of which log(sigma)
        goes through fixed random waves, and the output is divided by it.
    time_embedding_dim: None: four times the first width.
    center_input_sample: x becomes 2 x - 1, for images that come in [0, 1].
    classes: 0 is unconditional. The table has a row more, the last, for "no class":
        diffusers' num_class_embeds is classes + 1.
    noise_scale: multiplies the noise level before its embedding; diffusers' is 1.
    """

    in_channels: int = 3
    out_channels: int | None = None
    block_out_channels: tuple[int, ...] = (64, 128, 128, 256)
    layers_per_block: int = 2
    attention_down: tuple[bool, ...] = (False, False, True, True)
    attention_up: tuple[bool, ...] = (True, True, False, False)
    middle: bool = True
    middle_attention: bool = True
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    attn_norm_num_groups: int | None = None
    dropout: float = 0.0
    scale_shift: bool = False
    mid_block_scale_factor: float = 1.0
    downsample_padding: int = 1
    resnet_downsample: bool = False
    resnet_upsample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    fourier: bool = False
    time_embedding_dim: int | None = None
    center_input_sample: bool = False
    classes: int = 0
    noise_scale: float = 1.0

    @property
    def outputs(self) -> int:
        """Channels of what the network returns."""
        return self.in_channels if self.out_channels is None else self.out_channels

    @property
    def embedding(self) -> int:
        """Features of the embedding that every residual block reads."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def shared(self) -> Shared:
        """What all residual blocks have in common."""
        groups, eps = self.norm_num_groups, self.norm_eps
        return Shared(groups, eps, self.embedding, self.dropout, self.scale_shift)

    @property
    def multiple(self) -> int:
        """What H and W are padded to a multiple of."""
        return int(2 ** (len(self.block_out_channels) - 1))

    def build(self) -> "UNet2D":
        """A new network, its weights drawn from torch's global generator in diffusers' order."""
        return UNet2D(self)


def blocks(
    config: UNet2DConfig, inputs: list[int], width: int, attends: bool
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """A level's residual blocks, `inputs` wide where they begin, and what follows each."""
    resnets, attentions = nn.ModuleList(), nn.ModuleList()
    groups, eps, head = config.norm_num_groups, config.norm_eps, config.attention_head_dim
    for channels in inputs:  # in turn, as diffusers draws their weights
        resnets.append(Residual(config.shared, channels, width))
        attentions.append(Attention(width, head, groups, eps) if attends else nn.Identity())
    return resnets, attentions


class Down(nn.Module):
    """A level on the way down; returns every feature map that the way up will read."""

    def __init__(self, config: UNet2DConfig, level: int) -> None:
        super().__init__()
        widths, attends = config.block_out_channels, config.attention_down[level]
        width, entry = widths[level], widths[max(level - 1, 0)]
        inputs = [entry] + [width] * (config.layers_per_block - 1)
        self.resnets, self.attentions = blocks(config, inputs, width, attends)
        self.downsamplers = nn.ModuleList()
        if level + 1 < len(widths):
            if attends and config.resnet_downsample:
                self.downsamplers.append(Residual(config.shared, width, width, resize=halve))
            else:
                self.downsamplers.append(Shrink(width, config.downsample_padding))

    def forward(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        features = []
        for resnet, attention in zip(self.resnets, self.attentions):
            x = attention(resnet(x, embedding))
            features.append(x)
        for shrink in self.downsamplers:
            features.append(shrink(x, embedding))
        return features


class Up(nn.Module):
    """A level on the way up, which reads a feature map of the way down before each block."""

    def __init__(self, config: UNet2DConfig, number: int) -> None:
        super().__init__()
        widths, attends = config.block_out_channels[::-1], config.attention_up[number]
        width, below = widths[number], widths[max(number - 1, 0)]
        above = widths[min(number + 1, len(widths) - 1)]
        before = [below] + [width] * config.layers_per_block
        skips = [width] * config.layers_per_block + [above]
        inputs = [a + b for a, b in zip(before, skips)]
        self.resnets, self.attentions = blocks(config, inputs, width, attends)
        self.upsamplers = nn.ModuleList()
        if number + 1 < len(widths):
            if attends and config.resnet_upsample:
                self.upsamplers.append(Residual(config.shared, width, width, resize=double))
            else:
                self.upsamplers.append(Grow(width))

    def forward(self, x: Tensor, features: list[Tensor], embedding: Tensor) -> Tensor:
        """features: of this level, in the order in which they are read; each (B, C_i, h, w)."""
        for resnet, attention, feature in zip(self.resnets, self.attentions, features):
            x = attention(resnet(torch.cat([x, feature], dim=1), embedding))
        for grow in self.upsamplers:
            x = grow(x, embedding)
        return x


class Middle(nn.Module):
    """The coarsest resolution: a block, attention where configured, a block."""

    def __init__(self, config: UNet2DConfig) -> None:
        super().__init__()
        width, factor = config.block_out_channels[-1], config.mid_block_scale_factor
        usual = None if config.scale_shift else config.norm_num_groups
        groups = config.attn_norm_num_groups or usual
        head, eps = config.attention_head_dim, config.norm_eps
        first = Residual(config.shared, width, width, factor)
        self.attentions = nn.ModuleList()
        if config.middle_attention:
            self.attentions.append(Attention(width, head, groups, eps, factor))
        self.resnets = nn.ModuleList([first, Residual(config.shared, width, width, factor)])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.resnets[0](x, embedding)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x, embedding)


class UNet2D(nn.Module):
    """The network that a UNet2DConfig describes.

    forward: x (B, in_channels, H, W) of any H and W, noise_level (B,), cond (B,) integers or None;
    returns (B, out_channels, H, W). Label `classes`, like None, means "no class".
    """

    def __init__(self, config: UNet2DConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        widths, levels = config.block_out_channels, range(len(config.block_out_channels))
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_proj = (
            RandomWaves(widths[0])
            if config.fourier
            else Waves(widths[0], config.flip_sin_to_cos, config.freq_shift)
        )
        waves = 2 * widths[0] if config.fourier else widths[0]
        self.time_embedding = TimeEmbedding(waves, config.embedding)
        self.class_embedding = (
            nn.Embedding(config.classes + 1, config.embedding) if config.classes else None
        )
        self.down_blocks = nn.ModuleList(Down(config, level) for level in levels)
        self.mid_block = Middle(config) if config.middle else None
        self.up_blocks = nn.ModuleList(Up(config, number) for number in levels)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.outputs, 3, padding=1)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Tensor | None = None) -> Tensor:
        check_images(x, self.config.in_channels)
        embedding = F.silu(self.embedding(noise_level, cond, len(x)))
        padded, box = pad_to_multiple(
            2 * x - 1 if self.config.center_input_sample else x, self.config.multiple
        )
        h = self.conv_in(channels_last(padded))
        features = [h]
        for down in self.down_blocks:
            features += down(features[-1], embedding)
        h = features[-1] if self.mid_block is None else self.mid_block(features[-1], embedding)
        for up in self.up_blocks:
            count = self.config.layers_per_block + 1
            h = up(h, [features.pop() for _ in range(count)], embedding)
        h = self.conv_out(self.conv_norm_out(h, silu=True))[box]
        return h / noise_level[:, None, None, None].to(h) if self.config.fourier else h

    def embedding(self, noise_level: Tensor, cond: Tensor | None, batch: int) -> Tensor:
        """What the blocks are told of noise level and class: (batch, config.embedding)."""
        if noise_level.shape != (batch,):
            raise ValueError(
                f"noise_level is {tuple(noise_level.shape)} for {batch} images: pass one level per "
                f"image, shape ({batch},); a single level t fits after t.expand({batch})"
            )
        told = self.time_embedding(self.time_proj(self.config.noise_scale * noise_level))
        if self.class_embedding is None:
            if cond is not None:
                raise ValueError(
                    "labels were given to a network without classes: pass cond=None, or build the "
                    "network with classes = the number of classes"
                )
            return told
        if cond is None:
            return told + self.class_embedding.weight[-1]
        check_labels(cond, self.config.classes, batch)
        return told + self.class_embedding(cond)


def check(config: UNet2DConfig) -> None:
    """Raise ValueError, with the remedy, if no network of this shape can be built."""
    check_ranges(config)
    levels = len(config.block_out_channels)
    for name in ("attention_down", "attention_up"):
        if len(getattr(config, name)) != levels:
            raise ValueError(
                f"{name} is {getattr(config, name)} for {levels} levels: give one true or false "
                f"for each of block_out_channels {config.block_out_channels}"
            )
    for width in config.block_out_channels:
        if width % config.norm_num_groups:
            raise ValueError(
                f"a level is {width} channels wide, which {config.norm_num_groups} groups do not "
                "divide: change block_out_channels or norm_num_groups"
            )
    if config.attn_norm_num_groups and config.block_out_channels[-1] % config.attn_norm_num_groups:
        raise ValueError(
            f"attn_norm_num_groups {config.attn_norm_num_groups} does not divide the "
            f"{config.block_out_channels[-1]} channels of the middle"
        )
    check_heads(config)


def check_ranges(config: UNet2DConfig) -> None:
    if not config.block_out_channels or min(config.block_out_channels) < 1:
        raise ValueError(
            f"block_out_channels is {config.block_out_channels}: give a width per level, as (64, "
            "128)"
        )
    check_counts(config, "in_channels", "outputs", "layers_per_block")
    check_counts(config, "norm_num_groups", "embedding")
    pairs = config.block_out_channels[0] // 2
    if not config.fourier and pairs <= config.freq_shift:
        raise ValueError(
            f"freq_shift is {config.freq_shift}, of {pairs} frequencies: the first of "
            "block_out_channels must be above twice freq_shift + 1"
        )
    if config.downsample_padding not in (0, 1):
        raise ValueError(
            f"downsample_padding is {config.downsample_padding}: with other values than 0 and 1 "
            "the way up does not meet the sizes of the way down"
        )
    check_classes(config.classes)
    check_dropout(config.dropout)
    if config.mid_block_scale_factor == 0:
        raise ValueError("mid_block_scale_factor is 0, and sums are divided by it: leave it at 1")


def check_heads(config: UNet2DConfig) -> None:
    widths = config.block_out_channels
    attending = [w for w, attends in zip(widths, config.attention_down) if attends]
    attending += [w for w, attends in zip(widths[::-1], config.attention_up) if attends]
    if config.middle and config.middle_attention:
        attending.append(widths[-1])
    size = config.attention_head_dim
    if size is not None and attending and not 0 < size <= min(attending):
        raise ValueError(
            f"attention_head_dim is {size}: give 1 to {min(attending)}, the narrowest level that "
            "attends, or None for a single head"
        )
