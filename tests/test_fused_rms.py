"""The norm of each pixel, modulation and SiLU in one go: what the parts give."""

import pytest
import torch

from sfumato.networks import fused_rms
from sfumato.networks.fused_rms import plain, rms_act
from test_fused import alike_on_any_number_of_threads, needs_c, rows, same_outcome, worst


def parts(batch, channels, side, told):
    make = torch.Generator().manual_seed(channels)
    draw = lambda *size: torch.randn(*size, generator=make, dtype=torch.float64)  # noqa: E731
    tensors = [3 * draw(batch, channels, side, side) + 1, draw(channels)]
    tensors += [draw(batch, channels) if told else None for _ in range(2)]
    return tensors, draw(batch, channels, side, side)


def gradients(function, tensors, upward, dtype, pixels=None, silu=True):
    own = [None if t is None else t.to(dtype, copy=True) for t in tensors]
    own[0] = own[0].to(pixels or dtype).contiguous(memory_format=torch.channels_last)
    own = [t if t is None else t.requires_grad_() for t in own]
    y = function(*own, silu=silu)
    y.backward(upward.to(y.dtype))
    return [y.detach(), *(t.grad for t in own if t is not None)]


@needs_c
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("shape", [(3, 64, 7), (1, 48, 16), (16, 128, 32), (2, 20, 1)])
def test_it_is_the_parts_in_float64(shape, told, silu):
    tensors, upward = parts(*shape, told)
    exact = gradients(plain, tensors, upward, torch.float64, silu=silu)
    assert worst(gradients(rms_act, tensors, upward, torch.float32, silu=silu), exact) < 1e-6
    rounded = [tensors[0].bfloat16().double(), *tensors[1:]]
    exact = gradients(plain, rounded, upward.bfloat16().double(), torch.float64, silu=silu)
    bf16 = (torch.float32, torch.bfloat16)
    assert worst(gradients(rms_act, rounded, upward, *bf16, silu=silu), exact) < 4e-3


@needs_c
def test_a_black_pixel_is_black_and_has_a_gradient_that_is_a_number():
    x = torch.zeros(1, 32, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = rms_act(x, torch.ones(32))
    assert torch.equal(y, torch.zeros_like(y))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    "told",
    [
        (rows(32), rows(1, 32)),
        (rows(32), None, rows(4, 1)),
        (rows(16),),
        (rows(64)[::2],),
    ],
    ids=["one row for all images", "one number an image", "too few", "every other number"],
)
def test_what_is_of_another_shape_is_left_to_pytorch(told):
    x = torch.randn(4, 32, 6, 6).contiguous(memory_format=torch.channels_last)
    assert same_outcome(rms_act, plain, x, *told)


@needs_c
def test_the_c_is_what_ran(monkeypatch):
    monkeypatch.setattr(fused_rms, "plain", lambda *told: pytest.fail("the parts ran"))
    tensors, upward = parts(3, 64, 7, True)
    for dtype in (torch.float32, torch.bfloat16):
        gradients(rms_act, tensors, upward, torch.float32, dtype)


@needs_c
def test_no_result_depends_on_the_number_of_threads():
    told = (*parts(5, 128, 16, True), torch.float32, torch.bfloat16)
    assert alike_on_any_number_of_threads(lambda: gradients(rms_act, *told))
