"""What the tests against diffusers share: its fixtures, its grids, and the exact mixture.

diffusers tells a model an index, here a *label*, which counts the T steps of a table from 0 and
may be fractional. A Labelled pairs our times with those labels; `as_denoiser` makes one of our
denoisers out of a function raw(x, label) -> output. Numbers in the tests that use this module come
from diffusers 0.42.1, measured with torch 2.13 on a CPU, unless a test says otherwise.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.denoiser import Denoiser, NetworkDenoiser
from sfumato.discrete import DiscreteVP, SignalLeftWarning
from sfumato.parameterization import Coefficients, PredictData, PredictNoise, PredictV
from sfumato.process import Karras, Process
from sfumato.solvers import RandnLike, Solver, Step

Raw = Callable[[Tensor, float], Tensor]
SHAPE = (4, 3, 8, 8)


# ---- the fixtures of diffusers' own scheduler tests


def det() -> Tensor:
    """Their sample: (4, 3, 8, 8), rising from 0 with the batch as the fastest axis."""
    return (torch.arange(768) / 768).reshape(3, 8, 8, 4).permute(3, 0, 1, 2).contiguous()


def noi() -> Tensor:
    """Their noise: the sample, counted from the other end."""
    return (767 / 768 - det()).contiguous()


def dummy(x: Tensor, label: float) -> Tensor:
    """Their model, whatever it is said to predict."""
    return x * (label / (label + 1))


def total(x: Tensor) -> float:
    """sum |x|: what diffusers' tests compare."""
    return x.abs().sum().item()


def seeded(seed: int) -> RandnLike:
    """Whole-batch float32 draws of one generator, as diffusers makes them."""
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator).to(x)


