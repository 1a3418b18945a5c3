"""Objectives: what minimizes them, the papers' losses written out, and the times they train on."""

import numpy as np
import pytest
import torch
from torch import nn

from conftest import (
    NO_SIGNAL,
    PROCESSES,
    WITH_SIGNAL,
    f64,
    inside,
    name,
    normal,
)
from sfumato.bound import Hybrid, VariationalBound
from sfumato.denoiser import NetworkDenoiser
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.exact import Empirical, GaussianMixture
from sfumato.objective import (
    DataMSE,
    Denoising,
    DiscreteTimes,
    EDMWeight,
    LogNormalTimes,
    MinSNR,
    OutputMSE,
    UniformTimes,
    squared_error,
)
from sfumato.parameterization import (
    EDMPreconditioning,
    PredictData,
    PredictNoise,
    PredictV,
    PredictVelocity,
)
from sfumato.process import Karras, LinearVP, RectifiedFlow

ROWS = [PredictNoise(), PredictData(), PredictV(), PredictVelocity(), EDMPreconditioning(0.7)]
WEIGHTS = [OutputMSE(), DataMSE(), EDMWeight(0.6), MinSNR(2.0)]
DEFINED = [
    (process, row)
    for process in PROCESSES
    for row in ROWS
    if process not in NO_SIGNAL or not isinstance(row, (PredictNoise, EDMPreconditioning))
]
PAIRS = pytest.mark.parametrize(("process", "row"), DEFINED, ids=name)
EVERY_WEIGHT = pytest.mark.parametrize("weight", WEIGHTS, ids=name)


class At:
    """Times: the one given, whatever u is."""

    def __init__(self, t):
        self.t = t

    def __call__(self, process, u):
        return self.t.expand(len(u))


class Linear(nn.Module):
    """a x + b: for Gaussian data the best network is one of these."""

    def __init__(self, a=0.0, b=0.0):
        super().__init__()
        self.theta = nn.Parameter(f64(a, b))

    def forward(self, x, noise_level, cond):
        self.asked, self.level, self.cond = x, noise_level, cond
        return self.theta[0] * x + self.theta[1]


class Perturbed(nn.Module):
    """The output of an exact denoiser, plus theta times four functions of the input."""

    def __init__(self, exact, row):
        super().__init__()
        self.exact, self.row, self.theta = exact, row, nn.Parameter(torch.zeros(4).double())

    def forward(self, x, noise_level, cond):
        process = self.exact.process
        if isinstance(self.row, EDMPreconditioning):
            t = process.time_at_ratio((4 * noise_level).exp())
        else:
            t = noise_level * process.t_max / 1000
        c = self.row(process, t)
        x_t = x / c.c_in[:, None]
        target = (self.exact(x_t, t).x0 - c.c_skip[:, None] * x_t) / c.c_out[:, None]
        return target + torch.cat([torch.ones_like(x), x, x.sin(), x**2], 1) @ self.theta[:, None]


