"""Muon: a step as large in every direction of a matrix; AdamW for what is no matrix.

    M = mu M + G,   U = G + mu M,   W = W - lr (0.2 sqrt(max(rows, columns)) O + decay W)

O is the orthogonal matrix nearest to U, by five Newton-Schulz steps: Jordan et al. (2024). The
factor gives O the size of AdamW's update, so that one rate and one decay do for both: Liu et al.
(2025), arXiv:2502.16982, eq. 4 (number from memory). A kernel (O, I, h, w) is a matrix (O, I h w).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5 takes singular values near 1
STEPS = 5
NARROW = 16  # rows or columns below which a matrix is no map from features to features


class Muon(torch.optim.Optimizer):
    """Of parameters of any shape: is_matrix says which of them are stepped as matrices."""

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was read on the CPU, of which PyTorch leaves the counts there."""
        super().__setstate__(state)
        for p, own in self.state.items():
            if "step" in own:
                own["step"] = own["step"].to(p.device)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            matrices = [p for p in given if is_matrix(p)]
            self._step_matrices(matrices, group)
            self._step_rest([p for p in given if not is_matrix(p)], group)

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Those of one shape together: a few large products for many small ones."""
        mu, lr = group["momentum"], group["lr"]
        alike = defaultdict(list)
        for p in parameters:
            self.state[p].setdefault("momentum", torch.zeros_like(p))
            alike[p.flatten(1).shape].append(p)
        for shape, some in alike.items():
            gradients, moving = gradients_of(some), [self.state[p]["momentum"] for p in some]
            torch._foreach_mul_(moving, mu)
            torch._foreach_add_(moving, gradients)
            u = torch.stack([g.add(m, alpha=mu).flatten(1) for g, m in zip(gradients, moving)])
            torch._foreach_mul_(some, 1 - lr * group["weight_decay"])
            for p, o in zip(some, orthogonal(u)):
                p.add_(o.view_as(p), alpha=-0.2 * lr * max(shape) ** 0.5)

    def _step_rest(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self.state[p] = {"step": torch.zeros((), device=p.device), **moments}
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            gradients_of(parameters),
            exp_avgs=[state["exp_avg"] for state in states],
            exp_avg_sqs=[state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def gradients_of(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def is_matrix(p: Tensor) -> bool:
    """Whether p maps features to features: embeddings of few classes and outputs do not."""
    return p.ndim >= 2 and min(len(p), p[0].numel()) >= NARROW


def orthogonal(u: Tensor) -> Tensor:
    """The orthogonal matrices nearest to u (..., rows, columns), roughly.

    A singular value of 0.002 to 1 times u's norm comes out between 0.68 and 1.2; a smaller one is
    made 485 times as large.
    """
    a, b, c = COEFFICIENTS
    tall = u.shape[-2] > u.shape[-1]
    x = u.mT if tall else u
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
