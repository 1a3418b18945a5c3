"""Tuned samplers: tables that are solvers, fitted in closed form and by gradient."""

from functools import partial
from itertools import pairwise
from math import isfinite, log

import pytest
import torch

from conftest import f64, name, normal
from sfumato.aim import Aim
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.exact import GaussianMixture
from sfumato.grids import KarrasGrid, LeadingGrid, TrailingGrid, UniformGrid
from sfumato.kinds import from_dict, to_dict
from sfumato.multistep import DEIS, IPNDM, LMS, DPMSolverPP, UniPC
from sfumato.prediction import Prediction
from sfumato.process import Karras, LinearVP, RectifiedFlow
from sfumato.rivals import (
    FIXED,
    Rival,
    best_of_each,
    measured,
    standard_grids,
    steps_within,
    surveyed,
)
from sfumato.sampling import prior, sample, trajectory
from sfumato.singlestep import DPMSolver2
from sfumato.solvers import DDIM, Ancestral, DPMSolverPP2M, Heun
from sfumato.tuned import TunedGrid, TunedSolver
from sfumato.tuning import (
    LEAST_STEP,
    Knobs,
    Pairs,
    Table,
    _batches,
    cost,
    distance,
    fitted_rows,
    mean_distance,
    on_path,
    refined,
    span_of,
    table_of,
    teacher_path,
    unrolled,
)

PROCESSES = [Karras(), LinearVP(), RectifiedFlow(), LinearBetas(), CosineBetas()]
LINEAR = [DDIM(), DPMSolverPP2M(), DPMSolverPP(3), UniPC(3), DEIS(3), IPNDM(), LMS(), DPMSolver2()]


def many(process):
    """Twelve clusters in eight dimensions."""
    return GaussianMixture(process, normal(12, 8, seed=4), 0.3)


def pairs_of(denoiser, n, seed):
    noise = normal(n, 8, seed=seed)
    path = teacher_path(denoiser, noise, None)
    return Pairs(noise, path[-1].x, None), path


def drawn(denoiser, noise, table):
    times = table.grid(denoiser.process, table.grid.steps)
    return sample(denoiser, prior(denoiser.process, noise, times[0]), times, table.solver)


def costs(denoiser, pairs, tables):
    return [cost(denoiser, pairs, table, Aim.of(pairs.images, None)) for table in tables]


def constant(process, value):
    """A denoiser that knows the image."""

    class Knows:
        def __init__(self):
            self.process = process

        def __call__(self, x_t, t, cond=None):
            return Prediction(x_t, value.expand_as(x_t), t, process)

    return Knows()


# --- tables


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("solver", LINEAR, ids=name)
def test_every_linear_solver_is_a_table(solver, process):
    denoiser, times = many(process), KarrasGrid(0.05)(process, 5)
    table, noise = table_of(solver, process, times), normal(6, 8, seed=1)
    wanted = sample(denoiser, prior(process, noise, times[0]), times, solver)
    assert torch.allclose(drawn(denoiser, noise, table), wanted, atol=1e-7)


def test_the_table_of_a_published_method_is_the_published_one():
    process, times = LinearVP(), KarrasGrid(0.05)(LinearVP(), 4)
    assert table_of(DDIM(), process, times).solver.rows == tuple(
        pytest.approx((*[0.0] * i, 1.0), abs=1e-9) for i in range(4)
    )
    rows = table_of(DPMSolverPP2M(), process, times).solver.rows
    steps = -process.log_snr(times[:4]).diff()  # (log alpha / sigma), twice over
    for i in (1, 2):
        r = (steps[i] / steps[i - 1] / 2).item()
        assert rows[i] == pytest.approx((*[0.0] * (i - 1), -r, 1 + r), abs=1e-9)


