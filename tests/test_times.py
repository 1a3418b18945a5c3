"""Training times and noise: quantiles exact, one uniform a cell, functions of a generator."""

import pytest
import torch

from conftest import PROCESSES, f64, name
from sfumato.discrete import LinearBetas
from sfumato.objective import (
    DiscreteTimes,
    LogitNormalTimes,
    LogNormalTimes,
    UniformTimes,
    draws,
    stratified,
)
from sfumato.process import Karras, RectifiedFlow


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_log_normal_times_have_the_quantiles(process):
    z = f64(-3.0, -1.0, 0.0, 0.5, 1.5)
    t = LogNormalTimes(-1.2, 1.2)(process, torch.special.ndtr(z))
    torch.testing.assert_close(process.ratio(t).log(), -1.2 + 1.2 * z, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("process", [RectifiedFlow(), Karras()], ids=name)
def test_logit_normal_times_have_the_quantiles(process):
    z = f64(-3.0, -1.0, 0.0, 0.5, 1.5)
    t = LogitNormalTimes(0.3, 0.8)(process, torch.special.ndtr(z))
    torch.testing.assert_close(torch.logit(t / process.t_max), 0.3 + 0.8 * z)
    default = LogitNormalTimes()(process, torch.special.ndtr(z))
    torch.testing.assert_close(torch.logit(default / process.t_max), z)


@pytest.mark.parametrize("process", [RectifiedFlow(), Karras()], ids=name)
def test_uniform_times_are_the_quantiles(process):
    got = UniformTimes(0.25)(process, f64(0.0, 0.5, 1.0))
    end = process.t_max
    torch.testing.assert_close(got, f64(0.25, (0.25 + end) / 2, end))
    assert UniformTimes()(process, f64(0.0)) > 0


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_discrete_times_are_each_step_as_often(steps):
    u = (torch.arange(4 * steps).double() + 0.5) / (4 * steps)
    t = DiscreteTimes(steps)(LinearBetas(), u)
    want = (torch.arange(steps) + 1).double() / steps
    torch.testing.assert_close(t, want.repeat_interleave(4))
    ends = DiscreteTimes(steps)(LinearBetas(), f64(0.0, 1.0))
    assert ends.tolist() == [1 / steps, 1]
    torch.testing.assert_close(DiscreteTimes(steps)(Karras(), u), 80 * t)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
def test_stratified_uniforms_are_one_a_cell(n):
    u = stratified(n, torch.Generator().manual_seed(3))
    assert u.dtype == torch.float64
    assert torch.equal((u * n).floor().sort().values, torch.arange(n).double())
    assert torch.equal(u, stratified(n, torch.Generator().manual_seed(3)))
    assert not torch.equal(u, stratified(n, torch.Generator().manual_seed(4)))
    if n > 10:
        inside = (u * n) % 1
        assert inside.mean().item() == pytest.approx(0.5, abs=2 / n**0.5)
        assert inside.std().item() == pytest.approx(1 / 12**0.5, abs=1 / n**0.5)
        assert not torch.equal(u.sort().values, u)


def test_stratified_uniforms_never_touch_the_ends():
    u = torch.cat([stratified(50) for _ in range(200)])
    assert torch.isfinite(torch.special.ndtri(u)).all()
    assert torch.isfinite(LogNormalTimes()(Karras(), f64(1e-9, 1 - 1e-9))).all()


def test_draws_are_a_function_of_the_generator_and_the_shape():
    images = torch.zeros(8, 3, 4, 4)
    u, eps = draws(images, torch.Generator().manual_seed(3))
    again, eps_again = draws(images + 1, torch.Generator().manual_seed(3))
    assert torch.equal(u, again)
    assert torch.equal(eps, eps_again)
    assert eps.shape == images.shape
    assert eps.dtype == torch.float32
    assert torch.equal(u, stratified(8, torch.Generator().manual_seed(3)))
    for i in range(8):
        assert (eps[i] != eps[i - 1]).all()
    _, of_uint8 = draws(images.to(torch.uint8), torch.Generator().manual_seed(3))
    assert torch.equal(of_uint8, eps)
    assert draws(images.double())[1].dtype == torch.float64
    assert eps.std().item() == pytest.approx(1, abs=0.15)
