"""What diffusers' `UNet2DModel` is built of, with its submodules' names; see unet2d.py.

residual:   h = conv1(silu(norm1(x)));    e = time_emb_proj(silu(embedding))
            h = norm2(h + e),   or with scale_shift   norm2(h) (1 + scale) + shift
            y = (skip(x) + conv2(dropout(silu(h)))) / factor
attention:  y = (x + to_out(softmax(q k^T / sqrt(d)) v)) / factor
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolving import doubled, pointwise
from .fused_attention import attend
from .layers import GroupNorm, together
from .winograd import convolve

Resize = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shared:
    """What all residual blocks of a network have in common."""

    groups: int
    eps: float
    embedding: int  # features of what they are told
    dropout: float
    scale_shift: bool


class Waves(nn.Module):
    """A noise level, (B,), as sines and cosines, (B, features): float32.

    f_k = 10000^(-k / (K - shift)),   k = 0 ... K - 1,   K = features / 2
    """

    def __init__(self, features: int, cosines_first: bool, shift: int) -> None:
        super().__init__()
        self.features, self.cosines_first, self.shift = features, cosines_first, shift

    def forward(self, level: Tensor) -> Tensor:
        pairs = self.features // 2
        # float32 whatever the images are, since diffusers' networks are trained on its roundings
        k = torch.arange(pairs, dtype=torch.float32, device=level.device)
        frequencies = torch.exp(-math.log(10_000) * k / (pairs - self.shift))
        angle = level[:, None].float() * frequencies
        waves = [angle.cos(), angle.sin()] if self.cosines_first else [angle.sin(), angle.cos()]
        return F.pad(torch.cat(waves, dim=1), (0, self.features % 2))


class RandomWaves(nn.Module):
    """log(sigma), (B,), as sines and cosines of random frequencies that stay, (B, 2 pairs)."""

    def __init__(self, pairs: int) -> None:
        super().__init__()
        frequencies = 16 * torch.randn(pairs)
        self.weight = nn.Parameter(frequencies, requires_grad=False)

    def forward(self, level: Tensor) -> Tensor:
        angle = 2 * math.pi * level.log()[:, None] * self.weight
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """Two linear layers with a SiLU between: (B, inputs) to (B, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)

    def forward(self, waves: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(waves.to(self.linear_1.weight.dtype))))


class Residual(nn.Module):
    """Two convolutions beside a skip: (B, inputs, h, w) to (B, outputs, h', w').

    resize is applied to both branches before their first convolution; factor divides the sum.
    """

    def __init__(
        self,
        shared: Shared,
        inputs: int,
        outputs: int,
        factor: float = 1.0,
        resize: Resize | None = None,
    ) -> None:
        super().__init__()
        groups, eps = shared.groups, shared.eps
        self.scale_shift, self.factor, self.resize = shared.scale_shift, factor, resize
        self.norm1 = GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        modulations = 2 if shared.scale_shift else 1
        self.time_emb_proj = nn.Linear(shared.embedding, modulations * outputs)
        self.norm2 = GroupNorm(groups, outputs, eps)
        self.dropout = nn.Dropout(shared.dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """embedding: (B, shared.embedding), after its SiLU."""
        h = self.norm1(x, silu=True)
        if self.resize is not None:
            x, h = self.resize(x), self.resize(h)
        h = self.modulated(convolve(self.conv1, h), self.time_emb_proj(embedding))
        h = convolve(self.conv2, self.dropout(h))
        skip = x if self.conv_shortcut is None else pointwise(self.conv_shortcut, x)
        return over(skip + h, self.factor)

    def modulated(self, h: Tensor, modulation: Tensor) -> Tensor:
        if not self.scale_shift:
            return self.norm2(h, add=modulation, silu=True)
        scale, shift = modulation.chunk(2, dim=1)
        return self.norm2(h, scale=scale, shift=shift, silu=True)


class Attention(nn.Module):
    """Self-attention over all positions of (B, C, h, w); groups None is without a norm."""

    def __init__(
        self, channels: int, head: int | None, groups: int | None, eps: float, factor: float = 1.0
    ) -> None:
        super().__init__()
        width = head or channels
        self.heads, self.factor = channels // width, factor
        inner = self.heads * width  # diffusers' heads may leave channels over
        self.group_norm = None if groups is None else GroupNorm(groups, channels, eps)
        self.to_q = nn.Linear(channels, inner)
        self.to_k = nn.Linear(channels, inner)
        self.to_v = nn.Linear(channels, inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])

    def forward(self, x: Tensor) -> Tensor:
        normed = x if self.group_norm is None else self.group_norm(x)
        tokens = normed.flatten(2).transpose(1, 2)  # (B, N, C)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, d)
            for part in together(tokens, self.to_q, self.to_k, self.to_v)
        )
        mixed = self.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2))
        return over(x + mixed.transpose(1, 2).unflatten(2, x.shape[2:]), self.factor)


def over(x: Tensor, factor: float) -> Tensor:
    """x / factor, without a pass over x where that is 1."""
    return x if factor == 1 else x / factor


def halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Shrink(nn.Module):
    """A convolution of stride 2."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))


class Grow(nn.Module):
    """Each pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return doubled(self.conv, x)