def hermite(n):
    """Nodes and weights with which a normal expectation is a sum."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


def every_pair(x0, of_x0, n=40):
    """x0 and eps, (N, 1), and weights that turn a loss, (N,), into its expectation."""
    nodes, of_eps = hermite(n)
    grid = torch.cartesian_prod(x0, nodes)
    return grid[:, :1], grid[:, 1:], torch.outer(of_x0, of_eps).flatten()


def gaussian_data(mean, std, n=3):
    nodes, weights = hermite(n)
    return mean + std * nodes, weights


def expected(objective, denoiser, data, n=40):
    x0, eps, weights = every_pair(*data, n=n)
    return weights @ objective(denoiser, x0, None, torch.full((len(x0),), 0.5).double(), eps)


def derivatives(loss, theta):
    """The gradient and the matrix of second derivatives."""
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    rows = [torch.autograd.grad(g, theta, retain_graph=True)[0] for g in gradient]
    return gradient.detach(), torch.stack(rows)


@PAIRS
@EVERY_WEIGHT
def test_least_squares_on_gaussian_data_finds_the_exact_denoiser(process, row, weight):
    """The expected loss of a x + b is a parabola; its lowest point is E[x0 | x_t], solved for."""
    mean, std = 0.4, 0.7
    for t in (f64(0.1) * process.t_max, f64(0.83) * process.t_max):
        network = Linear()
        denoiser = NetworkDenoiser(network, process, row)
        # Two and three nodes are exact for parabolas, in eps and in x0.
        loss = expected(Denoising(At(t), weight), denoiser, gaussian_data(mean, std), n=2)
        gradient, curvature = derivatives(loss, network.theta)
        best = -torch.linalg.solve(curvature, gradient)
        alpha, sigma, c = process.alpha(t), process.sigma(t), row(process, t)
        slope = alpha * std**2 / ((alpha * std) ** 2 + sigma**2)
        want_a = (slope - c.c_skip) / c.c_out / c.c_in
        want_b = mean * (1 - slope * alpha) / c.c_out
        torch.testing.assert_close(best, torch.stack([want_a, want_b]), rtol=1e-6, atol=1e-6)
        assert (torch.linalg.eigvalsh(curvature) > 0).all()


MIXTURE = GaussianMixture(LinearVP(), f64(-1.0, 0.3, 1.1)[:, None], 0.3, f64(0.2, 0.5, 0.3).log())


def mixture_data():
    parts = [gaussian_data(m, 0.3, 12) for m in (-1.0, 0.3, 1.1)]
    weights = [w * part[1] for w, part in zip((0.2, 0.5, 0.3), parts)]
    return torch.cat([part[0] for part in parts]), torch.cat(weights)


@PAIRS
@pytest.mark.parametrize("ratio", [0.6, 3.0])
def test_any_change_to_the_exact_denoiser_of_a_mixture_raises_the_loss(process, row, ratio):
    exact = GaussianMixture(process, MIXTURE.means, MIXTURE.std, MIXTURE.log_weights)
    network = Perturbed(exact, row)
    objective = Denoising(At(process.time_at_ratio(f64(ratio))))
    loss = expected(objective, NetworkDenoiser(network, process, row), mixture_data())
    gradient, curvature = derivatives(loss, network.theta)
    scale = curvature.diagonal()
    assert (gradient.abs() < 1e-5 * scale).all()
    assert (torch.linalg.eigvalsh(curvature) > 0).all()


@pytest.mark.parametrize("objective", [VariationalBound(1000), Hybrid(1000)], ids=name)
@pytest.mark.parametrize("u", [0.2, 0.7])
def test_the_exact_denoiser_minimizes_the_bound_too(objective, u):
    process, row = LinearBetas(), PredictNoise()
    exact = GaussianMixture(process, MIXTURE.means, MIXTURE.std, MIXTURE.log_weights)
    network = Perturbed(exact, row)
    x0, eps, weights = every_pair(*mixture_data())
    u = torch.full((len(x0),), u).double()
    denoiser = NetworkDenoiser(network, process, row)

    def loss():
        return weights @ objective(denoiser, x0, None, u, eps)

    lowest = loss()
    (gradient,) = torch.autograd.grad(lowest, network.theta)
    for i in range(4):
        for change in (0.01, -0.01):
            with torch.no_grad():
                network.theta.zero_()[i] = change
                rise = loss() - lowest
                assert rise > 0
                assert gradient[i].abs() < 1e-3 * rise / 0.01


@PAIRS
def test_a_data_set_learned_by_heart_is_the_fixed_point(process, row):
    data = f64(-0.9, -0.2, 0.1, 0.8)
    network = Perturbed(Empirical(process, data[:, None]), row)
    objective = Denoising(At(process.time_at_ratio(f64(1.0))))
    of_data = data, torch.full((4,), 0.25).double()
    loss = expected(objective, NetworkDenoiser(network, process, row), of_data, n=60)
    gradient, curvature = derivatives(loss, network.theta)
    assert (gradient.abs() < 1e-6 * curvature.diagonal()).all()
    assert (torch.linalg.eigvalsh(curvature) > 0).all()
    assert loss > 0.01  # and yet not zero: the noise cannot be undone


@PAIRS
def test_the_plain_error_of_the_output_is_one_over_c_out_squared(process, row):
    """For every row, by its own target: the identity that makes all losses one."""
    network = Linear(0.3, -0.2)
    denoiser = NetworkDenoiser(network, process, row)
    u, x0, eps = torch.rand(9).double(), *normal(2, 9, 3)
    objective = Denoising(UniformTimes(0.01 * process.t_max))
    got = objective(denoiser, x0, None, u, eps)
    t = 0.01 * process.t_max + u * 0.99 * process.t_max
    c = row(process, t)
    x_t = process.diffuse(x0, t, eps)
    target = (x0 - c.c_skip[:, None] * x_t) / c.c_out[:, None]
    want = (network(c.c_in[:, None] * x_t, c.c_noise, None) - target).square().mean(1)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)
    assert got.shape == (9,)


def test_l_simple_of_ddpm_literally():
    """Ho et al. (2020), eq. 14 (number from memory), with t = 1..T, and the network told t - 1."""
    process, network = LinearBetas(1000), Linear(0.3, -0.2)
    denoiser = NetworkDenoiser(network, process, PredictNoise(1000.0, -1.0))
    u, x0, eps = f64(0.0001, 0.0999, 0.5, 0.9999), *normal(2, 4, 3, 2, 2)
    got = Denoising(DiscreteTimes(1000))(denoiser, x0, None, u, eps)
    index = torch.tensor([0, 99, 500, 999])
    torch.testing.assert_close(network.level, index.double())
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[index]
    bar = bar[:, None, None, None]
    x_t = bar.sqrt() * x0 + (1 - bar).sqrt() * eps
    want = (eps - (0.3 * x_t - 0.2)).square().mean((1, 2, 3))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


def test_the_loss_of_edm_literally():
    """Karras et al. (2022), section 5 with table 1: lambda(sigma) |D(y + n; sigma) - y|^2."""
    sd, network = 0.5, Linear(0.3, -0.2)
    denoiser = NetworkDenoiser(network, Karras(), EDMPreconditioning(sd))
    z, y, unit = f64(-2.0, 0.0, 0.7, 2.5), *normal(2, 4, 3)
    u = torch.special.ndtr(z)
    sigma = torch.exp(-1.2 + 1.2 * z)[:, None]
    noisy = y + sigma * unit
    raw = 0.3 * noisy / (sigma**2 + sd**2).sqrt() - 0.2
    d = sd**2 / (sigma**2 + sd**2) * noisy + sigma * sd / (sigma**2 + sd**2).sqrt() * raw
    weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
    want = (weight * (d - y) ** 2).mean(1)
    for loss_weight in (OutputMSE(), EDMWeight(sd)):
        got = Denoising(LogNormalTimes(-1.2, 1.2), loss_weight)(denoiser, y, None, u, unit)
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(network.level, sigma[:, 0].log() / 4)


def test_the_loss_of_flow_matching_literally():
    """|v(x_t, t) - (eps - x0)|^2 on x_t = (1 - t) x0 + t eps."""
    network = Linear(0.3, -0.2)
    denoiser = NetworkDenoiser(network, RectifiedFlow(), PredictVelocity(time_scale=1.0))
    u, x0, eps = f64(0.05, 0.4, 0.95), *normal(2, 3, 5)
    got = Denoising(UniformTimes(0.0))(denoiser, x0, None, u, eps)
    x_t = (1 - u[:, None]) * x0 + u[:, None] * eps
    want = (0.3 * x_t - 0.2 - (eps - x0)).square().mean(1)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(network.level, u)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize(
    ("row", "own"),
    [
        (PredictNoise(), lambda snr, gamma: snr.clamp(max=gamma) / snr),
        (PredictData(), lambda snr, gamma: snr.clamp(max=gamma)),
        (PredictV(), lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1)),
    ],
    ids=["eps", "x0", "v"],
)
def test_min_snr_literally(row, own, gamma):
    """Hang et al. (2023): min(SNR, gamma) on x0, over SNR on eps, and over SNR + 1 on v."""
    process, network = CosineBetas(), Linear(0.3, -0.2)
    u, x0, eps = inside(process, 7), *normal(2, 7, 3)
    denoiser = NetworkDenoiser(network, process, row)
    got = Denoising(UniformTimes(0.0), MinSNR(gamma))(denoiser, x0, None, u, eps)
    alpha, sigma = process.alpha(u)[:, None], process.sigma(u)[:, None]
    x_t = alpha * x0 + sigma * eps
    target = {"PredictNoise": eps, "PredictData": x0, "PredictV": alpha * eps - sigma * x0}
    error = (network(x_t, None, None) - target[name(row)]).square().mean(1)
    snr = (alpha / sigma)[:, 0] ** 2
    assert (snr > gamma).any()
    assert (snr < gamma).any()
    torch.testing.assert_close(got, own(snr, gamma) * error, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("process", WITH_SIGNAL, ids=name)
def test_the_weights_on_x0(process):
    t, row = inside(process), EDMPreconditioning(0.6)
    denoiser = NetworkDenoiser(Linear(), process, row)
    ratio = process.ratio(t)
    assert torch.equal(DataMSE()(denoiser, t), torch.ones(50).double())
    want = (ratio**2 + 0.36) / (ratio * 0.6) ** 2
    torch.testing.assert_close(EDMWeight(0.6)(denoiser, t), want)
    capped = 0.6**-2 + torch.minimum(ratio**-2, torch.full_like(ratio, 3.0))
    torch.testing.assert_close(EDMWeight(0.6, most=3.0)(denoiser, t), capped)
    torch.testing.assert_close(OutputMSE()(denoiser, t), 1 / row(process, t).c_out ** 2)
    want = torch.minimum(ratio**-2, torch.full_like(ratio, 3.0))
    torch.testing.assert_close(MinSNR(3.0)(denoiser, t), want)


def test_squared_error_is_the_mean_over_an_image():
    process = RectifiedFlow()
    p = Empirical(process, torch.zeros(1, 2, 3, 3))(torch.zeros(4, 2, 3, 3), f64(0.5))
    x0 = f64(1.0, 2.0, 3.0, 4.0)[:, None, None, None].expand(4, 2, 3, 3)
    assert squared_error(p, x0).tolist() == [1, 4, 9, 16]


def test_a_batch_in_parts_has_the_losses_of_the_whole():
    denoiser = NetworkDenoiser(Linear(0.3, -0.2), LinearVP(), PredictNoise())
    u, x0, eps = torch.rand(6).double(), *normal(2, 6, 3)
    cond = torch.arange(6)
    objective = Denoising(UniformTimes())
    whole = objective(denoiser, x0, cond, u, eps)
    parts = [objective(denoiser, x0[i], cond[i], u[i], eps[i]) for i in (slice(2), slice(2, 6))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert torch.equal(denoiser.network.cond, cond[2:])


def test_losses_of_float32_images_are_float32_though_times_are_not():
    network = Linear(0.3, -0.2).float()
    denoiser = NetworkDenoiser(network, CosineBetas(), PredictV())
    u, x0, eps = torch.rand(6).double(), *normal(2, 6, 3).float()
    got = Denoising(DiscreteTimes())(denoiser, x0, None, u, eps)
    assert got.dtype == torch.float32
    got.mean().backward()
    assert network.theta.grad.abs().min() > 0
