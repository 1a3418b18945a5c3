"""What is wrong with how noise is added, and with what the network is told of it.

Asked of the objects themselves and not of their names, so that a process of the user's own, in
FILE.py:FUNCTION, is looked at as well: x_t = alpha x0 + sigma eps, alpha(0) = 1, rates = slopes.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..config import Run
from ..networks.four_conv import FourConvConfig
from ..networks.small import PulferUNetConfig, StarterCNNConfig
from ..parameterization import Parameterization
from ..process import Process
from .finding import RISK, WRONG, Finding, found

LEFT_RISK, LEFT_WRONG = 0.02, 0.1  # share of the amplitude left at t_max; Karras() keeps 0.0125
FEW_STEPS = 50  # of a table of betas: each then hides too much for one Gaussian step back
HIGH, LOW = 2.0, 0.3  # sigma / alpha: above the one images are hidden, below the other grainy
NEEDED = 3.0  # sigma / alpha: the noise that training must reach
NEGLECTED = 0.05  # of its share of the steps
SINUSOIDS = (20.0, 20_000.0)  # how wide a range of levels sinusoids tell apart
IN_UNITS = (FourConvConfig, StarterCNNConfig)  # told the level as it is, about 0 to 1
U = 1000  # quantiles of the training times


def check_process(process: Process) -> Iterator[Finding]:
    """Whether the formulas hold, and how much of the image is left at the end."""
    inside = torch.linspace(0.0123, 0.9877, 40, dtype=torch.float64) * process.t_max
    alpha, sigma = process.alpha(inside), process.sigma(inside)
    yield from _check_clock(process, alpha, sigma)
    yield from _check_diffuse(process, inside, alpha, sigma)
    yield from _check_rates(process, inside)
    share = left(process, torch.tensor(process.t_max, dtype=torch.float64))
    if share > LEFT_RISK:
        severity = WRONG if share > LEFT_WRONG else RISK
        yield found("signal-left", severity, share=share, process=str(process))
    steps = steps_of(process)
    if steps is not None and steps < FEW_STEPS:
        yield found("few-betas", RISK, steps=steps)


def left(process: Process, t: Tensor) -> float:
    """alpha / sqrt(alpha^2 + sigma^2) at t: of images and noise of unit size, how much is image."""
    alpha, sigma = process.alpha(t).item(), process.sigma(t).item()
    return alpha / max((alpha**2 + sigma**2) ** 0.5, 1e-12)


def steps_of(process: Any) -> int | None:
    """T of a table of betas; None where there is none."""
    return getattr(getattr(process, "process", process), "steps", None)


def _check_clock(process: Process, alpha: Tensor, sigma: Tensor) -> Iterator[Finding]:
    zero = torch.zeros((), dtype=torch.float64)
    start = (process.alpha(zero).item(), process.sigma(zero).item())
    noisier = ((sigma / alpha).diff() > 0).all()
    if abs(start[0] - 1) > 1e-3 or abs(start[1]) > 1e-3 or not noisier:
        yield found("clock-backwards", WRONG, alpha=start[0], sigma=start[1])


def _check_diffuse(process: Process, t: Tensor, alpha: Tensor, sigma: Tensor) -> Iterator[Finding]:
    generator = torch.Generator().manual_seed(0)
    x0 = 2 * torch.rand(len(t), 64, generator=generator, dtype=torch.float64) - 1
    eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    wanted, got = alpha[:, None] * x0 + sigma[:, None] * eps, process.diffuse(x0, t, eps)
    error = (got - wanted).abs().max().item()
    if error <= 1e-5 * wanted.abs().max().item():
        return
    largest, reaches = got.abs().max().item(), wanted.abs().max().item()
    clamped = wanted.clamp(-largest, largest)
    if largest < reaches and torch.allclose(got, clamped, atol=1e-6):
        yield found("x-clamped", WRONG, largest=largest, reaches=reaches)
    else:
        yield found("diffuse-off", WRONG, error=error, **_half_way(process))


def _half_way(process: Process) -> dict[str, float]:
    """What diffuse multiplies x0 and eps by at t_max / 2, and what it should."""
    t = torch.tensor([process.t_max / 2], dtype=torch.float64)
    one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    made = [process.diffuse(*parts).item() for parts in ((one, t, none), (none, t, one))]
    return {
        "image": made[0],
        "noise": made[1],
        "alpha": process.alpha(t).item(),
        "sigma": process.sigma(t).item(),
    }


def _check_rates(process: Process, t: Tensor) -> Iterator[Finding]:
    """Rates beside the slopes over a millionth of the range."""
    h = 1e-6 * process.t_max
    pairs = zip(process.rates(t), (process.alpha, process.sigma))
    errors = [
        ((f(t + h) - f(t - h)) / (2 * h) - rate).abs().median().item() / (1e-9 + rate.abs().max())
        for rate, f in pairs
    ]
    worst = float(max(errors))
    if worst > 0.01:
        yield found("rates-off", WRONG, error=worst)


def check_prediction(run: Run) -> Iterator[Finding]:
    """Whether what the network gives is defined at every time, and what it is told fits it."""
    way = known(run.parameterization)
    try:
        way.check(run.process)
    except ValueError:
        yield found("zero-snr", WRONG, way=type(way).__name__, process=str(run.process))
        return
    yield from _check_levels(run, way)


def known(way: Any) -> Parameterization:
    """The parameterization with a sigma_data, where it is not yet measured."""
    return replace(way, sigma_data=0.5) if getattr(way, "sigma_data", None) == 0 else way


def training_times(run: Run) -> Tensor:
    """The quantiles of the times that training shows: float64, (U,)."""
    u = (torch.arange(U, dtype=torch.float64) + 0.5) / U
    return run.objective.times(run.process, u)


def _check_levels(run: Run, way: Parameterization) -> Iterator[Finding]:
    """The noise level as the network's embedding gets it."""
    scale = getattr(run.network, "noise_scale", 1.0)
    levels = scale * way(run.process, training_times(run)).c_noise
    low, high = levels.min().item(), levels.max().item()
    seen = {"low": low, "high": high, "scale": scale, "network": type(run.network).__name__}
    if type(run.network) is PulferUNetConfig:
        if low < -0.5 or high > run.network.steps - 0.5:
            yield found("level-table", WRONG, rows=run.network.steps, **seen)
    elif type(run.network) in IN_UNITS:
        if max(abs(low), abs(high)) > 3:
            yield found("level-raw", WRONG, **seen)
    elif getattr(run.network, "fourier", False):
        if not low > 0:
            yield found("level-log", WRONG, **seen)
    elif high - low < SINUSOIDS[0]:
        yield found("level-narrow", WRONG, wanted=1000 / (high - low) * scale, **seen)
    elif high - low > SINUSOIDS[1]:
        yield found("level-wide", WRONG, wanted=1000 / (high - low) * scale, **seen)


