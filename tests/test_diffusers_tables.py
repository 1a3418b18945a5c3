"""The expected numbers of diffusers' full-loop tests, held without diffusers.

Their fixtures are det, noi and dummy of oracles.py; each number is sum |x| after the loop that a
row names. A row is held twice: with our tables of alpha_bar, to the tolerance of diffusers' tests,
and with diffusers' float32 tables, to 2e-5 of what diffusers 0.42.1 gives. Rows whose number is
that of float32 arithmetic, variances, grids and schedules: test_diffusers_schedules.py.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles import (
    Labelled,
    Listening,
    Raw,
    as_denoiser,
    as_float32,
    det,
    dpm_labels,
    dummy,
    geometric_levels,
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
)
from sfumato.denoiser import Clipped, Denoiser, DynamicallyThresholded, NetworkDenoiser
from sfumato.discrete import DiscreteVP, LinearBetas
from sfumato.grids import karras_times
from sfumato.parameterization import EDMPreconditioning
from sfumato.process import Karras
from sfumato.sampling import sample
from sfumato.solvers import DDIM, Ancestral, DPMSolverPP2M, Euler, Heun, Solver

LINEAR = LinearBetas(1000)
BRIGHT_START = LinearBetas(1000, beta_start=0.01)
LINEAR_1100 = LinearBetas(1100, rescaled=False)  # diffusers leaves its betas alone at any T

Rounding = Callable[[DiscreteVP], DiscreteVP]
Run = Callable[[Rounding], Tensor]


def exact(process: DiscreteVP) -> DiscreteVP:
    return process


def plain(denoiser: Denoiser) -> Denoiser:
    return denoiser


def clipped_keeping_eps(denoiser: Denoiser) -> Denoiser:
    return Clipped(denoiser, keep_eps=True)


def thresholded(denoiser: Denoiser) -> Denoiser:
    return DynamicallyThresholded(denoiser, quantile=0.87, max_value=0.5)


# ---- how the rows are run


def loop_a(
    labels: Sequence[int],
    solver: Solver,
    kind: str = "eps",
    wrap: Callable[[Denoiser], Denoiser] = plain,
    process: DiscreteVP = LINEAR,
    clean: bool = True,
    noisy: bool = False,
) -> Run:
    """Down whole labels of a VP process, from det or from det made noisy with noi."""

    def run(rounding: Rounding) -> Tensor:
        grid = vp_grid(rounding(process), labels, clean)
        x = grid.process.diffuse(det(), grid.times[0], noi()) if noisy else det()
        denoiser = wrap(as_denoiser(dummy, kind, grid))
        if grid.times[-2] == grid.times[-1]:  # the loop of sampling.py would skip this last step
            return walk(solver, denoiser, x, grid.times)
        return sample(denoiser, x, grid.times, solver, randn_like=seeded(0))

    return run


def ddim_inverse(kind: str = "eps", process: DiscreteVP = LINEAR, clean: bool = True) -> Run:
    """Up the leading grid: each step evaluates at the lower time, told the *higher* label."""

    def run(rounding: Rounding) -> Tensor:
        table = rounding(process)
        labels = tuple(range(0, 901, 100))
        times = table.times_of(torch.tensor(labels))
        # Our views are not defined at t = 0, and two labels can't share one time: start beside it.
        low = torch.full((1,), 1e-9).double() if clean else times[:1] * (1 - 1e-9)
        grid = Labelled(table, torch.cat([low, times]), labels)
        denoiser = clipped_keeping_eps(as_denoiser(dummy, kind, grid))
        return walk(DDIM(), denoiser, det().double(), grid.times)

    return run


def dpm_inverse(kind: str = "eps", wrap: Callable[[Denoiser], Denoiser] = plain) -> Run:
    def run(rounding: Rounding) -> Tensor:
        labels = [0, *dpm_labels(10)[:0:-1]]
        grid = vp_grid(rounding(LINEAR), labels)
        times = torch.cat([grid.times[:-1], torch.ones(1).double()])
        return walk(DPMSolverPP2M(), wrap(as_denoiser(dummy, kind, grid)), det(), times)

    return run


def dpm_levels(levels: Callable[..., np.ndarray], up: bool = False) -> Run:
    """DPM-Solver++ with v over given noise levels, told whole labels, ending where label 0 is."""

    def run(rounding: Rounding) -> Tensor:
        table = rounding(LINEAR)
        low, high = ratios(table)[[0, -1]]
        ends = (low, high) if up else (high, low)
        grid = vp_grid_of_levels(table, levels(*ends, 10), clean=False)
        last = grid.times[-2:-1] if up else grid.times[-1:]
        times = torch.cat([grid.times[:-1], last])
        return walk(DPMSolverPP2M(), as_denoiser(dummy, "v", grid), det(), times)

    return run


def loop_b(solver: Solver, kind: str = "eps", karras: bool = False, skip: int = 0) -> Run:
    """Down EDM's clock over the interpolated sigmas of 1100 steps, all inputs scaled."""

    def run(rounding: Rounding) -> Tensor:
        table = rounding(LINEAR_1100)
        labels = np.linspace(0, 1099, 10)[::-1]
        high, low = ratios(table)[[-1, 0]]
        levels = polynomial_levels(high, low, 10)
        whole = ve_grid_of_levels(table, levels) if karras else ve_grid(table, labels)
        grid = Labelled(whole.process, whole.times[skip:], whole.labels[skip:])
        x = (det() * high).float()
        if skip:
            x = x + noi() * grid.times[0].float()
        return walk_scaled(solver, as_denoiser(dummy, kind, grid), x, grid.times, seeded(0))

    return run


