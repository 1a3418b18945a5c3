"""Convolutions by other means give what PyTorch's give: values and every gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfumato.networks.convolving import doubled, pointwise
from sfumato.networks.layers import together


def doubled_first(layer, x):
    return layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def plainly(layer, x):
    return layer(x)


CASES = {
    "1 x 1": (pointwise, plainly, 1, 1),
    "3 x 3, left alone": (pointwise, plainly, 3, 1),
    "doubled": (doubled, doubled_first, 3, 2),
}
LIMITS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 6e-3}


def gradients(function, layer, x, upward):
    x = x.detach().clone().contiguous(memory_format=torch.channels_last).requires_grad_()
    layer.zero_grad()
    y = function(layer, x)
    y.backward(upward.to(y.dtype))
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 8), (12, 9)])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_layer(case, size, dtype, bias):
    own, usual, side, factor = CASES[case]
    torch.manual_seed(0)
    exact = nn.Conv2d(6, 10, side, padding=side // 2, bias=bias).double()
    reduced = dtype == torch.bfloat16
    layer = nn.Conv2d(6, 10, side, padding=side // 2, bias=bias)
    layer = layer.to(torch.float32 if reduced else dtype)
    layer.load_state_dict(exact.state_dict())
    x = torch.randn(3, 6, *size, dtype=torch.float64)
    upward = torch.randn(3, 10, size[0] * factor, size[1] * factor, dtype=torch.float64)
    wanted = gradients(usual, exact, x, upward)
    with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        found = gradients(own, layer, x.to(dtype), upward)
    for a, b in zip(found, wanted, strict=True):
        assert (a.double() - b).norm() <= LIMITS[dtype] * b.norm()


class Twice(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Identity(),
        Twice(6, 6, 1),
        nn.Conv2d(6, 6, 3, stride=2, padding=1),
        nn.Conv2d(6, 6, 3, dilation=2),
        nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(6, 6, 1, padding=1),
    ],
)
def test_any_other_layer_is_left_alone(layer):
    x = torch.randn(2, 6, 8, 8).bfloat16()
    layer = layer.bfloat16()
    assert torch.equal(pointwise(layer, x), layer(x))
    assert torch.equal(doubled(layer, x), doubled_first(layer, x))


class TwiceLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("second", [nn.Linear, TwiceLinear])
@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, False)])
def test_layers_together_are_each_of_them(biases, second):
    first, other = nn.Linear(8, 6, bias=biases[0]), second(8, 4, bias=biases[1])
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(together(x, first, other), (first(x), other(x)))


def test_a_layer_that_is_watched_is_called_among_others_too():
    layers, seen = [nn.Linear(8, 6) for _ in range(2)], []
    layers[1].register_forward_hook(lambda *told: seen.append(told[0]))
    together(torch.randn(3, 8), *layers)
    assert seen == [layers[1]]
