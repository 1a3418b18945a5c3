"""Multistep solvers and DPM-Solver-2: measured orders, equalities between methods, and the ends."""

import inspect
import re
from itertools import pairwise
from math import log
from typing import get_args

import pytest
import torch

from conftest import (
    NO_SIGNAL,
    PROCESSES,
    Draws,
    OnALine,
    f64,
    mixture,
    name,
    no_noise,
    normal,
    one_step,
    snr_times,
)
from sfumato import kinds
from sfumato.arguments import Sample, SamplerName
from sfumato.exact import Empirical
from sfumato.grids import karras_times, uniform_times
from sfumato.multistep import DEIS, IPNDM, LMS, DPMSolverPP, Known, Predicted, TimeDEIS, UniPC
from sfumato.planning import SOLVERS
from sfumato.process import Karras, LinearVP, RectifiedFlow
from sfumato.sampling import known_region, sample
from sfumato.singlestep import DPMSolver2
from sfumato.solvers import DDIM, Ancestral, Churn, DPMSolverPP2M, Step

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)
LOWERED = [DPMSolverPP(2), DPMSolverPP(3), UniPC(2), UniPC(3), DEIS(3), TimeDEIS(3)]
MULTISTEP = [*LOWERED, UniPC(3, bh1=True), DEIS(4), TimeDEIS(2), LMS(2), LMS(), IPNDM(2), IPNDM()]
DETERMINISTIC = [*MULTISTEP, DPMSolver2()]
STOCHASTIC = [DPMSolverPP(2, eta=1.0), DPMSolverPP(3, eta=0.5), DPMSolver2(1.0), DPMSolver2(0.5)]
ALL = [*DETERMINISTIC, *STOCHASTIC]


# ---- orders


def error(solver, process, times):
    """The mean distance from the exact flow; the first three steps begin on it.

    So what the lower orders at the start cost is not there to see.
    """
    line, memory = OnALine(process), None
    start = line.start(16, times[0])
    for i, (t, s) in enumerate(pairwise(times)):
        if i <= 3:
            x = line.flow(start, times[0], t)
            memory = memory._replace(s=None) if isinstance(memory, Predicted) else memory
        x, memory = solver(Step(line.denoiser, process, x, t, s, memory, no_noise))
    return (x - line.flow(start, times[0], times[-1])).norm(dim=1).mean().item()


def check_order(solver, process, order, grids):
    errors = [error(solver, process, times) for times in grids]
    assert log(errors[0] / errors[1], 2) == pytest.approx(order, abs=0.12 if order < 3 else 0.3)


ORDERS = [
    *((DPMSolverPP(1), 1), (DPMSolverPP(2), 2), (DPMSolverPP(3), 2), (DPMSolver2(), 2)),
    *((UniPC(1), 2), (UniPC(2), 3), (UniPC(2, bh1=True), 3), (UniPC(3), 4)),
    *((DEIS(2), 2), (DEIS(3), 3), (DEIS(4), 4), (LMS(2), 2), (LMS(3), 3), (LMS(4), 4)),
    *((TimeDEIS(2), 2), (TimeDEIS(3), 3), (TimeDEIS(4), 4), (IPNDM(2), 2), (IPNDM(4), 2)),
]


@pytest.mark.parametrize(("solver", "order"), ORDERS, ids=str)
def test_error_falls_with_the_order_of_the_solver(solver, order):
    process = RectifiedFlow()
    check_order(solver, process, order, [snr_times(process, n, high=12.0) for n in (50, 100)])


@pytest.mark.parametrize("order", [3, 4])
def test_ipndm_has_its_full_order_on_equal_steps_of_the_noise_level(order):
    grids = [torch.linspace(2, 0.6, n + 1, dtype=torch.float64) for n in (80, 160)]
    check_order(IPNDM(order), Karras(), order, grids)


