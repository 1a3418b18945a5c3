"""The U-Net of denoising-diffusion-pytorch, with the names that its files give to the weights.

    block:             y = silu(norm(conv(x)) (1 + scale(e)) + shift(e))
    residual:          y = skip(x) + block(dropout(block(x; e)))
    linear attention:  y = (V softmax_n(K)^T) softmax_d(Q) / sqrt(d),    Shen et al. (2021), eq. 4
    attention:         y = V softmax_n(K^T Q / sqrt(d))
    RMS norm:          y = g sqrt(C) x / |x|, over the C channels of a pixel

(equation number from memory). Both attentions see, beside the pixels' keys and values, a few that
are learned and the same for every image. The state dict is that of `Unet` in the package of
P. Wang (lucidrains), versions 2.0 to 2.3, and with groups = 8 that of 1.9; interop.lucid reads its
files. Knows nothing of diffusion.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor, nn

from .convolving import doubled, pointwise
from .embeddings import ClassEmbedding
from .fused_attention import attend
from .fused_linear import linear_attention
from .fused_rms import rms_act
from .layers import GroupNorm, channels_last, check_images, pad_to_multiple
from .winograd import convolve


@dataclass(frozen=True)
class LucidUNetConfig:
    """The shape of a U-Net of denoising-diffusion-pytorch; build() makes one.

    in_channels, out_channels: of the images; None means as many out as in. A learned variance
        needs twice as many.
    channels, multipliers: level l ends channels * multipliers[l] wide (their dim and dim_mults);
        each works at half the resolution of the one before.
    stem_channels: that the first, 7 x 7 convolution makes of the image; None means `channels`.
    full_attention_at: levels, from 0, whose attention is full; the others' is linear. None means
        the last, as there. The middle's is always full.
    heads, head_channels: of the attention: one number for all levels or one a level.
    memories: learned keys and values of each attention.
    groups: 0 is RMS norm in the blocks, as since version 2.0; above it group norm, 8 before that.
    self_condition: the network also sees an estimate of the clean image, or zeros for none.
    fourier_features: 0 embeds the noise level by sinusoids; else by so many of learned
        frequencies, or of random ones where learned_frequencies is off.
    longest: the longest wave of the sinusoids is 2 pi times that.
    noise_scale: multiplies the noise level before its embedding.
    """

    in_channels: int = 3
    out_channels: int | None = None
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    stem_channels: int | None = None
    full_attention_at: tuple[int, ...] | None = None
    heads: tuple[int, ...] = (4,)
    head_channels: tuple[int, ...] = (32,)
    memories: int = 4
    groups: int = 0
    self_condition: bool = False
    fourier_features: int = 0
    learned_frequencies: bool = True
    longest: float = 10_000.0
    dropout: float = 0.0
    classes: int = 0
    noise_scale: float = 1.0

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels before the first level and after each: one more than there are levels."""
        stem = self.stem_channels or self.channels
        return (stem, *(self.channels * multiplier for multiplier in self.multipliers))

    @property
    def full(self) -> tuple[int, ...]:
        """Levels of full attention."""
        last = len(self.multipliers) - 1
        return (last,) if self.full_attention_at is None else self.full_attention_at

    def at(self, values: tuple[int, ...], level: int) -> int:
        """The value of a level, where one may stand for all."""
        return values[level] if len(values) > 1 else values[0]

    def build(self) -> "LucidUNet":
        """A new network, its weights drawn from torch's global generator."""
        return LucidUNet(self)


