"""Measures at their edges: one image, equal ones, points on a ball, images sorted by class."""

import pytest
import torch

from conftest import f64, normal
from sfumato.measuring import Moments, _parts, frechet, frechet_estimate, inside, memory, radii


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
