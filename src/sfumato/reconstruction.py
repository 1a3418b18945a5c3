"""Training an autoencoder: what a reconstruction should be like. Knows nothing of diffusion.

    loss = l1 mean|x' - x| + gradient edges(x', x) + coarse patches(x', x) + kl KL / (C H W)
         + equivariance (l1 mean|D(z/2) - x/2| + gradient edges(D(z/2), x/2))

x' = D(z), z drawn from the encoder's N(mean, exp(log_var)); z/2 and x/2 at half their sides.
Rombach et al. (2022), appendix G, sum over values and weigh the KL with 1e-6; so does this, all
divided by the number of values, and edges stand where they have a pretrained perceptual network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codec import Pixels
from .data.batches import batch_indices, flip, flip_mask, generator_at

Batch = dict[str, Tensor]


class Coder(Protocol):
    """What networks.autoencoder and networks.taesd build; every tensor is (B, ...)."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1] to mean and log_var."""
        ...

    def decode(self, z: Tensor) -> Tensor: ...


class Model(Protocol):
    def __call__(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images and the latent's noise to reconstruction, mean and log_var."""
        ...


@dataclass(frozen=True)
class ReconstructionLoss:
    """(model, x, eps) -> (B,): x (B, C, H, W) in [-1, 1], eps standard normal like the latents.

    l1, gradient, kl: weights of the three terms. The gradient's is of the mean over `scales`.
    coarse: weight of the differences between means over patches. Where a latent is small, rare
        colours stay pale without it: the sign of a pixel's difference, all that l1 follows,
        is that of the fine detail which is lost anyway.
    scales: resolutions at which edges are compared, each half the one before.
    equivariance: weight of the same loss for halved latents against halved images: Skorokhodov et
        al. (2025), "Improving the Diffusability of Autoencoders", who find that it makes latents
        smoother and diffusion on them better. It costs a quarter of a decoding more.
    """

    l1: float = 1.0
    gradient: float = 1.0
    scales: int = 3
    kl: float = 1e-6
    coarse: float = 0.0
    equivariance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("l1", "gradient", "kl", "coarse", "equivariance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: a weight is 0 or more")
        if self.scales < 1:
            raise ValueError(f"scales is {self.scales}: edges are compared at 1 or more")

    def __call__(self, model: Model, x: Tensor, eps: Tensor) -> Tensor:
        decoded, mean, log_var = model(x, eps)
        loss = self.distance(decoded, x) + self.kl * divergence(mean, log_var) / x[0].numel()
        if self.equivariance:
            loss = loss + self.equivariance * self.half_size(model, x, mean, log_var, eps)  # type: ignore[arg-type]
        return loss

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, C, H, W) twice to (B,)."""
        loss = self.l1 * (a - b).abs().mean((1, 2, 3)) + self.gradient * edges(a, b, self.scales)
        return loss + self.coarse * patches(a, b) if self.coarse else loss

    def half_size(
        self, model: Coder, x: Tensor, mean: Tensor, log_var: Tensor, eps: Tensor
    ) -> Tensor:
        """The distance of the halved latents' image from the halved image, (B,).

        Means over 2 x 2 are what bilinear interpolation to half the sides gives.
        """
        z = mean + (log_var / 2).exp() * eps
        decoded, wanted = model.decode(F.avg_pool2d(z, 2)), F.avg_pool2d(x, 2)
        if decoded.shape != wanted.shape:
            raise ValueError(
                f"images of {x.shape[2]} x {x.shape[3]} and latents of {z.shape[2]} x {z.shape[3]} "
                "have no common half: set the crop to an even multiple of the autoencoder's f, or "
                "equivariance to 0"
            )
        return self.distance(decoded, wanted)


def divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) in nats, summed over each example's values: (B,).

    (mean^2 + var - 1 - log var) / 2: Kingma and Welling (2014), appendix B.
    """
    return (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(1) / 2


PATCHES = (4, 8, 16)  # pixels a side


def patches(a: Tensor, b: Tensor) -> Tensor:
    """How much the means over patches differ, (B, C, H, W) twice to (B,).

    The mean over PATCHES of mean|P(a - b)|; a patch that the border cuts is the mean of its part.
    """
    means = (F.avg_pool2d(a - b, side, ceil_mode=True) for side in PATCHES)
    return sum((mean.abs().mean((1, 2, 3)) for mean in means), a.new_zeros(())) / len(PATCHES)


def edges(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """How much the differences between neighbouring pixels differ, (B, C, H, W) twice to (B,).

    The mean over `scales` resolutions, each half the one before, of
    mean|d/dy (a - b)| + mean|d/dx (a - b)|, in units of the images' values per pixel of that
    resolution. 0 for images that differ by a constant.

    Raises: ValueError where the coarsest resolution has fewer than 2 x 2 pixels.
    """
    if min(a.shape[2:]) < 2**scales:
        raise ValueError(
            f"images of {a.shape[2]} x {a.shape[3]} have no edges at {scales} scales: take larger "
            f"crops, {2**scales} a side or more, or fewer scales"
        )
    off, total = a - b, torch.zeros(len(a), device=a.device)
    for scale in range(scales):
        off = F.avg_pool2d(off, 2) if scale else off
        total = total + off.diff(dim=2).abs().mean((1, 2, 3))
        total = total + off.diff(dim=3).abs().mean((1, 2, 3))
    return total / scales


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of uint8 images (B, C, H, W), one by one: (B,).

    10 log10(255^2 / mean squared difference); infinite where there is none.
    """
    if a.dtype != torch.uint8 or b.dtype != torch.uint8 or a.shape != b.shape:
        raise ValueError(
            f"{a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)} came: give two batches of "
            "uint8 images of one shape"
        )
    mse = (a.double() - b.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / mse)


def loss_of(
    objective: ReconstructionLoss, precision: torch.dtype = torch.float32
) -> Callable[[nn.Module, Batch], Tensor]:
    """The objective as training.train wants it: of batches with "images", uint8, and "eps".

    Only the network runs in `precision`; it returns float32, in which the loss is taken.
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x = Pixels().encode(batch["images"])
        low = precision in (torch.bfloat16, torch.float16)
        with torch.autocast(x.device.type, dtype=precision if low else None, enabled=low):
            return objective(model, x, batch["eps"])

    return loss


def batches(
    images: Tensor,
    latent_shape: Callable[[int, int], tuple[int, int, int]],
    size: int,
    seed: int,
    crop: int | None = None,
    mirrored: bool = True,
) -> Callable[[int], Batch]:
    """The function from a step to its batch of `size`: random crops, mirrored or not, and eps.

    images: (N, C, H, W) uint8 on the device to train on. latent_shape: the configuration's.
    crop: side of the squares; None or more than the image has takes it whole. Batch k is a
    function of (seed, k).
    """
    height, width = (min(side, crop or side) for side in images.shape[2:])
    shape = latent_shape(height, width)

    def batch_at(step: int) -> Batch:
        chosen = images[batch_indices(len(images), size, seed, step).to(images.device)]
        chosen = crops(chosen, height, width, generator_at(seed, "crop", step))
        if mirrored:
            chosen = flip(chosen, flip_mask(size, generator_at(seed, "flip", step)))
        eps = torch.randn(size, *shape, generator=generator_at(seed, "noise", step))
        return {"images": chosen, "eps": eps.to(images.device)}

    return batch_at


def crops(images: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A (height, width) window of each of (B, C, H, W), all places being equally likely."""
    spare = [images.shape[2] - height + 1, images.shape[3] - width + 1]
    corners = [torch.randint(most, (len(images),), generator=generator).tolist() for most in spare]
    windows = [
        image[:, top : top + height, left : left + width]
        for image, top, left in zip(images, *corners, strict=True)
    ]
    return torch.stack(windows)


def held_out_batch(
    images: Tensor, latent_shape: Callable[[int, int], tuple[int, int, int]], seed: int
) -> Batch:
    """All the images, whole, with noise that depends on the seed alone."""
    shape = latent_shape(*images.shape[2:])
    eps = torch.randn(len(images), *shape, generator=generator_at(seed, "held-out noise"))
    return {"images": images, "eps": eps.to(images.device)}


@torch.no_grad()
def reconstruct(model: nn.Module, images: Tensor, batch: int = 16) -> tuple[Tensor, Tensor]:
    """The images decoded from their latents' means, uint8, and each one's KL in nats, (B,)."""
    pixels, done, nats = Pixels(), [], []
    for part in images.split(batch):
        x = pixels.encode(part)
        mean, log_var = model.encode(x)  # type: ignore[operator]
        decoded, _, _ = model(x, torch.zeros_like(mean))
        done.append(pixels.decode(decoded))
        nats.append(divergence(mean, log_var))
    return torch.cat(done), torch.cat(nats)
