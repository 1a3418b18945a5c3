"""Measures on features are the closed forms, literal transcriptions, and what the peers compute."""

import math

import pytest
import torch

from conftest import normal
from sfumato.covering import density_coverage, precision_recall
from sfumato.discrepancy import kernel_distance, mmd
from sfumato.measuring import (
    Estimate,
    Moments,
    bootstrap,
    class_accuracy,
    class_balance,
    frechet,
    frechet_difference,
    frechet_estimate,
    memory,
    nearest,
    radii,
    repeats,
)


def two_sets(n=60, m=50, d=7):
    """Two clouds that overlap in part."""
    first = normal(n, d) @ normal(d, d, seed=1)
    return first, 0.8 * normal(m, d, seed=2) @ normal(d, d, seed=3) + 0.5


def of_features(first, second):
    return frechet(Moments.of(first), Moments.of(second))


# --- the Frechet distance


def test_frechet_is_the_closed_form_of_commuting_covariances():
    """sum over axes of (m_1 - m_2)^2 + (sd_1 - sd_2)^2, also where an axis has no spread."""
    signs = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)]).double()
    first = signs * torch.tensor([3.0, 2.0])  # sample variances 4 / 3 of the squares
    second = signs * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, 5.0])
    wanted = 25 + 4 / 3 * ((3 - 1) ** 2 + (2 - 0) ** 2)
    assert of_features(first, second) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_fewer_images_than_features_have_a_distance(n):
    """Of rank n - 1, in 40 dimensions: in a subspace it is what it is there."""
    inner = normal(n, 3), normal(n + 1, 3, seed=5)
    turn = torch.linalg.qr(normal(40, 40, seed=9))[0][:3]
    found = of_features(inner[0] @ turn, inner[1] @ turn)
    assert found == pytest.approx(of_features(*inner), rel=1e-9)
    assert of_features(normal(n, 40), normal(n, 40)) == pytest.approx(0, abs=1e-9)


def test_frechet_agrees_with_scipys_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    first, second = two_sets(400, 300, 24)
    one, two = Moments.of(first), Moments.of(second)
    root = linalg.sqrtm((one.covariance @ two.covariance).numpy()).real
    gap = (one.mean - two.mean).square().sum().item()
    traces = (one.covariance + two.covariance).trace().item()
    assert frechet(one, two) == pytest.approx(gap + traces - 2 * root.trace(), rel=1e-6)


def test_frechet_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    first, second = two_sets(400, 300, 24)
    one, two = Moments.of(first), Moments.of(second)
    theirs = fid._compute_fid(one.mean, one.covariance, two.mean, two.covariance)
    assert frechet(one, two) == pytest.approx(theirs.item(), rel=1e-6)


def test_frechet_and_mmd_of_the_test_sets_are_the_recorded_ones():
    """What scipy's sqrtm and scikit-learn's polynomial kernel made of them, for a day without."""
    first, second = two_sets()
    assert of_features(first, second) == pytest.approx(RECORDED["frechet"], rel=1e-9)
    assert mmd(first, second) == pytest.approx(RECORDED["mmd"], rel=1e-9)


RECORDED = {"frechet": 37.36213338414004, "mmd": 58.035531431682486}


def test_the_jackknifes_error_is_that_of_other_draws():
    """Of the distance to a known Gaussian, over 60 draws of 200."""
    reference = Moments.of(normal(5000, 4, seed=77) + 0.3)
    found = [frechet_estimate(normal(200, 4, seed=seed), reference) for seed in range(60)]
    assert found[0].mean == pytest.approx(frechet(Moments.of(normal(200, 4)), reference), rel=1e-9)
    spread = torch.tensor([estimate.mean for estimate in found]).std().item()
    told = sum(estimate.error for estimate in found) / len(found)
    assert told == pytest.approx(spread, rel=0.25)


def test_a_difference_of_pairs_is_the_difference_and_knows_what_pairs_share():
    """Its error is the spread over draws, far below that of either; of a set to itself it is 0."""
    reference, found, alone = Moments.of(normal(4000, 4, seed=999)), [], []
    for seed in range(40):
        one = normal(200, 4, seed=seed)
        found.append(frechet_difference(one * 1.1, one, reference))
        alone.append(frechet_estimate(one, reference))
        distances = [frechet_estimate(rows, reference).mean for rows in (one * 1.1, one)]
        assert found[-1].mean == pytest.approx(distances[0] - distances[1], abs=1e-12)
    spread = torch.tensor([each.mean for each in found]).std().item()
    assert sum(each.error for each in found) / 40 == pytest.approx(spread, rel=0.3)
    of_independent = 2**0.5 * sum(each.error for each in alone) / 40
    assert spread < 0.8 * of_independent
    assert frechet_difference(one, one, reference) == Estimate(0.0, 0.0)


