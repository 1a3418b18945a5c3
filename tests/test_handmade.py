"""Source 001's U-Net, repaired: the shapes agree, the finest skip is used, every block knows t."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sfumato.networks import parameter_count, table
from sfumato.networks.handmade import Block, HandmadeConfig

SMALL = HandmadeConfig(in_channels=2, widths=(8, 8, 16), embedding=16, groups=4)


def alive(module):
    """The module in float64, with no parameter at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.double().parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)
    return module


def images(n=2, size=(16, 16)):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, *size, generator=generator, dtype=torch.float64)
    return x, torch.tensor([3.0, 900.0], dtype=torch.float64)[:n]


def close(actual, wanted, tolerance=1e-10):
    torch.testing.assert_close(actual, wanted, rtol=0, atol=tolerance)


def test_shapes_of_the_text_with_a_skip_at_each_resolution():
    """For CIFAR-10; the ways down hand on half of the resolution that they keep."""
    with torch.device("meta"):
        network = HandmadeConfig().build()
    rows = table(network, (3, 32, 32))
    assert {row.block: row.shape for row in rows} == {
        "embedding": (256,),
        "down.0": (64, 16, 16),
        "down.1": (128, 8, 8),
        "down.2": (256, 4, 4),
        "middle": (256, 4, 4),
        "up.0": (128, 8, 8),
        "up.1": (64, 16, 16),
        "up.2": (64, 32, 32),
        "out": (3, 32, 32),
    }
    joined = [(up.block.conv1.in_channels, up.block.conv1.out_channels) for up in network.up]
    assert joined == [(256 + 256, 128), (128 + 128, 64), (64 + 64, 64)]
    assert sum(row.parameters for row in rows) == parameter_count(network) == 4_991_683


def skips_met(network, x, level):
    """Shapes of (x, feature map) that each way up was given."""
    met = []
    for up in network.up:
        up.register_forward_pre_hook(lambda _, given: met.append([g.shape[1:] for g in given[:2]]))
    network(x, level)
    return met


@pytest.mark.parametrize("size", [(16, 16), (27, 31), (1, 1), (9, 2)], ids=str)
def test_any_size_fits_and_the_finest_skip_is_as_large_as_the_image(size):
    network, (x, level) = alive(SMALL.build()), images(size=size)
    assert network(x, level).shape == x.shape
    padded = [-(-side // 8) * 8 for side in size]
    met = skips_met(network, x, level)
    for (below, feature), factor, width in zip(met, (4, 2, 1), (16, 8, 8), strict=True):
        assert feature == (width, padded[0] // factor, padded[1] // factor)
        assert [2 * side for side in below[1:]] == list(feature[1:])


def test_the_finest_skip_matters():
    """Without it all that the output knows of x has been through a strided convolution."""
    network, (x, level) = alive(SMALL.build()), images()
    before = network(x, level)
    last = network.up[-1]
    with torch.no_grad():
        for layer in (last.block.conv1, last.block.skip):
            layer.weight[:, last.grow.out_channels :] = 0
    assert (network(x, level) - before).abs().max() > 1e-2


def test_each_skip_is_what_its_level_made_before_shrinking():
    network, (x, level) = alive(SMALL.build()), images()
    made, given = [], []
    for down in network.down:
        down.block.register_forward_hook(lambda _, __, output: made.append(output))
    for up in network.up:
        up.register_forward_pre_hook(lambda _, inputs: given.append(inputs[1]))
    network(x, level)
    for feature, output in zip(given, reversed(made), strict=True):
        close(feature, output, 0)


def test_the_finest_skip_alone_carries_details():
    """With nothing from below, an image still comes through: sharp, and where it was."""
    network, (x, level) = alive(SMALL.build()), images(n=1)
    with torch.no_grad():
        network.up[-1].grow.weight.zero_()
    x.requires_grad_()
    network(x, level)[0, :, 8, 8].sum().backward()
    assert x.grad[0, :, 8, 8].abs().max() > 5 * x.grad[0, :, 0, 0].abs().max() > 0


def test_a_block_is_its_formula():
    block = alive(Block(SMALL, 2, 8))
    x, _ = images(size=(3, 5))
    e = torch.randn(2, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h = F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1)
    h = F.silu(F.group_norm(h, 4, block.norm1.weight, block.norm1.bias))
    h = h + (e @ block.told.weight.T + block.told.bias)[:, :, None, None]
    h = F.conv2d(h, block.conv2.weight, block.conv2.bias, padding=1)
    h = F.silu(F.group_norm(h, 4, block.norm2.weight, block.norm2.bias))
    close(block(x, e), F.conv2d(x, block.skip.weight, block.skip.bias) + h)


def test_every_block_is_told_the_noise_level():
    """The middle too, and where it counts: between the convolutions."""
    network, (x, level) = alive(SMALL.build()), images()
    output = network(x, level)
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    assert len(blocks) == 7
    for block in blocks:
        with torch.no_grad():
            kept = block.told.weight.clone()
            block.told.weight.zero_()
            assert (network(x, level) - output).abs().max() > 1e-4
            block.told.weight.copy_(kept)


def test_labels_change_the_output_and_none_is_the_last():
    network, (x, level) = alive(replace(SMALL, classes=3).build()), images()
    outputs = [network(x, level, torch.full((2,), label)) for label in range(4)]
    close(network(x, level), outputs[3], 0)
    assert all((output - outputs[3]).abs().max() > 1e-4 for output in outputs[:3])


def test_noise_scale_multiplies_the_noise_level():
    x, level = images()
    plain = alive(SMALL.build())
    scaled = replace(SMALL, noise_scale=250.0).build().double()
    scaled.load_state_dict(plain.state_dict())
    close(scaled(x, level / 250), plain(x, level))
    assert (scaled(x, level) - plain(x, level)).abs().max() > 1e-4


def test_a_new_network_returns_zero_and_all_of_it_learns():
    x, level = images()
    network = replace(SMALL, out_channels=4).build().double()
    output = network(x, level)
    assert output.shape == (2, 4, 16, 16)
    assert not output.any()
    alive(network)(x, level).square().sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


def test_it_works_in_bf16():
    network, (x, level) = alive(SMALL.build()).float(), images()
    x, level = x.float(), level.float()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, level)
    close(output.float(), network(x, level), 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (8, 12), "groups": 8}, "groups do not divide 12"),
        ({"widths": ()}, "one level or more"),
        ({"groups": 0}, "1 or more"),
        ({"out_channels": 0}, "None for as many"),
        ({"classes": -1}, "0 for none"),
        ({"embedding": 15}, "even number"),
    ],
)
def test_impossible_shapes_say_what_to_do(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change).build()
