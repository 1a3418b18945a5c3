"""The U-Net of DDPM as latent diffusion carries it: Ho et al. (2020), appendix B.

    residual:   h = conv(silu(norm(x))) + linear(silu(e))
                y = skip(x) + conv(dropout(silu(norm(h))))
    embedding:  e = linear(silu(linear([sin(f_k c), cos(f_k c)]))),    f_k = 10000^(-k / (K - 1))

Attention (networks.attention) where the resolution asks for it, a condition by the embedding or by
cross-attention. Submodules have the names of the peers' state dicts, so that weights of
pesser/pytorch_diffusion (DDPM's own, converted) load as they are. Knows nothing of diffusion.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import EPSILON, SpatialAttention, SpatialTransformer
from .conditioning import AddedLabel, Condition, LabelToken, Text, Tokens, Unconditioned
from .convolving import doubled, pointwise
from .layers import (
    GroupNorm,
    channels_last,
    check_attention_at,
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
class SDUNetConfig:
    """The shape of a DDPM-type U-Net; build() makes one. The peers' names are in brackets.

    channels, multipliers: [ch, ch_mult] level l is channels * multipliers[l] wide, and each level
        works at half the resolution of the one before.
    blocks: [num_res_blocks] residual blocks a level on the way down; the way up has one more.
    attention_at: [attn_resolutions] which levels attend, by how many image pixels a side of one
        feature covers (1, 2, 4, ...); it means the same at any H x W. attention_factors converts
        resolutions. The middle always attends.
    resample_with_conv: [resamp_with_conv] otherwise 2 x 2 means go down and nothing learned up.
    linear_attention: [use_linear_attn] attention whose cost grows with H W, not with its square.
    groups: of a group norm; the peers' is always 32. Divides channels and every level's width.
    classes: labels; they are added to the time embedding, or are tokens where label_tokens is set.
    context: features of a token that the image attends to: a transformer block with
        cross-attention follows each attention block; head_channels is the size of its heads.
    label_tokens: a label is a sequence of one learned token of `context` features.
    pooled_context: the mean of a text's tokens, never a label's, is also added to the embedding.
    noise_scale: multiplies the noise level before its embedding; DDPM's own weights want 1 and the
        index 0 ... T - 1 of a step.
    patch: side of the square of pixels that one feature of the first level stands for, as in
        UNetConfig; the peers' is 1. 2 costs a quarter, and some detail.
    """

    in_channels: int = 3
    out_channels: int | None = None
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    attention_at: tuple[int, ...] = (4,)
    dropout: float = 0.1
    resample_with_conv: bool = True
    linear_attention: bool = False
    groups: int = 32
    classes: int = 0
    context: int = 0
    label_tokens: bool = False
    pooled_context: bool = True
    head_channels: int = 32
    noise_scale: float = 1.0
    patch: int = 1

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def entries(self) -> tuple[int, ...]:
        """Channels with which an image enters each level on the way down, finest first."""
        return (self.channels, *self.widths[:-1])

    @property
    def factors(self) -> tuple[int, ...]:
        """Image pixels a side of one feature covers, by level. H and W are padded to the last."""
        return tuple(self.patch * 2**level for level in range(len(self.multipliers)))

    def build(self) -> "SDUNet":
        """A new network, its weights drawn from torch's global generator."""
        return SDUNet(self)


