"""The networks that are trained here and by a peer: which, on what, and how large a step."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from sfumato.config import NetworkConfig
from sfumato.data import ImageData, load
from sfumato.networks import DiTConfig, LucidUNetConfig, UNet2DConfig, dit_size, flops


@dataclass(frozen=True)
class Case:
    """A network of ours that a peer has too. shape: of an image, (C, H, W). peer: see peers.py."""

    name: str
    words: str
    peer: str
    network: NetworkConfig
    batch: int
    shape: tuple[int, int, int] = (3, 32, 32)

    @property
    def flops(self) -> float:
        """Of the model, in a training step: three times forward."""
        network = self.network
        return 3.0 * self.batch * flops(network.build(), self.shape, network.classes)

    def data(self, images: int = 512) -> ImageData:
        """The built-in digits in this shape, with labels only where the network has classes."""
        return shaped(self.shape, images, self.network.classes)


LUCID = LucidUNetConfig(channels=64, multipliers=(1, 2, 4, 8))
DIT = dit_size("S", DiTConfig(in_channels=4, patch=4, classes=1000))
CASES = {
    case.name: case
    for case in (
        Case("unet2d-16", "UNet2DModel 64-128-128-256, batch 16", "diffusers", UNet2DConfig(), 16),
        Case("unet2d-64", "UNet2DModel 64-128-128-256, batch 64", "diffusers", UNet2DConfig(), 64),
        Case("lucid-16", "Unet(dim=64), batch 16", "denoising-diffusion-pytorch", LUCID, 16),
        Case("dit-64", "DiT-S/4 on 32 x 32 x 4, batch 64", "plain DiT", DIT, 64, (4, 32, 32)),
    )
}
SMALL_UNET = UNet2DConfig(
    block_out_channels=(32, 32),
    attention_down=(False, True),
    attention_up=(True, False),
    layers_per_block=1,
)
SMALL: dict[str, NetworkConfig] = {  # of --quick: the same code in seconds
    "diffusers": SMALL_UNET,
    "denoising-diffusion-pytorch": LucidUNetConfig(channels=16, multipliers=(1, 2)),
    "plain DiT": DiTConfig(in_channels=4, patch=4, classes=10, depth=2, width=64, heads=2),
}


def cases(quick: bool) -> dict[str, Case]:
    """By name; with quick small networks and 4 images in their places."""
    if not quick:
        return CASES
    return {name: replace(case, network=SMALL[case.peer], batch=4) for name, case in CASES.items()}


@lru_cache
def shaped(shape: tuple[int, int, int], images: int, classes: int) -> ImageData:
    """Digits laid into the middle of (C, H, W), labels 0, 1, ... below `classes`."""
    channels, height, width = shape
    source = load("digits").images[torch.arange(images) % 5000]
    side = source.shape[-1]
    pixels = torch.zeros(images, channels, max(height, side), max(width, side), dtype=torch.uint8)
    top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
    pixels[:, :, top : top + side, left : left + side] = source
    labels = torch.arange(images) % classes if classes else None
    names = tuple(str(number) for number in range(classes))
    return ImageData(pixels[:, :, :height, :width].clone(), labels, names, "bench", "the digits")
