"""Guidance: denoisers made of denoisers.

    x0 = x0_null + scale (x0_cond - x0_null)        classifier-free
    x0 = x0_worse + scale (x0 - x0_worse)           by a worse model of the same: autoguidance
    score = score + scale grad log p(cond | x_t)    by the gradient of a classifier or measurement

For one and the same data the two agree: scale 1 is the condition's own distribution, 0 that of all
data, and more than 1 sharpens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Cond, Denoiser
from .prediction import Prediction
from .process import Process

LogProb = Callable[[Prediction, Cond], Tensor]


def map_cond(change: Callable[[Tensor], Tensor], cond: Cond) -> Cond:
    """The condition with each of its tensors changed."""
    if isinstance(cond, dict):
        return {key: change(value) for key, value in cond.items()}
    return None if cond is None else change(cond)


@contextmanager
def _recording() -> Iterator[None]:
    """Gradients are recorded within, also where sampling runs in torch.inference_mode().

    Tensors that were made in inference mode can't take part: clone them within.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


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
    """Extrapolate away from the null condition: Ho and Salimans (2022), eq. 6.

    Two conventions are about. Ours is that of Imagen (Saharia et al. 2022, section 2.2, from
    memory), of diffusers and of most programs: scale eps_cond + (1 - scale) eps_null, so that
    scale 1 is conditional and 0 unconditional. Ho and Salimans write (1 + w) eps_cond - w eps_null:
    their w is scale - 1, 0 is conditional and -1 unconditional. Papers call both of them w.

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
class Autoguidance:
    """Extrapolate away from a worse denoiser of the same data: Karras et al. (2024), eq. 4.

    worse has been trained for a shorter time, or is smaller; scale 1 is the denoiser alone. Unlike
    ClassifierFree it wants no classes and keeps the variety of the images. (Number from memory.)

    Raises: ValueError where the two are of different processes: put OnProcess around worse.
    """

    denoiser: Denoiser
    worse: Denoiser
    scale: float

    def __post_init__(self) -> None:
        if self.worse.process != self.denoiser.process:
            raise ValueError(
                f"autoguidance between {self.denoiser.process} and {self.worse.process}: put the "
                "worse one on the other's process, OnProcess(worse, denoiser.process)."
            )

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        own = self.denoiser(x_t, t, cond)
        if self.scale == 1:
            return own
        x0 = torch.lerp(self.worse(x_t, t, cond).x0, own.x0, self.scale)
        return Prediction(x_t, x0, own.t, self.process, own.variance_mix)


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
class Unconditional:
    """A denoiser that is never told the condition, for guidance that knows it by other means.

    ByClassifier(Unconditional(denoiser), ...) guides a network that was trained without labels;
    one that was trained with them gets "no class".
    """

    denoiser: Denoiser

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        return self.denoiser(x_t, t, None)


def _with_score(p: Prediction, x_t: Tensor, gradient: Tensor, scale: float) -> Prediction:
    """p of x_t, detached, with scale * gradient added to its score; unchanged where alpha = 0."""
    shift = scale * p.sigma**2 / p.alpha * gradient
    x0 = (p.x0 + torch.where(p.alpha > 0, shift, 0)).detach()
    mix = None if p.variance_mix is None else p.variance_mix.detach()
    return Prediction(x_t, x0, p.t, p.process, mix)


@dataclass(frozen=True)
class ByGradient:
    """Add scale * grad log_prob to the score, through the denoiser: DPS and its like.

    log_prob(prediction, cond) -> (B,) may read prediction.x0, a guess of the clean image; the
    gradient flows through the network, at about three times its cost. What reads only
    prediction.x_t, as a classifier does, is cheaper with ByClassifier. cond goes to the denoiser
    too: see Unconditional. Chung et al. (2023), eq. 14 (number from memory). Works within
    torch.inference_mode(). Where alpha = 0 nothing is added: x_t says nothing there.
    """

    denoiser: Denoiser
    log_prob: LogProb
    scale: float = 1.0

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        with _recording():
            x, cond = x_t.detach().clone().requires_grad_(), map_cond(torch.clone, cond)
            p = self.denoiser(x, t.clone(), cond)
            (gradient,) = torch.autograd.grad(self.log_prob(p, cond).sum(), x)
        return _with_score(p, x_t.detach(), gradient, self.scale)


@dataclass(frozen=True)
class ByClassifier:
    """Add scale * grad log_prob(cond | x_t) to the score: Dhariwal and Nichol (2021), section 4.

        eps_hat = eps - scale sigma grad log_prob        their algorithm 2, sigma^2 = 1 - alpha_bar

    log_prob(prediction, cond) -> (B,) reads prediction.x_t and .t alone, as that of
    classification.log_prob_of does; no gradient flows through the denoiser, and x0 is a constant
    to it. One score serves every solver: with Ancestral it is their algorithm 1, which takes the
    gradient at the mean of x_s, to first order in beta.

    With an unconditional denoiser scale 1 is the class's own distribution: put Unconditional
    around it, since cond goes to the denoiser too. Around a conditional one the scales add, and
    scale s is classifier-free guidance of scale 1 + s.

    Works within torch.inference_mode(). Where alpha = 0 the classifier is not asked and nothing is
    added: x_t says nothing of the class there.
    """

    denoiser: Denoiser
    log_prob: LogProb
    scale: float = 1.0

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        with torch.no_grad():
            p = self.denoiser(x_t, t, cond)
        if self.scale == 0 or not self.process.alpha(t).any():
            return p
        with _recording():
            x = x_t.detach().clone().requires_grad_()
            shown = Prediction(x, p.x0.clone(), t.clone(), self.process)
            log_prob = self.log_prob(shown, map_cond(torch.clone, cond))
            (gradient,) = torch.autograd.grad(log_prob.sum(), x)
        return _with_score(p, x_t, gradient, self.scale)
