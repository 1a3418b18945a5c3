"""Group norm, modulation and SiLU as one operation: a third of the memory traffic of the parts.

    n = group_norm(x + add) gamma + beta,   z = n (1 + scale) + shift,   y = silu(z) or z

On a CPU, in float32 or bfloat16 with the channels last, it is native/group_norm.c, with sums in
float64; otherwise PyTorch's operations, one after the other. Equal but for rounding.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import native

POINTERS = ("gamma", "beta", "add", "scale", "shift", "mean", "rstd")


class Norm(ctypes.Structure):
    """What group_norm.c is told; see there."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_int64) for name in "BPCG"),
        ("eps", ctypes.c_double),
        ("silu", ctypes.c_int),
    ]


def norm_act(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    add: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """y of the formula above, (B, C, H, W) like x, in x's dtype.

    gamma, beta: (C,), of the dtype that the norm is taken in. add, scale, shift: (B, C) or None.
    """
    modulations = (add, scale, shift)
    if _fits(x, gamma, beta, groups, modulations):
        told = [None if m is None else m.float().contiguous() for m in modulations]
        return _NormAct.apply(x, gamma, beta, *told, groups, eps, silu)
    return plain(x, gamma, beta, groups, eps, add, scale, shift, silu)


def _fits(
    x: Tensor, gamma: Tensor, beta: Tensor, groups: int, modulations: tuple[Tensor | None, ...]
) -> bool:
    if x.ndim != 4 or not native.takes("group_norm", x) or x.shape[1] % groups:
        return False
    known = native.are_weights((x.shape[1],), gamma, beta)
    return known and native.are_rows(tuple(x.shape[:2]), *modulations)


def plain(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    add: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """norm_act by PyTorch's operations. The CPU's own group norm of bf16 is slow channels last."""
    wide = x.to(gamma.dtype)
    if add is not None:
        wide = wide + add[:, :, None, None]
    # torch's, since that of nn.functional refuses a single value to a group, as 1 x 1 may be
    n = torch.group_norm(wide, groups, gamma, beta, eps).to(x.dtype)
    if scale is not None:
        n = n * (1 + scale[:, :, None, None])
    if shift is not None:
        n = n + shift[:, :, None, None]
    return F.silu(n) if silu else n


def _norm(
    x: Tensor, told: tuple[Tensor | None, ...], groups: int, eps: float, silu: bool
) -> tuple[Norm, Tensor, Tensor]:
    """What C is told of x, with new mean and rstd, (B, groups) each."""
    batch, channels = x.shape[:2]
    mean, rstd = x.new_empty((2, batch, groups), dtype=torch.float32)
    pointers = [None if t is None else t.data_ptr() for t in (*told, mean, rstd)]
    sizes = (batch, x.shape[2:].numel(), channels, groups)
    return Norm(*pointers, *sizes, eps, int(silu)), mean, rstd


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        add: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        groups: int,
        eps: float,
        silu: bool,
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        told = (gamma, beta, add, scale, shift)
        norm, mean, rstd = _norm(x, told, groups, eps, silu)
        y = torch.empty_like(x)
        native.call("group_norm", "norm_forward", norm, x.dtype, x, y)
        ctx.save_for_backward(x, mean, rstd, *told)
        ctx.settings = (groups, eps, silu)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, gamma, beta, add, scale, shift = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        norm, _, _ = _norm(x, (gamma, beta, add, scale, shift), *ctx.settings)
        norm.mean, norm.rstd = mean.data_ptr(), rstd.data_ptr()
        dx = torch.empty_like(x)
        d_gamma, d_beta = torch.empty_like(gamma), torch.empty_like(beta)
        d_told = [None if m is None else torch.empty_like(m) for m in (add, scale, shift)]
        sums = mean.new_empty((2, *x.shape[:2]))
        native.call(
            "group_norm", "norm_backward", norm, x.dtype, x, dy, dx, d_gamma, d_beta, *d_told, *sums
        )
        return (dx, d_gamma, d_beta, *d_told, None, None, None)
