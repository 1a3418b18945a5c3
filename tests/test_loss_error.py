"""The error of a held-out loss is what other images and other noise would change it by."""

from dataclasses import dataclass

import pytest
import torch

from sfumato.commands.measures import levels_of, loss_numbers
from sfumato.exact import GaussianMixture
from sfumato.measuring import Estimate
from sfumato.objective import DataMSE, Denoising, UniformTimes
from sfumato.process import RectifiedFlow

IMAGES, DRAWS = 48, 1000
OBJECTIVE = Denoising(UniformTimes(), DataMSE())
EXACT = GaussianMixture(RectifiedFlow(), torch.zeros(1, 20, dtype=torch.float64), 0.5)


@dataclass(frozen=True)
class Run:
    """What a loss by noise level wants to know of a run."""

    process: RectifiedFlow = RectifiedFlow()
    objective: Denoising = OBJECTIVE


@dataclass(frozen=True)
class Subject:
    run: Run = Run()

    def measured_on(self, step):
        return f"step {step}"


@pytest.fixture(scope="module")
def drawn():
    """(DRAWS, IMAGES) losses of the exact denoiser, at training's evenly spread times."""
    dice = torch.Generator().manual_seed(5)
    x0 = EXACT.sample(DRAWS * IMAGES, dice)
    eps = torch.randn(x0.shape, generator=dice, dtype=torch.float64)
    u = (torch.arange(IMAGES, dtype=torch.float64) + 0.5) / IMAGES
    losses = OBJECTIVE(EXACT, x0, None, u.repeat(DRAWS), eps)
    return losses.reshape(DRAWS, IMAGES)


def root_mean_square(values):
    return torch.tensor(values, dtype=torch.float64).square().mean().sqrt().item()


def told(losses):
    return loss_numbers(Subject(), 1, losses, levels_of(Subject(), losses))


def test_the_error_is_the_spread_over_many_draws(drawn):
    """Times are the same in every draw: what losses differ by for their sake is no doubt."""
    found = [told(losses) for losses in drawn]
    assert found[0]["mean"] == pytest.approx(drawn[0].mean().item())
    spread = drawn.mean(1).std().item()
    assert root_mean_square([one["error"] for one in found]) == pytest.approx(spread, rel=0.05)
    at_random = root_mean_square([Estimate.of(losses).error for losses in drawn])
    assert at_random > 1.4 * spread  # the error of times that are drawn too
    for level in range(8):
        spread = drawn[:, 6 * level : 6 * level + 6].mean(1).std().item()
        errors = [one["levels"][level]["error"] for one in found]
        # in the first the losses rise a hundredfold among six images, and their noise with them
        assert root_mean_square(errors) == pytest.approx(spread, rel=0.1 if level else 0.2)


@pytest.mark.parametrize("count", [2, 3])
def test_of_two_or_three_it_is_that_of_a_plain_mean(count):
    values = torch.tensor([1.0, 4.0, 2.5])[:count]
    assert Estimate.in_order(values) == Estimate.of(values)


def test_what_rises_evenly_has_no_error():
    assert Estimate.in_order(torch.arange(9.0)) == Estimate(4.0, 0.0)
