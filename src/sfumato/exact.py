"""Exact denoisers: E[x_0 | x_t] in closed form, for tests, lessons and as the limit of training.

    p(x_0) = sum_k w_k N(m_k, std^2 I),   V = alpha^2 std^2 + sigma^2
    p(k | x_t) ~ w_k N(x_t; alpha m_k, V I)
    E[x_0 | x_t] = sum_k p(k | x_t) (m_k + alpha std^2 / V (x_t - alpha m_k))

A finite data set is the mixture with std = 0: what a perfect, memorizing network would learn.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from .denoiser import Cond
from .prediction import Prediction
from .process import Process, match_dims


def _mixture_x0(
    alpha: Tensor, sigma: Tensor, x: Tensor, means: Tensor, std: float, log_w: Tensor
) -> Tensor:
    """E[x_0 | x_t] for flat x, (B, D), means (K, D) and log weights (K,) or (B, K)."""
    variance = (alpha * std) ** 2 + sigma**2  # (B, 1) or (1, 1)
    # |x - alpha m|^2 but for |x|^2, which all components share: no (B, K, D) tensor.
    distance = (alpha * means.norm(dim=1)) ** 2 - 2 * alpha * (x @ means.T)  # (B, K)
    responsibility = torch.softmax(log_w - distance / (2 * variance), dim=1)
    mean = responsibility @ means  # (B, D)
    return mean + alpha * std**2 / variance * (x - alpha * mean)


@dataclass(frozen=True)
class GaussianMixture:
    """The exact denoiser of an isotropic Gaussian mixture.

    means: (K, ...), std: the deviation that all components share, log_weights: (K,) or None for
    equal ones. cond, (B,) component indices, selects single components; None is the whole mixture.
    """

    process: Process
    means: Tensor
    std: float
    log_weights: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        flat, means = x_t.flatten(1), self.means.flatten(1).to(x_t)
        alpha, sigma = (match_dims(c(t), flat) for c in (self.process.alpha, self.process.sigma))
        alpha, sigma = alpha.reshape(-1, 1), sigma.reshape(-1, 1)
        log_w = self._log_weights(cond).to(x_t)
        x0 = _mixture_x0(alpha, sigma, flat, means, self.std, log_w)
        return Prediction(x_t, x0.reshape(x_t.shape), t, self.process)

    def _log_weights(self, cond: Cond = None) -> Tensor:
        k = len(self.means)
        if isinstance(cond, dict):
            raise ValueError("GaussianMixture takes component indices (B,) as cond, not a dict.")
        if cond is not None:
            chosen = torch.nn.functional.one_hot(cond, k)
            return chosen.double().log()
        if self.log_weights is None:
            return torch.full((k,), -log(k), dtype=torch.float64)
        return self.log_weights.log_softmax(0)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_0) in nats of clean x, (B, ...): (B,)."""
        flat, means = x.flatten(1), self.means.flatten(1).to(x)
        squared = (flat[:, None] - means).square().sum(-1)  # (B, K)
        normalizer = flat.shape[1] / 2 * log(2 * pi * self.std**2)
        exponent = self._log_weights().to(x) - squared / (2 * self.std**2)
        return exponent.logsumexp(1) - normalizer

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n clean draws: (n, ...)."""
        weights = self._log_weights().exp()
        k = torch.multinomial(weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, *self.means.shape[1:], generator=generator, dtype=self.means.dtype)
        return self.means[k] + self.std * noise


@dataclass(frozen=True)
class Empirical:
    """The exact denoiser of a finite data set, (N, ...): the minimiser of every training loss.

    labels, (N,), let cond, (B,), choose a class; cond None is the whole set. Sampling it gives back
    training images, which is why a network that reached its optimum would have learned nothing new.
    """

    process: Process
    data: Tensor
    labels: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        flat, data = x_t.flatten(1), self.data.flatten(1).to(x_t)
        alpha, sigma = (match_dims(c(t), flat) for c in (self.process.alpha, self.process.sigma))
        alpha, sigma = alpha.reshape(-1, 1), sigma.reshape(-1, 1)
        log_w = self._log_weights(cond, len(x_t)).to(x_t)
        x0 = _mixture_x0(alpha, sigma, flat, data, 0.0, log_w)
        return Prediction(x_t, x0.reshape(x_t.shape), t, self.process)

    def _log_weights(self, cond: Cond, n: int) -> Tensor:
        if cond is None:
            return torch.zeros(n, len(self.data))
        if self.labels is None or isinstance(cond, dict):
            raise ValueError("Empirical was given a condition; make it with labels=(N,) for that.")
        of_class = cond[:, None] == self.labels.to(cond.device)
        if not of_class.any(dim=1).all():
            missing = cond[~of_class.any(dim=1)].unique().tolist()
            there = self.labels.unique().tolist()
            raise ValueError(f"no image has the labels {missing}; those of this set are {there}.")
        return of_class.double().log()