def test_order_3_of_dpm_solver_is_closer_than_order_2():
    times = snr_times(Karras(), 40, high=12.0)
    errors = [error(DPMSolverPP(order), Karras(), times) for order in (2, 3)]
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
@pytest.mark.parametrize("solver", DETERMINISTIC, ids=str)
def test_from_pure_noise_to_clean_data_the_flow_is_reached(process, solver):
    line, times = OnALine(process), uniform_times(process, 40)
    start = line.start(32, times[0])
    right = line.flow(start, times[0], times[-1])
    ours, ddim = (sample(line.denoiser, start, times, s) - right for s in (solver, DDIM()))
    assert ours.norm(dim=1).mean() < 0.03
    assert ours.norm(dim=1).mean() < 0.7 * ddim.norm(dim=1).mean()


# ---- equalities


@EVERY
@pytest.mark.parametrize("solver", [cls(1) for cls in (DPMSolverPP, DEIS, TimeDEIS, LMS, IPNDM)])
def test_order_1_is_ddim(process, solver):
    times = snr_times(process, 6)
    times[-1] = 0
    x = process.sigma(times[0]) * normal(4, 2)
    got, ddim = (sample(mixture(process), x, times, each) for each in (solver, DDIM()))
    torch.testing.assert_close(got, ddim, rtol=1e-8, atol=1e-9)


@EVERY
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DPMSolverPP(2), DPMSolverPP2M()),
        (DPMSolverPP(1, eta=1.0), Ancestral()),
        (DPMSolverPP(1, eta=1.0), DDIM(eta=1.0)),
    ],
    ids=str,
)
def test_dpm_solver_is_what_others_call_by_other_names(process, ours, theirs):
    times = snr_times(process, 6)
    times[-1] = 0
    x = process.sigma(times[0]) * normal(4, 2)
    a, b = (sample(mixture(process), x, times, s, randn_like=Draws()) for s in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("solver", [s for s in ALL if not isinstance(s, TimeDEIS)], ids=str)
def test_samples_at_equal_snr_are_the_same_on_every_process(solver):
    log_snr, x, outs = torch.linspace(-5, 6, 12, dtype=torch.float64), normal(8, 2), []
    for process in PROCESSES:
        times = process.time_at(log_snr)
        size = torch.hypot(process.alpha(times), process.sigma(times))
        out = sample(mixture(process), size[0] * x, times, solver, randn_like=Draws())
        outs.append(out / size[-1])
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=1e-6, atol=1e-7)


def test_on_edms_clock_time_is_the_noise_level():
    x, times = 20 * normal(4, 2), snr_times(Karras(), 8)
    a, b = (sample(mixture(Karras()), x, times, solver) for solver in (TimeDEIS(3), LMS(3)))
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@EVERY
@pytest.mark.parametrize("solver", DETERMINISTIC, ids=str)
def test_one_image_is_reached_exactly_in_any_number_of_steps(process, solver):
    image, eps = normal(1, 3), normal(4, 3, seed=1)
    times = snr_times(process, 5)
    x = process.diffuse(image.expand(4, 3), times[0], eps)
    got = sample(Empirical(process, image), x, times, solver)
    torch.testing.assert_close(got, process.diffuse(image.expand(4, 3), times[-1], eps))


# ---- the end


def walked(solver, process, times, x, left=None):
    """The last step's x and the one before it, memory and all."""
    memory = None
    for i, (t, s) in enumerate(pairwise(times)):
        begin = Step(mixture(process), process, x, t, s, memory, no_noise, left and left - i)
        x, memory = solver(begin)
    return x, begin