def edm(raw: Raw) -> NetworkDenoiser:
    return NetworkDenoiser(Listening(raw), Karras(), EDMPreconditioning(sigma_data=0.5))


def edm_euler(rounding: Rounding) -> Tensor:
    x = det() * (80.0**2 + 1) ** 0.5
    return sample(edm(dummy), x, karras_times(Karras(), 10), DDIM())


def edm_dpm(wrap: Callable[[Denoiser], Denoiser] = plain, sign: int = 1, skip: int = 0) -> Run:
    """Loop A on EDM's clock: the model sees x itself, not c_in x. The last step stands still."""

    def unscaled(x: Tensor, c_noise: float) -> Tensor:
        return sign * dummy(x * (np.exp(8 * c_noise) + 0.25) ** 0.5, c_noise)

    def run(rounding: Rounding) -> Tensor:
        times = karras_times(Karras(), 10)
        times[-1] = times[-2]
        x = det() + noi() * times[skip].float() if skip else det()
        return walk(DPMSolverPP2M(), wrap(edm(unscaled)), x, times[skip:])

    return run


# ---- the rows of diffusers' full-loop tests


@dataclass(frozen=True)
class Row:
    """A loop, the sum and mean that diffusers' tests expect and, in `here`, what 0.42.1 gives."""

    name: str
    run: Run
    sum: float | None
    mean: float
    here: float
    sum_tolerance: float = 1e-2
    mean_tolerance: float = 1e-3
    here_tolerance: float = 2e-5  # relative
    rounded: bool = False  # their number holds float32 errors beyond their own tolerance


ALL = range(999, -1, -1)
LEADING = range(900, -1, -100)
KEEP = clipped_keeping_eps
TWO_M = DPMSolverPP2M()
DPM_10 = dpm_labels(10)
# Loops that shrink the sample to nothing: the tolerances of diffusers accept zeros.
VACUOUS = {"here_tolerance": 2e-3}
# EDM's labels come close to -1, the pole of the dummy model t / (t + 1), which magnifies rounding.
NEAR_A_POLE = {"here_tolerance": 1e-4}
ROUNDED = {"rounded": True}


def bright(clean: bool) -> Run:
    return loop_a(LEADING, DDIM(), wrap=KEEP, process=BRIGHT_START, clean=clean)


def bright_inverse(clean: bool) -> Run:
    return ddim_inverse(process=BRIGHT_START, clean=clean)


def two_m(labels: Sequence[int] = tuple(DPM_10), **options: Any) -> Run:
    return loop_a(labels, TWO_M, clean=False, **options)


