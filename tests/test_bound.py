"""The variational bound: against the papers' equations, and against an entropy known exactly."""

from math import erfc, expm1, log, sqrt

import numpy as np
import pytest
import torch
from torch import nn

from conftest import DISCRETE, PROCESSES, f64, mixture, name, normal
from sfumato.bound import (
    Hybrid,
    VariationalBound,
    bound_term,
    discretized_log_prob,
    gaussian_kl,
    prior_term,
    variational_bound,
)
from sfumato.denoiser import NetworkDenoiser, OnProcess
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.exact import GaussianMixture
from sfumato.objective import Denoising, DiscreteTimes
from sfumato.parameterization import PredictNoise, PredictV
from sfumato.prediction import Prediction
from sfumato.process import Karras, LinearVP, Process

TABLED = pytest.mark.parametrize("process", DISCRETE, ids=name)
LEVELS = torch.arange(256).double() / 127.5 - 1


def test_gaussian_kl_is_that_of_torch_distributions():
    mean_p, log_var_p, mean_q, log_var_q = 2 * normal(4, 6, 5)
    p = torch.distributions.Normal(mean_p, (log_var_p / 2).exp())
    q = torch.distributions.Normal(mean_q, (log_var_q / 2).exp())
    want = torch.distributions.kl_divergence(p, q)
    torch.testing.assert_close(gaussian_kl(mean_p, log_var_p, mean_q, log_var_q), want)
    assert (gaussian_kl(mean_p, log_var_p, mean_p, log_var_p) == 0).all()


