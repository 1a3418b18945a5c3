"""One noise level of a process, explained: its numbers, and itself in three notations.

    x_t = alpha x0 + sigma eps            ours: any process, on its own clock
    DDPM   x_t / hypot(alpha, sigma)      alpha_bar = alpha^2 / (alpha^2 + sigma^2)
    EDM    x_t / alpha                    its sigma = sigma / alpha
    flow   x_t / (alpha + sigma)          its t     = sigma / (alpha + sigma)

A noisy image is known by its signal-to-noise ratio, so that the three are one image, scaled.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .denoiser import NetworkDenoiser
from .discrete import DiscreteVP, LinearBetas
from .objective import OutputMSE, Times, Weight
from .parameterization import (
    EDMPreconditioning,
    Parameterization,
    PredictData,
    PredictNoise,
    PredictV,
    PredictVelocity,
)
from .process import Process

Numbers = dict[str, float]
VIEWS = ("x0", "eps", "v", "velocity", "score")
DDPM = LinearBetas(1000)  # whose steps a noise level is told in
TARGETS = {  # what the network of each parameterization is trained to give
    "PredictNoise": "eps",
    "PredictData": "x0",
    "PredictV": "v = alpha eps - sigma x0",
    "PredictVelocity": "velocity = alpha' x0 + sigma' eps",
    "EDMPreconditioning": "(x0 - c_skip x_t) / c_out",
}


def _at(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


# --- which time is meant


def time_of(
    process: Process,
    time: float | None = None,
    step: float | None = None,
    ratio: float | None = None,
) -> float:
    """The time that is meant; where none is given, that of as much noise as signal.

    step: i of a table of T betas, 1 to T, at t = i / T. ratio: sigma / alpha.

    Raises: ValueError for more than one of them, a step of a process without a table, or a time
    that is 0, where nothing is left to predict, or beyond the process's end.
    """
    if sum(value is not None for value in (time, step, ratio)) > 1:
        raise ValueError("a time, a step and a ratio each say which point is meant: give one.")
    if step is not None:
        return _time_of_step(process, step)
    if time is not None:
        return _checked(process, time)
    wanted = 1.0 if ratio is None else ratio
    if not 0 < wanted <= process.largest_ratio or math.isinf(wanted):
        raise ValueError(
            f"ratio {wanted:g}: sigma / alpha of {process} is above 0 and at most "
            f"{process.largest_ratio:g}, and finite."
        )
    return min(process.time_at_ratio(_at(wanted)).item(), process.t_max)


def _checked(process: Process, time: float) -> float:
    if not 0 < time <= process.t_max:
        raise ValueError(
            f"time {time:g}: the times of {process} are above 0, where nothing is left to "
            f"predict, and at most {process.t_max:g}. To name a point by its noise, give a ratio."
        )
    return time


def _time_of_step(process: Process, step: float) -> float:
    if not isinstance(process, DiscreteVP):
        raise ValueError(
            f"{process} has no table of steps. Give a time in (0, {process.t_max:g}] or a ratio."
        )
    if step != int(step) or not 1 <= step <= process.steps:
        raise ValueError(
            f"step {step:g}: the steps of {process} are whole, from 1 to {process.steps}; code "
            "that counts from 0 calls step 1 timestep 0."
        )
    return step / process.steps


# --- its numbers


def numbers_of(process: Process, t: float) -> Numbers:
    """What the process says of time t; f and g^2 as solvers.EulerMaruyama has them.

    snr is alpha^2 / sigma^2, ratio its inverse root. f and what follows from it are infinite where
    alpha is 0.
    """
    at = _at(t)
    alpha, sigma = process.alpha(at), process.sigma(at)
    alpha_rate, sigma_rate = process.rates(at)
    f = alpha_rate / alpha
    log_snr = process.log_snr(at)
    found = {
        "t": at,
        "alpha": alpha,
        "sigma": sigma,
        "log_snr": log_snr,
        "snr": log_snr.exp(),
        "ratio": process.ratio(at),
        "alpha_rate": alpha_rate,
        "sigma_rate": sigma_rate,
        "f": f,
        "g_squared": 2 * sigma * (sigma_rate - f * sigma),
    }
    return {name: value.item() for name, value in found.items()} | table_of(process, t)


def table_of(process: Process, t: float) -> Numbers:
    """Of a process with a table the row at t, or the one that t lies in; else nothing.

    beta and beta_tilde, DDPM's two variances, are those of the step that ends there.
    """
    if not isinstance(process, DiscreteVP):
        return {}
    position = t * process.steps
    i = min(max(math.ceil(position - 1e-9), 1), process.steps)
    betas, bars = process.betas(), process.log_alpha_bar.exp()
    return {
        "step": position,
        "steps": process.steps,
        "alpha_bar": process.alpha(_at(t)).item() ** 2,
        "beta": betas[i - 1].item(),
        "beta_tilde": ((1 - bars[i - 1]) / (1 - bars[i]) * betas[i - 1]).item(),
    }


def share_of_signal(process: Process, t: float, deviation: float) -> float:
    """The share of x_t's variance that is the image's, whose standard deviation is given."""
    alpha, sigma = process.alpha(_at(t)).item(), process.sigma(_at(t)).item()
    return (alpha * deviation) ** 2 / ((alpha * deviation) ** 2 + sigma**2)


# --- what the network sees, gives and is told


@dataclass(frozen=True)
class Row:
    """A parameterization at one time; numbers is empty where it is not defined, and why says."""

    name: str
    target: str
    numbers: Numbers
    why: str = ""


def denoiser_of(process: Process, parameterization: Parameterization) -> NetworkDenoiser:
    """One without a network, to ask coefficients and weights of."""
    return NetworkDenoiser(nn.Identity(), process, parameterization)


def row_of(process: Process, t: float, parameterization: Parameterization) -> Row:
    """c_in, c_skip, c_out, c_noise, and what the plain loss of the output weighs the x0 error."""
    name = type(parameterization).__name__
    try:
        denoiser = denoiser_of(process, parameterization)
    except ValueError as error:
        return Row(name, TARGETS[name], {}, str(error))
    found = {
        key: value.item() for key, value in parameterization(process, _at(t))._asdict().items()
    }
    found["weight"] = OutputMSE()(denoiser, _at(t)).item()
    return Row(name, TARGETS[name], found)


def rows_of(
    process: Process, t: float, own: Parameterization | None, deviation: float
) -> list[Row]:
    """One for each way to predict, the run's own in its own settings."""
    ways: tuple[Parameterization, ...] = (
        *(PredictNoise(), PredictData(), PredictV(), PredictVelocity()),
        EDMPreconditioning(deviation),
    )
    return [row_of(process, t, own if type(own) is type(way) and own else way) for way in ways]


