"""The U-Net of ADM, block by block as published: Dhariwal and Nichol (2021), section 3.

    residual:   h = conv(silu(norm(x)))
                h = conv(dropout(silu(norm(h) (1 + scale(e)) + shift(e))))     scale_shift
                y = skip(x) + h,    x and h halved or doubled before the convolution in `resampling`
    attention:  y = x + project(softmax(q k^T / sqrt(d)) v),    q, k, v = linear(norm(x))

This one is for weights that were trained with OpenAI's guided-diffusion (and improved-diffusion
before it): its submodules are named such that the state dict has their keys and shapes; see
interop/adm.py. To train anew on few cores UNet is the faster choice. Knows nothing of diffusion.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dit import sinusoids
from .embeddings import check_labels
from .fused_attention import attend
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
class ADMConfig:
    """The shape of ADM's U-Net; build() makes one.

    in_channels, out_channels: of the images; None means as many out as in. A learned variance
        needs twice as many.
    channels, multipliers: level l is channels * multipliers[l] wide, and each level works at half
        the resolution of the one before.
    blocks: residual blocks a level on the way down; the way up has one more.
    attention_at: which levels attend, by how many image pixels a side of one feature covers: 1 for
        the first level, then 2, 4, ... The middle always attends.
    heads, head_channels: heads of an attention; head_channels, where given, decides instead.
    heads_first: how the features of q, k and v lie: heads x (q, k, v), or (q, k, v) x heads, which
        is the "new attention order".
    classes: 0 is unconditional.
    scale_shift: the embedding scales and shifts each block's second norm; otherwise it is added
        before that norm.
    residual_resampling: levels are joined by residual blocks that halve or double, "BigGAN
        up/downsampling"; otherwise by one layer, with a convolution if conv_resampling.
    groups: groups of a group norm.
    time_features: sinusoids of the noise level; its embedding is 4 times as wide. None: channels.
    noise_scale: multiplies the noise level before its embedding; see NoiseEmbedding.
    """

    in_channels: int = 3
    out_channels: int | None = None
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention_at: tuple[int, ...] = (2, 4)
    heads: int = 4
    head_channels: int | None = None
    heads_first: bool = True
    classes: int = 0
    dropout: float = 0.0
    scale_shift: bool = True
    residual_resampling: bool = False
    conv_resampling: bool = True
    groups: int = 32
    time_features: int | None = None
    noise_scale: float = 1.0

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def factors(self) -> tuple[int, ...]:
        """Image pixels a side of one feature covers, by level. H and W are padded to the last."""
        return tuple(2**level for level in range(len(self.multipliers)))

    @property
    def embedding(self) -> int:
        """Features of the vector that tells blocks of the noise level and the class."""
        return 4 * (self.time_features or self.channels)

    def heads_of(self, width: int) -> int:
        """Heads of an attention on `width` channels."""
        return width // self.head_channels if self.head_channels else self.heads

    def build(self) -> "ADM":
        """A new network, its weights drawn from torch's global generator."""
        return ADM(self)


def halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Residual(nn.Module):
    """Two convolutions around a norm that is told e, beside a skip: (B, in, h, w) to (B, out, ...).

    resampling: +1 doubles the resolution, -1 halves it, 0 keeps it.
    """

    def __init__(self, config: ADMConfig, inputs: int, outputs: int, resampling: int = 0) -> None:
        super().__init__()
        self.scale_shift, self.resampling = config.scale_shift, resampling
        changes = 2 * outputs if config.scale_shift else outputs
        self.in_layers = nn.Sequential(
            GroupNorm(config.groups, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(config.embedding, changes))
        self.out_layers = nn.Sequential(
            GroupNorm(config.groups, outputs),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            zeroed(nn.Conv2d(outputs, outputs, 3, padding=1)),
        )
        same = inputs == outputs
        self.skip_connection = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, _, convolution = self.in_layers
        h = convolve(convolution, self.resampled(norm(x, silu=True)))
        changes = self.emb_layers(embedding)
        return self.skip_connection(self.resampled(x)) + self.finished(h, changes)

    def resampled(self, x: Tensor) -> Tensor:
        if not self.resampling:
            return x
        return doubled(x) if self.resampling > 0 else halved(x)

    def finished(self, h: Tensor, changes: Tensor) -> Tensor:
        """The second half, told `changes` (B, out or 2 out)."""
        norm, _, dropout, convolution = self.out_layers
        if not self.scale_shift:
            return convolve(convolution, dropout(norm(h, add=changes, silu=True)))
        scale, shift = changes.chunk(2, dim=1)
        return convolve(convolution, dropout(norm(h, scale=scale, shift=shift, silu=True)))


class Attention(nn.Module):
    """Self-attention over all positions of (B, C, h, w); the embedding is not looked at."""

    def __init__(self, config: ADMConfig, width: int) -> None:
        super().__init__()
        self.heads, self.heads_first = config.heads_of(width), config.heads_first
        self.norm = GroupNorm(config.groups, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = zeroed(nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x.flatten(2)))  # (B, 3 C, N)
        order = (self.heads, 3, -1) if self.heads_first else (3, self.heads, -1)
        parts = qkv.unflatten(1, order).unbind(2 if self.heads_first else 1)
        q, k, v = (part.transpose(2, 3) for part in parts)  # (B, heads, N, d) each
        mixed = attend(q, k, v).transpose(2, 3).flatten(1, 2)  # (B, C, N)
        return x + self.proj_out(mixed).unflatten(2, x.shape[2:])


class Halve(nn.Module):
    """To the next level down, by one layer."""

    def __init__(self, config: ADMConfig, width: int) -> None:
        super().__init__()
        strided = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.op = strided if config.conv_resampling else nn.AvgPool2d(2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.op(x)


class Double(nn.Module):
    """To the next level up, by one layer."""

    def __init__(self, config: ADMConfig, width: int) -> None:
        super().__init__()
        plain = nn.Identity()
        self.conv = nn.Conv2d(width, width, 3, padding=1) if config.conv_resampling else plain

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(doubled(x))


class Stem(nn.Module):
    """The first convolution; an entry of the list of blocks like any other."""

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        self.add_module("0", nn.Conv2d(config.in_channels, config.widths[0], 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.get_submodule("0")(x)


class Stage(nn.Module):
    """Modules one after the other, each told the embedding; their names are "0", "1", ..."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        for i, part in enumerate(parts):
            self.add_module(str(i), part)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for part in self.children():
            x = part(x, embedding)
        return x


def stage(config: ADMConfig, inputs: int, level: int, *after: nn.Module) -> Stage:
    """A residual block to the level's width, attention where the level has it, and `after`."""
    width = config.widths[level]
    attends = config.factors[level] in config.attention_at
    attention = [Attention(config, width)] if attends else []
    return Stage(Residual(config, inputs, width), *attention, *after)


def resampler(config: ADMConfig, width: int, resampling: int) -> nn.Module:
    """What joins two levels: +1 doubles the resolution, -1 halves it."""
    if config.residual_resampling:
        return Residual(config, width, width, resampling)
    return Double(config, width) if resampling > 0 else Halve(config, width)


def way_down(config: ADMConfig) -> tuple[nn.ModuleList, list[int]]:
    """The stages from the image to the coarsest level, and how many channels each returns."""
    stages, given = nn.ModuleList([Stem(config)]), [config.widths[0]]
    for level, width in enumerate(config.widths):
        if level:
            stages.append(Stage(resampler(config, given[-1], -1)))
            given.append(given[-1])
        for _ in range(config.blocks):
            stages.append(stage(config, given[-1], level))
            given.append(width)
    return stages, given


def way_up(config: ADMConfig, given: list[int]) -> nn.ModuleList:
    """The stages back to the finest level; each takes what one stage of the way down returned."""
    stages, given, width = nn.ModuleList(), list(given), config.widths[-1]
    for level in reversed(range(len(config.widths))):
        for i in range(config.blocks + 1):
            inputs, width = width + given.pop(), config.widths[level]
            last = level and i == config.blocks
            after = [resampler(config, width, +1)] if last else []
            stages.append(stage(config, inputs, level, *after))
    return stages


class ADM(nn.Module):
    """The network that an ADMConfig describes.

    forward: x (B, in_channels, H, W) of any H and W, noise_level (B,), cond (B,) integers or None;
    returns (B, out_channels, H, W). Label `classes`, like None, means "no class": nothing is added
    for it, since the published layout has no row for it.
    """

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        features, width, finest = config.embedding // 4, config.widths[-1], config.widths[0]
        self.time_embed = nn.Sequential(
            nn.Linear(features, config.embedding),
            nn.SiLU(),
            nn.Linear(config.embedding, config.embedding),
        )
        labelled = config.classes > 0
        self.label_emb = nn.Embedding(config.classes, config.embedding) if labelled else None
        self.input_blocks, given = way_down(config)
        self.middle_block = Stage(
            Residual(config, width, width), Attention(config, width), Residual(config, width, width)
        )
        self.output_blocks = way_up(config, given)
        outputs = config.out_channels or config.in_channels
        self.out = nn.Sequential(
            GroupNorm(config.groups, finest),
            nn.SiLU(),
            zeroed(nn.Conv2d(finest, outputs, 3, padding=1)),
        )

    def forward(self, x: Tensor, noise_level: Tensor, cond: Tensor | None = None) -> Tensor:
        check_images(x, self.config.in_channels)
        embedding = self.told(noise_level, cond, x.shape[0])
        h, box = pad_to_multiple(x, self.config.factors[-1])
        h = channels_last(h)
        features = []
        for part in self.input_blocks:
            h = part(h, embedding)
            features.append(h)
        h = self.middle_block(h, embedding)
        for part in self.output_blocks:
            h = part(torch.cat([h, features.pop()], dim=1), embedding)
        return self.out(h)[box]

    def told(self, noise_level: Tensor, cond: Tensor | None, batch: int) -> Tensor:
        """The noise level and the class as one vector (B, embedding)."""
        if noise_level.shape != (batch,):
            raise ValueError(
                f"noise_level is {tuple(noise_level.shape)} for {batch} images: pass one level per "
                f"image, shape ({batch},); a single level t fits after t.expand({batch})"
            )
        levels = sinusoids(self.config.noise_scale * noise_level, self.config.embedding // 4)
        embedding = self.time_embed(levels.to(next(self.time_embed.parameters()).dtype))
        if cond is None:
            return embedding
        if self.label_emb is None:
            raise ValueError(
                "labels were given to an ADM without classes: pass cond=None, or build the network "
                "with classes = the number of classes"
            )
        check_labels(cond, self.config.classes, batch)
        row = self.label_emb(cond.clamp(max=self.config.classes - 1))
        return embedding + torch.where((cond < self.config.classes)[:, None], row, 0)


def check(config: ADMConfig) -> None:
    """Raise ValueError, with the remedy, if no network of this shape can be built."""
    check_ranges(config)
    check_attention(config)
    remedy = f"change channels ({config.channels}), multipliers {config.multipliers} or groups"
    check_groups(config.widths, config.groups, remedy)
    if (config.embedding // 4) % 2:
        raise ValueError(
            f"{config.embedding // 4} sinusoids of the noise level: half are cosines and half "
            "sines, so make time_features (or channels) even"
        )


def check_ranges(config: ADMConfig) -> None:
    check_counts(config, "in_channels", "channels", "blocks", "heads", "groups")
    check_counts(config, "head_channels", "time_features")
    check_out_channels(config.out_channels)
    check_multipliers(config.multipliers)
    check_classes(config.classes)
    check_dropout(config.dropout)


def check_attention(config: ADMConfig) -> None:
    check_attention_at(config.attention_at, config.factors)
    attending = [w for w, f in zip(config.widths, config.factors) if f in config.attention_at]
    for width in (*attending, config.widths[-1]):
        if width % (config.head_channels or config.heads):
            raise ValueError(
                f"attention on {width} channels does not split into "
                f"{f'heads of {config.head_channels}' if config.head_channels else config.heads}"
                f"{'' if config.head_channels else ' heads'}: change head_channels or heads"
            )
