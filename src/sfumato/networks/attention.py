"""Attention over the positions of a feature map, and of a feature map to the tokens of a text.

    vanilla:  y = x + P(softmax(q k^T / sqrt(C)) v),    q, k, v = W norm(x)
    linear:   y = x + P(softmax_C(q) (softmax_N(k)^T v))
    cross:    q = W_Q x,  k = W_K tau,  v = W_V tau,    tau: the tokens; a masked one weighs 0

Vanilla is the block of Ho et al. (2020) with one head. Linear is the efficient attention of Shen
et al. (2021), its equation from memory: the implied N x N weights are positive and each row sums to
1, yet they are never formed, so the cost grows with N and not with N^2. Cross is section 3.3 of
Rombach et al. (2022): W_Q is d x d_image, W_K and W_V are d x d_context (source 003 exchanges the
shapes of Q and V). Submodules have the names of latent diffusion's state dicts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conditioning import Tokens
from .fused_attention import attend
from .layers import GroupNorm, zeroed

EPSILON = 1e-6  # of every norm of this family


class SpatialAttention(nn.Module):
    """Self-attention with one head over the positions of (B, C, h, w), beside a skip.

    linear: by the second formula above; same parameters, another function. (Latent diffusion's own
    linear block has neither norm nor skip and other names; its weights do not fit.)
    """

    def __init__(self, channels: int, groups: int, linear: bool = False) -> None:
        super().__init__()
        self.mix = attend_linearly if linear else attend
        self.norm = GroupNorm(groups, channels, EPSILON)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (as_tokens(layer(h))[:, None] for layer in (self.q, self.k, self.v))
        return x + self.proj_out(as_image(self.mix(q, k, v)[:, 0], x))


class CrossAttention(nn.Module):
    """x (B, N, D) attends to values (B, L, context), in heads of head_channels: (B, N, D)."""

    def __init__(self, channels: int, context: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: (B, L) bool; None where every value is real."""
        projected = (self.to_q(x), self.to_k(values), self.to_v(values))
        q, k, v = (h.unflatten(2, (-1, self.head_channels)).transpose(1, 2) for h in projected)
        mixed = attend(q, k, v) if mask is None else attend_where(q, k, v, mask)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class GatedGELU(nn.Module):
    """a gelu(b) with a, b = linear(x): (B, N, D) to (B, N, wide). Shazeer (2020)."""

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * wide)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=2)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Each token for itself, four times as wide inside: (B, N, D) to (B, N, D)."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        wide = 4 * channels
        self.net = nn.Sequential(
            GatedGELU(channels, wide), nn.Dropout(dropout), nn.Linear(wide, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each of a layer norm and beside a skip."""

    def __init__(self, channels: int, context: int, head_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = CrossAttention(channels, channels, head_channels)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = CrossAttention(channels, context, head_channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, dropout)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x: (B, N, channels), and so is what comes back."""
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), tokens.values, tokens.mask)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer block on the positions of (B, C, h, w); adds nothing when new."""

    def __init__(
        self, channels: int, context: int, groups: int, head_channels: int, dropout: float
    ) -> None:
        super().__init__()
        block = TransformerBlock(channels, context, head_channels, dropout)
        self.norm = GroupNorm(groups, channels, EPSILON)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        h = as_tokens(self.proj_in(self.norm(x)))
        for block in self.transformer_blocks:
            h = block(h, tokens)
        return x + self.proj_out(as_image(h, x))


def attend_linearly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax_d(q) (softmax_N(k)^T v), each (B, heads, N, d): over features, over positions."""
    return q.softmax(dim=3) @ (k.softmax(dim=2).transpose(2, 3) @ v)


def attend_where(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the real tokens alone; zero where there are none.

    q: (B, heads, N, d); k, v: (B, heads, L, d); mask: (B, L) bool.
    """
    real = mask[:, None, None, :]
    scores = q * q.shape[3] ** -0.5 @ k.transpose(2, 3)  # (B, heads, N, L)
    # not minus infinity, of which a softmax of nothing else makes NaN
    weights = scores.masked_fill(~real, torch.finfo(scores.dtype).min).softmax(dim=3)
    return (weights * real).to(v.dtype) @ v


def as_tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h w, C)."""
    return x.flatten(2).transpose(1, 2)


def as_image(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, h w, C) to (B, C, h, w), the size of `like`."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])
