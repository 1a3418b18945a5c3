"""DDPM's U-Net: its published layout, diffusers' numbers, any size."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

from sd_unets import SMALL, TEXT, alive, close, images, text
from sfumato.networks import parameter_count, table
from sfumato.networks.sd_unet import Grow, SDUNetConfig, Shrink, attention_factors

# The layout of pesser/pytorch_diffusion and CompVis/latent-diffusion, read off their sources:
# residual blocks as (channels in, channels out), attention and resampling as their channels.
CIFAR10 = SDUNetConfig(channels=128, multipliers=(1, 2, 2, 2), attention_at=(2,))
CIFAR10_CHANNELS = (128, 3, 3)
CIFAR10_BLOCKS = {
    **{"down.0.block.0": (128, 128), "down.0.block.1": (128, 128)},
    **{"down.1.block.0": (128, 256), "down.1.block.1": (256, 256)},
    **{"down.2.block.0": (256, 256), "down.2.block.1": (256, 256)},
    **{"down.3.block.0": (256, 256), "down.3.block.1": (256, 256)},
    **{"mid.block_1": (256, 256), "mid.block_2": (256, 256)},
    **{"up.3.block.0": (512, 256), "up.3.block.1": (512, 256), "up.3.block.2": (512, 256)},
    **{"up.2.block.0": (512, 256), "up.2.block.1": (512, 256), "up.2.block.2": (512, 256)},
    **{"up.1.block.0": (512, 256), "up.1.block.1": (512, 256), "up.1.block.2": (384, 256)},
    **{"up.0.block.0": (384, 128), "up.0.block.1": (256, 128), "up.0.block.2": (256, 128)},
}
CIFAR10_ATTENTION = {
    **{"down.1.attn.0": 256, "down.1.attn.1": 256, "mid.attn_1": 256},
    **{"up.1.attn.0": 256, "up.1.attn.1": 256, "up.1.attn.2": 256},
}
CIFAR10_RESAMPLING = {
    **{"down.0.downsample": 128, "down.1.downsample": 256, "down.2.downsample": 256},
    **{"up.3.upsample": 256, "up.2.upsample": 256, "up.1.upsample": 256},
}
SURVEY = SDUNetConfig(attention_at=attention_factors(64, (16,), 3))  # source 003's, at 64 pixels
SURVEY_CHANNELS = (64, 3, 3)
SURVEY_BLOCKS = {
    **{"down.0.block.0": (64, 64), "down.0.block.1": (64, 64)},
    **{"down.1.block.0": (64, 128), "down.1.block.1": (128, 128)},
    **{"down.2.block.0": (128, 256), "down.2.block.1": (256, 256)},
    **{"mid.block_1": (256, 256), "mid.block_2": (256, 256)},
    **{"up.2.block.0": (512, 256), "up.2.block.1": (512, 256), "up.2.block.2": (384, 256)},
    **{"up.1.block.0": (384, 128), "up.1.block.1": (256, 128), "up.1.block.2": (192, 128)},
    **{"up.0.block.0": (192, 64), "up.0.block.1": (128, 64), "up.0.block.2": (128, 64)},
}
SURVEY_ATTENTION = {
    **{"down.2.attn.0": 256, "down.2.attn.1": 256, "mid.attn_1": 256},
    **{"up.2.attn.0": 256, "up.2.attn.1": 256, "up.2.attn.2": 256},
}
SURVEY_RESAMPLING = {
    **{"down.0.downsample": 64, "down.1.downsample": 128},
    **{"up.2.upsample": 256, "up.1.upsample": 128},
}


def layout(channels, blocks, attention, resampling):
    """Key to shape, of a state dict of the peers. channels: base, in and out."""
    base, into, out = channels
    first = next(iter(blocks.values()))[0]
    layers = {
        "temb.dense.0": (4 * base, base),
        "temb.dense.1": (4 * base, 4 * base),
        "conv_in": (first, into, 3, 3),
        "norm_out": (base,),
        "conv_out": (out, base, 3, 3),
    }
    for name, (a, b) in blocks.items():
        layers |= {f"{name}.norm1": (a,), f"{name}.conv1": (b, a, 3, 3), f"{name}.norm2": (b,)}
        layers |= {f"{name}.temb_proj": (b, 4 * base), f"{name}.conv2": (b, b, 3, 3)}
        layers |= {f"{name}.nin_shortcut": (b, a, 1, 1)} if a != b else {}
    for name, c in attention.items():
        layers |= {f"{name}.norm": (c,)}
        layers |= {f"{name}.{part}": (c, c, 1, 1) for part in ("q", "k", "v", "proj_out")}
    layers |= {f"{name}.conv": (c, c, 3, 3) for name, c in resampling.items()}
    weights = {f"{name}.weight": shape for name, shape in layers.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in layers.items()}


# The peers' layout and numbers


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (CIFAR10, (CIFAR10_CHANNELS, CIFAR10_BLOCKS, CIFAR10_ATTENTION, CIFAR10_RESAMPLING)),
        (SURVEY, (SURVEY_CHANNELS, SURVEY_BLOCKS, SURVEY_ATTENTION, SURVEY_RESAMPLING)),
    ],
    ids=["ddpm cifar-10", "source 003"],
)
def test_state_dict_has_the_keys_and_shapes_of_the_peers(config, wanted):
    with torch.device("meta"):
        state = config.build().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == layout(*wanted)


def test_ddpm_for_cifar10_has_35_7_million_parameters():
    """Ho et al. (2020), appendix B, from memory."""
    with torch.device("meta"):
        assert parameter_count(CIFAR10.build()) == 35_746_307


def their_unet(config, size):
    """diffusers' UNet2DModel that is the same function as the config's network."""
    attends = [factor in config.attention_at for factor in config.factors]
    return UNet2DModel(
        sample_size=size,
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        norm_num_groups=config.groups,
        norm_eps=1e-6,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    ).eval()


def ours_for(key, levels):
    """The name of one of diffusers' parameters in our network."""
    part, _, rest = key.partition(".")
    if part in ("down_blocks", "up_blocks"):
        level, _, rest = rest.partition(".")
        level = level if part == "down_blocks" else levels - 1 - int(level)
        part = f"{part.split('_')[0]}.{level}"
    renamed = {
        "time_embedding.linear_1": "temb.dense.0",
        "time_embedding.linear_2": "temb.dense.1",
        "conv_norm_out": "norm_out",
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "mid_block.attentions.0": "mid.attn_1",
        ".resnets.": ".block.",
        ".attentions.": ".attn.",
        ".downsamplers.0.": ".downsample.",
        ".upsamplers.0.": ".upsample.",
        "time_emb_proj": "temb_proj",
        "conv_shortcut": "nin_shortcut",
        "group_norm": "norm",
        "to_out.0": "proj_out",
        "to_": "",
    }
    name = f"{part}.{rest}"
    for theirs, ours in renamed.items():
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, blocks=2, attention_at=(1, 4))])
def test_same_output_as_diffusers_unet_with_asymmetric_padding(config):
    network, theirs = alive(config.build()), their_unet(config, 16)
    state, levels = network.state_dict(), len(config.widths)
    theirs.load_state_dict(
        {
            key: state[ours_for(key, levels)].reshape(value.shape)
            for key, value in theirs.state_dict().items()
        }
    )
    assert parameter_count(theirs) == parameter_count(network)
    x, _ = images(size=(16, 8))
    for level in (0.0, 3.0, 999.0):
        levels_of = torch.full((2,), level)
        with torch.no_grad():
            wanted = theirs(x, levels_of).sample
            assert wanted.std() > 0.1
            close(network(x, levels_of), wanted)


