"""The sweep's measurements, on denoisers of which the solution is known."""

from dataclasses import replace
from itertools import count
from math import gamma, inf, isnan, pi, sqrt
from types import SimpleNamespace

import pytest
import torch

from conftest import name, normal
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.exact import GaussianMixture
from sfumato.grids import KarrasGrid
from sfumato.named import SOLVERS
from sfumato.process import Karras, LinearVP, RectifiedFlow
from sfumato.rivals import FIXED, Rival, standard_grids, steps_within
from sfumato.sampling import prior, sample
from sfumato.solvers import DDIM, Heun
from sfumato.sweeping import (
    GRIDS_EACH,
    NOISY,
    Row,
    bent,
    calls_of,
    candidates,
    clear_from,
    converged,
    floor,
    grids_for,
    is_farther,
    judged,
    nearest,
    noisy_of,
    surveyed_all,
    ties,
)

PROCESSES = [Karras(), LinearVP(), RectifiedFlow(), LinearBetas(), CosineBetas()]


def gaussian(process, deviation=0.5):
    """One Gaussian around 0: x(t) is the noise times sqrt(alpha^2 deviation^2 + sigma^2)."""
    return GaussianMixture(process, torch.zeros(1, 6, dtype=torch.float64), deviation)


def row(distance, squares=(), spent=5, name="ddim"):
    rival = Rival(name, DDIM(), KarrasGrid(), 5, distance)
    return Row(5, 1.0, rival, spent, torch.tensor(squares, dtype=torch.float64), 0.1)


@pytest.mark.parametrize("process", [Karras(), LinearVP()], ids=name)
def test_the_converged_images_are_the_solution_of_the_ode(process):
    noise, denoiser = normal(5, 6, seed=1), gaussian(process)
    pairs = converged(denoiser, noise, None, 200, batch=2)
    t = KarrasGrid()(process, 200)[0]
    start = prior(process, noise, t)
    spread = (0.5**2 * process.alpha(t) ** 2 + process.sigma(t) ** 2).sqrt()
    assert torch.allclose(pairs.images, start * 0.5 / spread, atol=5e-4)
    assert floor(denoiser, pairs, 200) < 1e-3


def test_the_batch_decides_nothing():
    noise, denoiser = normal(5, 6, seed=1), gaussian(Karras())
    whole = converged(denoiser, noise, None, 20, batch=5).images
    assert torch.equal(converged(denoiser, noise, None, 20, batch=2).images, whole)