def no_noise(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


# ---- grids


@dataclass(frozen=True)
class Labelled:
    """N + 1 times of a process, and the N labels that a model is told at all but the last."""

    process: Process
    times: Tensor  # (N + 1,) float64
    labels: tuple[float, ...]


def ratios(process: DiscreteVP) -> np.ndarray:
    """sigma / alpha at labels 0..T-1: float64, (T,)."""
    return torch.expm1(-process.log_alpha_bar[1:]).sqrt().numpy()


def vp_grid(process: DiscreteVP, labels: Sequence[int], clean: bool = True) -> Labelled:
    """The times of whole labels, then 0 or, if not clean, label 0 (their "sigma_min")."""
    times = process.times_of(torch.tensor(labels))
    last = torch.zeros(1).double() if clean else process.times_of(torch.zeros(1))
    return Labelled(process, torch.cat([times, last]), tuple(labels))


def ve_grid(process: DiscreteVP, labels: Sequence[float]) -> Labelled:
    """On EDM's clock, with sigma / alpha interpolated linearly over the label, then 0."""
    table = ratios(process)
    levels = np.interp(labels, np.arange(len(table)), table)
    return Labelled(Karras(table[-1]), torch.tensor([*levels, 0.0]), tuple(labels))


def label_of(process: DiscreteVP, levels: np.ndarray) -> np.ndarray:
    """Fractional labels of noise levels, interpolated over log(sigma / alpha)."""
    return np.interp(np.log(levels), np.log(ratios(process)), np.arange(process.steps))


def polynomial_levels(high: float, low: float, steps: int, rho: float = 7.0) -> np.ndarray:
    """Karras et al. (2022), eq. 5, written out once more."""
    ramp = np.linspace(0, 1, steps)
    return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def geometric_levels(high: float, low: float, steps: int) -> np.ndarray:
    """Equal steps of log(sigma / alpha): "Lu's lambdas" of DPM-Solver."""
    return np.exp(np.linspace(np.log(high), np.log(low), steps))


def vp_grid_of_levels(process: DiscreteVP, levels: np.ndarray, clean: bool = True) -> Labelled:
    """Times of given noise levels, of which the model is told the nearest whole label."""
    last = np.zeros(0) if clean else ratios(process)[:1]
    times = process.time_at_ratio(torch.tensor(np.concatenate([levels, last])))
    labels = label_of(process, levels).round()
    return Labelled(process, torch.cat([times, times.new_zeros(int(clean))]), tuple(labels))


def ve_grid_of_levels(process: DiscreteVP, levels: np.ndarray) -> Labelled:
    """Given noise levels on EDM's clock, of which the model is told fractional labels; then 0."""
    times = torch.tensor([*levels, 0.0])
    return Labelled(Karras(ratios(process)[-1]), times, tuple(label_of(process, levels)))


def dpm_labels(steps: int, train_steps: int = 1000) -> list[int]:
    """DPM-Solver++'s own grid in diffusers: steps + 1 labels down to 0, of which 0 is dropped."""
    return np.linspace(0, train_steps - 1, steps + 1).round()[:0:-1].astype(int).tolist()


def with_middles(process: DiscreteVP, grid: Labelled) -> Labelled:
    """A grid on EDM's clock with the geometric mean of each two levels, at its fractional label."""
    levels = grid.times[:-1].numpy()
    middles = np.sqrt(levels[1:] * levels[:-1])
    every = np.concatenate([levels, middles])
    labels = np.concatenate([grid.labels, label_of(process, middles)])
    down = np.argsort(-every)
    return Labelled(grid.process, torch.tensor([*every[down], 0.0]), tuple(labels[down]))


# ---- denoisers


class Listening(nn.Module):
    """raw(x, what the network is told), as a network."""

    def __init__(self, raw: Raw) -> None:
        super().__init__()
        self.raw = raw

    def forward(self, x: Tensor, noise_level: Tensor, cond: object) -> Tensor:
        return self.raw(x, noise_level[0].item())


class Told(nn.Module):
    """raw(x, label) as a network that is told a time and looks the label up in a grid."""

    def __init__(self, raw: Raw, grid: Labelled) -> None:
        super().__init__()
        order = torch.argsort(grid.times[:-1])
        self.raw, self.times = raw, grid.times[:-1][order].numpy()
        self.labels = np.array(grid.labels)[order.numpy()]

    def forward(self, x: Tensor, noise_level: Tensor, cond: object) -> Tensor:
        return self.raw(x, float(np.interp(noise_level[0].item(), self.times, self.labels)))


@dataclass(frozen=True)
class PredictUnitV:
    """v of the sample scaled to alpha^2 + sigma^2 = 1, which is what diffusers means on VE."""

    time_scale: float

    def __call__(self, process: Process, t: Tensor) -> Coefficients:
        c = PredictV(self.time_scale)(process, t)
        return c._replace(c_out=c.c_out * torch.hypot(process.alpha(t), process.sigma(t)))

    def check(self, process: Process) -> None:
        """Defined on every process."""


KINDS = {"eps": PredictNoise, "v": PredictUnitV, "x0": PredictData}


def as_denoiser(raw: Raw, kind: str, grid: Labelled) -> NetworkDenoiser:
    """raw, which predicts `kind` (eps, v or x0), as a denoiser on the grid's process."""
    parameterization = KINDS[kind](time_scale=grid.process.t_max)  # so that it is told t itself
    return NetworkDenoiser(Told(raw, grid), grid.process, parameterization)


# ---- loops


def walk(
    solver: Solver,
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    randn_like: RandnLike = no_noise,
    counted: bool = False,
    memory: object = None,
) -> Tensor:
    """The solver's formula between neighbours of times in any order: s > t inverts.

    counted: tell it how many steps are left, as where the grid ends at clean data.
    """
    for i, (t, s) in enumerate(pairwise(times)):
        left = len(times) - 1 - i if counted else None
        step = Step(denoiser, denoiser.process, x, t, s, memory, randn_like, left)
        x, memory = solver(step)
    return x


def walk_scaled(
    solver: Solver,
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    randn_like: RandnLike = no_noise,
    memory: object = None,
) -> Tensor:
    """Loop B of diffusers' tests: model *and* step are given x / sqrt(1 + sigma^2).

    No sampler does that; their expected numbers need it.
    """

    def scaled(x: Tensor, t: Tensor) -> Tensor:
        return x / torch.hypot(torch.ones_like(t), t).to(x)

    for t, s in pairwise(times):

        def denoise(y: Tensor, u: Tensor, t: Tensor = t) -> object:
            return denoiser(y if u == t else scaled(y, u), u)

        step = Step(denoise, denoiser.process, scaled(x, t), t, s, memory, randn_like)
        x, memory = solver(step)
    return x


# ---- a transcription


def ancestral_by_hand(
    betas: Tensor, labels: Sequence[int], x: Tensor, raw: Raw, beta_of_table: bool = False
) -> Tensor:
    """Ho et al. (2020), eqs. 6, 7 and 11 with clipped x0, all in the dtype of betas.

    raw predicts eps. beta_of_table: between neighbours take the tabled beta, not alpha_bar's ratio.
    """
    one, randn_like = torch.ones(1, dtype=betas.dtype), seeded(0)
    alpha_bar = torch.cat([one, torch.cumprod(1 - betas, 0)])
    x = x.to(betas)
    for label, before in pairwise([*labels, -1]):
        now, then = alpha_bar[label + 1], alpha_bar[before + 1]
        tabled = beta_of_table and before == label - 1
        beta = betas[label] if tabled else 1 - now / then
        x0 = ((x - (1 - now).sqrt() * raw(x, label)) / now.sqrt()).clamp(-1, 1)
        x = (then.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - then) * x) / (1 - now)
        if label > 0:
            x = x + ((1 - then) / (1 - now) * beta).sqrt() * randn_like(x)
    return x


