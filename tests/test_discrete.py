"""Tables of betas: DDPM's formulas to the letter, any T, and the warning of the T = 300 trap."""

import warnings
from math import cos, pi, sqrt

import pytest
import torch

from conftest import DISCRETE, f64, name, normal, quietly
from sfumato.discrete import (
    CosineBetas,
    LinearBetas,
    ScaledLinearBetas,
    SigmoidBetas,
    SignalLeftWarning,
)
from sfumato.process import LinearVP

EVERY = pytest.mark.parametrize("process", DISCRETE, ids=name)
KINDS = [LinearBetas, ScaledLinearBetas, SigmoidBetas, CosineBetas]
LENGTHS = [1, 2, 3, 4, 7, 10, 25, 50, 99, 100, 200, 300, 500, 999, 1000, 1001, 2000, 4000]


def alpha_bars(process):
    """alpha_bar_1 to alpha_bar_T by the definition, from the betas alone."""
    return torch.cumprod(1 - process.betas(), 0)


# oracles.md, table 4.3: sum of betas, alpha_bar at indices 1, 250, 500, 750, 999, sum of alpha_bar
TABLE = {
    "linear": (10.05, 0.9997801, 0.521423, 0.07779665, 0.003300159, 4.03583e-05, 275.5132),
    "scaled": (5.3489925, 0.998296, 0.6737923, 0.2763325, 0.0561698, 0.004660095, 373.37647),
    "cosine": (12.441496, 0.9999126, 0.845888, 0.492285, 0.1431787, 2.428735e-09, 495.57748),
    "sigmoid": (10.05, 0.999701, 0.902799, 0.2988876, 0.00562292, 3.968182e-05, 428.53675),
    "linear-0": (18.672217, 0.9997793, 0.5188605, 0.0752462, 0.002644106, 0.0, 274.05803),
    "scaled-0": (14.904518, 0.9982335, 0.6524568, 0.2410186, 0.03279908, 0.0, 352.17922),
}
TABLED = {
    "linear": LinearBetas,
    "scaled": lambda: quietly(ScaledLinearBetas),
    "cosine": CosineBetas,
    "sigmoid": SigmoidBetas,
    "linear-0": lambda: LinearBetas(zero_terminal_snr=True),
    "scaled-0": lambda: ScaledLinearBetas(zero_terminal_snr=True),
}


@pytest.mark.parametrize("kind", TABLE)
def test_the_tables_are_those_of_diffusers(kind):
    process = TABLED[kind]()
    bars = process.log_alpha_bar.exp()[1:]
    got = [process.betas().sum(), *bars[[1, 250, 500, 750, 999]], bars.sum()]
    # The table was made in float32, whose cumulative product drifts by a few parts in 10^6.
    torch.testing.assert_close(torch.stack(got), f64(*TABLE[kind]), rtol=5e-6, atol=1e-12)


# source-notes.md, 002: T, alpha_bar_T, its root, for the betas 1e-4..0.02 as they are
UNSCALED = [(100, 0.364, 0.603), (200, 0.132, 0.364), (300, 0.0481, 0.219), (500, 0.00635, 0.080)]


@pytest.mark.parametrize(("steps", "alpha_bar", "root"), UNSCALED)
def test_few_unscaled_steps_leave_the_image_and_warn(steps, alpha_bar, root):
    with pytest.warns(SignalLeftWarning, match="zero_terminal_snr=True.*PredictV") as caught:
        process = LinearBetas(steps, rescaled=False)
    assert f"LinearBetas: {process.signal_left:.1%} of" in str(caught[0].message)
    assert f"{alpha_bars(process)[-1].item():.3g}" == f"{alpha_bar:g}"
    assert process.signal_left == pytest.approx(root, abs=5e-4)