@pytest.mark.parametrize(
    ("solver", "message"),
    [(Heun(), "two calls at one time"), (Ancestral(), "adds noise")],
    ids=name,
)
def test_a_solver_without_a_table_is_refused(solver, message):
    times = KarrasGrid(0.05)(Karras(), 4)
    with pytest.raises(ValueError, match=message):
        table_of(solver, Karras(), times)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_a_constant_estimate_is_integrated_exactly(process):
    """Whatever the weights: x_s = alpha_s D + sigma_s eps at every s."""
    weights = normal(5, 5, seed=2).tril(-1)
    rows = tuple((*row[:i].tolist(), 1 - row.sum().item()) for i, row in enumerate(weights))
    image, eps = normal(8, seed=3), normal(4, 8, seed=5)
    times = TunedGrid((20.0, 5.0, 1.0, 0.3, 0.1))
    if process.largest_ratio < 20:
        times = TunedGrid((9.0, 5.0, 1.0, 0.3, 0.1))
    times = times(process, 5)
    start = process.diffuse(image.expand(4, 8), times[0], eps)
    solver = TunedSolver(rows)
    for point in trajectory(constant(process, image), start, times, solver):
        assert torch.allclose(point.x, process.diffuse(image.expand(4, 8), point.t, eps))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TunedGrid((1.0, 2.0)), "each below the one before"),
        (lambda: TunedGrid((1.0, 1.0)), "each below the one before"),
        (lambda: TunedGrid((1.0, 0.0)), "above 0"),
        (lambda: TunedGrid((float("inf"), 1.0)), "above 0"),
        (lambda: TunedGrid(()), "wanted"),
        (lambda: TunedSolver(((1.0,), (0.5, 0.6))), "sum 1"),
        (lambda: TunedSolver(((1.0,), (1.0,))), "2 numbers"),
        (lambda: TunedGrid((2.0, 1.0))(Karras(), 3), "--nfe 3"),
        (lambda: TunedGrid((2.0, 1.0))(Karras(), 1), "--nfe 1"),
        (lambda: TunedGrid((200.0, 1.0))(Karras(), 2), "ends at 80"),
    ],
)
def test_what_is_no_table_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_solver_that_bends_what_it_is_given_has_no_table():
    def bent(step):
        return step.denoise(step.x, step.t).x0 + 0.1 * step.x, None

    with pytest.raises(ValueError, match="bends what it is given"):
        table_of(bent, Karras(), f64(5.0, 0.0))


def test_more_steps_than_rows_are_refused():
    denoiser, times = many(Karras()), KarrasGrid()(Karras(), 3)
    with pytest.raises(ValueError, match="step 3 of a solver that was tuned for 2"):
        sample(denoiser, normal(1, 8), times, TunedSolver(((1.0,), (-0.5, 1.5))))


def test_a_table_is_its_own_json():
    table = table_of(DPMSolverPP2M(), Karras(), KarrasGrid()(Karras(), 6))
    for value in (table.grid, table.solver):
        assert from_dict(to_dict(value)) == value


# --- the closed form


@pytest.mark.parametrize("process", PROCESSES[:3], ids=name)
def test_the_fit_finds_the_method_that_the_teacher_is(process):
    """From DDIM's weights, by least squares on the teacher's points: DPM-Solver++(3M)'s."""
    denoiser, times, noise = many(process), KarrasGrid(0.05)(process, 5), normal(40, 8, seed=6)
    start = prior(process, noise, times[0])
    points = {p.t.item(): p.x for p in trajectory(denoiser, start, times, DPMSolverPP(3))}
    begun = table_of(DDIM(), process, times)
    target = lambda s: points[min(points, key=lambda t: abs(t - s.item()))]  # noqa: E731
    found = fitted_rows(denoiser, noise, None, begun, target, fade=0.0)
    for row, wanted in zip(found.solver.rows, table_of(DPMSolverPP(3), process, times).solver.rows):
        assert row == pytest.approx(wanted, abs=1e-5)


def test_a_strong_ridge_keeps_the_weights():
    denoiser, times, noise = many(Karras()), KarrasGrid(0.05)(Karras(), 4), normal(20, 8, seed=6)
    begun = table_of(DPMSolverPP2M(), Karras(), times)
    found = fitted_rows(denoiser, noise, None, begun, lambda s: normal(20, 8, seed=9), fade=1e12)
    for row, wanted in zip(found.solver.rows, begun.solver.rows):
        assert row == pytest.approx(wanted, abs=1e-6)


def test_a_path_is_known_between_its_points():
    """At the points themselves, and where D is constant everywhere."""
    process, image, noise = LinearVP(), normal(8, seed=3), normal(4, 8, seed=1)
    path = teacher_path(constant(process, image), noise, None)
    for point in path:
        assert torch.equal(on_path(path, process, point.t), point.x)
    start = path[0].t
    eps = (path[0].x - process.alpha(start) * image) / process.sigma(start)
    for ratio in (11.0, 0.7, 0.0031, 0.001):
        s = process.time_at_ratio(f64(ratio))
        wanted = process.diffuse(image.expand(4, 8), s, eps)
        assert torch.allclose(on_path(path, process, s), wanted)


def test_above_a_path_there_is_the_noise_that_it_began_with():
    """Uniform grids of 16 calls on DDPM's betas call above ratio 80, where the teacher begins."""
    process, noise = LinearBetas(), normal(4, 8, seed=1)
    path = teacher_path(many(process), noise, None)
    times = UniformGrid()(process, 16)
    assert times[1] > path[0].t
    torch.testing.assert_close(on_path(path, process, times[1]), prior(process, noise, times[1]))
    table = table_of(DDIM(), process, times)
    target = partial(on_path, path, process)
    found = fitted_rows(many(process), noise, None, table, target, fade=0.1)
    assert all(isfinite(w) for row in found.solver.rows for w in row)


