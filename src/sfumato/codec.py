"""Codecs: between uint8 pixels, (B, C, H, W), and what the diffusion runs on.

This is the one place where images enter and leave [-1, 1].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, int, int]  # (C, H, W)


class Codec(Protocol):
    """encode: uint8 pixels to floats of about unit range; decode: back, rounded.

    shape: of what encode makes of one image of this (C, H, W).
    """

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, x: Tensor) -> Tensor: ...

    def shape(self, image: Shape) -> Shape: ...


class CodecConfig(Protocol):
    """What run.json says of a codec. build reads its weights, where it has any.

    folder: the run's own, in which a copy of the weights may lie; None before there is one.
    """

    def build(self, folder: Path | None, device: torch.device) -> Codec: ...


@dataclass(frozen=True)
class Pixels:
    """x = pixel / 127.5 - 1, so that 0..255 becomes [-1, 1]."""

    def build(self, folder: Path | None, device: torch.device) -> "Pixels":
        return self

    def encode(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise ValueError(
                f"images came as {images.dtype}; uint8 in 0..255 is wanted. Scaling to [-1, 1] is "
                "done here and nowhere else: hand over the pixels as they were decoded."
            )
        return images.float() / 127.5 - 1

    def decode(self, x: Tensor) -> Tensor:
        return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def shape(self, image: Shape) -> Shape:
        return image
