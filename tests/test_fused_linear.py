"""Linear attention in one go: what the parts give, and what the definition says."""

import pytest
import torch

from sfumato.networks import fused_linear
from sfumato.networks.fused_linear import linear_attention, plain
from test_fused import alike_on_any_number_of_threads, needs_c, same_outcome, worst


def parts(batch, pixels, heads, depth, memories):
    make = torch.Generator().manual_seed(pixels)
    draw = lambda *size: torch.randn(*size, generator=make, dtype=torch.float64)  # noqa: E731
    tensors = [2 * draw(batch, pixels, 3 * heads * depth), draw(2, heads, depth, memories)]
    return tensors, draw(batch, pixels, heads * depth)


def gradients(function, tensors, upward, dtype, pixels=None):
    qkv, memory = (t.to(dtype, copy=True) for t in tensors)
    own = [t.requires_grad_() for t in (qkv.to(pixels or dtype), memory)]
    y = function(*own)
    y.backward(upward.to(y.dtype))
    return [y.detach(), *(t.grad for t in own)]


def test_the_parts_are_the_definition():
    """Sums over positions, channel by channel."""
    (qkv, memory), _ = parts(2, 5, 3, 4, 2)
    y = plain(qkv, memory).unflatten(2, (3, 4))
    q, k, v = qkv.unflatten(2, (3, 3, 4)).unbind(2)  # (2, 5, 3, 4) each
    keys = torch.cat([memory[0, 1].T, k[1, :, 1]]).exp()
    values = torch.cat([memory[1, 1].T, v[1, :, 1]])
    means = torch.stack([(key[:, None] * values).sum(0) / key.sum() for key in keys.T])
    chosen = q[1, 3, 1].exp() / q[1, 3, 1].exp().sum()
    torch.testing.assert_close(y[1, 3, 1], chosen @ means / 2)


@needs_c
@pytest.mark.parametrize(
    "shape", [(2, 64, 4, 32, 4), (3, 33, 2, 16, 1), (1, 1, 1, 48, 40), (2, 1024, 1, 32, 0)], ids=str
)
def test_it_is_the_parts_in_float64(shape):
    tensors, upward = parts(*shape)
    exact = gradients(plain, tensors, upward, torch.float64)
    assert worst(gradients(linear_attention, tensors, upward, torch.float32), exact) < 3e-6
    rounded = [tensors[0].bfloat16().double(), tensors[1]]
    exact = gradients(plain, rounded, upward.bfloat16().double(), torch.float64)
    bf16 = (torch.float32, torch.bfloat16)
    assert worst(gradients(linear_attention, rounded, upward, *bf16), exact) < 4e-3


@needs_c
def test_great_keys_and_queries_overflow_nothing():
    tensors, upward = parts(1, 40, 2, 16, 3)
    tensors = [100 * t for t in tensors]
    exact = gradients(plain, tensors, upward, torch.float64)
    found = gradients(linear_attention, tensors, upward, torch.float32)
    for ours, wanted in zip(found, exact):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("width", [95, 97, 192])
def test_another_width_is_refused_as_by_the_parts(width):
    assert same_outcome(linear_attention, plain, torch.ones(1, 4, width), torch.ones(2, 2, 16, 1))


@needs_c
def test_the_c_is_what_ran(monkeypatch):
    monkeypatch.setattr(fused_linear, "plain", lambda *told: pytest.fail("the parts ran"))
    tensors, upward = parts(2, 64, 4, 32, 4)
    for dtype in (torch.float32, torch.bfloat16):
        gradients(linear_attention, tensors, upward, torch.float32, dtype)


@needs_c
def test_no_result_depends_on_the_number_of_threads():
    told = (*parts(3, 200, 4, 32, 4), torch.float32, torch.bfloat16)
    assert alike_on_any_number_of_threads(lambda: gradients(linear_attention, *told))
