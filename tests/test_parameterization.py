"""Parameterizations: every target is the one its name says, and target and inverse agree."""

from math import sqrt

import pytest
import torch
from torch import nn

from conftest import NO_SIGNAL, PROCESSES, WITH_SIGNAL, f64, inside, name, normal
from sfumato.denoiser import NetworkDenoiser
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.parameterization import (
    EDMPreconditioning,
    PredictData,
    PredictNoise,
    PredictV,
    PredictVelocity,
)
from sfumato.process import Karras, LinearVP, RectifiedFlow, match_dims

ROWS = [
    *(PredictNoise(), PredictData(), PredictV(), PredictVelocity()),
    *(EDMPreconditioning(0.7), EDMPreconditioning(0.7, skip=False)),
]
NEEDS_SIGNAL = (PredictNoise, EDMPreconditioning)
DEFINED = [
    (process, row)
    for process in PROCESSES
    for row in ROWS
    if process in WITH_SIGNAL or not isinstance(row, NEEDS_SIGNAL)
]
CLOCKED = [PredictNoise, PredictData, PredictV, PredictVelocity]
EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)
EVERY_ROW = pytest.mark.parametrize("row", ROWS, ids=name)


class Answer(nn.Module):
    """A network that gives the answer it was made with, and remembers what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, noise_level, cond):
        self.asked = x, noise_level, cond
        return self.answer


def named_target(row, process, x0, t, eps):
    """What each paper's network learns, written out."""
    alpha, sigma = (match_dims(c(t), x0) for c in (process.alpha, process.sigma))
    alpha_rate, sigma_rate = (match_dims(rate, x0) for rate in process.rates(t))
    if isinstance(row, EDMPreconditioning):
        if not row.skip:
            return x0 / row.sigma_data
        x_t, sd = alpha * x0 + sigma * eps, row.sigma_data
        power = (alpha * sd) ** 2 + sigma**2
        return (x0 - alpha * sd**2 / power * x_t) / (sigma * sd / power.sqrt())
    return {
        PredictNoise: eps,
        PredictData: x0,
        PredictV: alpha * eps - sigma * x0,
        PredictVelocity: alpha_rate * x0 + sigma_rate * eps,
    }[type(row)]


@EVERY
@EVERY_ROW
def test_the_target_is_the_named_one(process, row):
    x0, eps = normal(2, 9, 3)
    t = inside(process, 9)
    c = row(process, t)
    x_t = process.diffuse(x0, t, eps)
    target = (x0 - match_dims(c.c_skip, x0) * x_t) / match_dims(c.c_out, x0)
    want = named_target(row, process, x0, t, eps)
    torch.testing.assert_close(target, want, rtol=1e-8, atol=1e-8)
    assert all(value.shape == (9,) and value.dtype == torch.float64 for value in c)


