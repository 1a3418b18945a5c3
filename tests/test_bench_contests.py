"""Who takes part in the benchmark of sampling, and what is measured of each, on known images."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench import contests, sampling_calls
from bench.sampling_calls import Scene, compared
from sfumato.commands.sweep_quality import Judge
from sfumato.config import SamplingConfig
from sfumato.generation import Order
from sfumato.grids import KarrasGrid
from sfumato.measuring import Moments, frechet_estimate
from sfumato.process import Karras
from sfumato.rivals import FIXED, even_grids, standard_grids
from sfumato.solvers import DDIM
from sfumato.tuned_runs import path_of, save_tuned, with_table
from sfumato.tuning import TEACHER, TEACHER_STEPS, table_of

FEW = {name: FIXED[name] for name in ("ddim", "heun", "deis")}
GRIDS = [*standard_grids(Karras()), *even_grids(Karras())]
PLACES = [(solver, grid) for grid in GRIDS for solver in FEW.values()]
FAR = {place: 7 * i % 47 for i, place in enumerate(PLACES)}  # no two are the same
TEACHER_FAR, TUNED_FAR = 9, 5
BLACK = 3  # looks it, and is not
ASKED = SamplingConfig(guidance=1.5, guidance_from=0.3, guidance_to=4.0, clipped=True)
JUDGED, RACED = 24, 10
ORDER = Order(range(JUDGED), [i * i % 3 for i in range(JUDGED)], (1, 2, 2))


def pictures(seeds, far=0, black=0):
    """(N, 1, 2, 2): a pixel that is `far` from 100, one that is nearly black, two of chance."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.tensor([100 + far, black, 0, 0]))
        rows[-1][2:] = torch.randint(50, 150, (2,), generator=generator)
    return torch.stack(rows).to(torch.uint8).reshape(-1, 1, 2, 2)


def pixels(images):
    """The features of a judge that sees pixels."""
    return images.flatten(1).double()


REFERENCE = Moments.of(pixels(pictures(range(900, 940))))


def far_of(sampling):
    if sampling.steps == TEACHER_STEPS:
        return TEACHER_FAR
    return FAR.get((sampling.solver, sampling.grid), TUNED_FAR)


@pytest.fixture
def asked(monkeypatch):
    """What was asked to be drawn, (order, sampling) each; the pictures are those above."""
    known = []

    def drawn_by(loaded, order, sampling, batch):
        known.append((order, sampling))
        return pictures(order.seeds, far_of(sampling), BLACK)

    monkeypatch.setattr(contests, "drawn_by", drawn_by)
    monkeypatch.setattr("sfumato.rivals.FIXED", FEW)
    monkeypatch.setattr(contests, "RACED", RACED)
    return known


@pytest.fixture
def loaded(tmp_path):
    """A run's folder with samplers of 4 and 5 calls: whatever they are, they draw TUNED_FAR."""
    for calls in (4, 5):
        save(tmp_path, calls, ASKED)
    return SimpleNamespace(folder=tmp_path, denoiser=SimpleNamespace(process=Karras()))


def save(folder, calls, sampling):
    table = table_of(DDIM(), Karras(), KarrasGrid()(Karras(), calls))
    path = path_of(folder, calls, sampling)
    save_tuned(path, with_table(sampling, table), 3, "average", {"better": True})
    return path


@pytest.fixture
def judge(loaded):
    return Judge(loaded, pixels, REFERENCE, "reference", ORDER, None)


def distance(far, black=BLACK, seeds=ORDER.seeds):
    """What the judge finds: the two pixels that never vary, and the chance of the seeds."""
    chance = frechet_estimate(pixels(pictures(seeds)), REFERENCE).mean
    return pytest.approx(chance + far**2 + black**2, abs=1e-6)


# --- the fixed solvers


def test_what_draws_no_numbers_on_a_grid_has_its_other_grids(loaded, judge, asked, monkeypatch):
    first = min(GRIDS, key=lambda grid: FAR[FEW["ddim"], grid])
    drawn_by = contests.drawn_by

    def broken(loaded, order, sampling, batch):
        if (sampling.solver, sampling.grid) == (FEW["ddim"], first):
            raise FloatingPointError("no numbers")
        return drawn_by(loaded, order, sampling, batch)

    monkeypatch.setattr(contests, "drawn_by", broken)
    found = contests.fixed(loaded, judge, ASKED, 5, quick=False)
    assert [one.name for one in found].count("ddim") == 1
    assert len(found) == 2 * len(FEW)
    assert (FEW["ddim"], first) not in [(one.sampling.solver, one.sampling.grid) for one in found]


def test_of_every_fixed_solver_the_two_grids_of_least_distance_take_part(loaded, judge, asked):
    found = contests.fixed(loaded, judge, ASKED, 5, quick=False)
    assert len(found) == 2 * len(FEW)
    for name, solver in FEW.items():
        best = sorted(GRIDS, key=lambda grid: FAR[solver, grid])[: contests.GRIDS]
        own = [one for one in found if one.sampling.solver == solver]
        assert [one.sampling.grid for one in own] == best
        assert [one.name for one in own] == [name, f"{name}{contests.NEXT_GRID}"]
        assert {one.kind for one in own} == {"fixed"}


def test_they_race_on_the_judges_classes_and_on_seeds_of_their_own(loaded, judge, asked):
    contests.fixed(loaded, judge, ASKED, 5, quick=False)
    assert {(s.solver, s.grid) for _, s in asked} == set(PLACES)
    for order, _ in asked:
        assert [*order.seeds] == [contests.RACE_SEED + i for i in range(RACED)]
        assert order.labels == ORDER.labels[:RACED]
    assert not set(ORDER.seeds) & set(asked[0][0].seeds)