def attention_factors(size: int, resolutions: tuple[int, ...], levels: int) -> tuple[int, ...]:
    """attention_at for attn_resolutions at images of `size` pixels a side: (2,) for 16 of 32.

    Raises ValueError for a resolution that no level works at; the peers ignore it without a word.
    """
    sides = {size // 2**level: 2**level for level in range(levels)}
    missed = [resolution for resolution in resolutions if resolution not in sides]
    if missed:
        raise ValueError(
            f"attention at {missed} of images {size} a side: {levels} levels work at "
            f"{list(sides)}; choose from these, or take more levels"
        )
    return tuple(sides[resolution] for resolution in resolutions)


class TimeEmbedding(nn.Module):
    """A noise level (B,) as a vector (B, 4 channels)."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.channels = channels
        self.scale = scale
        inputs = (channels, 4 * channels)
        self.dense = nn.ModuleList(nn.Linear(features, 4 * channels) for features in inputs)

    def features(self, noise_level: Tensor) -> Tensor:
        """Sinusoids (B, channels), in float32 or wider: bf16 holds neither 999 nor f_k."""
        wide = torch.promote_types(noise_level.dtype, torch.float32)
        k = torch.arange(self.channels // 2, device=noise_level.device, dtype=wide)
        frequencies = torch.exp(-math.log(10_000) / (self.channels // 2 - 1) * k)
        angle = self.scale * noise_level.to(wide)[:, None] * frequencies  # (B, channels / 2)
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    def forward(self, noise_level: Tensor) -> Tensor:
        first, second = self.dense
        dtype = next(first.parameters()).dtype
        return second(F.silu(first(self.features(noise_level).to(dtype))))


class Residual(nn.Module):
    """Two convolutions around the embedding, beside a skip: (B, in, h, w) to (B, out, h, w)."""

    def __init__(self, config: SDUNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(config.groups, in_channels, EPSILON)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.temb_proj = nn.Linear(4 * config.channels, out_channels)
        self.norm2 = GroupNorm(config.groups, out_channels, EPSILON)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """embedding: (B, 4 channels), after its SiLU."""
        h = convolve(self.conv1, self.norm1(x, silu=True))
        h = self.norm2(h, add=self.temb_proj(embedding), silu=True)
        return pointwise(self.nin_shortcut, x) + convolve(self.conv2, self.dropout(h))


class Shrink(nn.Module):
    """(B, C, h, w) of even h and w to (B, C, h / 2, w / 2)."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        # one row below and one column on the right, as TensorFlow pads: the peers' weights know it
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Grow(nn.Module):
    """(B, C, h, w) to (B, C, 2 h, 2 w)."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return doubled(self.conv, x)


class Down(nn.Module):
    """A level on the way down; returns its entry, what each block made, and the next level's entry.

    The last level returns no next entry.
    """

    def __init__(self, config: SDUNetConfig, level: int) -> None:
        super().__init__()
        width = config.widths[level]
        inputs = [config.entries[level]] + [width] * (config.blocks - 1)
        self.block, self.attn, self.cross = blocks(config, level, inputs)
        last = level + 1 == len(config.widths)
        self.downsample = None if last else Shrink(width, config.resample_with_conv)

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tokens | None) -> list[Tensor]:
        features = [x]
        for index in range(len(self.block)):
            features.append(passed(self, index, features[-1], embedding, tokens))
        if self.downsample is not None:
            features.append(self.downsample(features[-1]))
        return features


class Middle(nn.Module):
    """The coarsest resolution: two residual blocks around attention."""

    def __init__(self, config: SDUNetConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.block_1 = Residual(config, width, width)
        self.attn_1 = spatial(config, width)
        self.cross_1 = crossed(config, width) if config.context else None
        self.block_2 = Residual(config, width, width)

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tokens | None) -> Tensor:
        x = self.attn_1(self.block_1(x, embedding))
        if self.cross_1 is not None:
            x = self.cross_1(x, tokens)
        return self.block_2(x, embedding)


class Up(nn.Module):
    """A level on the way up: a block for each feature map of the way down, the last one first."""

    def __init__(self, config: SDUNetConfig, level: int) -> None:
        super().__init__()
        width = config.widths[level]
        below = config.widths[min(level + 1, len(config.widths) - 1)]
        features = [width] * config.blocks + [config.entries[level]]
        inputs = [c + h for c, h in zip(features, [below] + [width] * config.blocks, strict=True)]
        self.block, self.attn, self.cross = blocks(config, level, inputs)
        self.upsample = Grow(width, config.resample_with_conv) if level else nn.Identity()

    def forward(
        self, x: Tensor, features: list[Tensor], embedding: Tensor, tokens: Tokens | None
    ) -> Tensor:
        """features: what this level's Down returned."""
        own = features[: len(self.block)]
        for index, feature in enumerate(reversed(own)):
            x = passed(self, index, torch.cat([x, feature], dim=1), embedding, tokens)
        return self.upsample(x)


class SDUNet(nn.Module):
    """The network that an SDUNetConfig describes; a new one returns zero.

    forward: x (B, in_channels, H, W) of any H and W, noise_level (B,); returns
    (B, out_channels, H, W). cond is None, or (B,) integers where there are classes (`classes`, like
    None, means "no class"), or where the condition is a text a dict of tokens (B, L, context) float
    and mask (B, L) bool, True where a token is real (none at all, like None, means "no text").
    """

    def __init__(self, config: SDUNetConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        levels = range(len(config.widths))
        self.temb = TimeEmbedding(config.channels, config.noise_scale)
        self.condition = condition_of(config)
        square = config.patch**2
        self.conv_in = nn.Conv2d(config.in_channels * square, config.channels, 3, padding=1)
        self.down = nn.ModuleList(Down(config, level) for level in levels)
        self.mid = Middle(config)
        self.up = nn.ModuleList(Up(config, level) for level in levels)
        self.norm_out = GroupNorm(config.groups, config.widths[0], EPSILON)
        out_channels = config.out_channels or config.in_channels
        self.conv_out = zeroed(nn.Conv2d(config.widths[0], out_channels * square, 3, padding=1))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Condition = None) -> Tensor:
        check_images(x, self.config.in_channels)
        check_levels(noise_level, x.shape[0])
        tokens, embedding = self.condition(self.temb(noise_level), cond, x)
        embedding = F.silu(embedding)
        padded, box = pad_to_multiple(x, self.config.factors[-1])
        h = F.pixel_unshuffle(padded, self.config.patch)
        h = self.conv_in(channels_last(h))
        levels: list[list[Tensor]] = []
        for down in self.down:
            levels.append(down(h, embedding, tokens))
            h = levels[-1][-1]
        h = self.mid(h, embedding, tokens)
        for up in reversed(self.up):
            h = up(h, levels.pop(), embedding, tokens)
        h = self.conv_out(self.norm_out(h, silu=True))
        return F.pixel_shuffle(h, self.config.patch)[box]


def blocks(
    config: SDUNetConfig, level: int, inputs: list[int]
) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """A level's residual blocks, given `inputs` channels, and what follows each: attention and
    cross-attention, two lists that are empty where the level has none."""
    width = config.widths[level]
    attends = len(inputs) if config.factors[level] in config.attention_at else 0
    return (
        nn.ModuleList(Residual(config, channels, width) for channels in inputs),
        nn.ModuleList(spatial(config, width) for _ in range(attends)),
        nn.ModuleList(crossed(config, width) for _ in range(attends if config.context else 0)),
    )


def passed(
    level: Down | Up, index: int, x: Tensor, embedding: Tensor, tokens: Tokens | None
) -> Tensor:
    """x through a level's block `index` and the attention that follows it."""
    x = level.block[index](x, embedding)
    if level.attn:
        x = level.attn[index](x)
    if level.cross:
        x = level.cross[index](x, tokens)
    return x


def spatial(config: SDUNetConfig, width: int) -> SpatialAttention:
    return SpatialAttention(width, config.groups, config.linear_attention)


def crossed(config: SDUNetConfig, width: int) -> SpatialTransformer:
    return SpatialTransformer(
        width, config.context, config.groups, config.head_channels, config.dropout
    )


def condition_of(config: SDUNetConfig) -> Unconditioned | AddedLabel | LabelToken | Text:
    """What tells the network of its condition."""
    width = 4 * config.channels
    if config.label_tokens:
        return LabelToken(config.classes, config.context)
    if config.classes:
        return AddedLabel(config.classes, width)
    return Text(config.context, width, config.pooled_context) if config.context else Unconditioned()


def check_levels(noise_level: Tensor, batch: int) -> None:
    if noise_level.shape != (batch,):
        raise ValueError(
            f"noise_level is {tuple(noise_level.shape)} for {batch} images: pass one level per "
            f"image, shape ({batch},); a single level t fits after t.expand({batch})"
        )


def check(config: SDUNetConfig) -> None:
    """Raise ValueError, with the remedy, if no network of this shape can be built."""
    check_ranges(config)
    check_condition(config)
    remedy = f"change channels ({config.channels}), multipliers {config.multipliers} or groups"
    check_groups((config.channels, *config.widths), config.groups, remedy)
    check_attention_at(config.attention_at, config.factors)


def check_ranges(config: SDUNetConfig) -> None:
    least = {
        "in_channels": 1,
        "blocks": 1,
        "patch": 1,
        "groups": 1,
        "head_channels": 1,
        "context": 0,
    }
    for name, low in {**least, "classes": 0, "channels": 4}.items():
        if getattr(config, name) < low:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be {low} or more")
    if config.channels % 2:
        raise ValueError(
            f"channels is {config.channels}: half of the time embedding's features are sines and "
            "half are cosines, so give an even number"
        )
    check_out_channels(config.out_channels)
    check_multipliers(config.multipliers)
    check_dropout(config.dropout)


def check_condition(config: SDUNetConfig) -> None:
    if config.label_tokens and not (config.classes and config.context):
        raise ValueError(
            f"label_tokens with classes = {config.classes} and context = {config.context}: give "
            "the number of classes, and as context the features of a label's token, say 128"
        )
    if config.classes and config.context and not config.label_tokens:
        raise ValueError(
            f"classes = {config.classes} and context = {config.context}: a condition is either a "
            "label or a text; set classes = 0 for texts, context = 0 for labels that are added to "
            "the time embedding, or label_tokens for labels that are attended to"
        )
    attending = [w for w, f in zip(config.widths, config.factors) if f in config.attention_at]
    for width in (*attending, config.widths[-1]) if config.context else ():
        if width % config.head_channels:
            raise ValueError(
                f"cross-attention on {width} channels does not split into heads of "
                f"{config.head_channels}: choose head_channels that divides it"
            )
