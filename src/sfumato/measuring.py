"""How far one set of images is from another, on features of them: float64, pure functions.

Frechet distance   |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))
                   of Gaussians N(m, C): Dowson and Landau (1982); Heusel et al. (2017), section 3
kernel distance    see discrepancy.py

With A A^T = C_1 and B B^T = C_2 the trace of the root is the sum of the singular values of A^T B.
Of the same images all distances fall or rise with n, so numbers compare at one n only, and each
says little without its floor: the same measure of as many other real images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from math import sqrt

import torch
from torch import Tensor

from .data import generator_at

AT_ONCE = 1000  # rows of a table of distances that is never held whole
BLOCKS = 20  # of images that are left out in turn
COPY = 0.01  # of the held-out images are as near to a training image as what is called a copy
SAME = 1e-4  # of the median distance: no distance, but for the rounding of features


@dataclass(frozen=True)
class Estimate:
    """A value, and the standard deviation that another draw of the images would give it."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Tensor) -> "Estimate":
        """The mean of values, (N,), one an image."""
        values = values.double()
        return cls(values.mean().item(), values.std().item() / sqrt(len(values)))

    @classmethod
    def in_order(cls, values: Tensor) -> "Estimate":
        """The mean of values, (N,), at places in order, the same ones in every draw.

        As losses at evenly spread times: the error is of what other values in the same places would
        change. That is seen in how far each is from the middle of its two neighbours, which has
        3/2 of its variance: Gasser, Sroka and Jennen-Steinmetz (1986) (from memory). The first and
        the last count least: where most of the variance is theirs it is told a fifth too small.
        """
        if len(values) < 4:
            return cls.of(values)
        values = values.double()
        apart = values[1:-1] - (values[:-2] + values[2:]) / 2
        variance = apart.square().mean().item() / 1.5
        return cls(values.mean().item(), sqrt(variance / len(values)))

    @classmethod
    def share(cls, found: Tensor) -> "Estimate":
        """The share of true ones of found, (N,) bool.

        The error is that of two more of either kind, so that none of 60 is not 0 without a doubt:
        sqrt(p (1 - p) / (N + 4)), p = (k + 2) / (N + 4): Agresti and Coull (1998) (from memory).
        """
        count = len(found)
        near = (int(found.sum()) + 2) / (count + 4)
        return cls(found.double().mean().item(), sqrt(near * (1 - near) / (count + 4)))


# --- Gaussians


@dataclass(frozen=True, eq=False)
class Moments:
    """count images, the mean (D,) of their features and the scatter (D, D), float64.

    scatter: sum of (f - mean)(f - mean)^T.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """features: (N, D), N >= 1."""
        wide = features.double()
        apart = wide - wide.mean(0)
        return cls(len(wide), wide.mean(0), apart.mT @ apart)

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets together: Chan, Golub and LeVeque (1979), for matrices."""
        count, gap = self.count + other.count, other.mean - self.mean
        share = other.count / count
        scatter = self.scatter + other.scatter + self.count * share * torch.outer(gap, gap)
        return Moments(count, self.mean + share * gap, scatter)

    @property
    def covariance(self) -> Tensor:
        """(D, D), without bias.

        Raises: ValueError for fewer than 2 images.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} image has no spread: a covariance wants 2 or more.")
        return self.scatter / (self.count - 1)


def frechet(first: Moments, second: Moments) -> float:
    """The squared distance d^2 of the Gaussians with these moments; 0 where they agree.

    It falls as images are added to either set though their source stays the same, as 1 / n (of
    white features by D / n for the mean and D (D + 1) / (4 n) for the covariance): only distances
    at one n compare. Covariances may lack rank.

    Raises: ValueError where a set has fewer than 2 images, the features differ in number, or one
    is not finite.
    """
    return _gaussians_apart(first, second, root(second))


def root(moments: Moments) -> Tensor:
    """A (D, D) with A A^T the covariance; directions of less than the rounding's power are none.

    Raises: ValueError where a feature is not finite.
    """
    if not torch.isfinite(moments.scatter).all():
        raise ValueError("a feature is NaN or infinite, so the images are no distance apart.")
    values, vectors = torch.linalg.eigh(moments.covariance)
    least = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return vectors * torch.where(values > least, values, 0.0).sqrt()


def _gaussians_apart(first: Moments, second: Moments, root_of_second: Tensor) -> float:
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"{len(first.mean)} and {len(second.mean)} features: measure both sets by one network."
        )
    overlap = torch.linalg.svdvals(root(first).mT @ root_of_second).sum()
    gap = (first.mean - second.mean).square().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    return max(0.0, (gap + traces - 2 * overlap).item())


def frechet_estimate(features: Tensor, reference: Moments, blocks: int = BLOCKS) -> Estimate:
    """d^2 of features, (N, D), from the reference, and its error from the draw of these N.

    The error is the jackknife's: of d^2 without each of `blocks` random parts in turn. A bootstrap
    would not do, since images that come twice make the set poorer and the distance larger.
    """
    value, without = _without_each(features, reference, blocks)
    return Estimate(value, jackknife(without) if len(without) > 1 else float("inf"))


def frechet_difference(
    first: Tensor, second: Tensor, reference: Moments, blocks: int = BLOCKS
) -> Estimate:
    """d^2 of first less d^2 of second, (N, D) both, where row i of both is of one seed and class.

    The error is the jackknife's that leaves the same rows out of both: what pairs share cancels.

    Raises: ValueError where they differ in number.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} images: pairs are wanted.")
    (value, without), (other, without_other) = (
        _without_each(features, reference, blocks) for features in (first, second)
    )
    error = jackknife(without - without_other) if len(without) > 1 else float("inf")
    return Estimate(value - other, error)