@pytest.mark.parametrize("name", SOLVERS)
def test_calls_and_noise_are_found_without_touching_the_global_dice(name):
    noisy = {"sde-dpm++2m", "kdpm2-ancestral", "ddpm", "ddpm-large", "euler-ancestral"}
    before = torch.get_rng_state()
    calls, adds = calls_of(SOLVERS[name], KarrasGrid(0.02, 20.0), Karras(), 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert adds == (name in noisy | {"euler-maruyama", "churn"})
    two = {"heun": 7, "churn": 7, "kdpm2": 7, "kdpm2-ancestral": 7}
    assert calls == two.get(name, 4)


def test_a_row_has_the_distance_of_its_images(monkeypatch):
    monkeypatch.setattr(
        "sfumato.sweeping.time", SimpleNamespace(monotonic=count(0.0, 3.0).__next__)
    )
    denoiser = gaussian(Karras())
    pairs = converged(denoiser, normal(6, 6, seed=2), None, 60, batch=6)
    found = judged(denoiser, pairs, Rival("ddim", DDIM(), KarrasGrid(), 7, 0.0), 8, 2.0)
    times = KarrasGrid()(Karras(), 7)
    images = sample(denoiser, prior(Karras(), pairs.noise, times[0]), times, DDIM())
    squares = (images - pairs.images).square().mean(1)
    assert torch.allclose(found.squares, squares)
    assert found.rival.distance == pytest.approx(squares.mean().sqrt().item())
    assert (found.calls, found.spent, found.guidance) == (8, 7, 2.0)
    error = squares.std().item() / 6**0.5 / (2 * found.rival.distance)
    assert found.error == pytest.approx(error)
    assert found.seconds == 3.0 / 6


def test_a_row_of_one_image_has_no_error():
    assert isnan(row(0.1, [0.01]).error)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_with_many_calls_the_whole_range_of_noise_comes_first(process):
    few, many = grids_for(process, 5), grids_for(process, 50)
    assert few == standard_grids(process)
    assert set(many) == set(few)
    assert many[0] == KarrasGrid()


@pytest.mark.parametrize(
    ("process", "is_bent"), list(zip(PROCESSES, [False, True, False, True, True]))
)
def test_eulers_method_is_ddim_on_straight_clocks_only(process, is_bent):
    assert bent(process) == is_bent


def test_candidates_are_the_best_grids_of_each_solver_the_first_of_all_first():
    grids = standard_grids(Karras())
    found = [Rival("a", DDIM(), grid, 5, 0.1 * i) for i, grid in enumerate(grids)]
    found.insert(1, Rival("b", Heun(), grids[0], 3, 0.05))
    found.append(Rival("c", Heun(), grids[0], 3, 9.0))  # the last of all is its solver's first
    chosen = candidates(found)
    assert [rival.name for rival in chosen] == [*"abc", *["a"] * (GRIDS_EACH - 1)]
    assert chosen[0].distance == 0.0


def test_solvers_that_add_noise_take_the_grid_of_their_kin_and_no_more_calls():
    process, rows = LinearVP(), []
    for called, solver in FIXED.items():
        grid = standard_grids(process)[len(rows) % 3]
        steps = steps_within(solver, grid, process, 9)
        spent = calls_of(solver, grid, process, steps)[0]
        rows.append(
            replace(row(0.1, [0.01]), rival=Rival(called, solver, grid, steps, 0.1), spent=spent)
        )
    made = {one.rival.name: one for one in noisy_of(rows, SOLVERS, [0.0, 0.5], process)}
    assert set(made) == {"ddim, eta 0.5", *NOISY}
    kin = {one.rival.name: one for one in rows}
    for noisy, of in {**NOISY, "ddim, eta 0.5": "ddim"}.items():
        assert made[noisy].rival.grid == kin[of].rival.grid
        assert made[noisy].spent == kin[of].spent
        assert not len(made[noisy].squares)
        assert made[noisy].rival.distance == inf


def test_a_solver_that_adds_noise_and_whose_kin_is_not_there_is_left_out():
    made = noisy_of([row(0.1, [0.01])], SOLVERS, [0.5], Karras())
    assert [one.rival.name for one in made] == ["ddim, eta 0.5", "ddpm-large"]


def test_as_many_steps_are_taken_as_the_calls_allow():
    """Heun's last step is Euler's: 2 N - 1 calls."""
    grid = KarrasGrid()
    within = {
        (n, s): steps_within(s, grid, Karras(), n) for n in (1, 2, 9, 10) for s in (DDIM(), Heun())
    }
    assert within == {
        **{(1, DDIM()): 1, (2, DDIM()): 2, (9, DDIM()): 9, (10, DDIM()): 10},
        **{(1, Heun()): 1, (2, Heun()): 1, (9, Heun()): 5, (10, Heun()): 5},
    }


@pytest.mark.parametrize("process", [Karras(), LinearVP()], ids=name)
def test_a_survey_has_every_solver_on_every_grid_and_euler_where_it_is_another(
    monkeypatch, process
):
    monkeypatch.setattr("sfumato.rivals.FIXED", {"ddim": DDIM(), "heun": Heun()})
    denoiser, told = gaussian(process), []
    pairs = converged(denoiser, normal(4, 6, seed=1), None, 60, batch=4)
    found = surveyed_all(denoiser, pairs, 5, lambda *at: told.append(at))
    grids, names = standard_grids(process), ["ddim", "heun", *["euler"] * bent(process)]
    assert {(one.name, one.grid) for one in found} == {(n, grid) for n in names for grid in grids}
    assert len(found) == len(names) * len(grids)
    assert [one.distance for one in found] == sorted(one.distance for one in found)
    assert {one.name: one.steps for one in found} == dict(zip(names, (5, 3, 5)))
    assert told == [(n + 1, 2 * len(grids)) for n in range(2 * len(grids))]


def test_nearest_is_the_best_grid_of_each_solver_and_no_noise():
    rows = [row(0.3, [0.09]), row(0.1, [0.01], name="deis"), row(0.2, [0.04]), row(0.0)]
    assert nearest(rows) == [rows[1], rows[2]]


def test_a_tie_is_what_the_same_images_cannot_tell_apart():
    best = row(0.1, 4 * [0.01, 0.02, 0.03, 0.02])
    near = row(0.1, 4 * [0.011, 0.019, 0.031, 0.02], name="deis")
    far = row(0.2, 4 * [0.03, 0.04, 0.051, 0.04], name="lms")
    assert ties([best, near, far]) == [near]
    near = row(0.1, 4 * [0.020, 0.011, 0.040, 0.012], name="deis")
    above = row(0.2, 4 * [0.012, 0.022, 0.032, 0.022], name="unipc")  # of best, not of near
    assert ties([best, near, above]) == [near]
    assert ties([best, far], times=10**9) == []
    less = 1.4 * torch.linspace(1, 2, 16) + torch.tensor([0.4, -0.4] * 8)
    noisy = [row(0.1, torch.linspace(1, 2, 16).tolist()), row(0.2, less.tolist())]
    assert ties(noisy) == []
    assert ties(noisy, times=10**6) == noisy[1:]


@pytest.mark.parametrize(("solvers", "images"), [(2, 16), (2, 64), (16, 16), (16, 64)])
def test_the_best_of_many_alike_is_called_clearly_better_no_more_often_than_promised(
    solvers, images
):
    """Solvers of one true distance: of 120 gaps some are large by chance."""
    dice = torch.Generator().manual_seed(0)
    told = 0
    for _ in range(600):
        squares = (torch.randn(solvers, images, generator=dice, dtype=torch.float64) / 10).exp()
        rows = sorted(
            (row(s.mean().item(), s.tolist()) for s in squares), key=lambda r: r.rival.distance
        )
        told += len(ties(rows)) < solvers - 1
    assert told / 600 <= 0.05  # of 2 by 64: 0.07 if only one of them could have been the farther


def test_so_few_images_tell_nothing_apart():
    few = [row(0.1, [1.0] * 15), row(0.2, [2.0, 2.1, 2.2] * 5)]
    more = [row(0.1, [1.0] * 16), row(0.2, [2.0, 2.1] * 8)]
    assert (ties(few), ties(more)) == (few[1:], [])


@pytest.mark.parametrize("freedom", [15, 63])
@pytest.mark.parametrize("chance", [0.025, 1e-3, 1e-5])
def test_what_is_clear_is_students_t(freedom, chance):
    """By its density, added up from there to infinity in 1 / t."""
    t = clear_from(1 - chance, freedom)
    s = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 / t
    norm = gamma((freedom + 1) / 2) / gamma(freedom / 2) / sqrt(freedom * pi)
    density = norm * (1 + 1 / (freedom * s**2)) ** (-(freedom + 1) / 2)
    beyond = (density / s**2).mean().item() / t
    assert beyond == pytest.approx(chance, rel=0.2 if freedom == 15 else 0.005)


def test_one_image_far_off_does_not_hide_what_all_the_others_say():
    best = torch.linspace(1, 2, 17, dtype=torch.float64)
    worse = 1.5 * best
    assert is_farther(worse, best)
    worse[0] = 100  # now the mean of the gaps is as large as its error
    assert is_farther(worse, best)
    assert not is_farther(best, best)
    assert not is_farther(best.flip(0), best)
    assert is_farther(best, torch.zeros_like(best))
    worse[1] = best[1] = 0  # an image that both reach tells nothing, and hides nothing
    assert is_farther(worse, best)
