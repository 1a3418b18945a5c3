"""What the networks share: a norm, attention, zeroed layers, padding, and checks of their settings.

attention:  softmax(q k^T / sqrt(d)) v
"""

from types import EllipsisType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fused import norm_act

Layer = TypeVar("Layer", bound=nn.Module)


class GroupNorm(nn.Module):
    """Group norm in the weights' precision, and what may follow it: Wu and He (2018), eq. 1 and 7.

    n = norm(x + add),   z = n (1 + scale) + shift,   silu(z) or z

    Under bf16 autocast the precision is float32, as in ADM. add, scale, shift: (B, C) or None.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x: Tensor,
        add: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        silu: bool = False,
    ) -> Tensor:
        told = (add, scale, shift, silu)
        return norm_act(x, self.weight, self.bias, self.groups, self.eps, *told)


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W), laid out with its channels last, so that a convolution answers likewise.

    Of one channel that says nothing, `contiguous` leaves it, and a network would go on with the
    channels first: such strides are written out.
    """
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last)
    pixels = x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    return pixels.permute(0, 3, 1, 2)


def together(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """What each of these layers makes of x (..., D), by one product of matrices.

    A layer that someone watches, or another in a linear one's place, is called itself.
    """
    plain = all(type(layer) is nn.Linear and not watched(layer) for layer in layers)
    if not plain or len({layer.bias is None for layer in layers}) > 1:
        return tuple(layer(x) for layer in layers)
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    y = F.linear(x, torch.cat(weights), torch.cat(biases) if biases else None)
    return y.split([layer.out_features for layer in layers], dim=-1)


def watched(layer: nn.Module) -> bool:
    """Whether someone waits for the layer's call, which what stands in its place would not make."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    return any((*hooks, layer._backward_hooks, layer._backward_pre_hooks))


def zeroed(layer: Layer) -> Layer:
    """The layer, its parameters set to zero, so that it starts by adding nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[slice | EllipsisType, ...]]:
    """x with H and W padded, evenly about, to multiples; and the index that cuts it back.

    Repeats the border: unlike a reflection that works for any size, one pixel included.
    """
    height, width = x.shape[-2:]
    over_h, over_w = -height % multiple, -width % multiple
    top, left = over_h // 2, over_w // 2
    box = (..., slice(top, top + height), slice(left, left + width))
    if over_h or over_w:
        x = F.pad(x, (left, over_w - left, top, over_h - top), mode="replicate")
    return x, box


def check_images(x: Tensor, channels: int) -> None:
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(
            f"x is {tuple(x.shape)}: this network wants images (B, {channels}, H, W); set "
            "in_channels to the images' channels"
        )


def check_counts(config: Any, *names: str) -> None:
    """Raise ValueError unless each of these fields is 1 or more, or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: it must be 1 or more")


def check_out_channels(channels: int | None) -> None:
    if channels is not None and channels < 1:
        raise ValueError(f"out_channels is {channels}: 1 or more, or None for as many as in")


def check_multipliers(multipliers: tuple[int, ...]) -> None:
    if not multipliers or min(multipliers) < 1:
        raise ValueError(
            f"multipliers is {multipliers}: give one per level, each 1 or more, as (1, 2)"
        )


def check_classes(classes: int) -> None:
    if classes < 0:
        raise ValueError(f"classes is {classes}: give 0 for none, or their number")


def check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}: it must be at least 0 and less than 1")


def check_groups(widths: tuple[int, ...], groups: int, remedy: str) -> None:
    """Raise ValueError, with the remedy, unless the groups of a norm divide every width."""
    for width in widths:
        if width % groups:
            raise ValueError(
                f"a level is {width} channels wide, which {groups} groups do not divide: {remedy}"
            )


def check_attention_at(attention_at: tuple[int, ...], factors: tuple[int, ...]) -> None:
    for factor in attention_at:
        if factor not in factors:
            raise ValueError(
                f"attention_at = {attention_at}: no level has {factor} image pixels to the side of "
                f"a feature; choose from {factors}, or () for no level"
            )
