"""Codecs: between uint8 pixels, (B, C, H, W), and what the diffusion runs on.

This is the one place where images enter and leave [-1, 1].
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Codec(Protocol):
    """encode: uint8 pixels to floats of about unit range; decode: back, rounded."""

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Pixels:
    """x = pixel / 127.5 - 1, so that 0..255 becomes [-1, 1]."""

    def encode(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise ValueError(
                f"images came as {images.dtype}; uint8 in 0..255 is wanted. Scaling to [-1, 1] is "
                "done here and nowhere else: hand over the pixels as they were decoded."
            )
        return images.float() / 127.5 - 1

    def decode(self, x: Tensor) -> Tensor:
        return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