def test_a_difference_wants_pairs():
    with pytest.raises(ValueError, match="3 and 4 images: pairs are wanted"):
        frechet_difference(normal(3, 2), normal(4, 2), Moments.of(normal(9, 2)))


def test_what_has_no_distance_says_why():
    broken = normal(9, 3)
    broken[2, 1] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        of_features(broken, normal(9, 3))
    with pytest.raises(ValueError, match="at least 2"):
        mmd(normal(1, 3), normal(5, 3))
    with pytest.raises(ValueError, match="at least 4"):
        kernel_distance(normal(3, 3), normal(5, 3))
    with pytest.raises(ValueError, match="k = 5 neighbours of 5"):
        radii(normal(5, 3), 5)


# --- the kernel distance


def test_mmd_is_its_double_sums():
    first, second = two_sets(6, 5, 3)

    def k(a, b):
        return (sum(x * y for x, y in zip(a.tolist(), b.tolist())) / 3 + 1) ** 3

    one = sum(k(a, b) for i, a in enumerate(first) for j, b in enumerate(first) if i != j) / 30
    two = sum(k(a, b) for i, a in enumerate(second) for j, b in enumerate(second) if i != j) / 20
    both = sum(k(a, b) for a in first for b in second) / 30
    assert mmd(first, second) == pytest.approx(one + two - 2 * both, rel=1e-12)


def test_mmd_agrees_with_torchmetrics_and_scikit_learn():
    kid = pytest.importorskip("torchmetrics.image.kid")
    first, second = two_sets(80, 80, 12)
    theirs = kid.poly_mmd(first, second, degree=3, gamma=None, coef=1.0)
    assert mmd(first, second) == pytest.approx(theirs.item(), rel=1e-6)
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    tables = [
        pairwise.polynomial_kernel(a.numpy(), b.numpy(), degree=3, gamma=None, coef0=1)
        for a, b in ((first, first), (second, second), (first, second))
    ]
    within = sum((table.sum() - table.trace()) / (80 * 79) for table in tables[:2])
    assert mmd(first, second) == pytest.approx(within - 2 * tables[2].mean(), rel=1e-6)


def test_the_kernel_distance_is_that_of_all_images_within_its_error_and_follows_its_seed():
    first, second = two_sets(400, 400, 5)
    found = kernel_distance(first, second, seed=1)
    assert found == kernel_distance(first, second, seed=1)
    assert found != kernel_distance(first, second, seed=2)
    assert abs(found.mean - mmd(first, second)) < 2 * found.error


@pytest.mark.parametrize("size", [15, 1000])
def test_the_error_of_the_kernel_distance_is_that_of_other_draws(size):
    """Of two sources that are apart, over 60 draws of 80; a size of 1000 becomes 40."""
    found = [
        kernel_distance(normal(80, 3, seed=s), normal(80, 3, seed=500 + s) + 0.8, 40, size)
        for s in range(60)
    ]
    spread = torch.tensor([each.mean for each in found]).std().item()
    told = sum(each.error for each in found) / len(found)
    assert told == pytest.approx(spread, rel=0.2)


# --- neighbours


def transcribed(real, drawn, k):
    """Precision, recall, density and coverage by definition, one pair of images at a time."""

    def apart(a, b):
        return math.dist(a.tolist(), b.tolist())

    def reach(points):
        each = [sorted(apart(p, q) for q in points if q is not p) for p in list(points)]
        return [distances[k - 1] for distances in each]

    real, drawn = list(real), list(drawn)
    of_real, of_drawn = reach(real), reach(drawn)
    balls = [[apart(r, d) <= radius for r, radius in zip(real, of_real)] for d in drawn]
    back = [[apart(r, d) <= radius for d, radius in zip(drawn, of_drawn)] for r in real]
    return {
        "precision": sum(map(any, balls)) / len(drawn),
        "recall": sum(map(any, back)) / len(real),
        "density": sum(map(sum, balls)) / (k * len(drawn)),
        "coverage": sum(map(any, zip(*balls))) / len(real),
    }


