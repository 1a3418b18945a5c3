"""Multistep solvers and DPM-Solver-2 against the formulas of their papers, written out."""

from decimal import Decimal, localcontext
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
import torch

from conftest import PROCESSES, Draws, f64, mixture, name, normal, one_step, snr_times
from sfumato.multistep import DEIS, IPNDM, LMS, DPMSolverPP, TimeDEIS, UniPC, integrals
from sfumato.prediction import Prediction
from sfumato.process import Karras, LinearVP, RectifiedFlow, Trigonometric
from sfumato.sampling import sample
from sfumato.singlestep import DPMSolver2
from sfumato.solvers import Step

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)
UNEVEN = [0, 1, 3, 6, 7, 8, 12, 13, 17, 18]


def uneven(process):
    """Ten times, lambda = log(alpha / sigma), alpha and sigma there, and an x to start from."""
    times = snr_times(process, 18)[UNEVEN]
    alpha, sigma = process.alpha(times), process.sigma(times)
    return times, torch.log(alpha / sigma), alpha, sigma, sigma[0] * normal(8, 2)


# ---- what is exact for polynomials


class Scripted:
    """A denoiser that ignores x: its x0 or its eps is a function of time."""

    def __init__(self, process, x0=None, eps=None):
        self.process, self.x0, self.eps = process, x0, eps

    def __call__(self, x, t, cond=None):
        if self.x0 is not None:
            return Prediction(x, self.x0(t) * torch.ones_like(x), t, self.process)
        eps = self.eps(t) * torch.ones_like(x)
        x0 = (x - self.process.sigma(t) * eps) / self.process.alpha(t)
        return Prediction(x, x0, t, self.process)


def integral(f, against, t, s):
    """Of f d(against) from time t to time s, by the trapezoid rule on many points."""
    times = torch.linspace(t, s, 200_001, dtype=torch.float64)
    return torch.trapezoid(f(times), against(times))


def polynomial(degree):
    return lambda u: sum((k + 1) * (u - 0.3) ** k for k in range(degree + 1))


CLOCKS = {
    DEIS: lambda process, t: -process.log_snr(t) / 2,
    TimeDEIS: lambda process, t: t,
    LMS: lambda process, t: process.ratio(t),
}


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow(), Trigonometric()], ids=name)
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("kind", CLOCKS)
def test_a_polynomial_eps_is_integrated_exactly(process, kind, order):
    """Of order n: degree n - 1 in the clock. x / alpha moves by the integral of eps d(ratio)."""
    solver, clock = kind(order), CLOCKS[kind]
    times, f = f64(0.8, 0.77, 0.7, 0.66, 0.6), polynomial(order - 1)

    def eps(t):
        return f(clock(process, t))

    denoiser, x, memory = Scripted(process, eps=eps), normal(3, 2), None
    for t, s in pairwise(times):
        moved = integral(eps, process.ratio, t, s)
        want = process.alpha(s) * (x / process.alpha(t) + moved)
        got = solver(step_of(denoiser, x, t, s, memory))
        x, memory = want, got[1]
    torch.testing.assert_close(got[0], want, rtol=1e-8, atol=1e-8)


def step_of(denoiser, x, t, s, memory):
    return Step(denoiser, denoiser.process, x, t, s, memory, torch.zeros_like)


