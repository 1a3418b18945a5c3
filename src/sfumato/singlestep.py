"""DPM-Solver-2: one network call where the step begins and one halfway, of any process."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .process import match_dims
from .solvers import Step


@dataclass(frozen=True)
class DPMSolver2:
    """DPM-Solver-2: Lu et al. (2022a), algorithm 1, with r1 = 1/2; k-diffusion's `dpm_2`.

    eps is taken where log(sigma / alpha) is halfway, and held over the step. eta > 0 steps
    further down and adds the noise that leads back up, as DDIM(eta) does: with eta = 1 it is
    k-diffusion's `dpm_2_ancestral`. A step from alpha = 0 or to sigma = 0 is DDIM's: one call.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta}; it goes from 0 (an ODE) to 1 (ancestral).")

    def __call__(self, step: Step) -> tuple[Tensor, Any]:
        denoise, process, x, t, s, memory, randn_like, _ = step
        p, high, low = denoise(x, t), process.ratio(t), process.ratio(s)
        # The variance of DDIM(eta), and what is left of low^2 as a sum of positive terms.
        lost = -torch.expm1(process.log_snr(t) - process.log_snr(s))
        up = self.eta * low * lost.sqrt()
        down = low * torch.sqrt((1 - self.eta**2) + self.eta**2 * (1 - lost))
        x0, eps = p.x0, p.eps
        if low > 0 and high < float("inf"):
            middle = process.time_at_ratio(torch.sqrt(high * down))
            halfway = process.diffuse(p.x0, middle, p.eps)
            eps = denoise(halfway, middle).eps
            x0 = p.x0 + match_dims(high, x) * (p.eps - eps)
        alpha = process.alpha(s)
        x_s = match_dims(alpha, x) * x0 + match_dims(alpha * down, x) * eps
        if up > 0:
            x_s = x_s + match_dims(alpha * up, x) * randn_like(x)
        return x_s, memory
