"""Multistep solvers and DPM-Solver-2 held against exact answers, as in test_exact_digests.py."""

from functools import partial

import numpy as np
import pytest
from torch import Tensor

from oracles import (
    as_denoiser,
    dpm_labels,
    mixture,
    ratios,
    scaled_input,
    seeded,
    start,
    ve_grid,
    vp_grid,
    walk,
    with_middles,
)
from sfumato.multistep import DEIS, LMS, DPMSolverPP, UniPC
from sfumato.sampling import sample
from sfumato.singlestep import DPMSolver2
from sfumato.solvers import Solver
from test_exact_digests import (
    LINEAR,
    LINEAR_1100,
    VE,
    VP,
    check_convergence,
    check_digest,
    dpm,
    perfect,
    points,
)

# ---- the samplers, by the number of steps


def sde(steps: int) -> Tensor:
    times = vp_grid(LINEAR, dpm_labels(steps)).times
    x, solver = points(start()), DPMSolverPP(2, eta=1.0)
    return sample(perfect(LINEAR), x, times, solver, randn_like=seeded(0))


def few_counted(steps: int, solver: Solver, clean: bool = True) -> Tensor:
    """As diffusers, which lowers the order near the end only below 15 steps."""
    times = vp_grid(LINEAR, dpm_labels(steps), clean).times
    return walk(solver, perfect(LINEAR), points(start()), times, counted=steps < 15)


def on_ve(steps: int, solver: Solver) -> Tensor:
    """On EDM's clock; halfway through a step the network is told a fractional label."""
    grid = ve_grid(LINEAR_1100, np.linspace(0, 1099, steps)[::-1])
    fine = with_middles(LINEAR_1100, grid)
    raw = scaled_input(mixture("eps", LINEAR_1100), fine)
    x = (start() * ratios(LINEAR_1100)[-1]).float()
    return sample(as_denoiser(raw, "eps", fine), x, grid.times, solver)


# ---- digests of ten steps

DIGESTS = {
    "DPM++ 1": (partial(dpm, 10, DPMSolverPP(1)), 759.1282, 4.943490, 1.164797),
    "DPM++ 2M": (partial(dpm, 10, DPMSolverPP(2)), 809.0408, 5.209378, 1.216503),
    "DPM++ 3M": (partial(dpm, 10, DPMSolverPP(3)), 816.7873, 5.249163, 1.223561),
    "SDE-DPM++ 2M": (partial(sde, 10), 752.4335, 25.560011, 0.817994),
    "UniPC order 2": (partial(dpm, 10, UniPC(2)), 813.8944, 5.226040, 1.217032),
    "UniPC order 3": (partial(dpm, 10, UniPC(3)), 816.7147, 5.236528, 1.218349),
    "DEIS order 2": (partial(few_counted, 10, DEIS(2), False), 798.4937, 5.159829, 1.208728),
    "KDPM2": (partial(on_ve, 10, DPMSolver2()), 895.4136, 5.976961, 1.481397),
    "LMS": (partial(on_ve, 10, LMS()), 816.4806, 5.152857, 1.209140),
}


@pytest.mark.parametrize("name", DIGESTS)
def test_ten_steps_with_the_perfect_denoiser_give_the_tabled_digest(name: str) -> None:
    check_digest(*DIGESTS[name])


# ---- mean errors at 10, 20, 40 and 80 steps, and the least order seen between the last two

CONVERGENCE = {
    "DPM++ 3M": (
        partial(few_counted, solver=DPMSolverPP(3)),
        *(VP.solution, (5.8e-2, 3.7e-2, 7.4e-3, 3.1e-3), 1.2),
    ),
    "UniPC order 2": (
        partial(dpm, solver=UniPC(2)),
        *(VP.solution, (6.2e-2, 3.6e-2, 8.6e-3, 1.7e-3), 1.9),
    ),
    "DEIS order 2": (
        partial(few_counted, solver=DEIS(2), clean=False),
        *(VP.solution, (6.1e-2, 7.7e-3, 5.9e-3, 2.6e-3), 1.1),
    ),
    "KDPM2": (
        partial(on_ve, solver=DPMSolver2()),
        *(VE.solution, (1.1e-1, 2.8e-2, 7.1e-3, 1.8e-3), 1.9),
    ),
    "LMS": (
        partial(on_ve, solver=LMS()),
        *(VE.solution, (9.3e-2, 1.1e-2, 5.3e-4, 7.1e-5), 2.8),  # float32 has a share in the last
    ),
}


@pytest.mark.parametrize("name", CONVERGENCE)
def test_mean_errors_are_the_tabled_ones_and_fall_with_the_order(name: str) -> None:
    check_convergence(*CONVERGENCE[name])
