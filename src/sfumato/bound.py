"""The variational bound: how many bits a discrete chain needs for an image, and training on it.

    L_vlb = KL(q(x_T | x0) || N(0, I)) + sum_{t > 1} KL(q(x_s | x_t, x0) || p(x_s | x_t))
            - log p(x0 | x_1)                                       Ho et al. (2020), eq. 5

All terms are in bits per dimension. p's mean is the posterior mean at the predicted x0; its
log-variance lies between log beta tilde and log beta, by Prediction.variance_mix.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from .denoiser import Cond, Denoiser, NetworkDenoiser
from .objective import DiscreteTimes, OutputMSE, squared_error
from .prediction import Prediction
from .process import Process, match_dims


def gaussian_kl(mean_p: Tensor, log_var_p: Tensor, mean_q: Tensor, log_var_q: Tensor) -> Tensor:
    """KL(p || q) of normal distributions, elementwise, in nats."""
    gap = log_var_p - log_var_q
    return 0.5 * (-1 - gap + gap.exp() + (mean_p - mean_q) ** 2 * torch.exp(-log_var_q))


def discretized_log_prob(x0: Tensor, mean: Tensor, log_var: Tensor, levels: int = 256) -> Tensor:
    """log of the probability of x0's bin, in nats, elementwise: Ho et al. (2020), eq. 13.

    x0 holds `levels` values in [-1, 1]; the outermost bins reach to infinity.
    """
    half = 1 / (levels - 1)
    scale = torch.exp(-log_var / 2)
    upper, lower = (x0 + half - mean) * scale, (x0 - half - mean) * scale
    lower = torch.where(x0 < -1 + half, -torch.inf, lower)
    upper = torch.where(x0 > 1 - half, torch.inf, upper)
    # By symmetry the bin can be moved to the left tail, where its two edges can't both round to 1.
    right = lower > 0
    low = torch.special.log_ndtr(torch.where(right, -upper, lower))
    high = torch.special.log_ndtr(torch.where(right, -lower, upper))
    return high + torch.log1p(-torch.exp(low - high))


def _log_variances(p: Prediction, s: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """(log beta tilde, log of the model's variance) of the step from p.t to s.

    At s = 0, where beta tilde is 0, the next step's stands in, as in Improved DDPM's code.
    """
    x_t, last = p.x_t, s <= 0.5 / steps
    t_kept = torch.where(last, torch.full_like(p.t, 2 / steps), p.t)
    s_kept = torch.where(last, torch.full_like(s, 1 / steps), s)
    small = p.process.posterior(x_t, p.x0, t_kept, s_kept).variance.log()
    if p.variance_mix is None:
        return small, small.expand_as(x_t)
    large = match_dims(p.process.transition(s, p.t)[1], x_t).log()
    return small, p.variance_mix * large + (1 - p.variance_mix) * small


def ends_at_normal(process: Process) -> bool:
    """Whether its clock stops at t = 1 in no more noise than N(0, I), as the bound's chain does."""
    end = torch.tensor(process.t_max, dtype=torch.float64)
    return process.t_max == 1 and process.sigma(end).item() < 1 + 1e-3


def _check_clock(process: Process) -> None:
    if not ends_at_normal(process):
        deviation = process.sigma(torch.tensor(process.t_max, dtype=torch.float64)).item()
        raise ValueError(
            "the bound is of a chain of equal steps in [0, 1] that ends at N(0, I); "
            f"{process} ends at t = {process.t_max:g} with noise of deviation {deviation:.4g}. Ask "
            "for the bound of OnProcess(denoiser, LinearVP()), with a beta_max that ends with no "
            "more noise: 17 for Karras()."
        )


def bound_term(p: Prediction, x0: Tensor, steps: int) -> Tensor:
    """The bound's term for the step from p.t to p.t - 1 / steps, in bits per dimension: (B,).

    A KL divergence, or at the last step -log p(x0 | x_1). p.t must have the shape (B,).
    """
    _check_clock(p.process)
    if steps < 2:
        raise ValueError(
            f"a chain of {steps} step: the last step's variance is that of the one before it, so "
            "give 2 steps or more."
        )
    s = ((p.t * steps).round() - 1) / steps
    truth, model = (p.process.posterior(p.x_t, x, p.t, s) for x in (x0, p.x0))
    small, log_var = _log_variances(p, s, steps)
    kl = gaussian_kl(truth.mean, small, model.mean, log_var)
    nats = torch.where(match_dims(s, x0) > 0, kl, -discretized_log_prob(x0, model.mean, log_var))
    return nats.flatten(1).mean(1) / log(2)


def prior_term(process: Process, x0: Tensor) -> Tensor:
    """KL(q(x_T | x0) || N(0, I)) in bits per dimension: (B,). Nothing to train; 0 if alpha_T is."""
    _check_clock(process)
    end = torch.tensor(process.t_max, dtype=torch.float64)
    mean, log_var = process.alpha(end).to(x0) * x0, 2 * process.sigma(end).log().to(x0)
    zero = torch.zeros_like(x0)
    return gaussian_kl(mean, log_var.expand_as(x0), zero, zero).flatten(1).mean(1) / log(2)


@torch.no_grad()
def bound_terms(
    denoiser: Denoiser, x0: Tensor, steps: int, cond: Cond, randn_like: Callable[[Tensor], Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """(i, the term of the step from i / steps) for i = steps ... 1: bits per dimension, (B,) each.

    One draw of x_t a step. The last one, i = 1, is the decoder's -log p(x0 | x_1). `steps` need
    not be the number that the process was made of: fewer are a chain of longer steps.
    """
    for i in range(steps, 0, -1):
        t = torch.full((len(x0),), i / steps, dtype=torch.float64)
        x_t = denoiser.process.diffuse(x0, t, randn_like(x0))
        yield i, bound_term(denoiser(x_t, t, cond), x0, steps)


def variational_bound(
    denoiser: Denoiser,
    x0: Tensor,
    steps: int,
    cond: Cond = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The whole bound with `steps` steps, one draw of x_t a step: bits per dimension, (B,)."""

    def randn_like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator).to(x)

    total = prior_term(denoiser.process, x0)
    for _, term in bound_terms(denoiser, x0, steps, cond, randn_like):
        total = total + term
    return total


@dataclass(frozen=True)
class VariationalBound:
    """Train on the bound: T times the term of a random step.

    Nichol and Dhariwal (2021), eq. 4 (number from memory).
    """

    steps: int = 1000

    @property
    def times(self) -> DiscreteTimes:
        return DiscreteTimes(self.steps)

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, u: Tensor, eps: Tensor
    ) -> Tensor:
        t = self.times(denoiser.process, u)
        p = denoiser(denoiser.process.diffuse(x0, t, eps), t, cond)
        return self.steps * bound_term(p, x0, self.steps)


@dataclass(frozen=True)
class Hybrid:
    """L_simple + vlb_weight * L_vlb: Nichol and Dhariwal (2021), eq. 16 (number from memory).

    The bound trains the variance only: the mean enters it detached.
    """

    steps: int = 1000
    vlb_weight: float = 0.001

    @property
    def times(self) -> DiscreteTimes:
        return DiscreteTimes(self.steps)

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, u: Tensor, eps: Tensor
    ) -> Tensor:
        t = self.times(denoiser.process, u)
        p = denoiser(denoiser.process.diffuse(x0, t, eps), t, cond)
        simple = OutputMSE()(denoiser, t).to(x0) * squared_error(p, x0)
        return simple + self.vlb_weight * self.steps * bound_term(
            p.with_x0(p.x0.detach()), x0, self.steps
        )
