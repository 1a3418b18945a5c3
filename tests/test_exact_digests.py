"""Samplers held against exact answers: every pixel is half N(+1, 0.3^2), half N(-1, 0.3^2).

The perfect denoiser and the probability flow are closed forms, so one triple of numbers (sum |x|, a
weighted sum, element 5) stands for a sampler. Triples and mean errors are those of diffusers 0.42.1
with the perfect network; where diffusers misses its own formula, the test says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log2

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles import (
    ancestral_by_hand,
    as_denoiser,
    as_float32,
    digest,
    dpm_labels,
    mixture,
    no_noise,
    polynomial_levels,
    ratios,
    scaled_input,
    seeded,
    start,
    ve_grid,
    ve_grid_of_levels,
    vp_grid,
    vp_grid_of_levels,
    walk,
)
from sfumato.denoiser import Clipped, Denoiser, OnProcess
from sfumato.discrete import DiscreteVP, LinearBetas
from sfumato.exact import GaussianMixture
from sfumato.grids import leading_times, linspace_times, trailing_times, uniform_times
from sfumato.process import Karras, Process, RectifiedFlow
from sfumato.sampling import sample
from sfumato.solvers import DDIM, Ancestral, DPMSolverPP2M, Euler, Heun, RandnLike, Solver

LINEAR = LinearBetas(1000)
LINEAR_1100 = LinearBetas(1100, rescaled=False)  # diffusers leaves its betas alone at any T
Run = Callable[..., Tensor]
SOLUTION = (836.974, 5.39483, 1.31180)  # of the flow, by Runge-Kutta 4 in 6,000 steps


def perfect(process: Process) -> GaussianMixture:
    return GaussianMixture(process, torch.tensor([[1.0], [-1.0]]).double(), std=0.3)


def points(x: Tensor) -> Tensor:
    """Pixels as a batch of 1-D points: (768, 1)."""
    return x.reshape(768, 1)


# ---- the samplers, by the number of steps


def trailing(
    steps: int,
    solver: Solver,
    wrap: Callable[[Denoiser], Denoiser] | None = None,
    randn_like: RandnLike = no_noise,
    process: DiscreteVP = LINEAR,
) -> Tensor:
    denoiser = perfect(process) if wrap is None else wrap(perfect(process))
    times = trailing_times(process, steps)
    return sample(denoiser, points(start()), times, solver, randn_like=randn_like)


def parameterized(steps: int, kind: str) -> Tensor:
    """DDIM with the perfect network told labels and predicting eps, v or x0."""
    labels = (trailing_times(LINEAR, steps)[:-1] * 1000 - 1).round().int().tolist()
    denoiser = as_denoiser(mixture(kind, LINEAR), kind, vp_grid(LINEAR, labels))
    return sample(denoiser, start(), trailing_times(LINEAR, steps), DDIM())


def dpm(steps: int, solver: Solver) -> Tensor:
    times = vp_grid(LINEAR, dpm_labels(steps)).times
    return sample(perfect(LINEAR), points(start()), times, solver)


def dpm_karras(steps: int, process: DiscreteVP) -> Tensor:
    """The network is told the nearest label, so that this is not the perfect denoiser."""
    low, high = ratios(process)[[0, -1]]
    grid = vp_grid_of_levels(process, polynomial_levels(high, low, steps))
    denoiser = as_denoiser(mixture("eps", process), "eps", grid)
    return sample(denoiser, start(), grid.times, DPMSolverPP2M())


def on_ve(
    steps: int,
    solver: Solver,
    kind: str = "eps",
    karras: bool = False,
    randn_like: RandnLike = no_noise,
) -> Tensor:
    """On EDM's clock, with the network of the VP process shown x / sqrt(1 + sigma^2)."""
    high, low = ratios(LINEAR_1100)[[-1, 0]]
    levels, labels = polynomial_levels(high, low, steps), np.linspace(0, 1099, steps)[::-1]
    grid = ve_grid_of_levels(LINEAR_1100, levels) if karras else ve_grid(LINEAR_1100, labels)
    denoiser = as_denoiser(scaled_input(mixture(kind, LINEAR_1100), grid), kind, grid)
    x = (start() * high).float()
    return sample(denoiser, x, grid.times, solver, randn_like=randn_like)


