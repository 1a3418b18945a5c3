"""Prediction: what a denoiser believes about a noisy batch, in every form the papers use.

x_t = alpha x0 + sigma eps,   v = alpha eps - sigma x0,   velocity = alpha' x0 + sigma' eps
score = -eps / sigma
"""

from dataclasses import dataclass, replace

from torch import Tensor

from .process import Process, match_dims


@dataclass(frozen=True)
class Prediction:
    """One belief, several views: x0, eps, v, velocity and score are affine maps of one another.

    Build it from x0; read whichever view the formula at hand is written in. The views are not
    defined at t = 0, where nothing is left to predict.
    """

    x_t: Tensor  # (B, ...) the noisy batch that the denoiser was shown
    x0: Tensor  # (B, ...) its estimate of E[x_0 | x_t]
    t: Tensor  # () or (B,)
    process: Process
    variance_mix: Tensor | None = None  # (B, ...) Improved DDPM's v, see solvers.Ancestral
    kept_eps: Tensor | None = None  # (B, ...) see denoiser.Clipped

    @property
    def alpha(self) -> Tensor:
        """The signal scale, shaped to broadcast against x_t."""
        return match_dims(self.process.alpha(self.t), self.x_t)

    @property
    def sigma(self) -> Tensor:
        """The noise scale, shaped to broadcast against x_t."""
        return match_dims(self.process.sigma(self.t), self.x_t)

    @property
    def eps(self) -> Tensor:
        """E[eps | x_t]: the noise."""
        if self.kept_eps is not None:
            return self.kept_eps
        return (self.x_t - self.alpha * self.x0) / self.sigma

    @property
    def v(self) -> Tensor:
        """alpha eps - sigma x0: Salimans and Ho (2022), appendix D."""
        return self.alpha * self.eps - self.sigma * self.x0

    @property
    def velocity(self) -> Tensor:
        """dx/dt of the probability-flow ODE, in the process's own time."""
        alpha_rate, sigma_rate = self.process.rates(self.t)
        x_t = self.x_t
        return match_dims(alpha_rate, x_t) * self.x0 + match_dims(sigma_rate, x_t) * self.eps

    @property
    def score(self) -> Tensor:
        """grad log p_t(x_t), by Tweedie's formula."""
        return -self.eps / self.sigma

    def with_x0(self, x0: Tensor) -> "Prediction":
        """The same noisy batch with another estimate of x0; every view follows."""
        return replace(self, x0=x0, kept_eps=None)
