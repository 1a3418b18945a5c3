"""Exact denoisers against brute force: sums and integrals written out."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from conftest import LOG_WEIGHTS, MEANS, PROCESSES, STD, f64, inside, mixture, name, normal
from sfumato.exact import Empirical, GaussianMixture
from sfumato.process import Karras, LinearVP, RectifiedFlow

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)
RATIOS = pytest.mark.parametrize("ratio", [0.08, 0.4, 2.0, float("inf")])


def time_of(process, ratio):
    """The time of a noise level in units of the data; t_max where the process ends below it."""
    if ratio >= process.largest_ratio:
        return f64(process.t_max)
    return process.time_at_ratio(f64(ratio))


def noisy_likelihood(process, t, x_t, x0):
    """N(x_t; alpha x0, sigma^2 I) of every pair, up to a factor of x_t: (B, N)."""
    squared = (x_t[:, None] - process.alpha(t) * x0).square().sum(-1)
    squared = squared - squared.min(1, keepdim=True).values
    return torch.exp(-squared / (2 * process.sigma(t) ** 2))


@EVERY
@RATIOS
def test_the_mixture_is_the_integral_over_all_clean_images(process, ratio):
    t = time_of(process, ratio)
    axis = torch.linspace(-3.2, 3.2, 200, dtype=torch.float64)
    x0 = torch.cartesian_prod(axis, axis)  # (N, 2)
    density = mixture(process).log_prob(x0).exp()
    x_t = process.alpha(t) * MEANS + process.sigma(t) * normal(3, 2) + 0.2 * normal(3, 2, seed=1)
    joint = noisy_likelihood(process, t, x_t, x0) * density
    want = joint @ x0 / joint.sum(1, keepdim=True)
    torch.testing.assert_close(mixture(process)(x_t, t).x0, want, rtol=0, atol=1e-6)


@EVERY
@RATIOS
def test_a_data_set_is_the_sum_over_its_images(process, ratio):
    t = time_of(process, ratio)
    data = normal(40, 3)
    x_t = process.alpha(t) * data[:8] + process.sigma(t) * normal(8, 3, seed=1)
    weights = noisy_likelihood(process, t, x_t, data)
    want = weights @ data / weights.sum(1, keepdim=True)
    torch.testing.assert_close(Empirical(process, data)(x_t, t).x0, want, rtol=1e-8, atol=1e-10)


@EVERY
def test_a_data_set_is_the_mixture_of_points(process):
    data, t = normal(20, 3), f64(0.4 * process.t_max)
    x_t = process.alpha(t) * data[:8] + process.sigma(t) * normal(8, 3, seed=1)
    points = Empirical(process, data)(x_t, t).x0
    torch.testing.assert_close(GaussianMixture(process, data, 0.0)(x_t, t).x0, points)
    gaps = [
        (GaussianMixture(process, data, std)(x_t, t).x0 - points).abs().max()
        for std in (1e-2, 1e-3)
    ]
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.1)  # the error is of order std^2


@EVERY
def test_one_component_is_linear(process):
    """E[x0 | x_t] = m + alpha s^2 / V (x_t - alpha m)."""
    t = inside(process, 7)
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    x_t = 2 * normal(7, 2)
    slope = alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2)
    for k in range(3):
        want = MEANS[k] + slope * (x_t - alpha * MEANS[k])
        got = mixture(process)(x_t, t, torch.full((7,), k)).x0
        torch.testing.assert_close(got, want)


def test_conditions_choose_a_row_at_a_time():
    process, x_t, t = LinearVP(), 2 * normal(5, 2), f64(0.3)
    cond = torch.tensor([2, 0, 1, 1, 0])
    got = mixture(process)(x_t, t, cond).x0
    for i in range(5):
        alone = mixture(process)(x_t[i : i + 1], t, cond[i : i + 1]).x0
        torch.testing.assert_close(got[i : i + 1], alone)
    data, labels = normal(30, 2), torch.arange(30) % 3
    got = Empirical(process, data, labels)(x_t, t, cond).x0
    for i in range(5):
        only = Empirical(process, data[labels == cond[i]])(x_t[i : i + 1], t).x0
        torch.testing.assert_close(got[i : i + 1], only)
    everything = Empirical(process, data, labels)(x_t, t).x0
    torch.testing.assert_close(everything, Empirical(process, data)(x_t, t).x0)


def test_weights_need_not_be_normalized():
    process, x_t, t = LinearVP(), normal(5, 2), f64(0.3)
    shifted = GaussianMixture(process, MEANS, STD, LOG_WEIGHTS + 7)
    torch.testing.assert_close(shifted(x_t, t).x0, mixture(process)(x_t, t).x0)
    torch.testing.assert_close(shifted.log_prob(x_t), mixture(process).log_prob(x_t))
    equal = GaussianMixture(process, MEANS, STD)
    ones = GaussianMixture(process, MEANS, STD, torch.ones(3))
    torch.testing.assert_close(equal(x_t, t).x0, ones(x_t, t).x0)
    assert not torch.equal(equal(x_t, t).x0, mixture(process)(x_t, t).x0)


def test_pure_noise_says_nothing():
    process, x_t = RectifiedFlow(), 5 * normal(4, 2)
    mean = LOG_WEIGHTS.exp() @ MEANS
    got = mixture(process)(x_t, f64(1.0)).x0
    torch.testing.assert_close(got, mean.expand(4, 2))
    data = normal(9, 2)
    got = Empirical(process, data)(x_t, f64(1.0)).x0
    torch.testing.assert_close(got, data.mean(0).expand(4, 2))


def test_images_of_any_shape():
    process, data, t = LinearVP(), normal(6, 3, 4, 5), f64(0.3)
    x_t = normal(2, 3, 4, 5, seed=1)
    flat = Empirical(process, data.flatten(1))(x_t.flatten(1), t).x0
    assert torch.equal(Empirical(process, data)(x_t, t).x0, flat.reshape(x_t.shape))
    flat = GaussianMixture(process, data.flatten(1), STD)(x_t.flatten(1), t).x0
    got = GaussianMixture(process, data, STD)(x_t, t)
    assert torch.equal(got.x0, flat.reshape(x_t.shape))
    assert got.x_t is x_t
    draws = GaussianMixture(process, data, STD).sample(4)
    assert draws.shape == (4, 3, 4, 5)


def test_float32_is_stable_in_many_dimensions_and_little_noise():
    data = normal(10, 3072).clamp(-1, 1)
    for t in (f64(0.002), f64(0.5), f64(80.0)):
        x_t = data[:4] + t * normal(4, 3072, seed=1)
        low = Empirical(Karras(), data.float())(x_t.float(), t).x0
        high = Empirical(Karras(), data)(x_t, t).x0
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.double(), high, rtol=0, atol=2e-5)
    torch.testing.assert_close(Empirical(Karras(), data)(data[:4], f64(0.002)).x0, data[:4])


def test_log_prob_is_that_of_torch_distributions():
    parts = Independent(Normal(MEANS, torch.full_like(MEANS, STD)), 1)
    reference = MixtureSameFamily(Categorical(logits=LOG_WEIGHTS), parts)
    x = 3 * normal(20, 2)
    torch.testing.assert_close(mixture(LinearVP()).log_prob(x), reference.log_prob(x))


def test_draws_have_the_moments_and_follow_the_generator():
    truth = mixture(LinearVP())
    x = truth.sample(20_000, torch.Generator().manual_seed(1))
    assert x.dtype == torch.float64
    assert torch.equal(x, truth.sample(20_000, torch.Generator().manual_seed(1)))
    assert not torch.equal(x, truth.sample(20_000, torch.Generator().manual_seed(2)))
    weights = LOG_WEIGHTS.exp()
    mean = weights @ MEANS
    variance = weights @ (MEANS - mean) ** 2 + STD**2
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.03)  # 4 standard errors
    torch.testing.assert_close(x.var(0), variance, rtol=0.04, atol=0)
    nearest = torch.cdist(x, MEANS).argmin(1)
    share = torch.bincount(nearest, minlength=3) / len(x)
    torch.testing.assert_close(share.double(), weights, rtol=0, atol=0.015)


def test_conditions_of_another_kind_are_refused():
    x, t = normal(2, 2), f64(0.3)
    labelled = Empirical(LinearVP(), normal(4, 2), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="not a dict"):
        mixture(LinearVP())(x, t, {"label": torch.zeros(2)})
    with pytest.raises(ValueError, match="labels="):
        labelled(x, t, {"label": torch.zeros(2)})
    with pytest.raises(ValueError, match="labels="):
        Empirical(LinearVP(), normal(4, 2))(x, t, torch.tensor([0, 1]))


def test_a_class_without_images_is_refused():
    labelled = Empirical(LinearVP(), normal(4, 2), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match=r"\[7\].*\[0, 1\]"):
        labelled(normal(2, 2), f64(0.3), torch.tensor([0, 7]))
