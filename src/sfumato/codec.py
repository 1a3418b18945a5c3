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

    size: (H, W) of the images where encode had to pad them; None keeps what there is.
    shape: of what encode makes of one image of this (C, H, W).
    """

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor: ...

    def shape(self, shape: Shape) -> Shape: ...


class CodecConfig(Protocol):
    """What run.json says of a codec.

    settled: with what only the data, uint8 (N, C, H, W), can say. install: copy the weights, if it
    has any, into a run's folder. build: read them there. channels: of what the diffusion runs on.
    deviation: its standard deviation over the data, EDM's sigma_data.
    """

    def settled(self, images: Tensor) -> "CodecConfig": ...

    def install(self, folder: Path) -> None: ...

    def build(self, folder: Path, device: torch.device) -> Codec: ...

    def channels(self, image_channels: int) -> int: ...

    def deviation(self, images: Tensor) -> float: ...


@dataclass(frozen=True)
class Pixels:
    """x = pixel / 127.5 - 1, so that 0..255 becomes [-1, 1]."""

    def settled(self, images: Tensor) -> "Pixels":
        return self

    def install(self, folder: Path) -> None:
        """There are no weights."""

    def build(self, folder: Path, device: torch.device) -> "Pixels":
        return self

    def channels(self, image_channels: int) -> int:
        return image_channels

    def deviation(self, images: Tensor) -> float:
        """Of up to 10,000 images spread over all."""
        some = images[:: -(-len(images) // 10_000)]
        return max(0.05, round(self.encode(some).std().item(), 3))

    def encode(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise ValueError(
                f"images came as {images.dtype}; uint8 in 0..255 is wanted. Scaling to [-1, 1] is "
                "done here and nowhere else: hand over the pixels as they were decoded."
            )
        return images.float() / 127.5 - 1

    def decode(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def shape(self, shape: Shape) -> Shape:
        return shape
