"""Attention of every token to every token, or to those of a text, by heads.

    y = softmax(q k^T / sqrt(d)) v,    Vaswani et al. (2017), eq. 1

On a CPU, in float32 or bfloat16 and for some hundred tokens, it is native/attention.c, which keeps
of the softmax one number a query and takes q, k and v as they lie. Otherwise PyTorch's operations.
Equal but for rounding: the softmax is in float32 here, while autocast rounds the scores before it.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import native

LANES = 16  # channels of a head come in so many
DEEPEST = 256  # channels of a head: beyond, its numbers leave a core's cache
SHORT = 256  # tokens up to which plain products beat PyTorch's fused attention on a CPU
MOST = 1024  # tokens up to which native/attention.c does


class Steps(ctypes.Structure):
    """From one image, head or token to the next, in numbers."""

    _fields_ = [(name, ctypes.c_int64) for name in ("image", "head", "token")]


class Attention(ctypes.Structure):
    """What attention.c is told; see there."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("B", "heads", "N", "M", "d")),
        *((name, Steps) for name in ("q", "k", "v", "dq", "dk", "dv")),
    ]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """y of the formula above, (B, heads, N, d) like q; k, v: (B, heads, M, d)."""
    if _fits(q, k, v):
        return _Attention.apply(q, k, v)
    if q.device.type == "cpu" and q.shape[2] <= SHORT:
        return (q * q.shape[3] ** -0.5 @ k.transpose(2, 3)).softmax(dim=3) @ v
    return F.scaled_dot_product_attention(q, k, v)


def attend_together(qkv: Tensor) -> Tensor:
    """attend of queries, keys and values in one: (B, N, 3, heads, d) to (B, N, heads d)."""
    q, k, v = _parts(qkv)
    y = _Attention.apply(qkv) if _fits(q, k, v) else attend(q, k, v)
    return y.transpose(1, 2).flatten(2)


def _parts(qkv: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values, (B, heads, N, d) each."""
    return qkv.permute(2, 0, 3, 1, 4).unbind()


def _fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether native/attention.c takes these, and is the faster one."""
    if not all(_taken(part, q) for part in (q, k, v)):
        return False
    alike = q.shape[:2] == k.shape[:2] and k.shape == v.shape and q.shape[3] == k.shape[3]
    depth = q.shape[3]
    small = depth % LANES == 0 and depth <= DEEPEST and max(q.shape[2], k.shape[2]) <= MOST
    return alike and small and len(q) * q.shape[1] >= torch.get_num_threads()


def _taken(part: Tensor, q: Tensor) -> bool:
    if part.ndim != 4 or part.dtype != q.dtype or not native.takes("attention", part):
        return False
    return native.can("attention", q.dtype)


def _told(q: Tensor, k: Tensor, v: Tensor, *gradients: Tensor) -> Attention:
    steps = [Steps(*t.stride()[:3]) for t in (q, k, v, *gradients)]
    nothing = [Steps()] * (6 - len(steps))
    return Attention(*q.shape[:3], k.shape[2], q.shape[3], *steps, *nothing)


def _dense(x: Tensor) -> Tensor:
    """x with its last dimension in one piece."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _by_token(x: Tensor) -> Tensor:
    """Room for a gradient of x (B, heads, N, d), which lies as (B, N, heads, d)."""
    batch, heads, tokens, depth = x.shape
    return x.new_empty((batch, tokens, heads, depth)).transpose(1, 2)


class _Attention(torch.autograd.Function):
    """Of q, k, v, or of one tensor that holds them, whose gradient comes in one piece too."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        given = tuple(map(_dense, given))
        q, k, v = given if len(given) == 3 else _parts(given[0])
        y, kept = _by_token(q), q.new_empty(q.shape[:3], dtype=torch.float32)
        tensors = (q, k, v, y, kept)
        native.call("attention", "attention_forward", _told(q, k, v), q.dtype, *tensors)
        ctx.save_for_backward(*given, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        *given, kept = ctx.saved_tensors
        if len(given) == 3:
            q, k, v = given
            gradients = tuple(map(_by_token, given))
            parts = gradients
        else:
            q, k, v = _parts(given[0])
            gradients = (torch.empty_like(given[0]),)
            parts = _parts(gradients[0])
        dy = dy.to(q.dtype).transpose(1, 2).contiguous()
        told = _told(q, k, v, *parts)
        tensors = (q, k, v, dy, kept, *parts)
        native.call("attention", "attention_backward", told, q.dtype, *tensors)
        return gradients