# fmt: off
ROWS = (
    Row("DDPM", loop_a(ALL, Ancestral(), wrap=Clipped), 258.9606, 0.3372, 258.961121),
    Row("DDPM v", loop_a(ALL, Ancestral(), "v", Clipped), 202.0296, 0.2631, 202.029922),
    Row("DDIM", loop_a(LEADING, DDIM(), wrap=KEEP), 172.0067, 0.223967, 172.006714),
    Row("DDIM v", loop_a(LEADING, DDIM(), "v", KEEP), 52.5302, 0.0684, 52.5302048),
    Row("DDIM alpha to one", bright(clean=True), 149.8295, 0.1951, 149.829453),
    Row("DDIM alpha not to one", bright(clean=False), 149.0784, 0.1941, 149.078415),
    Row("DDIM noise 8", loop_a([100, 0], DDIM(), wrap=KEEP, noisy=True),
        354.5418, 0.4616, 354.541809),
    Row("DDIM inverse", ddim_inverse(), 671.6816, 0.8746, 671.681641),
    Row("DDIM inverse v", ddim_inverse("v"), 1394.2185, 1.8154, 1394.21863),
    Row("DDIM inverse alpha to one", bright_inverse(clean=True), 539.9622, 0.7031, 539.962158),
    Row("DDIM inverse alpha not to one", bright_inverse(clean=False),
        542.6722, 0.7066, 542.67218),
    Row("DPM++ 2M", two_m(), None, 0.3301, 253.551422),
    Row("DPM++ 2M noise 5", two_m(DPM_10[5:], noisy=True), 318.4111, 0.4146, 318.411102),
    Row("DPM++ 2M thresholding", two_m(wrap=thresholded), None, 1.1364, 872.727051),
    Row("DPM++ 2M v", two_m(kind="v"), None, 0.2251, 172.873978),
    Row("DPM++ 2M v Karras", dpm_levels(polynomial_levels), None, 0.2096, 160.6642),
    Row("DPM++ 2M v Lu", dpm_levels(geometric_levels), None, 0.1554, 119.364822),
    Row("DPM++ 2M inverse", dpm_inverse(), None, 0.7047, 541.199402),
    Row("DPM++ 2M inverse thresholding", dpm_inverse(wrap=thresholded),
        None, 19.8933, 15278.1006, **ROUNDED),
    Row("DPM++ 2M inverse v", dpm_inverse("v"), None, 1.5194, 1166.87329),
    Row("DPM++ 2M inverse v Karras", dpm_levels(polynomial_levels, up=True),
        None, 1.7833, 1368.28369, mean_tolerance=2e-3),
    Row("Euler", loop_b(Euler()), 10.0807, 0.0131, 10.0806808),
    Row("Euler v", loop_b(Euler(), "v"), 0.0002, 2.2676e-06, 2.42e-10, **VACUOUS),
    Row("Euler Karras", loop_b(Euler(), karras=True), 124.522995, 0.16213933, 124.522598),
    Row("Euler noise 8", loop_b(Euler(), skip=8), 57062.9297, 74.3007, 57062.9297, **ROUNDED),
    Row("Euler ancestral", loop_b(DDIM(eta=1.0)), 152.3192, 0.1983, 152.31929),
    Row("Euler ancestral v", loop_b(Ancestral(), "v"), 108.4439, 0.1412, 108.443893),
    Row("Euler ancestral noise 8", loop_b(Ancestral(), skip=8), 56163.0508, 73.1290, 56163.0508),
    Row("Heun", loop_b(Heun()), 0.1233, 0.0002, 0.123330742),
    Row("Heun v", loop_b(Heun(), "v"), 4.6934e-07, 6.1e-10, 4.92e-07, **VACUOUS),
    Row("Heun Karras", loop_b(Heun(), karras=True),
        0.00015, 1.987e-07, 0.000152598, **VACUOUS),
    Row("Heun noise 8", loop_b(Heun(), skip=8), 75074.8906, 97.7538, 75074.8906, **ROUNDED),
    Row("EDM Euler", edm_euler, 34.1855, 0.044, 34.1855392, sum_tolerance=1e-3),
    Row("EDM DPM++ 2M", edm_dpm(), None, 0.0001, 0.10760618, **NEAR_A_POLE),
    Row("EDM DPM++ 2M thresholding", edm_dpm(thresholded), None, 0.0080, 6.20997667,
        **NEAR_A_POLE),
    Row("EDM DPM++ 2M v", edm_dpm(sign=-1), None, 0.0092, 7.11017895, **NEAR_A_POLE),
    Row("EDM DPM++ 2M noise 5", edm_dpm(skip=5), 8.1661, 0.0106, 8.16569996, **NEAR_A_POLE),
)
# fmt: on


