"""Solvers: measured orders of convergence, equalities between methods, and the papers' formulas."""

from itertools import pairwise
from math import log

import pytest
import torch

from conftest import (
    CONTINUOUS,
    DISCRETE,
    LOG_WEIGHTS,
    MEANS,
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
from sfumato.denoiser import Clipped, OnProcess
from sfumato.exact import Empirical
from sfumato.grids import karras_times, uniform_times
from sfumato.process import Karras, LinearVP, RectifiedFlow, Trigonometric
from sfumato.sampling import sample
from sfumato.solvers import (
    DDIM,
    Ancestral,
    Churn,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    Step,
)

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)
TABLED = pytest.mark.parametrize("process", DISCRETE, ids=name)
DETERMINISTIC = [DDIM(), Euler(), Heun(), DPMSolverPP2M()]
STOCHASTIC = [DDIM(0.5), DDIM(1.0), Ancestral(0.0), Ancestral(0.4), Ancestral(1.0), EulerMaruyama()]
SOLVERS = [*DETERMINISTIC, *STOCHASTIC]


def error(solver, process, steps, clock=None):
    """The mean distance from the exact flow, by a solver on the process's clock or another."""
    line = OnALine(clock or process)
    denoiser = OnProcess(OnALine(process).denoiser, clock) if clock else line.denoiser
    times = snr_times(denoiser.process, steps, high=12.0)
    x = line.start(64, times[0])
    got = sample(denoiser, x, times, solver)
    return (got - line.flow(x, times[0], times[-1])).norm(dim=1).mean().item()


ORDERS = [(DDIM(), 1), (Euler(), 1), (Heun(), 2), (DPMSolverPP2M(), 2)]
SMOOTH = [(p, s, order) for p in PROCESSES for s, order in ORDERS if p in CONTINUOUS or s != Heun()]


@pytest.mark.parametrize(("process", "solver", "order"), SMOOTH, ids=name)
def test_error_falls_with_the_order_of_the_solver(process, solver, order):
    errors = [error(solver, process, steps) for steps in (40, 80)]
    assert errors[1] < (0.02 if order == 1 else 4e-4)
    assert log(errors[0] / errors[1], 2) == pytest.approx(order, abs=0.12)


@TABLED
@pytest.mark.parametrize("solver", [Heun(), DDIM()], ids=name)
def test_a_table_on_edms_clock_has_the_full_order(process, solver):
    errors = [error(solver, process, steps, Karras()) for steps in (40, 80)]
    assert log(errors[0] / errors[1], 2) == pytest.approx(2 if solver == Heun() else 1, abs=0.12)


@TABLED
def test_the_kinks_of_a_table_cost_heun_little(process):
    """Its own clock changes speed at every step of the table, so the order is not to be had."""
    assert error(Heun(), process, 40) < 1e-3
    assert error(Heun(), process, 160) < 2e-4


@pytest.mark.parametrize("process", [Karras(), RectifiedFlow()], ids=name)
def test_ddim_is_eulers_method_where_the_path_is_straight(process):
    x, times = 3 * normal(16, 2), snr_times(process, 10)
    ddim, euler = (sample(mixture(process), x, times, solver) for solver in (DDIM(), Euler()))
    torch.testing.assert_close(ddim, euler, rtol=1e-10, atol=1e-12)
    curved = snr_times(Trigonometric(), 10)
    ddim, euler = (sample(mixture(Trigonometric()), x, curved, s) for s in (DDIM(), Euler()))
    assert (ddim - euler).abs().max() > 1e-3


@EVERY
@pytest.mark.parametrize("end", [0.1, 0.0])
def test_ddim_with_all_its_noise_is_ancestral_sampling(process, end):
    times = snr_times(process, 12)
    if end == 0:
        times[-1] = 0
    x = process.sigma(times[0]) * normal(16, 2)
    a = sample(mixture(process), x, times, DDIM(eta=1.0), randn_like=Draws())
    b = sample(mixture(process), x, times, Ancestral(0.0), randn_like=Draws())
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "solver", [DDIM(), DDIM(0.5), Ancestral(0.0), DPMSolverPP2M()], ids=["ddim", "0.5", "0", "2m"]
)
def test_samples_at_equal_snr_are_the_same_on_every_process(solver):
    log_snr = torch.linspace(-5, 6, 20, dtype=torch.float64)
    x, outs = normal(8, 2), []
    for process in PROCESSES:
        times = process.time_at(log_snr)
        size = torch.hypot(process.alpha(times), process.sigma(times))
        out = sample(mixture(process), size[0] * x, times, solver, randn_like=Draws())
        outs.append(out / size[-1])
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=1e-6, atol=1e-7)


