"""In what order networks keep their features: a mixed one is copied at every norm."""

from dataclasses import replace

import pytest
import torch

from sfumato.networks.adm import ADMConfig
from sfumato.networks.handmade import HandmadeConfig
from sfumato.networks.layers import channels_last
from sfumato.networks.lucid import LucidUNetConfig
from sfumato.networks.sd_unet import SDUNetConfig
from sfumato.networks.unet2d import UNet2DConfig
from small_networks import TINY

NETWORKS = [
    TINY,
    UNet2DConfig(
        block_out_channels=(32, 32),
        layers_per_block=1,
        attention_down=(False, True),
        attention_up=(True, False),
    ),
    SDUNetConfig(channels=32, multipliers=(1, 2), attention_at=(2,)),
    HandmadeConfig(widths=(8, 16), embedding=16, groups=4),
    LucidUNetConfig(channels=8, multipliers=(1, 2)),
    ADMConfig(channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), heads=2, groups=4),
]


def orders(network, x):
    """Of each norm's input, by name, whether its channels are last.

    Convolutions are not watched: those that are go another way than in training.
    """
    found = {}

    def look(name, inputs):
        if inputs[0].ndim == 4:  # and not the pixels in a row that attention sees
            found[name] = inputs[0].is_contiguous(memory_format=torch.channels_last)

    for name, layer in network.named_modules():
        if "Norm" in type(layer).__name__:
            layer.register_forward_hook(lambda _, inputs, __, name=name: look(name, inputs))
    with torch.no_grad():
        network(x, torch.full((len(x),), 0.5))
    return found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: type(config).__name__)
def test_channels_stay_last_of_grey_images_too(config, channels):
    """A single channel says nothing of the order, and a convolution then answers in the other."""
    network = replace(config, in_channels=channels).build()
    x = torch.randn(2, channels, 16, 16)
    found = orders(network, x)
    assert len(found) > 5
    assert [name for name, last in found.items() if not last] == []


def test_one_channel_laid_out_is_the_same_image_and_lets_its_gradient_pass():
    x = torch.randn(2, 1, 4, 5, requires_grad=True)
    y = channels_last(x)
    assert (y.shape, y.stride()) == (x.shape, (20, 1, 5, 1))
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.equal(gradient, 2 * x)
