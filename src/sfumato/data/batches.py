"""Which images make up batch k, and its dice: functions of (seed, k), with nothing remembered.

    position = step * batch_size + i,    epoch = position // n
    index    = permutation of epoch (seed, epoch) at position % n

A run that stops at any step and goes on there sees the same batches as one that never stopped.
"""

from functools import lru_cache
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor


def generator_at(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on `key` alone: generator_at(seed, "noise", step).

    torch uses the low 32 bits of a seed, so of a hundred thousand keys one pair or so shares its
    dice; that is harmless for noise, and no reason to look for secrets here.
    """
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> Tensor:
    """(batch_size,) int64 indices below n: batch `step` of an endless run over n images.

    Every epoch is a fresh permutation, in which each index comes once; a batch may span the end
    of one, or several where n < batch_size.
    """
    if n < 1 or batch_size < 1 or step < 0:
        raise ValueError(
            f"n = {n}, batch_size = {batch_size}, step = {step}: "
            "give n and batch_size from 1, step from 0."
        )
    parts = []
    position, end = step * batch_size, (step + 1) * batch_size
    while position < end:
        epoch, start = divmod(position, n)
        stop = min(n, start + end - position)
        parts.append(_permutation(n, seed, epoch)[start:stop])
        position += stop - start
    return torch.cat(parts)  # a copy: what is cached is never handed out


@lru_cache(maxsize=4)  # the epoch that runs, the next, and the same of a second data set
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator_at(seed, "epoch", epoch))


def flip_mask(batch_size: int, generator: torch.Generator) -> Tensor:
    """(batch_size,) bool: a fair coin for each image."""
    return torch.rand(batch_size, generator=generator) < 0.5


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """(B, C, H, W) of any dtype, mirrored left to right where `mask` (B,) is true."""
    rows = torch.from_numpy(np.flatnonzero(mask.cpu().numpy())).to(images.device)
    return images.index_copy(0, rows, images.index_select(0, rows).flip(-1))
