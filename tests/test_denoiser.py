"""Denoisers of networks, on other clocks, and clipped: each against its formula written out."""

from re import escape

import pytest
import torch
from torch import nn

from conftest import (
    MEANS,
    NO_SIGNAL,
    PROCESSES,
    WITH_SIGNAL,
    f64,
    inside,
    mixture,
    name,
    normal,
)
from sfumato.denoiser import Clipped, DynamicallyThresholded, NetworkDenoiser, OnProcess
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.parameterization import EDMPreconditioning, PredictNoise, PredictV
from sfumato.prediction import Prediction
from sfumato.process import Karras, LinearVP, RectifiedFlow

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)


class Fixed:
    """A denoiser whose estimate of x0 is a given one."""

    def __init__(self, x0, process=None, **extras):
        self.x0, self.process, self.extras = x0, process or LinearVP(), extras

    def __call__(self, x_t, t, cond=None):
        self.cond = cond
        return Prediction(x_t, self.x0, t, self.process, **self.extras)


class Told(nn.Module):
    """A small network of everything that it is given; remembers its input."""

    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Linear(channels + 1, channels)

    def forward(self, x, noise_level, cond):
        self.asked, self.level, self.cond = x, noise_level, cond
        hidden = self.layer(torch.cat([x, noise_level[:, None].sin()], 1))
        self.dtype = hidden.dtype
        return hidden


def test_one_time_or_one_each():
    denoiser = NetworkDenoiser(Told(3).double(), CosineBetas(), PredictV())
    x, t = normal(5, 3), f64(0.3)
    one, each = denoiser(x, t), denoiser(x, t.expand(5))
    assert torch.equal(one.x0, each.x0)
    assert one.t.shape == (5,)
    mixed = denoiser(x, inside(denoiser.process, 5))
    single = denoiser(x[2:3], inside(denoiser.process, 5)[2])
    torch.testing.assert_close(mixed.x0[2:3], single.x0)


@pytest.mark.parametrize("outer", [False, True])
def test_only_the_network_runs_in_low_precision(outer):
    torch.manual_seed(0)
    network, x, t = Told(3), normal(5, 3).float(), f64(0.3)
    low = NetworkDenoiser(network, LinearVP(), PredictNoise(), precision=torch.bfloat16)
    high = NetworkDenoiser(network, LinearVP(), PredictNoise())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outer):
        p = low(x, t)
        assert network.dtype == torch.bfloat16
        q = high(x, t)
        assert network.dtype == torch.float32
    assert p.x0.dtype == p.eps.dtype == torch.float32
    assert network.asked.dtype == torch.float32
    torch.testing.assert_close(p.eps, q.eps, rtol=0, atol=0.03)
    assert not torch.equal(p.eps, q.eps)


def test_half_precision_images_are_refused():
    denoiser = NetworkDenoiser(Told(3), LinearVP(), PredictNoise())
    with pytest.raises(ValueError, match=r"torch.bfloat16.*float32 or wider"):
        denoiser(torch.ones(2, 3, dtype=torch.bfloat16), f64(0.3))


def test_a_denoiser_trains_its_network_and_nothing_else():
    denoiser = NetworkDenoiser(Told(3), LinearVP(), EDMPreconditioning())
    assert [n for n, _ in denoiser.named_parameters()] == [
        "network.layer.weight",
        "network.layer.bias",
    ]


