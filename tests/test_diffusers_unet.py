"""What becomes of a UNet2DModel's config.json and of its tensors."""

import inspect
from typing import Any

import pytest
import torch

from sfumato.interop.diffusers_unet import DEFAULTS, read_config, read_weights
from test_unet2d import ONE_LEVEL, SOURCE_000, TINY, jiggled


def test_every_setting_of_diffusers_is_known_with_its_default() -> None:
    model = pytest.importorskip("diffusers.models.unets.unet_2d").UNet2DModel
    settings = inspect.signature(model.__init__).parameters.values()
    theirs = {setting.name: setting.default for setting in settings if setting.name != "self"}
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in theirs.items()} == DEFAULTS


def test_old_names_of_attention_are_renamed_as_diffusers_does() -> None:
    network = jiggled(ONE_LEVEL.build())
    new = network.state_dict()
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, value in new.items():
        for now, before in old_names.items():
            name = name.replace(f".{now}.", f".{before}.")
        old[name] = value
    assert "mid_block.attentions.0.proj_attn.bias" in old
    read = read_weights(ONE_LEVEL, old)
    assert read.keys() == new.keys()
    assert all(torch.equal(read[name], new[name]) for name in new)


def test_a_table_without_no_class_gets_a_row_of_zeros() -> None:
    config = read_config({**SOURCE_000, "num_class_embeds": 5})
    assert config.classes == 5
    theirs = {**config.build().state_dict(), "class_embedding.weight": torch.ones(5, 256)}
    table = read_weights(config, theirs)["class_embedding.weight"]
    assert torch.equal(table, torch.cat([torch.ones(5, 256), torch.zeros(1, 256)]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("act_fn", "mish"),
        ("class_embed_type", "timestep"),
        ("norm_num_groups", None),
        ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"]),
        ("up_block_types", ["ResnetUpsampleBlock2D"]),
        ("mid_block_type", "UNetMidBlock2DCrossAttn"),
        ("resnet_time_scale_shift", "spatial"),
        ("downsample_type", "fir"),
        ("upsample_type", None),
        ("time_embedding_type", "learned"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(key: str, value: Any) -> None:
    named = value[-1] if isinstance(value, list) else value
    shown = "null" if value is None else repr(named)
    with pytest.raises(ValueError, match=f"{key} = {shown}"):
        read_config({**SOURCE_000, key: value})


def test_weights_of_another_network_are_refused_by_name() -> None:
    weights = TINY.build().state_dict()
    del weights["conv_in.bias"]
    weights |= {"more.weight": torch.ones(1), "conv_out.bias": torch.ones(2)}
    with pytest.raises(
        ValueError, match=r"3 weights .* which has 208: conv_in.bias is missing"
    ) as e:
        read_weights(TINY, weights)
    assert "conv_out.bias: (2,), not (3,); more.weight has no place" in str(e.value)