@pytest.mark.parametrize("bh1", [False, True])
@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()], ids=name)
def test_unipc_of_order_3_integrates_a_quadratic_x0_exactly(process, bh1):
    """x / sigma moves by the integral of x0 d(alpha / sigma); what is exact stays as it is."""
    times, f = f64(0.8, 0.77, 0.7, 0.66, 0.6), polynomial(2)

    def x0(t):
        return f(process.log_snr(t) / 2)

    denoiser, x, memory = Scripted(process, x0=x0), normal(3, 2), None
    for i, (t, s) in enumerate(pairwise(times)):
        moved = integral(x0, lambda t: process.alpha(t) / process.sigma(t), t, s)
        want = process.sigma(s) * (x / process.sigma(t) + moved)
        step = step_of(denoiser, x, t, s, memory)
        got = UniPC(3, bh1)(step)
        x, memory = want, got[1] if i > 1 else got[1]._replace(s=None)
    torch.testing.assert_close(got[1].x, step.x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(got[0], want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("h", [1e-4, 0.1, 3.0, 20.0])
def test_integrals_are_those_by_parts(h):
    """Of z^k h e^(h (z - 1)): m_0 = 1 - e^-h, m_k = 1 - k m_(k - 1) / h."""
    with localcontext(prec=60):
        exact = [1 - (-Decimal(h)).exp()]
        for k in (1, 2, 3):
            exact.append(1 - k * exact[-1] / Decimal(h))
    ours = integrals(lambda z: h * torch.exp(h * (z - 1)), 3)
    np.testing.assert_allclose(ours, [float(m) for m in exact[1:]], rtol=1e-12)


# ---- line by line


@EVERY
def test_dpm_solver_of_order_3_is_that_of_its_authors_code(process):
    """lambda = log(alpha / sigma), h its steps, r0 and r1 their ratios, D1 and D2 differences."""
    times, lam, alpha, sigma, x = uneven(process)
    start, denoiser, seen = x, mixture(process), []
    for i in range(9):
        seen.append(denoiser(x, times[i]).x0)
        h = lam[i + 1] - lam[i]
        phi_1 = torch.expm1(-h)
        phi_2, phi_3 = phi_1 / h + 1, (phi_1 + h) / h**2 - 0.5
        now = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * phi_1 * seen[i]
        if i == 1:
            r0 = (lam[i] - lam[i - 1]) / h
            now = now - 0.5 * alpha[i + 1] * phi_1 * (seen[i] - seen[i - 1]) / r0
        if i > 1:
            r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
            d_0, d_1 = (seen[i] - seen[i - 1]) / r0, (seen[i - 1] - seen[i - 2]) / r1
            d1, d2 = d_0 + r0 / (r0 + r1) * (d_0 - d_1), (d_0 - d_1) / (r0 + r1)
            now = now + alpha[i + 1] * (phi_2 * d1 - phi_3 * d2)
        x = now
    got = sample(denoiser, start, times, DPMSolverPP(3))
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_sde_of_order_2_is_that_of_k_diffusion(eta):
    """On EDM's clock, where t = -log(sigma): `dpmpp_2m_sde`, midpoint."""
    times, lam, _, sigma, x = uneven(Karras())
    start, denoiser, draws, before = x, mixture(Karras()), Draws(), None
    for i in range(9):
        x0, h = denoiser(x, times[i]).x0, lam[i + 1] - lam[i]
        down = h * (1 + eta)
        x = sigma[i + 1] / sigma[i] * torch.exp(-h * eta) * x - torch.expm1(-down) * x0
        if before is not None:
            r = (lam[i] - lam[i - 1]) / h
            x = x - 0.5 * torch.expm1(-down) / r * (x0 - before)
        if eta:
            x = x + draws(x) * sigma[i + 1] * torch.sqrt(-torch.expm1(-2 * eta * h))
        before = x0
    got = sample(denoiser, start, times, DPMSolverPP(2, eta), randn_like=Draws())
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


@EVERY
@pytest.mark.parametrize("bh1", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_is_algorithms_1_and_2_of_the_paper(process, order, bh1):
    """Zhao et al. (2023), of x0, with phi_k(-h): sum_m a_m r_m^(k - 1) = h^k phi_(k+1) k! / B.

    From memory: UniP-2 and UniC-1 have a = 1/2 instead.
    """
    times, lam, alpha, sigma, x = uneven(process)
    start, denoiser, seen = x, mixture(process), []
    last, used = None, 0

    def update(i, x, nodes):
        h = -(lam[i + 1] - lam[i])
        phi = [torch.expm1(h)]
        for k in range(1, 4):  # h phi_(k+1) = phi_k - 1 / k!
            phi.append(phi[-1] / h - 1 / np.prod(range(1, k + 1)))
        b = h if bh1 else phi[0]
        r = torch.stack([(lam[j] - lam[i]) / -h for j in nodes]) if nodes else f64(0.0)[None]
        a = f64(0.5)[None]
        if len(nodes) > 1:
            right = [phi[k] * np.prod(range(1, k + 1)) / b for k in range(1, len(nodes) + 1)]
            matrix = torch.stack([r ** (k - 1) for k in range(1, len(nodes) + 1)])
            a = torch.linalg.solve(matrix, torch.stack(right))
        moved = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * phi[0] * seen[i]
        for a_m, r_m, j in zip(a, r, nodes):
            moved = moved - alpha[i + 1] * b * a_m * (seen[j] - seen[i]) / r_m
        return moved

    for i in range(9):
        seen.append(denoiser(x, times[i]).x0)
        if last is not None:
            x = update(i - 1, last, [*range(i - 2, i - 1 - used, -1), i])
        last, used = x, min(order, i + 1)
        x = update(i, x, list(range(i - 1, i - used, -1)))
    got = sample(denoiser, start, times, UniPC(order, bh1))
    torch.testing.assert_close(got, x, rtol=1e-8, atol=1e-8)


@EVERY
def test_deis_of_order_2_is_the_integral_of_a_logarithm(process):
    """int log(r / c) / log(b / c) dr = r (log(r / c) - 1) / log(b / c)."""
    times, _, alpha, sigma, x = uneven(process)
    start, denoiser, ratio, seen = x, mixture(process), sigma / alpha, []

    def weight(i, b, c):
        high, low = ratio[i + 1], ratio[i]
        whole = [r * (torch.log(r / ratio[c]) - 1) for r in (high, low)]
        return (whole[0] - whole[1]) / torch.log(ratio[b] / ratio[c])

    for i in range(9):
        seen.append(denoiser(x, times[i]).eps)
        moved = (ratio[i + 1] - ratio[i]) * seen[i]
        if i > 0:
            moved = weight(i, i, i - 1) * seen[i] + weight(i, i - 1, i) * seen[i - 1]
        x = alpha[i + 1] * (x / alpha[i] + moved)
    got = sample(denoiser, start, times, DEIS(2))
    torch.testing.assert_close(got, x, rtol=1e-8, atol=1e-9)


ADAMS = [
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
]


@EVERY
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_extrapolates_eps_with_adams_and_bashforths_weights(process, order):
    """Liu et al. (2022), eq. 12, and DDIM's step by it."""
    times, _, alpha, sigma, x = uneven(process)
    start, denoiser, seen = x, mixture(process), []
    for i in range(9):
        seen.insert(0, denoiser(x, times[i]).eps)
        eps = sum(c * e for c, e in zip(ADAMS[min(order, i + 1) - 1], seen))
        x0 = (x - sigma[i] * eps) / alpha[i]
        x = alpha[i + 1] * x0 + sigma[i + 1] * eps
    got = sample(denoiser, start, times, IPNDM(order))
    torch.testing.assert_close(got, x, rtol=1e-8, atol=1e-9)


@EVERY
def test_dpm_solver_2_is_algorithm_1_of_the_paper(process):
    """Lu et al. (2022a): eps halfway in lambda, between two steps of e^h - 1."""
    times, lam, alpha, sigma, x = uneven(process)
    start, denoiser = x, mixture(process)
    for i in range(9):
        middle = process.time_at(lam[i] + lam[i + 1])  # log_snr is 2 lambda
        h = lam[i + 1] - lam[i]
        half = torch.expm1(h / 2) * denoiser(x, times[i]).eps
        u = process.alpha(middle) / alpha[i] * x - process.sigma(middle) * half
        eps = denoiser(u, middle).eps
        x = alpha[i + 1] / alpha[i] * x - sigma[i + 1] * torch.expm1(h) * eps
    got = sample(denoiser, start, times, DPMSolver2())
    torch.testing.assert_close(got, x, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ancestral_dpm_solver_2_is_that_of_k_diffusion(eta):
    """On EDM's clock: down to sigma_down by the midpoint, and sigma_up of noise."""
    denoiser, x = mixture(Karras()), 3 * normal(8, 2)
    t, s = 2.0, 1.1
    up = min(s, eta * sqrt(s**2 * (t**2 - s**2) / t**2))
    down = sqrt(s**2 - up**2)
    middle = sqrt(t * down)
    halfway = x + (x - denoiser(x, f64(t)).x0) / t * (middle - t)
    slope = (halfway - denoiser(halfway, f64(middle)).x0) / middle
    want = x + slope * (down - t) + Draws()(x) * up
    got = one_step(DPMSolver2(eta), denoiser, x, f64(t), f64(s), Draws())
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
