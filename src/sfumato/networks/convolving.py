"""Convolutions as a CPU does them fastest: the same numbers but for rounding.

1 x 1                         a product of matrices
3 x 3                         winograd.py: 16 products for 36
3 x 3 after doubling pixels   winograd.py: 9 products for 36; where it is not to be had, four 2 x 2
                              kernels on the pixels before: 16 products

A layer that someone watches by a hook is called itself.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .. import native
from .layers import watched
from .winograd import convolve_doubled, is_plain

LAST = torch.channels_last


def pointwise(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), (B, C, H, W), of a 1 x 1 convolution or of whatever stands in its place."""
    if type(layer) is not nn.Conv2d or not native.ordinary(x) or layer.kernel_size != (1, 1):
        return layer(x)
    if (layer.stride, layer.padding, layer.groups) != ((1, 1), (0, 0), 1) or watched(layer):
        return layer(x)
    y = F.linear(x.permute(0, 2, 3, 1), layer.weight.flatten(1), layer.bias)
    return y.permute(0, 3, 1, 2)


def doubled(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x, each pixel four times), (B, C, 2 H, 2 W)."""
    y = convolve_doubled(layer, x)
    if y is not None:
        return y
    if not (is_plain(layer) and native.ordinary(x)):
        return layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    assert isinstance(layer, nn.Conv2d)
    bias = None if layer.bias is None else layer.bias.repeat(4)
    return _Interleaved.apply(F.conv2d(x, _folded(layer.weight), bias, padding=1))


def _folded(weight: Tensor) -> Tensor:
    """(O, I, 3, 3) as (4 O, I, 2, 2): a kernel for each of the four pixels that one becomes.

    The upper of two rows sees row k = 0 in the pixel above and k = 1, 2 in its own; the lower one
    k = 0, 1 in its own and k = 2 in the pixel below. Columns likewise.
    """
    first, own, last = weight.unbind(2)
    rows = torch.stack([torch.stack([first, own + last], 2), torch.stack([first + own, last], 2)])
    first, own, last = rows.unbind(4)  # (2, O, I, 2) each
    both = [torch.stack([first, own + last], 4), torch.stack([first + own, last], 4)]
    return torch.stack(both, 1).flatten(0, 2).contiguous(memory_format=LAST)


class _Interleaved(torch.autograd.Function):
    """(B, 4 C, H + 1, W + 1) of the four kernels to (B, C, 2 H, 2 W)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        each = y.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))  # (B, H + 1, W + 1, 2, 2, C)
        batch, high, wide, *_, channels = each.shape
        out = y.new_empty((batch, high - 1, 2, wide - 1, 2, channels))
        for a in (0, 1):
            for b in (0, 1):
                out[:, :, a, :, b] = each[:, a : a + high - 1, b : b + wide - 1, a, b]
        return out.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        g = gradient.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        batch, high, _, wide, _, channels = g.shape
        each = g.new_zeros((batch, high + 1, wide + 1, 2, 2, channels))
        for a in (0, 1):
            for b in (0, 1):
                each[:, a : a + high, b : b + wide, a, b] = g[:, :, a, :, b]
        return each.flatten(3).permute(0, 3, 1, 2)