@EVERY
@pytest.mark.parametrize("solver", LOWERED, ids=str)
def test_a_step_to_clean_data_gives_the_estimate_of_the_clean_image(process, solver):
    times = snr_times(process, 6)
    times[-1] = 0
    x, last = walked(solver, process, times, process.sigma(times[0]) * normal(4, 2))
    assert last.memory
    estimates = []

    def heard(x, t):
        estimates.append(last.denoise(x, t))
        return estimates[-1]

    assert torch.equal(solver(last._replace(denoise=heard))[0], x)
    torch.testing.assert_close(x, estimates[-1].x0, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", [DPMSolverPP(3), DEIS(4), TimeDEIS(3), UniPC(3)], ids=str)
@pytest.mark.parametrize("left", [1, 2, 3, 9])
def test_no_more_values_are_used_than_steps_are_left(solver, left):
    process = LinearVP()
    _, last = walked(solver, process, snr_times(process, 6), normal(4, 2))
    lower = type(solver)(min(left, solver.order))
    if isinstance(solver, UniPC):
        last = last._replace(memory=last.memory._replace(s=None))
    limited, of_lower_order = (s(last._replace(left=n))[0] for s, n in ((solver, left), (lower, 9)))
    assert torch.equal(limited, of_lower_order)
    assert torch.equal(limited, solver(last)[0]) == (left >= solver.order)


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_sampling_counts_the_steps_that_are_left_to_clean_data(end):
    seen = []

    def spy(step):
        seen.append(step.left)
        return step.x, None

    sample(mixture(Karras()), normal(2, 2), f64(3.0, 2.0, 1.0, end), spy)
    assert seen == ([3, 2, 1] if end == 0 else [None] * 3)


@pytest.mark.parametrize("solver", [LMS(2), IPNDM(2)], ids=str)
def test_lms_and_ipndm_keep_their_order_up_to_clean_data(solver):
    x, last = walked(solver, Karras(), f64(3.0, 2.0, 1.0, 0.0), 3 * normal(4, 2), left=3)
    assert (x - mixture(Karras())(last.x, last.t).x0).abs().max() > 1e-3


@EVERY
@pytest.mark.parametrize("solver", STOCHASTIC, ids=str)
def test_the_last_step_adds_no_noise(process, solver):
    t, x, draws = process.time_at_ratio(f64(0.3)), normal(4, 2), Draws()
    got = one_step(solver, mixture(process), x, t, f64(0.0), no_noise)
    torch.testing.assert_close(got, mixture(process)(x, t).x0, rtol=1e-9, atol=1e-12)
    one_step(solver, mixture(process), x, process.time_at_ratio(f64(0.6)), t, draws)
    assert draws.count == 1


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
@pytest.mark.parametrize("solver", ALL, ids=str)
def test_the_first_step_may_start_from_pure_noise(process, solver):
    x, times = normal(4, 2), torch.cat([f64(1.0, 0.9), snr_times(process, 5, high=5.0)])
    first = one_step(solver, mixture(process), x, times[0], times[1], Draws())
    noise = {0.0: x, 1.0: Draws()(x)}.get(getattr(solver, "eta", 0.0))
    if noise is not None:
        x0 = mixture(process)(x, times[0]).x0
        torch.testing.assert_close(first, process.diffuse(x0, times[1], noise))
    assert torch.isfinite(sample(mixture(process), x, times, solver, randn_like=Draws())).all()


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
@pytest.mark.parametrize("solver", [TimeDEIS(3), IPNDM()], ids=str)
def test_nothing_known_is_used_while_there_is_no_signal(process, solver):
    """As in the second of two steps within pure noise, which a process of one's own may have."""
    t, s, before = f64(process.t_max), process.time_at_ratio(f64(5.0)), normal(4, 2, seed=1)
    memory = (before,) if isinstance(solver, IPNDM) else (Known(1.5 * t, before),)
    step = Step(mixture(process), process, normal(4, 2), t, s, memory, no_noise)
    torch.testing.assert_close(solver(step)[0], DDIM()(step)[0])


# ---- what comes with a step


def test_network_calls():
    """One a step; DPM-Solver-2 two, and one for the last."""
    for solver in ALL:
        calls, denoiser = [], mixture(Karras())

        def counted(x, t, calls=calls, denoiser=denoiser):
            calls.append(t)
            return denoiser(x, t)

        x, memory = 80 * normal(2, 2), None
        for t, s in pairwise(karras_times(Karras(), 18)):
            x, memory = solver(Step(counted, Karras(), x, t, s, memory, Draws()))
        assert len(calls) == (35 if isinstance(solver, DPMSolver2) else 18)


def test_unipc_corrects_only_what_it_left():
    """Churn moves x away before each step, so there is nothing to correct."""
    process, x = Karras(), 20 * normal(4, 2)
    times = snr_times(process, 3)
    memory = UniPC(2)(Step(mixture(process), process, x, times[0], times[1], None, no_noise))[1]
    step = Step(mixture(process), process, memory.x_s, times[1], times[2], memory, Draws())
    assert (UniPC(2)(step)[1].x - step.x).abs().max() > 1e-3
    began = Churn(UniPC(2), 0.2)(step)[1]
    seen = process.time_at_ratio(1.2 * process.ratio(times[1]))
    noise = torch.sqrt(seen**2 - times[1] ** 2) * Draws()(x)
    torch.testing.assert_close(began.x, step.x + noise)


def test_unipc_keeps_what_is_known_of_the_image():
    process, image = LinearVP(), normal(4, 2, seed=5)
    mask = torch.tensor([[True, False]]).expand(4, 2)
    times, x = uniform_times(process, 8), normal(4, 2)
    project = known_region(process, image, mask, Draws())
    got = sample(mixture(process), x, times, UniPC(3), project=project, randn_like=Draws())
    assert torch.equal(got[mask], image[mask])
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("solver", ALL, ids=str)
def test_float32_images_stay_float32(process, solver):
    times = snr_times(process, 5)
    x, noise = (process.sigma(times[0]) * normal(4, 2)).float(), Draws()
    got = sample(mixture(process), x, times, solver, randn_like=lambda x: noise(x).to(x))
    assert got.dtype == torch.float32
    want = sample(mixture(process), x.double(), times, solver, randn_like=Draws())
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3)