def test_they_draw_as_is_asked_in_no_more_calls(loaded, judge, asked):
    steps = {"ddim": 6, "heun": 3, "deis": 6}  # Heun's last step is one call: 5 in all
    for one in contests.fixed(loaded, judge, replace(ASKED, keep_eps=True), 6, quick=False):
        name = one.name.removesuffix(contests.NEXT_GRID)
        own = {"solver": FEW[name], "grid": one.sampling.grid, "steps": steps[name]}
        assert one.sampling == replace(ASKED, **own)


def test_a_quick_race_is_of_four_images_on_one_grid(loaded, judge, asked):
    found = contests.fixed(loaded, judge, ASKED, 4, quick=True)
    assert {one.name for one in found} == set(FEW)
    assert {(len(order), sampling.grid) for order, sampling in asked} == {(4, GRIDS[0])}


# --- the tuned ones


def test_of_tuned_samplers_those_for_guidance_in_an_interval_come_first(loaded):
    everywhere = save(loaded.folder, 4, SamplingConfig(guidance=1.25))
    wider = save(loaded.folder, 4, replace(ASKED, guidance=1.0, guidance_to=6.0))
    above = save(loaded.folder, 4, replace(ASKED, guidance=1.75, guidance_to=float("inf")))
    save(loaded.folder, 14, ASKED)
    found = contests.tuned_of(loaded, 4)
    inside = path_of(loaded.folder, 4, ASKED)
    assert [one.path for one in found] == [inside, wider, above, everywhere]
    own = contests.of_tuned(found[0])
    assert (own.kind, own.sampling) == ("tuned", found[0].sampling)
    assert own.name == "tuned (nfe-4-guidance-1.5-from-0.3-to-4)"


def test_where_none_was_tuned_the_command_is_told(loaded):
    with pytest.raises(FileNotFoundError, match=r"--nfe 7 --guidance 1\.5"):
        contests.tuned_of(loaded, 7)


# --- what is measured


@pytest.fixture
def rows(loaded, judge, asked):
    """Of 4 calls, by what they are and how far their pixel is."""
    scene = Scene.of(loaded, judge, ASKED, quick=False)
    own, *others = scene.rows(4)
    by_grid = {(name, str(grid)): FAR[one, grid] for name, one in FEW.items() for grid in GRIDS}
    fars = [by_grid[row.name.split(",")[0], row.facts["grid"]] for row in others]
    return [(own, TUNED_FAR), *zip(others, fars)]


def test_the_teacher_draws_the_judges_seeds_under_the_same_guidance(loaded, judge, asked):
    scene = Scene.of(loaded, judge, ASKED, quick=False)
    wanted = replace(ASKED, solver=TEACHER, grid=KarrasGrid(), steps=TEACHER_STEPS)
    assert asked == [(ORDER, wanted)]
    assert torch.equal(scene.teacher, pictures(ORDER.seeds, TEACHER_FAR, BLACK))


def test_the_tuned_sampler_is_the_first_row_and_the_others_are_in_order(rows):
    own, *others = (row for row, _ in rows)
    assert own.name == "tuned, 4"
    assert {row.facts["kind"] for row in others} == {"fixed"}
    found = [row.facts["distance"] for row in others]
    assert found == sorted(found)
    assert {row.amount for row, _ in rows} == {JUDGED}


def test_distances_are_the_judges_with_black_and_without(rows):
    for row, far in rows:
        assert row.facts["distance"] == distance(far)
        assert row.facts["cleared"] == distance(far, black=0)


def test_off_is_the_root_mean_square_from_the_teachers_images(rows):
    for row, far in rows:  # one pixel of four differs
        assert row.facts["off"] == pytest.approx(abs(far - TEACHER_FAR) / 2 / 127.5, rel=1e-5)


def test_more_is_the_distance_above_that_of_the_tuned_sampler(rows):
    assert {far < TUNED_FAR for _, far in rows[1:]} == {True, False}
    for row, far in rows:
        assert row.facts["more"] == pytest.approx(far**2 - TUNED_FAR**2, abs=1e-6)


def test_the_error_of_more_is_that_of_pairs(rows):
    """What differs is the same in every pair, so leaving some out changes nothing."""
    for row, _ in rows:
        assert row.facts["error"] > 1
        assert row.facts["more_error"] == pytest.approx(0, abs=1e-6)


def test_every_number_of_calls_is_compared_with_one_teacher(loaded, judge, asked, monkeypatch):
    monkeypatch.setattr(sampling_calls, "COUNTS", (4, 5))
    made, told = compared(loaded, judge, quick=False)
    assert sum(s.steps == TEACHER_STEPS for _, s in asked) == 1
    assert [row.facts["calls"] for row in made] == [4] * 7 + [5] * 7
    assert [row.name for row in made if row.facts["kind"] == "tuned"] == ["tuned, 4", "tuned, 5"]
    assert told["teacher"] == distance(TEACHER_FAR)
    assert told["teacher_cleared"] == distance(TEACHER_FAR, black=0)
    assert told["teacher_error"] > 1


def test_samplers_for_different_guidance_are_not_compared(loaded, judge, asked, monkeypatch):
    path_of(loaded.folder, 5, ASKED).unlink()
    save(loaded.folder, 5, replace(ASKED, guidance_to=3.0))
    monkeypatch.setattr(sampling_calls, "COUNTS", (4, 5))
    with pytest.raises(ValueError, match=r"nfe-5-.* for another guidance than nfe-4"):
        compared(loaded, judge, quick=False)
