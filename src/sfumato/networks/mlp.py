"""A small network for points instead of images: 2-D lessons and fast tests.

    h_0 = linear(x) + e,    h_{l+1} = h_l + linear(silu(h_l + linear(e))),    y = linear(silu(h_L))

e embeds the noise level and the class. The last layer starts at zero.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .embeddings import Conditioning


@dataclass(frozen=True)
class MLPConfig:
    """The shape of an MLP; build() makes one. The names are those of UNetConfig.

    in_channels is the dimension D of a point, channels the width of the layers.
    """

    in_channels: int = 2
    out_channels: int | None = None
    channels: int = 128
    layers: int = 3
    classes: int = 0
    noise_scale: float = 1.0

    def build(self) -> "MLP":
        """A new network, its weights drawn from torch's global generator."""
        return MLP(self)


class MLP(nn.Module):
    """The network that an MLPConfig describes.

    forward: x (B, in_channels), noise_level (B,), cond (B,) integers or None; returns
    (B, out_channels). Label `classes`, like None, means "no class".
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        if min(config.in_channels, config.layers) < 1:
            raise ValueError(f"{config}: in_channels and layers must be 1 or more")
        width = config.channels
        self.config = config
        self.embedding = Conditioning(width, width, config.classes, config.noise_scale)
        self.stem = nn.Linear(config.in_channels, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(config.layers))
        self.out = nn.Linear(width, config.out_channels or config.in_channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Tensor | None = None) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"x is {tuple(x.shape)}: this network wants points (B, {self.config.in_channels}); "
                "set in_channels to the points' dimension"
            )
        embedding = self.embedding(noise_level, cond, x.shape[0])
        h = self.stem(x) + embedding
        for layer in self.layers:
            h = layer(h, embedding)
        return self.out(F.silu(h))


class Layer(nn.Module):
    """A residual layer that is told the embedding: (B, width) to (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.told = nn.Linear(width, width)
        self.linear = nn.Linear(width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return h + self.linear(F.silu(h + self.told(embedding)))