def flow_times(steps: int, shift: float = 1.0) -> Tensor:
    """diffusers' grid of flow matching, which shifts its lowest time twice."""

    def shifted(t: Tensor) -> Tensor:
        return shift * t / (1 + (shift - 1) * t)

    low = shifted(torch.tensor(0.001, dtype=torch.float64)).item()
    times = shifted(torch.linspace(1, low, steps, dtype=torch.float64))
    return torch.cat([times, times.new_zeros(1)])


def flow(steps: int, solver: Solver, shift: float = 1.0) -> Tensor:
    times = flow_times(steps, shift)
    return sample(perfect(RectifiedFlow()), points(start()), times, solver)


def leading_clipped(steps: int) -> Tensor:
    denoiser = Clipped(perfect(LINEAR), keep_eps=True)
    return sample(denoiser, points(start()), leading_times(LINEAR, steps), DDIM())


def test_flow_grids_are_those_of_diffusers() -> None:
    one = [1, 0.889, 0.778, 0.667, 0.556, 0.445, 0.334, 0.223, 0.112, 0.001, 0]
    three = [1, 0.960129, 0.913349, 0.857692, 0.790368, 0.707278, 0.602151, 0.464876, 0.278049]
    np.testing.assert_allclose(flow_times(10), one, rtol=1e-12)
    np.testing.assert_allclose(flow_times(10, 3.0), [*three, 0.00892857, 0], rtol=2e-6)


# ---- digests of ten steps

DIGESTS = {
    "DDIM": (partial(trailing, 10, DDIM()), 759.3664, 4.944554, 1.165508),
    "DDIM eps": (partial(parameterized, 10, "eps"), 759.3664, 4.944554, 1.165508),
    "DDIM v": (partial(parameterized, 10, "v"), 759.3664, 4.944553, 1.165508),
    "DDIM x0": (partial(parameterized, 10, "x0"), 759.3664, 4.944554, 1.165508),
    "DDIM leading clipped": (partial(leading_clipped, 10), 699.9066, 4.472992, 1.0),
    "DDIM eta 1": (
        lambda: trailing(10, DDIM(eta=1.0), randn_like=seeded(0)),
        *(663.5335, 22.304035, 0.726479),
    ),
    "Ancestral": (
        lambda: trailing(10, Ancestral(), randn_like=seeded(0)),
        *(663.5335, 22.304035, 0.726479),  # of DDIM at eta = 1
    ),
    "DPM++ 1": (partial(dpm, 10, DDIM()), 759.1282, 4.943490, 1.164797),
    "DPM++ 2M": (partial(dpm, 10, DPMSolverPP2M()), 809.0408, 5.209378, 1.216503),
    "DPM++ 2M Karras": (partial(dpm_karras, 10, LINEAR), 969.0780, 6.305176, 1.499330),
    "Euler": (partial(on_ve, 10, Euler()), 746.4374, 4.908291, 1.152324),
    "Euler v": (partial(on_ve, 10, Euler(), "v"), 746.4374, 4.908291, 1.152324),
    "Euler x0": (partial(on_ve, 10, Euler(), "x0"), 746.4374, 4.908291, 1.152324),
    "Euler as DDIM": (partial(on_ve, 10, DDIM()), 746.4374, 4.908291, 1.152324),
    "Euler Karras": (partial(on_ve, 10, Euler(), karras=True), 688.4344, 4.637441, 1.112563),
    "Euler ancestral": (
        lambda: on_ve(10, Ancestral(), randn_like=seeded(0)),
        *(647.7049, 24.516233, 0.590729),
    ),
    "Heun": (partial(on_ve, 10, Heun()), 877.2355, 5.759632, 1.399253),
    "Heun Karras": (partial(on_ve, 10, Heun(), karras=True), 1010.4671, 6.553490, 1.562137),
    "flow Euler": (partial(flow, 10, Euler()), 777.4170, 5.060044, 1.216068),
    "flow Euler shift 3": (partial(flow, 10, Euler(), 3.0), 750.9994, 4.929387, 1.159373),
    "flow Euler as DDIM": (partial(flow, 10, DDIM()), 777.4170, 5.060044, 1.216068),
    "flow Heun": (partial(flow, 10, Heun()), 837.9522, 5.425767, 1.316772),
}
IN_TEST_MULTISTEP_DIGESTS = (
    "DPM++ 3M", "SDE-DPM++ 2M", "UniPC order 2", "UniPC order 3", "DEIS order 2", "KDPM2", "LMS",
)  # fmt: skip


