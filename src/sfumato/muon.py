"""Muon: a step as large in every direction of a matrix; AdamW for what is no matrix.

    M = mu M + G,   U = G + mu M,   W = W - lr (0.2 sqrt(max(rows, columns)) O + decay W)

O is the orthogonal matrix nearest to U, by five Newton-Schulz steps: Jordan et al. (2024). The
factor gives O the size of AdamW's update, so that one rate and one decay do for both: Liu et al.
(2025), arXiv:2502.16982, eq. 4 (number from memory). A kernel (O, I, h, w) is a matrix (O, I h w).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5 takes singular values near 1
STEPS = 5
NARROW = 16  # rows or columns below which a matrix is no map from features to features


class Muon(torch.optim.Optimizer):
    """Of parameters of any shape: see is_matrix for which of them are stepped as matrices."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        eps: float = 1e-8,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "momentum": momentum}
        super().__init__(parameters, {**settings, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            matrices = [p for p in given if is_matrix(p)]
            self._step_matrices(matrices, group)
            self._step_rest([p for p in given if not is_matrix(p)], group)

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].mul_(group["momentum"]).add_(p.grad)
            u = p.grad.add(state["momentum"], alpha=group["momentum"]).flatten(1)
            size = 0.2 * max(u.shape) ** 0.5
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(orthogonal(u).view_as(p), alpha=-group["lr"] * size)

    def _step_rest(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """AdamW: Loshchilov and Hutter (2019), algorithm 2."""
        first, second = group["betas"]
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(p))
                state["exp_avg_sq"] = torch.zeros_like(p)
            state["step"] += 1
            number = int(state["step"].item())
            state["exp_avg"].lerp_(p.grad, 1 - first)
            state["exp_avg_sq"].mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
            root = (state["exp_avg_sq"] / (1 - second**number)).sqrt_().add_(group["eps"])
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.addcdiv_(state["exp_avg"], root, value=-group["lr"] / (1 - first**number))


def is_matrix(p: Tensor) -> bool:
    """Whether p maps features to features: embeddings of few classes and outputs do not."""
    return p.ndim >= 2 and min(len(p), p[0].numel()) >= NARROW


def orthogonal(u: Tensor) -> Tensor:
    """The orthogonal matrix nearest to u (rows, columns), roughly: singular values 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    x = u.mT if len(u) > u.shape[1] else u
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if len(u) > u.shape[1] else x