@pytest.mark.parametrize(("process", "row"), DEFINED, ids=name)
def test_a_perfect_network_gives_back_the_image(process, row):
    x0, eps = normal(2, 9, 3)
    for t in (inside(process, 9), f64(0.37 * process.t_max)):
        network = Answer(named_target(row, process, x0, t, eps))
        p = NetworkDenoiser(network, process, row)(process.diffuse(x0, t, eps), t)
        torch.testing.assert_close(p.x0, x0, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(p.eps, eps, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
@pytest.mark.parametrize("row", [PredictData(), PredictV(), PredictVelocity()], ids=name)
def test_pure_noise_is_no_obstacle_to_the_defined_pairs(process, row):
    x0, eps = normal(2, 4, 3)
    t = f64(1.0)
    network = Answer(named_target(row, process, x0, t, eps))
    p = NetworkDenoiser(network, process, row)(process.diffuse(x0, t, eps), t)
    torch.testing.assert_close(p.x0, x0)


def test_the_target_on_rectified_flow_is_noise_minus_data():
    c = PredictVelocity()(RectifiedFlow(), inside(RectifiedFlow(), 9))
    torch.testing.assert_close(c.c_skip, torch.ones(9).double())
    torch.testing.assert_close(c.c_out, -inside(RectifiedFlow(), 9))


@pytest.mark.parametrize("sd", [0.5, 1.0, 2.0])
def test_edm_formulas_literally(sd):
    """Karras et al. (2022), table 1, column EDM."""
    for sigma in (0.002, 0.1, 1.0, 50.0, 80.0):
        c = EDMPreconditioning(sd)(Karras(), f64(sigma))
        assert c.c_skip.item() == pytest.approx(sd**2 / (sigma**2 + sd**2))
        assert c.c_out.item() == pytest.approx(sigma * sd / sqrt(sd**2 + sigma**2))
        assert c.c_in.item() == pytest.approx(1 / sqrt(sigma**2 + sd**2))
        assert c.c_noise.item() == pytest.approx(f64(sigma).log().item() / 4)


@pytest.mark.parametrize("process", WITH_SIGNAL, ids=name)
@pytest.mark.parametrize("sd", [0.5, 1.3])
def test_edm_input_and_target_have_unit_variance(process, sd):
    """Exactly: the variance of a x0 + b eps is (a sd)^2 + b^2."""
    t = inside(process)
    alpha, sigma = process.alpha(t), process.sigma(t)
    c = EDMPreconditioning(sd)(process, t)
    one = torch.ones_like(t)
    torch.testing.assert_close(c.c_in**2 * ((alpha * sd) ** 2 + sigma**2), one)
    of_x0, of_eps = (1 - c.c_skip * alpha) / c.c_out, c.c_skip * sigma / c.c_out
    torch.testing.assert_close((of_x0 * sd) ** 2 + of_eps**2, one)


@pytest.mark.parametrize("process", WITH_SIGNAL, ids=name)
def test_edm_amplifies_the_networks_errors_least(process):
    """Karras et al. (2022), appendix B: c_skip is the one that makes c_out smallest."""
    t, sd = inside(process), 0.7
    c = EDMPreconditioning(sd)(process, t)

    def needed(c_skip):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return (1 - c_skip * alpha) ** 2 * sd**2 + (c_skip * sigma) ** 2

    torch.testing.assert_close(c.c_out**2, needed(c.c_skip))
    assert (needed(c.c_skip * 1.01) > c.c_out**2).all()
    assert (needed(c.c_skip * 0.99) > c.c_out**2).all()


@pytest.mark.parametrize("kind", CLOCKED, ids=name)
def test_the_network_is_told_the_time(kind):
    t = f64(0.1, 0.5, 1.0)
    torch.testing.assert_close(kind()(LinearVP(), t).c_noise, 1000 * t)
    torch.testing.assert_close(kind()(Karras(), 80 * t).c_noise, 1000 * t)
    ddpm = kind(time_scale=1000.0, time_offset=-1.0)
    steps = torch.arange(1000)
    told = ddpm(LinearBetas(), LinearBetas().times_of(steps)).c_noise
    torch.testing.assert_close(told, steps.double())


@EVERY_ROW
def test_what_the_network_is_asked(row):
    process, x, cond = LinearVP(), normal(4, 3), torch.arange(4)
    network = Answer(torch.zeros(4, 3).double())
    NetworkDenoiser(network, process, row)(x, f64(0.3), cond)
    asked, noise_level, got = network.asked
    c = row(process, f64(0.3))
    torch.testing.assert_close(asked, c.c_in * x)
    torch.testing.assert_close(noise_level, c.c_noise.expand(4))
    assert noise_level.dtype == x.dtype
    assert got is cond


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
@pytest.mark.parametrize("row", [PredictNoise(), EDMPreconditioning()], ids=name)
def test_undefined_pairs_are_refused_with_the_remedy(process, row):
    with pytest.raises(ValueError, match=r"alpha is 0 at t = 1\.0.*PredictV or PredictVelocity"):
        NetworkDenoiser(nn.Identity(), process, row)


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
@pytest.mark.parametrize("row", [PredictData(), PredictV(), PredictVelocity()], ids=name)
def test_defined_pairs_are_not(process, row):
    NetworkDenoiser(nn.Identity(), process, row)


@pytest.mark.parametrize("process", WITH_SIGNAL, ids=name)
@EVERY_ROW
def test_every_row_is_defined_where_signal_is_left(process, row):
    row.check(process)
    c = row(process, f64(process.t_max))
    assert all(torch.isfinite(value) for value in c)


@pytest.mark.parametrize("sd", [0.0, -0.5, float("nan")])
def test_sigma_data_is_positive(sd):
    with pytest.raises(ValueError, match="sigma_data"):
        NetworkDenoiser(nn.Identity(), Karras(), EDMPreconditioning(sd))


def test_learned_variance_is_the_second_half_of_the_output():
    """Nichol and Dhariwal (2021), eq. 15: v = 0 is beta tilde, v = 1 is beta."""
    process, x, t = CosineBetas(), normal(5, 2, 4, 4), f64(0.4)
    eps = normal(5, 2, 4, 4, seed=1)
    raw = torch.linspace(-1, 1, 160, dtype=torch.float64).reshape(5, 2, 4, 4)
    network = Answer(torch.cat([eps, raw], 1))
    p = NetworkDenoiser(network, process, PredictNoise(), learned_variance=True)(x, t)
    plain = NetworkDenoiser(Answer(eps), process, PredictNoise())(x, t)
    assert torch.equal(p.x0, plain.x0)
    torch.testing.assert_close(p.variance_mix, (raw + 1) / 2)
    assert p.variance_mix.min() == 0
    assert p.variance_mix.max() == 1
    assert plain.variance_mix is None