@EVERY
@pytest.mark.parametrize("solver", [DDIM(), DPMSolverPP2M()], ids=name)
def test_one_image_is_reached_exactly_in_any_number_of_steps(process, solver):
    image, eps = normal(1, 3), normal(4, 3, seed=1)
    times = snr_times(process, 3)
    x = process.diffuse(image.expand(4, 3), times[0], eps)
    got = sample(Empirical(process, image), x, times, solver)
    torch.testing.assert_close(got, process.diffuse(image.expand(4, 3), times[-1], eps))


@EVERY
def test_churn_adds_the_noise_of_the_process(process):
    """Of any process x_t + noise is distributed as x at the larger ratio."""
    t, seen = snr_times(process, 4)[1], []

    def spy(step):
        seen.append(step)
        return step.x, "memory"

    x, noise = normal(4, 2), normal(4, 2, seed=1)
    step = Step(mixture(process), process, x, t, t / 2, None, lambda _: noise)
    assert Churn(spy, 0.1)(step)[1] == "memory"
    t_hat = seen[0].t
    torch.testing.assert_close(process.ratio(t_hat), 1.1 * process.ratio(t))
    scale = process.alpha(t_hat) / process.alpha(t)
    added = process.sigma(t_hat) ** 2 - (scale * process.sigma(t)) ** 2
    torch.testing.assert_close(seen[0].x, scale * x + added.sqrt() * noise)
    assert seen[0].s == t / 2


@pytest.mark.parametrize("solver", [Heun(), DPMSolverPP2M()], ids=name)
@pytest.mark.parametrize(
    "still", [{"amount": 0.0}, {"amount": 1.0, "max_ratio": 0.01}, {"amount": 1.0, "min_ratio": 99}]
)
def test_churn_outside_its_interval_is_the_solver_itself(solver, still):
    process = Karras()
    x, times = 20 * normal(8, 2), snr_times(process, 8)
    got = sample(mixture(process), x, times, Churn(solver, **still), randn_like=no_noise)
    assert torch.equal(got, sample(mixture(process), x, times, solver))


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
def test_churn_leaves_pure_noise_alone(process):
    x, times = normal(8, 2), f64(1.0, 0.9)
    got = sample(mixture(process), x, times, Churn(DDIM(), 0.4), randn_like=no_noise)
    assert torch.equal(got, sample(mixture(process), x, times, DDIM()))


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
def test_euler_maruyama_refuses_pure_noise(process):
    with pytest.raises(ValueError, match=r"t = 1 of.*alpha is 0.*Ancestral\(\)"):
        one_step(EulerMaruyama(), mixture(process), normal(2, 2), f64(1.0), f64(0.9))


@EVERY
@pytest.mark.parametrize("solver", [*STOCHASTIC, Churn(Heun(), 0.4, 0.5)], ids=name)
def test_the_last_step_adds_no_noise(process, solver):
    t, x, draws = process.time_at_ratio(f64(0.3)), normal(4, 2), Draws()
    got = one_step(solver, mixture(process), x, t, f64(0.0), no_noise)
    assert torch.isfinite(got).all()
    one_step(solver, mixture(process), x, process.time_at_ratio(f64(0.6)), t, draws)
    assert draws.count == 1  # the step before it does


@EVERY
@pytest.mark.parametrize(
    "solver", [DDIM(), DDIM(1.0), DPMSolverPP2M(), Ancestral(), Ancestral(1.0)], ids=name
)
def test_the_last_step_gives_the_estimate_of_the_clean_image(process, solver):
    t, x = process.time_at_ratio(f64(0.3)), normal(4, 2)
    got = one_step(solver, mixture(process), x, t, f64(0.0))
    torch.testing.assert_close(got, mixture(process)(x, t).x0, rtol=1e-9, atol=1e-12)


