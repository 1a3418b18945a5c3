"""Our solvers against diffusers' schedulers, element by element, after every step of a loop.

Both walk the same grid with the same model: the exact mixture of oracles.py, or a random network.
Samples agree to 1e-5, relative to their size where they are large (VE). diffusers' alpha_bar is a
running product in float32: each case is held with our process on that table, and with our own
schedule to what the rounding leaves, mostly 2e-5. What diffusers gets wrong is not here but in
test_diffusers_departures.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.deprecated.scheduling_sde_vp import ScoreSdeVpScheduler
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from torch import Tensor

from oracles import (
    Labelled,
    Listening,
    Raw,
    as_denoiser,
    mixture,
    mixture_x0,
    ratios,
    scaled_input,
    seeded,
    ve_grid,
    vp_grid,
)
from peers import OURS, difference, noise, of_labels, ours, random_network, scheduler, table_of
from peers import theirs as run_theirs
from sfumato.denoiser import (
    Clipped,
    Denoiser,
    DynamicallyThresholded,
    NetworkDenoiser,
    OnProcess,
)
from sfumato.discrete import DiscreteVP
from sfumato.exact import GaussianMixture
from sfumato.grids import karras_times, leading_times, linspace_times, trailing_times
from sfumato.parameterization import EDMPreconditioning, PredictVelocity
from sfumato.process import Karras, LinearVP, RectifiedFlow
from sfumato.solvers import DDIM, Ancestral, DPMSolverPP2M, Euler, EulerMaruyama, Heun, Solver

# diffusers converts its float32 tables by np.array(tensor), which NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:diffusers"
)
SPACED = {"leading": leading_times, "trailing": trailing_times, "linspace": linspace_times}
Wrap = Callable[[Denoiser], Denoiser]


def plain(denoiser: Denoiser) -> Denoiser:
    return denoiser


@dataclass(frozen=True)
class Case:
    """One loop: how diffusers is set up and how ours is composed."""

    name: str
    scheduler: type
    schedule: str
    kind: str
    solver: Solver
    spacing: str = "leading"
    steps: int = 10
    settings: dict[str, Any] = field(default_factory=dict)  # of the scheduler
    options: dict[str, Any] = field(default_factory=dict)  # of its step
    wrap: Wrap = plain
    seed: int | None = None
    raw: Callable[[str, DiscreteVP], Raw] = mixture
    own_schedule: float | None = 2e-5  # tolerance with our own table; None: not held there

    def __str__(self) -> str:
        return f"{self.name}-{self.schedule}-{self.spacing}-{self.steps}-{self.kind}"

    def made(self) -> Any:
        karras = {"use_karras_sigmas": True} if self.spacing == "karras" else {}
        spacing = "linspace" if self.spacing == "karras" else self.spacing
        settings = {"timestep_spacing": spacing, **karras, **self.settings}
        return scheduler(self.scheduler, self.schedule, self.kind, self.steps, **settings)

    def theirs(self, made: Any, raw: Raw, x: Tensor) -> list[Tensor]:
        if self.seed is None:
            return run_theirs(made, raw, x, **self.options)
        generator = torch.Generator().manual_seed(self.seed)
        return run_theirs(made, raw, x, generator=generator, **self.options)

    def difference_on_vp(self, process: DiscreteVP, made: Any) -> float:
        raw, times = self.raw(self.kind, process), self.times_on_vp(process, made)
        learned = self.settings.get("variance_type") == "learned_range"
        denoiser = of_labels(raw, self.kind, process, learned_variance=learned)
        if self.spacing == "karras":  # they tell whole labels beside the true ones
            grid = Labelled(process, times, tuple(made.timesteps.tolist()))
            denoiser = as_denoiser(raw, self.kind, grid)
        points = ours(self.wrap(denoiser), noise(), times, self.solver, seeded(self.seed or 0))
        return difference(points, self.theirs(made, raw, noise()))

    def times_on_vp(self, process: DiscreteVP, made: Any) -> Tensor:
        if self.spacing == "karras":
            low, high = ratios(process)[[0, -1]]
            return karras_times(process, self.steps, sigma_min=low, sigma_max=high)
        on_their_labels = vp_grid(process, made.timesteps.tolist()).times
        if self.scheduler is not DPMSolverMultistepScheduler:
            offset = {"offset": made.config.steps_offset} if self.spacing == "leading" else {}
            by_us = SPACED[self.spacing](process, self.steps, **offset)
            torch.testing.assert_close(by_us, on_their_labels, rtol=0, atol=1e-12)
        return on_their_labels

    def difference_on_ve(self, process: DiscreteVP, made: Any) -> float:
        raw, grid = self.raw(self.kind, process), self.grid_on_ve(process, made)
        denoiser = as_denoiser(scaled_input(raw, grid), self.kind, grid)
        if all(label == round(label) for label in grid.labels):
            denoiser = OnProcess(of_labels(raw, self.kind, process), grid.process)
        x = (noise() * grid.times[0]).float()
        points = ours(self.wrap(denoiser), x, grid.times, self.solver, seeded(self.seed or 0))
        peers = self.theirs(made, raw, x)
        if self.scheduler is HeunDiscreteScheduler:  # two calls a step, one for the last
            peers = peers[1::2] + peers[-1:]
        return difference(points, peers)

    def grid_on_ve(self, process: DiscreteVP, made: Any) -> Labelled:
        labels = made.timesteps.tolist()
        if self.scheduler is HeunDiscreteScheduler:
            labels = labels[:1] + labels[1::2]
        if self.spacing != "karras":
            return ve_grid(process, labels)
        low, high = ratios(process)[[0, -1]]
        clock = Karras(high)
        times = karras_times(clock, self.steps, sigma_min=low, sigma_max=high)
        return Labelled(clock, times, tuple(labels))


# ---- the cases

ALL_KINDS = ("eps", "v", "x0")
THREE = ("linear", "scaled", "cosine")
ALIKE = {"use_clipped_model_output": True}  # eps follows from the clipped x0, as in Clipped()
NO_CLIP = {"settings": {"clip_sample": False}}
KEPT = {"settings": {"clip_sample": True}, "wrap": partial(Clipped, keep_eps=True)}
CLIP = {"settings": {"clip_sample": True}, "wrap": Clipped}
THRESHOLDED = {
    "settings": {
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.8,
        "sample_max_value": 1.5,
    },
    "wrap": partial(DynamicallyThresholded, quantile=0.8, max_value=1.5),
}


def random(kind: str, process: DiscreteVP, channels: int = 3) -> Raw:
    return random_network(channels)


def ddim_cases() -> Iterator[Case]:
    case = partial(Case, scheduler=DDIMScheduler, solver=DDIM())
    for schedule, spacing, kind in product(THREE, ("leading", "trailing"), ALL_KINDS):
        where = {"schedule": schedule, "spacing": spacing, "kind": kind}
        yield case("ddim", **where, **NO_CLIP)
        yield case("ddim-clip", **where, **KEPT)
    for kind in ALL_KINDS:
        trailing = {"schedule": "linear", "spacing": "trailing", "kind": kind}
        yield case("ddim-alike", **trailing, **CLIP, options=ALIKE)
        yield case("ddim-threshold", **trailing, **THRESHOLDED, options=ALIKE)
        for eta in (0.3, 1.0):
            noisy = {"solver": DDIM(eta), "options": {"eta": eta}, "seed": 5}
            yield case(f"ddim-{eta}", **trailing, **NO_CLIP, **noisy)
        yield case("ddim-random", **trailing, **KEPT, raw=random)
    for kind, steps in product(("v", "x0"), (4, 20)):  # eps says nothing where alpha is 0
        zero = {"schedule": "zero", "spacing": "trailing", "kind": kind, "steps": steps}
        yield case("ddim", **zero, **NO_CLIP)
        yield case("ddim-clip", **zero, **KEPT)
        offset = {"settings": {"clip_sample": False, "steps_offset": 1}}
        yield case("ddim-offset", schedule="scaled", kind=kind, steps=steps, **offset)


def ddpm_cases() -> Iterator[Case]:
    case = partial(Case, scheduler=DDPMScheduler, solver=Ancestral(), seed=0)
    for schedule, spacing, kind in product((*THREE, "sigmoid"), SPACED, ALL_KINDS):
        yield case("ddpm", schedule=schedule, spacing=spacing, kind=kind, **CLIP)
    for spacing, kind in product(SPACED, ("v", "x0")):
        yield case("ddpm", schedule="zero", spacing=spacing, kind=kind, **NO_CLIP)
    for spacing, kind in product(SPACED, ALL_KINDS):
        where = {"schedule": "linear", "spacing": spacing, "kind": kind, "steps": 20}
        yield case("ddpm-threshold", **where, **THRESHOLDED)
        if spacing == "trailing":
            continue  # diffusers adds noise in the last step: see departures
        large = {"settings": {"clip_sample": False, "variance_type": "fixed_large"}}
        yield case("ddpm-large", **where, **large, solver=Ancestral(1.0))
        learned = {"settings": {"clip_sample": True, "variance_type": "learned_range"}}
        two_outputs = {"raw": partial(random, channels=6), "wrap": Clipped}
        yield case("ddpm-learned", **where, **learned, **two_outputs, solver=Ancestral(None))


def dpm_cases() -> Iterator[Case]:
    case = partial(Case, scheduler=DPMSolverMultistepScheduler)
    orders = {1: DDIM(), 2: DPMSolverPP2M()}
    for schedule, spacing, kind, order in product(THREE, (*SPACED, "karras"), ALL_KINDS, orders):
        if schedule == "cosine" and kind == "eps" and spacing in ("trailing", "linspace"):
            continue  # x0 = 20,000 (x - sigma eps): float32 leaves 2.5e-4, see departures
        rounded = {"karras": None if schedule == "cosine" else 3e-5}
        yield case(
            f"dpm{order}",
            schedule=schedule,
            spacing=spacing,
            kind=kind,
            solver=orders[order],
            settings={"solver_order": order},
            own_schedule=rounded.get(spacing, 2e-5),
        )
    for kind, steps in product(ALL_KINDS, (10, 20)):
        linear = {"schedule": "linear", "kind": kind, "steps": steps, "solver": DPMSolverPP2M()}
        yield case("dpm2-threshold", **linear, **THRESHOLDED)
        yield case("dpm2-random", **linear, raw=random)
        zero = {**linear, "schedule": "zero", "own_schedule": None}  # theirs ends at 2^-24
        yield case("dpm2", **zero, spacing="trailing")


def ve_cases() -> Iterator[Case]:
    euler = partial(Case, "euler", EulerDiscreteScheduler, solver=Euler())
    heun = partial(Case, "heun", HeunDiscreteScheduler, solver=Heun())
    ancestral = partial(Case, "euler-a", EulerAncestralDiscreteScheduler, solver=Ancestral())
    for schedule, spacing, kind in product(THREE, (*SPACED, "karras"), ALL_KINDS):
        where = {"schedule": schedule, "spacing": spacing, "kind": kind}
        # Rounding moves sigma(0), where Karras' grid ends, and sigma(T) of the cosine schedule.
        rounded = {"own_schedule": None if schedule == "cosine" else 3e-5}
        yield euler(**where, **rounded)
        yield heun(**where, **rounded)
        cancels = schedule == "cosine" and spacing != "leading"  # see departures
        if kind != "x0" and spacing != "karras" and not cancels:  # which they don't have
            yield ancestral(**where, **rounded, seed=0)
    for kind, spacing in product(ALL_KINDS, SPACED):
        fractional = {"schedule": "linear", "kind": kind, "spacing": spacing, "steps": 20}
        yield euler(**fractional)
        yield heun(**fractional)
        if kind != "x0":
            yield ancestral(**fractional, seed=1)
    for kind, steps in product(ALL_KINDS, (5, 12)):
        yield heun(schedule="linear", spacing="trailing", kind=kind, steps=steps, **CLIP)
    for kind in ("v", "x0"):
        zero = {"schedule": "zero", "spacing": "trailing", "kind": kind, "own_schedule": None}
        yield euler(**zero)
    random_euler = partial(Case, "euler-random", EulerDiscreteScheduler, solver=Euler())
    for kind in ALL_KINDS:
        yield random_euler(schedule="scaled", kind=kind, raw=random)


VP_CASES = [*ddim_cases(), *ddpm_cases(), *dpm_cases()]
VE_CASES = list(ve_cases())


def test_there_are_enough_cases_and_no_two_are_the_same() -> None:
    cases = [*VP_CASES, *VE_CASES]
    assert len(cases) >= 200
    assert len({str(case) for case in cases}) == len(cases)


@pytest.mark.parametrize("case", VP_CASES, ids=str)
def test_every_step_is_that_of_diffusers(case: Case) -> None:
    made = case.made()
    assert case.difference_on_vp(table_of(made), made) <= 1e-5
    if case.own_schedule is not None:
        made = case.made()
        assert case.difference_on_vp(OURS[case.schedule], made) <= case.own_schedule


@pytest.mark.parametrize("case", VE_CASES, ids=str)
def test_every_step_on_edms_clock_is_that_of_diffusers(case: Case) -> None:
    made = case.made()
    assert case.difference_on_ve(table_of(made), made) <= 1e-5
    if case.own_schedule is not None:
        made = case.made()
        assert case.difference_on_ve(OURS[case.schedule], made) <= case.own_schedule


# ---- EDM


def edm_raw(sign: int) -> Raw:
    """The network that makes EDM's preconditioning perfect: told log(sigma) / 4, shown c_in x."""

    def raw(x: Tensor, c_noise: float) -> Tensor:
        sigma = np.exp(4 * c_noise)
        variance = sigma**2 + 0.25
        y = x.double() * variance**0.5
        x0 = mixture_x0(y, 1.0, sigma)
        return (sign * (x0 - 0.25 / variance * y) / (sigma * 0.5 / variance**0.5)).to(x)

    return raw


