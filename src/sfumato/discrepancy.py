"""How far apart two sets of images are by a kernel on their features: KID on other features.

mmd = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),  x other than x', y than y',
k(a, b) = (a . b / D + 1)^3: Binkowski et al. (2018), section 4 (from memory)
"""

from math import sqrt

import torch
from torch import Tensor

from .data import generator_at
from .measuring import AT_ONCE, Estimate

MANY = 2000  # images from which the variance of a draw is known well enough


def mmd(first: Tensor, second: Tensor) -> float:
    """The squared maximum mean discrepancy of features (N, D) and (M, D), without bias.

    May be negative, and is 0 on average where both are of one source.

    Raises: ValueError for fewer than 2 of either.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"{len(first)} and {len(second)} images; at least 2 of each are needed.")
    within = [_off_diagonal(_kernel(one, one)) for one in (first.double(), second.double())]
    return (sum(within) - 2 * _kernel(first.double(), second.double()).mean()).item()


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.mT / first.shape[1] + 1) ** 3


def _off_diagonal(kernel: Tensor) -> Tensor:
    count = len(kernel)
    return (kernel.sum() - kernel.trace()) / (count * (count - 1))


def kernel_distance(
    first: Tensor, second: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Estimate:
    """The mean of mmd over random subsets of `size` images of either set: KID on other features.

    The size is at most half of the smaller set. The error is that of the draw of either set, by
    the jackknife that leaves one image out of mmd, with that of so few subsets, their sd /
    sqrt(subsets). It is up to sqrt(2) times too large where both sets are of one source.

    Raises: ValueError for fewer than 4 images of either set.
    """
    least = min(len(first), len(second))
    if least < 4:
        raise ValueError(f"{len(first)} and {len(second)} images; at least 4 of each are needed.")
    size, dice = min(size, least // 2), generator_at(seed, "subsets")
    values = [
        mmd(*(one[torch.randperm(len(one), generator=dice)[:size]] for one in (first, second)))
        for _ in range(subsets)
    ]
    all_of_them = torch.tensor(values, dtype=torch.float64)
    of_draws = _variance_of_draw(first, second, dice) + _variance_of_draw(second, first, dice)
    error = sqrt(of_draws + all_of_them.var().item() / subsets)
    return Estimate(all_of_them.mean().item(), error)


def _variance_of_draw(images: Tensor, others: Tensor, dice: torch.Generator) -> float:
    """The variance that another draw of the N images gives mmd: the jackknife's.

    (N - 1) / N sum_i (mmd without i - their mean)^2 is 4 / (N - 1) times the variance over i of
    sum_j k(x_i, x_j) / (N - 2), j other than i, - mean_j k(x_i, y_j). Of at most MANY images.
    """
    some, rest = (
        one[torch.randperm(len(one), generator=dice)[:MANY]].double() for one in (images, others)
    )
    within = _sums(some, some) - (some.square().mean(1) + 1) ** 3
    pull = within / (len(some) - 2) - _sums(some, rest) / len(rest)
    return 4 * pull.var(correction=0).item() / (len(some) - 1) * len(some) / len(images)


def _sums(first: Tensor, second: Tensor) -> Tensor:
    """(N,) sum_j k(x_i, y_j)."""
    return torch.cat([_kernel(part, second).sum(1) for part in first.split(AT_ONCE)])