@EVERY
def test_the_last_step_of_a_multistep_solver_looks_at_nothing_before(process):
    t, x = process.time_at_ratio(f64(0.3)), normal(4, 2)
    memory = normal(4, 2, seed=1), f64(0.7)
    got = one_step(DPMSolverPP2M(), mixture(process), x, t, f64(0.0), memory=memory)
    torch.testing.assert_close(got, mixture(process)(x, t).x0, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("process", [Karras(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("solver", [Euler(), Heun()], ids=name)
def test_eulers_last_step_does_too_where_the_path_is_straight(process, solver):
    t, x = process.time_at_ratio(f64(0.3)), normal(4, 2)
    got = one_step(solver, mixture(process), x, t, f64(0.0))
    torch.testing.assert_close(got, mixture(process)(x, t).x0, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != EulerMaruyama()], ids=str)
def test_the_first_step_may_start_from_pure_noise(process, solver):
    x, s = normal(4, 2), f64(0.9)
    mean = (LOG_WEIGHTS.exp() @ MEANS).expand(4, 2)
    got = one_step(solver, mixture(process), x, f64(1.0), s, Draws())
    assert torch.isfinite(got).all()
    if solver in (DDIM(), DPMSolverPP2M()):
        torch.testing.assert_close(got, process.diffuse(mean, s, x))
    if solver in (Ancestral(0.0), DDIM(1.0)):
        torch.testing.assert_close(got, process.diffuse(mean, s, Draws()(x)))
    times = torch.cat([f64(1.0, 0.9), snr_times(process, 3, high=5.0)])
    assert torch.isfinite(sample(mixture(process), x, times, solver, randn_like=Draws())).all()


@EVERY
def test_clipping_bounds_the_estimate_and_never_x_t(process):
    t, s = snr_times(process, 4, high=2.0)[1:3]
    x = 6 * normal(32, 2)
    clipped = Clipped(mixture(process), -0.1, 0.1)
    x0 = mixture(process)(x, t).x0.clamp(-0.1, 0.1)
    got = one_step(Ancestral(), clipped, x, t, s, torch.zeros_like)
    torch.testing.assert_close(got, process.posterior(x, x0, t, s).mean)
    assert got.abs().max() > 1
    eps = (x - process.alpha(t) * x0) / process.sigma(t)
    got = one_step(DDIM(), clipped, x, t, s)
    torch.testing.assert_close(got, process.diffuse(x0, s, eps))
    assert got.abs().max() > 1


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_network_calls(solver):
    """One a step; Heun two, and one for the last: EDM's 18 steps are 35 calls."""
    calls, denoiser = [], mixture(Karras())

    def counted(x, t):
        calls.append(t)
        return denoiser(x, t)

    x, memory = 80 * normal(2, 2), None
    for t, s in pairwise(karras_times(Karras(), 18)):
        x, memory = solver(Step(counted, Karras(), x, t, s, memory, Draws()))
    assert len(calls) == (35 if solver == Heun() else 18)


def test_memory_is_an_argument_and_the_solver_a_value():
    solver, denoiser, x = DPMSolverPP2M(), mixture(LinearVP()), normal(4, 2)
    grid = uniform_times(LinearVP(), 4)
    fresh, memory = solver(Step(denoiser, LinearVP(), x, grid[1], grid[2], None, no_noise))
    _, before = solver(Step(denoiser, LinearVP(), x + 1, grid[0], grid[1], None, no_noise))
    second, _ = solver(Step(denoiser, LinearVP(), x, grid[1], grid[2], before, no_noise))
    again, _ = solver(Step(denoiser, LinearVP(), x, grid[1], grid[2], None, no_noise))
    assert torch.equal(fresh, again)
    assert not torch.equal(fresh, second)
    torch.testing.assert_close(memory[0], denoiser(x, grid[1]).x0)
    assert len(set(SOLVERS)) == len(SOLVERS)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_out_of_range_is_refused(eta):
    with pytest.raises(ValueError, match=r"eta = .*0 \(DDIM\) to 1 \(DDPM\)"):
        DDIM(eta)


def test_a_learned_variance_must_have_been_learned():
    with pytest.raises(ValueError, match=r"learned_variance=True"):
        one_step(Ancestral(None), mixture(LinearVP()), normal(2, 2), f64(0.5), f64(0.4))


@EVERY
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_float32_images_stay_float32(process, solver):
    times = snr_times(process, 5)
    x = (process.sigma(times[0]) * normal(4, 2)).float()
    noise = Draws()
    got = sample(mixture(process), x, times, solver, randn_like=lambda x: noise(x).to(x))
    assert got.dtype == torch.float32
    want = sample(mixture(process), x.double(), times, solver, randn_like=Draws())
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3)
