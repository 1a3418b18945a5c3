"""How many bits a model needs for an image: two numbers, each an upper bound of another length.

    variational   E[L_T + sum of KL + L_0], the code of the discrete chain: bounds -log2 P(image)
                  Ho et al. (2020), eq. 5
    flow          -E[log2 p(x + n)] - log2(bin's width), n uniform in the bin: by Jensen bounds
                  -log2 of the bin's probability under the density p of the probability-flow ODE
                  Theis et al. (2016), section 3.1 (from memory); Y. Song et al. (2021), eq. 39

Both in bits per dimension, a dimension being one channel of one pixel; lower is better; 8 is no
model at all. They are of different models of the data, the chain and the ODE, and either may be the
smaller. A network must be in eval mode, or its dropout costs bits. Image i's noise depends on
seed + i alone, not on the batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log1p

import torch
from torch import Tensor

from .bound import bound_terms, ends_at_normal, prior_term
from .codec import Codec, Pixels
from .denoiser import Cond, Denoiser, OnProcess
from .grids import karras_times
from .guidance import map_cond
from .likelihood import bits_per_dim, hutchinson, log_likelihood
from .measuring import Estimate
from .process import Karras, LinearVP, Process
from .sampling import SeededNoise

Progress = Callable[[int, int], None]  # (done, of)
BIN = 2 / 255  # the width of an 8-bit level in [-1, 1]


@dataclass(frozen=True)
class VariationalBits:
    """The variational bound, in bits per dimension, and its parts, which add up to it.

    total: bounds the length of an 8-bit image's lossless code by the chain of `steps` steps.
    prior: KL(q(x_T | x0) || N(0, I)), which no training changes. divergences: the sum over the
    steps between. decoder: -log2 p(x0 | x_1). terms: (steps,) means of each step's term, terms[0]
    the decoder's; log_snr: of the x_t that each step starts from.
    """

    total: Estimate
    prior: Estimate
    divergences: Estimate
    decoder: Estimate
    terms: tuple[float, ...]
    log_snr: tuple[float, ...]
    images: int
    steps: int
    seed: int


@dataclass(frozen=True)
class FlowBits:
    """Bits per dimension of the probability-flow ODE under uniform dequantization.

    total: bounds -log2 of the probability that the ODE's density gives to the 8-bit bin, up to the
    error of `steps` Heun steps. The trace is estimated without bias by one +-1 probe an image.
    """

    total: Estimate
    images: int
    steps: int
    seed: int


def as_chain(denoiser: Denoiser) -> Denoiser:
    """The denoiser on a clock that ends at N(0, I) at t = 1, as the bound wants it.

    One that does so already is returned; else it is put on a LinearVP of as much noise.
    """
    process = denoiser.process
    if ends_at_normal(process):
        return denoiser
    start = LinearVP().beta_min
    integral = log1p(process.largest_ratio**2)  # of beta(t), which is its mean over [0, 1]
    return OnProcess(denoiser, LinearVP(start, min(20.0, 2 * integral - start)))


def _encoded(codec: Codec, images: Tensor) -> Tensor:
    """x0 in [-1, 1].

    Raises: ValueError for too few images, or a codec that isn't a scaling of 256 levels.
    """
    if len(images) < 2:
        raise ValueError(f"{len(images)} images: a mean with an error wants 2 or more.")
    x0 = codec.encode(images)
    if x0.shape != images.shape or not torch.allclose(x0, Pixels().encode(images), atol=1e-5):
        raise ValueError(
            f"{codec} does not keep pixels as 256 levels in [-1, 1], so the bits of its codes are "
            "not bits of images. Bits per dimension are for models of pixels only."
        )
    return x0


def _parts(
    x0: Tensor, cond: Cond, seed: int, batch: int
) -> Iterator[tuple[Tensor, Cond, SeededNoise]]:
    """(images, their conditions, their noise) of each batch, in order."""
    for start in range(0, len(x0), batch):
        x, rows = x0[start : start + batch], slice(start, start + batch)
        noise = SeededNoise(range(seed + start, seed + start + len(x)))
        yield x, map_cond(lambda tensor, rows=rows: tensor[rows], cond), noise  # type: ignore[misc]


@torch.no_grad()
def variational_bits(
    denoiser: Denoiser,
    images: Tensor,
    steps: int,
    cond: Cond = None,
    codec: Codec | None = None,
    seed: int = 0,
    batch: int = 64,
    progress: Progress | None = None,
) -> VariationalBits:
    """The bound of uint8 images, (N, C, H, W), by a chain of `steps` equal steps.

    steps: any number; at the one that a DiscreteVP has it is the chain that was trained, with fewer
    the strided one. One network call for each step and image. Clipped(denoiser) is a chain as well,
    whose bound is far lower in high noise; the papers' numbers are of it (from memory).
    cond: (N, ...) rows, or None.
    progress is called with the network calls done and those wanted, counted in batches.
    """
    denoiser = as_chain(denoiser)
    x0 = _encoded(codec or Pixels(), images)
    wanted, done = -(-len(images) // batch) * steps, 0
    prior, terms = [], []
    for x, told, noise in _parts(x0, cond, seed, batch):
        rows = torch.zeros(steps, len(x), dtype=torch.float64)
        for i, term in bound_terms(denoiser, x, steps, told, noise):
            rows[i - 1], done = term.cpu(), done + 1
            if progress is not None:
                progress(done, wanted)
        prior.append(prior_term(denoiser.process, x).double().cpu())
        terms.append(rows)
    return _variational(denoiser.process, torch.cat(prior), torch.cat(terms, dim=1), seed)


def _variational(process: Process, prior: Tensor, terms: Tensor, seed: int) -> VariationalBits:
    """The record of the prior's term, (N,), and the steps' terms, (steps, N)."""
    steps, images = terms.shape
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return VariationalBits(
        total=Estimate.of(prior + terms.sum(0)),
        prior=Estimate.of(prior),
        divergences=Estimate.of(terms[1:].sum(0)),
        decoder=Estimate.of(terms[0]),
        terms=tuple(terms.mean(1).tolist()),
        log_snr=tuple(process.log_snr(t).tolist()),
        images=images,
        steps=steps,
        seed=seed,
    )


def flow_bits(
    denoiser: Denoiser,
    images: Tensor,
    steps: int = 100,
    cond: Cond = None,
    codec: Codec | None = None,
    seed: int = 0,
    batch: int = 64,
    min_ratio: float = 0.002,
    progress: Progress | None = None,
) -> FlowBits:
    """Bits of uint8 images, (N, C, H, W), by the probability-flow ODE of any denoiser.

    It runs on EDM's clock, where its paths are straightest and images are not rescaled, whatever
    the denoiser's own: the ODE's density does not depend on it.

    steps: of Heun, spaced as karras_times from sigma / alpha = min_ratio, a quarter of a bin, where
    x is taken for clean, to the largest up to 80. Two network calls and two backward passes each.
    Their error is not in the estimate's: compare with twice the steps. A network of T steps knows
    no less noise than the first of them: give that as min_ratio. progress is called with the
    batches done and those wanted.
    """
    x0 = _encoded(codec or Pixels(), images)
    denoiser = OnProcess(denoiser, Karras(min(80.0, denoiser.process.largest_ratio)))
    times = karras_times(denoiser.process, steps + 1, sigma_min=min_ratio)[:-1].flip(0)
    wanted, nats = -(-len(images) // batch), []
    for x, told, noise in _parts(x0, cond, seed, batch):
        within = torch.special.ndtr(noise(x)) - 0.5  # uniform in a bin of width 1
        probe = torch.where(noise(x) < 0, -1.0, 1.0).to(x)
        nats.append(log_likelihood(denoiser, x + BIN * within, times, hutchinson(probe), told))
        if progress is not None:
            progress(len(nats), wanted)
    bits = bits_per_dim(torch.cat(nats).double().cpu(), tuple(images.shape[1:]), BIN)
    return FlowBits(Estimate.of(bits), len(images), steps, seed)
