"""3 x 3 convolutions with 16 products where the definition has 36, on a CPU.

    y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A

d is a tile of 4 x 4 pixels, y its inner 2 x 2: Winograd's minimal filtering, Lavin and Gray (2016),
section 4.1. native/winograd.c does it, with sums in float32. In float32 it is as exact as the
definition; in bfloat16 the tiles are rounded once more, so that an output is wrong by 0.3 % where
the plain convolution of bfloat16 is wrong by 0.23 %.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .. import native
from .convolving import watched

STEP = 16  # channels come in so many
LEAST = 32  # of them, below which the plain convolution is as fast
TILES = 128  # of 2 x 2 pixels in a batch, below which transforming the kernels would not pay
NEAR = (1, 1)


class Sizes(ctypes.Structure):
    """What winograd.c is told; see there."""

    _fields_ = [(name, ctypes.c_int64) for name in "BHWIO"]


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), (B, C, H, W), of a 3 x 3 convolution or of whatever stands in its place."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if not (type(layer) is nn.Conv2d and _is_plain(layer) and _fits(layer.weight, x, dtype)):
        return layer(x)
    return _Winograd.apply(x.to(dtype), layer.weight, layer.bias)


def _is_plain(layer: nn.Conv2d) -> bool:
    settings = (layer.stride, layer.padding, layer.dilation)
    plain = settings == (NEAR,) * 3 and layer.groups == 1 and layer.padding_mode == "zeros"
    return layer.kernel_size == (3, 3) and plain and not watched(layer)


def _fits(weight: Tensor, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether winograd.c takes these, and is the faster one."""
    channels = weight.shape[:2]
    if any(size % STEP or size < LEAST for size in channels) or x.ndim != 4:
        return False
    batch, _, height, width = x.shape
    tiles = batch * ((height + 1) // 2) * ((width + 1) // 2)
    return tiles >= TILES and weight.dtype == torch.float32 and _taken(weight, x, dtype)


def _taken(weight: Tensor, x: Tensor, dtype: torch.dtype) -> bool:
    if not (native.takes("winograd", x) and native.takes("winograd", weight)):
        return False
    return dtype in native.SUFFIX and native.can("winograd", dtype)


def _kernels(weight: Tensor, dtype: torch.dtype, turned: bool) -> Tensor:
    """G g G^T of (O, I, 3, 3); turned: of the convolution that gives the gradient of x."""
    outputs, inputs = weight.shape[:2]
    sizes = Sizes(1, 1, 1, *((outputs, inputs) if turned else (inputs, outputs)))
    made = torch.empty(16 * outputs * inputs, dtype=dtype)
    native.call("winograd", f"winograd_kernels{'_turned' * turned}", sizes, dtype, weight, made)
    return made


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool = False) -> Tensor:
    """(B, O, H, W) of x, its channels last; turned: x's gradient from y's."""
    batch, inputs, height, width = x.shape
    outputs = weight.shape[1 if turned else 0]
    kernels = _kernels(weight, x.dtype, turned)
    y = x.new_empty((batch, height, width, outputs)).permute(0, 3, 1, 2)
    sizes = Sizes(batch, height, width, inputs, outputs)
    native.call("winograd", "winograd_forward", sizes, x.dtype, x, kernels, bias, y)
    return y


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, weight = x.contiguous(memory_format=torch.channels_last), weight.contiguous()
        ctx.save_for_backward(x, weight)
        return _convolved(x, weight, None if bias is None else bias.float())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        dx = _convolved(dy, weight, None, turned=True) if wants_x else None
        if not wants_weight:
            return dx, None, dy.sum((0, 2, 3), dtype=torch.float32) if wants_bias else None
        return dx, *_of_weights(x, dy, weight, wants_bias)


def _of_weights(
    x: Tensor, dy: Tensor, weight: Tensor, with_bias: bool
) -> tuple[Tensor, Tensor | None]:
    batch, inputs, height, width = x.shape
    outputs = dy.shape[1]
    dw, db = torch.empty_like(weight), weight.new_empty(outputs) if with_bias else None
    sizes = Sizes(batch, height, width, inputs, outputs)
    native.call("winograd", "winograd_weights", sizes, x.dtype, x, dy, dw, db)
    return dw, db
