"""What diffusers' full-loop tests expect of multistep solvers and DPM-Solver-2, without diffusers.

As test_diffusers_tables.py, whose loops these are.
"""

from itertools import pairwise
from math import pi

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles import (
    as_denoiser,
    as_float32,
    det,
    dpm_labels,
    dummy,
    no_noise,
    noi,
    polynomial_levels,
    ratios,
    seeded,
    total,
    ve_grid,
    ve_grid_of_levels,
    vp_grid,
    vp_grid_of_levels,
    walk,
    walk_scaled,
    with_middles,
)
from sfumato.multistep import DEIS, IPNDM, LMS, Known, UniPC
from sfumato.prediction import Prediction
from sfumato.process import Trigonometric
from sfumato.singlestep import DPMSolver2
from sfumato.solvers import Solver, Step
from test_diffusers_tables import (
    LINEAR,
    LINEAR_1100,
    ROUNDED,
    VACUOUS,
    Rounding,
    Row,
    Run,
    check_expected,
    exact,
)

LABELS = dpm_labels(10)


def line(k: int = 96) -> tuple[Tensor, Tensor]:
    """det and noi of one axis less: (4, 3, 8)."""
    up = (torch.arange(k) / k).reshape(3, 8, 4).permute(2, 0, 1).contiguous()
    return up, ((k - 1) / k - up).contiguous()


def counted(
    solver: Solver,
    kind: str = "eps",
    karras: bool = False,
    skip: int = 0,
    start: tuple[Tensor, Tensor] | None = None,
) -> Run:
    """Down to the lowest level of the table, as if that were clean: the last order is 1."""
    x, noise = start or (det(), noi())

    def run(rounding: Rounding) -> Tensor:
        table = rounding(LINEAR)
        grid = vp_grid(table, LABELS[skip:], clean=False)
        if karras:
            low, high = ratios(table)[[0, -1]]
            grid = vp_grid_of_levels(table, polynomial_levels(high, low, 10), clean=False)
        began = table.diffuse(x, grid.times[0], noise) if skip else x
        denoiser = as_denoiser(dummy, kind, grid)
        return walk(solver, denoiser, began, grid.times, counted=True)

    return run


def scaled(
    solver: Solver, kind: str = "eps", karras: bool = False, skip: int = 0, blank: int = 0
) -> Run:
    """Loop B. blank: earlier values that count as 0, which diffusers' LMS does without."""

    def run(rounding: Rounding) -> Tensor:
        table = rounding(LINEAR_1100)
        high, low = ratios(table)[[-1, 0]]
        whole = ve_grid(table, np.linspace(0, 1099, 10)[::-1])
        if karras:
            whole = ve_grid_of_levels(table, polynomial_levels(high, low, 10))
        x = (det() * high).float()
        if skip:
            x = x + noi() * whole.times[skip].float()
        zero = torch.zeros_like(x)
        memory = tuple(Known(whole.times[skip - i], zero) for i in range(1, blank + 1)) or None
        denoiser = as_denoiser(dummy, kind, with_middles(table, whole))
        return walk_scaled(solver, denoiser, x, whole.times[skip:], seeded(0), memory)

    return run