@pytest.mark.parametrize("steps", [3, 10, 18])
@pytest.mark.parametrize("sign", [1, -1], ids=["eps", "v"])  # they differ in the sign of c_out
@pytest.mark.parametrize(
    ("scheduler", "settings", "solver"),
    [
        (EDMEulerScheduler, {}, Euler()),
        (EDMEulerScheduler, {"sigma_min": 0.01, "sigma_max": 50.0, "rho": 5.0}, DDIM()),
        (EDMDPMSolverMultistepScheduler, {"solver_order": 1}, DDIM()),
        (EDMDPMSolverMultistepScheduler, {"solver_order": 2}, DPMSolverPP2M()),
    ],
    ids=["euler", "euler-grid", "dpm1", "dpm2"],
)
def test_every_step_of_edm_is_that_of_diffusers(
    scheduler: type, settings: dict[str, Any], solver: Solver, sign: int, steps: int
) -> None:
    made = scheduler(prediction_type="epsilon" if sign == 1 else "v_prediction", **settings)
    made.set_timesteps(steps)
    grid = {key: settings[key] for key in ("sigma_min", "sigma_max", "rho") if key in settings}
    times = karras_times(Karras(), steps, **grid)
    x = (noise() * times[0]).float()
    denoiser = NetworkDenoiser(Listening(edm_raw(1)), Karras(), EDMPreconditioning(0.5))
    assert difference(ours(denoiser, x, times, solver), run_theirs(made, edm_raw(sign), x)) <= 1e-5


