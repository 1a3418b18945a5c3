"""The doctor's bounds on noise: processes, noise levels, grids, solvers."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.config import Run
from sfumato.discrete import LinearBetas
from sfumato.doctor.draws import check_sampling
from sfumato.doctor.process import check_prediction, check_process, check_times, training_times
from sfumato.doctor.solver import Drawn, check_solver
from sfumato.grids import KarrasGrid, UniformGrid
from sfumato.networks.four_conv import FourConvConfig
from sfumato.networks.small import PulferUNetConfig
from sfumato.objective import DiscreteTimes, LogNormalTimes
from sfumato.parameterization import PredictNoise
from sfumato.process import Karras, Process, RectifiedFlow
from sfumato.recipes import RECIPES
from sfumato.tuned import TunedGrid
from test_doctor_bounds import DIGITS, facts, told

Told = list[tuple[str, str]]


# --- processes


@pytest.mark.parametrize(
    ("t_max", "wanted"),
    [
        (50.1, []),  # 1 / sqrt(1 + t^2) of the image is left
        (49.9, [("signal-left", "risk")]),
        (10.0, [("signal-left", "risk")]),
        (9.9, [("signal-left", "wrong")]),
    ],
)
def test_what_is_left_of_the_image(t_max: float, wanted: Told) -> None:
    assert told(check_process(Karras(t_max))) == wanted
    if wanted:
        share = facts(check_process(Karras(t_max)))["share"]
        assert share == pytest.approx((1 + t_max**2) ** -0.5)


@pytest.mark.parametrize(("steps", "wanted"), [(50, []), (49, [("few-betas", "risk")])])
def test_fifty_betas_are_enough(steps: int, wanted: Told) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = told(check_process(LinearBetas(steps)))
    assert [each for each in found if each[0] == "few-betas"] == wanted


@dataclass(frozen=True)
class Bent(RectifiedFlow):
    """A straight path but for one of its parts."""

    start: float = 0.0  # of the noise at t = 0
    kept: float = 1.0  # of the image at t = 0
    rate: float = 1.0
    made: float = 1.0  # of what diffuse makes of the image

    def alpha(self, t: Tensor) -> Tensor:
        return self.kept * (1 - t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.start + (1 - self.start) * t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return -one * self.kept * self.rate, one * (1 - self.start)

    def diffuse(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        alpha, sigma = self.alpha(t)[:, None], self.sigma(t)[:, None]
        return self.made * alpha * x0 + sigma * eps


@pytest.mark.parametrize(
    ("process", "code"),
    [
        (Bent(start=0.9e-3), None),
        (Bent(start=1.1e-3), "clock-backwards"),
        (Bent(kept=1 - 0.9e-3), None),
        (Bent(kept=1 - 1.1e-3), "clock-backwards"),
        (Bent(kept=1 + 1.1e-3), "clock-backwards"),
        (Bent(rate=1.0099), None),
        (Bent(rate=1.0103), "rates-off"),
        (Bent(rate=0.98), "rates-off"),
        (Bent(made=1.000_001), None),
        (Bent(made=1.001), "diffuse-off"),
    ],
    ids=str,
)
def test_formulas_may_be_off_by_a_rounding(process: Process, code: str | None) -> None:
    assert told(check_process(process)) == ([(code, "wrong")] if code else [])


def test_what_diffuse_makes_half_way_is_told() -> None:
    told = facts(check_process(Bent(made=1.5)))
    assert told.pop("error") > 0.1
    assert told == {"image": 0.75, "noise": 0.5, "alpha": 0.5, "sigma": 0.5}


def test_a_clock_must_grow_noisier_all_the_way() -> None:
    class Waiting(RectifiedFlow):
        def alpha(self, t: Tensor) -> Tensor:
            return 1 - t.clamp(max=0.6)

        def sigma(self, t: Tensor) -> Tensor:
            return t.clamp(max=0.6)

    assert ("clock-backwards", "wrong") in told(check_process(Waiting()))


# --- what the network is told


def with_scale(run: Run, scale: float) -> Run:
    return replace(run, network=replace(run.network, noise_scale=scale))  # type: ignore[call-arg]


def reach(run: Run) -> float:
    """The range of noise levels that the network is told where their scale is 1."""
    levels = run.parameterization(run.process, training_times(run)).c_noise
    return (levels.max() - levels.min()).item()


@pytest.mark.parametrize(
    ("wide", "wanted"),
    [
        (19.9, [("level-narrow", "wrong")]),
        (20.1, []),
        (19_990, []),
        (20_010, [("level-wide", "wrong")]),
    ],
)
def test_sinusoids_tell_20_to_20000_apart(wide: float, wanted: Told) -> None:
    run = with_scale(DIGITS, wide / reach(DIGITS))
    assert told(check_prediction(run)) == wanted
    if wanted:
        assert facts(check_prediction(run))["wanted"] == pytest.approx(1000 / reach(DIGITS))


@pytest.mark.parametrize(
    ("rows", "low", "wrong"), [(300, 0, False), (299, 0, True), (302, -1, True), (301, 1, False)]
)
def test_a_table_has_a_row_for_every_step(rows: int, low: int, wrong: bool) -> None:
    """Steps 1 to 300 told as low ... low + 299; half a row beyond the ends is none."""
    run = replace(
        RECIPES["digits_ddpm"](),
        process=LinearBetas(300),
        parameterization=PredictNoise(time_scale=300, time_offset=low - 1),
        network=PulferUNetConfig(steps=rows),
    )
    run = replace(run, objective=replace(run.objective, times=DiscreteTimes(300)))
    assert told(check_prediction(run)) == ([("level-table", "wrong")] if wrong else [])


@pytest.mark.parametrize(("scale", "wanted"), [(2.99, []), (3.01, [("level-raw", "wrong")])])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_level_that_is_told_as_it_is_is_about_one(scale: float, sign: int, wanted: Told) -> None:
    run = replace(RECIPES["four_conv_mnist"](), network=FourConvConfig(noise_scale=sign))
    levels = run.parameterization(run.process, training_times(run)).c_noise
    run = with_scale(run, sign * scale / levels.abs().max().item())
    assert told(check_prediction(run)) == wanted


# --- noise levels of training and of sampling


QUANTILE = 3.2905  # of the normal distribution at 0.9995, the highest of 1000


def trained_at(mean: float, process: Process | None = None) -> Run:
    objective = replace(DIGITS.objective, times=LogNormalTimes(mean, 1.0))  # type: ignore[call-arg]
    return replace(DIGITS, objective=objective, process=process or DIGITS.process)


@pytest.mark.parametrize(
    ("highest", "process", "wrong"),
    [
        (3.03, Karras(), False),
        (2.97, Karras(), True),
        (1.82, Karras(2.0), False),
        (1.78, Karras(2.0), True),
    ],
)
def test_training_reaches_three_times_the_signal_or_all_that_there_is(
    highest: float, process: Process, wrong: bool
) -> None:
    found = told(check_times(trained_at(log(highest) - QUANTILE, process)))
    assert ("untrained-high", "wrong") in found if wrong else found == []


@pytest.mark.parametrize(("lowest", "found"), [(0.297, False), (0.303, True)])
def test_training_reaches_a_third_of_the_signal(lowest: float, found: bool) -> None:
    assert (("untrained-low", "risk") in told(check_times(trained_at(log(lowest) + QUANTILE)))) is (
        found
    )


@pytest.mark.parametrize("steps", [999, 1000, 1001])
def test_the_table_and_the_objective_have_as_many_steps(steps: int) -> None:
    run = RECIPES["digits_ddpm"]()
    run = replace(run, objective=replace(run.objective, times=DiscreteTimes(steps)))
    assert (("steps-differ", "wrong") in told(check_times(run))) is (steps != 1000)


class Mostly:
    """A weight that is `most` where sigma / alpha is at most `at`, else `rest`."""

    def __init__(self, at: float, most: float, rest: float) -> None:
        self.at, self.most, self.rest = at, most, rest

    def __call__(self, asked: Any, t: Tensor) -> Tensor:
        ratio = asked.process.ratio(t)
        c_out = asked.parameterization(asked.process, t).c_out  # what it is divided by
        return torch.where(ratio <= self.at, self.most, self.rest) / c_out**2


@pytest.mark.parametrize("factor", [0.98, 1.02])
@pytest.mark.parametrize(("at", "code"), [(2.0, "weight-high"), (0.29999, "weight-low")])
def test_a_part_of_the_levels_has_a_twentieth_of_its_share(
    at: float, code: str, factor: float
) -> None:
    """Of a share p of the steps weighed w, the rest 1: p w / (p w + 1 - p) = 0.05 p."""
    run = trained_at(-0.3)
    ratios = run.process.ratio(training_times(run))
    few = (ratios > at) if code == "weight-high" else (ratios <= at)
    p = few.double().mean().item()
    w = factor * 0.05 * (1 - p) / (1 - 0.05 * p)
    weight = Mostly(at, 1.0, w) if code == "weight-high" else Mostly(at, w, 1.0)
    run = replace(run, objective=replace(run.objective, weight=weight))  # type: ignore[call-arg]
    assert told(check_times(run)) == ([(code, "risk")] if factor < 1 else [])


def drawn_on(grid: Any, process: Process | None = None) -> Told:
    sampling = replace(DIGITS.sampling, grid=grid, steps=40)
    run = replace(DIGITS, sampling=sampling, process=process or Karras())
    return told(check_sampling(run))


@pytest.mark.parametrize(
    ("grid", "process", "wanted"),
    [
        (KarrasGrid(sigma_max=20.1), Karras(), []),  # 1 / sqrt(1 + s^2) of the image is left
        (KarrasGrid(sigma_max=19.9), Karras(), [("grid-starts-late", "risk")]),
        (KarrasGrid(sigma_max=10.0), Karras(), [("grid-starts-late", "risk")]),
        (KarrasGrid(sigma_max=9.9), Karras(), [("grid-starts-late", "wrong")]),
        (KarrasGrid(sigma_max=10.1), Karras(20.0), []),  # twice of what the process leaves
        (KarrasGrid(sigma_max=9.8), Karras(20.0), [("grid-starts-late", "wrong")]),
        (KarrasGrid(sigma_min=0.49), Karras(), []),
        (KarrasGrid(sigma_min=0.51), Karras(), [("grid-ends-early", "wrong")]),
        (UniformGrid(t_min=0.31), Karras(), [("grid-unfinished", "wrong")]),
        (TunedGrid(tuple(float(k) for k in range(60, 20, -1))), Karras(), []),  # one model's own
    ],
    ids=range(10),
)
def test_a_grid_begins_in_noise_and_ends_at_the_image(
    monkeypatch: pytest.MonkeyPatch, grid: Any, process: Process, wanted: Told
) -> None:
    monkeypatch.setattr("sfumato.doctor.draws.check_solver", lambda *given: iter(()))
    assert drawn_on(grid, process) == wanted


Kept = Callable[[int], float]


@pytest.mark.parametrize(
    ("kept", "noise", "cut", "steps", "wanted"),
    [
        (lambda n: 1.0, 0.02, None, 30, []),
        (lambda n: 1.0, 0.021, None, 30, [("solver-noise", "risk")]),
        (lambda n: 1.0, 0.051, None, 30, [("solver-noise", "wrong")]),
        (lambda n: 1.0, 0.0, 3.0, 30, [("x-clamped", "wrong")]),
        (lambda n: 10.0, 9.0, 3.0, 30, [("solver-explodes", "wrong")]),
        (lambda n: float("nan"), 0.0, None, 30, [("solver-explodes", "wrong")]),
        (lambda n: 0.86, 0.0, None, 30, []),
        (lambda n: 1.17, 0.0, None, 30, []),
        (lambda n: 0.84 if n < 40 else 0.99, 0.0, None, 30, [("solver-pale", "risk")]),
        (lambda n: 1.19 if n < 40 else 1.01, 0.0, None, 30, [("solver-pale", "risk")]),
        (lambda n: 0.64 if n < 40 else 0.99, 0.0, None, 30, [("solver-pale", "wrong")]),
        (lambda n: 1.56 if n < 40 else 1.01, 0.0, None, 30, [("solver-pale", "wrong")]),
        (lambda n: 0.8, 0.0, None, 30, [("solver-inconsistent", "wrong")]),
        (lambda n: 1.25, 0.0, None, 30, [("solver-inconsistent", "wrong")]),
        (lambda n: 0.8, 0.0, None, 24, [("solver-pale", "risk")]),  # so few decide nothing
        (lambda n: 0.8 if n <= 60 else 0.99, 0.0, None, 60, [("solver-pale", "risk")]),
        (lambda n: 0.8 if n <= 25 else 0.99, 0.0, None, 61, []),  # tried in 25, as it is not asked
        (lambda n: 0.8, 0.0, None, 61, [("solver-inconsistent", "wrong")]),
    ],
    ids=range(18),
)
def test_a_solver_keeps_the_spread_and_leaves_no_noise(
    monkeypatch: pytest.MonkeyPatch,
    kept: Kept,
    noise: float,
    cut: float | None,
    steps: int,
    wanted: Told,
) -> None:
    monkeypatch.setattr(
        "sfumato.doctor.solver.drawn_by",
        lambda process, solver, times: Drawn(kept(len(times) - 1), noise, cut, 4.0),
    )
    sampling = replace(DIGITS.sampling, grid=KarrasGrid(), steps=steps)
    found = check_solver(Karras(), sampling, sampling.grid(Karras(), steps))
    assert told(found) == wanted


@pytest.mark.parametrize("share", [0.009, 0.011])
def test_levels_that_training_hardly_shows_have_no_share_to_lack(share: float) -> None:
    """So few are above sigma / alpha = 2, and weigh nothing."""
    run = trained_at(log(2.0) - torch.special.ndtri(torch.tensor(1 - share)).item())
    ratios = run.process.ratio(training_times(run))
    assert (ratios > 2).double().mean().item() == pytest.approx(share, abs=1e-9)
    weight = Mostly(2.0, 1.0, 0.0)
    run = replace(run, objective=replace(run.objective, weight=weight))  # type: ignore[call-arg]
    assert ("weight-high" in dict(told(check_times(run)))) is (share > 0.01)
