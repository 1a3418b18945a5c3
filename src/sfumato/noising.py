"""Two ways of Chen (2023, arXiv:2301.10972) to say how noisy a process is.

    SigmoidSignal    alpha_bar(t) = (sg(end) - sg(start + t (end - start))) / (sg(end) - sg(start)),
                     sg(x) = 1 / (1 + exp(-x / tau))
    ScaledInput      x_t = alpha(t) x0 + sigma(t) eps / scale: images scale times as strong

The first was proposed by Jabri et al. (2023, arXiv:2212.11972), and is what denoising-diffusion-
pytorch trains on unless told otherwise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .discrete import MAX_BETA, DiscreteVP, LinearBetas
from .process import Process


@dataclass(frozen=True)
class SigmoidSignal(DiscreteVP):
    """alpha_bar falls along a sigmoid from start to end: Chen (2023), section 2.1.

    Its last beta is 1, clipped at max_beta. A smaller tau keeps more signal and then more noise.
    Not SigmoidBetas, where it is beta that rises along one.
    """

    steps: int = 1000
    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    max_beta: float = MAX_BETA
    zero_terminal_snr: bool = False

    def _betas(self) -> Tensor:
        part = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        curve = torch.sigmoid((self.start + part * (self.end - self.start)) / self.tau)
        left = curve[-1] - curve  # alpha_bar but for a factor, and exactly 0 at the end
        return (1 - left[1:] / left[:-1]).clamp(max=self.max_beta)


@dataclass(frozen=True)
class ScaledInput(Process):
    """Another process with the data weaker by `scale`, seen in units of the data.

    Chen (2023), section 2.2, has x = alpha scale x0 + sigma eps; this is x / scale, so that t = 0
    is x0 itself. A network that was trained on images in [-0.5, 0.5] sees scale x.
    """

    process: Process = LinearBetas()
    scale: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale = {self.scale}; it must be above 0: 0.5 halves the data.")

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return self.process.t_max

    def alpha(self, t: Tensor) -> Tensor:
        return self.process.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.process.sigma(t) / self.scale

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_rate, sigma_rate = self.process.rates(t)
        return alpha_rate, sigma_rate / self.scale

    def time_at(self, log_snr: Tensor) -> Tensor:
        return self.process.time_at(
            log_snr - 2 * torch.tensor(self.scale).double().log().to(log_snr)
        )