class RMSNorm(nn.Module):
    """Each pixel's channels, (B, C, h, w), at root mean square 1, times a gain a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(
        self,
        x: Tensor,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        silu: bool = False,
    ) -> Tensor:
        return rms_act(x, self.g.flatten(), scale, shift, silu)


class Block(nn.Module):
    """A convolution, a norm, a modulation where one is given, and SiLU."""

    def __init__(self, config: LucidUNetConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = GroupNorm(config.groups, outputs) if config.groups else RMSNorm(outputs)

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """modulation: (B, 2 outputs), the scales and then the shifts."""
        scale, shift = (None, None) if modulation is None else modulation.chunk(2, dim=1)
        return self.norm(convolve(self.proj, x), scale=scale, shift=shift, silu=True)


class Residual(nn.Module):
    """Two blocks beside a skip: (B, inputs, h, w) to (B, outputs, h, w)."""

    def __init__(self, config: LucidUNetConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.channels, 2 * outputs))
        self.block1 = Block(config, inputs, outputs)
        self.block2 = Block(config, outputs, outputs)
        self.dropout = nn.Dropout(config.dropout)
        self.res_conv = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """embedding: (B, 4 channels)."""
        h = self.block1(x, self.mlp(embedding))
        return self.block2(self.dropout(h)) + pointwise(self.res_conv, x)


class LinearAttention(nn.Module):
    """Attention at a cost linear in the pixels: keys are averaged before queries read them."""

    def __init__(self, config: LucidUNetConfig, channels: int, level: int) -> None:
        super().__init__()
        heads, depth = config.at(config.heads, level), config.at(config.head_channels, level)
        inner = heads * depth
        self.norm = RMSNorm(channels)
        self.mem_kv = nn.Parameter(torch.randn(2, heads, depth, config.memories))
        self.to_qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(inner, channels, 1), RMSNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        qkv = pixels(pointwise(self.to_qkv, self.norm(x)))
        project, norm = self.to_out
        return norm(pointwise(project, images(linear_attention(qkv, self.mem_kv), x)))


def pixels(x: Tensor) -> Tensor:
    """(B, C, h, w) as (B, h w, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def images(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, h w, C) as (B, C, h, w), h and w those of `like`."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


class FullAttention(nn.Module):
    """Attention of every pixel to every other, and to the learned memories."""

    def __init__(self, config: LucidUNetConfig, channels: int, level: int) -> None:
        super().__init__()
        self.heads, depth = config.at(config.heads, level), config.at(config.head_channels, level)
        inner = self.heads * depth
        self.norm = RMSNorm(channels)
        self.mem_kv = nn.Parameter(torch.randn(2, self.heads, config.memories, depth))
        self.to_qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.to_out = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = pixels(pointwise(self.to_qkv, self.norm(x))).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, d) each
        memory = self.mem_kv.to(q)[:, None].expand(2, len(x), *self.mem_kv.shape[1:])
        k, v = torch.cat([memory[0], k], dim=2), torch.cat([memory[1], v], dim=2)
        mixed = attend(q, k, v).transpose(1, 2).flatten(2)  # (B, N, inner)
        return pointwise(self.to_out, images(mixed, x))


class Level(nn.Module):
    """Two residuals, attention and a change of resolution, named 0 to 3 as in a list."""

    def __init__(
        self,
        config: LucidUNetConfig,
        level: int,
        inputs: tuple[int, int],
        outputs: int,
        resize: nn.Module,
    ) -> None:
        super().__init__()
        attention = FullAttention if level in config.full else LinearAttention
        self.add_module("0", Residual(config, inputs[0], outputs))
        self.add_module("1", Residual(config, inputs[1], outputs))
        self.add_module("2", attention(config, outputs, level))
        self.add_module("3", resize)

    def forward(self, x: Tensor, embedding: Tensor, kept: list[Tensor]) -> list[Tensor]:
        """The features after the first residual, after the attention, and resized.

        kept: what comes beside the input of the two residuals; none on the way down.
        """
        first, second, attention, resize = self.children()
        h = first(torch.cat([x, kept[0]], dim=1) if kept else x, embedding)
        y = second(torch.cat([h, kept[1]], dim=1) if kept else h, embedding)
        y = attention(y) + y
        return [h, y, resized(resize, y)]


def resized(resize: nn.Module, y: Tensor) -> Tensor:
    """resize(y): a convolution, behind what doubles or halves the resolution where it is two."""
    if not isinstance(resize, nn.Sequential):
        return convolve(resize, y)
    change, convolution = resize
    if isinstance(change, nn.Upsample):
        return doubled(convolution, y)
    return pointwise(convolution, change(y))


def down(config: LucidUNetConfig, level: int) -> Level:
    """A level on the way down: it widens as it shrinks."""
    width, wider = config.widths[level : level + 2]
    last = level == len(config.multipliers) - 1
    shrink = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * width, wider, 1))
    same = nn.Conv2d(width, wider, 3, padding=1)
    return Level(config, level, (width, width), width, same if last else shrink)


def up(config: LucidUNetConfig, level: int) -> Level:
    """A level on the way up: it narrows as it grows."""
    narrower, width = config.widths[level : level + 2]
    same = nn.Conv2d(width, narrower, 3, padding=1)
    grow = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), same)
    inputs = width + narrower
    return Level(config, level, (inputs, inputs), width, grow if level else same)


