"""Networks' settings survive JSON and are checked; their costs are closed forms."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch

from sfumato.networks import flops, parameter_count, table
from sfumato.networks.attention import CrossAttention
from sfumato.networks.sd_unet import SDUNetConfig
from small_networks import CONV_ONLY, LABELLED, POINTS, SAME_CALL, TINY, batch

# Configurations


@pytest.mark.parametrize("config", [LABELLED, POINTS], ids=["unet", "mlp"])
def test_a_config_survives_json(config):
    fields = json.loads(json.dumps(asdict(config)))
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    assert type(config)(**fields) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 10}, "4 groups do not divide: change channels"),
        ({"attention_at": (16,)}, r"no level has 16 .* choose from \(1, 2\)"),
        ({"head_channels": 5}, r"heads of 5: choose head_channels that divides each of \[16, 16\]"),
        ({"multipliers": ()}, "give one per level"),
        ({"multipliers": (1, 0)}, "give one per level"),
        ({"patch": 0}, "patch is 0: it must be 1 or more"),
        ({"out_channels": 0}, "None for as many as in"),
        ({"classes": -1}, "give 0 for none"),
        ({"dropout": 1.0}, "less than 1"),
        ({"channels": 9, "groups": 1, "head_channels": 9}, "ask for an even number"),
    ],
    ids=str,
)
def test_a_wrong_config_says_what_to_change(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change).build()


# Costs


def test_parameters_are_those_counted_by_hand():
    embedding = (8 * 32 + 32) + (32 * 32 + 32)
    plain = (8 + 8) + (8 * 8 * 9 + 8) + (32 * 16 + 16) + (8 + 8) + (8 * 8 * 9 + 8)
    joined = plain + (8 + 8) + 8 * 8 * 9 + (16 * 8 + 8)  # 8 more channels come in, and a skip
    stem, out = 9 * 8 + 8, (8 + 8) + (8 * 9 + 1)
    wanted = embedding + stem + 3 * plain + 2 * joined + out
    assert wanted == 11609
    assert parameter_count(CONV_ONLY.build()) == wanted


@pytest.mark.parametrize("size", [(8, 8), (5, 7)], ids=str)
def test_flops_of_convolutions_are_their_closed_form(size):
    once = 8 * 32 + 32 * 32 + 5 * 32 * 16
    a_pixel = 9 * (8 + 3 * (64 + 64) + 2 * (128 + 64) + 8) + 2 * 128
    wanted = 2 * (once + math.prod(size) * a_pixel)
    assert flops(CONV_ONLY.build(), (1, *size)) == wanted


@pytest.mark.parametrize("side", [4, 20])  # a short and a long sequence
def test_flops_of_attention_are_counted(side):
    attending = replace(CONV_ONLY, middle_attention=True)
    n = side * side
    more = flops(attending.build(), (1, side, side)) - flops(CONV_ONLY.build(), (1, side, side))
    assert more == 2 * n * (8 * 24 + n * 8 + n * 8 + 8 * 8)


READER = SDUNetConfig(
    1, channels=8, multipliers=(1,), attention_at=(1,), groups=4, head_channels=8, context=5
)


@pytest.mark.parametrize("tokens", [1, 24])
def test_the_table_of_a_network_that_reads_captions_adds_up(tokens):
    network = READER.build()
    rows = table(network, (1, 4, 6), context=5, tokens=tokens)
    assert sum(row.parameters for row in rows) == parameter_count(network)
    assert sum(row.flops for row in rows) == flops(network, (1, 4, 6), context=5, tokens=tokens)


def test_each_token_of_a_caption_costs_its_key_its_value_and_a_look_from_every_pixel():
    network, pixels = READER.build(), 4 * 6
    attending = [module for module in network.modules() if isinstance(module, CrossAttention)]
    readers = sum(module.to_k.in_features == 5 for module in attending)  # others see the image
    short, long = (
        sum(row.flops for row in table(network, (1, 4, 6), context=5, tokens=tokens))
        for tokens in (3, 24)
    )
    assert readers > 1
    assert long - short == (24 - 3) * readers * 2 * (2 * 5 * 8 + 2 * pixels * 8)


@SAME_CALL
def test_the_table_adds_up(config, shape):
    network = replace(config, classes=3).build()
    rows = table(network, shape, classes=3)
    assert sum(row.parameters for row in rows) == parameter_count(network)
    assert sum(row.flops for row in rows) == flops(network, shape, classes=3)
    assert rows[-1].shape == shape


def test_the_table_has_the_shapes_that_an_image_meets():
    rows = table(TINY.build(), (1, 7, 8))
    assert [(row.block, row.shape) for row in rows] == [
        ("embedding", (32,)),
        ("stem", (8, 8, 8)),
        ("down.0", (8, 8, 8)),
        ("down.1", (16, 4, 4)),
        ("middle", (16, 4, 4)),
        ("up.0", (16, 4, 4)),
        ("up.1", (8, 8, 8)),
        ("out", (1, 8, 8)),
    ]


def test_describing_changes_nothing():
    network, (x, level) = replace(TINY, dropout=0.5).build(), batch(1, 1, 8, 8)
    before = torch.get_rng_state()
    table(network, (1, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert next(network.parameters()).device.type == "cpu"
    network.double()(x, level)
