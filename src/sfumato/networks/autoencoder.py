"""The KL autoencoder of latent diffusion: Rombach et al. (2022), section 3.1 and appendix G.

    encode:  x -> mean, log_var of q(z | x) = N(mean, exp(log_var)),  each (B, c, H / f, W / f)
    decode:  z -> x

    residual:   y = skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))
    attention:  y = x + to_out(softmax(q k^T / sqrt(d)) v),    one head, in the middle only

Its submodules bear the names of diffusers' AutoencoderKL, so that with patch = 1 either program
loads the other's weights. `patch` is our own: the first convolution sees squares of patch x patch
pixels as channels and the last one writes them. No feature map is then at the images' resolution,
where most of the cost of an f4 or f8 autoencoder sits. Knows nothing of diffusion.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .convolving import doubled
from .fused_attention import attend
from .layers import (
    GroupNorm,
    channels_last,
    check_counts,
    check_groups,
    check_images,
    pad_to_multiple,
    zeroed,
)
from .winograd import convolve

EPSILON = 1e-6  # of the norms: diffusers' for this network, where its U-Nets have 1e-5
LOG_VAR_RANGE = (-30.0, 20.0)  # diffusers' and the original's; exp() of it is finite in float32
FIRST_LOG_VAR = -4.0  # at the start: at 0 the noise drowns what the encoder has to say for long


@dataclass(frozen=True)
class AutoencoderConfig:
    """The shape of a KL autoencoder; build() makes one.

    widths: channels of each level, finest first; every level after the first halves the sides.
    blocks: residual blocks a level of the encoder; a level of the decoder has one more.
    groups: groups of a group norm; divides every width.
    middle_attention: whether the coarsest level attends to itself; leave it out to train on crops
        and encode whole images, which attention has then never seen.
    quant_conv, post_quant_conv: 1 x 1 convolutions after the encoder and before the decoder.
    patch: side of the square of pixels that the first level's features stand for; 1 is diffusers'.
    """

    in_channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (64, 128)
    blocks: int = 1
    groups: int = 8
    middle_attention: bool = False
    quant_conv: bool = True
    post_quant_conv: bool = True
    patch: int = 2

    @property
    def f(self) -> int:
        """How many image pixels a side of one latent covers."""
        return self.patch * 2 ** (len(self.widths) - 1)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(c, h, w) of what an image of this height and width becomes."""
        return self.latent_channels, -(-height // self.f), -(-width // self.f)

    def build(self) -> "Autoencoder":
        """A new autoencoder, its weights drawn from torch's global generator."""
        return Autoencoder(self)


class Residual(nn.Module):
    """(B, in, h, w) to (B, out, h, w); a new one is its skip."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, EPSILON)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(groups, out_channels, EPSILON)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.conv_shortcut = None if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = convolve(self.conv1, self.norm1(x, silu=True))
        h = convolve(self.conv2, self.norm2(h, silu=True))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Self-attention over all positions of (B, C, h, w), in one head of C channels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, EPSILON)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([zeroed(nn.Linear(channels, channels))])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]  # (B, 1, N, C)
        mixed = attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out[0](mixed[:, 0]).transpose(1, 2).unflatten(2, x.shape[2:])


class Middle(nn.Module):
    """The coarsest level: two residuals, with attention between them where it is configured."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width, attends = config.widths[-1], config.middle_attention
        self.resnets = nn.ModuleList(Residual(width, width, config.groups) for _ in range(2))
        self.attentions = nn.ModuleList(Attention(width, config.groups) for _ in range(attends))

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Shrink(nn.Module):
    """Halve the sides, rounding down, by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # zeros right and below only, as in the original


class Grow(nn.Module):
    """Double the sides: nearest neighbours, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return doubled(self.conv, x)


def residuals(count: int, in_channels: int, width: int, groups: int) -> nn.ModuleList:
    """`count` residuals in a row, of which the first changes the width."""
    inputs = [in_channels] + [width] * (count - 1)
    return nn.ModuleList(Residual(c, width, groups) for c in inputs)


class Down(nn.Module):
    """A level of the encoder: residuals, then Shrink unless it is the last."""

    def __init__(self, config: AutoencoderConfig, level: int) -> None:
        super().__init__()
        width, entry = config.widths[level], config.widths[max(level - 1, 0)]
        shrinks = level + 1 < len(config.widths)
        self.resnets = residuals(config.blocks, entry, width, config.groups)
        self.downsamplers = nn.ModuleList(Shrink(width) for _ in range(shrinks))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class Up(nn.Module):
    """A level of the decoder: residuals, one more than the encoder's, then Grow but at the end."""

    def __init__(self, config: AutoencoderConfig, level: int) -> None:
        super().__init__()
        width = config.widths[level]
        entry = config.widths[min(level + 1, len(config.widths) - 1)]
        self.resnets = residuals(config.blocks + 1, entry, width, config.groups)
        self.upsamplers = nn.ModuleList(Grow(width) for _ in range(level > 0))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Images, their patches as channels, to twice the latent's channels."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        inputs, last = config.in_channels * config.patch**2, config.widths[-1]
        self.patch = config.patch
        self.conv_in = nn.Conv2d(inputs, config.widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(Down(config, level) for level in range(len(config.widths)))
        self.mid_block = Middle(config)
        self.conv_norm_out = GroupNorm(config.groups, last, EPSILON)
        self.conv_out = nn.Conv2d(last, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(F.pixel_unshuffle(x, self.patch))
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), silu=True))