def test_a_thousand_steps_or_rescaled_ones_do_not_warn():
    plain, rescaled = LinearBetas(1000, rescaled=False), LinearBetas(300)
    assert alpha_bars(plain)[-1].item() == pytest.approx(4.04e-5, abs=5e-8)
    assert alpha_bars(rescaled)[-1].item() == pytest.approx(3.4e-5, abs=5e-7)
    assert rescaled.signal_left == pytest.approx(0.0059, abs=5e-5)
    assert torch.equal(plain.betas(), LinearBetas(1000).betas())


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_any_number_of_steps_warns_only_above_two_percent(kind, steps):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        process = kind(steps)
    root = alpha_bars(process)[-1].sqrt().item()
    assert [w.category for w in caught] == [SignalLeftWarning] * (root > 0.02)
    betas = process.betas()
    assert betas.shape == (steps,)
    assert betas.dtype == torch.float64
    assert ((betas > 0) & (betas <= 0.999)).all()
    torch.testing.assert_close(process.log_alpha_bar.diff().exp(), 1 - betas)


def test_the_warning_names_the_line_that_made_the_process():
    with pytest.warns(SignalLeftWarning) as caught:
        LinearBetas(300, rescaled=False)
    assert caught[0].filename == __file__


@EVERY
def test_the_grid_points_are_the_roots_of_alpha_bar(process):
    i = torch.arange(process.steps + 1)
    bars = torch.cat([f64(1.0)[None], alpha_bars(process)])
    t = i.double() / process.steps
    torch.testing.assert_close(process.alpha(t), bars.sqrt(), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(process.sigma(t), (1 - bars).sqrt(), rtol=1e-10, atol=1e-14)


@EVERY
def test_between_the_points_the_turn_is_even(process):
    t = (torch.arange(process.steps).double() + 0.31) / process.steps
    alpha, sigma, alpha_rate, sigma_rate = process.alpha(t), process.sigma(t), *process.rates(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    torch.testing.assert_close(alpha * alpha_rate + sigma * sigma_rate, torch.zeros_like(t))
    angle = torch.atan2(process.sigma(t), process.alpha(t))
    bars = torch.cat([f64(1.0)[None], alpha_bars(process)])
    angles = torch.atan2((1 - bars).sqrt(), bars.sqrt())
    torch.testing.assert_close(angle, angles[:-1] + 0.31 * angles.diff(), rtol=1e-9, atol=0)
    speed = angles.diff() * process.steps
    torch.testing.assert_close(torch.hypot(alpha_rate, sigma_rate), speed, rtol=1e-7, atol=0)


@EVERY
def test_posterior_beta_and_beta_tilde_are_the_papers(process):
    """Ho et al. (2020), eqs. 6 and 7, for every step at once."""
    betas, bars = process.betas(), alpha_bars(process)
    before = torch.cat([f64(1.0)[None], bars[:-1]])
    t = torch.arange(1, process.steps + 1).double() / process.steps
    s = t - 1 / process.steps
    scale, variance = process.transition(s, t)
    torch.testing.assert_close(variance, betas, rtol=1e-7, atol=0)
    torch.testing.assert_close(scale, (1 - betas).sqrt(), rtol=1e-7, atol=1e-12)
    x_t, x0 = normal(2, process.steps, 3)
    of_x0 = before.sqrt() * betas / (1 - bars)
    of_x_t = (1 - betas).sqrt() * (1 - before) / (1 - bars)
    posterior = process.posterior(x_t, x0, t, s)
    mean = of_x0[:, None] * x0 + of_x_t[:, None] * x_t
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-7, atol=1e-9)
    beta_tilde = (1 - before) / (1 - bars) * betas
    torch.testing.assert_close(posterior.variance[:, 0], beta_tilde, rtol=1e-7, atol=1e-18)


@pytest.mark.parametrize("kind", [LinearBetas, ScaledLinearBetas, SigmoidBetas, CosineBetas])
@pytest.mark.parametrize("steps", [2, 10, 1000])
def test_zero_terminal_snr_is_algorithm_1(kind, steps):
    """Lin et al. (2024), algorithm 1, line by line."""
    roots = alpha_bars(quietly(lambda: kind(steps))).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    roots = roots - last
    roots = roots * (first / (first - last))
    bars = roots**2
    alphas = torch.cat([bars[:1], bars[1:] / bars[:-1]])
    process = kind(steps, zero_terminal_snr=True)
    torch.testing.assert_close(process.betas(), 1 - alphas, rtol=1e-9, atol=1e-12)
    assert process.betas()[-1] == 1
    assert process.signal_left == 0
    assert process.largest_ratio == torch.inf
    assert process.betas()[0].item() == pytest.approx(1 - first.item() ** 2, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_to_zero_signal_is_a_beta_of_one(kind):
    process = kind(1, zero_terminal_snr=True)
    assert process.betas().tolist() == [1.0]
    assert process.signal_left == 0


def test_cosine_betas_literally():
    """Nichol and Dhariwal (2021), eq. 17."""
    for steps in (50, 1000):
        f = [cos((i / steps + 0.008) / 1.008 * pi / 2) ** 2 for i in range(steps + 1)]
        bars = [value / f[0] for value in f]
        want = [min(1 - bars[i + 1] / bars[i], 0.999) for i in range(steps)]
        torch.testing.assert_close(CosineBetas(steps).betas(), f64(*want), rtol=1e-9, atol=0)
    assert CosineBetas().betas()[-1] == 0.999
    assert CosineBetas(max_beta=0.5).betas().max() == 0.5


@pytest.mark.parametrize("steps", [1000, 250])
def test_linear_scaled_linear_and_sigmoid_betas_literally(steps):
    part = [i / (steps - 1) for i in range(steps)]
    longer = 1000 / steps
    linear = f64(*[longer * (1e-4 + p * (0.02 - 1e-4)) for p in part])
    low, high = sqrt(0.00085), sqrt(0.012)
    scaled = f64(*[longer * (low + p * (high - low)) ** 2 for p in part])
    rise = torch.sigmoid(f64(*[-6 + 12 * p for p in part]))
    sigmoid = longer * (rise * (0.02 - 1e-4) + 1e-4)
    torch.testing.assert_close(LinearBetas(steps).betas(), linear)
    torch.testing.assert_close(quietly(lambda: ScaledLinearBetas(steps)).betas(), scaled)
    torch.testing.assert_close(SigmoidBetas(steps).betas(), sigmoid)


def test_rescaled_betas_are_capped():
    betas = LinearBetas(10).betas()
    assert betas.max() == 0.999
    assert betas[0].item() == pytest.approx(0.01)


def test_many_steps_tend_to_the_continuous_process():
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    gaps = [
        (LinearBetas(steps).log_snr(t) - LinearVP(0.1, 20).log_snr(t)).abs().max()
        for steps in (1000, 4000)
    ]
    assert gaps[0] < 0.12
    assert gaps[1] / gaps[0] == pytest.approx(0.25, abs=0.02)


def test_times_of_indices_that_count_from_zero():
    process = LinearBetas(1000)
    got = process.times_of(torch.tensor([0, 499, 999]))
    assert got.dtype == torch.float64
    assert got.tolist() == [0.001, 0.5, 1.0]
    bars = alpha_bars(process)[[0, 499, 999]]
    torch.testing.assert_close(process.alpha(got) ** 2, bars)


def test_step_indices_are_not_times():
    with pytest.raises(ValueError, match=r"torch\.int64.*times_of"):
        LinearBetas().alpha(torch.tensor(500))


def test_betas_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"\[0.0001, 2\].*\(0, 1\]"):
        LinearBetas(beta_end=2.0)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        LinearBetas(beta_start=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_steps_are_refused(kind):
    with pytest.raises(ValueError, match=r"steps = 0.*at least 1"):
        kind(0)


def test_processes_are_values():
    assert LinearBetas(500) == LinearBetas(500)
    assert hash(LinearBetas(500)) == hash(LinearBetas(500))
    assert LinearBetas(500) != LinearBetas(501)