@pytest.mark.parametrize("variance", [1e-12, 1e-8, 1e-5, 1e-3, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_probabilities_of_all_levels_sum_to_one(variance, dtype):
    mean = torch.tensor([-1.7, -1.0, -0.9961, -0.3, 0.0, 1 / 255, 0.5004, 1.0, 3.0], dtype=dtype)
    log_var = torch.tensor(log(variance), dtype=dtype)
    log_prob = discretized_log_prob(LEVELS.to(dtype)[:, None], mean, log_var)
    assert not log_prob.isnan().any()
    assert (log_prob <= 0).all()
    total = log_prob.double().logsumexp(0).exp()
    atol = 1e-9 if dtype == torch.float64 else 2e-3
    torch.testing.assert_close(total, torch.ones(9).double(), rtol=0, atol=atol)


@pytest.mark.parametrize("variance", [1e-5, 1e-3, 0.1, 1.0])
def test_the_probability_of_a_level_is_a_difference_of_cdfs(variance):
    """Ho et al. (2020), eq. 13, with the tails that keep the difference accurate."""
    std = sqrt(variance)

    def beyond(x, mean):  # the probability of more than x
        return erfc((x - mean) / std / sqrt(2)) / 2

    for mean in (-1.2, -0.5, 0.1, 0.9):
        got = discretized_log_prob(LEVELS, f64(mean), f64(variance).log()).exp()
        for k in (0, 1, 40, 127, 128, 200, 254, 255):
            x = LEVELS[k].item()
            low, high = x - 1 / 255, x + 1 / 255
            if k == 0:
                want = beyond(-high, -mean)
            elif k == 255:
                want = beyond(low, mean)
            elif low > mean:
                want = beyond(low, mean) - beyond(high, mean)
            else:
                want = beyond(-high, -mean) - beyond(-low, -mean)
            assert got[k].item() == pytest.approx(want, rel=1e-6, abs=1e-300)


def test_other_numbers_of_levels():
    log_prob = discretized_log_prob(f64(-1.0, 1.0), f64(0.3), f64(0.0), levels=2)
    torch.testing.assert_close(log_prob.exp(), torch.special.ndtr(f64(-0.3, 0.3)))
    three = discretized_log_prob(f64(-1.0, 0.0, 1.0), f64(0.3), f64(0.0), levels=3)
    assert three.exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("log_variance", [-20.0, -7.0, 0.0])
def test_the_gradient_is_finite_at_the_outermost_levels(log_variance):
    x0 = f64(-1.0, -1.0, 1.0, 1.0, 0.0, 1.0)
    mean = f64(-1.0, 0.9, 1.0, -0.9, 0.5, 2.0).requires_grad_()
    log_var = torch.full((6,), log_variance, dtype=torch.float64, requires_grad=True)
    discretized_log_prob(x0, mean, log_var).sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(log_var.grad).all()


def literal_term(process, i, x0, x_t, x0_hat, v):
    """The bound's term of step i = 1..T in bits, from the betas alone: (B,).

    Nichol and Dhariwal (2021), eqs. 4 to 7, 10, 11 and 15 (all but 10 and 15 from memory); beta
    tilde of the first step, which is 0, is taken from the second.
    """
    betas = torch.cat([f64(0.0)[None], process.betas()])
    bars = torch.cumprod(1 - betas, 0)

    def mean(x0):
        of_x0 = bars[i - 1].sqrt() * betas[i] / (1 - bars[i])
        of_x_t = (1 - betas[i]).sqrt() * (1 - bars[i - 1]) / (1 - bars[i])
        return of_x0 * x0 + of_x_t * x_t

    j = max(i, 2)
    tilde = (1 - bars[j - 1]) / (1 - bars[j]) * betas[j]
    log_var = v * betas[i].log() + (1 - v) * tilde.log()
    if i == 1:
        cdf = torch.distributions.Normal(mean(x0_hat), (log_var / 2).exp()).cdf
        high = torch.where(x0 > 0.999, 1.0, cdf(x0 + 1 / 255))
        low = torch.where(x0 < -0.999, 0.0, cdf(x0 - 1 / 255))
        nats = -(high - low).log()
    else:
        gap = (mean(x0) - mean(x0_hat)) ** 2
        nats = 0.5 * (log_var - tilde.log() - 1 + (tilde + gap) / log_var.exp())
    return nats.mean((1, 2)) / log(2)


@TABLED
@pytest.mark.parametrize("learned", [False, True])
def test_the_terms_are_those_of_improved_ddpm(process, learned):
    x0 = LEVELS[torch.tensor([[[0, 255, 1]], [[254, 128, 40]]])]
    for i in (1, 2, 3, 57, 500, 1000):
        t = torch.full((2,), i / 1000).double()
        eps = normal(2, 1, 3, seed=i)
        x_t = process.diffuse(x0, t, eps)
        x0_hat = x0 + 0.003 * normal(2, 1, 3, seed=i + 1)
        v = torch.rand(2, 1, 3).double() if learned else 0.0
        p = Prediction(x_t, x0_hat, t, process, v if learned else None)
        want = literal_term(process, i, x0, x_t, x0_hat, v)
        got = bound_term(p, x0, 1000)
        assert got.shape == (2,)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-9)


@TABLED
def test_the_truth_costs_nothing(process):
    x0, eps = normal(2, 5, 3)
    t = torch.tensor([0.002, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    p = Prediction(process.diffuse(x0, t, eps), x0, t, process)
    torch.testing.assert_close(bound_term(p, x0, 1000), torch.zeros(5).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("process", [p for p in PROCESSES if p.t_max == 1], ids=name)
def test_the_prior_term_is_a_divergence_from_standard_noise(process):
    x0 = normal(5, 3)
    end = f64(1.0)
    q = torch.distributions.Normal(process.alpha(end) * x0, process.sigma(end))
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(f64(0.0), f64(1.0)))
    want = kl.mean(1) / log(2)
    torch.testing.assert_close(prior_term(process, x0), want, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("process", [p for p in PROCESSES if p.signal_left == 0], ids=name)
def test_the_prior_term_is_nothing_where_no_signal_is_left(process):
    assert (prior_term(process, normal(5, 3)) == 0).all()


@pytest.mark.parametrize("steps", [7, 30])
def test_the_bound_is_the_sum_of_its_terms(steps):
    process = LinearBetas(steps)
    x0, cond = LEVELS[torch.randint(0, 256, (3, 2))], torch.tensor([2, 0, 1])
    got = variational_bound(mixture(process), x0, steps, cond, torch.Generator().manual_seed(1))
    noise, total = torch.Generator().manual_seed(1), prior_term(process, x0)
    for i in reversed(range(1, steps + 1)):
        eps = torch.randn(3, 2, generator=noise).double()
        t = process.times_of(torch.tensor(i - 1))
        x_t = process.diffuse(x0, t, eps)
        x0_hat = mixture(process)(x_t, t, cond).x0
        args = (v[:, None] for v in (x0, x_t, x0_hat))
        total = total + literal_term(process, i, *args, 0.0)
    torch.testing.assert_close(got, total, rtol=1e-5, atol=1e-8)
    assert not got.requires_grad


def bound_of_discrete_gaussian(process, steps, sureness=1.0):
    """(the bound, the entropy) in bits of a Gaussian rounded to 256 levels, by exact sums."""
    log_p = (-((LEVELS - 0.1) ** 2) / (2 * 0.02**2)).log_softmax(0)
    kept = log_p > log(1e-9)
    x0, p = LEVELS[kept], log_p[kept].softmax(0)
    nodes, of_eps = np.polynomial.hermite_e.hermegauss(24)
    of_eps = torch.tensor(of_eps / of_eps.sum())
    pair = torch.cartesian_prod(x0, torch.tensor(nodes))
    weights = torch.outer(p, of_eps).flatten()
    denoiser = GaussianMixture(process, x0[:, None], 0.0, p.log())
    total = weights @ prior_term(process, pair[:, :1])
    for chunk in torch.arange(1, steps + 1).split(50):
        t = (chunk.double() / steps).repeat_interleave(len(pair))
        clean, eps = (pair[:, i : i + 1].repeat(len(chunk), 1) for i in (0, 1))
        prediction = denoiser(process.diffuse(clean, t, eps), t)
        prediction = prediction.with_x0(sureness * prediction.x0)
        terms = bound_term(prediction, clean, steps)
        total = total + (weights.repeat(len(chunk)) @ terms)
    return total.item(), -(p * p.log()).sum().item() / log(2)


class Geometric(Process):
    """sigma^2 grows by a constant factor a step: fine steps where the levels merge."""

    growth = 14.0

    def sigma(self, t):
        return torch.sqrt(torch.expm1(self.growth * t) / expm1(self.growth))

    def alpha(self, t):
        return torch.sqrt((1 - self.sigma(t) ** 2).clamp(min=0))

    def rates(self, t):
        raise NotImplementedError

    def time_at(self, log_snr):
        raise NotImplementedError


def test_the_bound_is_above_the_entropy_and_tends_to_it():
    gaps = []
    for steps in (25, 50, 100, 200):
        bound, entropy = bound_of_discrete_gaussian(Geometric(), steps)
        gaps.append(bound - entropy)
    assert entropy == pytest.approx(3.398, abs=1e-3)
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] > 0
    assert gaps[2] / gaps[3] == pytest.approx(2, abs=0.1)  # in proportion to 1 / steps,
    assert 2 * gaps[3] - gaps[2] == pytest.approx(0, abs=0.02)  # to nothing
    worse, _ = bound_of_discrete_gaussian(Geometric(), 100, sureness=0.97)
    assert worse - entropy > gaps[2] + 0.01


class TwoHeads(nn.Module):
    """A mean and a variance with parameters of their own."""

    def __init__(self):
        super().__init__()
        self.mean, self.variance = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()

    def forward(self, x, noise_level, cond):
        return torch.cat([self.mean(x), self.variance(x).tanh()], 1)


def gradients(loss, network):
    network.zero_grad()
    loss.sum().backward()
    pairs = [(m.weight.grad, m.bias.grad) for m in (network.mean, network.variance)]
    return [[None if g is None else g.clone() for g in pair] for pair in pairs]


@pytest.mark.parametrize("row", [PredictNoise(), PredictV()], ids=name)
def test_the_hybrid_trains_the_mean_by_l_simple_and_the_variance_by_the_bound(row):
    """Nichol and Dhariwal (2021), eq. 16 (from memory), and the stop-gradient that goes with it."""
    torch.manual_seed(0)
    network, process = TwoHeads(), CosineBetas()
    denoiser = NetworkDenoiser(network, process, row, learned_variance=True)
    x0, eps = normal(2, 6, 3)
    u = f64(0.0003, 0.002, 0.2, 0.5, 0.8, 0.9995)
    hybrid = Hybrid(1000, 0.004)(denoiser, x0, None, u, eps)
    simple = Denoising(DiscreteTimes(1000))(denoiser, x0, None, u, eps)
    bound = VariationalBound(1000)(denoiser, x0, None, u, eps)
    t = DiscreteTimes(1000)(process, u)
    p = denoiser(process.diffuse(x0, t, eps), t)
    torch.testing.assert_close(bound, 1000 * bound_term(p, x0, 1000))
    torch.testing.assert_close(hybrid, simple + 0.004 * bound)
    of_hybrid, of_simple = gradients(hybrid, network), gradients(simple, network)
    bound = VariationalBound(1000)(denoiser, x0, None, u, eps)
    of_bound = gradients(bound, network)
    for got, want in zip(of_hybrid[0], of_simple[0]):
        torch.testing.assert_close(got, want)
    for got, want in zip(of_hybrid[1], of_bound[1]):
        torch.testing.assert_close(got, 0.004 * want)
        assert (got != 0).any()
    assert all((g == 0).all() for g in of_simple[1])
    assert all((g != 0).any() for g in of_bound[0])


@pytest.mark.parametrize("objective", [Hybrid(), VariationalBound()], ids=name)
def test_an_untrained_network_has_finite_losses_and_gradients(objective):
    """In float32, over all times, with pixels at the ends of the range."""
    torch.manual_seed(0)
    network = TwoHeads().float()
    denoiser = NetworkDenoiser(network, LinearBetas(), PredictNoise(), learned_variance=True)
    x0 = LEVELS[torch.randint(0, 256, (1000, 3))].float()
    x0[::3], x0[1::3] = -1, 1
    u = (torch.arange(1000).double() + 0.5) / 1000
    loss = objective(denoiser, x0, None, u, torch.randn(1000, 3))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(g).all() for pair in gradients(loss, network) for g in pair)


def test_a_chain_of_one_step_is_refused():
    x0 = LEVELS[torch.randint(0, 256, (3, 2))]
    assert torch.isfinite(variational_bound(mixture(LinearVP()), x0, 2)).all()
    with pytest.raises(ValueError, match="2 steps or more"):
        variational_bound(mixture(LinearVP()), x0, 1)


def test_another_clock_is_refused_with_a_remedy_that_works():
    denoiser, x0 = mixture(Karras()), LEVELS[torch.randint(0, 256, (3, 2))]
    with pytest.raises(ValueError, match=r"t = 80.*LinearVP\(\)\), with a beta_max.*17"):
        variational_bound(denoiser, x0, 10)
    p = denoiser(x0, torch.ones(3).double())
    with pytest.raises(ValueError, match="OnProcess"):
        bound_term(p, x0, 10)
    with pytest.raises(ValueError, match="OnProcess"):
        prior_term(Karras(), x0)
    process = LinearVP(beta_max=17.0)
    got = variational_bound(
        OnProcess(denoiser, process), x0, 10, generator=torch.Generator().manual_seed(0)
    )
    want = variational_bound(mixture(process), x0, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
