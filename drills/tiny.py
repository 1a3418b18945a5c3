"""A state so small that a checkpoint is written in a millisecond."""

from dataclasses import replace

import torch
from torch import nn

from sfumato.training import TrainConfig, TrainState, take_step

CONFIG = TrainConfig(steps=100, batch=4, lr=0.01, warmup_steps=0)


def fresh(seed: int = 0, width: int = 4) -> TrainState:
    torch.manual_seed(seed)
    return TrainState.fresh(nn.Linear(width, width), CONFIG)


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (model(batch["x"]) - batch["y"]).square().mean(1)


def batch_at(step: int, width: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(4, width, generator=generator) for name in ("x", "y")}


def advance(state: TrainState, steps: int = 1) -> TrainState:
    """Train so many steps on made-up numbers."""
    width = next(state.model.parameters()).shape[0]
    for _ in range(steps):
        take_step(state, loss, batch_at(state.step, width), replace(CONFIG))
    return state