def weight_of(process: Process, t: float, own: Parameterization, weight: Weight) -> float:
    """The weight of the x0 error in the run's own loss."""
    return weight(denoiser_of(process, own), _at(t)).item()


def noisier_share(process: Process, t: float, times: Times, points: int = 10_000) -> float:
    """The share of training images that get more noise than this."""
    u = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    return (times(process, u) > t).double().mean().item()


# --- how the views turn into one another


def forms_of(process: Process, t: float) -> dict[str, tuple[float, float]]:
    """x_t and each view as (a, b) of a x0 + b eps."""
    n = numbers_of(process, t)
    return {
        "x_t": (n["alpha"], n["sigma"]),
        "x0": (1.0, 0.0),
        "eps": (0.0, 1.0),
        "v": (-n["sigma"], n["alpha"]),
        "velocity": (n["alpha_rate"], n["sigma_rate"]),
        "score": (0.0, -1 / n["sigma"]),
    }


def conversions(process: Process, t: float) -> dict[tuple[str, str], tuple[float, float] | None]:
    """(given, wanted): (a, b) of wanted = a x_t + b given; None where given does not tell.

    Two linear forms in x0 and eps fix both, unless one is a multiple of the other: where alpha is
    0, x_t is the noise, and eps or the score say nothing more.
    """
    forms = forms_of(process, t)
    p, q = forms["x_t"]
    found: dict[tuple[str, str], tuple[float, float] | None] = {}
    for given in VIEWS:
        r, s = forms[given]
        determinant = p * s - q * r
        for wanted in VIEWS:
            c, d = forms[wanted]
            if determinant == 0:
                found[given, wanted] = None
            else:
                a, b = (c * s - d * r) / determinant, (p * d - q * c) / determinant
                found[given, wanted] = (a, b)
    return found


