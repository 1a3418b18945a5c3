"""DiT as its authors' program trains it, written plainly: Peebles and Xie (2023), figure 3.

A benchmark's peer: attention and MLP as timm has them, one module a piece, no shared work. The
arithmetic and the parameters' names are those of sfumato.networks.DiT, so that weights move by
load_state_dict; the buffer of positions is computed once, as theirs is.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.networks import DiTConfig
from sfumato.networks.dit import positions


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(width, hidden), nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Block(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    def __init__(self, config: DiTConfig, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(config.width, config.patch**2 * outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 2 * config.width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class TimestepEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        t = t.to(self.mlp[0].weight.dtype)  # type: ignore[arg-type]
        k = torch.arange(128, dtype=t.dtype, device=t.device)
        angles = t[:, None] * torch.exp(-math.log(10_000) * k / 128)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class PatchEmbed(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        side = config.patch
        self.proj = nn.Conv2d(config.in_channels, config.width, side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class LabelEmbedder(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.classes + 1, config.width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


class PlainDiT(nn.Module):
    """forward: x (B, C, side, side), t (B,), labels (B,); returns (B, out_channels, side, side)."""

    def __init__(self, config: DiTConfig, side: int) -> None:
        super().__init__()
        self.patch, self.grid = config.patch, side // config.patch
        self.outputs = config.out_channels or config.in_channels
        self.x_embedder = PatchEmbed(config)
        self.t_embedder = TimestepEmbedder(config.width)
        self.y_embedder = LabelEmbedder(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config, self.outputs)
        fixed = positions(self.grid, self.grid, config.width, torch.empty(0))
        self.register_buffer("pos_embed", fixed, persistent=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        tokens = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(labels)
        for block in self.blocks:
            tokens = block(tokens, c)
        return self.unpatchify(self.final_layer(tokens, c))

    def unpatchify(self, x: Tensor) -> Tensor:
        shape = (len(x), self.grid, self.grid, self.patch, self.patch, self.outputs)
        side = self.grid * self.patch
        images = torch.einsum("nhwpqc->nchpwq", x.reshape(shape))
        return images.reshape(len(x), self.outputs, side, side)
