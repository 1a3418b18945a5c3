"""TAESD, the tiny autoencoders of madebyollin/taesd: the latents of large ones for little.

    block:   y = relu(x + conv(relu(conv(relu(conv(x))))))
    pooled:  first x = x + project(relu(norm(expand(x)))),  by 1 x 1 convolutions
    decode:  z -> 3 tanh(z / 3) -> blocks, nearest neighbours, convolutions

They are distilled from Stable Diffusion's, FLUX's and other autoencoders and answer to their
latents. Submodules are numbered as in the published files. Images are in [0, 1] in there; here, as
everywhere in sfumato, encode takes and decode returns [-1, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import LOG_VAR_RANGE, cropped
from .layers import channels_last, check_images, pad_to_multiple

NORM_GROUPS = 4  # of a pooled block's norm; the files don't say, taesd.py does
EXPANSION = 4  # a pooled block's inner width, in widths
REACH = 3.0  # latents beyond this are squashed by the decoder


@dataclass(frozen=True)
class TAESDConfig:
    """The shape of a TAESD; build() makes one.

    latent_channels: 4 for Stable Diffusion 1 and XL, 16 for 3 and FLUX.1, 32 for FLUX.2 (TAEF2).
    blocks: blocks of each level of the encoder, finest first; the decoder has them reversed.
    pooled: whether the coarsest level's blocks have the normalised branch: TAEF2's do.
    """

    in_channels: int = 3
    latent_channels: int = 4
    width: int = 64
    blocks: tuple[int, ...] = (1, 3, 3, 3)
    pooled: bool = False

    @property
    def f(self) -> int:
        """How many image pixels a side of one latent covers."""
        return 2 ** (len(self.blocks) - 1)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(c, h, w) of what an image of this height and width becomes."""
        return self.latent_channels, -(-height // self.f), -(-width // self.f)

    def build(self) -> "TAESD":
        """A new one, its weights drawn from torch's global generator."""
        return TAESD(self)


class Squash(nn.Module):
    """A soft clamp to (-REACH, REACH)."""

    def forward(self, z: Tensor) -> Tensor:
        return REACH * torch.tanh(z / REACH)


class Block(nn.Module):
    """(B, width, h, w) to the same."""

    def __init__(self, width: int, pooled: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(conv(width, width), nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, width))
        )
        self.pool = pool(width) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(x + self.conv(x))


def conv(in_channels: int, out_channels: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)


def pool(width: int) -> nn.Sequential:
    inner = EXPANSION * width
    return nn.Sequential(
        nn.Conv2d(width, inner, 1, bias=False),
        nn.GroupNorm(NORM_GROUPS, inner),
        nn.ReLU(),
        nn.Conv2d(inner, width, 1, bias=False),
    )


def encoder_layers(config: TAESDConfig) -> Iterator[nn.Module]:
    width, coarsest = config.width, len(config.blocks) - 1
    for level, count in enumerate(config.blocks):
        first = level == 0
        yield conv(config.in_channels, width) if first else conv(width, width, 2, bias=False)
        for _ in range(count):
            yield Block(width, config.pooled and level == coarsest)
    yield conv(width, config.latent_channels)


def decoder_layers(config: TAESDConfig) -> Iterator[nn.Module]:
    width, coarsest = config.width, len(config.blocks) - 1
    yield from (Squash(), conv(config.latent_channels, width), nn.ReLU())
    for level in reversed(range(len(config.blocks))):
        for _ in range(config.blocks[level]):
            yield Block(width, config.pooled and level == coarsest)
        if level:
            yield nn.Upsample(scale_factor=2)
            yield conv(width, width, bias=False)
    yield conv(width, config.in_channels)


class TAESD(nn.Module):
    """The network that a TAESDConfig describes; Autoencoder's interface, with no randomness."""

    def __init__(self, config: TAESDConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        self.encoder = nn.Sequential(*encoder_layers(config))
        self.decoder = nn.Sequential(*decoder_layers(config))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) in [-1, 1] to z, (B, *config.latent_shape(H, W)), and log_var.

        log_var is the least that there is: z is no distribution. H and W that are no multiples of
        f are padded by repeating the border.
        """
        check_images(x, self.config.in_channels)
        padded, _ = pad_to_multiple((x + 1) / 2, self.config.f)
        z = self.encoder(channels_last(padded)).to(x.dtype)
        return z, torch.full_like(z, LOG_VAR_RANGE[0])

    def decode(self, z: Tensor) -> Tensor:
        """(B, c, h, w) to (B, in_channels, f h, f w), in about [-1, 1]."""
        images = self.decoder(channels_last(z))
        return 2 * images.to(z.dtype) - 1

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reconstruction of x, as large as x; z; log_var. eps is of no consequence."""
        z, log_var = self.encode(x)
        return cropped(self.decode(z), x.shape[2], x.shape[3]), z, log_var


def check(config: TAESDConfig) -> None:
    """Raise ValueError, with the remedy, if no TAESD of this shape can be built."""
    for name in ("in_channels", "latent_channels", "width"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be 1 or more")
    if not config.blocks or min(config.blocks) < 0:
        raise ValueError(
            f"blocks is {config.blocks}: give their number at each level, (1, 3, 3, 3)"
        )
