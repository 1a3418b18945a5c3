"""Processes: the clock runs both ways, the rates are derivatives, the ends are exact."""

from math import exp, log, pi

import pytest
import torch

from conftest import CONTINUOUS, DISCRETE, NO_SIGNAL, PROCESSES, f64, inside, name, normal
from sfumato.process import (
    Karras,
    LinearVP,
    Process,
    RectifiedFlow,
    SubVP,
    Trigonometric,
    match_dims,
)

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)


@EVERY
def test_time_at_inverts_log_snr(process):
    low, high = [torch.logspace(-7, -2, 200, dtype=torch.float64) for _ in range(2)]
    part = torch.cat([low, torch.linspace(0.01, 0.99, 999, dtype=torch.float64), 1 - high.flip(0)])
    t = part * process.t_max
    torch.testing.assert_close(process.time_at(process.log_snr(t)), t, rtol=1e-9, atol=1e-12)


@EVERY
def test_log_snr_inverts_time_at(process):
    lowest = -2 * log(min(process.largest_ratio, 1e4))
    log_snr = torch.linspace(lowest, 30, 500, dtype=torch.float64)
    back = process.log_snr(process.time_at(log_snr))
    torch.testing.assert_close(back, log_snr, rtol=0, atol=1e-9)


@EVERY
def test_time_at_reaches_the_ends(process):
    assert process.time_at(f64(torch.inf)) == 0
    if process.signal_left == 0:
        assert process.time_at(f64(-torch.inf)) == process.t_max


@pytest.mark.parametrize("process", DISCRETE, ids=name)
def test_time_at_of_a_table_stays_on_the_clock(process):
    assert process.time_at(f64(-1000.0, 1000.0)).tolist() == pytest.approx([1, 0], abs=1e-12)


@EVERY
def test_ratio_is_sigma_over_alpha_and_has_an_inverse(process):
    t = inside(process)
    torch.testing.assert_close(process.ratio(t), process.sigma(t) / process.alpha(t))
    torch.testing.assert_close(process.log_snr(t), -2 * process.ratio(t).log())
    torch.testing.assert_close(process.time_at_ratio(process.ratio(t)), t, rtol=1e-9, atol=1e-12)


@EVERY
def test_largest_ratio_and_signal_left_are_those_of_t_max(process):
    end = f64(process.t_max)
    assert process.largest_ratio == (process.sigma(end) / process.alpha(end)).item()
    assert process.signal_left == process.alpha(end).item()
    assert (process.largest_ratio == torch.inf) == (process in NO_SIGNAL)


@EVERY
def test_rates_are_the_derivatives_by_autograd(process):
    t = inside(process).requires_grad_()
    for scale, rate in zip((process.alpha, process.sigma), process.rates(t)):
        value = scale(t).sum()
        derivative = torch.zeros_like(t)
        if value.requires_grad:  # Karras's alpha is a constant
            (derivative,) = torch.autograd.grad(value, t)
        torch.testing.assert_close(rate.detach(), derivative, rtol=1e-9, atol=1e-12)


@EVERY
def test_rates_are_the_derivatives_by_central_differences(process):
    t, h = inside(process), 1e-6
    for scale, rate in zip((process.alpha, process.sigma), process.rates(t)):
        difference = (scale(t + h) - scale(t - h)) / (2 * h)
        torch.testing.assert_close(rate, difference, rtol=1e-6, atol=1e-8)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_clean_data_is_exactly_clean(process, dtype, shape):
    t = torch.zeros(shape, dtype=dtype)
    alpha, sigma = process.alpha(t), process.sigma(t)
    assert alpha.shape == sigma.shape == shape
    assert alpha.dtype == sigma.dtype == dtype
    assert (alpha == 1).all()
    assert (sigma == 0).all()
    assert (process.log_snr(t) == torch.inf).all()


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_signal_at_the_end_is_exactly_none(process, dtype):
    t = torch.tensor(1.0, dtype=dtype)
    assert process.alpha(t) == 0
    assert process.sigma(t) == 1
    assert process.log_snr(t) == -torch.inf


