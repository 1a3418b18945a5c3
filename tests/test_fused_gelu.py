"""GELU with a bias in one go: the definition's values and gradients, in both types."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfumato import native
from sfumato.networks.fused_gelu import gelu, gelu_of
from test_fused import alike_on_any_number_of_threads, needs_c, worst

TYPES = {torch.float32: 1e-6, torch.bfloat16: 4e-3}  # half a unit of bf16's last place is 2^-9
SHAPES = [(3, 5, 7), (1, 1), (130, 33), (5, 70, 128)]


def case(shape):
    """A layer that adds a bias and nothing else, so that no product rounds; x and dy."""
    make = torch.Generator().manual_seed(sum(shape))
    layer = nn.Linear(shape[-1], shape[-1])
    layer.weight.data.copy_(torch.eye(shape[-1]))
    layer.bias.data.copy_(torch.randn(shape[-1], generator=make))
    x, upward = torch.randn(2, *shape, generator=make)
    return layer, 3 * x, upward


def plainly(layer, x):
    return F.gelu(layer(x), approximate="tanh")


def gradients(function, layer, x, upward, dtype):
    """y, dx and the bias's gradient; of bfloat16 under autocast."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        y = function(layer, x)
    assert y.dtype == dtype
    y.backward(upward.to(dtype))
    return [y.detach(), x.grad, layer.bias.grad.clone()]


@needs_c
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_definition_in_float64(shape, dtype, monkeypatch):
    layer, x, upward = case(shape)
    x, upward = x.to(dtype).float(), upward.to(dtype).float()  # what every type holds
    exact = gradients(plainly, layer.double(), x.double(), upward.double(), torch.float64)
    monkeypatch.setattr(F, "gelu", lambda *_, **__: pytest.fail("PyTorch's was called"))
    assert worst(gradients(gelu_of, layer.float(), x, upward, dtype), exact) < TYPES[dtype]


@needs_c
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_far_from_zero_it_is_zero_or_x(dtype):
    far = torch.tensor([30.0, 1e4, 1e20, 1e30], dtype=dtype).requires_grad_()
    y = gelu(far)
    y.sum().backward()
    assert torch.equal(y, far)
    assert torch.equal(far.grad, torch.ones_like(far))
    below = (-far.detach()).requires_grad_()
    gelu(below).sum().backward()
    assert gelu(below).abs().max() < 1e-8
    assert below.grad.abs().max() < 1e-8


@needs_c
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_what_is_no_number_stays_none(dtype):
    x = torch.tensor([0.0, float("nan"), 1.0], dtype=dtype).requires_grad_()
    y = gelu(x)
    y.sum().backward()
    assert y.isnan().tolist() == x.grad.isnan().tolist() == [False, True, False]


@needs_c
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_no_result_depends_on_the_number_of_threads(dtype):
    assert alike_on_any_number_of_threads(lambda: gradients(gelu_of, *case((700, 64)), dtype))


def test_a_layer_that_someone_watches_is_called():
    layer, x, _ = case((2, 3, 8))
    seen = []
    hook = layer.register_forward_hook(lambda _, __, y: seen.append(y))
    found = gelu_of(layer, x)
    hook.remove()
    assert worst([found], [plainly(layer, x).double()]) < 1e-6
    assert len(seen) == 1
    assert torch.equal(seen[0], layer(x))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_what_stands_in_a_layers_place_is_called():
    _, x, _ = case((2, 3, 8))
    own = Doubled(8, 4)
    assert worst([gelu_of(own, x)], [plainly(own, x).double()]) < 1e-6
    assert worst([gelu_of(nn.Tanh(), x)], [F.gelu(x.tanh().double(), approximate="tanh")]) < 1e-6
    without = nn.Linear(8, 4, bias=False)
    assert worst([gelu_of(without, x)], [plainly(without, x).double()]) < 1e-6


def test_without_c_it_is_pytorchs(monkeypatch):
    layer, x, upward = case((2, 3, 8))
    wide = layer.double(), x.double(), upward.double(), torch.float64  # a type that C has not
    for a, b in zip(gradients(gelu_of, *wide), gradients(plainly, *wide), strict=True):
        assert torch.equal(a, b)
    monkeypatch.setattr(native, "takes", lambda name, x: False)
    assert torch.equal(gelu_of(layer.float(), x), plainly(layer, x))
    assert torch.equal(gelu(x), F.gelu(x, approximate="tanh"))
