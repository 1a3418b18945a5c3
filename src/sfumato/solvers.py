"""Solvers: one step of the reverse process, from time t to a smaller time s.

A solver is a frozen value: it holds hyperparameters, never state. What a multistep method needs
from earlier steps goes out as `memory` and comes back in. t and s are 0-dim float64 tensors on the
CPU, so that asking whether sigma(s) is 0 never waits for a GPU. At s = 0 no solver adds noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .prediction import Prediction
from .process import Process, match_dims

Denoise = Callable[[Tensor, Tensor], Prediction]  # a denoiser with its condition bound
RandnLike = Callable[[Tensor], Tensor]


class Step(NamedTuple):
    """What a solver is given: x at time t, to be brought to s < t."""

    denoise: Denoise
    process: Process
    x: Tensor  # (B, ...)
    t: Tensor  # ()
    s: Tensor  # ()
    memory: Any  # what this solver returned beside the x before this one; None at the start
    randn_like: RandnLike
    left: int | None = None  # steps to clean data, this one included; None where that is not known


class Solver(Protocol):
    """Advance x from t to s; return x_s and the memory for the next step."""

    def __call__(self, step: Step) -> tuple[Tensor, Any]: ...


@dataclass(frozen=True)
class DDIM:
    """J. Song et al. (2021), eq. 12, for any process; on RectifiedFlow and Karras Euler's method.

    eta = 0 is deterministic; eta = 1 adds noise of DDPM's posterior variance and is Ancestral().
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta}; it goes from 0 (DDIM) to 1 (DDPM).")

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        denoise, process, x, t, s, memory, randn_like, _ = step
        p = denoise(x, t)
        alpha, sigma = process.alpha(s), process.sigma(s)
        # The posterior variance is lost * sigma^2; 1 - eta^2 lost is a sum of positive terms.
        lost = -torch.expm1(process.log_snr(t) - process.log_snr(s))
        kept = (1 - self.eta**2) + self.eta**2 * (1 - lost)
        direction = match_dims(sigma * kept.sqrt(), x)
        mean = match_dims(alpha, x) * p.x0 + direction * p.eps
        if self.eta == 0 or sigma == 0:
            return mean, memory
        return mean + match_dims(self.eta * sigma * lost.sqrt(), x) * randn_like(x), memory


@dataclass(frozen=True)
class Ancestral:
    """DDPM's sampler: draw x_s from N(posterior mean, variance). Ho et al. (2020), algorithm 2.

    The log-variance lies between that of the posterior q(x_s | x_t, x_0) at variance_mix = 0
    (beta tilde, "fixed small") and that of the transition q(x_t | x_s) at 1 (beta, "fixed large").
    None takes the mix that the network learned: Nichol and Dhariwal (2021), eq. 15. The last step
    returns the mean.
    """

    variance_mix: float | None = 0.0

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        denoise, process, x, t, s, memory, randn_like, _ = step
        p = denoise(x, t)
        mean, small = process.posterior(x, p.x0, t, s)
        if process.sigma(s) == 0:
            return mean, memory
        mix = p.variance_mix if self.variance_mix is None else self.variance_mix
        if mix is None:
            raise ValueError(
                "Ancestral(variance_mix=None) wants a denoiser with learned variance, and this one "
                "has none. Use Ancestral(0.0), or NetworkDenoiser(..., learned_variance=True)."
            )
        large = match_dims(process.transition(s, t)[1], x)
        return mean + torch.sqrt(small ** (1 - mix) * large**mix) * randn_like(x), memory


@dataclass(frozen=True)
class Euler:
    """First-order steps of the probability-flow ODE in the process's own time."""

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        denoise, _, x, t, s, memory, _, _ = step
        return x + match_dims(s - t, x) * denoise(x, t).velocity, memory


