"""What a diffusion transformer does to its tokens beside products, each as one operation.

    modulated   m (1 + scale) + shift,   m = (x - mean) / sqrt(var + eps) over a token's features
    gated       x + gate h

On a CPU, in float32 or bfloat16, they are native/tokens.c: sums in float32, and the result at once
in the type that the next product takes. Otherwise PyTorch's operations. Equal but for rounding.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import native

POINTERS = ("scale", "shift", "gate", "mean", "rstd")
WIDE, NARROW = torch.float32, torch.bfloat16
PAIRS = ((WIDE, WIDE), (WIDE, NARROW), (NARROW, NARROW))  # of tokens, and of products' numbers


class Tokens(ctypes.Structure):
    """What tokens.c is told; see there."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_int64) for name in "BND"),
        ("eps", ctypes.c_double),
    ]


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """norm(tokens) (1 + scale) + shift, the norm being over the features and without weights.

    tokens: (B, N, D). shift, scale: (B, 1, D). Under autocast in autocast's dtype, where C does it.
    """
    autocast = torch.is_autocast_enabled("cpu")
    common = torch.promote_types(tokens.dtype, scale.dtype)
    dtype = torch.get_autocast_dtype("cpu") if autocast else common
    if _fits(tokens, dtype, shift, scale):
        return _Modulated.apply(tokens, _one(shift), _one(scale), eps, dtype)
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:], eps=eps), 1 + scale)


def gated(tokens: Tensor, gate: Tensor, h: Tensor) -> Tensor:
    """tokens + gate h, (B, N, D) like tokens and h; gate: (B, 1, D)."""
    if h.shape == tokens.shape and native.takes("tokens", h) and _fits(tokens, h.dtype, gate):
        return _Gated.apply(tokens, _one(gate), h)
    return tokens + gate * h


def _fits(tokens: Tensor, dtype: torch.dtype, *each: Tensor) -> bool:
    """Whether C takes tokens and these modulations, with products in dtype."""
    if tokens.ndim != 3 or (tokens.dtype, dtype) not in PAIRS:
        return False
    shape = (len(tokens), 1, tokens.shape[2])
    return native.takes("tokens", tokens) and all(m.shape == shape for m in each)


def _one(modulation: Tensor) -> Tensor:
    """(B, 1, D) as C takes it, (B, D)."""
    return modulation[:, 0].float().contiguous()


def _call(
    function: str, sizes: torch.Size, types: tuple[torch.dtype, torch.dtype], *tensors: Tensor,
    eps: float = 0.0, **told: Tensor,
) -> None:  # fmt: skip
    """A function of tokens.c for x of the first type and products of the second."""
    pointers = {name: tensor.data_ptr() for name, tensor in told.items()}
    batch, length, features = sizes
    settings = Tokens(**pointers, B=batch, N=length, D=features, eps=eps)
    native.call("tokens", f"{function}_{native.SUFFIX[types[0]]}", settings, types[1], *tensors)


class _Modulated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype
    ) -> Tensor:
        x = x.contiguous()
        mean, rstd = x.new_empty((2, *x.shape[:2]), dtype=WIDE)
        y = torch.empty_like(x, dtype=dtype)
        told = {"scale": scale, "shift": shift, "mean": mean, "rstd": rstd}
        _call("modulate_forward", x.shape, (x.dtype, dtype), x, y, eps=eps, **told)
        ctx.save_for_backward(x, scale, mean, rstd)
        ctx.dtype = dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, rstd = ctx.saved_tensors
        dy = dy.to(ctx.dtype).contiguous()
        dx, d_scale, d_shift = torch.empty_like(x), torch.empty_like(scale), torch.empty_like(scale)
        told = {"scale": scale, "mean": mean, "rstd": rstd}
        types = (x.dtype, ctx.dtype)
        _call("modulate_backward", x.shape, types, x, dy, dx, d_scale, d_shift, **told)
        return dx, d_shift, d_scale, None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, h: Tensor) -> Tensor:
        x, h = x.contiguous(), h.contiguous()
        y = torch.empty_like(x)
        _call("gate_forward", x.shape, (x.dtype, h.dtype), x, h, y, gate=gate)
        ctx.save_for_backward(gate, h)
        ctx.dtype = x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        gate, h = ctx.saved_tensors
        dy = dy.to(ctx.dtype).contiguous()
        dh, d_gate = torch.empty_like(h), torch.empty_like(gate)
        _call("gate_backward", h.shape, (ctx.dtype, h.dtype), h, dy, dh, d_gate, gate=gate)
        return dy, d_gate, dh
