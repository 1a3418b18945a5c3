"""What a network is told beside the image: nothing, a label, or a text as a sequence of tokens.

    (embedding of the noise level, cond)  to  (tokens to attend to or None, embedding)

A new way to tell a network something is a class of this shape. Knows nothing of diffusion.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .embeddings import ClassEmbedding
from .layers import zeroed

Condition: TypeAlias = Tensor | Mapping[str, Tensor] | None


@dataclass(frozen=True)
class Tokens:
    """A condition as a sequence: values (B, L, context), mask (B, L) bool, True where one is real.

    What a token holds where the mask is False must not matter; read_tokens puts zeros there.
    """

    values: Tensor
    mask: Tensor

    @property
    def mean(self) -> Tensor:
        """(B, context): of the real tokens; zero where there are none."""
        return self.values.sum(1) / self.mask.sum(1, keepdim=True).clamp(min=1)


class Unconditioned(nn.Module):
    """Nothing is told."""

    def forward(self, embedding: Tensor, cond: Condition, x: Tensor) -> tuple[None, Tensor]:
        if cond is not None:
            raise ValueError(
                "a condition was given to a network without one: pass cond=None, or build the "
                "network with classes = the number of classes, or with context for a text"
            )
        return None, embedding


class AddedLabel(nn.Module):
    """A label is added to the embedding (B, channels)."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.label = ClassEmbedding(classes, channels)

    def forward(self, embedding: Tensor, cond: Condition, x: Tensor) -> tuple[None, Tensor]:
        return None, embedding + self.label(as_labels(cond), x.shape[0])


class LabelToken(nn.Module):
    """A label is a sequence of one token; "no class" is a learned token like any other."""

    def __init__(self, classes: int, context: int) -> None:
        super().__init__()
        self.label = ClassEmbedding(classes, context)

    def forward(self, embedding: Tensor, cond: Condition, x: Tensor) -> tuple[Tokens, Tensor]:
        values = self.label(as_labels(cond), x.shape[0])[:, None]  # (B, 1, context)
        return Tokens(values, torch.ones_like(values[:, :, 0], dtype=torch.bool)), embedding


class Text(nn.Module):
    """A text is its tokens; pooled, their mean is added to the embedding: nothing when new."""

    def __init__(self, context: int, channels: int, pooled: bool) -> None:
        super().__init__()
        self.context = context
        self.pooled = zeroed(nn.Linear(context, channels)) if pooled else None

    def forward(self, embedding: Tensor, cond: Condition, x: Tensor) -> tuple[Tokens, Tensor]:
        tokens = read_tokens(cond, self.context, x)
        if self.pooled is None:
            return tokens, embedding
        return tokens, embedding + self.pooled(tokens.mean)


def as_labels(cond: Condition) -> Tensor | None:
    """The labels; ValueError for a text. Their shape and range are ClassEmbedding's to check."""
    if cond is None or torch.is_tensor(cond):
        return cond
    raise ValueError(
        f"cond is a dict of {sorted(cond)} for a network of classes: pass labels (B,), or build it "
        "with classes = 0 and context = the text encoder's features"
    )


def read_tokens(cond: Condition, context: int, x: Tensor) -> Tokens:
    """The tokens for images x, in their dtype; None means no real token throughout the batch.

    Raises ValueError unless cond is {"tokens": (B, L, context), "mask": (B, L) bool}.
    """
    batch = x.shape[0]
    if cond is None:
        return Tokens(x.new_zeros(batch, 1, context), x.new_zeros(batch, 1, dtype=torch.bool))
    if torch.is_tensor(cond) or not {"tokens", "mask"} <= set(cond):
        came = f"{tuple(cond.shape)} {cond.dtype}" if torch.is_tensor(cond) else sorted(cond)
        raise ValueError(
            f"cond is {came} for a network with context = {context}: pass a dict of tokens "
            f"(B, L, {context}) and mask (B, L), or None for no text; for labels build it with "
            "label_tokens, or with context = 0"
        )
    values, mask = cond["tokens"], cond["mask"]
    if values.ndim != 3 or values.shape[::2] != (batch, context) or mask.shape != values.shape[:2]:
        raise ValueError(
            f"tokens are {tuple(values.shape)} and their mask {tuple(mask.shape)} for {batch} "
            f"images: they must be ({batch}, L, {context}) and ({batch}, L); set context to the "
            "text encoder's features"
        )
    if mask.dtype != torch.bool:
        raise ValueError(
            f"the tokens' mask is {mask.dtype}: it must be bool, True where one is real"
        )
    # zeros even where NaN came: neither the mean nor a product with weight 0 would hide it
    return Tokens(values.to(x).masked_fill(~mask[:, :, None], 0), mask)
