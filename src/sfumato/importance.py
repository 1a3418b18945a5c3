"""Importance-sampled times: train most where the loss is largest, without changing its mean.

    p_k ~ sqrt(E[L_k^2]),    E over the last 10 losses of step k
    loss = L_k / (p_k T),    k drawn from p: its mean is that of L over T equally likely steps

Nichol and Dhariwal (2021), section 3.3 and eq. 18 (number from memory). Times are uniform until
every step has its 10 losses. A step is a T-th part of (0, 1), the range of u that an objective is
given; for DiscreteTimes(T) it is a step of the chain. The history is a module of buffers inside the
denoiser, so that checkpoints hold it.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from .denoiser import Cond, NetworkDenoiser
from .objective import Objective, Times

NAME = "loss_history"  # of the history among the denoiser's modules
EDGE = 1e-6  # of a cell, so that its ends can't round into its neighbours


class Place(NamedTuple):
    """Where a uniform draw falls, each (B,) on the CPU."""

    step: Tensor  # 0 ... T - 1
    u: Tensor  # float64: for the inner objective, within that step's T-th part of (0, 1)
    weight: Tensor  # float64: 1 / (p T)


class LossHistory(nn.Module):
    """The last `length` losses of each of `steps` steps, kept on the CPU in float64.

    losses: (steps, length), each row a ring; counts: (steps,), how many each step ever had.
    """

    losses: Tensor
    counts: Tensor

    def __init__(self, steps: int, length: int) -> None:
        super().__init__()
        self.register_buffer("losses", torch.zeros(steps, length, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(steps, dtype=torch.long))

    @property
    def full(self) -> bool:
        """Whether every step has all the losses that it keeps."""
        return bool((self.counts >= self.losses.shape[1]).all())

    def probabilities(self, uniform: float) -> Tensor:
        """p, (steps,), summing to 1; a share `uniform` of it is spread evenly."""
        steps = len(self.losses)
        even = self.losses.new_full((steps,), 1 / steps)
        size = self.losses.square().mean(1).sqrt()
        if not self.full or not size.any():
            return even
        return torch.lerp(size / size.sum(), even, uniform)

    def place(self, u: Tensor, uniform: float) -> Place:
        """Map u ~ U(0, 1), (B,), by the inverse of the cumulative p."""
        u, steps = u.double().cpu(), len(self.losses)
        if not self.full:
            return Place((u * steps).long().clamp(max=steps - 1), u, torch.ones_like(u))
        p = self.probabilities(uniform).cpu()
        ends = p.cumsum(0)
        step = torch.searchsorted(ends, u, right=True).clamp(max=steps - 1)
        inside = ((u - ends[step]) / p[step] + 1).clamp(EDGE, 1 - EDGE)
        return Place(step, (step + inside) / steps, 1 / (p[step] * steps))

    @torch.no_grad()
    def add(self, step: Tensor, losses: Tensor) -> None:
        """Keep the losses, (B,), of the steps, (B,), in the order of the batch."""
        order = step.to(self.counts.device).argsort(stable=True)
        step, losses = step.to(order.device)[order], losses.to(self.losses)[order]
        position, length = torch.arange(len(step), device=order.device), self.losses.shape[1]
        begin, end = (torch.searchsorted(step, step, right=right) for right in (False, True))
        slot = (self.counts[step] + position - begin) % length
        last = end - position <= length  # of more, the earlier would be overwritten at once
        self.losses[step[last], slot[last]] = losses[last]
        self.counts += step.bincount(minlength=len(self.counts))


@dataclass(frozen=True)
class ImportanceSampled:
    """An objective whose times are drawn where its loss was large: Nichol and Dhariwal (2021), 3.3.

    For ImportanceSampled(VariationalBound(T), steps=T), which is their L_vlb; any objective may
    stand in it, and steps may differ from its T: the mean of the loss stays the same.

    keep: losses remembered a step. uniform: a share of the draws stays uniform, without which a
    step whose loss fell to 0 would never be drawn again; 0.001 is in their code, not in the paper.

    Only in training mode: in eval mode it is the inner objective, so that held-out losses and
    their noise levels mean the same throughout a run.

    Wants attach(denoiser) before training, and remember(denoiser, u, losses) once a step.
    """

    objective: Objective
    steps: int = 1000
    keep: int = 10
    uniform: float = 0.001

    def __post_init__(self) -> None:
        if self.steps < 1 or self.keep < 1 or not 0 < self.uniform <= 1:
            raise ValueError(
                f"{self.steps} steps that keep {self.keep} losses, uniform = {self.uniform}: steps "
                "and keep must be 1 or more, and uniform above 0 and at most 1."
            )

    @property
    def times(self) -> Times:
        """The inner objective's: those of eval mode."""
        return self.objective.times

    def attach(self, denoiser: NetworkDenoiser) -> None:
        """Give the denoiser an empty history, as the module `loss_history`."""
        denoiser.add_module(NAME, LossHistory(self.steps, self.keep))

    def history_of(self, denoiser: nn.Module) -> LossHistory:
        """The denoiser's history.

        Raises: ValueError where it has none, or one of another shape.
        """
        history = dict(denoiser.named_children()).get(NAME)
        if history is None:
            raise ValueError(
                "ImportanceSampled wants a denoiser that keeps its losses, and this one does not: "
                "call objective.attach(denoiser) once, before training or loading its weights."
            )
        history = cast(LossHistory, history)
        if tuple(history.losses.shape) != (self.steps, self.keep):
            steps, keep = history.losses.shape
            raise ValueError(
                f"the denoiser keeps {keep} losses of {steps} steps, the objective wants "
                f"{self.keep} of {self.steps}: attach the objective that the run is made of."
            )
        return history

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, u: Tensor, eps: Tensor
    ) -> Tensor:
        if not denoiser.training:
            return self.objective(denoiser, x0, cond, u, eps)
        place = self.history_of(denoiser).place(u, self.uniform)
        losses = self.objective(denoiser, x0, cond, place.u, eps)
        return place.weight.to(losses) * losses

    def remember(self, denoiser: nn.Module, u: Tensor, losses: Tensor) -> None:
        """Take in a whole batch after its optimizer step: u, (B,), and what __call__ returned.

        The losses are divided by their weights again, so it must see the history that they were
        drawn from: once a step, after all its micro-batches, rows in the order of the batch.
        """
        history = self.history_of(denoiser)
        place = history.place(u, self.uniform)
        history.add(place.step, losses.detach().double().cpu() / place.weight)