@EVERY
def test_noise_rises_and_signal_falls(process):
    t = torch.linspace(0, process.t_max, 10_000, dtype=torch.float64)
    assert (process.sigma(t).diff() > 0).all()
    assert (process.log_snr(t).diff() < 0).all()
    if not isinstance(process, Karras):
        assert (process.alpha(t).diff() < 0).all()


@EVERY
def test_float32_is_finite_and_accurate(process):
    t = (torch.linspace(0, 1, 10_002, dtype=torch.float64)[1:-1] * process.t_max).float()
    for function in (process.alpha, process.sigma):
        got = function(t)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), function(t.double()), rtol=2e-6, atol=0)
    log_snr = process.log_snr(t)
    assert torch.isfinite(log_snr).all()
    torch.testing.assert_close(log_snr.double(), process.log_snr(t.double()), rtol=1e-6, atol=1e-6)
    for got, want in zip(process.rates(t), process.rates(t.double())):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-7)
    back = process.time_at(log_snr.double())
    torch.testing.assert_close(back, t.double(), rtol=2e-5, atol=0)


@EVERY
@pytest.mark.parametrize("steps", [10, 1000, 4000])
def test_variances_never_fall_below_zero_in_float32(process, steps):
    t = torch.linspace(0, process.t_max, steps + 1)
    scale, variance = process.transition(t[:-1], t[1:])
    assert torch.isfinite(scale).all()
    assert (variance >= 0).all()
    x = torch.ones(steps, 1)
    posterior = process.posterior(x, x, t[1:], t[:-1])
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.variance >= 0).all()
    assert posterior.variance[0] == 0


@EVERY
def test_a_step_to_clean_data_gives_the_estimate_itself(process):
    x_t, x0 = normal(2, 4, 3)
    for t in (f64(process.t_max), f64(process.t_max / 1000)):
        posterior = process.posterior(x_t, x0, t, f64(0.0))
        torch.testing.assert_close(posterior.mean, x0, rtol=0, atol=1e-14)
        assert (posterior.variance == 0).all()
        scale, variance = process.transition(f64(0.0), t)
        assert scale == process.alpha(t)
        assert variance == process.sigma(t) ** 2


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
def test_the_posterior_from_pure_noise_forgets_it(process):
    x_t, x0 = normal(2, 4, 3)
    s = f64(0.7)
    posterior = process.posterior(x_t, x0, f64(1.0), s)
    torch.testing.assert_close(posterior.mean, process.alpha(s) * x0)
    torch.testing.assert_close(posterior.variance.squeeze(), process.sigma(s) ** 2)
    assert process.transition(s, f64(1.0)) == (0, 1)


@EVERY
def test_two_transitions_make_one(process):
    r, s, t = (f64(part) * process.t_max for part in (0.2, 0.5, 0.9))
    (a, var_a), (b, var_b) = process.transition(r, s), process.transition(s, t)
    scale, variance = process.transition(r, t)
    torch.testing.assert_close(a * b, scale)
    torch.testing.assert_close(b**2 * var_a + var_b, variance)
    noise = process.sigma(t) ** 2 - (scale * process.sigma(r)) ** 2
    torch.testing.assert_close(variance, noise)


@EVERY
def test_the_posterior_leads_back_to_the_marginal(process):
    """x_t ~ q(x_t | x_0), then x_s ~ q(x_s | x_t, x_0), is x_s ~ q(x_s | x_0)."""
    t = inside(process)
    s = t * 0.77
    one, zero = torch.ones(50, 1).double(), torch.zeros(50, 1).double()
    of_x_t, variance = process.posterior(one, zero, t, s)
    of_x0, _ = process.posterior(zero, one, t, s)
    mean = of_x_t[:, 0] * process.alpha(t) + of_x0[:, 0]
    torch.testing.assert_close(mean, process.alpha(s))
    total = (of_x_t[:, 0] * process.sigma(t)) ** 2 + variance[:, 0]
    torch.testing.assert_close(total, process.sigma(s) ** 2)


