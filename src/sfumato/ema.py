"""Averages of the weights whose horizon grows with the run.

    average <- beta_n average + (1 - beta_n) weights,   beta_n = (1 - 1/n)^(gamma + 1)

after step n = 1, 2, ... : the power-function profile of Karras et al. (2024, EDM2), section 3. At
n = 1 beta is 0, so the initial weights leave at once and early samples are never their noise, as
they are under a fixed decay of 0.9999 for the first 30,000 steps.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn


@lru_cache
def power_of(length: float) -> float:
    """gamma for a profile whose standard deviation is `length` times the run so far.

    length^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)): EDM2's sigma_rel. 0 < length <= 0.28.
    """
    if not 0 < length < 0.288:
        raise ValueError(
            f"ema length = {length}; it is the width of the average as a share of the run so far: "
            "between 0 and 0.28, usually 0.05 to 0.15."
        )
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def decay_at(step: int, length: float) -> float:
    """beta_n for the n-th optimizer step, counted from 1."""
    return float((1 - 1 / step) ** (power_of(length) + 1))


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the model by 1 - decay; buffers are copied."""
    averaged: list[Tensor] = list(average.parameters())
    current: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(averaged, current, 1 - decay)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)