@pytest.mark.parametrize("with_conv", [True, False])
def test_same_output_as_the_peer_whose_layout_it_is(with_conv):
    """pip install --no-deps taming-transformers: pytorch_diffusion's model, carried on there."""
    reason = "taming-transformers is not installed; the keys and shapes above stand in for it"
    peer = pytest.importorskip("taming.modules.diffusionmodules.model", reason=reason)
    config = SDUNetConfig(channels=32, multipliers=(1, 2), resample_with_conv=with_conv)
    config = replace(config, attention_at=attention_factors(16, (8,), 2))
    theirs = peer.Model(
        ch=32, out_ch=3, ch_mult=(1, 2), num_res_blocks=2, attn_resolutions=(8,), dropout=0.1,
        resamp_with_conv=with_conv, in_channels=3, resolution=16,
    )  # fmt: skip
    network = config.build().eval()
    network.load_state_dict(alive(theirs).state_dict())
    x, _ = images(channels=3, size=(16, 16))
    level = torch.tensor([7, 999])
    with torch.no_grad():
        close(network(x, level.float()), theirs(x, level))


def test_shapes_of_the_survey():
    """003:213-227, corrected: sizes behind each down-sampling, and an output of 3 channels."""
    config = SDUNetConfig(channels=128, multipliers=(1, 1, 2, 2, 4, 4), attention_at=())
    with torch.device("meta"):
        network = config.build()
    rows = table(network, (3, 128, 128))
    shapes = {row.block: row.shape for row in rows}
    assert shapes["temb"] == (512,)
    assert shapes["conv_in"] == (128, 128, 128)
    down = [(128, 64), (128, 32), (256, 16), (256, 8), (512, 4), (512, 4)]
    assert [shapes[f"down.{level}"] for level in range(6)] == [(c, s, s) for c, s in down]
    assert shapes["mid"] == (512, 4, 4)
    up = [(512, 8), (512, 16), (256, 32), (256, 64), (128, 128), (128, 128)]
    assert [shapes[f"up.{5 - level}"] for level in range(6)] == [(c, s, s) for c, s in up]
    assert shapes["conv_out"] == (3, 128, 128)
    assert sum(row.parameters for row in rows) == parameter_count(network)