def check_digest(run: Callable[[], Tensor], *expected: float) -> None:
    assert digest(run()) == pytest.approx(expected, rel=1e-5, abs=0)


@pytest.mark.parametrize("name", DIGESTS)
def test_ten_steps_with_the_perfect_denoiser_give_the_tabled_digest(name: str) -> None:
    check_digest(*DIGESTS[name])


def test_dpm_karras_on_the_tables_of_diffusers_gives_the_digest_more_closely() -> None:
    """float32 leaves their lowest sigma 8e-5 off, and the grid hangs on it."""
    close = digest(dpm_karras(10, as_float32(LINEAR)))
    assert close == pytest.approx((969.0780, 6.305176, 1.499330), rel=2e-6, abs=0)


THOUSAND = (659.4085, 3.694466, 0.806759)


def ancestral_thousand(dtype: torch.dtype) -> Tensor:
    betas, raw = LINEAR.betas().to(dtype), mixture("eps", LINEAR)
    return ancestral_by_hand(betas, range(999, -1, -1), start(), raw)


def test_digest_of_thousand_ancestral_steps_is_that_of_the_formula_in_float32() -> None:
    """Rounding moves 1,000 steps by 4e-5, so a transcription has to stand between."""
    assert digest(ancestral_thousand(torch.float32)) == pytest.approx(THOUSAND, rel=1e-5, abs=0)


def test_thousand_ancestral_steps_are_the_formula_in_float64() -> None:
    x, times = points(start()).double(), uniform_times(LINEAR, 1000)
    ours = sample(Clipped(perfect(LINEAR)), x, times, Ancestral(), randn_like=seeded(0))
    right = points(ancestral_thousand(torch.float64))
    torch.testing.assert_close(ours, right, rtol=0, atol=1e-8)
    assert digest(ours) == pytest.approx(THOUSAND, rel=1e-4, abs=0)


@pytest.mark.parametrize("kind", ["v", "x0"])
@pytest.mark.parametrize("run", [parameterized, partial(on_ve, solver=Euler())], ids=["VP", "VE"])
def test_what_the_perfect_network_predicts_does_not_matter(
    run: Callable[..., Tensor], kind: str
) -> None:
    torch.testing.assert_close(run(10, kind=kind), run(10, kind="eps"), rtol=0, atol=1e-4)


# ---- the exact flow


def cdf(y: Tensor, level: float) -> Tensor:
    """Of x_0 + level * noise."""
    std = (0.09 + level**2) ** 0.5
    return (torch.special.ndtr((y - 1) / std) + torch.special.ndtr((y + 1) / std)) / 2


