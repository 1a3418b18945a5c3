"""A prediction's views against what is known exactly of a Gaussian mixture."""

import pytest
import torch

from conftest import (
    MEANS,
    PROCESSES,
    STD,
    OnALine,
    f64,
    inside,
    mixture,
    name,
    noisy_mixture,
    normal,
)
from sfumato.exact import GaussianMixture
from sfumato.prediction import Prediction
from sfumato.process import RectifiedFlow

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)
PARTS = pytest.mark.parametrize("part", [0.0103, 0.3007, 0.7004, 0.9805])  # off the tables' nodes


@EVERY
@PARTS
def test_score_is_the_gradient_of_the_noisy_log_density(process, part):
    t = f64(part * process.t_max)
    x = (process.sigma(t) + process.alpha(t)) * normal(16, 2)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(noisy_mixture(process, t).log_prob(x).sum(), x)
    score = mixture(process)(x.detach(), t).score
    torch.testing.assert_close(score, gradient, rtol=1e-8, atol=1e-10)


@EVERY
@PARTS
def test_velocity_moves_one_gaussian_as_the_flow_does(process, part):
    """One component: x_t = alpha m + sqrt(alpha^2 s^2 + sigma^2) z solves the ODE for a fixed z."""
    z, mean, h = normal(16, 2), MEANS[1], 1e-6
    t = f64(part * process.t_max)

    def x_at(t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return alpha * mean + torch.sqrt((alpha * STD) ** 2 + sigma**2) * z

    difference = (x_at(t + h) - x_at(t - h)) / (2 * h)
    velocity = GaussianMixture(process, mean[None], STD)(x_at(t), t).velocity
    torch.testing.assert_close(velocity, difference, rtol=1e-6, atol=1e-7)


@EVERY
@PARTS
def test_velocity_moves_a_mixture_as_the_flow_does(process, part):
    line = OnALine(process)
    t = f64(part * process.t_max)
    x, h = line.start(16, t), 1e-5 * process.t_max
    difference = (line.flow(x, t, t + h) - line.flow(x, t, t - h)) / (2 * h)
    torch.testing.assert_close(line.denoiser(x, t).velocity, difference, rtol=1e-5, atol=1e-6)


@EVERY
def test_the_views_agree(process):
    t = inside(process, 8)
    p = mixture(process)(3 * normal(8, 2), t)
    alpha, sigma = (c(t)[:, None] for c in (process.alpha, process.sigma))
    alpha_rate, sigma_rate = (rate[:, None] for rate in process.rates(t))
    assert torch.equal(p.alpha, alpha)
    assert torch.equal(p.sigma, sigma)
    torch.testing.assert_close(alpha * p.x0 + sigma * p.eps, p.x_t)
    torch.testing.assert_close(p.v, alpha * p.eps - sigma * p.x0)
    torch.testing.assert_close(p.velocity, alpha_rate * p.x0 + sigma_rate * p.eps)
    torch.testing.assert_close(p.score, -p.eps / sigma)
    power = alpha**2 + sigma**2
    torch.testing.assert_close((alpha * p.x_t - sigma * p.v) / power, p.x0, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close((sigma * p.x_t + alpha * p.v) / power, p.eps, rtol=1e-7, atol=1e-9)
    drift = alpha_rate / alpha  # the probability-flow ODE of the SDE: f x - g^2 / 2 score
    half_g_squared = sigma * (sigma_rate - drift * sigma)
    want = drift * p.x_t - half_g_squared * p.score
    torch.testing.assert_close(p.velocity, want, rtol=1e-7, atol=1e-9)


@EVERY
def test_the_truth_is_seen_in_every_view(process):
    x0, eps = normal(2, 6, 3)
    t = inside(process, 6)
    p = Prediction(process.diffuse(x0, t, eps), x0, t, process)
    torch.testing.assert_close(p.eps, eps, rtol=1e-9, atol=1e-9)


def test_one_time_serves_the_batch():
    process, x = RectifiedFlow(), normal(5, 2)
    one, each = (mixture(process)(x, t) for t in (f64(0.4), torch.full((5,), 0.4).double()))
    for view in ("x0", "eps", "v", "velocity", "score"):
        torch.testing.assert_close(getattr(one, view), getattr(each, view), rtol=1e-6, atol=1e-6)


def test_float32_images_give_float32_views_near_the_exact_ones():
    process, x = RectifiedFlow(), normal(64, 2)
    for t in (f64(0.001), f64(0.5)):
        low, high = mixture(process)(x.float(), t), mixture(process)(x, t)
        assert low.eps.dtype == torch.float32
        torch.testing.assert_close(low.eps.double(), high.eps, rtol=0, atol=2e-3)
        torch.testing.assert_close(low.x0.double(), high.x0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("view", ["eps", "v", "velocity", "score"])
def test_half_precision_is_refused(dtype, view):
    x = torch.ones(2, 3, dtype=dtype)
    with pytest.raises(ValueError, match="float32 or wider"):
        getattr(Prediction(x, x, f64(0.5), RectifiedFlow()), view)


def test_another_x0_changes_every_view_and_nothing_else():
    process, t = RectifiedFlow(), f64(0.4)
    x, other = normal(2, 5, 2)
    mix = torch.rand(5, 2)
    p = Prediction(x, mixture(process)(x, t).x0, t, process, mix, kept_eps=torch.zeros(5, 2))
    assert (p.eps == 0).all()
    changed = p.with_x0(other)
    torch.testing.assert_close(changed.eps, (x - 0.6 * other) / 0.4)
    assert changed.x0 is other
    assert changed.x_t is x
    assert changed.variance_mix is mix
    assert changed.kept_eps is None