class Waves(nn.Module):
    """A noise level (B,) as sines, then cosines, (B, features), of falling frequency.

    f_k = longest^(-k / (K - 1)), k = 0 ... K - 1: the last is 1 / longest, where that of
    embeddings.NoiseEmbedding stops one step short of it.
    """

    def __init__(self, features: int, longest: float) -> None:
        super().__init__()
        self.pairs, self.longest = features // 2, longest

    def forward(self, level: Tensor) -> Tensor:
        k = torch.arange(self.pairs, device=level.device)
        frequencies = torch.exp(k * -(log(self.longest) / (self.pairs - 1)))
        angle = level[:, None] * frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class FourierWaves(nn.Module):
    """The level itself, then its sines and cosines at frequencies drawn from N(0, 1): turns."""

    def __init__(self, features: int, learned: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(features // 2), requires_grad=learned)

    def forward(self, level: Tensor) -> Tensor:
        angle = 2 * pi * level[:, None] * self.weights
        return torch.cat([level[:, None], angle.sin(), angle.cos()], dim=1)


def noise_embedding(config: LucidUNetConfig) -> nn.Sequential:
    """(B,) to (B, 4 channels)."""
    width, features = 4 * config.channels, config.fourier_features
    waves: nn.Module = Waves(config.channels, config.longest)
    if features:
        waves = FourierWaves(features, config.learned_frequencies)
    inputs = features + 1 if features else config.channels
    return nn.Sequential(waves, nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))


class LucidUNet(nn.Module):
    """The network that a LucidUNetConfig describes.

    forward: x (B, in_channels, H, W) of any H and W, noise_level (B,), cond (B,) integers or None;
    returns (B, out_channels, H, W). estimate is the self-condition, shaped like x; None is zeros.
    """

    def __init__(self, config: LucidUNetConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        levels = range(len(config.multipliers))
        stem, middle, last = config.widths[0], config.widths[-1], len(levels) - 1
        inputs = config.in_channels * (2 if config.self_condition else 1)
        self.init_conv = nn.Conv2d(inputs, stem, 7, padding=3)
        self.time_mlp = noise_embedding(config)
        self.downs = nn.ModuleList(down(config, level) for level in levels)
        self.ups = nn.ModuleList(up(config, level) for level in reversed(levels))
        self.mid_block1 = Residual(config, middle, middle)
        self.mid_attn = FullAttention(config, middle, last)
        self.mid_block2 = Residual(config, middle, middle)
        self.final_res_block = Residual(config, 2 * stem, stem)
        self.final_conv = nn.Conv2d(stem, config.out_channels or config.in_channels, 1)
        width = 4 * config.channels
        self.label = ClassEmbedding(config.classes, width) if config.classes else None

    def forward(
        self,
        x: Tensor,
        noise_level: Tensor,
        cond: Tensor | None = None,
        estimate: Tensor | None = None,
    ) -> Tensor:
        check_images(x, self.config.in_channels)
        embedding = self.embedded(noise_level, cond, len(x))
        if self.config.self_condition:
            x = torch.cat([torch.zeros_like(x) if estimate is None else estimate, x], dim=1)
        padded, box = pad_to_multiple(x, 2 ** (len(self.downs) - 1))
        stem = self.init_conv(channels_last(padded))
        h, kept = stem, []
        for level in self.downs:
            *features, h = level(h, embedding, [])
            kept += features
        h = self.mid_block1(h, embedding)
        h = self.mid_block2(self.mid_attn(h) + h, embedding)
        for level in self.ups:
            h = level(h, embedding, [kept.pop(), kept.pop()])[-1]
        h = self.final_res_block(torch.cat([h, stem], dim=1), embedding)
        return self.final_conv(h)[box]

    def embedded(self, noise_level: Tensor, cond: Tensor | None, batch: int) -> Tensor:
        """All that the blocks are told beside the image: (B, 4 channels)."""
        if noise_level.shape != (batch,):
            raise ValueError(
                f"noise_level is {tuple(noise_level.shape)} for {batch} images: pass one level per "
                f"image, shape ({batch},); a single level t fits after t.expand({batch})"
            )
        embedding = self.time_mlp(self.config.noise_scale * noise_level)
        if self.label is not None:
            return embedding + self.label(cond, batch)
        if cond is not None:
            raise ValueError(
                "labels were given to a network without classes: pass cond=None, or build the "
                "network with classes = the number of classes"
            )
        return embedding


def check(config: LucidUNetConfig) -> None:
    """Raise ValueError, with the remedy, if no network of this shape can be built."""
    levels = len(config.multipliers)
    if not levels or min(config.multipliers) < 1:
        raise ValueError(f"multipliers is {config.multipliers}: give one per level, each 1 or more")
    for name in ("in_channels", "channels", "memories"):
        if getattr(config, name) < (name != "memories"):
            raise ValueError(f"{name} is {getattr(config, name)}: it must be above 0")
    for name in ("heads", "head_channels"):
        values = getattr(config, name)
        if len(values) not in (1, levels) or min(values) < 1:
            raise ValueError(f"{name} is {values}: give one number, or {levels}, one a level")
    if not set(config.full) <= set(range(levels)):
        raise ValueError(f"full_attention_at is {config.full}: levels run from 0 to {levels - 1}")
    if not config.fourier_features and (config.channels < 4 or config.channels % 2):
        raise ValueError(f"channels is {config.channels}: sinusoids want an even number from 4 on")
    if config.fourier_features % 2 or config.fourier_features < 0:
        raise ValueError(f"fourier_features is {config.fourier_features}: give an even number")
    if config.groups and any(width % config.groups for width in config.widths):
        raise ValueError(f"groups is {config.groups}, which does not divide {config.widths}")
