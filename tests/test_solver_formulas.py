"""Solvers against the formulas of their papers, written out line by line."""

from math import exp, sqrt

import pytest
import torch

from conftest import DISCRETE, PROCESSES, Draws, f64, mixture, name, normal, one_step, snr_times
from sfumato.grids import karras_times
from sfumato.prediction import Prediction
from sfumato.process import Karras, LinearVP, RectifiedFlow, SubVP
from sfumato.sampling import sample
from sfumato.solvers import DDIM, Ancestral, Churn, DPMSolverPP2M, EulerMaruyama, Heun

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)
TABLED = pytest.mark.parametrize("process", DISCRETE, ids=name)


class Mixed:
    """A denoiser that says where the variance lies."""

    def __init__(self, denoiser, mix):
        self.denoiser, self.process, self.mix = denoiser, denoiser.process, mix

    def __call__(self, x, t, cond=None):
        p = self.denoiser(x, t, cond)
        return Prediction(p.x_t, p.x0, p.t, p.process, self.mix)


@pytest.mark.parametrize("scale", [1.0, 1.007])
@pytest.mark.parametrize("churn", [0.0, 0.2, 40 / 18])
def test_heun_is_algorithm_2_of_edm(churn, scale):
    """Karras et al. (2022), algorithm 2, line by line; algorithm 1 where S_churn is 0."""
    denoiser, grid, low, high = mixture(Karras()), karras_times(Karras(), 18), 0.05, 50.0
    x, draws = 80 * normal(16, 2), Draws()
    solver = Churn(Heun(), churn, low, high, scale) if churn else Heun()
    got = sample(denoiser, x, grid, solver, randn_like=draws)
    again = Draws()
    for i in range(18):
        t = grid[i]
        gamma = min(churn, sqrt(2) - 1) if low <= t <= high else 0.0
        t_hat, x_hat = t, x
        if gamma > 0:
            t_hat = t + gamma * t
            x_hat = x + (t_hat**2 - t**2).sqrt() * scale * again(x)
        d = (x_hat - denoiser(x_hat, t_hat).x0) / t_hat
        x = x_hat + (grid[i + 1] - t_hat) * d
        if grid[i + 1] != 0:
            d_next = (x - denoiser(x, grid[i + 1]).x0) / grid[i + 1]
            x = x_hat + (grid[i + 1] - t_hat) * (0.5 * d + 0.5 * d_next)
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)
    assert draws.count == again.count == (0 if churn == 0 else 13)


@EVERY
def test_dpm_solver_is_algorithm_2_of_the_paper(process):
    """Lu et al. (2022), DPM-Solver++(2M), line by line, lambda = log(alpha / sigma)."""
    denoiser, times = mixture(process), snr_times(process, 18)[[0, 1, 3, 6, 7, 8, 12, 13, 17, 18]]
    start = process.sigma(times[0]) * normal(16, 2)
    alpha, sigma = process.alpha(times), process.sigma(times)
    lam = torch.log(alpha / sigma)
    buffer = [denoiser(start, times[0]).x0]
    h = [lam[i + 1] - lam[i] for i in range(9)]
    x = sigma[1] / sigma[0] * start - alpha[1] * (exp(-h[0]) - 1) * buffer[0]
    for i in range(2, 10):
        buffer.append(denoiser(x, times[i - 1]).x0)
        r = h[i - 2] / h[i - 1]
        d = (1 + 1 / (2 * r)) * buffer[i - 1] - 1 / (2 * r) * buffer[i - 2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (exp(-h[i - 1]) - 1) * d
    got = sample(denoiser, start, times, DPMSolverPP2M())
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-10)


def vp_sde(t):
    beta = 0.1 + 19.9 * t
    return -beta / 2, beta


def sub_vp_sde(t):
    beta = 0.1 + 19.9 * t
    return -beta / 2, beta * (1 - exp(-2 * (0.1 * t + 19.9 * t**2 / 2)))


SDES = [
    (LinearVP(), vp_sde),
    (SubVP(), sub_vp_sde),
    (Karras(), lambda t: (0.0, 2 * t)),
    (RectifiedFlow(), lambda t: (-1 / (1 - t), 2 * t / (1 - t))),
]


@pytest.mark.parametrize(("process", "sde"), SDES, ids=name)
def test_euler_maruyama_is_the_reverse_sde(process, sde):
    """Y. Song et al. (2021), eq. 6: x + (f x - g^2 score) (s - t) + g sqrt(t - s) z."""
    denoiser, x = mixture(process), 2 * normal(8, 2)
    for t, s in ((0.9, 0.85), (0.3, 0.2), (0.1, 0.0)):
        t, s = t * process.t_max, s * process.t_max
        f, g_squared = sde(t)
        score = denoiser(x, f64(t)).score
        want = x + (f * x - g_squared * score) * (s - t)
        if s > 0:
            want = want + sqrt(g_squared * (t - s)) * Draws()(x)
        got = one_step(EulerMaruyama(), denoiser, x, f64(t), f64(s), Draws())
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@TABLED
@pytest.mark.parametrize("mix", [0.0, 1.0, 0.3, None])
def test_ancestral_sampling_is_algorithm_2_of_ddpm(process, mix):
    """Ho et al. (2020): 1 / sqrt(alpha_t) (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) + sigma_t z.

    sigma_t^2 is beta tilde at mix 0, beta at 1, and between them as in Nichol and Dhariwal (2021),
    eq. 15: exp(v log beta + (1 - v) log beta tilde).
    """
    betas, x = process.betas(), normal(8, 2)
    bars = torch.cumprod(1 - betas, 0)
    for i in (1, 2, 10, 500, 998):  # 0-based, as code counts
        t, s = process.times_of(torch.tensor([i, i - 1]))
        v = torch.rand(8, 2, dtype=torch.float64) if mix is None else mix
        denoiser = Mixed(mixture(process), v) if mix is None else mixture(process)
        eps = denoiser(x, t).eps
        mean = (x - betas[i] / (1 - bars[i]).sqrt() * eps) / (1 - betas[i]).sqrt()
        tilde = (1 - bars[i - 1]) / (1 - bars[i]) * betas[i]
        variance = torch.exp(v * betas[i].log() + (1 - v) * tilde.log())
        want = mean + variance.sqrt() * Draws()(x)
        got = one_step(Ancestral(mix), denoiser, x, t, s, Draws())
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


@TABLED
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12_of_the_paper(process, eta):
    """J. Song et al. (2021), with their alpha, which is DDPM's alpha_bar."""
    a, x = torch.cumprod(1 - process.betas(), 0), normal(8, 2)
    for now, then in ((998, 900), (500, 499), (40, 0)):
        t, s = process.times_of(torch.tensor([now, then]))
        eps = mixture(process)(x, t).eps
        noise = eta * ((1 - a[then]) / (1 - a[now]) * (1 - a[now] / a[then])).sqrt()
        x0 = (x - (1 - a[now]).sqrt() * eps) / a[now].sqrt()
        want = a[then].sqrt() * x0 + (1 - a[then] - noise**2).sqrt() * eps + noise * Draws()(x)
        got = one_step(DDIM(eta), mixture(process), x, t, s, Draws())
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