def _without_each(features: Tensor, reference: Moments, blocks: int) -> tuple[float, Tensor]:
    """(d^2 of all, d^2 without each of the blocks, (B,) float64): the same rows for the same N."""
    parts = _parts(features, min(blocks, len(features) // 2))
    moments = [Moments.of(part) for part in parts]
    known = root(reference)
    value = _gaussians_apart(reduce(Moments.merged, moments), reference, known)
    without = [
        _gaussians_apart(reduce(Moments.merged, moments[:i] + moments[i + 1 :]), reference, known)
        for i in range(len(moments) if len(moments) > 1 else 0)
    ]
    return value, torch.tensor(without, dtype=torch.float64)


def _parts(features: Tensor, count: int) -> list[Tensor]:
    """Random ones: images are often drawn in the order of their classes."""
    order = torch.randperm(len(features), generator=generator_at(0, "blocks"))
    return [features[index] for index in order.tensor_split(max(1, count))]


def jackknife(without: Tensor) -> float:
    """sqrt((B - 1) / B sum (value without block b - their mean)^2)."""
    return ((len(without) - 1) * without.var(correction=0)).sqrt().item()


# --- neighbours


def _distances(first: Tensor, second: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows of first, their Euclidean distances (rows, M) to all of second), some at a time."""
    squares = second.square().sum(1)
    for start in range(0, len(first), AT_ONCE):
        part = first[start : start + AT_ONCE]
        apart = part.square().sum(1)[:, None] + squares - 2 * part @ second.mT
        yield slice(start, start + len(part)), apart.clamp(min=0).sqrt()


def radii(features: Tensor, k: int) -> Tensor:
    """(N,) distances to the k-th nearest other of features, (N, D).

    Raises: ValueError where there are not k others.
    """
    if not 1 <= k < len(features):
        raise ValueError(f"k = {k} neighbours of {len(features)} images: give 1 to N - 1.")
    found = []
    for rows, distances in _distances(features, features):
        distances[torch.arange(len(distances)), torch.arange(rows.start, rows.stop)] = float("inf")
        found.append(distances.kthvalue(k, 1).values)
    return torch.cat(found)


def inside(points: Tensor, centres: Tensor, reach: Tensor) -> Tensor:
    """(N,) int64: in how many of the balls of reach (M,) about centres (M, D) each point is."""
    counts = [(distances <= reach).sum(1) for _, distances in _distances(points, centres)]
    return torch.cat(counts)


def nearest(queries: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """(distances (N,) float64, indices (N,)) of the nearest of references (M, D) to each query.

    The nearest is looked for in the given precision; its distance is exact.
    """
    index = torch.cat([distances.argmin(1) for _, distances in _distances(queries, references)])
    exact = [
        (query.double() - references[at].double()).square().sum(1).sqrt()
        for query, at in zip(queries.split(AT_ONCE), index.split(AT_ONCE))
    ]
    return torch.cat(exact), index


# --- memory


@dataclass(frozen=True)
class Memory:
    """Whether drawn images are nearer to the training images than unseen real ones are.

    closer: the chance that a drawn image is, of a drawn and a held-out one at random; 0.5 where
    nothing was learned by heart: the U statistic of Meehan et al. (2020), over N M.
    copies: the share of drawn images nearer than all but COPY of those held-out images that are in
    no training image's place themselves, as some are where the data has images twice. expected:
    that of unseen ones; COPY where the held-out ones are many, and none of them is such a copy.
    exact: drawn images that are a training image, to the last digit.
    """

    closer: Estimate
    copies: Estimate
    expected: float
    exact: int


def memory(drawn: Tensor, held_out: Tensor) -> Memory:
    """From the distances to the nearest training image of drawn (N,) and held-out (M,) images."""
    ordered = held_out.double().sort().values
    drawn = drawn.double()
    below = torch.searchsorted(ordered, drawn, side="left")
    up_to = torch.searchsorted(ordered, drawn, side="right")
    beaten = 1 - (below + up_to).double() / (2 * len(ordered))  # share of held-out that is farther
    mine, theirs = Estimate.of(beaten), Estimate.of(_beaten_by(drawn, ordered))
    closer = Estimate(mine.mean, sqrt(mine.error**2 + theirs.error**2))
    apart = ordered[ordered > SAME * ordered.median()]
    count, twice = len(apart), len(ordered) - len(apart)
    place = (1 + COPY * (count - 1)) / (count + 1)  # of the quantile, in order
    expected = (twice + place * count) / len(ordered)
    return Memory(closer, _copies(drawn, apart), expected, int((drawn == 0).sum()))


def _copies(drawn: Tensor, held_out: Tensor) -> Estimate:
    """The share of drawn distances below the COPY quantile of the held-out ones, or at 0.

    The error is that of both sets: of the quantile that of its place among the held-out ones,
    Woodruff (1952) (from memory).
    """
    if not len(held_out):
        return Estimate.share(drawn == 0)
    place = sqrt(COPY * (1 - COPY) / len(held_out))
    low, high = (
        (drawn < held_out.quantile(at)).double().mean().item()
        for at in (max(0.0, COPY - place), COPY + place)
    )
    share = Estimate.share(drawn < held_out.quantile(COPY))
    return Estimate(share.mean, sqrt(share.error**2 + ((high - low) / 2) ** 2))


def _beaten_by(drawn: Tensor, held_out: Tensor) -> Tensor:
    """(M,) the share of the drawn distances that are smaller than each held-out one."""
    ordered = drawn.sort().values
    smaller = torch.searchsorted(ordered, held_out, side="left")
    up_to = torch.searchsorted(ordered, held_out, side="right")
    return (smaller + up_to).double() / (2 * len(ordered))


def repeats(images: Tensor) -> int:
    """How many of the uint8 images, (N, C, H, W), are the same as an earlier one of them."""
    return len(images) - len(torch.unique(images.flatten(1), dim=0))


# --- classes


def class_accuracy(found: Tensor, asked: Tensor) -> Estimate:
    """The share of images whose class, (N,), is the one that was asked for, (N,)."""
    return Estimate.share(found == asked)


def class_balance(found: Tensor, shares: Tensor, seed: int = 0, resamples: int = 200) -> Estimate:
    """sum_k min(share of class k in found (N,), shares_k (K,)): 1 in balance, 1 - total variation.

    N independent images of these very shares fall short of 1 by chance, on average by half of
    sum_k sqrt(2 shares_k (1 - shares_k) / (pi N)) where N is large: about sqrt(K / (2 pi N)) for K
    equal classes. So does the floor of images chosen at random; of images chosen in these shares
    it is 1 but for what the classifier mistakes.

    The error is that of other draws of N from the shares found, to which four images of the wanted
    shares are added: 8 of one class then are not so without a doubt.
    """
    wanted = shares.double() / shares.sum()
    counts = found.bincount(minlength=len(wanted)).double()
    likely = (counts + 4 * wanted) / (len(found) + 4)
    dice = generator_at(seed, "bootstrap")
    drawn = torch.multinomial(likely, resamples * len(found), replacement=True, generator=dice)
    row = torch.arange(resamples).repeat_interleave(len(found))
    tables = (row * len(wanted) + drawn).bincount(minlength=resamples * len(wanted))
    others = torch.minimum(tables.view(resamples, -1) / len(found), wanted).sum(1)
    return Estimate(torch.minimum(counts / len(found), wanted).sum().item(), others.std().item())


def bootstrap(
    statistic: Callable[[Tensor], Tensor], values: Tensor, resamples: int = 200, seed: int = 0
) -> float:
    """The standard deviation of a statistic of values, (N, ...), drawn with replacement."""
    dice = generator_at(seed, "bootstrap")
    found = [
        statistic(values[torch.randint(len(values), (len(values),), generator=dice)]).double()
        for _ in range(resamples)
    ]
    return torch.stack(found).std().item()
