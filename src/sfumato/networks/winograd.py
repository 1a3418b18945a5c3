"""3 x 3 convolutions with 16 products where the definition has 36, on a CPU.

    y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A

d is a tile of 4 x 4 pixels, y its inner 2 x 2: Winograd's minimal filtering, Lavin and Gray (2016),
section 4.1. Where each pixel of x stands for four, as on the way up of a U-Net, 9 products do:
two rows of d are one. native/winograd.c and winograd_weights.c do it, with sums in float32. In
float32 it is as exact as the definition; in bfloat16 the tiles are rounded once more, so that an
output is wrong by 0.3 % where the plain convolution of bfloat16 is wrong by 0.23 %.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .. import native
from .layers import watched

STEP = 16  # channels come in so many
LEAST = 32  # of them, below which the plain convolution is as fast
TILES = 64  # of 2 x 2 pixels in a batch, below which transforming the kernels would not pay
NEAR = (1, 1)


class Sizes(ctypes.Structure):
    """What winograd.c is told; see there."""

    _fields_ = [(name, ctypes.c_int64) for name in (*"BHWIO", "up", "down", "turned")]


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), (B, C, H, W), of a 3 x 3 convolution or of whatever stands in its place."""
    return _Winograd.apply(*told(layer, x), False) if fits(layer, x) else layer(x)


def convolve_doubled(layer: nn.Module, x: Tensor) -> Tensor | None:
    """layer(each pixel of x four times), (B, C, 2 H, 2 W); None where it does not fit."""
    return _Winograd.apply(*told(layer, x), True) if fits(layer, x, 2) else None


def told(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    return x.to(dtype_of(x)), layer.weight, layer.bias  # type: ignore[return-value]


def dtype_of(x: Tensor) -> torch.dtype:
    """What the convolution is computed in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def fits(layer: nn.Module, x: Tensor, factor: int = 1) -> bool:
    """Whether winograd.c takes layer(x), `factor` times as high and wide, and is the faster one."""
    if not (is_plain(layer) and x.ndim == 4):
        return False
    assert isinstance(layer, nn.Conv2d)
    if x.shape[1] != layer.in_channels:  # which PyTorch refuses with a clear word
        return False
    channels = (layer.in_channels, layer.out_channels)
    if any(size % STEP or size < LEAST for size in channels):
        return False
    return tiles_of(x.shape, factor) >= TILES and _taken(layer.weight, x)


def tiles_of(shape: tuple[int, ...], factor: int = 1) -> int:
    """Squares of 2 x 2 pixels in images (B, C, H, W)."""
    return shape[0] * ((factor * shape[2] + 1) // 2) * ((factor * shape[3] + 1) // 2)


def is_plain(layer: nn.Module) -> bool:
    """Whether it is a 3 x 3 convolution, step 1, with a border of one zero, that nobody watches."""
    if type(layer) is not nn.Conv2d or layer.kernel_size != (3, 3) or watched(layer):
        return False
    settings = (layer.stride, layer.padding, layer.dilation)
    return settings == (NEAR,) * 3 and layer.groups == 1 and layer.padding_mode == "zeros"


def _taken(weight: Tensor, x: Tensor) -> bool:
    if not all(native.takes("winograd", one) for one in (x, weight)):
        return False
    dtype = dtype_of(x)
    can = dtype in native.SUFFIX and native.can("winograd", dtype)
    return can and weight.dtype == torch.float32


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, doubles: bool) -> Tensor:
    """y (B, O, H, W), or twice as high and wide, of x (B, I, H, W), its channels last."""
    batch, inputs, *size = x.shape
    high, wide = (2 * side if doubles else side for side in size)
    y = x.new_empty((batch, high, wide, len(weight))).permute(0, 3, 1, 2)
    sizes = Sizes(batch, high, wide, inputs, len(weight), doubles, 0, 0)
    native.call("winograd", "winograd_forward", sizes, x.dtype, x, weight, bias, y)
    return y


def _of_pixels(dy: Tensor, weight: Tensor, doubled: bool) -> Tensor:
    """dx of dy (B, O, H, W), its channels last."""
    batch, outputs, high, wide = dy.shape
    size = (high // 2, wide // 2) if doubled else (high, wide)
    dx = dy.new_empty((batch, *size, weight.shape[1])).permute(0, 3, 1, 2)
    sizes = Sizes(batch, high, wide, outputs, weight.shape[1], 0, doubled, 1)
    native.call("winograd", "winograd_forward", sizes, dy.dtype, dy, weight, None, dx)
    return dx


def _of_weights(
    x: Tensor, dy: Tensor, weight: Tensor, doubled: bool, with_bias: bool
) -> tuple[Tensor, Tensor | None]:
    batch, outputs, high, wide = dy.shape
    dw, db = torch.empty_like(weight), weight.new_empty(outputs) if with_bias else None
    sizes = Sizes(batch, high, wide, x.shape[1], outputs, doubled, 0, 0)
    native.call("winograd_weights", "winograd_weights", sizes, x.dtype, x, dy, dw, db)
    return dw, db


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, doubles: bool) -> Tensor:
        x, weight = x.contiguous(memory_format=torch.channels_last), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.doubles = doubles
        return _convolved(x, weight, None if bias is None else bias.float(), doubles)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        dx = _of_pixels(dy, weight, ctx.doubles) if wants_x else None
        if not wants_weight:
            db = dy.sum((0, 2, 3), dtype=torch.float32) if wants_bias else None
            return dx, None, db, None
        return dx, *_of_weights(x, dy, weight, ctx.doubles, wants_bias), None
