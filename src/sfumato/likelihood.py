"""Exact log-likelihood by the instantaneous change of variables along the probability-flow ODE.

log p(x_0) = log p(x_T) + integral from 0 to T of div v(x_t, t) dt   Y. Song et al. (2021), eq. 39
"""

from collections.abc import Callable
from itertools import pairwise
from math import log, prod

import torch
from torch import Tensor

from .denoiser import Cond, Denoiser
from .process import match_dims

Field = Callable[[Tensor], Tensor]
Divergence = Callable[[Field, Tensor], tuple[Tensor, Tensor]]


def exact_divergence(field: Field, x: Tensor) -> tuple[Tensor, Tensor]:
    """(field(x), trace of its Jacobian (B,)), at D backward passes: for small D and for tests."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
        flat = value.flatten(1)
        rows = [
            torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)[0].flatten(1)[:, i]
            for i in range(flat.shape[1])
        ]
    return value.detach(), torch.stack(rows).sum(0)


def hutchinson(probe: Tensor) -> Divergence:
    """An unbiased estimate at one backward pass; `probe` is a fixed +-1 or normal draw, like x."""

    def divergence(field: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = field(x)
            (vjp,) = torch.autograd.grad((value * probe).sum(), x)
        return value.detach(), (vjp * probe).flatten(1).sum(1)

    return divergence


def log_likelihood(
    denoiser: Denoiser, x: Tensor, times: Tensor, divergence: Divergence, cond: Cond = None
) -> Tensor:
    """log p(x) in nats, (B,), by Heun steps up `times`, (N + 1,), increasing from a t > 0 to t_max.

    The trace is integrated by the trapezoidal rule in log t. Both are of second order: twice the
    steps leave a quarter of the error.

    x at times[0] is taken for clean data, and x at t_max for N(0, sigma^2).
    """
    times = times.double().cpu()
    if len(times) < 2 or times[0] <= 0 or (times.diff() <= 0).any():
        raise ValueError(
            f"times run from {times[0].item():g} to {times[-1].item():g} in {len(times)} points; "
            "they must increase from above 0, where the velocity is not defined, to t_max."
        )
    total = x.new_zeros(len(x))

    def field_at(t: Tensor) -> Field:
        return lambda x: denoiser(x, t, cond).velocity

    for t, s in pairwise(times):
        step = match_dims(s - t, x)
        slope, trace = divergence(field_at(t), x)
        slope_next, trace_next = divergence(field_at(s), x + step * slope)
        x = x + step * (slope + slope_next) / 2
        # In log t, where a trace that falls as 1 / t, as it does above the data's scale, is exact.
        total = total + (s / t).log().to(x) * (t.to(x) * trace + s.to(x) * trace_next) / 2
    std = denoiser.process.sigma(times[-1]).to(x)
    return total + torch.distributions.Normal(0.0, std).log_prob(x).flatten(1).sum(1)


def bits_per_dim(nats: Tensor, shape: tuple[int, ...], bin_width: float = 2 / 255) -> Tensor:
    """Bits per dimension of data quantized in bins, from the log density of one image, in nats.

    shape is that of one image. 8-bit images in [-1, 1] have bins 2/255 wide; add uniform noise of
    that width to x before taking its likelihood, or the density of a discrete set is not bounded.
    """
    return -nats / (prod(shape) * log(2)) - log(bin_width) / log(2)
