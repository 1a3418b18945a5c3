"""Four convolutions and the time as a channel: a lesson in what a denoiser cannot do.

    y = conv(relu(conv(relu(conv(relu(conv([x, c])))))),    3 x 3 each, c constant over the image

The network of source 002, which calls it a U-Net: it has no level, no skip and no embedding. An
output pixel sees the 9 x 9 pixels around it and nothing else, so that all it can learn of a digit
is how strokes look at that scale; where a stroke belongs it cannot know. tiny_like_four_conv is
the U-Net of as many weights to compare it with.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import check_images
from .unet import UNetConfig


@dataclass(frozen=True)
class FourConvConfig:
    """The shape of a chain of 3 x 3 convolutions; build() makes one.

    in_channels = 1 and the widths (32, 64, 32) are the text's: 37,857 weights.
    widths: channels between two convolutions; n of them make n + 1, which see 2 n + 3 pixels a
        side.
    classes: must stay 0; the text's network is told the time alone.
    noise_scale: what makes about 0 ... 1 of the noise level: 1/1000 for the usual clock; for the
        text's t/T, with the index of a step as noise level, 1/300.
    """

    in_channels: int = 1
    out_channels: int | None = None
    widths: tuple[int, ...] = (32, 64, 32)
    classes: int = 0
    noise_scale: float = 0.001

    def build(self) -> "FourConv":
        """A new network, its weights drawn from torch's global generator."""
        return FourConv(self)


class FourConv(nn.Module):
    """The network that a FourConvConfig describes; its state dict has the text's names.

    forward: x (B, in_channels, H, W) of any H and W, noise_level (B,), cond None; returns
    (B, out_channels, H, W).
    """

    def __init__(self, config: FourConvConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        inputs = (config.in_channels + 1, *config.widths)
        outputs = (*config.widths, config.out_channels or config.in_channels)
        layers: list[nn.Module] = []
        for into, out in zip(inputs, outputs, strict=True):
            layers += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, noise_level: Tensor, cond: Tensor | None = None) -> Tensor:
        check_images(x, self.config.in_channels)
        if noise_level.shape != x.shape[:1]:
            raise ValueError(
                f"noise_level is {tuple(noise_level.shape)} for {x.shape[0]} images: pass one "
                f"level per image, shape ({x.shape[0]},)"
            )
        if cond is not None:
            raise ValueError(
                "a condition was given to four convolutions, which take none: pass cond=None, or "
                "choose a UNetConfig with classes"
            )
        level = (self.config.noise_scale * noise_level).to(x.dtype)
        channel = level[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return self.net(torch.cat([x, channel], dim=1))


def tiny_like_four_conv() -> UNetConfig:
    """A real U-Net with about as many weights as FourConvConfig(): 37,113, at a third of the FLOPs.

    Three levels; the coarsest features cover 4 pixels a side and attend to one another, so that
    every output pixel sees the whole image.
    """
    return UNetConfig(
        in_channels=1, channels=8, multipliers=(1, 1, 1), head_channels=8, groups=4,
        scale_shift=False,
    )  # fmt: skip


def check(config: FourConvConfig) -> None:
    """Raise ValueError, with the remedy, if no network of this shape can be built."""
    if config.classes:
        raise ValueError(
            f"classes is {config.classes}: four convolutions are told the time alone; set classes "
            "= 0 (and drop the labels), or choose a UNetConfig"
        )
    if config.in_channels < 1 or (config.out_channels is not None and config.out_channels < 1):
        raise ValueError(f"{config}: in_channels and out_channels must be 1 or more")
    if min(config.widths, default=1) < 1:
        raise ValueError(f"widths is {config.widths}: each must be 1 or more")
