"""What each stage of sfumato tune is given: by what it learns, chooses, aims and judges."""

from dataclasses import replace
from inspect import signature
from types import SimpleNamespace

import pytest
import torch

import sfumato.commands.tune as command
from conftest import normal
from sfumato.aim import Aim
from sfumato.codec import Pixels
from sfumato.commands.tune import Plan, Stages, draw_picture, plan_of
from sfumato.conditions import Nothing
from sfumato.exact import GaussianMixture
from sfumato.grids import KarrasGrid, UniformGrid
from sfumato.process import Karras
from sfumato.rivals import FIXED, Rival
from sfumato.tuning import TEACHER_STEPS, distances, drawn, images_of, mean_distance

SHAPE, CALLS, PLAN = (1, 2, 4), 3, Plan(learn=20, apart=18, judge=6, survey=5)
FEW = {name: FIXED[name] for name in ("ddim", "heun", "deis", "dpm++2m", "lms")}
EXACT = GaussianMixture(Karras(), normal(12, *SHAPE, seed=4) / 2, 0.3)
DATA = normal(9, *SHAPE, seed=5).float() / 2
LOADED = SimpleNamespace(
    codec=Pixels(),
    card=SimpleNamespace(shape=SHAPE, size=SHAPE[1:]),
    conditions=Nothing(),
    run=SimpleNamespace(network=SimpleNamespace(classes=0)),
    device=torch.device("cpu"),
)
STAGES = Stages(LOADED, EXACT, CALLS, PLAN, DATA, SimpleNamespace(say=lambda text: None))


def heard(patch, name):
    """A list that grows with every call of the command's function: what it took, and made."""
    real, calls = getattr(command, name), []

    def listening(*asked, **named):
        bound = signature(real).bind(*asked, **named)
        bound.apply_defaults()
        calls.append(SimpleNamespace(**bound.arguments, made=real(*asked, **named)))
        return calls[-1].made

    patch.setattr(command, name, listening)
    return calls


@pytest.fixture(scope="module")
def told():
    """What was heard while an exact denoiser's sampler was fitted, and what came of it."""
    names = ("taught", "surveyed", "bounded", "start_of", "fitted_rows", "cheapest", "refined")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.rivals.FIXED", FEW)
        calls = {name: heard(patch, name) for name in names}
        _, rivals, aim = STAGES.fitted(0.0, 0.0)
    learn, apart = (call.made[0] for call in calls["taught"])
    return SimpleNamespace(**calls, rivals=rivals, aim=aim, learn=learn, apart=apart)


def far_of(rival, pairs):
    """How far each image of a fixed solver is from the teacher's."""
    return distances(EXACT, pairs, rival.grid(Karras(), rival.steps), rival.solver)


def test_the_gradient_learns_from_some_images_and_chooses_by_others(told):
    (fit,) = told.refined
    assert fit.pairs is told.learn
    assert fit.apart is told.apart
    assert (len(fit.pairs), len(fit.apart)) == (PLAN.learn, PLAN.apart)
    assert fit.table is told.start_of[0].made


def test_where_to_begin_is_fitted_to_some_images_and_chosen_by_others(told):
    (choice,) = told.cheapest
    assert torch.equal(choice.apart.noise, told.apart.noise[: command.AT_ONCE])
    assert torch.equal(choice.apart.images, told.apart.images[: command.AT_ONCE])
    assert len(told.fitted_rows) == len(choice.tables) / 2
    for fit in told.fitted_rows:
        assert torch.equal(fit.noise, told.learn.noise[: command.AT_ONCE])


def test_fixed_solvers_are_surveyed_on_images_to_learn_from(told):
    (survey,) = told.surveyed
    assert torch.equal(survey.pairs.noise, told.learn.noise[: PLAN.survey])
    assert {rival.name for rival in told.rivals} == set(FEW)


def test_what_is_aimed_at_has_the_levels_of_the_data(told):
    wanted = Aim.of(told.learn.images, DATA)
    assert replace(told.aim, bound=wanted.bound) == wanted
    assert len(wanted.gap) > 10