def check_expected(row: Row) -> None:
    """To the tolerance of diffusers' own tests."""
    result = total(row.run(as_float32 if row.rounded else exact))
    assert result / 768 == pytest.approx(row.mean, rel=0, abs=row.mean_tolerance)
    if row.sum is not None:
        assert result == pytest.approx(row.sum, rel=0, abs=row.sum_tolerance)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_loop_gives_the_number_that_diffusers_tests_expect(row: Row) -> None:
    check_expected(row)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_on_the_tables_of_diffusers_the_loop_gives_what_diffusers_gives(row: Row) -> None:
    assert total(row.run(as_float32)) == pytest.approx(row.here, rel=row.here_tolerance, abs=0)


@pytest.mark.parametrize("row", [row for row in ROWS if row.rounded], ids=lambda row: row.name)
def test_exact_tables_are_within_float32_of_the_rows_that_need_rounded_ones(row: Row) -> None:
    """1e-2 of a sum of 57,000 is less than float32 holds; thresholds magnify sigma's 8e-5."""
    assert total(row.run(exact)) == pytest.approx(row.here, rel=1.5e-4, abs=0)


# ---- nothing of the table is forgotten

HELD_IN_TEST_DIFFUSERS_SCHEDULES = (
    "DDPM noise 998", "unCLIP 1000", "unCLIP 25",
    "DDPM variance", "DDPM three times", "DDIM variance", "DDIM three times", "DDIM timesteps",
    "UniPC flow Karras sigmas", "unCLIP variance", "custom timesteps DDPM",
)  # fmt: skip

HELD_IN_TEST_MULTISTEP_TABLES = (
    "DEIS", "DEIS v", "DEIS noise 8",
    "UniPC", "UniPC Karras", "UniPC v", "UniPC v Karras", "UniPC noise 8",
    "UniPC 1-D", "UniPC 1-D Karras", "UniPC 1-D v", "UniPC 1-D v Karras", "UniPC 1-D noise 8",
    "KDPM2", "KDPM2 v", "KDPM2 noise 8",
    "KDPM2 ancestral", "KDPM2 ancestral v", "KDPM2 ancestral noise 8",
    "LMS", "LMS v", "LMS Karras", "LMS noise 8", "IPNDM",
)  # fmt: skip

NOT_BUILT_YET = (
    "PNDM", "PNDM v", "PNDM alpha to one", "PNDM alpha not to one",
    "DPM++ 2S", "DPM++ 2S Karras", "DPM++ 2S v", "DPM++ 2S v Karras", "DPM++ 2S 50 steps",
    "DPM++ 2S noise 5", "DPM-SDE", "DPM-SDE v", "DPM-SDE Karras",
    "SA-Solver", "SA-Solver v", "SA-Solver Karras", "LCM 1", "LCM 10", "TCD 1", "TCD 10",
    "CM 1", "CM two steps", "CM noise 8", "ScoreSdeVe",
    "custom timesteps LCM", "custom timesteps TCD",
)  # fmt: skip

# How many numbers diffusers' tests expect of each scheduler.
TABLE = {
    "DDPM": 5, "DDIM": 12, "PNDM": 4, "DPM++ 2M": 10, "DPM++ 2S": 6, "DPM-SDE": 3, "DEIS": 3,
    "UniPC": 11, "Euler": 7, "Heun": 4, "KDPM2": 6, "LMS": 4, "EDM": 5, "IPNDM": 1,
    "SA-Solver": 3, "LCM": 2, "TCD": 2, "CM": 3, "unCLIP": 3, "ScoreSdeVe": 1, "custom": 3,
}  # fmt: skip


def test_every_row_of_the_table_is_held_or_named_as_not_built() -> None:
    held = [*HELD_IN_TEST_DIFFUSERS_SCHEDULES, *HELD_IN_TEST_MULTISTEP_TABLES]
    names = [*(row.name for row in ROWS), *held, *NOT_BUILT_YET]
    assert len(set(names)) == len(names)
    families = sorted(TABLE, key=len, reverse=True)
    counted = Counter(next(f for f in families if name.startswith(f)) for name in names)
    assert counted == TABLE
