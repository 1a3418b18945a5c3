"""What tuned samplers are fitted to: distances, and shares of values."""

import pytest
import torch

import sfumato.aim as aims
from conftest import f64, normal
from sfumato.aim import LEVEL, STEEP, WEIGHT, Aim, levels_of, shares, views
from sfumato.exact import Empirical
from sfumato.grids import KarrasGrid
from sfumato.process import Karras
from sfumato.solvers import DDIM
from sfumato.tuning import Pairs, cost, images_of, refined, table_of, teacher_path


def test_without_levels_it_is_the_mean_root_mean_square_in_standard_deviations():
    wanted = normal(5, 1, 4, 4, seed=1)
    images = wanted + f64(0.0, 1.0, 2.0, 3.0, 4.0).reshape(5, 1, 1, 1)
    deviation = (wanted - wanted.mean(0)).square().mean().sqrt()
    found = Aim.of(wanted, None)(images, wanted)
    assert found.item() == pytest.approx(2 / deviation.item(), rel=1e-5)


def test_beyond_the_bound_distance_is_steep():
    wanted = normal(5, 3)
    near, far = (Aim(1.0, bound=2.0)(wanted + off, wanted).item() for off in (1.5, 2.5))
    assert near == pytest.approx(1.5)
    assert far == pytest.approx(2.5 + STEEP * 0.5)


def test_an_image_that_is_reached_has_a_gradient():
    images = normal(2, 3).requires_grad_()
    Aim()(images, images.detach().clone()).backward()
    assert torch.equal(images.grad, torch.zeros(2, 3).double())


def test_levels_are_the_deciles_those_near_one_another_once():
    data = torch.cat([torch.full((500,), -1.0), torch.linspace(-0.5, 0.5, 499), torch.ones(1)])
    (levels,) = levels_of(data.double()[:, None])
    # five deciles at -1 are one; then a tenth of the thousand values each
    assert levels == pytest.approx((-1.0, -0.3, -0.1, 0.1, 0.3), abs=0.01)
    close = torch.linspace(0, 3 * LEVEL, 100)[:, None]
    assert len(levels_of(close)[0]) == 1


def test_no_more_values_are_looked_at_than_needed_from_all_over_the_data(monkeypatch):
    monkeypatch.setattr(aims, "VALUES", 100)
    data = torch.arange(90.0)[:, None].expand(90, 10)
    some = aims.some_of(data)
    assert some[:, 0].tolist() == [9.0 * i for i in range(10)]
    assert len(aims.some_of(data[:7])) == 7
    assert len(aims.some_of(torch.zeros(5, 1000))) == 1
    teacher = normal(4, 10, seed=0)
    assert Aim.of(teacher, data) == Aim.of(teacher, some)


def test_a_share_counts_what_is_up_to_a_level_and_the_next():
    """Half of what is 3/2 levels above is counted: values on the grid of 8 bits are in or out."""
    q = -1.0
    images = f64(q, q + 1.5 * LEVEL, q + 40 * LEVEL)[:, None]
    first, half, far = (shares(row, ((q,),)).item() for row in images)
    assert first == pytest.approx(1 / (1 + torch.tensor(-2.0).exp().item()))
    assert (half, far) == pytest.approx((0.5, 0.0), abs=1e-9)
    assert shares(images, ((q, 5.0),)).tolist() == pytest.approx([(first + half + far) / 3, 1.0])


def test_neighbours_are_those_to_the_right_and_below_in_each_channel():
    images = f64(0, 1, 3, 7, 10, 20, 40, 80).reshape(1, 2, 2, 2)
    values, steps = views(images)
    assert torch.equal(values, images.flatten())
    assert sorted(steps.tolist()) == [1, 3, 4, 6, 10, 30, 40, 60]
    assert len(views(images.reshape(2, 4))) == 1  # no images
    assert len(views(images.reshape(8, 1, 1, 1))) == 1  # without neighbours


def test_grain_that_leaves_every_share_of_values_is_missed_by_the_differences():
    """The same values in another order: stripes two wide for stripes one wide."""
    fine = f64(*[-1.0, 1.0] * 4).expand(6, 1, 8, 8)
    coarse = f64(*[-1.0, -1.0, 1.0, 1.0] * 2).expand(6, 1, 8, 8)
    aim = Aim.of(coarse, fine)
    assert aim.levels == ((-1.0, 1.0), (0.0, 2.0))
    # of 112 differences 24 are 2 in the coarse, 56 in the fine; a value at q counts for `at`
    at = 1 / (1 + torch.tensor(-2.0).exp().item())
    off = (-32 / 112 * at, -32 / 112 * (1 - at))
    assert aim.gap == pytest.approx((0, 0, *off), abs=1e-6)
    assert aim.missed(fine, coarse).item() == pytest.approx(0, abs=1e-12)
    assert aim.missed(coarse, coarse).item() == pytest.approx(off[0] ** 2 + off[1] ** 2)


def test_nothing_is_missed_by_images_with_the_shares_of_the_data():
    """Where the teacher is off, its own images miss by the gap, and the data's by nothing."""
    data = torch.full((40, 1, 3, 3), -1.0)
    teacher = data + 4 * LEVEL
    aim = Aim.of(teacher, data)
    assert aim.missed(data, teacher).item() == pytest.approx(0, abs=1e-12)
    expected = (shares(data, aim.levels) - shares(teacher, aim.levels)).square().sum().item()
    assert expected > 0.5
    assert aim.missed(teacher, teacher).item() == pytest.approx(expected)
    far = aim(teacher - LEVEL, teacher).item() - WEIGHT * aim.missed(teacher - LEVEL, teacher)
    assert far.item() == pytest.approx(1, rel=1e-3)  # one level, in the least deviations


def test_which_images_a_batch_holds_does_not_matter():
    """Half the images black, half white, the student like the teacher: the same for any few."""
    teacher = torch.cat([torch.full((8, 4), -1.0), torch.ones(8, 4)]) * 0.98
    aim = Aim.of(teacher, teacher / 0.98)
    found = [aim.missed(teacher[rows], teacher[rows]) for rows in (range(4), range(6, 10))]
    assert found[0].item() == pytest.approx(found[1].item())


def test_a_gap_for_each_level():
    with pytest.raises(ValueError, match="2 levels, 1 gaps"):
        Aim(1.0, ((0.0,), (1.0,)), (0.1,))


def test_a_teacher_that_is_off_by_a_little_is_bettered_where_the_data_say_so():
    """Images of -1 and 1, and a teacher that ends too grey: distance alone stays with it."""
    process = Karras()
    data = torch.sign(normal(24, 16, seed=1))
    denoiser, noise = Empirical(process, data), normal(48, 16, seed=2)
    images = teacher_path(denoiser, noise, None)[-1].x * (1 - 2.5 * LEVEL)
    pairs = Pairs(noise, images, None)
    start = table_of(DDIM(), process, KarrasGrid(0.3, 20.0)(process, 4))
    plain, aim = Aim.of(images, None), Aim.of(images, data)
    found = [
        refined(denoiser, pairs, pairs, start, lambda step: step / 40, aim=one)
        for one in (plain, aim)
    ]
    missed = [aim.missed(images_of(denoiser, pairs, one), images).item() for one in (start, *found)]
    assert missed[2] < 0.5 * missed[1]
    assert cost(denoiser, pairs, found[1], aim) < cost(denoiser, pairs, found[0], aim)