# As a network


@pytest.mark.parametrize("size", [(28, 28), (7, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("with_conv", [False, True])
def test_any_size_comes_back_as_it_went_in(size, linear, with_conv):
    config = replace(TEXT, linear_attention=linear, resample_with_conv=with_conv, out_channels=4)
    x, level = images(size=size)
    output = alive(config.build())(x, level, text())
    assert output.shape == (2, 4, *size)
    assert output.isfinite().all()


def test_without_convolutions_going_up_undoes_going_down():
    x, _ = images(size=(6, 4))
    close(Shrink(2, False)(Grow(2, False)(x)), x, 1e-6)
    close(Shrink(2, False)(x), x.unflatten(3, (2, 2)).unflatten(2, (3, 2)).mean((3, 5)))
    assert not list(Shrink(2, False).parameters()) + list(Grow(2, False).parameters())


def test_noise_scale_multiplies_the_noise_level():
    x, level = images()
    plain = alive(SMALL.build())
    scaled = replace(SMALL, noise_scale=250.0).build().eval()
    scaled.load_state_dict(plain.state_dict())
    close(scaled(x, level / 250), plain(x, level), 1e-3)
    assert (scaled(x, level) - plain(x, level)).abs().max() > 1e-2


def test_a_new_network_returns_zero_and_all_of_it_learns():
    x, level = images()
    network = TEXT.build()
    assert not network(x, level, text()).any()
    alive(network)(x, level, text()).square().sum().backward()
    idle = [name for name, value in network.named_parameters() if not value.grad.any()]
    # a softmax does not see what is added to all of its entries, so nor does it see a key's bias
    assert {name.rpartition(".attn")[2] for name in idle} <= {".0.k.bias", ".1.k.bias", "_1.k.bias"}


def test_dropout_is_there_in_training_alone():
    network, (x, level) = alive(replace(SMALL, dropout=0.5).build()), images()
    close(network(x, level), network(x, level), 0)
    network.train()
    assert (network(x, level) - network(x, level)).abs().max() > 1e-2


def test_it_works_in_bf16():
    network, (x, level) = alive(TEXT.build()), images()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, level, text(real=0))
    close(output.float(), network(x, level), 0.1)


# Mistakes


def test_the_survey_s_own_unet_has_three_levels_of_two_blocks():
    """003:173: ch_mult (1, 2, 4) and num_res_blocks 2 are no six levels (1, 1, 2, 2, 4, 4)."""
    with torch.device("meta"):
        network = SDUNetConfig().build()
    assert [len(level.block) for level in network.down] == [2, 2, 2]
    assert [len(level.block) for level in network.up] == [3, 3, 3]
    assert SDUNetConfig().widths == (64, 128, 256)


def test_resolutions_become_factors_or_are_refused():
    assert attention_factors(32, (16,), 4) == (2,)
    assert attention_factors(256, (32, 16), 5) == (8, 16)
    with pytest.raises(ValueError, match=r"\[16\] of images 128 a side.*\[128, 64, 32\]"):
        attention_factors(128, (16,), 3)  # source 003's own: no level ever works at 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 36}, "groups do not divide"),
        ({"channels": 2}, "4 or more"),
        ({"channels": 33, "groups": 3}, "even number"),
        ({"attention_at": (3,)}, "no level has 3"),
        ({"multipliers": ()}, "one per level"),
        ({"dropout": 1.0}, "less than 1"),
        ({"out_channels": 0}, "None for as many"),
        ({"context": 6, "head_channels": 7}, "head_channels that divides"),
        ({"context": 6, "classes": 3}, "label_tokens for labels"),
        ({"label_tokens": True, "classes": 3}, "as context the features"),
    ],
    ids=str,
)
def test_impossible_shapes_say_what_to_do(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **{"groups": 8, "channels": 8, **change}).build()


def test_a_lone_noise_level_is_refused():
    with pytest.raises(ValueError, match=r"t.expand\(2\)"):
        SMALL.build()(images()[0], torch.tensor(3.0))


def test_patches_are_the_same_network_on_rearranged_pixels():
    config = replace(SMALL, attention_at=(4,), patch=2)
    assert config.factors == (2, 4, 8)
    network = alive(config.build()).double()
    inner = replace(config, in_channels=8, attention_at=(2,), patch=1).build().double().eval()
    inner.load_state_dict(network.state_dict())
    x, level = (value.double() for value in images(size=(16, 8)))
    wanted = F.pixel_shuffle(inner(F.pixel_unshuffle(x, 2), level), 2)
    torch.testing.assert_close(network(x, level), wanted, rtol=0, atol=1e-12)
