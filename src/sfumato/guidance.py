"""Guidance: denoisers made of denoisers. Scale 1 is always 'as trained'.

x0 = x0_null + scale (x0_cond - x0_null)        classifier-free
score = score + scale grad log p(cond | x_t)    by the gradient of a classifier or measurement
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Cond, Denoiser
from .prediction import Prediction
from .process import Process


def _join(first: Cond, second: Cond, n: int) -> Cond:
    """Both conditions as one batch of 2n; the second is expanded to n where it is one row."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second.to(first.device).expand(n, *first.shape[1:])])
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        joined = {key: _join(first[key], second[key], n) for key in first}
        return {key: value for key, value in joined.items() if isinstance(value, Tensor)}
    raise ValueError(
        f"guidance got cond of type {type(first).__name__} and null_cond of type "
        f"{type(second).__name__}; both must be tensors, or dicts with the same keys. A model "
        "without labels can't be guided by them."
    )


@dataclass(frozen=True)
class ClassifierFree:
    """Extrapolate away from the null condition: Ho and Salimans (2022), eq. 6 with scale = 1 + w.

    null_cond is one row or (B, ...), of cond's kind. Both branches run as one batch; at scale 1
    only the conditional one runs.
    """

    denoiser: Denoiser
    null_cond: Cond
    scale: float

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        if self.scale == 1:
            return self.denoiser(x_t, t, cond)
        n = len(x_t)
        both_t = t if t.ndim == 0 else torch.cat([t, t])
        both = self.denoiser(torch.cat([x_t, x_t]), both_t, _join(cond, self.null_cond, n))
        mix = None if both.variance_mix is None else both.variance_mix[:n]
        x0 = torch.lerp(both.x0[n:], both.x0[:n], self.scale)
        return Prediction(x_t, x0, t, self.process, mix)


@dataclass(frozen=True)
class Within:
    """One denoiser where min_ratio <= sigma / alpha <= max_ratio, another elsewhere.

    With a guided and an unguided denoiser this is guidance in an interval of noise:
    Kynkaanniemi et al. (2024). t must be one time for the whole batch.
    """

    inside: Denoiser
    outside: Denoiser
    min_ratio: float = 0.0
    max_ratio: float = float("inf")

    @property
    def process(self) -> Process:
        return self.inside.process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        ratio = self.process.ratio(t)
        within = (self.min_ratio <= ratio) & (ratio <= self.max_ratio)
        if within.any() != within.all():
            raise ValueError("Within got times on both sides of its interval; call it per time.")
        chosen = self.inside if within.all() else self.outside
        return chosen(x_t, t, cond)


@dataclass(frozen=True)
class ByGradient:
    """Add scale * grad log_prob to the score: classifier guidance and DPS alike.

    log_prob(prediction, cond) -> (B,). cond goes to the denoiser too: where that takes none, give
    the label to log_prob by a closure. A classifier of noisy images reads prediction.x_t and
    prediction.t; a measurement of the clean image reads prediction.x0, and the gradient then flows
    through the network. Dhariwal and Nichol (2021), algorithm 2; Chung et al. (2023), eq. 14
    (number from memory). Not defined where alpha = 0.
    """

    denoiser: Denoiser
    log_prob: Callable[[Prediction, Cond], Tensor]
    scale: float = 1.0

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            p = self.denoiser(x_t, t, cond)
            (gradient,) = torch.autograd.grad(self.log_prob(p, cond).sum(), x_t)
        x0 = p.x0 + self.scale * p.sigma**2 / p.alpha * gradient
        mix = None if p.variance_mix is None else p.variance_mix.detach()
        return Prediction(x_t.detach(), x0.detach(), t, self.process, mix)
