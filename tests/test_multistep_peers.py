"""Multistep solvers and DPM-Solver-2 against diffusers' schedulers, as test_diffusers_grid.py.

Every element after every step, with diffusers' own float32 table. Theirs lower the order near the
end in their own ways: UniPC always, DPM-Solver++ and DEIS below 15 steps; the cases say so.
"""

from functools import partial
from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_k_dpm_2_ancestral_discrete import (
    KDPM2AncestralDiscreteScheduler,
)
from diffusers.schedulers.scheduling_k_dpm_2_discrete import KDPM2DiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from oracles import (
    as_denoiser,
    mixture,
    scaled_input,
    seeded,
    ve_grid,
    vp_grid,
    with_middles,
)
from peers import OLD_NUMPY, difference, noise, of_labels, scheduler, table_of, theirs
from sfumato.multistep import DEIS, LMS, DPMSolverPP, UniPC
from sfumato.singlestep import DPMSolver2
from sfumato.solvers import Step

pytestmark = OLD_NUMPY
KINDS = ("eps", "v", "x0")
SCHEDULES = ("linear", "scaled")


def points_of(solver, denoiser, x, times, counted, randn_like=None):
    """x after every step."""
    points, memory = [], None
    for i, (t, s) in enumerate(pairwise(times)):
        left = len(times) - 1 - i if counted else None
        step = Step(denoiser, denoiser.process, x, t, s, memory, randn_like, left)
        x, memory = solver(step)
        points.append(x)
    return points


def vp_difference(solver, made, schedule, kind, counted, clean=True, seed=None):
    process = table_of(made)
    raw, grid = mixture(kind, process), vp_grid(process, made.timesteps.tolist(), clean)
    options = {} if seed is None else {"generator": torch.Generator().manual_seed(seed)}
    peers = theirs(made, raw, noise(), **options)
    denoiser = of_labels(raw, kind, process)
    return difference(
        points_of(solver, denoiser, noise(), grid.times, counted, seeded(seed or 0)), peers
    )


@pytest.mark.parametrize("spacing", ["linspace", "trailing", "leading"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [10, 20])
def test_dpm_solver_of_order_3(schedule, kind, spacing, steps):
    settings = {"solver_order": 3, "timestep_spacing": spacing}
    made = scheduler(DPMSolverMultistepScheduler, schedule, kind, steps, **settings)
    assert vp_difference(DPMSolverPP(3), made, schedule, kind, counted=steps < 15) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_as_an_sde(schedule, kind, order):
    settings = {"solver_order": order, "algorithm_type": "sde-dpmsolver++"}
    made = scheduler(DPMSolverMultistepScheduler, schedule, kind, 10, **settings)
    solver = DPMSolverPP(order, eta=1.0)
    assert vp_difference(solver, made, schedule, kind, counted=True, seed=3) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("steps", [6, 20])
def test_unipc(schedule, kind, order, variant, steps):
    settings = {"solver_order": order, "solver_type": variant}
    made = scheduler(UniPCMultistepScheduler, schedule, kind, steps, **settings)
    solver = UniPC(order, bh1=variant == "bh1")
    assert vp_difference(solver, made, schedule, kind, counted=True) <= 2e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [10, 20])
def test_deis(schedule, kind, order, steps):
    made = scheduler(DEISMultistepScheduler, schedule, kind, steps, solver_order=order)
    counted = steps < 15
    assert vp_difference(DEIS(order), made, schedule, kind, counted, clean=False) <= 2e-5


def ve_difference(solver, made, kind, labels, seed=None):
    process = table_of(made)
    grid = ve_grid(process, labels)
    fine = with_middles(process, grid)
    raw, x = mixture(kind, process), (noise() * grid.times[0]).float()
    options = {} if seed is None else {"generator": torch.Generator().manual_seed(seed)}
    peers = theirs(made, raw, x, **options)
    if isinstance(solver, DPMSolver2):  # two calls a step, one for the last
        peers = peers[1::2] + peers[-1:]
    denoiser = as_denoiser(scaled_input(raw, fine), kind, fine)
    return difference(points_of(solver, denoiser, x, grid.times, False, seeded(seed or 0)), peers)


@pytest.mark.parametrize("kind", ["eps", "v"])  # they don't have x0
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", ["linspace", "trailing", "leading"])
@pytest.mark.parametrize("cls", [KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler])
def test_dpm_solver_2(cls, schedule, kind, spacing):
    made = scheduler(cls, schedule, kind, 10, timestep_spacing=spacing)
    labels = [*made.timesteps[:1].tolist(), *made.timesteps[2::2].tolist()]
    noisy = cls is KDPM2AncestralDiscreteScheduler
    solver, seed = (DPMSolver2(1.0), 4) if noisy else (DPMSolver2(), None)
    assert ve_difference(solver, made, kind, labels, seed) <= 1e-5


@pytest.mark.skipif(find_spec("scipy") is None, reason="diffusers' LMS needs SciPy")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms(schedule, kind, order):
    from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler

    made = scheduler(LMSDiscreteScheduler, schedule, kind, 10)
    made.step = partial(made.step, order=order)
    assert ve_difference(LMS(order), made, kind, made.timesteps.tolist()) <= 1e-5
