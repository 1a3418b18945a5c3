"""Attention in C: what the formula gives, by its values, its gradients and what it takes."""

import pytest
import torch

from sfumato import native
from sfumato.networks import fused_attention
from sfumato.networks.fused_attention import attend, attend_together
from test_fused import alike_on_any_number_of_threads, needs_c, worst

SHAPES = [  # batch, heads, queries, keys, channels
    (2, 3, 64, 64, 32),
    (3, 2, 7, 5, 16),
    (1, 2, 33, 300, 80),
    (2, 2, 1, 1, 16),
    (2, 1, 100, 77, 256),
]


def parts(batch, heads, queries, keys, depth):
    """q, k, v and a gradient of y; heads side by side in memory, as a linear layer leaves them."""
    make = torch.Generator().manual_seed(queries)
    return [
        torch.randn(batch, n, heads, depth, generator=make, dtype=torch.float64).transpose(1, 2)
        for n in (queries, keys, keys, queries)
    ]


def literal(q, k, v):
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v


def gradients(function, tensors, dtype):
    *own, upward = (t.detach().to(dtype) for t in tensors)
    own = [t.requires_grad_() for t in own]
    y = function(*own)
    return [y.detach(), *torch.autograd.grad(y, own, upward)]


@needs_c
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_formula_in_float64(shape):
    tensors = parts(*shape)
    exact = gradients(literal, tensors, torch.float64)
    assert worst(gradients(attend, tensors, torch.float32), exact) < 3e-6
    rounded = [t.bfloat16().double() for t in tensors]
    exact = gradients(literal, rounded, torch.float64)
    assert worst(gradients(attend, rounded, torch.bfloat16), exact) < 8e-3


@needs_c
def test_these_shapes_are_taken_by_c(monkeypatch):
    """Else the test above would compare PyTorch with itself."""
    called = []
    kept = native.call
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # or more would take larger shapes
    monkeypatch.setattr(native, "call", lambda *told: (called.append(told[1]), kept(*told)))
    for shape in SHAPES:
        gradients(attend, parts(*shape), torch.float32)
    assert called == ["attention_forward", "attention_backward"] * len(SHAPES)


@needs_c
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_queries_keys_and_values_in_one_piece_are_the_same(dtype):
    q, k, v, upward = parts(2, 3, 20, 20, 16)
    qkv = torch.stack([t.transpose(1, 2) for t in (q, k, v)], dim=2).to(dtype).requires_grad_()
    y = attend_together(qkv)
    upward_one = upward.transpose(1, 2).flatten(2).to(dtype)
    (found,) = torch.autograd.grad(y, qkv, upward_one)
    alone = gradients(attend, (q, k, v, upward), dtype)
    assert torch.equal(y, alone[0].transpose(1, 2).flatten(2))
    for i, gradient in enumerate(alone[1:]):
        assert torch.equal(found[:, :, i], gradient.transpose(1, 2))


@needs_c
def test_it_takes_tensors_as_they_lie():
    """Channels apart, one text for all images, and a gradient that is one number for all."""
    q, k, v, _ = (t.float() for t in parts(3, 2, 10, 6, 16))
    apart = q.mT.contiguous().mT
    shared = k[:1].expand(3, -1, -1, -1).requires_grad_()
    y = attend(apart, shared, v)
    (found,) = torch.autograd.grad(y.sum(), shared)
    again = shared.detach().clone().requires_grad_()
    wanted = literal(q, again, v)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(found, torch.autograd.grad(wanted.sum(), again)[0])


@needs_c
def test_great_scores_overflow_nothing():
    """Scores of some thousands: exp of them is infinite, and a rounding of 1e-7 one of 1e-3."""
    tensors = [30 * t for t in parts(2, 2, 40, 40, 16)]
    exact = gradients(literal, tensors, torch.float64)
    assert worst(gradients(attend, tensors, torch.float32), exact) < 5e-3


@needs_c
def test_what_is_no_number_stays_none():
    q, k, v, _ = (t.float() for t in parts(1, 2, 8, 8, 16))
    k = k.clone()
    k[0, 1, 3, 2] = float("nan")
    y = attend(q, k, v)
    assert y[0, 1].isnan().all()
    assert not y[0, 0].isnan().any()


@needs_c
def test_no_result_depends_on_the_number_of_threads():
    tensors = parts(5, 4, 200, 200, 32)
    assert alike_on_any_number_of_threads(lambda: gradients(attend, tensors, torch.bfloat16))


@pytest.mark.parametrize("shape", [(2, 1, 9, 9, 24), (1, 1, 9, 9, 16)], ids=str)
def test_what_c_does_not_take_is_the_formula_too(shape, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    q, k, v, _ = (t.float() for t in parts(*shape))
    assert not fused_attention._fits(q, k, v)
    torch.testing.assert_close(attend(q, k, v), literal(q, k, v))


def test_one_text_for_every_image_is_left_to_pytorch():
    q, k, v, _ = (t.float() for t in parts(3, 2, 9, 9, 16))
    torch.testing.assert_close(attend(q, k[:1], v[:1]), literal(q, k[:1], v[:1]))
