"""How far two sets of images cover one another, by balls on features, with errors of both draws.

precision          the share of drawn images inside any real image's ball, which reaches to its
                   k-th nearest real one; recall: the same with the roles changed:
                   Kynkaanniemi et al. (2019), eqs. 1 and 2 (from memory)
density            the mean number of real balls that a drawn image is in, over k
coverage           the share of real balls with a drawn image in them:
                   Naeem et al. (2020), eqs. 3 and 4 (from memory)

Each is a mean over the images of one set, but no mean of independent values: what it is of one
image follows from all of the other set, and neighbours share their fate. The variance is therefore
that of a plain mean times a design effect (Kish 1965; from memory), which is measured,

    effect = E (mean_A - mean_B)^2 / E (var_A / n_A + var_B / n_B),

on halves A and B that share no image of either set, so that they are two draws indeed. Jackknives
and bootstraps are not: with images left out or twice the balls change, and they tell from 1.2 to
2.3 times the error that other draws have.
"""

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from .data import generator_at
from .measuring import Estimate, inside, nearest, radii

HALVINGS = 40  # so that the error is known to about a ninth of it
HALF = 500  # images at most; the effect is that of the neighbours, and hardly follows n

Values = tuple[Tensor, Tensor]  # of two measures, one value an image that each is the mean over


def precision_recall(real: Tensor, drawn: Tensor, k: int = 3) -> tuple[Estimate, Estimate]:
    """(precision, recall) of features (N, D), (M, D); errors are of other draws of both sets."""
    real, drawn = real.double(), drawn.double()
    precision, recall = _inside(real, drawn, k)
    effects = design_effects(_inside, real, drawn, k)
    return share(precision, effects[0]), share(recall, effects[1])


def density_coverage(real: Tensor, drawn: Tensor, k: int = 5) -> tuple[Estimate, Estimate]:
    """(density, coverage) of features (N, D), (M, D); errors are of other draws of both sets.

    Density is 1 on average for real images, and coverage of N real by M more of the same source
    1 - prod over j = 0 .. k - 1 of (N - 1 - j) / (N + M - 1 - j), about 1 - 2^-k: Naeem et al.
    (2020), lemma 2 (from memory).
    """
    real, drawn = real.double(), drawn.double()
    density, coverage = _covered(real, drawn, k)
    effects = design_effects(_covered, real, drawn, k)
    mean, variance = density.mean().item(), density.var().item() / len(density)
    least = Estimate.share(density > 0).error / k  # an image in any ball counts 1 / k or more
    return Estimate(mean, max(sqrt(effects[0] * variance), least)), share(coverage, effects[1])


def share(found: Tensor, effect: float) -> Estimate:
    """The share of true ones of found, (N,), its variance `effect` times that of independent ones.

    Never less than what Estimate.share says of these, so that all of 20 is not 1 without a doubt.
    """
    plain = Estimate.share(found > 0)
    variance = effect * plain.mean * (1 - plain.mean) / len(found)
    return Estimate(plain.mean, max(plain.error, sqrt(variance)))


def _inside(real: Tensor, drawn: Tensor, k: int) -> Values:
    return (
        (inside(drawn, real, radii(real, k)) > 0).double(),
        (inside(real, drawn, radii(drawn, k)) > 0).double(),
    )


def _covered(real: Tensor, drawn: Tensor, k: int) -> Values:
    reach = radii(real, k)
    density = inside(drawn, real, reach).double() / k
    return density, (nearest(real, drawn)[0] <= reach).double()


def design_effects(
    measure: Callable[[Tensor, Tensor, int], Values], real: Tensor, drawn: Tensor, k: int
) -> list[float]:
    """Of either mean the variance over that of as many independent values; 1 where none varies.

    k is at most what a half has of other images; of fewer than 4 nothing is known, and that is 1.
    """
    dice = generator_at(0, "halves")
    k = min(k, len(real) // 2 - 1, len(drawn) // 2 - 1)
    if k < 1:
        return [1.0, 1.0]
    found, plain = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for _ in range(HALVINGS):
        pairs = zip(_halves(real, dice), _halves(drawn, dice))
        first, second = (measure(*pair, k) for pair in pairs)
        for i, (one, two) in enumerate(zip(first, second)):
            found[i] += (one.mean() - two.mean()).square()
            plain[i] += one.var(correction=0) / len(one) + two.var(correction=0) / len(two)
    return torch.where(plain > 0, found / plain, 1.0).tolist()


def _halves(features: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two random parts without a common image, of half of them or of HALF."""
    size = min(HALF, len(features) // 2)
    order = torch.randperm(len(features), generator=dice)
    return features[order[:size]], features[order[size : 2 * size]]