def test_between_points_it_is_the_mean_of_both_estimates():
    process = LinearVP()
    path = teacher_path(many(process), normal(4, 8, seed=1), None)
    here, after, later = path[30:33]
    s = (here.t + after.t) / 2
    shrink = process.sigma(s) / process.sigma(here.t)
    estimate = (after.prediction.x0 + later.prediction.x0) / 2
    wanted = shrink * here.x + (process.alpha(s) - shrink * process.alpha(here.t)) * estimate
    torch.testing.assert_close(on_path(path, process, s), wanted)


# --- the gradient


def test_knobs_give_back_the_table_they_were_set_by():
    table = table_of(DPMSolverPP2M(), Karras(), KarrasGrid(0.02, 20.0)(Karras(), 6))
    back = Knobs.of(table, span_of(Karras())).table()
    assert back.grid.ratios == pytest.approx(table.grid.ratios)
    for row, wanted in zip(back.solver.rows, table.solver.rows):
        assert row == pytest.approx(wanted, abs=1e-9)


def test_calls_at_one_place_or_at_the_end_of_the_span_are_moved_apart():
    high, low = span_of(Karras())
    assert (high, low) == pytest.approx((log(80), log(0.002)))
    grid = TunedGrid((80.0, 79.9999, 1.0))
    rows = ((1.0,), (0.0, 1.0), (0.0, 0.0, 1.0))
    knobs = Knobs.of(Table(grid, TunedSolver(rows)), (high, low))
    logs = [log(ratio) for ratio in knobs.table().grid.ratios]
    assert logs == pytest.approx([high, high - LEAST_STEP, 0.0])
    for row, wanted in zip(knobs.table().solver.rows, rows):
        assert row == pytest.approx(wanted, abs=1e-9)  # the weights are kept where calls were moved


def test_times_fall_inside_the_span_and_rows_sum_to_1_whatever_the_gradient_does():
    knobs = Knobs(9 * normal(7, seed=1), 3 * normal(7, 7, seed=2), (log(80), log(0.002)))
    knobs.settle()
    table = knobs.table()  # which refuses anything else
    assert len(table.grid.ratios) == len(table.solver.rows) == 7
    logs = [log(ratio) for ratio in table.grid.ratios]
    assert all(a - b > LEAST_STEP - 1e-9 for a, b in pairwise(logs))
    assert logs[0] <= log(80) + 1e-9
    assert logs[-1] >= log(0.002) - 1e-9


def test_levels_that_are_apart_inside_the_span_stay_where_they_are():
    levels = f64(3, 1, 0.9, -2)
    knobs = Knobs(levels.clone(), torch.zeros(4, 4), (4.0, -3.0))
    knobs.settle()
    assert torch.equal(knobs.levels, levels)


def test_weights_move_with_times_as_those_of_the_published_method():
    """Levels moved, nothing else: the rows are what DPM-Solver++(2M) has on the new ones."""
    process = Karras()
    knobs = Knobs.of(
        table_of(DPMSolverPP2M(), process, KarrasGrid(0.05)(process, 6)), span_of(process)
    )
    knobs.levels[2:5] += f64(0.3, -0.2, 0.1)
    moved = knobs.table()
    wanted = table_of(DPMSolverPP2M(), process, moved.grid(process, 6))
    for row, expected in zip(moved.solver.rows, wanted.solver.rows):
        assert row == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_what_the_gradient_sees_is_what_is_sampled(process):
    denoiser = many(process)
    pairs, _ = pairs_of(denoiser, 5, seed=1)
    table = table_of(DPMSolverPP2M(), process, KarrasGrid(0.05, 9.0)(process, 5))
    knobs = Knobs.of(table, span_of(process))
    wanted = drawn(denoiser, pairs.noise, knobs.table())
    assert torch.allclose(unrolled(denoiser, pairs, knobs), wanted, atol=1e-9)


def test_the_first_of_each_solver_or_more_are_kept_in_order():
    rivals = [Rival(name, None, None, 1, far) for far, name in enumerate("abacba")]
    assert best_of_each(rivals) == [rivals[0], rivals[1], rivals[3]]
    assert best_of_each(rivals, 2) == rivals[:5]