def check_times(run: Run) -> Iterator[Finding]:
    """Whether training sees the noise levels that sampling will walk through."""
    own = steps_of(run.process)
    steps = getattr(run.objective.times, "steps", None)
    if own is not None and steps is not None and own != steps:
        yield found("steps-differ", WRONG, process=own, objective=steps)
    ratios = run.process.ratio(training_times(run))
    high, low = ratios[-1].item(), ratios[0].item()
    if high < min(NEEDED, 0.9 * run.process.largest_ratio):
        yield found("untrained-high", WRONG, highest=high, needed=NEEDED)
    if low > LOW:
        yield found("untrained-low", RISK, lowest=low)
    yield from _check_weights(run, ratios)


def _check_weights(run: Run, ratios: Tensor) -> Iterator[Finding]:
    """How the loss divides over noise levels, in the error of the network's own output.

    weight c_out^2 is the weight of (network - target)^2, whose size is alike at all levels.
    """
    weight = getattr(run.objective, "weight", None)
    if weight is None:
        return
    way, times = known(run.parameterization), training_times(run)
    asked = _Asked(run.process, way)
    of_output = weight(asked, times) * way(run.process, times).c_out ** 2
    for code, chosen in (("weight-high", ratios > HIGH), ("weight-low", ratios < LOW)):
        share = (of_output[chosen].sum() / of_output.sum()).item()
        steps = chosen.double().mean().item()
        if steps > 0.01 and share < NEGLECTED * steps:
            yield found(code, RISK, share=share, steps=steps, weight=type(weight).__name__)


class _Asked:
    """What a Weight asks of a denoiser, without its network."""

    def __init__(self, process: Process, parameterization: Parameterization) -> None:
        self.process, self.parameterization = process, parameterization
