"""How far apart two sets of images are by a kernel on their features: KID on other features.

mmd = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),  x other than x', y than y',
k(a, b) = (a . b / D + 1)^3: Binkowski et al. (2018), section 4 (from memory)
"""

from math import sqrt

import torch
from torch import Tensor

from .data import generator_at
from .measuring import Estimate

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

    The size is at most half of the smaller set. The error is that of another draw of both sets, see
    variance, with that of so few subsets, their sd / sqrt(subsets).

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
    error = sqrt(variance(first, second, dice) + all_of_them.var().item() / subsets)
    return Estimate(all_of_them.mean().item(), error)


def variance(first: Tensor, second: Tensor, dice: torch.Generator) -> float:
    """The variance of mmd over other draws of both sets, (N, D) and (M, D), 4 or more of each.

    Hoeffding (1948), of two samples (from memory):

        4 v_x / N + 4 v_y / M + 2 r_xx / N^2 + 2 r_yy / M^2 + 4 r_xy / (N M)

    v_x is the variance over images x of E k(x, x') - E k(x, y), which is 0 where both are of one
    source, and r what no sum of an image's and the other's share explains. From at most MANY
    of either set; without bias, but that no v is less than 0: of one source it is told 1.2 times
    too large, and up to 1.7 times from some of many images.
    """
    x, y = (
        one[torch.randperm(len(one), generator=dice)[:MANY]].double() for one in (first, second)
    )
    (of_x, r_xx), (of_y, r_yy) = (_shares(_kernel(one, one)) for one in (x, y))
    crossed = _kernel(x, y)
    rows, columns = crossed.mean(1), crossed.mean(0)
    rest = crossed - rows[:, None] - columns + crossed.mean()
    r_xy = rest.square().sum().item() / ((len(x) - 1) * (len(y) - 1))
    v_x = (of_x - rows).var().item() - r_xx / (len(x) - 2) - r_xy / len(y)
    v_y = (of_y - columns).var().item() - r_yy / (len(y) - 2) - r_xy / len(x)
    n, m = len(first), len(second)
    of_images = max(0.0, v_x) / n + max(0.0, v_y) / m + r_xy / (n * m)
    return 4 * of_images + 2 * r_xx / n**2 + 2 * r_yy / m**2


def _shares(kernel: Tensor) -> tuple[Tensor, float]:
    """(what each image adds to k(x, x') with others, (N,); the variance of what is left).

    Least squares of k_ij = mean + a_i + a_j + rest over j other than i.
    """
    count = len(kernel)
    rows = (kernel.sum(1) - kernel.diagonal()) / (count - 1)
    shares = (rows - rows.mean()) * (count - 1) / (count - 2)
    rest = kernel - rows.mean() - shares[:, None] - shares
    left = rest.square().sum() - rest.diagonal().square().sum()
    return shares, left.item() / (count * (count - 3))