def test_what_is_aimed_at_is_bounded_by_the_nearest_fixed_solvers_on_images_apart(told):
    nearest = told.rivals[: command.BOUNDING]
    least = min(far_of(rival, told.apart).mean().item() for rival in nearest)
    assert told.aim.bound == pytest.approx(command.NEARER * least / told.aim.scale, rel=1e-5)
    assert told.bounded[0].apart is told.apart


def test_every_stage_aims_at_the_same(told):
    for (call,) in (told.start_of, told.cheapest, told.refined):
        assert call.aim is told.aim


# --- the judge


@pytest.fixture(scope="module")
def judged():
    """(the judge's pairs, what it found) of rivals that claim to be the teacher itself."""
    grids = (KarrasGrid(), KarrasGrid(0.1, 20.0), UniformGrid())
    claims = [Rival(n, one, grid, CALLS, 0.0) for n, one in FEW.items() for grid in grids]
    return (*STAGES.judged(some_table(), claims, Aim.of(DATA, DATA)), claims)


def some_table():
    return command.even_tables(Karras(), CALLS)[4]


def test_rivals_are_measured_anew_on_the_judges_images(judged):
    judge, found, _ = judged
    assert len(judge) == PLAN.judge
    wanted = [mean_distance(far_of(rival, judge)) for rival in found.rivals]
    assert [rival.distance for rival in found.rivals] == pytest.approx(wanted, rel=1e-5)
    assert min(wanted) > 0.01
    assert wanted == sorted(wanted)


def test_of_a_rivals_grids_the_first_two_are_judged_and_the_better_one_counts(judged):
    judge, found, claims = judged
    assert sorted(rival.name for rival in found.rivals) == sorted(FEW)
    for rival in found.rivals:
        both = [mean_distance(far_of(one, judge)) for one in claims if one.name == rival.name][:2]
        assert rival.distance == pytest.approx(min(both), rel=1e-5)


# --- the picture


def test_the_picture_has_the_teacher_above_the_tuned_sampler_above_the_best_fixed_one(
    monkeypatch, tmp_path
):
    shown, table, path = heard(monkeypatch, "grid"), some_table(), tmp_path / "tuned.png"
    judge, _ = STAGES.pairs("", 0, 12)
    best, other = (Rival(name, FEW[name], KarrasGrid(), CALLS, 0.1) for name in ("deis", "ddim"))
    draw_picture(STAGES, judge, table, SimpleNamespace(rivals=[best, other]), path, {})
    fixed = drawn(EXACT, judge, best.grid(Karras(), CALLS), best.solver)
    rows = [judge.images, images_of(EXACT, judge, table), fixed]
    wanted = [Pixels().decode(row[: command.COLUMNS]) for row in rows]
    assert torch.equal(shown[0].images, torch.cat(wanted))
    assert not any(torch.equal(wanted[i], wanted[i - 1]) for i in range(3))
    assert shown[0].row_labels == ["teacher", f"tuned {CALLS}", "deis"]
    assert path.is_file()


# --- the plan


def calls_an_image():
    """(of teaching with what is kept apart, of judging, of surveying) for one image more."""
    judging = TEACHER_STEPS + (len(FIXED) * command.GRIDS_EACH + 1) * 6
    return TEACHER_STEPS * 5 / 4, judging, len(FIXED) * 6 * 6


def test_a_plan_draws_as_many_images_as_its_shares_of_the_time_are_enough_for():
    teaching, judging, surveying = calls_an_image()
    for budget, each in ((120, 0.01), (120, 0.006), (60, 0.003)):
        learn = plan_of(budget, each, calls=6, grids=6).learn
        assert learn * teaching * each <= budget / 4 < (learn + 1) * teaching * each
    plan = plan_of(120, 0.002, calls=6, grids=6)
    assert plan.judge * judging * 0.002 <= 120 / 10 < (plan.judge + 1) * judging * 0.002
    assert plan.survey * surveying * 0.002 <= 120 / 12 < (plan.survey + 1) * surveying * 0.002


def test_a_plan_grows_with_the_time_to_its_most():
    plans = [plan_of(budget, 0.005, calls=6, grids=6) for budget in range(10, 700, 10)]
    learn = [plan.learn for plan in plans]
    assert learn == sorted(learn)
    assert (plans[0], plans[-1]) == (Plan(16, 16, 16, 4), Plan(128, 32, 64, 16))
    assert len({*learn}) > 10
