"""Time grids: their exact values, and diffusers' spacings also where halves are rounded."""

import numpy as np
import pytest
import torch

from conftest import PROCESSES, WITH_SIGNAL, f64, name
from sfumato.discrete import LinearBetas
from sfumato.grids import (
    KarrasGrid,
    LeadingGrid,
    LinspaceGrid,
    TrailingGrid,
    UniformGrid,
    karras_times,
    leading_times,
    linspace_times,
    trailing_times,
    uniform_times,
)
from sfumato.process import Karras, RectifiedFlow

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)


@EVERY
def test_uniform_times_exactly(process):
    got = uniform_times(process, 4)
    assert got.dtype == torch.float64
    assert (got / process.t_max).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert uniform_times(process, 2, t_min=0.5 * process.t_max)[-1] == 0.5 * process.t_max


def test_karras_times_are_equation_5_of_edm():
    sigmas = [80, 42.4152, 21.1087, 9.7232, 4.06612, 1.50174, 0.469979, 0.116639, 0.0204353, 0.002]
    got = karras_times(Karras(), 10)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, f64(*sigmas, 0), rtol=5e-6, atol=0)
    got = karras_times(Karras(), 3, sigma_min=1.0, sigma_max=9.0, rho=2.0)
    torch.testing.assert_close(got, f64(9, 4, 1, 0))
    assert karras_times(Karras(), 1).tolist() == pytest.approx([80, 0])


def test_karras_times_without_end_of_rho_are_even_in_their_logarithm():
    got = karras_times(Karras(), 4, sigma_min=0.01, sigma_max=10.0, rho=float("inf"))
    torch.testing.assert_close(got, f64(10, 1, 0.1, 0.01, 0))
    near = karras_times(Karras(), 4, sigma_min=0.01, sigma_max=10.0, rho=1e6)
    torch.testing.assert_close(got, near, rtol=1e-4, atol=0)
    assert karras_times(Karras(), 1, 1.0, 9.0, float("inf")).tolist() == pytest.approx([9, 0])


@EVERY
@pytest.mark.parametrize("share", [-0.5, 1.0, 2.0, float("nan")])
def test_uniform_times_that_do_not_fall_are_refused(process, share):
    with pytest.raises(ValueError, match="t_min"):
        uniform_times(process, 4, t_min=share * process.t_max)


@pytest.mark.parametrize("rho", [0.0, -7.0, float("nan")])
def test_karras_times_of_no_power_are_refused(rho):
    with pytest.raises(ValueError, match="rho"):
        karras_times(Karras(), 4, rho=rho)


@EVERY
def test_karras_times_are_the_same_noise_levels_on_every_process(process):
    top = min(80.0, process.largest_ratio)
    times = karras_times(process, 9)
    want = karras_times(Karras(), 9, sigma_max=top)
    torch.testing.assert_close(process.ratio(times), want, rtol=1e-7, atol=1e-10)
    assert times[-1] == 0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("process", WITH_SIGNAL, ids=name)
def test_karras_times_beyond_the_process_are_refused(process):
    largest = process.largest_ratio
    karras_times(process, 5, sigma_max=largest)
    with pytest.raises(ValueError, match="noise levels"):
        karras_times(process, 5, sigma_max=1.01 * largest)
    for low in (0.0, -1.0, 3.0):
        with pytest.raises(ValueError, match="noise levels"):
            karras_times(process, 5, sigma_min=low, sigma_max=2.0)


def indices_of(times, process):
    """0-based step indices, as diffusers counts them, of a grid that then goes to clean data."""
    assert times[-1] == 0
    assert times.dtype == torch.float64
    return (times[:-1] * process.steps - 1).numpy()


def test_the_grids_of_ten_steps_in_a_thousand():
    process = LinearBetas()
    leading = [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    np.testing.assert_allclose(indices_of(leading_times(process, 10), process), leading)
    leading = [801, 601, 401, 201, 1]
    np.testing.assert_allclose(indices_of(leading_times(process, 5, offset=1), process), leading)
    trailing = [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    np.testing.assert_allclose(indices_of(trailing_times(process, 10), process), trailing)
    linspace = [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    np.testing.assert_allclose(indices_of(linspace_times(process, 10), process), linspace)


@pytest.mark.parametrize("total", [1, 7, 50, 300, 1000])
def test_the_grids_of_any_number_of_steps(total):
    """numpy's expressions are those of diffusers, so that also halfway cases round alike."""
    process = LinearBetas(total, zero_terminal_snr=True)
    for steps in range(1, total + 1):
        leading = np.arange(steps)[::-1] * (total // steps)
        np.testing.assert_allclose(indices_of(leading_times(process, steps), process), leading)
        trailing = np.arange(total, 0, -total / steps)[:steps].round() - 1
        np.testing.assert_allclose(
            indices_of(trailing_times(process, steps), process), trailing, atol=1e-9
        )
        linspace = np.linspace(total - 1, 0, 1)
        if steps > 1:
            linspace = np.linspace(0, total - 1, steps).round()[::-1]
        np.testing.assert_allclose(
            indices_of(linspace_times(process, steps), process), linspace, atol=1e-9
        )


@pytest.mark.parametrize("grid", [leading_times, trailing_times, linspace_times], ids=name)
def test_all_steps_of_a_table_are_the_uniform_grid(grid):
    process = LinearBetas(50)
    torch.testing.assert_close(grid(process, 50), uniform_times(process, 50))
    with pytest.raises(ValueError, match=r"steps = 51.*at most 50"):
        grid(process, 51)


@pytest.mark.parametrize(
    "grid", [uniform_times, karras_times, leading_times, trailing_times, linspace_times], ids=name
)
def test_no_steps_are_refused(grid):
    with pytest.raises(ValueError, match=r"steps = 0.*at least 1"):
        grid(LinearBetas(), 0)


def test_an_offset_beyond_the_table_is_refused():
    assert leading_times(LinearBetas(), 10, offset=99)[0] == 1
    with pytest.raises(ValueError, match=r"offset = 100;.*0\.\.99"):
        leading_times(LinearBetas(), 10, offset=100)
    with pytest.raises(ValueError, match=r"offset = -1;.*0\.\.99"):
        leading_times(LinearBetas(), 10, offset=-1)


@pytest.mark.parametrize(
    ("grid", "times"),
    [
        (UniformGrid(t_min=0.1), lambda p: uniform_times(p, 7, 0.1)),
        (KarrasGrid(0.01, 20.0, 5.0), lambda p: karras_times(p, 7, 0.01, 20.0, 5.0)),
        (LeadingGrid(offset=1), lambda p: leading_times(p, 7, 1)),
        (TrailingGrid(), lambda p: trailing_times(p, 7)),
        (LinspaceGrid(), lambda p: linspace_times(p, 7)),
    ],
    ids=name,
)
def test_grids_as_values_are_the_functions(grid, times):
    assert torch.equal(grid(LinearBetas(), 7), times(LinearBetas()))
    assert grid == type(grid)(**vars(grid))


@pytest.mark.parametrize("grid", [LeadingGrid(), TrailingGrid(), LinspaceGrid()], ids=name)
def test_grids_of_a_table_want_a_table(grid):
    with pytest.raises(ValueError, match=r"RectifiedFlow\(\) has none.*KarrasGrid"):
        grid(RectifiedFlow(), 7)
