"""How far two sets of images cover one another, by balls on features, with errors of both draws.

precision          the share of drawn images inside any real image's ball, which reaches to its
                   k-th nearest real one; recall: the same with the roles changed:
                   Kynkaanniemi et al. (2019), eqs. 1 and 2 (from memory)
density            the mean number of real balls that a drawn image is in, over k
coverage           the share of real balls with a drawn image in them:
                   Naeem et al. (2020), eqs. 3 and 4 (from memory)

Each is a mean over the images of one set, but no mean of independent values: what one image counts
follows from all of the other set, and neighbours share their fate. So the variance is read off
halves A and B that share no image of either set, two draws indeed, in two ways:

    E (m_A - m_B)^2 / 4                        of halves, which have twice the variance
    v/n E (m_A - m_B)^2 / E (v_A/n_A + v_B/n_B)   that of independent values, times the halves'
                                               design effect: Kish (1965) (from memory)

of means m and variances v of n values. The second is nearer where half as many images measure
something else, as of coverage. The greater is told: of normal draws in 4 to 16 dimensions, 40 to
400 of them, it is 0.92 to 1.1 of the spread of other draws. To take the balls as given is half to
nine tenths of it; jackknives and bootstraps are up to 2.3 times it, since with images left out or
twice the balls change.
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
Measure = Callable[[Tensor, Tensor, int], Values]  # of real and drawn features, and k


def precision_recall(real: Tensor, drawn: Tensor, k: int = 3) -> tuple[Estimate, Estimate]:
    """(precision, recall) of features (N, D), (M, D); errors are of other draws of both sets."""
    precision, recall = _both(_inside, real.double(), drawn.double(), k, (1.0, 1.0))
    return precision, recall


def density_coverage(real: Tensor, drawn: Tensor, k: int = 5) -> tuple[Estimate, Estimate]:
    """(density, coverage) of features (N, D), (M, D); errors are of other draws of both sets.

    Density is 1 on average for real images, and coverage of N real by M more of the same source
    1 - prod over j = 0 .. k - 1 of (N - 1 - j) / (N + M - 1 - j), about 1 - 2^-k: Naeem et al.
    (2020), lemma 2 (from memory).
    """
    density, coverage = _both(_covered, real.double(), drawn.double(), k, (1 / k, 1.0))
    return density, coverage


def _inside(real: Tensor, drawn: Tensor, k: int) -> Values:
    return (
        (inside(drawn, real, radii(real, k)) > 0).double(),
        (inside(real, drawn, radii(drawn, k)) > 0).double(),
    )


def _covered(real: Tensor, drawn: Tensor, k: int) -> Values:
    reach = radii(real, k)
    density = inside(drawn, real, reach).double() / k
    return density, (nearest(real, drawn)[0] <= reach).double()


def _both(
    measure: Measure, real: Tensor, drawn: Tensor, k: int, least: tuple[float, float]
) -> list[Estimate]:
    """least: of either measure the least value that is not 0.

    An error is no less than that of the share of the values that are not 0 (Estimate.share) times
    this, so that all of 20, or none, is not told without a doubt.
    """
    found, halves = measure(real, drawn, k), between_halves(measure, real, drawn, k)
    estimates = []
    for values, (effect, variance), one in zip(found, halves, least):
        alone = values.var(correction=0).item() / len(values)
        doubt = one * Estimate.share(values > 0).error
        error = max(doubt, sqrt(max(effect * alone, variance)))
        estimates.append(Estimate(values.mean().item(), error))
    return estimates


def between_halves(
    measure: Measure, real: Tensor, drawn: Tensor, k: int
) -> list[tuple[float, float]]:
    """Of either mean (its design effect, its variance by halves of all images).

    (1, 0) where nothing varies, or there are fewer than 4 images; the variance is 0, too, where
    the halves are but HALF. k is at most what a half has of other images.
    """
    dice = generator_at(0, "halves")
    k = min(k, len(real) // 2 - 1, len(drawn) // 2 - 1)
    if k < 1:
        return [(1.0, 0.0)] * 2
    found, alone = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for _ in range(HALVINGS):
        pairs = zip(_halves(real, dice), _halves(drawn, dice))
        first, second = (measure(*pair, k) for pair in pairs)
        for i, (one, two) in enumerate(zip(first, second)):
            found[i] += (one.mean() - two.mean()).square()
            alone[i] += one.var(correction=0) / len(one) + two.var(correction=0) / len(two)
    effects = torch.where(alone > 0, found / alone, 1.0)
    whole = max(len(real), len(drawn)) // 2 <= HALF
    variances = found / HALVINGS / 4 if whole else torch.zeros(2)
    return list(zip(effects.tolist(), variances.tolist()))


def _halves(features: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two random parts without a common image, of half of them or of HALF."""
    size = min(HALF, len(features) // 2)
    order = torch.randperm(len(features), generator=dice)
    return features[order[:size]], features[order[size : 2 * size]]
