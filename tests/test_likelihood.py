"""Likelihoods against the densities of mixtures, and estimates of a trace against the trace."""

from itertools import product
from math import log, pi

import pytest
import torch

from conftest import MEANS, PROCESSES, f64, mixture, name, noisy_mixture, normal
from sfumato.exact import GaussianMixture
from sfumato.likelihood import bits_per_dim, exact_divergence, hutchinson, log_likelihood
from sfumato.process import Karras, LinearVP, RectifiedFlow

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)


def upward(process, steps, low=0.02):
    """Times from little noise to t_max, evenly spaced in log(ratio) but for the last few."""
    high = min(process.largest_ratio, 40.0)
    ratio = torch.logspace(f64(low).log10(), f64(high).log10(), steps + 1, dtype=torch.float64)
    times = process.time_at_ratio(ratio)
    rest = torch.linspace(times[-1], process.t_max, 9, dtype=torch.float64)[1:]
    return torch.cat([times, rest]) if times[-1] < process.t_max * (1 - 1e-9) else times


@EVERY
def test_log_likelihood_is_the_density_at_the_first_time(process):
    times = upward(process, 120)
    x = process.alpha(times[0]) * mixture(process).sample(16, torch.Generator().manual_seed(1))
    got = log_likelihood(mixture(process), x, times, exact_divergence)
    want = noisy_mixture(process, times[0]).log_prob(x)
    assert got.shape == (16,)
    # The prior knows nothing of what is left of the image at t_max.
    atol = 0.01 + 3 / process.largest_ratio
    torch.testing.assert_close(got, want, rtol=0, atol=atol)


@pytest.mark.parametrize("process", [RectifiedFlow(), LinearVP()], ids=name)
def test_log_likelihood_tends_to_the_density_of_clean_images(process):
    x = mixture(process).sample(16, torch.Generator().manual_seed(1))
    times = upward(process, 250, low=1e-4)
    got = log_likelihood(mixture(process), x, times, exact_divergence)
    atol = 0.005 + 1 / process.largest_ratio
    torch.testing.assert_close(got, mixture(process).log_prob(x), rtol=0, atol=atol)


def test_log_likelihood_is_of_second_order():
    process = RectifiedFlow()
    x = normal(16, 2)
    errors = []
    for steps in (50, 100):
        times = torch.linspace(0.05, 1, steps + 1, dtype=torch.float64)
        want = noisy_mixture(process, times[0]).log_prob(x)
        got = log_likelihood(mixture(process), x, times, exact_divergence)
        errors.append((got - want).abs().mean().item())
    assert log(errors[0] / errors[1], 2) == pytest.approx(2, abs=0.2)


def test_log_likelihood_of_a_class():
    process = RectifiedFlow()
    cond = torch.tensor([0, 1, 2, 2])
    x, times = MEANS[cond] + 0.3 * normal(4, 2), upward(process, 120)
    got = log_likelihood(mixture(process), x, times, exact_divergence, cond)
    alpha, sigma = process.alpha(times[0]), process.sigma(times[0])
    variance = (alpha * 0.3) ** 2 + sigma**2
    squared = (x - alpha * MEANS[cond]).square().sum(1)
    want = -squared / (2 * variance) - torch.log(2 * pi * variance)
    torch.testing.assert_close(got, want, rtol=0, atol=0.02)
    assert (got > log_likelihood(mixture(process), x, times, exact_divergence)).all()


def test_log_likelihood_of_images_keeps_no_gradients():
    process, data = RectifiedFlow(), normal(3, 2, 2, 2)
    denoiser = GaussianMixture(process, data, 0.5)
    times = upward(process, 10)
    flat = GaussianMixture(process, data.flatten(1), 0.5)
    got = log_likelihood(denoiser, data, times, exact_divergence)
    want = log_likelihood(flat, data.flatten(1), times, exact_divergence)
    torch.testing.assert_close(got, want)
    assert not got.requires_grad
    low = log_likelihood(denoiser, data.float(), times, exact_divergence)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), got, rtol=1e-4, atol=1e-3)


