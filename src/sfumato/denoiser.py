"""Denoisers: anything that maps (x_t, t, cond) to a Prediction."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from .parameterization import Parameterization
from .prediction import Prediction
from .process import Process, match_dims

Cond = Tensor | dict[str, Tensor] | None


class Denoiser(Protocol):
    """The one interface that solvers, guidance, objectives and likelihood are written against."""

    @property
    def process(self) -> Process: ...

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction: ...


class NetworkDenoiser(nn.Module):
    """A network, told by a parameterization how to be a denoiser of a process.

    network(x, noise_level, cond) takes (B, C, ...) and (B,) and returns C channels, or 2C when
    learned_variance: then the second half, the network's [-1, 1], becomes variance_mix in [0, 1]
    as in Improved DDPM, eq. 15. Only the network runs in `precision`; all else in x_t's dtype.

    Raises: ValueError where the parameterization is not defined on the process.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        parameterization: Parameterization,
        learned_variance: bool = False,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        parameterization.check(process)
        self.network = network
        self.process = process
        self.parameterization = parameterization
        self.learned_variance = learned_variance
        self.precision = precision

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        t = t.expand(len(x_t))
        c = self.parameterization(self.process, t)
        output = self.run_network(match_dims(c.c_in, x_t) * x_t, c.c_noise.to(x_t), cond)
        variance_mix = None
        if self.learned_variance:
            output, raw = output.chunk(2, dim=1)
            variance_mix = (raw + 1) / 2
        x0 = match_dims(c.c_skip, x_t) * x_t + match_dims(c.c_out, x_t) * output
        return Prediction(x_t, x0, t, self.process, variance_mix)

    def run_network(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """The network's raw output in `precision`, returned in x's dtype."""
        low = self.precision in (torch.bfloat16, torch.float16)
        with torch.autocast(x.device.type, dtype=self.precision if low else None, enabled=low):
            return self.network(x, noise_level, cond).to(x)


@dataclass(frozen=True)
class OnProcess:
    """A denoiser of one process used as a denoiser of another, by rescaling space and time.

    A noisy image is known by its signal-to-noise ratio alone, so a network trained on one process
    can be sampled on any other: Karras et al. (2022), section 3.

    Raises: ValueError, when called, for more noise than the denoiser's own process ever holds.
    """

    denoiser: Denoiser
    process: Process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        source = self.denoiser.process
        self._check_reach(t)
        t_source = source.time_at(self.process.log_snr(t))
        scale = torch.hypot(source.alpha(t_source), source.sigma(t_source)) / torch.hypot(
            self.process.alpha(t), self.process.sigma(t)
        )
        inner = self.denoiser(match_dims(scale, x_t) * x_t, t_source, cond)
        return Prediction(x_t, inner.x0, t, self.process, inner.variance_mix, inner.kept_eps)

    def _check_reach(self, t: Tensor) -> None:
        wanted, largest = self.process.ratio(t).max().item(), self.denoiser.process.largest_ratio
        if wanted > largest * (1 + 1e-4):
            raise ValueError(
                f"sigma / alpha = {wanted:.4g} is asked for, but the denoiser was made for "
                f"{self.denoiser.process}, which ends at {largest:.4g}. Start the time grid there: "
                f"karras_times(process, steps, sigma_max={largest:.4g})."
            )


@dataclass(frozen=True)
class Clipped:
    """Keep x0 in the range of the data, as DDPM's samplers do; eps follows from the clipped x0.

    keep_eps leaves eps as it was predicted, which makes x_t = alpha x0 + sigma eps untrue; it is
    here because diffusers' DDIMScheduler does so unless told use_clipped_model_output.
    """

    denoiser: Denoiser
    low: float = -1.0
    high: float = 1.0
    keep_eps: bool = False

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        prediction = self.denoiser(x_t, t, cond)
        clipped = prediction.with_x0(prediction.x0.clamp(self.low, self.high))
        return replace(clipped, kept_eps=prediction.eps) if self.keep_eps else clipped


@dataclass(frozen=True)
class DynamicallyThresholded:
    """Clip x0 at its own quantile and scale back to [-1, 1]: Saharia et al. (2022), section 2.3.

    For each image s is the quantile of |x0|, at least 1 and at most max_value;
    x0 becomes clamp(x0, -s, s) / s.
    """

    denoiser: Denoiser
    quantile: float = 0.995
    max_value: float = float("inf")

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Prediction:
        prediction = self.denoiser(x_t, t, cond)
        size = prediction.x0.abs().flatten(1).quantile(self.quantile, dim=1)
        s = match_dims(size.clamp(min=1).clamp(max=self.max_value), x_t)
        return prediction.with_x0(prediction.x0.clamp(-s, s) / s)
