"""Multistep solvers: one network call a step, and the calls before it for a higher order.

The probability flow of any process is, exactly, either of

    d(x / sigma) = x0 d(alpha / sigma)            d(x / alpha) = eps d(sigma / alpha)

With x0, or eps, held over a step both are DDIM. A multistep method lets it follow the polynomial
through its latest values instead. On a clock z, 0 at t, 1 at s and negative before t, these are f_0
at 0 and f_i at z_i, and

    x_s = DDIM's + sum_i w_i (f_i - f_0),    sum_i w_i z_i^k = integral of z^k,    k = 1, 2, ...

with the integral taken against d(alpha / sigma) or d(sigma / alpha). So the methods differ in three
things only: x0 or eps, the clock, and the integrals, which some of them take roughly.

    DPMSolverPP   x0,  log(alpha / sigma)   rough, as published
    UniPC         x0,  log(alpha / sigma)   exact from order 3 on; then each x is corrected
    DEIS          eps, log(sigma / alpha)   exact
    TimeDEIS      eps, t                    exact where the process is smooth
    LMS           eps, sigma / alpha        exact
    IPNDM         eps, the step's number    as if sigma / alpha fell by equal steps

The first steps are of lower order, because less is known. So are the last ones of the methods whose
clock, or whose polynomial, goes wild near sigma = 0, where the grid ends there: all but LMS and
IPNDM. No method looks back to where its clock is infinite, so alpha may be 0 at the first time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .process import Process, match_dims
from .solvers import Step

QUADRATURE = 16  # nodes: exact to float64 for powers of z, and for e^(h z) up to h = 20


class Known(NamedTuple):
    """What a step saw."""

    clock: Tensor  # ()
    value: Tensor  # (B, ...) x0 or eps


Memory = tuple[Known, ...]  # the latest first


@cache
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]: float64, (QUADRATURE,)."""
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def integrals(density: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """The integrals of z^k density(z) over [0, 1] for k = 1..n: float64, (n,)."""
    z, weights = _gauss_legendre()
    return (z ** _powers(n) * density(z)) @ weights


def _powers(n: int) -> Tensor:
    """1..n as a column."""
    return torch.arange(1, n + 1)[:, None]


def _weighted(f: Tensor, positions: Tensor, others: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """sum_i w_i (f_i - f), where sum_i w_i z_i^k = wanted_k for k = 1..n.

    positions: z_i, (n,), distinct and none 0. others: f_i, n of (B, ...). wanted: (n,).
    """
    weights = torch.linalg.solve(positions ** _powers(len(positions)), wanted)
    terms = [match_dims(weight, f) * (other - f) for weight, other in zip(weights, others)]
    return torch.stack(terms).sum(0)


def _positions(known: Sequence[Known], now: Tensor, then: Tensor) -> Tensor:
    """Where readings of the clock lie if now is 0 and then is 1: (n,)."""
    return (torch.stack([before.clock for before in known]) - now) / (then - now)


def _remember(known: Memory, now: Known, n: int) -> Memory:
    """The n latest, without one at an infinite reading."""
    return (now, *known)[:n] if now.clock.isfinite() else known[:n]


def _at_most(step: Step, order: int) -> int:
    """The order that is left of this one near sigma = 0, where the grid ends there."""
    return 1 if step.process.sigma(step.s) == 0 else min(order, step.left or order)


def _check_order(name: str, order: int, most: int) -> None:
    if not 1 <= order <= most:
        raise ValueError(f"{name}(order={order}); it has orders 1 to {most}.")


# ---- x0 on log(alpha / sigma)


def _clock(process: Process, t: Tensor) -> Tensor:
    """log(alpha / sigma)."""
    return process.log_snr(t) / 2


def _data_integrals(h: Tensor, n: int) -> Tensor:
    """Against d(alpha / sigma), in units of its value at s; h is the step of its logarithm."""
    return integrals(lambda z: h * torch.exp(-h * (1 - z)), n)


def _hold_data(
    process: Process, x: Tensor, t: Tensor, s: Tensor, x0: Tensor, fading: Tensor | float = 1.0
) -> Tensor:
    """DDIM's x_s, from x0 alone; fading is what an SDE leaves of x besides."""
    shrink = fading * process.sigma(s) / process.sigma(t)
    weight = process.alpha(s) - shrink * process.alpha(t)
    return match_dims(shrink, x) * x + match_dims(weight, x) * x0


@dataclass(frozen=True)
class DPMSolverPP:
    """DPM-Solver++ multistep of order 1, 2 or 3, as an ODE (eta = 0) or an SDE (eta = 1).

    Lu et al. (2022), algorithm 2, and their code. Order 2 takes the line's value halfway, and is
    DPMSolverPP2M(). Order 3 takes half of the curvature's integral, as their code does, so that it
    converges as order 2 does, with a smaller error. Order 1 is DDIM(eta) at either end of eta;
    between them the noise is k-diffusion's. Order 2 with eta = 1 is SDE-DPM-Solver++(2M).
    """

    order: int = 3
    eta: float = 0.0

    def __post_init__(self) -> None:
        _check_order("DPMSolverPP", self.order, 3)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta}; it goes from 0 (an ODE) to 1 (the reverse SDE).")

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        _, process, x, t, s, memory, randn_like, _ = step
        x0 = step.denoise(x, t).x0
        known: Memory = memory or ()
        now, then = _clock(process, t), _clock(process, s)
        fading = torch.exp(now - then) ** self.eta
        x_s = _hold_data(process, x, t, s, x0, fading)
        used = known[: _at_most(step, self.order) - 1]
        if used:
            wanted = self._wanted((1 + self.eta) * (then - now), len(used))
            places, others = _positions(used, now, then), [before.value for before in used]
            x_s = x_s + match_dims(process.alpha(s), x) * _weighted(x0, places, others, wanted)
        if self.eta > 0 and process.sigma(s) > 0:
            noise = process.sigma(s) * torch.sqrt(1 - fading**2)
            x_s = x_s + match_dims(noise, x) * randn_like(x)
        return x_s, _remember(known, Known(now, x0), self.order - 1)

    def _wanted(self, h: Tensor, n: int) -> Tensor:
        if n == 1:
            return -torch.expm1(-h)[None] / 2
        return _data_integrals(h, 2) * torch.tensor([1.0, 0.5], dtype=torch.float64)


class Predicted(NamedTuple):
    """What UniPC remembers of its last step."""

    known: Memory
    used: int  # how many earlier values it used
    x: Tensor  # (B, ...) where it began, corrected
    t: Tensor  # ()
    s: Tensor  # ()
    x_s: Tensor  # (B, ...) what it returned


@dataclass(frozen=True)
class UniPC:
    """A predictor, and a corrector that waits for the next network call: Zhao et al. (2023).

    Their B(h) is e^h - 1 (bh2), or h (bh1=True). It matters only where a single difference is
    used, whose weight is B / 2; with two or more the weights are exact whatever B is. The
    corrector raises the order by one. The corrected x is never shown to the network.
    """

    order: int = 2
    bh1: bool = False

    def __post_init__(self) -> None:
        _check_order("UniPC", self.order, 3)

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        process, t, s = step.process, step.t, step.s
        seen = Known(_clock(process, t), step.denoise(step.x, t).x0)
        last: Predicted | None = step.memory
        x, known = step.x, () if last is None else last.known
        if last is not None and last.known and last.s == t:
            # As a difference, so that what a `project` did to x stays.
            others = (*last.known[1 : 1 + last.used], seen)
            x = x + self._move(process, last.x, last.t, t, last.known[0], others) - last.x_s
        used = known[: _at_most(step, self.order) - 1]
        x_s = self._move(process, x, t, s, seen, used)
        memory = Predicted(_remember(known, seen, self.order), len(used), x, t, s, x_s)
        return x_s, memory

    def _move(
        self, process: Process, x: Tensor, t: Tensor, s: Tensor, seen: Known, others: Memory
    ) -> Tensor:
        x_s = _hold_data(process, x, t, s, seen.value)
        if not others:
            return x_s
        then = _clock(process, s)
        h, places = then - seen.clock, _positions(others, seen.clock, then)
        half = (h if self.bh1 else -torch.expm1(-h))[None] / 2
        wanted = half if len(others) == 1 else _data_integrals(h, len(others))
        values = [before.value for before in others]
        return x_s + match_dims(process.alpha(s), x) * _weighted(seen.value, places, values, wanted)


# ---- eps on a clock of choice


class Clock(NamedTuple):
    """A reading, and how fast sigma / alpha goes by it."""

    at: Callable[[Process, Tensor], Tensor]  # of a time
    rate: Callable[[Process, Tensor], Tensor]  # at a reading


def _ratio_rate(process: Process, t: Tensor) -> Tensor:
    """d(sigma / alpha) / dt."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    alpha_rate, sigma_rate = process.rates(t)
    return (sigma_rate * alpha - sigma * alpha_rate) / alpha**2


LOG_RATIO = Clock(lambda process, t: process.log_snr(t) / -2, lambda process, u: u.exp())
RATIO = Clock(lambda process, t: process.ratio(t), lambda process, u: torch.ones_like(u))
TIME = Clock(lambda process, t: t, _ratio_rate)


def _follow_noise(step: Step, clock: Clock, order: int, most: int) -> tuple[Tensor, Any]:
    """Adams and Bashforth's method; `most` is what may be used of the order in this step."""
    denoise, process, x, t, s, memory, _, _ = step
    p, known = denoise(x, t), memory or ()
    now, then = clock.at(process, t), clock.at(process, s)
    x_s = match_dims(process.alpha(s), x) * p.x0 + match_dims(process.sigma(s), x) * p.eps
    used = known[: most - 1] if process.alpha(t) > 0 else ()
    if used:
        length = then - now
        wanted = integrals(lambda z: length * clock.rate(process, now + z * length), len(used))
        places, others = _positions(used, now, then), [before.value for before in used]
        x_s = x_s + match_dims(process.alpha(s), x) * _weighted(p.eps, places, others, wanted)
    return x_s, _remember(known, Known(now, p.eps), order - 1)


@dataclass(frozen=True)
class DEIS:
    """Diffusion exponential integrator of order 1 to 4, eps a polynomial in log(sigma / alpha).

    Zhang and Chen (2023), whose AB-DEIS it is on another clock: the form that diffusers has.
    """

    order: int = 3

    def __post_init__(self) -> None:
        _check_order("DEIS", self.order, 4)

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        return _follow_noise(step, LOG_RATIO, self.order, _at_most(step, self.order))


@dataclass(frozen=True)
class TimeDEIS:
    """DEIS with eps a polynomial in the process's time: Zhang and Chen (2023), tAB-DEIS.

    A table of betas bends at each of its steps, and its integrals are off by some 2e-4 there.
    """

    order: int = 3

    def __post_init__(self) -> None:
        _check_order("TimeDEIS", self.order, 4)

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        return _follow_noise(step, TIME, self.order, _at_most(step, self.order))


@dataclass(frozen=True)
class LMS:
    """Linear multistep of order 1 to 4, eps a polynomial in sigma / alpha: k-diffusion's `lms`.

    It is Zhang and Chen's (2023) rho-AB-DEIS too, and of full order up to sigma = 0.
    """

    order: int = 4

    def __post_init__(self) -> None:
        _check_order("LMS", self.order, 4)

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        return _follow_noise(step, RATIO, self.order, self.order)


@dataclass(frozen=True)
class IPNDM:
    """The improved PNDM of Zhang and Chen (2023), order 1 to 4: PNDM of Liu et al. (2022) without
    its costly start.

    eps is extrapolated with the weights that Adams and Bashforth's method has on equal steps, like
    3/2, -1/2, whatever the grid. So the order is `order` on equal steps of sigma / alpha, and 2 on
    steps that change smoothly.
    """

    order: int = 4

    def __post_init__(self) -> None:
        _check_order("IPNDM", self.order, 4)

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        denoise, process, x, t, s, memory, _, _ = step
        p, known = denoise(x, t), memory or ()
        alpha, sigma = process.alpha(s), process.sigma(s)
        x_s = match_dims(alpha, x) * p.x0 + match_dims(sigma, x) * p.eps
        if known and process.alpha(t) > 0:
            powers = _powers(len(known)).flatten().double()
            wanted = (process.ratio(s) - process.ratio(t)) / (powers + 1)
            x_s = x_s + match_dims(alpha, x) * _weighted(p.eps, -powers, known, wanted)
        return x_s, (p.eps, *known)[: self.order - 1]
