"""A diffusion transformer, DiT with adaLN-Zero: Peebles and Xie (2023), section 3.2, figure 3.

    c = MLP(sinusoids(noise level)) + table[class]
    h_0 = linear(patches) + positions
    h   = h + gate_1(c) attention(norm(h) (1 + scale_1(c)) + shift_1(c))
    h   = h + gate_2(c) MLP(norm(h) (1 + scale_2(c)) + shift_2(c))
    y   = linear(norm(h_L) (1 + scale(c)) + shift(c)), put back patch by patch

Gates and the last linear layer start at zero, so that a new block is its skip and a new network
returns zero. Norms have no weights of their own. Positions are fixed sinusoids of the row and of
the column, so that any H x W goes in. Works on pixels and on latents; knows nothing of diffusion.

Submodules are named such that the state dict has the keys of the authors' own; see interop/dit.py.
Constants of the layers' beginnings (Xavier, 0.02) and of the embedding (256) are from memory.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .embeddings import LONGEST, check_labels
from .fused_attention import attend_together
from .fused_gelu import gelu_of
from .fused_tokens import gated, modulated
from .layers import check_images, pad_to_multiple, zeroed

SINUSOIDS = 256  # features of a noise level before its MLP, whatever the width
SIZES = {  # depth, width, heads: Peebles and Xie (2023), table 1 (from memory)
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}


@dataclass(frozen=True)
class DiTConfig:
    """The shape of a DiT; build() makes one, and dit_size("B") has the paper's sizes.

    in_channels, out_channels: of the images; None means as many out as in. A learned variance
        needs twice as many.
    patch: side of the square of pixels that makes a token; halving it makes four times the tokens.
    depth, width, heads: blocks, features of a token, heads of an attention.
    mlp_ratio: width of a block's hidden layer, as a multiple of `width`.
    classes: 0 is unconditional.
    noise_scale: multiplies the noise level before its sinusoids; see NoiseEmbedding.

    The rest is for models trained elsewhere, and best left alone:
    frequency_shift: frequencies are 10000^(-k / (128 - frequency_shift)); 1 in diffusers.
    mlp_eps: what the norm before a block's MLP adds to the variance; 1e-5 in diffusers.
    shared_embedding: False gives each block an embedding of the noise level and class of its own,
        as in models trained in diffusers.
    """

    in_channels: int = 3
    out_channels: int | None = None
    patch: int = 2
    depth: int = 12
    width: int = 384
    heads: int = 6
    mlp_ratio: float = 4.0
    classes: int = 0
    noise_scale: float = 1.0
    frequency_shift: int = 0
    mlp_eps: float = 1e-6
    shared_embedding: bool = True

    def build(self) -> "DiT":
        """A new network, its weights drawn from torch's global generator."""
        return DiT(self)


def dit_size(size: str, config: DiTConfig | None = None) -> DiTConfig:
    """`config`, or the default one, with the paper's depth, width and heads for S, B, L or XL.

    dit_size("XL", DiTConfig(in_channels=4, patch=2, classes=1000)) is DiT-XL/2.
    """
    if size not in SIZES:
        raise ValueError(f"no DiT size {size!r} is known: choose from {', '.join(SIZES)}")
    depth, width, heads = SIZES[size]
    return replace(config or DiTConfig(), depth=depth, width=width, heads=heads)


class PatchEmbedder(nn.Module):
    """Squares of pixels as tokens: (B, C, H, W) to (B, N, width), row by row."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        side = config.patch
        self.proj = nn.Conv2d(config.in_channels, config.width, side, stride=side)
        nn.init.xavier_uniform_(self.proj.weight.view(config.width, -1))
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class NoiseEmbedder(nn.Module):
    """A noise level (B,) as a vector (B, width)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.scale, self.shift = config.noise_scale, config.frequency_shift
        first, second = nn.Linear(SINUSOIDS, config.width), nn.Linear(config.width, config.width)
        for layer in (first, second):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, noise_level: Tensor) -> Tensor:
        features = sinusoids(self.scale * noise_level, SINUSOIDS, self.shift)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class LabelEmbedder(nn.Module):
    """A class label (B,) as a vector (B, width). The last row of the table means "no class"."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.classes = config.classes
        self.embedding_table = nn.Embedding(config.classes + 1, config.width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, cond: Tensor | None, batch: int) -> Tensor:
        if cond is None:
            return self.embedding_table.weight[-1].expand(batch, -1)
        check_labels(cond, self.classes, batch)
        return self.embedding_table(cond)


class Embedders(nn.Module):
    """What one block alone is told, where blocks do not share it: c (B, width)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.t_embedder = NoiseEmbedder(config)
        self.y_embedder = LabelEmbedder(config) if config.classes else None

    def forward(self, noise_level: Tensor, cond: Tensor | None) -> Tensor:
        return told(self.t_embedder, self.y_embedder, noise_level, cond)


