"""What the doctor must not call ill: runs of single images, latents, smooth images."""

from math import exp
from random import Random

import pytest
import torch

from sfumato.doctor.run import check_drawn, check_log
from test_doctor_bounds import told
from test_doctor_bounds_runs import SECONDS_400
from test_doctor_faults import log


def codes(rows):
    return dict(told(check_log(SECONDS_400, rows)))


def falls(step):
    return 1 / (1 + step / 20)


def of_single_images(seed, times=1.0):
    """Losses of one image at a random time spread over factors; jumped: by `times` at the end."""
    dice = Random(seed)
    losses = [exp(dice.gauss(0, 1.5)) * (times if step >= 330 else 1) for step in range(401)]
    return log(loss=lambda step: losses[step], held=falls)


def test_losses_of_single_images_do_not_diverge_by_chance():
    """The bound on the medians alone found it in more than half of them."""
    assert sum("loss-diverged" in codes(of_single_images(seed)) for seed in range(40)) == 0


def test_losses_of_single_images_that_jump_do():
    assert sum("loss-diverged" in codes(of_single_images(seed, 30)) for seed in range(40)) == 40


def of_latents(left):
    """A loss of which most can't be learned; at one of eight levels `left` is left of it."""
    rows = log(held=lambda step: 1 if step == 0 else 0.95)
    for row in rows:
        if row["kind"] == "held_out":
            row["raw_by_level"] = [1.0, 1.0 if row["step"] == 0 else left, *[1.0] * 6]
    return rows


@pytest.mark.parametrize(("left", "found"), [(0.75, False), (0.89, False), (0.91, True)])
def test_what_is_learned_at_one_noise_level_is_learned(left, found):
    assert ("not-learning" in codes(of_latents(left))) is found


def test_a_level_without_a_loss_says_nothing():
    rows = of_latents(0.95)
    for row in rows:
        if row["kind"] == "held_out":
            row["raw_by_level"][0] = 0.0
    assert "not-learning" in codes(rows)


@pytest.mark.parametrize(("levels", "found"), [(0.0, False), (1.0, False), (6.0, True)])
def test_smooth_images_are_not_grainy_by_a_level_of_noise(levels, found):
    """Of a wave 16 pixels long next to nothing is left at the finest scale."""
    dice = torch.Generator().manual_seed(0)
    wave = torch.cos(torch.arange(32.0) * torch.pi / 8)
    waves = 128 + 90 * wave[:, None] * wave * torch.rand(64, 1, 1, 1, generator=dice)
    noise = torch.randn(64, 1, 32, 32, generator=dice)
    drawn = (waves + levels * noise).round().clamp(0, 255).byte()
    assert ("grainy" in dict(told(check_drawn(drawn, waves.round().byte())))) is found
