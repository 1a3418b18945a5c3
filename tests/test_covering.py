"""Errors of precision, recall, density and coverage are what other draws of both sets give."""

import math

import pytest
import torch

from conftest import normal
from sfumato import covering
from sfumato.covering import density_coverage, precision_recall
from sfumato.measuring import Estimate

NAMES = ("precision", "recall", "density", "coverage")


def four(real, drawn):
    return (*precision_recall(real, drawn), *density_coverage(real, drawn))


def two_draws(n, seed):
    """Two sources: the drawn images are nearer to one another, and to one side."""
    drawn = 0.8 * normal(n, 4, seed=10_000 + seed)
    drawn[:, 0] += 1.2
    return normal(n, 4, seed=seed), drawn


def told_over_true(n, draws):
    found = [four(*two_draws(n, seed)) for seed in range(draws)]
    true = torch.tensor([[each.mean for each in row] for row in found]).std(0)
    told = torch.tensor([[each.error for each in row] for row in found]).square().mean(0).sqrt()
    return dict(zip(NAMES, (told / true).tolist()))


def test_errors_are_those_of_other_draws(monkeypatch):
    """Taking balls as given told 0.6 to 0.8 of them; 80 draws know a deviation to 8 %."""
    monkeypatch.setattr(covering, "HALVINGS", 15)
    assert told_over_true(48, 80) == pytest.approx(dict.fromkeys(NAMES, 1.0), abs=0.17)


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 160])
def test_errors_are_those_of_many_other_draws(n):
    """Of 600 draws the deviation is known to 3 %."""
    measures = (covering._inside, 3), (covering._covered, 5)
    draws = [two_draws(n, seed) for seed in range(600)]
    values = [[each.mean() for m, k in measures for each in m(*draw, k)] for draw in draws]
    true = torch.tensor(values).std(0)
    told = torch.tensor([[each.error for each in four(*draw)] for draw in draws[:60]])
    ratios = (told.square().mean(0).sqrt() / true).tolist()
    assert all(0.9 < ratio < 1.15 for ratio in ratios), ratios


def test_variances_are_read_off_halves_literally(monkeypatch):
    monkeypatch.setattr(covering, "HALVINGS", 1)
    real, drawn = two_draws(30, 0)
    dice = covering.generator_at(0, "halves")
    orders = [torch.randperm(30, generator=dice) for _ in range(2)]
    halves = [covering._inside(real[orders[0][p]], drawn[orders[1][p]], 3) for p in PARTS]
    found = covering.between_halves(covering._inside, real, drawn, 3)
    whole = covering._inside(real, drawn, 3)
    for i, estimate in enumerate(precision_recall(real, drawn)):
        one, two = (half[i] for half in halves)
        gap = (one.mean() - two.mean()) ** 2
        effect = gap / ((one.var(correction=0) + two.var(correction=0)) / 15)
        assert found[i] == pytest.approx((effect.item(), gap.item() / 4))
        ways = (effect * whole[i].var(correction=0) / 30, gap / 4)
        least = Estimate.share(whole[i] > 0).error
        assert estimate.error == pytest.approx(max(least, *(way.sqrt().item() for way in ways)))


PARTS = (slice(0, 15), slice(15, 30))


def test_independent_values_have_no_effect():
    """A measure that looks at one image at a time: 1, as far as 40 halvings can tell."""

    def signs(real, drawn, k):
        return (real[:, 0] > 0).double(), drawn[:, 0] ** 2

    sets = normal(900, 1), normal(900, 1, seed=1)
    for (effect, variance), values in zip(
        covering.between_halves(signs, *sets, 3), signs(*sets, 3)
    ):
        assert effect == pytest.approx(1, abs=0.5)
        assert variance == pytest.approx(values.var().item() / 900, rel=0.5)
    more = covering.between_halves(signs, normal(1100, 1), normal(900, 1), 3)
    assert [variance for _, variance in more] == [0, 0]  # of 500 and not of all


def test_what_never_varies_is_told_with_the_doubt_of_a_share():
    """All of 8 covered, or none, is what Estimate.share says of 8; no error is 0."""
    points = normal(8, 2)
    same, apart = four(points, points + 1e-9), four(points, points + 1e6)
    assert [each.mean for each in same[::3]] == [1, 1]
    assert [each.mean for each in apart] == [0, 0, 0, 0]
    least = Estimate.share(torch.zeros(8, dtype=torch.bool)).error
    assert least == pytest.approx(math.sqrt(2 / 12 * 10 / 12 / 12))
    assert [each.error for each in apart] == pytest.approx([least, least, least / 5, least])
    assert all(each.error >= least / 5 for each in same)


def test_few_images_have_errors_too():
    assert all(0 < each.error < 1 for each in precision_recall(normal(4, 2), normal(5, 2, seed=1)))
    nothing = covering.between_halves(covering._inside, normal(3, 2), normal(9, 2), 1)
    assert nothing == [(1, 0), (1, 0)]


def test_errors_are_the_same_every_time_whatever_the_generator():
    sets = two_draws(40, 3)
    before = four(*sets)
    torch.manual_seed(5)
    assert four(*sets) == before
