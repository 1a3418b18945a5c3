"""Where diffusers 0.42.1 is wrong, or not what its name says, and what the right value is.

Each test asserts both: that diffusers departs, so that a repair of it is noticed here, and that
ours is the right value, by a formula written out once more.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor

from oracles import mixture, mixture_x0, seeded, with_signal_left
from peers import OURS, difference, noise, of_labels, ours, scheduler, table_of, theirs
from sfumato.denoiser import Clipped
from sfumato.discrete import DiscreteVP, LinearBetas, SignalLeftWarning
from sfumato.exact import GaussianMixture
from sfumato.grids import karras_times, linspace_times, trailing_times
from sfumato.process import Karras
from sfumato.sampling import sample
from sfumato.solvers import DDIM, Ancestral, Churn, DPMSolverPP2M, Euler, Heun, Solver

LINEAR = OURS["linear"]
Interval = tuple[float, float]
EVERYWHERE = (0.0, float("inf"))
# diffusers converts its float32 tables by np.array(tensor), which NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:diffusers"
)


# ---- DDIM's previous step under linspace, and under trailing where T / steps is not whole


def ddim_by_hand(pairs: Sequence[tuple[int, int]], x: Tensor) -> Tensor:
    """Song et al. (2021), eq. 12 with eta = 0, between pairs of labels; -1 is clean."""
    alpha_bar = torch.cat([torch.ones(1).double(), torch.cumprod(1 - LINEAR.betas(), 0)])
    raw, x = mixture("eps", LINEAR), x.double()
    for label, before in pairs:
        now, then = alpha_bar[label + 1], alpha_bar[before + 1]
        eps = raw(x, label)
        x0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
        x = then.sqrt() * x0 + (1 - then).sqrt() * eps
    return x


@pytest.mark.parametrize(
    ("spacing", "times", "steps"),
    [
        ("linspace", linspace_times, 10),
        ("linspace", linspace_times, 20),
        ("trailing", trailing_times, 7),
        ("trailing", trailing_times, 12),
        ("trailing", trailing_times, 80),
    ],
)
def test_ddim_goes_to_the_next_step_of_its_grid(
    spacing: str, times: Callable[[DiscreteVP, int], Tensor], steps: int
) -> None:
    """diffusers goes to label - T // steps, and asks the model at the grid's next label."""
    settings = {"timestep_spacing": spacing, "clip_sample": False}
    made = scheduler(DDIMScheduler, "linear", "eps", steps, **settings)
    labels = made.timesteps.tolist()
    raw = mixture("eps", LINEAR)
    denoiser = of_labels(raw, "eps", LINEAR)
    mine = ours(denoiser, noise(), times(LINEAR, steps), DDIM())[-1]
    peer = theirs(made, raw, noise())[-1]
    right = ddim_by_hand(list(pairwise([*labels, -1])), noise())
    beside = [(label, max(label - 1000 // steps, -1)) for label in labels]
    assert difference([mine], [right]) <= 1e-5
    assert difference([peer], [ddim_by_hand(beside, noise())]) <= 1e-5
    assert difference([peer], [right]) > 1e-3


def test_trailing_grid_has_as_many_steps_as_asked() -> None:
    """np.arange(T, 0, -T / steps) has one more where rounding leaves it just above 0."""
    too_many = []
    for steps in range(1, 1000):
        made = DDIMScheduler(timestep_spacing="trailing")
        made.set_timesteps(steps)
        if len(made.timesteps) != steps:
            too_many.append(steps)
            assert made.timesteps[-1] == -1  # and the model is asked at a label that is none
        assert len(trailing_times(LINEAR, steps)) == steps + 1
    assert len(too_many) > 0


# ---- variances


def ancestral_step(made: DDPMScheduler, label: int, mix: float) -> tuple[Tensor, Tensor, Tensor]:
    """One step down from a label: theirs, ours, and by hand with the transition's variance."""
    raw = mixture("eps", LINEAR)
    generator = torch.Generator().manual_seed(0)
    peer = made.step(raw(noise(), label), label, noise(), generator=generator).prev_sample
    at = made.timesteps.tolist()
    before = [*at, -1][at.index(label) + 1]
    times = LINEAR.times_of(torch.tensor([label, before]))
    denoiser = Clipped(of_labels(raw, "eps", LINEAR))
    mine = sample(denoiser, noise(), times, Ancestral(mix), randn_like=seeded(0))
    alpha_bar = torch.cat([torch.ones(1).double(), torch.cumprod(1 - LINEAR.betas(), 0)])
    now, then = alpha_bar[label + 1], alpha_bar[before + 1]
    beta = 1 - now / then
    x0 = ((noise() - (1 - now).sqrt() * raw(noise().double(), label)) / now.sqrt()).clamp(-1, 1)
    mean = (then.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - then) * noise()) / (1 - now)
    added = beta.sqrt() * seeded(0)(noise()) if before >= 0 else 0
    return peer, mine, mean + added


def test_fixed_large_log_is_the_transitions_variance() -> None:
    """diffusers takes the square root of a logarithm, which is negative."""
    made = scheduler(DDPMScheduler, "linear", "eps", 10, variance_type="fixed_large_log")
    peer, mine, right = ancestral_step(made, 500, mix=1.0)
    assert peer.isnan().all()
    assert difference([mine], [right]) <= 1e-5


@pytest.mark.parametrize("settings", [{"timestep_spacing": "trailing"}, {"steps_offset": 1}])
def test_the_last_step_adds_no_noise(settings: dict) -> None:
    """diffusers asks for label 0, which is not the last label of these grids."""
    made = scheduler(DDPMScheduler, "linear", "eps", 10, variance_type="fixed_large", **settings)
    peer, mine, right = ancestral_step(made, made.timesteps[-1].item(), mix=1.0)
    assert difference([peer], [right]) > 1e-2
    assert difference([mine], [right]) <= 1e-5


def test_euler_ancestral_keeps_what_is_left_of_a_huge_sigma() -> None:
    """sigma_down^2 = sigma_to^2 - sigma_up^2 cancels in float32 where sigma_from is 20,000."""
    spaced = {"timestep_spacing": "trailing"}
    made = scheduler(EulerAncestralDiscreteScheduler, "cosine", "eps", 10, **spaced)
    high, low = made.sigmas[:2].double()
    x = noise().double() * high
    x0 = mixture_x0(x, 1.0, high.item())
    kept = low**2 / high  # sigma_down, exactly
    right = x0 + kept / high * (x - x0) + low * (1 - low**2 / high**2).sqrt() * seeded(0)(x)
    eps = ((x - x0) / high).float()
    made.scale_model_input(x.float(), made.timesteps[0])
    generator = torch.Generator().manual_seed(0)
    peer = made.step(eps, made.timesteps[0], x.float(), generator=generator).prev_sample
    clock = Karras(high.item())
    perfect = GaussianMixture(clock, torch.tensor([[1.0], [-1.0]]), 0.3)
    mine = sample(
        perfect,
        x.float().reshape(-1, 1),
        torch.stack([high, low]),
        Ancestral(),
        randn_like=seeded(0),
    )
    assert difference([mine.reshape(x.shape)], [right]) <= 1e-5
    assert difference([peer], [right]) > 1e-5


def test_first_step_of_a_cosine_schedule_is_not_lost_to_rounding() -> None:
    """x0 = 20,000 (x - sigma eps): diffusers' sigma = ratio * alpha, in float32, is not 1 there."""
    spaced = {"timestep_spacing": "trailing", "solver_order": 1}
    made = scheduler(DPMSolverMultistepScheduler, "cosine", "eps", 10, **spaced)
    process = table_of(made)
    times, raw = trailing_times(process, 10), mixture("eps", process)
    denoiser = of_labels(raw, "eps", process)
    right = ours(denoiser, noise().double(), times, DDIM())
    assert difference(ours(denoiser, noise(), times, DDIM()), right) <= 1e-5
    assert difference(theirs(made, raw, noise()), right) > 1e-4


# ---- schedules


def test_linear_betas_of_other_lengths_end_in_noise() -> None:
    """diffusers leaves the betas alone, and 300 steps of them leave 22 % of the image."""
    made = DDPMScheduler(num_train_timesteps=300)
    assert made.alphas_cumprod[-1].sqrt().item() == pytest.approx(0.2192, abs=1e-4)
    right = torch.linspace(1e-4, 0.02, 300, dtype=torch.float64) * 1000 / 300
    process = LinearBetas(300)
    torch.testing.assert_close(process.betas(), right, rtol=1e-12, atol=0)
    assert process.signal_left == pytest.approx((1 - right).prod().sqrt().item(), rel=1e-9)
    assert process.signal_left < 0.007


def test_linear_betas_left_alone_are_those_of_diffusers_and_are_warned_of() -> None:
    with pytest.warns(SignalLeftWarning, match="21.9%"):
        process = LinearBetas(300, rescaled=False)
    made = DDPMScheduler(num_train_timesteps=300)
    torch.testing.assert_close(process.betas().float(), made.betas, rtol=1e-6, atol=0)
    peers = with_signal_left(lambda: table_of(made))
    assert peers.signal_left == pytest.approx(process.signal_left, rel=1e-5)


def test_zero_terminal_snr_is_zero_for_every_solver() -> None:
    """DPMSolverMultistep and Euler put alpha_bar = 2^-24 there, more than a step before T."""
    made = scheduler(DPMSolverMultistepScheduler, "zero", "v", 10, timestep_spacing="trailing")
    assert made.alphas_cumprod[-1] > made.alphas_cumprod[-2]
    process = OURS["zero"]
    assert process.log_alpha_bar.diff().max() < 0
    assert process.signal_left == 0
    # The limit of the first step: x0 of pure noise is the mean of the data, 0, and eps is x.
    times = trailing_times(process, 10)
    denoiser = of_labels(mixture("v", process), "v", process)
    mine = ours(denoiser, noise(), times, DPMSolverPP2M())
    first = process.sigma(times[1]).float() * noise()
    assert difference(mine[:1], [first]) <= 1e-6


# ---- churn


def churned_by_hand(
    sigmas: Tensor, x: Tensor, gamma: float, within: Interval, second_order: bool
) -> Tensor:
    """Karras et al. (2022), algorithm 2, for the exact mixture, in float64; S_noise is 1.01."""
    x, randn_like = x.double(), seeded(0)
    for sigma, following in pairwise(sigmas.double().tolist()):
        noisier = sigma
        if within[0] <= sigma <= within[1]:
            noisier = sigma * (1 + min(gamma, 2**0.5 - 1))
            x = x + (noisier**2 - sigma**2) ** 0.5 * 1.01 * randn_like(x)
        slope = (x - mixture_x0(x, 1.0, noisier)) / noisier
        euler = x + (following - noisier) * slope
        if second_order and following > 0:
            slope = (slope + (euler - mixture_x0(euler, 1.0, following)) / following) / 2
        x = x + (following - noisier) * slope
    return x


def perfect_on(process: DiscreteVP | Karras) -> GaussianMixture:
    return GaussianMixture(process, torch.tensor([[1.0], [-1.0]]), 0.3)


def churned(times: Tensor, x: Tensor, solver: Solver, amount: float, within: Interval) -> Tensor:
    churn = Churn(solver, amount, min_ratio=within[0], max_ratio=within[1], noise_scale=1.01)
    denoiser = perfect_on(Karras(200.0))
    return sample(denoiser, x.reshape(-1, 1), times, churn, randn_like=seeded(0)).reshape(x.shape)


@pytest.mark.parametrize("within", [EVERYWHERE, (0.05, 50.0)], ids=str)
@pytest.mark.parametrize("amount", [0.2, 0.6])
@pytest.mark.parametrize("solver", [Euler(), DDIM(), Heun()], ids=str)
def test_churn_asks_the_model_after_adding_the_noise(
    solver: Solver, amount: float, within: Interval
) -> None:
    times = karras_times(Karras(), 10)
    x = (noise() * times[0]).float()
    mine = churned(times, x, solver, amount, within)
    right = churned_by_hand(times, x, amount, within, second_order=isinstance(solver, Heun))
    assert difference([mine], [right]) <= 1e-5


@pytest.mark.parametrize("cls", [EulerDiscreteScheduler, EDMEulerScheduler])
def test_churn_of_diffusers_asks_the_model_before_adding_the_noise(cls: type) -> None:
    """Its step() is handed an output for the sample and sigma that it then replaces."""
    made = cls()
    made.set_timesteps(10)
    made.set_begin_index(5)
    times = made.sigmas[5:7].double()
    sigma, label, x = times[0].item(), made.timesteps[5], (noise() * times[0]).float()
    y, variance = x.double(), sigma**2 + 0.25
    x0 = mixture_x0(y, 1.0, sigma)
    output = (y - x0) / sigma
    if cls is EDMEulerScheduler:
        output = (x0 - 0.25 / variance * y) / (sigma * 0.5 / variance**0.5)
    options = {"s_churn": 2.0, "s_noise": 1.01, "generator": torch.Generator().manual_seed(0)}
    made.scale_model_input(x, label)
    peer = made.step(output.float(), label, x, **options).prev_sample
    right = churned_by_hand(times, x, 0.2, EVERYWHERE, second_order=False)
    assert difference([churned(times, x, DDIM(), 0.2, EVERYWHERE)], [right]) <= 1e-5
    assert difference([peer], [right]) > 1e-3
