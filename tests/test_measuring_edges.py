"""Measures at their edges: one image, equal ones, points on a ball, images sorted by class."""

import pytest
import torch
from torch import Tensor

from conftest import f64, normal
from sfumato import discrepancy
from sfumato.covering import density_coverage, precision_recall
from sfumato.data import generator_at
from sfumato.discrepancy import _shares, kernel_distance, mmd, variance
from sfumato.measuring import (
    Moments,
    _parts,
    frechet,
    frechet_estimate,
    inside,
    memory,
    radii,
)


def rand(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def test_one_image_has_no_covariance_and_three_no_error():
    with pytest.raises(ValueError, match="2 or more"):
        frechet(Moments.of(normal(1, 3)), Moments.of(normal(9, 3)))
    assert frechet_estimate(normal(3, 2), Moments.of(normal(9, 2))).error == float("inf")


def test_parts_that_are_left_out_are_not_classes():
    """Of images in their classes' order each part is about as the whole."""
    parts = _parts(torch.arange(100.0)[:, None], 4)
    assert sorted(torch.cat(parts).flatten().tolist()) == list(range(100))
    assert all(25 < part.mean().item() < 75 for part in parts)


def test_equal_images_are_each_others_nearest_where_rounding_makes_squares_negative():
    far = 100 + normal(50, 101).float()  # the others are at about 14
    assert (radii(torch.cat([far, far]), 1) < 2).all()


def test_no_neighbour_is_no_number_of_neighbours():
    with pytest.raises(ValueError, match="k = 0 neighbours"):
        radii(normal(5, 2), 0)


def test_a_ball_has_its_edge():
    assert inside(f64(1.0, 1.1)[:, None], f64(0.0, 9.0)[:, None], f64(1.0, 1.0)).tolist() == [1, 0]


def test_as_near_as_every_image_held_out_is_no_copy():
    found = memory(torch.ones(4), torch.ones(10))
    assert (found.copies.mean, found.closer.mean) == (0.0, 0.5)


def test_the_error_of_closer_is_that_of_both_sets():
    """sqrt(var over drawn / N + var over held-out / M) of the share of the others' pairs won."""
    drawn, held_out = f64(0.0, 1.0, 3.0, 4.5), f64(1.0, 2.0, 4.0, 5.0, 6.0)
    won = (drawn[:, None] < held_out).double() + (drawn[:, None] == held_out).double() / 2
    error = (won.mean(1).var() / 4 + won.mean(0).var() / 5).sqrt().item()
    assert memory(drawn, held_out).closer.error == pytest.approx(error)


def test_the_share_of_copies_is_what_is_expected_and_its_error_that_of_other_draws():
    """Of one source, few held out: most of the error is that of the quantile among them."""
    found = [memory(rand(1000, seed=s), rand(100, seed=1000 + s)) for s in range(300)]
    shares = f64(*(each.copies.mean for each in found))
    told = f64(*(each.copies.error for each in found)).mean().item()
    assert shares.mean().item() == pytest.approx(found[0].expected, abs=0.003)  # not 0.01
    assert told == pytest.approx(shares.std().item(), rel=0.3)


def test_of_many_held_out_as_many_are_expected_as_are_called_copies():
    assert memory(rand(10), rand(100_000)).expected == pytest.approx(0.01, rel=1e-2)


def test_the_kernel_distances_error_is_never_below_that_of_its_subsets():
    """Of many images and few subsets the mean over the subsets is the less certain part."""
    pairs = [(normal(1500, 2, seed=s), normal(1500, 2, seed=500 + s) + 1) for s in range(60)]
    found = [kernel_distance(*pair, subsets=4, size=20) for pair in pairs]
    values = f64(*(each.mean for each in found))
    told = f64(*(each.error for each in found)).mean().item()
    assert told == pytest.approx(values.std().item(), rel=0.35)


@pytest.mark.parametrize(
    ("sizes", "features", "apart", "many"),
    [
        ((60, 300), 2, 0.8, 2000),
        ((300, 60), 2, 0.8, 40),
        ((60, 60), 64, 0.0, 2000),
        ((60, 300), 64, 0.0, 2000),
        ((300, 60), 64, 0.0, 40),
    ],
)
def test_the_variance_of_mmd_is_that_of_other_draws(sizes, features, apart, many, monkeypatch):
    """Of two sources and of one, of equal and of unequal sets, and from some of many images."""
    monkeypatch.setattr(discrepancy, "MANY", many)
    found, told = [], []
    for s in range(300):
        first, second = (normal(n, features, seed=s + 9000 * i) for i, n in enumerate(sizes))
        second += apart
        found.append(mmd(first, second))
        told.append(variance(first, second, generator_at(s)))
    ratio = (f64(*told).mean() / f64(*found).var()).item()
    assert 0.8 < ratio < (1.8 if many == 40 and apart == 0 else 1.3)


def test_the_parts_of_the_variance_are_those_of_a_kernel_that_has_no_more():
    """k_ij = 5 + a_i + a_j off the diagonal, and nothing is left."""
    a = normal(9, 1)[:, 0]
    shares, left = _shares(5 + a[:, None] + a + torch.diag(normal(9, 1, seed=1)[:, 0]))
    assert torch.allclose(shares, a - a.mean())
    assert left == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "measure",
    [
        lambda a, b: frechet_estimate(a, Moments.of(b), blocks=3),
        mmd,
        lambda a, b: kernel_distance(a, b, subsets=3),
        precision_recall,
        density_coverage,
        lambda a, b: memory(a[:, 0].abs(), b[:, 0].abs()),
    ],
    ids=["frechet", "mmd", "kernel", "precision", "density", "memory"],
)
def test_float32_features_are_measured_as_their_float64_copies(measure):
    """Of float32 sums far from 0, differences would keep three digits."""
    first, second = 1000 + normal(40, 5).float(), 1000 + normal(30, 5, seed=1).float()
    assert measure(first, second) == measure(first.double(), second.double())


def test_the_fewest_images_that_have_a_distance():
    """Two of each for mmd, four for a mean of it over halves, two parts of two for an error."""
    first, second = normal(4, 3), normal(4, 3, seed=1)
    one, two = first[:2], second[:2]

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    cross = sum(k(a, b) for a in one for b in two) / 4
    assert mmd(one, two) == pytest.approx((k(*one) + k(*two) - 2 * cross).item())
    assert kernel_distance(first, second).error < float("inf")
    known = Moments.of(normal(9, 3, seed=2))
    halves = [frechet(Moments.of(part), known) for part in _parts(first, 2)]
    wanted = abs(halves[0] - halves[1]) / 2  # sqrt((B - 1) / B sum (value - mean)^2), B = 2
    assert frechet_estimate(first, known).error == pytest.approx(wanted)
