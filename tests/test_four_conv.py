"""Source 002's four convolutions: its numbers, and the 9 x 9 pixels that they see."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sfumato.networks import flops, parameter_count
from sfumato.networks.four_conv import FourConvConfig, tiny_like_four_conv

TEXT = FourConvConfig(noise_scale=1 / 300)


def images(n=2, size=(28, 28)):
    """x (n, 1, *size) and the indices of steps, of 300, as noise levels (n,)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, *size, generator=generator), torch.tensor([0.0, 299.0])[:n]


def test_it_is_the_network_of_the_text():
    """002:284-302, written out for its 28 x 28 and T = 300; 37,857 weights."""
    layers = [nn.Conv2d(2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1)]
    layers += [nn.ReLU(), nn.Conv2d(64, 32, 3, padding=1), nn.ReLU()]
    text = nn.ModuleDict({"net": nn.Sequential(*layers, nn.Conv2d(32, 1, 3, padding=1))})
    network = TEXT.build()
    network.load_state_dict(text.state_dict())
    x, t = images()
    time = (t / 300).view(-1, 1, 1, 1).expand(2, 1, 28, 28)
    wanted = text["net"](torch.cat([x, time], dim=1))
    torch.testing.assert_close(network(x, t), wanted, rtol=0, atol=1e-6)
    assert (network(x, t.flip(0)) - wanted).abs().max() > 1e-3
    assert parameter_count(network) == 37_857


def pixels_seen(network, size, row, column):
    """(H, W) bool: where a change of the input changes the output at one pixel."""
    x = torch.rand(1, 1, *size).requires_grad_()
    network(x, torch.ones(1))[0, 0, row, column].backward()
    return x.grad[0, 0] != 0


def all_open(network):
    """The network with positive weights, so that no ReLU hides a path."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    return network


@pytest.mark.parametrize(("row", "column"), [(14, 14), (0, 3), (19, 27)])
def test_an_output_pixel_sees_9_by_9_pixels_and_no_other(row, column):
    seen = pixels_seen(all_open(TEXT.build()), (20, 28), row, column)
    wanted = torch.zeros(20, 28, dtype=torch.bool)
    wanted[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5] = True
    assert torch.equal(seen, wanted)


def test_more_layers_see_two_pixels_more_each():
    network = all_open(replace(TEXT, widths=(4, 4, 4, 4)).build())
    assert pixels_seen(network, (20, 20), 10, 10).sum() == 11 * 11


def test_its_twin_is_a_real_unet_of_as_many_weights_that_sees_the_image():
    config = tiny_like_four_conv()
    network, lesson = config.build(), TEXT.build()
    assert len(config.multipliers) == 3
    assert parameter_count(network) == 37_113
    assert flops(network, (1, 28, 28)) < flops(lesson, (1, 28, 28)) / 3
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    assert pixels_seen(network, (28, 28), 14, 14).all()


@pytest.mark.parametrize("size", [(28, 28), (7, 5), (1, 1)], ids=str)
def test_any_size_and_channels_come_back(size):
    network = replace(TEXT, in_channels=3, out_channels=6).build()
    assert network(torch.randn(2, 3, *size), torch.ones(2)).shape == (2, 6, *size)


def test_it_works_in_bf16():
    network, (x, t) = TEXT.build(), images()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, t)
    torch.testing.assert_close(output.float(), network(x, t), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 10}, "choose a UNetConfig"),
        ({"in_channels": 0}, "1 or more"),
        ({"out_channels": 0}, "1 or more"),
        ({"widths": (4, 0)}, "each must be 1 or more"),
    ],
)
def test_impossible_shapes_say_what_to_do(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TEXT, **change).build()


def test_wrong_calls_say_what_to_do():
    network, (x, t) = TEXT.build(), images()
    with pytest.raises(ValueError, match="cond=None"):
        network(x, t, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="one level per image"):
        network(x, torch.tensor(3.0))
    with pytest.raises(ValueError, match="wants images"):
        network(x.expand(-1, 3, -1, -1), t)
