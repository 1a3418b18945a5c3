"""Convolutions as a CPU does them fastest: the same numbers but for rounding.

    1 x 1                         a product of matrices
    3 x 3 after doubling pixels   four 2 x 2 kernels on the pixels before: 16 products for 36
    3 x 3 on small maps in bf16   the gradient of its weights as a product of matrices

The last is not only faster: where another program wants a core, the threads of oneDNN's own kernel
wait for each other without sleeping, and a gradient of 1 ms takes 250.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALL = 64  # pixels of a map up to which the product of matrices is no slower
LAST = torch.channels_last


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), (B, C, H, W), of a convolution or of whatever stands in its place."""
    if not isinstance(layer, nn.Conv2d) or not _is_ours(x):
        return layer(x)
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1:
        y = F.linear(x.permute(0, 2, 3, 1), layer.weight.flatten(1), layer.bias)
        return y.permute(0, 3, 1, 2)
    if x.dtype == torch.bfloat16 and x.shape[2:].numel() <= SMALL and _is_plain(layer):
        return _Small.apply(x, layer.weight, layer.bias)
    return layer(x)


def doubled(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x, each pixel four times), (B, C, 2 H, 2 W)."""
    if not (isinstance(layer, nn.Conv2d) and _is_ours(x) and _is_plain(layer)):
        return layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    bias = None if layer.bias is None else layer.bias.repeat(4)
    return _Interleaved.apply(F.conv2d(x, _folded(layer.weight), bias, padding=1))


def _is_ours(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _is_plain(layer: nn.Conv2d) -> bool:
    settings = (layer.stride, layer.padding, layer.dilation)
    return layer.kernel_size == (3, 3) and settings == ((1, 1),) * 3 and layer.groups == 1


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


class _Small(torch.autograd.Function):
    """A 3 x 3 convolution in bf16, padding 1, of a small map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        reduced = weight.to(x.dtype, memory_format=LAST)
        ctx.save_for_backward(x, reduced)
        ctx.kept = (weight.dtype, bias is not None)
        return F.conv2d(x, reduced, None if bias is None else bias.to(x.dtype), padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dtype, biased = ctx.kept
        g = gradient.contiguous(memory_format=LAST)
        ones = [1, 1]
        of_x = None
        if ctx.needs_input_grad[0]:
            mask = [True, False, False]
            of_x = torch.ops.aten.convolution_backward(
                g, x, weight, None, ones, ones, ones, False, [0, 0], 1, mask
            )[0]
        of_weight = _gradient_of_weight(x, g).to(dtype)
        return of_x, of_weight, g.sum((0, 2, 3), dtype=dtype) if biased else None


def _gradient_of_weight(x: Tensor, g: Tensor) -> Tensor:
    """(O, I, 3, 3), laid out channels last: of every pixel's gradient with what its kernel saw."""
    batch, inputs, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (B, H + 2, W + 2, I)
    a, b, c, d = padded.stride()
    seen = padded.as_strided((batch, height, width, 3, 3, inputs), (a, b, c, b, c, d))
    rows = seen.reshape(-1, 9 * inputs)
    product = g.permute(0, 2, 3, 1).flatten(0, 2).mT @ rows
    return product.view(-1, 3, 3, inputs).permute(0, 3, 1, 2)