K = {"karras": True}
NOISY = DPMSolver2(eta=1.0)
# fmt: off
ROWS = (
    Row("DEIS", counted(DEIS(2)), None, 0.23916, 183.676575),
    Row("DEIS v", counted(DEIS(2), "v"), None, 0.091, 69.9437866),
    Row("DEIS noise 8", counted(DEIS(2), skip=8), 315.3016, 0.41054, 315.301666),
    Row("UniPC", counted(UniPC(2)), None, 0.2464, 189.231842),
    Row("UniPC Karras", counted(UniPC(2), **K), None, 0.2925, 224.626709),
    Row("UniPC v", counted(UniPC(2), "v"), None, 0.1014, 77.8724823),
    Row("UniPC v Karras", counted(UniPC(2), "v", **K), None, 0.1966, 150.687286),
    Row("UniPC noise 8", counted(UniPC(2), skip=8), 315.5757, 0.4109, 315.575684),
    Row("KDPM2", scaled(DPMSolver2()), 20.4125, 0.0266, 20.4124889),
    Row("KDPM2 v", scaled(DPMSolver2(), "v"), 4.7e-07, 6.1e-10, 6.1e-05, **VACUOUS),
    Row("KDPM2 noise 8", scaled(DPMSolver2(), skip=8), 70408.4062, 91.6776, 70408.4062,
        **ROUNDED),
    Row("KDPM2 ancestral", scaled(NOISY), 13979.9433, 18.2030, 13979.9424,
        mean_tolerance=5e-3, **ROUNDED),
    Row("KDPM2 ancestral v", scaled(NOISY, "v"), 331.8133, 0.4320, 331.813324),
    Row("KDPM2 ancestral noise 8", scaled(NOISY, skip=8),
        93087.3437, 121.2074, 93087.3438, mean_tolerance=5e-3, **ROUNDED),
    Row("LMS", scaled(LMS()), 1006.388, 1.31, 1006.38818),
    Row("LMS v", scaled(LMS(), "v"), 0.0017, 2.27e-06, 0.00174153, **VACUOUS),
    Row("LMS Karras", scaled(LMS(), **K), 3812.9927, 4.9648, 3812.99292, sum_tolerance=2e-2,
        **ROUNDED),
    Row("LMS noise 8", scaled(LMS(), skip=8, blank=3), 27663.6895, 36.0204, 27663.6895,
        **ROUNDED),
)
# fmt: on


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_loop_gives_the_number_that_diffusers_tests_expect(row: Row) -> None:
    check_expected(row)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_on_the_tables_of_diffusers_the_loop_gives_what_diffusers_gives(row: Row) -> None:
    assert total(row.run(as_float32)) == pytest.approx(row.here, rel=row.here_tolerance, abs=0)


@pytest.mark.parametrize("row", [row for row in ROWS if row.rounded], ids=lambda row: row.name)
def test_exact_tables_are_within_float32_of_the_rows_that_need_rounded_ones(row: Row) -> None:
    assert total(row.run(exact)) == pytest.approx(row.here, rel=1e-5, abs=0)


@pytest.mark.parametrize(
    ("kind", "karras", "mean"),
    [("eps", False, 0.2441), ("eps", True, 0.2898), ("v", False, 0.1014), ("v", True, 0.1944)],
)
def test_unipc_along_one_axis_gives_the_mean_that_diffusers_tests_expect(
    kind: str, karras: bool, mean: float
) -> None:
    """(4, 3, 8) instead of (4, 3, 8, 8)."""
    result = counted(UniPC(2), kind, karras, start=line())(exact)
    assert total(result) / result.numel() == pytest.approx(mean, rel=0, abs=1e-3)


def test_unipc_along_one_axis_from_noise_8_gives_the_number_that_diffusers_tests_expect() -> None:
    result = counted(UniPC(2), skip=8, start=line())(exact)
    assert total(result) == pytest.approx(39.0870, rel=0, abs=1e-2)
    assert total(result) / result.numel() == pytest.approx(0.4072, rel=0, abs=1e-3)


class AlmostSilent(Trigonometric):
    """alpha is 1e-8 at t = 1, by which diffusers divides there."""

    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(t).clamp(min=1e-8)


def test_ipndm_gives_the_number_that_diffusers_tests_expect() -> None:
    """Twice down the grid, the second time with what is remembered of the first: so its size.

    There the extrapolated eps is divided by 1e-8 at t = 1, and nothing is left but that step.
    """
    process = AlmostSilent()

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        silent = t == 1
        alpha, sigma = (0.0 if silent else process.alpha(t)), process.sigma(t)
        eps = sigma * x + alpha * dummy(x, t.item())
        x0 = (x - sigma * eps) / process.alpha(t)
        return Prediction(x, x0, t, process, kept_eps=eps)

    sigmas = (torch.sin(torch.linspace(1, 0, 11) * pi / 2) ** 2).double()
    x, memory = det().double(), None
    for t, s in 2 * list(pairwise(torch.asin(sigmas) * 2 / pi)):
        x, memory = IPNDM()(Step(denoise, process, x, t, s, memory, no_noise))
    assert total(x) / 768 == pytest.approx(2540529, rel=0, abs=10)
    assert total(x) / 768 == pytest.approx(2540533.75, rel=2e-6, abs=0)