@pytest.mark.parametrize("source", PROCESSES, ids=name)
@pytest.mark.parametrize("target", PROCESSES, ids=name)
def test_on_process_is_exact_for_all_pairs(source, target):
    top = min(source.largest_ratio, target.largest_ratio, 1000.0)
    ratio = torch.logspace(-2, f64(top).log10().item(), 12, dtype=torch.float64)
    t = target.time_at_ratio(ratio)
    x = normal(12, 2) * torch.hypot(target.alpha(t), target.sigma(t))[:, None]
    got = OnProcess(mixture(source), target)(x, t)
    want = mixture(target)(x, t)
    assert got.process is target
    assert got.t is t
    torch.testing.assert_close(got.x0, want.x0, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(got.eps, want.eps, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("source", NO_SIGNAL, ids=name)
@pytest.mark.parametrize("target", NO_SIGNAL, ids=name)
def test_on_process_is_exact_at_pure_noise(source, target):
    x = normal(4, 2)
    got = OnProcess(mixture(source), target)(x, f64(1.0))
    torch.testing.assert_close(got.x0, mixture(target)(x, f64(1.0)).x0)


def test_a_ddpm_network_on_edms_clock_is_asked_as_edm_asks_it():
    """Karras et al. (2022), table 1, column VP: c_in = 1 / sqrt(sigma^2 + 1)."""
    process, network, sigma = LinearBetas(), Told(3).double(), f64(3.0)
    denoiser = NetworkDenoiser(network, process, PredictNoise(1000.0, -1.0))
    x, cond = normal(4, 3), torch.arange(4)
    OnProcess(denoiser, Karras())(x, sigma, cond)
    torch.testing.assert_close(network.asked, x / 10**0.5)
    assert network.cond is cond
    told = (network.level[0] + 1) / 1000
    torch.testing.assert_close(process.sigma(told) / process.alpha(told), sigma)


def test_on_process_carries_all_that_the_denoiser_says():
    mix, eps = torch.rand(2, 3), torch.rand(2, 3)
    inner = Fixed(torch.rand(2, 3), variance_mix=mix, kept_eps=eps)
    p = OnProcess(inner, RectifiedFlow())(torch.rand(2, 3), f64(0.5))
    assert p.x0 is inner.x0
    assert p.variance_mix is mix
    assert p.kept_eps is eps


@pytest.mark.parametrize("source", WITH_SIGNAL, ids=name)
def test_on_process_refuses_more_noise_than_there_ever_was(source):
    denoiser = OnProcess(mixture(source), Karras(t_max=1e4))
    x, largest = normal(2, 2), source.largest_ratio
    assert torch.isfinite(denoiser(x, f64(largest)).x0).all()
    with pytest.raises(ValueError, match=escape(f"sigma_max={largest:.4g})")):
        denoiser(x, f64(largest * 1.01))
    with pytest.raises(ValueError, match="karras_times"):
        OnProcess(mixture(source), RectifiedFlow())(x, f64(1.0))
    with pytest.raises(ValueError, match="karras_times"):  # one image of the batch is enough
        denoiser(x, f64(1.0, largest * 1.01))


@EVERY
def test_clipping_moves_x0_and_lets_eps_follow(process):
    x, t = 5 * normal(6, 2), process.time_at_ratio(f64(1.0))
    inner, p = mixture(process)(x, t), Clipped(mixture(process), -0.5, 0.25)(x, t)
    assert (inner.x0 < -0.5).any()
    assert (inner.x0 > 0.25).any()
    assert torch.equal(p.x0, inner.x0.clamp(-0.5, 0.25))
    torch.testing.assert_close(p.eps, (x - process.alpha(t) * p.x0) / process.sigma(t))
    kept = Clipped(mixture(process), -0.5, 0.25, keep_eps=True)(x, t)
    assert torch.equal(kept.x0, p.x0)
    assert torch.equal(kept.eps, inner.eps)
    assert not torch.equal(kept.eps, p.eps)


def test_clipping_is_to_the_range_of_images_and_passes_all_else():
    cond, mix = torch.arange(3), torch.rand(3, 2)
    inner = Fixed(f64(-3.0, 0.5, 3.0)[:, None].expand(3, 2), variance_mix=mix)
    denoiser = Clipped(inner)
    assert denoiser.process is inner.process
    p = denoiser(normal(3, 2), f64(0.4), cond)
    assert p.x0[:, 0].tolist() == [-1, 0.5, 1]
    assert p.variance_mix is mix
    assert inner.cond is cond


@pytest.mark.parametrize(("quantile", "largest"), [(0.995, float("inf")), (0.8, 1.5)])
def test_dynamic_thresholding_literally(quantile, largest):
    """Saharia et al. (2022), section 2.3, an image at a time."""
    x0 = normal(4, 3, 8, 8) * f64(0.2, 0.9, 2.0, 7.0)[:, None, None, None]
    inner = Fixed(x0, variance_mix=torch.rand(4, 3, 8, 8))
    denoiser = DynamicallyThresholded(inner, quantile, largest)
    assert denoiser.process is inner.process
    p = denoiser(normal(4, 3, 8, 8), f64(0.4), torch.arange(4))
    for image, got in zip(x0, p.x0):
        size = image.abs().flatten().sort().values
        place = quantile * (len(size) - 1)
        low = int(place)
        s = size[low] + (place - low) * (size[low + 1] - size[low])
        s = min(max(s.item(), 1.0), largest)
        torch.testing.assert_close(got, image.clamp(-s, s) / s)
    assert torch.equal(p.x0[0], x0[0])  # within [-1, 1] nothing changes
    assert p.x0.abs().max() <= 1
    assert p.variance_mix is inner.extras["variance_mix"]
    assert len(inner.cond) == 4


def test_wrappers_compose_from_the_inside_out():
    """Clipping after the change of clock is the change of clock after clipping."""
    x, t = 5 * normal(6, 2), f64(2.0)
    outside = Clipped(OnProcess(mixture(LinearVP()), Karras()))(x, t)
    within = OnProcess(Clipped(mixture(LinearVP())), Karras())(x, t)
    torch.testing.assert_close(outside.x0, within.x0)
    torch.testing.assert_close(outside.eps, within.eps)
    assert MEANS.abs().max() == 1