@pytest.mark.parametrize("k", [1, 3])
def test_precision_recall_density_and_coverage_are_their_definitions(k):
    real, drawn = two_sets(40, 30, 3)
    wanted = transcribed(real, drawn, k)
    precision, recall = precision_recall(real, drawn, k)
    density, coverage = density_coverage(real, drawn, k)
    found = dict(zip(wanted, (e.mean for e in (precision, recall, density, coverage))))
    assert found == pytest.approx(wanted, abs=1e-12)
    assert 0 < wanted["precision"] < 1
    assert 0 < wanted["coverage"] < 1


def test_neighbours_agree_with_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    real, drawn = two_sets(300, 200, 6)
    within = neighbors.NearestNeighbors(n_neighbors=3).fit(real.numpy())
    theirs = within.kneighbors()[0][:, -1]
    torch.testing.assert_close(radii(real, 3), torch.tensor(theirs), rtol=1e-9, atol=0)
    distances, indices = within.kneighbors(drawn.numpy(), 1)
    found = nearest(drawn, real)
    assert found[1].tolist() == indices[:, 0].tolist()
    torch.testing.assert_close(found[0], torch.tensor(distances[:, 0]), rtol=1e-9, atol=0)
    table = neighbors.NearestNeighbors(n_neighbors=1).fit(drawn.numpy())
    covered = table.kneighbors(real.numpy())[0][:, 0] <= theirs
    assert density_coverage(real, drawn, 3)[1].mean == pytest.approx(covered.mean(), abs=1e-12)


def test_coverage_of_two_draws_of_one_source_is_lemma_2s(monkeypatch):
    """1 - prod (N - 1 - j) / (N + M - 1 - j), whatever the source; density is 1 on average."""
    monkeypatch.setattr("sfumato.covering.HALVINGS", 1)  # the errors are not looked at
    n, m, k = 60, 40, 3
    wanted = 1 - math.prod((n - 1 - j) / (n + m - 1 - j) for j in range(k))
    both = [
        density_coverage(normal(n, 4, seed=s), normal(m, 4, seed=999 - s), k) for s in range(99)
    ]
    coverage = Estimate.of(torch.tensor([pair[1].mean for pair in both]))
    density = Estimate.of(torch.tensor([pair[0].mean for pair in both]))
    assert abs(coverage.mean - wanted) < 4 * coverage.error
    assert abs(density.mean - 1) < 4 * density.error


def test_chunks_change_nothing(monkeypatch):
    monkeypatch.setattr("sfumato.covering.HALVINGS", 2)
    real, drawn = two_sets()
    whole = (nearest(drawn, real), radii(real, 3), precision_recall(real, drawn))
    monkeypatch.setattr("sfumato.measuring.AT_ONCE", 7)
    parts = (nearest(drawn, real), radii(real, 3), precision_recall(real, drawn))
    assert torch.equal(whole[0][1], parts[0][1])
    torch.testing.assert_close(whole[1], parts[1])
    assert whole[2] == parts[2]


# --- memory


def test_memory_counts_pairs():
    drawn, held_out = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([1.0, 2.0, 4.0, 5.0])
    pairs = [(d < h) + 0.5 * (d == h) for d in drawn.tolist() for h in held_out.tolist()]
    found = memory(drawn, held_out)
    assert found.closer.mean == pytest.approx(sum(pairs) / 12)
    assert found.exact == 1
    assert found.copies.mean == pytest.approx(2 / 3)  # those below the 1 % quantile, 1.03


def test_who_copies_is_found_and_who_does_not_is_not():
    train, unseen, fresh = (normal(300, 5, seed=s) for s in range(3))
    held_out = nearest(unseen, train)[0]
    honest = memory(nearest(fresh, train)[0], held_out)
    assert abs(honest.closer.mean - 0.5) < 3 * honest.closer.error
    assert honest.copies.mean < 0.04
    half = torch.cat([train[:150] + 1e-3, fresh[:150]])
    copier = memory(nearest(half, train)[0], held_out)
    assert copier.closer.mean == pytest.approx(0.75, abs=0.04)
    assert copier.copies.mean == pytest.approx(0.5, abs=0.04)
    assert memory(nearest(train, train)[0], held_out).exact == 300


