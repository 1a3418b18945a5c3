"""GELU in its tanh form, Hendrycks and Gimpel (2016), section 2, as one operation with a bias.

    y = x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)),   x = h + bias

which is x (1 + tanh(...)) / 2 of half the argument. On a CPU, in float32 or bfloat16, it is
native/gelu.c; otherwise PyTorch's operations. Equal but for rounding.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .. import native
from .layers import watched


class Rows(ctypes.Structure):
    """What gelu.c is told; see there."""

    _fields_ = [(name, ctypes.c_int64) for name in "RD"]


def gelu(x: Tensor) -> Tensor:
    """y of x (..., D) without a bias, in x's dtype."""
    if native.takes("gelu", x):
        return _GELU.apply(x, x.new_zeros(x.shape[-1], dtype=torch.float32))
    return F.gelu(x, approximate="tanh")


def gelu_of(layer: nn.Module, x: Tensor) -> Tensor:
    """gelu(layer(x)) of a linear layer, or of whatever stands in its place; x is (..., D).

    A product with a bias begins by writing the bias to every row: here it comes with the GELU.
    """
    if type(layer) is nn.Linear and not watched(layer) and _fits(layer, x):
        return _GELU.apply(F.linear(x, layer.weight), layer.bias)
    return gelu(layer(x))


def _fits(layer: nn.Linear, x: Tensor) -> bool:
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if layer.bias is None or layer.bias.dtype != torch.float32 or dtype not in native.SUFFIX:
        return False
    return all(native.takes("gelu", t) for t in (x, layer.weight, layer.bias))


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        x, bias = x.contiguous(), bias.contiguous()
        ctx.save_for_backward(x, bias)
        y = torch.empty_like(x)
        native.call("gelu", "gelu_forward", _rows(x), x.dtype, x, bias, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        x, bias = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous()
        dx, d_bias = torch.empty_like(x), torch.empty_like(bias)
        native.call("gelu", "gelu_backward", _rows(x), x.dtype, x, bias, dy, dx, d_bias)
        return dx, d_bias


def _rows(x: Tensor) -> Rows:
    return Rows(x.numel() // x.shape[-1], x.shape[-1])
