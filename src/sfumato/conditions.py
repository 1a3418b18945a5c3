"""What a model is told beside the noisy image: nothing, a class, or a caption.

training:  rows(index, dropped)  the condition of each image of a batch; the null one where dropped
sampling:  asked(labels, prompts)  the condition of each image that is wanted
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .denoiser import Cond
from .training import Batch


class Conditions(Protocol):
    """null: one row that says "no condition"; None where a model takes none."""

    @property
    def null(self) -> Cond: ...

    def rows(self, index: Tensor, dropped: Tensor) -> Batch: ...

    def asked(self, labels: Sequence[int] | None, prompts: Sequence[str] | None) -> Cond: ...


def cond_of(batch: Batch) -> Cond:
    """The condition among the rows of a batch."""
    if "tokens" in batch:
        return {"tokens": batch["tokens"], "mask": batch["mask"]}
    return batch.get("labels")


def rows_of(cond: Cond, at: slice, device: torch.device) -> Cond:
    """Some rows of a condition, on the device."""
    if cond is None:
        return None
    if isinstance(cond, dict):
        return {name: value[at].to(device) for name, value in cond.items()}
    return cond[at].to(device)


@dataclass(frozen=True)
class Nothing:
    """An unconditional model."""

    @property
    def null(self) -> Cond:
        return None

    def rows(self, index: Tensor, dropped: Tensor) -> Batch:
        return {}

    def asked(self, labels: Sequence[int] | None, prompts: Sequence[str] | None) -> Cond:
        return None


@dataclass(frozen=True, eq=False)
class Labels:
    """A class an image; index `classes` says none. of_images: (N,), for training only."""

    classes: int
    of_images: Tensor | None = None

    @property
    def null(self) -> Cond:
        return torch.tensor([self.classes])

    def rows(self, index: Tensor, dropped: Tensor) -> Batch:
        assert self.of_images is not None
        labels = self.of_images[index]
        return {"labels": torch.where(dropped.to(labels.device), self.classes, labels)}

    def asked(self, labels: Sequence[int] | None, prompts: Sequence[str] | None) -> Cond:
        return None if labels is None else torch.tensor(list(labels))