# --- three notations


@dataclass(frozen=True)
class Notation:
    """The same noise level as one family of papers writes it.

    scale: what x_t is multiplied by to be their x. numbers: by their names. equations: what, and
    how they write it. weight: of the x0 error in their plain loss.
    """

    name: str
    scale: float
    numbers: Numbers
    equations: dict[str, str]
    weight: float


DDPM_EQUATIONS = {
    "x": "x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps",
    "network": "eps",
    "x0": "(x - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)",
    "score": "-eps / sqrt(1 - alpha_bar)",
    "ODE": "dx/dt = -beta(t) / 2 (x + score)",
    "step to s": "sqrt(alpha_bar_s) x0 + sqrt(1 - alpha_bar_s) eps",
    "weight": "alpha_bar / (1 - alpha_bar)",
}
EDM_EQUATIONS = {
    "x": "x = x0 + sigma eps",
    "network": "F = (x0 - c_skip x) / c_out",
    "x0": "D = c_skip x + c_out F(c_in x; c_noise)",
    "score": "(D - x) / sigma^2",
    "ODE": "dx/dsigma = (x - D) / sigma",
    "step to s": "x + (sigma_s - sigma) (x - D) / sigma",
    "weight": "(sigma^2 + sd^2) / (sigma sd)^2",
}
FLOW_EQUATIONS = {
    "x": "x = (1 - t) x0 + t eps",
    "network": "v = eps - x0",
    "x0": "x - t v",
    "score": "-(x + (1 - t) v) / t",
    "ODE": "dx/dt = v",
    "step to s": "x + (s - t) v",
    "weight": "1 / t^2",
}


def ddpm_notation(process: Process, t: float) -> Notation:
    """alpha_bar, its roots and the step of DDPM's own 1000; NaN where they never are so noisy."""
    n = numbers_of(process, t)
    alpha_bar = torch.sigmoid(_at(n["log_snr"])).item()
    noise = torch.sigmoid(-_at(n["log_snr"])).item()
    reached = n["ratio"] <= DDPM.largest_ratio * (1 + 1e-9)
    step = DDPM.time_at(_at(n["log_snr"])).item() * DDPM.steps if reached else math.nan
    found = {
        "alpha_bar": alpha_bar,
        "sqrt(alpha_bar)": math.sqrt(alpha_bar),
        "sqrt(1 - alpha_bar)": math.sqrt(noise),
        "step of 1000": step,
    }
    scale = 1 / math.hypot(n["alpha"], n["sigma"])
    return Notation("DDPM", scale, found, DDPM_EQUATIONS, n["snr"])


def edm_notation(process: Process, t: float, deviation: float) -> Notation:
    """sigma and the four coefficients at it, for data of this deviation; inf where alpha is 0."""
    n = numbers_of(process, t)
    sigma = n["ratio"]
    total = math.hypot(sigma, deviation)
    scale = math.inf if n["alpha"] == 0 else 1 / n["alpha"]
    found = {
        "sigma": sigma,
        "c_in": 1 / total,
        "c_skip": (deviation / total) ** 2,
        "c_out": deviation if math.isinf(sigma) else sigma * deviation / total,
        "c_noise": math.log(sigma) / 4,
    }
    return Notation("EDM", scale, found, EDM_EQUATIONS, found["c_out"] ** -2)


def flow_notation(process: Process, t: float) -> Notation:
    """t of the straight path from data, 0, to noise, 1."""
    n = numbers_of(process, t)
    total = n["alpha"] + n["sigma"]
    found = {"t": n["sigma"] / total, "1 - t": n["alpha"] / total}
    return Notation("flow", 1 / total, found, FLOW_EQUATIONS, found["t"] ** -2)


def notations_of(process: Process, t: float, deviation: float) -> tuple[Notation, ...]:
    """DDPM's, EDM's and the flow's, side by side."""
    makers: tuple[Callable[[], Notation], ...] = (
        lambda: ddpm_notation(process, t),
        lambda: edm_notation(process, t, deviation),
        lambda: flow_notation(process, t),
    )
    return tuple(make() for make in makers)