def wave(x):
    """A field with a full Jacobian, (B, 3)."""
    matrix = f64(*range(9)).reshape(3, 3) / 5
    return torch.sin(x @ matrix) * x.roll(1, dims=1)


def test_exact_divergence_is_the_trace_of_the_jacobian():
    x = normal(4, 3)
    value, trace = exact_divergence(wave, x)
    assert torch.equal(value, wave(x))
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda x: wave(x[None])[0], x[i])
        torch.testing.assert_close(trace[i], jacobian.trace())


def all_signs(n, d):
    return [f64(*signs).expand(n, d) for signs in product((-1.0, 1.0), repeat=d)]


def test_the_mean_over_all_sign_vectors_is_the_exact_trace():
    x = normal(4, 3)
    estimates = [hutchinson(probe)(wave, x) for probe in all_signs(4, 3)]
    assert all(torch.equal(value, wave(x)) for value, _ in estimates)
    mean = torch.stack([trace for _, trace in estimates]).mean(0)
    torch.testing.assert_close(mean, exact_divergence(wave, x)[1])
    assert (estimates[0][1] - estimates[1][1]).abs().min() > 1e-3


def test_the_estimated_likelihood_is_right_on_average():
    process = RectifiedFlow()
    x, times = normal(4, 2), upward(process, 12)
    exact = log_likelihood(mixture(process), x, times, exact_divergence)
    estimates = [
        log_likelihood(mixture(process), x, times, hutchinson(probe)) for probe in all_signs(4, 2)
    ]
    torch.testing.assert_close(torch.stack(estimates).mean(0), exact)


@pytest.mark.parametrize("divergence", [exact_divergence, hutchinson(torch.ones(2, 3).double())])
def test_divergences_leave_no_graph_behind(divergence):
    x = normal(2, 3)
    with torch.no_grad():
        value, trace = divergence(wave, x)
    assert not value.requires_grad
    assert not trace.requires_grad
    assert not x.requires_grad


@pytest.mark.parametrize(
    "times", [[0.0, 0.5, 1.0], [1.0, 0.5, 0.1], [0.1, 0.5, 0.5, 1.0], [0.1], [-0.1, 1.0]]
)
def test_times_that_do_not_rise_from_above_zero_are_refused(times):
    with pytest.raises(ValueError, match="must increase from above 0"):
        log_likelihood(
            mixture(RectifiedFlow()), normal(2, 2), torch.tensor(times), exact_divergence
        )


def test_bits_per_dim_of_uniform_noise_over_all_levels_is_eight():
    width, d = 256 * 2 / 255, 3 * 4 * 4
    nats = f64(-d * log(width), -d * log(width / 2))
    got = bits_per_dim(nats, (3, 4, 4))
    torch.testing.assert_close(got, f64(8.0, 7.0))


def test_bits_per_dim_of_one_level_is_nothing():
    nats = f64(-10 * log(2 / 255))
    torch.testing.assert_close(bits_per_dim(nats, (10,)), f64(0.0), rtol=0, atol=1e-12)
    assert bits_per_dim(f64(-10 * log(1 / 16)), (10,), bin_width=1 / 16) == pytest.approx(0)


def test_karras_ends_at_its_own_noise():
    """The prior is N(0, t_max^2): a wide component at 0 is then exact."""
    process = Karras(t_max=40.0)
    denoiser = GaussianMixture(process, torch.zeros(1, 2).double(), 1.0)
    times = torch.logspace(-2, f64(40.0).log10(), 200, dtype=torch.float64)
    x = normal(8, 2)
    got = log_likelihood(denoiser, x, times, exact_divergence)
    want = -(x.square().sum(1) / 2) - log(2 * pi)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-3)
