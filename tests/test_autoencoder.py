"""The KL autoencoder is diffusers' AutoencoderKL, weights and all, and a cheaper one of our own."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from sfumato.interop.autoencoders import (
    OLD_ATTENTION,
    kl_config,
    kl_description,
    kl_moments,
    kl_weights,
    read_kl,
)
from sfumato.networks.autoencoder import AutoencoderConfig, cropped, flops
from sfumato.networks.layers import pad_to_multiple

PEERS = {
    "f4": {"block_out_channels": (16, 32, 32), "layers_per_block": 1, "norm_num_groups": 8},
    "f8": {
        "block_out_channels": (8, 16, 16, 24),
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "latent_channels": 8,
        "mid_block_add_attention": False,
    },
    "no quant": {
        "block_out_channels": (16, 16),
        "norm_num_groups": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "in_channels": 1,
        "out_channels": 1,
    },
    "f1": {"block_out_channels": (8,), "norm_num_groups": 8, "use_post_quant_conv": False},
}
CLOSE = {"atol": 1e-9, "rtol": 1e-9}
TINY = AutoencoderConfig(widths=(8, 16), groups=4, patch=2)


def peer(name):
    """A peer with nothing at zero or one, where an error would hide."""
    settings = PEERS[name]
    levels = len(settings["block_out_channels"])
    model = AutoencoderKL(
        **settings,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    ).eval()
    randomize(model)
    return model.double()  # parity to 1e-9 is one of the formula, not of rounding


def randomize(model):
    torch.manual_seed(4)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 0.1)
        if parameter.ndim == 1:
            parameter.data += 0.5


def images(config, height=32, width=24):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(2, config.in_channels, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize("name", PEERS)
@torch.no_grad()
def test_weights_of_diffusers_give_its_latents_and_images(name):
    theirs = peer(name)
    config = kl_config(dict(theirs.config))
    ours = config.build().eval().double()
    ours.load_state_dict(kl_weights(theirs.state_dict()))  # strict: every key, every shape
    x = images(config).double()
    posterior = theirs.encode(x).latent_dist
    mean, log_var = ours.encode(x)
    assert torch.allclose(mean, posterior.mean, **CLOSE)
    assert torch.allclose(log_var, posterior.logvar, **CLOSE)
    assert torch.allclose(ours.decode(mean), theirs.decode(mean).sample, **CLOSE)
    assert mean.shape[1:] == config.latent_shape(32, 24)


@pytest.mark.parametrize("name", PEERS)
@torch.no_grad()
def test_our_weights_make_an_autoencoder_of_diffusers(name):
    config = kl_config(dict(peer(name).config))
    ours = config.build().eval().double()
    randomize(ours)
    theirs = AutoencoderKL.from_config(kl_description(config)).eval().double()
    theirs.load_state_dict(ours.state_dict())
    x = images(config).double()
    mean, _ = ours.encode(x)
    assert torch.allclose(mean, theirs.encode(x).latent_dist.mean, **CLOSE)
    assert torch.allclose(ours.decode(mean), theirs.decode(mean).sample, **CLOSE)


def test_configurations_go_there_and_back():
    for config in (replace(TINY, patch=1), replace(TINY, patch=1, blocks=2, quant_conv=False)):
        assert kl_config(kl_description(config)) == config


def test_what_a_configuration_leaves_out_is_diffusers_own_default():
    written = dict(AutoencoderKL().config)
    assert kl_config({}) == kl_config(written)
    assert kl_moments({}) == kl_moments(written) == ((0.0,) * 4, (1 / 0.18215,) * 4)


def test_old_names_of_attention_are_read():
    state = peer("f4").state_dict()
    old = {
        name.replace(new, before): value[:, :, None, None] if value.ndim == 2 else value
        for name, value in state.items()
        for before, new in OLD_ATTENTION.items()
        if f".{new}." in name
    }
    assert len(old) == 16  # encoder and decoder, four layers, weight and bias
    kept = {name: value for name, value in state.items() if ".to_" not in name}
    read = kl_weights({**kept, **old})
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


@torch.no_grad()
def test_folders_of_diffusers_are_read(tmp_path):
    theirs = peer("f4")
    theirs.save_pretrained(tmp_path / "pipeline" / "vae")
    for folder in (tmp_path / "pipeline", tmp_path / "pipeline" / "vae"):
        config, weights, (means, stds) = read_kl(folder)
        assert config.f == 4
        wanted = theirs.float().state_dict()
        assert weights.keys() == wanted.keys()
        assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
        assert means == (0.0,) * 4
        assert stds == (1 / 0.18215,) * 4


def test_moments_of_latents_are_a_shift_and_a_factor_or_a_channels_own():
    shifted = {"latent_channels": 2, "scaling_factor": 0.5, "shift_factor": 0.1}
    assert kl_moments(shifted) == ((0.1, 0.1), (2.0, 2.0))
    own = kl_description(replace(TINY, patch=1), (1.0, 2.0, 3.0, 4.0), (0.5, 0.6, 0.7, 0.8))
    assert kl_moments(own) == ((1.0, 2.0, 3.0, 4.0), (0.5, 0.6, 0.7, 0.8))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"act_fn": "relu"}, "act_fn"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "down_block_types"),
        ({"out_channels": 4}, "returns 4"),
    ],
)
def test_variants_that_we_do_not_build_are_refused(change, named):
    described = kl_description(replace(TINY, patch=1))
    with pytest.raises(ValueError, match=named):
        kl_config({**described, **change})


def test_a_patch_cannot_be_exported():
    with pytest.raises(ValueError, match="patch = 1"):
        kl_description(TINY)


@torch.no_grad()
def test_a_patch_field_is_the_peers_network_on_unshuffled_pixels():
    """The stem changes nothing but what a channel is."""
    patched = replace(TINY, patch=2, quant_conv=False).build()
    randomize(patched)
    plain = replace(TINY, patch=1, in_channels=12, quant_conv=False).build()
    plain.load_state_dict(patched.state_dict())
    x = images(TINY)
    expected, _ = plain.encode(nn.functional.pixel_unshuffle(x, 2))
    mean, _ = patched.encode(x)
    assert torch.equal(mean, expected)
    assert torch.equal(patched.decode(mean), nn.functional.pixel_shuffle(plain.decode(mean), 2))


@pytest.mark.parametrize("size", [(32, 32), (17, 30), (1, 1)])
@torch.no_grad()
def test_images_of_any_size_come_back_as_large(size):
    model = replace(TINY, middle_attention=True).build()
    x = images(TINY, *size)
    eps = torch.zeros(2, *TINY.latent_shape(*size))
    decoded, mean, log_var = model(x, eps)
    assert decoded.shape == x.shape
    assert mean.shape == log_var.shape == eps.shape
    assert torch.equal(decoded, cropped(model.decode(mean), *size))


@pytest.mark.parametrize("size", [(8, 8), (7, 13), (1, 5), (10, 3)])
def test_cropping_undoes_padding(size):
    x = images(TINY, *size)
    padded, _ = pad_to_multiple(x, 8)
    assert torch.equal(cropped(padded, *size), x)


@torch.no_grad()
def test_eps_moves_the_latent_by_the_standard_deviation():
    model = TINY.build()
    randomize(model)
    x, eps = images(TINY), torch.randn(2, *TINY.latent_shape(32, 24))
    decoded, mean, log_var = model(x, eps)
    assert torch.equal(decoded, model.decode(mean + eps * torch.exp(log_var / 2)))


@torch.no_grad()
def test_log_variances_stay_in_the_range_of_diffusers():
    model = TINY.build()
    assert model.quant_conv is not None
    model.quant_conv.bias.copy_(torch.tensor([0.0] * 4 + [-1e4, 1e4, -31.0, 21.0]))
    model.quant_conv.weight.zero_()
    _, log_var = model.encode(images(TINY))
    assert log_var[0, :, 0, 0].tolist() == [-30.0, 20.0, -30.0, 20.0]
    assert torch.isfinite(log_var.exp()).all()


@pytest.mark.parametrize("quant_conv", [True, False])
@torch.no_grad()
def test_a_new_encoder_is_sure_of_itself(quant_conv):
    """Every log variance is about -4, a standard deviation of 0.14."""
    config = replace(TINY, quant_conv=quant_conv)
    last = config.build().quant_conv or config.build().encoder.conv_out
    assert torch.equal(last.bias[4:], torch.full((4,), -4.0))
    assert last.bias[:4].abs().max() < 1


@torch.no_grad()
def test_half_precision_is_close_and_hands_out_float32():
    model = TINY.build()
    x = images(TINY)
    exact, _, _ = model(x, torch.zeros(2, *TINY.latent_shape(32, 24)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, mean, log_var = model(x, torch.zeros(2, *TINY.latent_shape(32, 24)))
    assert {rough.dtype, mean.dtype, log_var.dtype} == {torch.float32}
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_flops_of_one_convolution_by_hand():
    """No level but the first, at h w positions: each product counted, 2 to a multiply-add."""
    config = AutoencoderConfig(
        widths=(8,), blocks=1, groups=4, patch=2, quant_conv=False, post_quant_conv=False
    )
    inner = 9 * 8 * 8 * 2  # a residual's two convolutions
    encode = 9 * 12 * 8 + 3 * inner + 9 * 8 * 8
    decode = 9 * 4 * 8 + 4 * inner + 9 * 8 * 12
    assert flops(config, 16, 12) == (2 * 8 * 6 * encode, 2 * 8 * 6 * decode)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"widths": ()}, "widths"), ({"widths": (8, 10)}, "10 channels"), ({"blocks": 0}, "blocks")],
)
def test_impossible_shapes_are_refused(change, named):
    with pytest.raises(ValueError, match=named):
        replace(TINY, **change).build()


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="in_channels"):
        TINY.build().encode(torch.zeros(1, 1, 8, 8))
