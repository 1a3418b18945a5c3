"""The check of bf16's convolutions: it meets each of a network's own, and finds a wrong one."""

import pytest
import torch
from torch import nn

from sfumato.networks import UNetConfig, exactness
from sfumato.networks.exactness import Error, defined, error_of, few, met, worst_convolution
from sfumato.networks.winograd import TILES


def network():
    config = UNetConfig(in_channels=1, channels=32, multipliers=(1, 2), attention_at=(2,), patch=1)
    return config.build()


def forward(model, size=8):
    return lambda: model(torch.zeros(4, 1, size, size), torch.zeros(4))


def test_it_meets_every_kernel_once_and_leaves_no_hook():
    model = network()
    found = list(met(model, forward(model)))
    layers = {str(module) for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert {str(layer) for layer, _ in found} == layers
    assert len({f"{layer} {shape}" for layer, shape in found}) == len(found)
    assert all(shape[0] == 4 and shape[1] == layer.in_channels for layer, shape in found)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_worst_of_a_network_is_a_few_roundings_and_nothing_else_changes():
    model = network()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    worst = worst_convolution(model, forward(model))
    assert 2**-9 / 4 < worst.share < 4 * 2**-9
    assert "channels at" in worst.words
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_worst_is_the_largest_of_all_and_a_few_images_are_tried(monkeypatch):
    tried = {}

    def noted(layer, shape):
        tried[shape] = layer
        return Error(1 / layer.out_channels + 1 / shape[2], str(shape))

    monkeypatch.setattr(exactness, "error_of", noted)
    small, large = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 2, 3)
    images = [torch.zeros(500, 1, side, side) for side in (8, 40)]

    def both():
        for layer in (large, small):
            for x in images:
                assert not layer(x).any()  # nothing is computed

    worst = worst_convolution(nn.ModuleList([small, large]), both)
    assert worst.share == 1 / 2 + 1 / 8
    assert set(tried) == {(few(tuple(x.shape)), *x.shape[1:]) for x in images}
    assert len(list(met(small, lambda: [small(x) for x in images]))) == 2


def test_a_network_without_convolutions_has_no_worst():
    model = nn.Linear(4, 4)
    assert worst_convolution(model, lambda: model(torch.zeros(1, 4))) is None


class Wrong(torch.autograd.Function):
    """A convolution that is right forward, or not, and has a tenth too much of one gradient."""

    @staticmethod
    def forward(ctx, y, forward, backward):
        ctx.backward = backward
        return y * forward

    @staticmethod
    def backward(ctx, dy):
        return dy * ctx.backward, None, None


@pytest.mark.parametrize(("forward", "backward"), [(1.1, 1.0), (1.0, 1.1)])
@pytest.mark.parametrize(("name", "side"), [("convolve", 3), ("pointwise", 1)])
def test_a_wrong_kernel_is_found_whichever_way_it_is_wrong(
    monkeypatch, forward, backward, name, side
):
    monkeypatch.setattr(exactness, name, lambda layer, x: Wrong.apply(layer(x), forward, backward))
    assert 0.09 < error_of(nn.Conv2d(8, 8, side, padding=side // 2), (4, 8, 6, 6)).share < 0.11


@pytest.mark.parametrize("part", ["weights", "pixels"])
def test_one_gradient_that_is_wrong_is_enough(monkeypatch, part):
    def wrong(layer, x):
        weight = layer.weight
        if part == "weights":
            weight = Wrong.apply(weight, 1.0, 1.1)
        else:
            x = Wrong.apply(x, 1.0, 1.1)
        return nn.functional.conv2d(x, weight, layer.bias, padding=1)

    monkeypatch.setattr(exactness, "convolve", wrong)
    assert 0.09 < error_of(nn.Conv2d(8, 8, 3, padding=1), (4, 8, 6, 6)).share < 0.11


@pytest.mark.parametrize("backward", [float("nan"), float("inf")])
def test_what_is_no_number_is_the_worst_of_all(monkeypatch, backward):
    """Of one layer of two, the first of them sound: `max` passes over what is no number."""

    def wrong(layer, x):
        y = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
        return Wrong.apply(y, 1.0, backward) if layer.in_channels == 16 else y

    monkeypatch.setattr(exactness, "convolve", wrong)
    first, second = (nn.Conv2d(n, 16, 3, padding=1) for n in (8, 16))
    model = nn.Sequential(first, second)
    found = worst_convolution(model, lambda: model(torch.zeros(4, 8, 6, 6)))
    assert found.share == float("inf")
    assert "16 to 16" in found.words


def test_weights_that_are_zeros_are_tried_as_others_and_each_time_alike():
    layer, shape = nn.Conv2d(8, 8, 3, padding=1, bias=False), (4, 8, 6, 6)
    first = error_of(layer, shape)
    nn.init.zeros_(layer.weight)
    torch.randn(3)
    with torch.no_grad():
        assert error_of(layer, shape) == first
    assert not layer.weight.any()
    assert first.words == "3 x 3, 8 to 8 channels at 6 x 6"


@pytest.mark.parametrize(
    ("shape", "images"), [((64, 8, 14, 14), 2), ((64, 8, 7, 7), 4), ((3, 8, 7, 7), 3)]
)
def test_a_few_images_go_the_way_of_a_whole_batch(shape, images):
    assert few(shape) == images
    tiles = ((shape[2] + 1) // 2) * ((shape[3] + 1) // 2)
    assert (images * tiles >= TILES) == (shape[0] * tiles >= TILES)


LAYERS = {
    "plain": nn.Conv2d(4, 6, 3, padding=1),
    "no bias": nn.Conv2d(4, 6, 3, padding=1, bias=False),
    "a step": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "no border": nn.Conv2d(4, 6, (3, 2)),
    "dilated": nn.Conv2d(4, 6, 3, padding=2, dilation=2),
    "1 x 1": nn.Conv2d(4, 6, 1),
    "groups": nn.Conv2d(4, 6, 3, groups=2),
    "circular": nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_definition_is_the_layer(name):
    layer, x = LAYERS[name], torch.randn(2, 4, 9, 7)
    found, wanted = defined(layer, x), layer(x)
    assert found.shape == wanted.shape
    assert (found - wanted).norm() < 1e-5 * wanted.norm()