@pytest.mark.parametrize("process", [Karras(), RectifiedFlow()], ids=name)
def test_tuned_is_nearer_than_every_fixed_solver_on_new_noise(process):
    denoiser = many(process)
    learn = pairs_of(denoiser, 64, seed=1)[0]
    apart, judge = pairs_of(denoiser, 64, seed=2)[0], pairs_of(denoiser, 96, seed=3)[0]
    rivals = best_of_each(surveyed(denoiser, learn.at(torch.arange(32)), 5))
    assert {rival.name for rival in rivals} == set(FIXED)
    best = next(rival for rival in rivals if rival.name not in ("heun", "kdpm2"))
    times = best.grid(process, best.steps)
    start = table_of(best.solver, process, times)
    tuned = refined(denoiser, learn, apart, start, lambda step: step / 40)
    least = min(measured(denoiser, judge, rival).distance for rival in rivals)
    assert distance(denoiser, judge, tuned) < 0.9 * least


def test_refining_never_ends_costlier_on_what_is_kept_apart():
    denoiser = many(Karras())
    pairs, _ = pairs_of(denoiser, 16, seed=1)
    start = table_of(IPNDM(), Karras(), KarrasGrid(0.1, 20.0)(Karras(), 5))
    wrong = Pairs(pairs.noise, pairs.images + 5, None)  # there is nothing good to learn here
    told = []
    found = refined(
        *(denoiser, wrong, pairs, start, lambda step: step / 20),
        notice=lambda share, least: told.append((share, least)),
    )
    after, before = costs(denoiser, pairs, [found, start])
    assert after <= before
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[0][0] == 0


def test_what_can_not_be_bettered_is_kept_and_a_gradient_that_is_no_number_turns_nothing():
    denoiser, noise = many(Karras()), normal(16, 8, seed=1)
    start = table_of(DPMSolverPP2M(), Karras(), KarrasGrid(0.1, 20.0)(Karras(), 5))
    exact = Pairs(noise, drawn(denoiser, noise, start), None)
    assert refined(denoiser, exact, exact, start, lambda step: step / 3) is start
    broken = Pairs(noise, exact.images * float("nan"), None)
    assert refined(denoiser, broken, exact, start, lambda step: step / 3) is start


def test_what_is_learned_from_never_chooses():
    """The images to learn from are a worse sampler's: near to them is far from the teacher."""
    denoiser = many(Karras())
    pairs, _ = pairs_of(denoiser, 16, seed=1)
    times = KarrasGrid(0.1, 20.0)(Karras(), 5)
    start, worse = (table_of(by, Karras(), times) for by in (DPMSolverPP2M(), DDIM()))
    learn = Pairs(pairs.noise, drawn(denoiser, pairs.noise, worse), None)
    found = refined(denoiser, learn, pairs, start, lambda step: step / 60)
    after, before = costs(denoiser, pairs, [found, start])
    assert after <= before


def test_every_pair_is_learned_from_as_often_as_any_other():
    batches = _batches(6, 4)
    seen = torch.cat([next(batches) for _ in range(3)])
    assert seen.bincount(minlength=6).tolist() == [2] * 6


# --- rivals


def test_a_table_of_betas_has_the_grids_of_its_own_steps_too():
    grids = [type(grid) for grid in standard_grids(LinearBetas())]
    assert {TrailingGrid, LeadingGrid} <= {*grids}
    assert not {TrailingGrid, LeadingGrid} & {type(grid) for grid in standard_grids(Karras())}


def test_a_survey_that_is_late_looks_at_one_grid_only():
    denoiser = many(Karras())
    pairs, _ = pairs_of(denoiser, 2, seed=1)
    found = surveyed(denoiser, pairs, 3, late=lambda: True)
    assert len(found) == len(FIXED)
    assert len({rival.grid for rival in found}) == 1


def test_a_fixed_solver_gets_as_many_steps_as_its_calls_allow():
    counts = {
        ("heun", 5): 3,
        ("heun", 6): 3,
        ("ddim", 6): 6,
        ("kdpm2", 6): 3,
        ("unipc", 4): 4,
    }
    for (solver, calls), steps in counts.items():
        assert steps_within(FIXED[solver], KarrasGrid(), Karras(), calls) == steps
    assert steps_within(FIXED["ddim"], UniformGrid(), RectifiedFlow(), 4) == 4
    assert steps_within(FIXED["ddim"], TrailingGrid(), LinearBetas(), 4) == 4


def test_a_distance_is_the_root_mean_square():
    table = Table(TunedGrid((1.0,)), TunedSolver(((1.0,),)))
    image = normal(8, seed=3)
    pairs = Pairs(normal(3, 8), image.expand(3, 8) + 2, None)
    assert distance(constant(Karras(), image), pairs, table) == pytest.approx(2.0)


def test_images_that_are_no_numbers_are_infinitely_far():
    assert mean_distance(f64(1.0, float("nan"))) == float("inf")
