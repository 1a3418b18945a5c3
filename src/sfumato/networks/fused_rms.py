"""The norm of each pixel's channels, modulation and SiLU as one operation.

    n = sqrt(C) x / |x| gain,   z = n (1 + scale) + shift,   y = silu(z) or z

On a CPU, in float32 or bfloat16 with the channels last, it is native/rms_norm.c; otherwise it is
PyTorch's operations, one after the other. Equal but for rounding.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import native


class RMS(ctypes.Structure):
    """What rms_norm.c is told; see there."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("gain", "scale", "shift")),
        *((name, ctypes.c_int64) for name in "BPC"),
        ("silu", ctypes.c_int),
    ]


def rms_act(
    x: Tensor,
    gain: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """y of the formula above, (B, C, H, W) like x, in x's dtype.

    gain: (C,). scale, shift: (B, C) or None.
    """
    if _fits(x, gain, scale, shift):
        told = [None if m is None else m.float().contiguous() for m in (scale, shift)]
        return _RMSAct.apply(x, gain, *told, silu)
    return plain(x, gain, scale, shift, silu)


def _fits(x: Tensor, gain: Tensor, scale: Tensor | None, shift: Tensor | None) -> bool:
    if x.ndim != 4 or not native.takes("rms_norm", x):
        return False
    known = native.are_weights((x.shape[1],), gain)
    return known and native.are_rows(tuple(x.shape[:2]), scale, shift)


def plain(
    x: Tensor,
    gain: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """rms_act by PyTorch's operations."""
    n = F.normalize(x, dim=1) * gain[:, None, None] * x.shape[1] ** 0.5
    if scale is not None:
        n = n * (1 + scale[:, :, None, None])
    if shift is not None:
        n = n + shift[:, :, None, None]
    return (F.silu(n) if silu else n).to(x.dtype)


def _rms(x: Tensor, told: tuple[Tensor | None, ...], silu: bool) -> RMS:
    pointers = [None if t is None else t.data_ptr() for t in told]
    return RMS(*pointers, len(x), x.shape[2:].numel(), x.shape[1], int(silu))


class _RMSAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, scale: Tensor | None, shift: Tensor | None, silu: bool
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x)
        rms = _rms(x, (gain, scale, shift), silu)
        native.call("rms_norm", "rms_forward", rms, x.dtype, x, y)
        ctx.save_for_backward(x, gain, scale, shift)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, scale, shift = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x)
        of_n, of_z = gain.new_empty((2, *x.shape[:2]))
        rms = _rms(x, (gain, scale, shift), ctx.silu)
        native.call("rms_norm", "rms_backward", rms, x.dtype, x, dy, dx, of_n, of_z)
        factor = 1 if scale is None else 1 + scale
        of_scale = None if scale is None else of_n * gain
        return dx, (factor * of_n).sum(0), of_scale, None if shift is None else of_z, None