def solution(y: Tensor, level: float) -> Tensor:
    """Where the flow takes y = x_0 + level * noise: it keeps the cumulative probability."""
    wanted = cdf(y.double(), level)
    low, high = torch.full_like(wanted, -9.0), torch.full_like(wanted, 9.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = cdf(middle, 0.0) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


@dataclass(frozen=True)
class Start:
    """Unit noise as a sample at the end of a process: x = power * start()."""

    process: Process
    level: float  # sigma / alpha
    power: float

    def solution(self) -> Tensor:
        scale = self.power / self.process.alpha(self.time()).item()
        return solution(scale * start().double(), self.level)

    def time(self) -> Tensor:
        return self.process.time_at_ratio(torch.tensor(self.level, dtype=torch.float64))


VP_LEVEL, VE_LEVEL = ratios(LINEAR)[-1].item(), ratios(LINEAR_1100)[-1].item()
VP, VE = Start(LINEAR, VP_LEVEL, 1.0), Start(Karras(VE_LEVEL), VE_LEVEL, VE_LEVEL)


def flow_solution() -> Tensor:
    """From alpha = 0, where the sample is the noise itself."""
    return solution(1e7 * start().double(), 1e7)


@pytest.mark.parametrize("exact", [VP.solution, VE.solution, flow_solution])
def test_exact_solution_is_the_tabled_one(exact: Callable[[], Tensor]) -> None:
    assert digest(exact()) == pytest.approx(SOLUTION, rel=1e-5, abs=0)


@pytest.mark.parametrize("begin", [VP, VE], ids=["VP", "VE"])
def test_fine_heun_steps_on_another_clock_reach_the_solution(begin: Start) -> None:
    clock = RectifiedFlow()
    time = clock.time_at_ratio(torch.tensor(begin.level, dtype=torch.float64))
    scale = begin.power * clock.alpha(time) / begin.process.alpha(begin.time())
    denoiser = OnProcess(perfect(begin.process), clock)
    x = points(start().double()) * scale
    times = time * uniform_times(clock, 600)
    ours = sample(denoiser, x, times, Heun())
    torch.testing.assert_close(ours, points(begin.solution()), rtol=0, atol=4e-5)
    assert digest(ours) == pytest.approx(SOLUTION, rel=1e-5, abs=0)


def test_fine_heun_steps_from_pure_noise_reach_the_solution() -> None:
    x, times = points(start().double()), uniform_times(RectifiedFlow(), 600)
    ours = sample(perfect(RectifiedFlow()), x, times, Heun())
    torch.testing.assert_close(ours, points(flow_solution()), rtol=0, atol=4e-5)
    assert digest(ours) == pytest.approx(SOLUTION, rel=1e-5, abs=0)


# ---- mean errors at 10, 20, 40 and 80 steps, and the least order seen between the last two

CONVERGENCE = {
    # diffusers has 1.6e-2 at 80 steps: 1000 / 80 is not whole, and its previous step is beside
    # the grid. DDIM is the first-order DPM-Solver++, which has 1.4e-2 there.
    "DDIM": (partial(trailing, solver=DDIM()), VP.solution, (1.0e-1, 5.2e-2, 2.7e-2, 1.4e-2), 0.95),
    "DPM++ 1": (partial(dpm, solver=DDIM()), VP.solution, (1.0e-1, 5.2e-2, 2.7e-2, 1.4e-2), 0.95),
    "DPM++ 2M": (
        partial(dpm, solver=DPMSolverPP2M()),
        *(VP.solution, (5.9e-2, 3.5e-2, 9.3e-3, 1.3e-3), 1.9),
    ),
    "DPM++ 2M Karras": (
        partial(dpm_karras, process=as_float32(LINEAR)),
        *(VP.solution, (1.8e-1, 3.9e-2, 7.3e-3, 1.5e-3), 1.9),
    ),
    "Euler": (partial(on_ve, solver=Euler()), VE.solution, (1.2e-1, 5.7e-2, 2.9e-2, 1.4e-2), 0.95),
    "Euler Karras": (
        partial(on_ve, solver=Euler(), karras=True),
        *(VE.solution, (1.9e-1, 9.1e-2, 4.4e-2, 2.2e-2), 0.95),
    ),
    "Heun": (partial(on_ve, solver=Heun()), VE.solution, (6.2e-2, 1.2e-2, 2.9e-3, 6.2e-4), 1.9),
    "flow Euler": (
        partial(flow, solver=Euler()),
        *(flow_solution, (7.8e-2, 3.8e-2, 1.9e-2, 9.2e-3), 0.95),
    ),
    "flow Heun": (
        partial(flow, solver=Heun()),
        *(flow_solution, (4.5e-3, 1.2e-3, 3.0e-4, 7.5e-5), 1.9),
    ),
}


def check_convergence(run: Run, exact: Run, tabled: tuple[float, ...], least_order: float) -> None:
    solution = exact().flatten()
    errors = [(run(n).double().flatten() - solution).abs().mean().item() for n in (10, 20, 40, 80)]
    assert errors == pytest.approx(tabled, rel=0.05, abs=0)  # two digits are tabled
    assert log2(errors[2] / errors[3]) >= least_order


@pytest.mark.parametrize("name", CONVERGENCE)
def test_mean_errors_are_the_tabled_ones_and_fall_with_the_order(name: str) -> None:
    check_convergence(*CONVERGENCE[name])


# ---- what a mistake would move


def moved(other: Tensor) -> float:
    return (other.flatten() - trailing(10, DDIM()).flatten()).abs().max().item()


def beside_the_grid(times: Tensor, steps: int) -> Tensor:
    """DDIM as diffusers takes it: to label - T // steps, wherever the grid goes next."""
    x = points(start())
    for label in (times[:-1] * 1000 - 1).round():
        before = (label - 1000 // steps).clamp(min=-1)
        x = walk(DDIM(), perfect(LINEAR), x, LINEAR.times_of(torch.stack([label, before])))
    return x


def wrong_end() -> Tensor:
    times = trailing_times(LINEAR, 10)
    times[-1] = LINEAR.times_of(torch.tensor(0))
    return sample(perfect(LINEAR), points(start()), times, DDIM())


def other_betas() -> Tensor:
    """beta_end half a per cent too high in the solver; the network is as before."""
    process = LinearBetas(1000, beta_end=0.0201)
    grid = vp_grid(process, range(999, 0, -100))
    denoiser = as_denoiser(mixture("eps", LINEAR), "eps", grid)
    return sample(denoiser, start(), grid.times, DDIM())


def on_times(times: Tensor) -> Tensor:
    return sample(perfect(LINEAR), points(start()), times, DDIM())


@pytest.mark.parametrize(
    ("mistake", "at_least"),
    [
        (lambda: trailing(10, DDIM(), partial(Clipped, keep_eps=True)), 1.79e-1),
        (wrong_end, 9.9e-3),
        (other_betas, 1.9e-3),
        (lambda: on_times(leading_times(LINEAR, 10)), 1.0e-2),
        # Measured with diffusers, whose step goes beside these two grids: 9.1e-2 and 2.9e-2.
        (lambda: beside_the_grid(linspace_times(LINEAR, 10), 10), 9.0e-2),
        (lambda: beside_the_grid(trailing_times(LINEAR, 11), 11), 2.87e-2),
        (lambda: on_times(linspace_times(LINEAR, 10)), 5.5e-2),
        (lambda: on_times(trailing_times(LINEAR, 11)), 3.8e-2),
    ],
    ids=["clip", "end", "betas", "leading", "linspace-", "11-", "linspace", "11"],
)
def test_mistakes_move_some_element_further_than_any_tolerance_here(
    mistake: Callable[[], Tensor], at_least: float
) -> None:
    assert at_least <= moved(mistake()) < 1.1 * at_least


def test_every_digest_of_the_table_is_held_here_or_with_the_multistep_solvers() -> None:
    tabled = {
        "DDIM", "DDIM v", "DDIM leading clipped", "DDIM eta 1", "DDPM 1000", "DPM++ 1", "DPM++ 2M",
        "DPM++ 2M Karras", "DPM++ 3M", "SDE-DPM++ 2M", "UniPC order 2", "UniPC order 3",
        "DEIS order 2", "Euler", "Euler Karras", "Euler ancestral", "Heun", "Heun Karras", "KDPM2",
        "LMS", "flow Euler", "flow Euler shift 3", "flow Heun",
    }  # fmt: skip
    assert tabled - {"DDPM 1000", *DIGESTS} == set(IN_TEST_MULTISTEP_DIGESTS)