class Attention(nn.Module):
    """Self-attention of tokens (B, N, width)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = xavier(config.width, 3 * config.width)
        self.proj = xavier(config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (B, N, 3, heads, d)
        return self.proj(attend_together(qkv))


class MLP(nn.Module):
    """Two layers around a GELU in its tanh form: (B, N, width) to the same."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        hidden = int(config.width * config.mlp_ratio)
        self.fc1 = xavier(config.width, hidden)
        self.fc2 = xavier(hidden, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(gelu_of(self.fc1, tokens))


class Block(nn.Module):
    """A block with adaLN-Zero: tokens (B, N, width) and c (B, width) to tokens."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.mlp_eps = config.mlp_eps
        self.attn = Attention(config)
        self.mlp = MLP(config)
        self.adaLN_modulation = modulation(config.width, 6)

    def forward(self, tokens: Tensor, c: Tensor) -> Tensor:
        changes = self.adaLN_modulation(c)[:, None].chunk(6, dim=2)  # six of (B, 1, width)
        shift1, scale1, gate1, shift2, scale2, gate2 = changes
        tokens = gated(tokens, gate1, self.attn(modulated(tokens, shift1, scale1)))
        return gated(tokens, gate2, self.mlp(modulated(tokens, shift2, scale2, self.mlp_eps)))


class FinalLayer(nn.Module):
    """Tokens (B, N, width) as patches (B, N, patch * patch * out_channels)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        outputs = config.patch**2 * (config.out_channels or config.in_channels)
        self.linear = zeroed(nn.Linear(config.width, outputs))
        self.adaLN_modulation = modulation(config.width, 2)

    def forward(self, tokens: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)
        return self.linear(modulated(tokens, shift, scale))


class DiT(nn.Module):
    """The network that a DiTConfig describes.

    forward: x (B, in_channels, H, W) of any H and W, noise_level (B,), cond (B,) integers or None;
    returns (B, out_channels, H, W). Label `classes`, like None, means "no class".
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        self.x_embedder = PatchEmbedder(config)
        self.t_embedder = NoiseEmbedder(config)
        self.y_embedder = LabelEmbedder(config) if config.classes else None
        more = 0 if config.shared_embedding else config.depth - 1
        self.more_embedders = nn.ModuleList(Embedders(config) for _ in range(more))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Tensor | None = None) -> Tensor:
        check_images(x, self.config.in_channels)
        check_told(self.config, x.shape[0], noise_level, cond)
        first = told(self.t_embedder, self.y_embedder, noise_level, cond)
        others = [embedders(noise_level, cond) for embedders in self.more_embedders]
        each = [first, *others] if others else [first] * self.config.depth
        padded, box = pad_to_multiple(x, self.config.patch)
        rows, columns = (side // self.config.patch for side in padded.shape[2:])
        h = self.x_embedder(padded)
        h = h + positions(rows, columns, self.config.width, x)
        for block, c in zip(self.blocks, each, strict=True):
            h = block(h, c)
        return self.whole(self.final_layer(h, first), rows, columns)[box]

    def whole(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """(B, rows * columns, patch * patch * C) as images (B, C, H, W)."""
        side = self.config.patch
        grid = patches.unflatten(2, (side, side, -1)).unflatten(1, (rows, columns))
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sinusoids(values: Tensor, features: int, shift: int = 0) -> Tensor:
    """[cos(f_k v), sin(f_k v)], (B, features), of values (B,), in float32 or wider.

    f_k = 10000^(-k / (K - shift)), k = 0 ... K - 1, K = features / 2.
    """
    pairs = features // 2
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    k = torch.arange(pairs, device=values.device, dtype=wide.dtype)
    angle = wide[:, None] * LONGEST ** (-k / (pairs - shift))
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def positions(rows: int, columns: int, width: int, like: Tensor) -> Tensor:
    """Fixed positions of a grid, row by row, (rows * columns, width), on the device of `like`.

    [sin(f_k j), cos(f_k j), sin(f_k i), cos(f_k i)] for row i and column j, both counted from 0,
    f_k = 10000^(-4 k / width), k = 0 ... width / 4 - 1: the column comes first.
    """
    wide = torch.promote_types(like.dtype, torch.float32)

    def line(length: int) -> Tensor:
        places = torch.arange(length, device=like.device, dtype=wide)
        cosines, sines = sinusoids(places, width // 2).chunk(2, dim=1)
        return torch.cat([sines, cosines], dim=1)

    across = line(columns)[None].expand(rows, -1, -1)
    down = line(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([across, down], dim=2).flatten(0, 1)


def told(
    noise: NoiseEmbedder, label: LabelEmbedder | None, noise_level: Tensor, cond: Tensor | None
) -> Tensor:
    """c (B, width): the noise level, and the class where there are classes."""
    c = noise(noise_level)
    return c if label is None else c + label(cond, noise_level.shape[0])


def modulation(width: int, parts: int) -> nn.Sequential:
    """c to shifts, scales and gates, all of which start at zero."""
    return nn.Sequential(nn.SiLU(), zeroed(nn.Linear(width, parts * width)))


def xavier(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer as a transformer's begin."""
    layer = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def check_told(config: DiTConfig, batch: int, noise_level: Tensor, cond: Tensor | None) -> None:
    if noise_level.shape != (batch,):
        raise ValueError(
            f"noise_level is {tuple(noise_level.shape)} for {batch} images: pass one level per "
            f"image, shape ({batch},); a single level t fits after t.expand({batch})"
        )
    if cond is not None and not config.classes:
        raise ValueError(
            "labels were given to a DiT without classes: pass cond=None, or build the network with "
            "classes = the number of classes"
        )


def check(config: DiTConfig) -> None:
    """Raise ValueError, with the remedy, if no network of this shape can be built."""
    for name in ("in_channels", "patch", "depth", "width", "heads"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be 1 or more")
    if config.out_channels is not None and config.out_channels < 1:
        raise ValueError(
            f"out_channels is {config.out_channels}: 1 or more, or None for as many as in"
        )
    if config.classes < 0:
        raise ValueError(f"classes is {config.classes}: give 0 for none, or their number")
    if config.width % config.heads:
        raise ValueError(
            f"a width of {config.width} does not split into {config.heads} heads: choose heads "
            "that divide it (64 features a head are usual)"
        )
    if config.width % 4:
        raise ValueError(
            f"width is {config.width}: positions are sines and cosines of rows and columns, so "
            "choose a multiple of 4"
        )
    if int(config.width * config.mlp_ratio) < 1:
        raise ValueError(f"mlp_ratio is {config.mlp_ratio}: choose one above 0; 4 is usual")
