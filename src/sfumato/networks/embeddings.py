"""Embeddings: a noise level or a class as a vector that the blocks of a network can read.

    features(c) = [cos(f_k scale c), sin(f_k scale c)],    f_k = 10000^(-k / K),  k = 0 ... K - 1

(the time embedding of Ho et al. (2020), after Vaswani et al. (2017), section 3.5; the constants are
from memory). Knows nothing of diffusion: a noise level is any float per image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST = 10_000.0  # wavelengths run from 2 pi scaled units to nearly this many times 2 pi


class NoiseEmbedding(nn.Module):
    """A noise level (B,) as a vector (B, channels): sinusoids, then two linear layers.

    scale multiplies the level first, so that its whole range is about 1,000 wide whatever its
    unit: 1 where levels run from 0 to 1000 (1000 t), about 250 where they run from -1.6 to 1.1
    (EDM's log(sigma) / 4). The shortest wave is 2 pi long after scaling.
    """

    def __init__(self, features: int, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ValueError(
                f"a noise embedding of {features} features: half of them are cosines and half are "
                "sines, so ask for an even number, 2 or more"
            )
        self.pairs = features // 2
        self.scale = scale
        self.linear1 = nn.Linear(features, channels)
        self.linear2 = nn.Linear(channels, channels)

    def features(self, noise_level: Tensor) -> Tensor:
        """Sinusoids (B, features), in float32 or wider: bf16 holds neither 999 nor f_k."""
        wide = torch.promote_types(noise_level.dtype, torch.float32)
        k = torch.arange(self.pairs, device=noise_level.device, dtype=wide)
        frequencies = LONGEST ** (-k / self.pairs)
        angle = self.scale * noise_level.to(wide)[:, None] * frequencies  # (B, features / 2)
        return torch.cat([angle.cos(), angle.sin()], dim=1)

    def forward(self, noise_level: Tensor) -> Tensor:
        features = self.features(noise_level).to(self.linear1.weight.dtype)
        return self.linear2(F.silu(self.linear1(features)))


class ClassEmbedding(nn.Module):
    """A class label (B,) as a vector (B, channels). Row `classes`, the last, means "no class"."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, channels)

    def forward(self, cond: Tensor | None, batch: int) -> Tensor:
        """cond: (B,) integers in 0 ... classes, or None for "no class" throughout the batch."""
        if cond is None:
            return self.table.weight[-1].expand(batch, -1)
        check_labels(cond, self.classes, batch)
        return self.table(cond)


def check_labels(cond: Tensor, classes: int, batch: int) -> None:
    """Raise ValueError unless cond is (batch,) integers; on a CPU also unless 0 <= cond <= classes.

    The range is not looked at elsewhere: reading it would make the CPU wait for the GPU.
    """
    if cond.shape != (batch,) or cond.is_floating_point() or cond.is_complex():
        raise ValueError(
            f"cond is {tuple(cond.shape)} {cond.dtype} for {batch} images: pass one integer class "
            f"per image, shape ({batch},), dtype torch.long"
        )
    if cond.device.type != "cpu" or torch.compiler.is_compiling() or not batch:
        return
    low, high = int(cond.min()), int(cond.max())
    if low < 0 or high > classes:
        raise ValueError(
            f"labels from {low} to {high} for a network of {classes} classes: use 0 to "
            f"{classes - 1}, or {classes} for 'no class'"
        )


class Conditioning(nn.Module):
    """All that a network is told beside the image, as one vector (B, channels): the sum of both."""

    def __init__(self, features: int, channels: int, classes: int, noise_scale: float) -> None:
        super().__init__()
        self.noise = NoiseEmbedding(features, channels, noise_scale)
        self.label = ClassEmbedding(classes, channels) if classes else None

    def forward(self, noise_level: Tensor, cond: Tensor | None, batch: int) -> Tensor:
        if noise_level.shape != (batch,):
            raise ValueError(
                f"noise_level is {tuple(noise_level.shape)} for {batch} images: pass one level per "
                f"image, shape ({batch},); a single level t fits after t.expand({batch})"
            )
        if self.label is not None:
            return self.noise(noise_level) + self.label(cond, batch)
        if cond is not None:
            raise ValueError(
                "labels were given to a network without classes: pass cond=None, or build the "
                "network with classes = the number of classes"
            )
        return self.noise(noise_level)