@EVERY
def test_the_posterior_obeys_bayes(process):
    """The precision is the sum of those of q(x_s | x_0) and q(x_t | x_s)."""
    t, s = f64(0.8) * process.t_max, f64(0.6) * process.t_max
    scale, variance = process.transition(s, t)
    alpha, sigma = process.alpha(s), process.sigma(s)
    x_t, x0 = normal(2, 5, 2)
    precision = scale**2 / variance + 1 / sigma**2
    mean = (scale / variance * x_t + alpha / sigma**2 * x0) / precision
    got = process.posterior(x_t, x0, t, s)
    torch.testing.assert_close(got.mean, mean)
    torch.testing.assert_close(got.variance.squeeze(), 1 / precision)


@EVERY
def test_diffuse_broadcasts_one_time_or_one_each(process):
    x0, eps = normal(2, 3, 2, 4, 5)
    t = inside(process, 3)
    got = process.diffuse(x0, t, eps)
    for i in range(3):
        want = process.alpha(t[i]) * x0[i] + process.sigma(t[i]) * eps[i]
        torch.testing.assert_close(got[i], want)
        torch.testing.assert_close(process.diffuse(x0, t[i], eps)[i], want)
    assert process.diffuse(x0.float(), t, eps.float()).dtype == torch.float32


@pytest.mark.parametrize("process", [LinearVP(), SubVP()], ids=name)
def test_vp_and_sub_vp_are_the_integrals_of_beta(process):
    """Y. Song et al. (2021), eq. 29: sigma^2 is 1 - exp(-B), and for sub-VP its square."""
    t = inside(process, 20)
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None] * t
    integral = torch.trapezoid(0.1 + 19.9 * grid, grid, dim=0)
    alpha = torch.exp(-integral / 2)
    torch.testing.assert_close(process.alpha(t), alpha)
    noise = 1 - torch.exp(-integral)
    want = noise.sqrt() if isinstance(process, LinearVP) else noise
    torch.testing.assert_close(process.sigma(t), want)


@pytest.mark.parametrize("kind", [LinearVP, SubVP], ids=name)
def test_the_range_of_beta_is_free(kind):
    process = kind(beta_min=0.3, beta_max=5.0)
    assert process.signal_left == pytest.approx(exp(-2.65 / 2), rel=1e-12)
    t = inside(process)
    torch.testing.assert_close(process.time_at(process.log_snr(t)), t)


def test_the_simple_processes_literally():
    t = inside(RectifiedFlow())
    zeros, ones = torch.zeros_like(t), torch.ones_like(t)
    assert torch.equal(RectifiedFlow().alpha(t), 1 - t)
    assert torch.equal(RectifiedFlow().sigma(t), t)
    assert all(torch.equal(a, b) for a, b in zip(RectifiedFlow().rates(t), (-ones, ones)))
    assert torch.equal(Karras().alpha(t), ones)
    assert torch.equal(Karras().sigma(t), t)
    assert all(torch.equal(a, b) for a, b in zip(Karras().rates(t), (zeros, ones)))
    torch.testing.assert_close(Trigonometric().alpha(t), torch.cos(pi / 2 * t))
    torch.testing.assert_close(Trigonometric().sigma(t), torch.sin(pi / 2 * t))


def test_ends_of_the_clocks():
    assert Karras().t_max == 80.0
    assert Karras(t_max=10.0).largest_ratio == 10.0
    assert all(p.t_max == 1.0 for p in [*CONTINUOUS, *DISCRETE] if not isinstance(p, Karras))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8])
def test_half_precision_and_integers_are_refused(dtype):
    with pytest.raises(ValueError, match=r"float32 or wider.*precision=torch\.bfloat16"):
        match_dims(f64(1.0), torch.ones(2, 3, dtype=dtype))


def test_match_dims_appends_axes_and_takes_the_dtype():
    got = match_dims(f64(1.0, 2.0), torch.ones(2, 3, 4, 4))
    assert got.shape == (2, 1, 1, 1)
    assert got.dtype == torch.float32
    assert match_dims(f64(1.0), torch.ones(2, 3)).shape == (1, 1)


def test_a_process_of_ones_own_needs_four_methods():
    with pytest.raises(TypeError, match="abstract"):
        Process()  # type: ignore[abstract]