@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_who_copies_is_found_where_the_data_has_images_twice(rounding):
    """A tenth of what is held out is in the training images too, and of what is drawn by right."""
    train, unseen, fresh = (normal(300, 5, seed=s) for s in range(3))
    twice = train[:30] + rounding * normal(30, 5, seed=9)
    held_out = nearest(torch.cat([twice, unseen[30:]]), train)[0]
    copier = memory(nearest(train + 1e-3 * normal(300, 5, seed=7), train)[0], held_out)
    assert copier.copies.mean == 1
    honest = memory(nearest(torch.cat([train[30:60], fresh[30:]]), train)[0], held_out)
    assert honest.expected == pytest.approx(0.1 + 0.9 * 0.0136, abs=1e-3)
    assert abs(honest.copies.mean - honest.expected) < 3 * honest.copies.error
    assert abs(honest.closer.mean - 0.5) < 3 * honest.closer.error
    every = memory(torch.tensor([0.0, 1.0]), torch.zeros(4))
    assert (every.copies.mean, every.expected) == (0.5, 1.0)


def test_the_error_of_closer_is_that_of_other_draws():
    found = [memory(normal(80, seed=s), normal(50, seed=1000 + s)).closer for s in range(200)]
    spread = torch.tensor([each.mean for each in found]).std().item()
    assert found[0].error == pytest.approx(spread, rel=0.2)


def test_the_nearest_of_equal_images_is_no_distance_away():
    images = torch.randint(0, 256, (20, 48), generator=torch.Generator().manual_seed(0)).float()
    distances, indices = nearest(images, images.flip(0))
    assert distances.tolist() == [0.0] * 20
    assert indices.tolist() == list(range(19, -1, -1))


def test_repeats_are_counted():
    images = torch.arange(5, dtype=torch.uint8)[[0, 1, 1, 4, 1, 0]].view(6, 1, 1, 1)
    assert repeats(images) == 3


# --- classes


def test_balance_is_one_less_the_total_variation():
    shares = torch.tensor([30.0, 30.0, 60.0])
    found = torch.tensor([0] * 5 + [1] * 5 + [2] * 10)
    assert class_balance(found, shares).mean == pytest.approx(1)
    assert class_balance(found[:5], shares).mean == pytest.approx(0.25)
    assert class_balance(found[:10], shares).mean == pytest.approx(0.5)


def test_balance_by_chance_falls_short_by_the_formula_and_its_error_is_that_of_other_draws():
    shares, n = torch.full((10,), 1 / 10).double(), 400
    dice = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(shares, 150 * n, replacement=True, generator=dice).view(150, n)
    found = [class_balance(classes, shares) for classes in drawn]
    short = Estimate.of(1 - torch.tensor([each.mean for each in found]))
    assert short.mean == pytest.approx(5 * math.sqrt(2 * 0.09 / math.pi / n), abs=4 * short.error)
    peaked = torch.tensor([0.6, *[0.4 / 9] * 9]).double()
    drawn = torch.multinomial(peaked, 150 * n, replacement=True, generator=dice).view(150, n)
    found = [class_balance(classes, shares) for classes in drawn]
    spread = torch.tensor([each.mean for each in found]).std().item()
    told = sum(each.error for each in found) / len(found)
    assert told == pytest.approx(spread, rel=0.15)


def test_balance_of_few_images_of_one_class_is_not_without_a_doubt():
    """Of 8 another 8 may have one of another class, with a chance of 4 in 12 times the share."""
    found = class_balance(torch.zeros(8, dtype=torch.long), torch.ones(10))
    assert found.mean == pytest.approx(0.1)
    assert 0.05 < found.error < 0.2


def test_the_bootstrap_of_a_mean_is_its_error():
    values = normal(400)
    assert bootstrap(lambda v: v.mean(), values) == pytest.approx(
        Estimate.of(values).error, rel=0.15
    )


def test_the_error_of_a_share_counts_two_more_of_either_kind():
    found = class_accuracy(torch.tensor([1, 2, 3]), torch.tensor([1, 2, 0]))
    assert found.mean == pytest.approx(2 / 3)
    assert found.error == pytest.approx(math.sqrt(4 / 7 * 3 / 7 / 7))
    assert Estimate.share(torch.zeros(60, dtype=torch.bool)).error > 0
