"""Linear attention of the pixels of an image, with learned keys and values beside theirs.

    y = softmax_d(Q) (softmax_n(K)^T V) / sqrt(d),    Shen et al. (2021), eq. 4

(equation number from memory.) On a CPU, in float32 or bfloat16, it is native/linear_attention.c;
otherwise it is PyTorch's operations, one after the other. Equal but for rounding.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import native

LANES = 16  # channels of a head come in so many


class Attention(ctypes.Structure):
    """What linear_attention.c is told; see there."""

    _fields_ = [
        ("memory", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("B", "N", "heads", "d", "M")),
    ]


def linear_attention(qkv: Tensor, memory: Tensor) -> Tensor:
    """y of the formula above, (B, N, heads d), in qkv's dtype.

    qkv: (B, N, 3 heads d), the queries of all heads, then the keys, then the values.
    memory: (2, heads, d, M), keys and values that every image has beside its pixels'.
    """
    if _fits(qkv, memory):
        return _Linear.apply(qkv, memory)
    return plain(qkv, memory)


def _fits(qkv: Tensor, memory: Tensor) -> bool:
    if qkv.ndim != 3 or memory.dtype != torch.float32 or memory.shape[2] % LANES:
        return False
    alike = qkv.shape[2] == 3 * memory.shape[1] * memory.shape[2]
    return alike and native.ordinary(memory) and native.takes("linear_attention", qkv)


def plain(qkv: Tensor, memory: Tensor) -> Tensor:
    """linear_attention by PyTorch's operations."""
    heads, depth = memory.shape[1:3]
    q, k, v = qkv.unflatten(2, (3, heads, depth)).permute(2, 0, 3, 4, 1)  # (B, heads, d, N) each
    more_k, more_v = memory.to(qkv)[:, None].expand(2, len(qkv), *memory.shape[1:])
    k, v = torch.cat([more_k, k], dim=3), torch.cat([more_v, v], dim=3)
    context = v @ k.softmax(dim=3).transpose(2, 3) * depth**-0.5  # (B, heads, d, d)
    mixed = context @ q.softmax(dim=2).to(context)
    return mixed.permute(0, 3, 1, 2).flatten(2)


def _told(qkv: Tensor, memory: Tensor) -> Attention:
    _, heads, depth, memories = memory.shape
    return Attention(memory.data_ptr(), *qkv.shape[:2], heads, depth, memories)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, memory: Tensor) -> Tensor:
        qkv, memory = qkv.contiguous(), memory.contiguous()
        batch, pixels, inner = qkv.shape
        heads, depth = memory.shape[1:3]
        y = qkv.new_empty((batch, pixels, inner // 3))
        kept = memory.new_empty((batch, heads, depth + 2, depth))
        told = _told(qkv, memory)
        native.call("linear_attention", "linear_forward", told, qkv.dtype, qkv, y, kept)
        ctx.save_for_backward(qkv, memory, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        qkv, memory, kept = ctx.saved_tensors
        dy, dqkv = dy.to(qkv.dtype).contiguous(), torch.empty_like(qkv)
        each = memory.new_empty((len(qkv), *memory.shape))
        tensors = (qkv, dy, kept, dqkv, each)
        native.call("linear_attention", "linear_backward", _told(qkv, memory), qkv.dtype, *tensors)
        return dqkv, each.sum(0)
