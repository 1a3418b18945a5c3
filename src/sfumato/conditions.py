"""What a model is told beside the noisy image: nothing, a class, or a caption.

training:  rows(index, dropped)  the condition of each image of a batch; the null one where dropped
sampling:  asked(labels, prompts)  the condition of each image that is wanted
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .denoiser import Cond
from .text import CaptionTable, TextConfig, prompts_of
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


def label_tensor(labels: Sequence[int] | None) -> Tensor | None:
    return None if labels is None else torch.tensor(list(labels))


@dataclass(frozen=True)
class Nothing:
    """An unconditional model. Labels that are asked for are for the classifier that guides it."""

    @property
    def null(self) -> Cond:
        return None

    def rows(self, index: Tensor, dropped: Tensor) -> Batch:
        return {}

    def asked(self, labels: Sequence[int] | None, prompts: Sequence[str] | None) -> Cond:
        return label_tensor(labels)


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
        return label_tensor(labels)


@dataclass(frozen=True, eq=False)
class Captions:
    """A caption an image, as token vectors; the empty caption says none.

    table: of the captions that the run was trained on. of_images: (N,) rows of it, for training.
    Every condition is max_tokens long, so that two of them can always stand in one batch.
    """

    table: CaptionTable
    text: TextConfig
    of_images: Tensor | None = None

    @property
    def null(self) -> Cond:
        return self._padded(self.table.cond(torch.tensor([0])))

    def rows(self, index: Tensor, dropped: Tensor) -> Batch:
        assert self.of_images is not None
        chosen = torch.where(dropped.cpu(), 0, self.of_images[index.cpu()])
        return self._padded(self.table.cond(chosen, index.device))

    def asked(self, labels: Sequence[int] | None, prompts: Sequence[str] | None) -> Cond:
        wanted = prompts_of(self.table, list(prompts or [""]), self.text.build)
        return self._padded(wanted.cond(wanted.index))

    def examples(self, count: int) -> list[str]:
        """At most `count` captions that it was trained on, spread over all but the empty one."""
        some = self.table.captions[1:] or self.table.captions
        count = min(count, len(some))
        return [some[(2 * i + 1) * len(some) // (2 * count)] for i in range(count)]

    def _padded(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        tokens, mask = cond["tokens"], cond["mask"]
        more = self.text.max_tokens - tokens.shape[1]
        return {"tokens": F.pad(tokens, (0, 0, 0, more)), "mask": F.pad(mask, (0, more))}