@dataclass(frozen=True)
class Heun:
    """Second-order steps of the probability-flow ODE: Karras et al. (2022), algorithm 1.

    Two network calls a step, one for the last. With noise: Churn(Heun(), ...). The clock of a
    DiscreteVP changes speed at every step of its table, which spoils the order below errors of
    about 1e-4: OnProcess(denoiser, Karras()) has a smooth one.
    """

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        denoise, process, x, t, s, memory, _, _ = step
        length = match_dims(s - t, x)
        slope = denoise(x, t).velocity
        x_euler = x + length * slope
        if process.sigma(s) == 0:
            return x_euler, memory  # no view but x0 is defined without noise
        return x + length * (slope + denoise(x_euler, s).velocity) / 2, memory


@dataclass(frozen=True)
class DPMSolverPP2M:
    """DPM-Solver++(2M): Lu et al. (2022), algorithm 2. One network call a step, second order.

    The first step and a step to sigma = 0 are of first order.
    """

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        denoise, process, x, t, s, memory, _, _ = step
        x0 = denoise(x, t).x0
        h = (process.log_snr(s) - process.log_snr(t)) / 2
        estimate = x0
        if memory is not None and process.sigma(s) > 0:
            x0_before, h_before = memory
            estimate = x0 + match_dims(h / (2 * h_before), x) * (x0 - x0_before)
        shrink = process.sigma(s) / process.sigma(t)
        weight = process.alpha(s) - shrink * process.alpha(t)
        return match_dims(shrink, x) * x + match_dims(weight, x) * estimate, (x0, h)


@dataclass(frozen=True)
class EulerMaruyama:
    """Euler steps of the reverse SDE, dx = (f x - g^2 score) dt + g dw.

    Y. Song et al. (2021), eq. 6, with the f and g of any process:
    f = alpha' / alpha and g^2 = 2 sigma (sigma' - f sigma). Where alpha(t) = 0 the
    SDE has no finite drift, and the step is refused.
    """

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        denoise, process, x, t, s, memory, randn_like, _ = step
        alpha, sigma = process.alpha(t), process.sigma(t)
        if alpha == 0:
            raise ValueError(
                f"EulerMaruyama is not defined at t = {t.item():g} of {process}, where alpha is 0. "
                "Start the time grid below it, or use Ancestral(), which is defined there."
            )
        alpha_rate, sigma_rate = process.rates(t)
        f = alpha_rate / alpha
        g_squared = 2 * sigma * (sigma_rate - f * sigma)
        p = denoise(x, t)
        drift = match_dims(f, x) * x - match_dims(g_squared, x) * p.score
        mean = x + match_dims(s - t, x) * drift
        if process.sigma(s) == 0:
            return mean, memory
        return mean + match_dims((g_squared * (t - s)).sqrt(), x) * randn_like(x), memory


@dataclass(frozen=True)
class Churn:
    """Any solver, made stochastic: add a little noise before each step, then step from there.

    Karras et al. (2022), algorithm 2, lines 4 to 6. `amount` is S_churn / N, capped as there.
    As there, a first step from the most noise goes beyond it, by up to 1.41 times, unless max_ratio
    is below it: ask for that where the network was trained up to there.
    """

    solver: Solver
    amount: float
    min_ratio: float = 0.0  # S_tmin, as sigma / alpha
    max_ratio: float = float("inf")  # S_tmax
    noise_scale: float = 1.0  # S_noise

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        _, process, x, t, _, _, randn_like, _ = step
        ratio = process.ratio(t)
        gamma = min(self.amount, 2**0.5 - 1)
        if gamma > 0 and self.min_ratio <= ratio <= self.max_ratio and ratio < float("inf"):
            t_hat = process.time_at_ratio(ratio * (1 + gamma))
            scale, variance = process.transition(t, t_hat)
            noise = match_dims(self.noise_scale * variance.sqrt(), x) * randn_like(x)
            x, t = match_dims(scale, x) * x + noise, t_hat
        return self.solver(step._replace(x=x, t=t))