# ---- the exact mixture: half N(+1, 0.3^2), half N(-1, 0.3^2) in every pixel


def mixture_x0(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """E[x_0 | alpha x_0 + sigma * noise = x], in float64."""
    x, variance = x.double(), 0.09 * alpha**2 + sigma**2
    return (0.09 * alpha * x + sigma**2 * torch.tanh(alpha * x / variance)) / variance


def level_at(process: DiscreteVP) -> Callable[[float], float]:
    """sigma / alpha at a label, interpolated linearly; at whole labels it may be infinite."""
    table = ratios(process)

    def level(label: float) -> float:
        whole = round(label)
        near = abs(label - whole) < 1e-3  # labels have been through float32
        return float(table[whole] if near else np.interp(label, np.arange(len(table)), table))

    return level


def mixture(kind: str, process: DiscreteVP) -> Raw:
    """The perfect network of a VP process's inputs: raw(x, label) predicts eps, v or x0."""
    level_of = level_at(process)

    def raw(x: Tensor, label: float) -> Tensor:
        level = level_of(label)
        alpha, sigma = (1 + level**2) ** -0.5, (1 + level**-2) ** -0.5
        x0 = mixture_x0(x, alpha, sigma)
        eps = (x - alpha * x0) / sigma
        views = {"eps": eps, "v": alpha * eps - sigma * x0, "x0": x0}
        return views[kind].to(x)

    return raw


def scaled_input(raw: Raw, grid: Labelled) -> Raw:
    """raw, shown x / sqrt(1 + sigma^2) on EDM's clock as diffusers' pipelines show it."""

    def on_ve(x: Tensor, label: float) -> Tensor:
        labels, levels = np.array(grid.labels)[::-1], grid.times[:-1].numpy()[::-1]
        level = float(np.interp(label, labels, levels))
        return raw(x / (1 + level**2) ** 0.5, label)

    return on_ve


def start() -> Tensor:
    """Stands for the noise at t_max in every digest: (4, 3, 8, 8)."""
    return (1.5 * torch.sin(0.37 * torch.arange(768).double())).float().reshape(SHAPE)


def digest(x: Tensor) -> tuple[float, float, float]:
    """sum |x|, sum x_i cos(0.11 i) and element 5."""
    x = x.double().flatten()
    return (
        x.abs().sum().item(),
        (x * torch.cos(0.11 * torch.arange(len(x)))).sum().item(),
        x[5].item(),
    )


def with_signal_left(make: Callable[[], DiscreteVP]) -> DiscreteVP:
    """A process that is rightly warned of, because its last step still shows the image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SignalLeftWarning)
        return make()


@dataclass(frozen=True)
class TableOfBetas(DiscreteVP):
    """Betas given one by one, for tables that no schedule of ours makes."""

    table: tuple[float, ...]
    zero_terminal_snr: bool = False

    @property
    def steps(self) -> int:  # type: ignore[override]
        return len(self.table)

    def _betas(self) -> Tensor:
        return torch.tensor(self.table, dtype=torch.float64)


def as_float32(process: DiscreteVP) -> TableOfBetas:
    """The process whose alpha_bar is diffusers' running product in float32.

    Near t = 0 that product has lost most digits of 1 - alpha_bar: 8e-5 of the last sigma.
    """
    alpha_bar = torch.cumprod(1 - process.betas().float(), 0).double()
    before = torch.cat([torch.ones(1).double(), alpha_bar[:-1]])
    return TableOfBetas(tuple((1 - alpha_bar / before).tolist()))
