"""What the tests share: every process, the mixtures of which everything is known, and noise.

All mathematics is tested in float64 by explicit dtypes; the default dtype is never touched.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from math import cos, sin
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as the command does, before torch is loaded

import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.denoiser import Denoiser
from sfumato.discrete import (
    CosineBetas,
    DiscreteVP,
    LinearBetas,
    ScaledLinearBetas,
    SigmoidBetas,
    SignalLeftWarning,
)
from sfumato.exact import GaussianMixture
from sfumato.process import (
    Karras,
    LinearVP,
    Process,
    RectifiedFlow,
    SubVP,
    Trigonometric,
)
from sfumato.solvers import RandnLike, Solver, Step

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, with a core each
    torch.set_num_threads(1)


def f64(*values: float) -> Tensor:
    """One float64 tensor: of shape () for one value, (n,) for more."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal draws, float64, a function of shape and seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def quietly(make: Callable[[], DiscreteVP]) -> DiscreteVP:
    """A process that warns of the signal it leaves, made without the warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SignalLeftWarning)
        return make()


CONTINUOUS: list[Process] = [LinearVP(), SubVP(), Karras(), RectifiedFlow(), Trigonometric()]
DISCRETE: list[DiscreteVP] = [
    LinearBetas(),
    quietly(ScaledLinearBetas),
    CosineBetas(),
    SigmoidBetas(),
    LinearBetas(zero_terminal_snr=True),
]
PROCESSES: list[Process] = [*CONTINUOUS, *DISCRETE]
WITH_SIGNAL = [p for p in PROCESSES if p.signal_left > 0]
NO_SIGNAL = [p for p in PROCESSES if p.signal_left == 0]


def name(value: object) -> str:
    """A short test id: the class, and what is unusual about the instance."""
    if isinstance(value, (int, float, str)):
        return str(value)
    zero = "-zero-snr" if getattr(value, "zero_terminal_snr", False) else ""
    text = getattr(value, "__name__", type(value).__name__)
    return text + zero


def inside(process: Process, n: int = 50) -> Tensor:
    """n times strictly inside (0, t_max), off the nodes of any table: float64, (n,)."""
    return torch.linspace(0.0123, 0.9877, n, dtype=torch.float64) * process.t_max


def snr_times(process: Process, steps: int, high: float = 20.0, low: float = 0.1) -> Tensor:
    """steps + 1 times, evenly spaced in log SNR, whose ratios run from `high` down to `low`."""
    high = min(high, process.largest_ratio)
    log_ratio = torch.linspace(f64(high).log(), f64(low).log(), steps + 1, dtype=torch.float64)
    return process.time_at_ratio(log_ratio.exp())


MEANS = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
LOG_WEIGHTS = f64(0.5, 0.3, 0.2).log()
STD = 0.3


def mixture(process: Process) -> GaussianMixture:
    """Three unequal components in the plane."""
    return GaussianMixture(process, MEANS, STD, LOG_WEIGHTS)


def noisy_mixture(process: Process, t: Tensor) -> GaussianMixture:
    """The marginal of x_t, t (), as a mixture of its own: only its log_prob is of use."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    std = torch.sqrt((alpha * STD) ** 2 + sigma**2).item()
    return GaussianMixture(process, alpha * MEANS, std, LOG_WEIGHTS)


class OnALine:
    """A planar mixture with its means on a line, for which the probability flow is known exactly.

    The density is a product of a 1-D mixture along the line and a normal across it, so the flow
    keeps the cumulative probability along, and the number of standard deviations across.
    """

    positions = f64(-1.2, 0.2, 1.0)
    weights = f64(0.5, 0.2, 0.3)
    std = 0.25
    angle = 0.6
    offset = 0.3

    def __init__(self, process: Process) -> None:
        self.process = process
        self.along = f64(cos(self.angle), sin(self.angle))
        self.across = f64(-sin(self.angle), cos(self.angle))
        means = self.positions[:, None] * self.along + self.offset * self.across
        self.denoiser = GaussianMixture(process, means, self.std, self.weights.log())

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return alpha, torch.sqrt((alpha * self.std) ** 2 + sigma**2)

    def cdf(self, u: Tensor, t: Tensor) -> Tensor:
        """The probability of less than u, (B,), along the line at time t, ()."""
        alpha, std = self._scales(t)
        return torch.special.ndtr((u[:, None] - alpha * self.positions) / std) @ self.weights

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Where the probability-flow ODE takes x, (B, 2), from time t to time s."""
        (alpha_t, std_t), (alpha_s, std_s) = self._scales(t), self._scales(s)
        wanted = self.cdf(x @ self.along, t)
        low = torch.full_like(wanted, -1000.0)
        high = torch.full_like(wanted, 1000.0)
        for _ in range(70):
            middle = (low + high) / 2
            below = self.cdf(middle, s) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        across = (x @ self.across - alpha_t * self.offset) / std_t
        across = alpha_s * self.offset + std_s * across
        return ((low + high) / 2)[:, None] * self.along + across[:, None] * self.across

    def start(self, n: int, t: Tensor, seed: int = 0) -> Tensor:
        """n points spread as x_t is, roughly: (n, 2)."""
        return self._scales(t)[1] * normal(n, 2, seed=seed)


def seeded(seed: int) -> RandnLike:
    """Normal draws of one generator."""
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def no_noise(x: Tensor) -> Tensor:
    """For a solver that must not draw."""
    raise AssertionError("noise was drawn")


class Draws:
    """The same sequence of normal draws for every sampler that asks."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.count += 1
        return normal(*x.shape, seed=self.count)


def one_step(
    solver: Solver,
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    randn_like: RandnLike = no_noise,
    memory: object = None,
) -> Tensor:
    """x at s by one step of a solver from t."""
    return solver(Step(denoiser, denoiser.process, x, t, s, memory, randn_like))[0]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that draws from the global generator draws the same in any order of the tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _lean() -> Iterator[None]:
    """Trainings in this process end without a loss figure and a look of the doctor.

    These cost more than five steps of a tiny network. Their own tests have them, and so has every
    run in a process of its own, as the demo's.
    """

    def no_figure(rows: object, path: Path, settings: object) -> None:
        Image.new("L", (1, 1)).save(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.session.loss_figure", no_figure)
        patch.setattr("sfumato.trainer.look_and_leave", lambda *rest: None)
        yield


@pytest.fixture
def sfumato(monkeypatch, tmp_path, capsys):
    """Runs a command in an empty folder; what it printed."""
    from tiny import commands

    return commands(monkeypatch, tmp_path, capsys)