def test_memory_holds_no_more_than_the_order_needs():
    for solver in (DPMSolverPP(3), DEIS(3), LMS(3), IPNDM(3)):
        _, last = walked(solver, Karras(), snr_times(Karras(), 7), normal(2, 2))
        assert len(last.memory) == 2
    assert isinstance(last.memory[0], torch.Tensor)
    _, last = walked(UniPC(3), Karras(), snr_times(Karras(), 7), normal(2, 2))
    assert len(last.memory.known) == 3
    assert isinstance(last.memory.known[0], Known)


# ---- names and settings


@pytest.mark.parametrize("cls", [DPMSolverPP, UniPC, DEIS, TimeDEIS, LMS, IPNDM])
@pytest.mark.parametrize("order", [0, 5])
def test_an_order_that_is_not_there_is_refused(cls, order):
    with pytest.raises(ValueError, match=rf"{cls.__name__}\(order={order}\); it has orders 1 to"):
        cls(order)


@pytest.mark.parametrize("cls", [DPMSolverPP, DPMSolver2])
@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_out_of_range_is_refused(cls, eta):
    with pytest.raises(ValueError, match=r"eta = .*0 \(an ODE\) to 1"):
        cls(eta=eta)


def test_every_sampler_has_one_name_in_the_flags_the_help_and_the_settings():
    assert set(get_args(SamplerName)) == set(SOLVERS)
    help_text = inspect.getsource(Sample).partition("sampler: Sampler = None")[2].split('"""')[1]
    assert set(re.findall(r"[a-z+0-9-]+", help_text)) >= set(SOLVERS)
    assert len(set(SOLVERS.values())) == len(SOLVERS)
    for solver in SOLVERS.values():
        assert kinds.from_dict(kinds.to_dict(solver), "solver") == solver