# ---- rectified flow


def velocity_raw(x: Tensor, label: float) -> Tensor:
    t = label / 1000
    x0 = mixture_x0(x, 1 - t, t)
    return ((x - (1 - t) * x0) / t - x0).to(x)


@pytest.mark.parametrize("steps", [4, 10, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("scheduler", "solver"),
    [
        (FlowMatchEulerDiscreteScheduler, Euler()),
        (FlowMatchEulerDiscreteScheduler, DDIM()),
        (FlowMatchHeunDiscreteScheduler, Heun()),
    ],
    ids=["euler", "ddim", "heun"],
)
def test_every_step_of_a_rectified_flow_is_that_of_diffusers(
    scheduler: type, solver: Solver, shift: float, steps: int
) -> None:
    made = scheduler(shift=shift)
    made.set_timesteps(steps)
    times = torch.cat([made.timesteps.unique().flip(0) / 1000, torch.zeros(1)]).double()
    velocity = PredictVelocity(time_scale=1000.0)
    denoiser = NetworkDenoiser(Listening(velocity_raw), RectifiedFlow(), velocity)
    peers = run_theirs(made, velocity_raw, noise())
    if isinstance(solver, Heun):
        peers = peers[1::2] + peers[-1:]
    assert difference(ours(denoiser, noise(), times, solver), peers) <= 1e-5


# ---- the reverse SDE


@pytest.mark.parametrize("number", range(19))
def test_euler_maruyama_step_is_that_of_diffusers(number: int) -> None:
    """Theirs goes 1 / steps down, wherever its grid goes next; so each step stands alone."""
    made, process = ScoreSdeVpScheduler(), LinearVP()
    made.set_timesteps(20)
    t = made.timesteps[number].double()
    times = torch.stack([t, t - 1 / 20])
    alpha, sigma = process.alpha(t).item(), process.sigma(t).item()
    eps = ((noise() - alpha * mixture_x0(noise(), alpha, sigma)) / sigma).float()
    generator = torch.Generator().manual_seed(0)
    peer, _ = made.step_pred(eps, noise(), made.timesteps[number], generator=generator)
    mixed = GaussianMixture(process, torch.tensor([[1.0], [-1.0]]), 0.3)
    x = noise().reshape(-1, 1)
    points = ours(mixed, x, times, EulerMaruyama(), seeded(0))
    assert difference([points[-1].reshape(peer.shape)], [peer]) <= 1e-5


# ---- a thousand steps


def test_thousand_ancestral_steps_stay_beside_those_of_diffusers() -> None:
    """Their posterior near t = 0, in float32, is 5e-5 off: see test_diffusers_schedules.py."""
    case = Case("ddpm", DDPMScheduler, "linear", "eps", Ancestral(), steps=1000, seed=0, **CLIP)
    made = case.made()
    assert case.difference_on_vp(OURS["linear"], made) <= 3e-4
