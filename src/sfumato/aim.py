"""What a tuned sampler is fitted to: near to the teacher's images, at the levels of the data.

    cost = far + STEEP max(0, far - bound) + WEIGHT sum_k (F_k(x) - F_k(y) - g_k)^2
    far = mean_i |x_i - y_i| / scale
    F_k(x) = mean sigmoid((q_k + 3/2 l - v(x)) / (3/4 l))    about the share of v up to q_k + l
    g_k = F_k(data) - F_k(teacher)

x are the student's images, y the teacher's from the same noise; |.| is the root mean square of one
image, not squared: in 4 calls a few become something else, and squares would be about them alone.
v(x) are the values, and beside them the sizes of the differences of neighbours. q_k are the deciles
of either in the data, without those within 4 l of the one before; l = 2 / 255, a step of an 8-bit
pixel. F(y) takes out the chance of which images a batch holds. bound is a little below the far of
the best fixed solver: the levels are not to be had for more.

Distance alone hardly tells a background that is black from one that is 1 to 3 steps from it, or
cloth that is smooth from cloth with a little grain. Nor does an eye, but networks of features do,
and the teacher itself is not black there. So the share at each level is the data's to say. Numbers
are in experiments/LOG.md.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEVEL = 2 / 255
WEIGHT, STEEP = 5.0, 4.0
LEAST = 1e-12  # a mean square, so that the root of none has a gradient
VALUES = 2**22  # of the data that are looked at, at most


@dataclass(frozen=True)
class Aim:
    """The cost above.

    scale: the standard deviation of the teacher's images about their mean, LEVEL at least. levels:
    q_k, rising, for each of the views. gap: g_k, as many in all. Without levels only the distance
    counts. bound: see above.

    Raises: ValueError where levels and gap differ in number.
    """

    scale: float = 1.0
    levels: tuple[tuple[float, ...], ...] = ()
    gap: tuple[float, ...] = ()
    bound: float = float("inf")

    def __post_init__(self) -> None:
        levels = sum(map(len, self.levels))
        if levels != len(self.gap):
            raise ValueError(f"{levels} levels, {len(self.gap)} gaps: give one each.")

    @classmethod
    def of(cls, teacher: Tensor, data: Tensor | None) -> "Aim":
        """teacher: images by it, (n, ...); data: real ones in the same space, (m, ...), if any."""
        scale = max(LEVEL, (teacher - teacher.mean(0)).square().mean().sqrt().item())
        if data is None:
            return cls(scale)
        data = some_of(data)
        levels = levels_of(data)
        gap = shares(data, levels) - shares(teacher, levels)
        return cls(scale, levels, tuple(gap.tolist()))

    def __call__(self, images: Tensor, wanted: Tensor) -> Tensor:
        """The cost, (), of images (n, ...) where the teacher's are `wanted`, (n, ...)."""
        far = self.far(images, wanted)
        steep = STEEP * (far - self.bound).clamp(min=0)
        return far + steep + WEIGHT * self.missed(images, wanted)

    def far(self, images: Tensor, wanted: Tensor) -> Tensor:
        """The mean distance, (), of an image from the teacher's, in units of scale."""
        squares = (images - wanted).square().flatten(1).mean(1)
        return (squares + LEAST).sqrt().mean() / self.scale

    def missed(self, images: Tensor, wanted: Tensor) -> Tensor:
        """The sum over levels, (), of the squares of how far the shares are from the data's."""
        off = shares(images, self.levels) - shares(wanted, self.levels)
        return (off - off.new_tensor(self.gap)).square().sum()


def views(images: Tensor) -> list[Tensor]:
    """What has levels in images (n, ...), each (m,): values, and |difference| of neighbours.

    Only images (n, C, H, W) have neighbours, to the right and below.
    """
    if images.ndim < 4:
        return [images.flatten()]
    steps = torch.cat([images.diff(dim=-1).flatten(), images.diff(dim=-2).flatten()])
    return [view for view in (images.flatten(), steps.abs()) if len(view)]


def some_of(data: Tensor) -> Tensor:
    """Images spread over data, (m, ...), of VALUES values together, or one."""
    kept = min(len(data), max(1, VALUES // data[0].numel()))
    return data[torch.arange(kept) * len(data) // kept]


def levels_of(data: Tensor) -> tuple[tuple[float, ...], ...]:
    """The deciles of each view of data, (m, ...), those within 4 LEVEL of one kept left out."""
    return tuple(map(_deciles, views(data)))


def _deciles(values: Tensor) -> tuple[float, ...]:
    ordered = values.double().sort().values
    places = torch.arange(1, 10) * (len(ordered) - 1) // 10
    kept: list[float] = []
    for value in ordered[places].tolist():
        if not kept or value - kept[-1] > 4 * LEVEL:
            kept.append(value)
    return tuple(kept)


def shares(images: Tensor, levels: tuple[tuple[float, ...], ...]) -> Tensor:
    """F_k of images, (n, ...): (K,), those of the values first."""
    if not levels:
        return images.new_zeros(0)
    each = [
        ((q + 1.5 * LEVEL - view) / (0.75 * LEVEL)).sigmoid().mean()
        for view, found in zip(views(images), levels, strict=True)
        for q in found
    ]
    return torch.stack(each)