class Decoder(nn.Module):
    """Latents to images."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        first, outputs = config.widths[0], config.in_channels * config.patch**2
        levels = reversed(range(len(config.widths)))
        self.patch = config.patch
        self.conv_in = nn.Conv2d(config.latent_channels, config.widths[-1], 3, padding=1)
        self.mid_block = Middle(config)
        self.up_blocks = nn.ModuleList(Up(config, level) for level in levels)
        self.conv_norm_out = GroupNorm(config.groups, first, EPSILON)
        self.conv_out = nn.Conv2d(first, outputs, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(channels_last(z))
        x = self.mid_block(x)
        for block in self.up_blocks:
            x = block(x)
        return F.pixel_shuffle(self.conv_out(self.conv_norm_out(x, silu=True)), self.patch)


class Autoencoder(nn.Module):
    """The network that an AutoencoderConfig describes."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        check(config)
        latent = config.latent_channels
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if config.post_quant_conv else None
        last = self.encoder.conv_out if self.quant_conv is None else self.quant_conv
        nn.init.constant_(last.bias[latent:], FIRST_LOG_VAR)  # type: ignore[index]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) in [-1, 1] to mean and log_var, each config.latent_shape(H, W).

        H and W that are no multiples of f are padded by repeating the border.
        """
        check_images(x, self.config.in_channels)
        padded, _ = pad_to_multiple(x, self.config.f)
        moments = self.encoder(padded)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, log_var = moments.to(x.dtype).chunk(2, dim=1)
        return mean, log_var.clamp(*LOG_VAR_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """(B, c, h, w) to (B, in_channels, f h, f w), in about [-1, 1]."""
        h = z if self.post_quant_conv is None else self.post_quant_conv(z)
        return self.decoder(h).to(z.dtype)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reconstruction of x from a draw of q(z | x), as large as x; mean; log_var.

        eps: (B, c, h, w), standard normal; 0 reconstructs from the mean.
        """
        mean, log_var = self.encode(x)
        decoded = self.decode(mean + (log_var / 2).exp() * eps)
        return cropped(decoded, x.shape[2], x.shape[3]), mean, log_var


def cropped(x: Tensor, height: int, width: int) -> Tensor:
    """Undo pad_to_multiple: (..., height, width) out of the middle of a padded (..., H, W)."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def flops(config: AutoencoderConfig, height: int, width: int) -> tuple[int, int]:
    """Forward FLOPs of encoding and of decoding one image, a multiply-add as 2; see describe.py."""
    counts = []
    with torch.device("meta"):
        model = config.build()
        x = torch.empty(1, config.in_channels, height, width)
        z = torch.empty(1, *config.latent_shape(height, width))
    for work, given in ((model.encode, x), (model.decode, z)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            work(given)
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def check(config: AutoencoderConfig) -> None:
    """Raise ValueError, with the remedy, if no autoencoder of this shape can be built."""
    check_counts(config, "in_channels", "latent_channels", "blocks", "groups", "patch")
    if not config.widths or min(config.widths) < 1:
        raise ValueError(
            f"widths is {config.widths}: give the channels of each level, as (64, 128)"
        )
    remedy = f"change widths {config.widths} or groups"
    check_groups(config.widths, config.groups, remedy)
