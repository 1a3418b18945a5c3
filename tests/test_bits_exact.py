"""Bits per dimension of a mixture's exact denoiser are DDPM's sums by quadrature over noise."""

import math

import numpy as np
import pytest
import torch

import sfumato as sf
from conftest import f64
from sfumato.denoiser import Cond
from sfumato.prediction import Prediction

STEPS, SPREAD, N = 12, 0.05, 3000
MEANS = f64(40, 150, 200) / 127.5 - 1
PROCESS = sf.LinearBetas(STEPS, beta_start=0.01, beta_end=0.95, rescaled=False)


class OfPixels:
    """The exact denoiser of grey images of one pixel."""

    process = PROCESS

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, cond: Cond = None) -> Prediction:
        exact = sf.Clipped(sf.GaussianMixture(PROCESS, MEANS[:, None], std=SPREAD))
        x0 = exact(x_t.flatten(1).double(), t.flatten(0)[0]).x0
        return Prediction(x_t, x0.view(x_t.shape).to(x_t.dtype), t, PROCESS)


def images() -> torch.Tensor:
    dice = torch.Generator().manual_seed(0)
    x0 = MEANS[torch.randint(3, (N,), generator=dice)]
    x0 = x0 + SPREAD * torch.randn(N, generator=dice, dtype=torch.float64)
    return ((x0 + 1) * 127.5).round().clamp(0, 255).byte().view(N, 1, 1, 1)


def estimate(x: np.ndarray, bar: float) -> np.ndarray:
    """E[x0 | x], clipped: responsibilities times the means of each class, by Bayes' rule."""
    means, variance = MEANS.numpy(), bar * SPREAD**2 + 1 - bar
    apart = x[..., None] - math.sqrt(bar) * means
    weights = np.exp(-(apart**2 - (apart**2).min(-1, keepdims=True)) / (2 * variance))
    of_class = means + math.sqrt(bar) * SPREAD**2 / variance * apart
    return np.clip((weights * of_class).sum(-1) / weights.sum(-1), -1, 1)


def literal(x0: np.ndarray, share: np.ndarray) -> tuple[float, float, float]:
    """(prior, divergences, decoder) in bits: Ho et al. (2020), eqs. 5, 7, 8, 13 (from memory).

    x0: (K,) the values that pixels have; share: (K,) of the images with each.
    """
    z, w = np.polynomial.hermite_e.hermegauss(101)
    w, beta = w / w.sum(), PROCESS.betas().numpy()
    bar = np.concatenate([[1.0], np.cumprod(1 - beta)])
    tilde = [0.0, *((1 - bar[1:-1]) / (1 - bar[2:]) * beta[1:])]  # of steps 1, 2, ...

    def at(step: int) -> np.ndarray:
        x_t = math.sqrt(bar[step]) * x0[:, None] + math.sqrt(1 - bar[step]) * z
        return estimate(x_t, float(bar[step]))

    divergences = 0.0
    for step in range(2, STEPS + 1):
        of_x0 = math.sqrt(bar[step - 1]) * beta[step - 1] / (1 - bar[step])
        gap = of_x0 * (at(step) - x0[:, None])
        divergences += float((gap**2 @ w) @ share / (2 * tilde[step - 1]))
    sd = math.sqrt(2 * tilde[1])  # the first step's variance is the second's: it has none itself
    edges = [(x0[:, None] + side / 255 - at(1)) / sd for side in (-1, 1)]
    below, up_to = (np.vectorize(math.erf)(edge) for edge in edges)
    decoder = -float((np.log(np.maximum((up_to - below) / 2, 1e-12)) @ w) @ share)
    prior = 0.5 * (bar[-1] * x0**2 - bar[-1] - math.log(1 - bar[-1])) @ share
    return tuple(value / math.log(2) for value in (float(prior), divergences, decoder))


def test_bits_are_ddpms_sums() -> None:
    pictures = images()
    found = sf.variational_bits(OfPixels(), pictures, STEPS, batch=1000)
    levels, counts = pictures.flatten().unique(return_counts=True)
    assert levels.min() > 0
    assert levels.max() < 255  # no open bin at the ends
    wanted = literal(levels.double().numpy() / 127.5 - 1, counts.numpy() / N)
    assert found.prior.mean == pytest.approx(wanted[0], rel=1e-3)
    for part, value in zip((found.divergences, found.decoder), wanted[1:]):
        assert abs(part.mean - value) < 3 * part.error
        assert part.error < 0.05 * value
