"""UNet2D against diffusers' UNet2DModel: keys, shapes, first weights and outputs."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.interop.diffusers_unet import (
    CLASSES,
    read_config,
    unet_settings,
)
from sfumato.networks.unet2d import UNet2D, UNet2DConfig

DOWN, UP = (
    {False: "DownBlock2D", True: "AttnDownBlock2D"},
    {False: "UpBlock2D", True: "AttnUpBlock2D"},
)

# google/ddpm-cifar10-32's config.json, as public copies of it have it.
CIFAR10: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
CELEBAHQ = {
    **CIFAR10,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    "sample_size": 256,
}
SOURCE_000 = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [64, 128, 128, 256],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
}
TINY = UNet2DConfig(
    block_out_channels=(8, 16),
    attention_down=(False, True),
    attention_up=(True, False),
    norm_num_groups=4,
)
# Keys and shapes of the smallest attending UNet2DModel, for machines without diffusers.
ONE_LEVEL = UNet2DConfig(
    in_channels=1,
    block_out_channels=(4,),
    layers_per_block=1,
    attention_down=(False,),
    attention_up=(True,),
    attention_head_dim=None,
    norm_num_groups=2,
    classes=2,
)


def residual(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Weights of a ResnetBlock2D, of an embedding of 16; every one but these has a bias."""
    shapes = {
        f"{name}.norm1": (inputs,),
        f"{name}.conv1": (outputs, inputs, 3, 3),
        f"{name}.time_emb_proj": (outputs, 16),
        f"{name}.norm2": (outputs,),
        f"{name}.conv2": (outputs, outputs, 3, 3),
    }
    return {
        **shapes,
        **({f"{name}.conv_shortcut": (outputs, inputs, 1, 1)} if inputs != outputs else {}),
    }


def attention(name: str) -> dict[str, tuple[int, ...]]:
    norm = {f"{name}.group_norm": (4,)}
    return {**norm, **{f"{name}.{part}": (4, 4) for part in ("to_q", "to_k", "to_v", "to_out.0")}}


WRITTEN_DOWN = {
    "conv_in": (4, 1, 3, 3),
    "time_embedding.linear_1": (16, 4),
    "time_embedding.linear_2": (16, 16),
    **residual("down_blocks.0.resnets.0", 4, 4),
    **attention("mid_block.attentions.0"),
    **residual("mid_block.resnets.0", 4, 4),
    **residual("mid_block.resnets.1", 4, 4),
    **attention("up_blocks.0.attentions.0"),
    **attention("up_blocks.0.attentions.1"),
    **residual("up_blocks.0.resnets.0", 8, 4),
    **residual("up_blocks.0.resnets.1", 8, 4),
    "conv_norm_out": (4,),
    "conv_out": (1, 4, 3, 3),
}


def test_keys_and_shapes_are_those_written_down() -> None:
    weights = {f"{name}.weight": shape for name, shape in WRITTEN_DOWN.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in WRITTEN_DOWN.items()}
    wanted = {**weights, **biases, "class_embedding.weight": (3, 16)}
    assert shapes(ONE_LEVEL.build()) == wanted


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


# ---- beside diffusers


def peer_of(config: dict[str, Any]) -> nn.Module:
    model = pytest.importorskip("diffusers.models.unets.unet_2d").UNet2DModel
    return model(**{key: value for key, value in config.items() if not key.startswith("_")}).eval()


def jiggled(network: nn.Module, seed: int = 0, by: float = 0.1) -> nn.Module:
    """With no weight left at a value such as 0 or 1, at which a mistake could hide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator).to(parameter)
    return network.eval()


def random_config(seed: int) -> dict[str, Any]:
    """A configuration of diffusers', every field drawn."""
    rng = random.Random(seed)
    groups, levels = rng.choice([1, 2, 4]), rng.randint(1, 4)
    attends = [rng.random() < 0.5 for _ in range(2 * levels)]
    classes = 4 if rng.random() < 0.3 else None
    fourier = rng.random() < 0.2
    return {
        "in_channels": rng.randint(1, 4),
        "out_channels": rng.randint(1, 6),
        "block_out_channels": [4 * groups * rng.randint(1, 3) for _ in range(levels)],
        "layers_per_block": rng.randint(1, 3),
        "down_block_types": [DOWN[flag] for flag in attends[:levels]],
        "up_block_types": [UP[flag] for flag in attends[levels:]],
        "mid_block_type": rng.choice(["UNetMidBlock2D"] * 4 + [None]),
        "add_attention": rng.random() < 0.7,
        "attention_head_dim": rng.choice([None, 1, 2, 3, 4]),
        "norm_num_groups": groups,
        "attn_norm_num_groups": rng.choice([None, 1]),
        "norm_eps": rng.choice([1e-5, 1e-2]),
        "dropout": rng.choice([0.0, 0.3]),
        "resnet_time_scale_shift": rng.choice(["default", "scale_shift"]),
        "mid_block_scale_factor": rng.choice([1, 1.5]),
        "downsample_padding": rng.choice([0, 1]),
        "downsample_type": rng.choice(["conv", "resnet"]),
        "upsample_type": rng.choice(["conv", "resnet"]),
        "flip_sin_to_cos": rng.random() < 0.5,
        "freq_shift": rng.choice([0, 1]),
        "time_embedding_type": "fourier" if fourier else "positional",
        "time_embedding_dim": rng.choice([None, 12]),
        "center_input_sample": rng.random() < 0.3,
        "num_class_embeds": classes,
        **({CLASSES: classes - 1} if classes else {}),  # the last row is "no class"
        "sample_size": 2 ** (levels - 1) * rng.randint(1, 2),
    }


def inputs(config: UNet2DConfig, size: tuple[int, int], dtype: torch.dtype) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, config.in_channels, *size, generator=generator).to(dtype)
    level = torch.tensor([1, 17, 999]).to(dtype)
    return x, level, torch.tensor([0, 1, config.classes]) if config.classes else None


def both(
    config: dict[str, Any], size: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Their output and ours, for their weights loaded strictly into ours."""
    peer = jiggled(peer_of(config)).to(dtype)
    ours_config = read_config(config)
    ours = ours_config.build().to(dtype).eval()
    ours.load_state_dict(peer.state_dict())
    x, level, cond = inputs(ours_config, size, dtype)
    with torch.no_grad():
        return peer(x, level, cond).sample, ours(x, level, cond)


def largest(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the outputs' size where that is above 1."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


@pytest.mark.parametrize("seed", range(20))
def test_outputs_are_those_of_diffusers(seed: int) -> None:
    config = random_config(seed)
    size = (2 * config["sample_size"], config["sample_size"])
    assert largest(*both(config, size, torch.float64)) < 1e-10
    assert largest(*both(config, size, torch.float32)) < 1e-5


def test_the_random_configurations_meet_every_branch() -> None:
    drawn = [random_config(seed) for seed in range(20)]
    for key in drawn[0].keys() - {CLASSES}:
        assert len({str(config[key]) for config in drawn}) > 1, key


@pytest.mark.parametrize("config", [CIFAR10, SOURCE_000], ids=["cifar10", "source-000"])
def test_the_published_networks_have_diffusers_outputs(config: dict[str, Any]) -> None:
    theirs, ours = both(config, (16, 16), torch.float32)
    assert largest(theirs, ours) < 1e-5


@pytest.mark.parametrize(
    ("config", "parameters"),
    # counted by diffusers 0.42.1
    [(CIFAR10, 35_746_307), (CELEBAHQ, 113_673_219), (SOURCE_000, None)],
    ids=["cifar10", "celebahq", "source-000"],
)
def test_the_published_networks_have_diffusers_keys(
    config: dict[str, Any], parameters: int | None
) -> None:
    with torch.device("meta"):
        ours, theirs = read_config(config).build(), peer_of(config)
    assert shapes(ours) == shapes(theirs)
    if parameters:
        assert sum(weight.numel() for weight in ours.parameters()) == parameters


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_a_seed_gives_the_first_weights_that_it_gives_diffusers(seed: int) -> None:
    config = {**random_config(seed), "time_embedding_type": "positional"}
    torch.manual_seed(seed)
    theirs = peer_of(config).state_dict()
    torch.manual_seed(seed)
    ours = read_config(config).build().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("seed", range(20))
def test_our_weights_load_into_diffusers(seed: int) -> None:
    config = read_config(random_config(seed))
    ours = jiggled(config.build(), seed)
    peer = peer_of(unet_settings(config, (8, 8)))
    peer.load_state_dict(ours.state_dict())
    x, level, cond = inputs(config, (8, 8), torch.float32)
    with torch.no_grad():
        assert largest(peer(x, level, cond).sample, ours(x, level, cond)) < 1e-5


def test_28_pixels_crash_in_diffusers_and_are_padded_here() -> None:
    """28, 14, 7, 4 on the way down; 8 on the way up, beside 7: source 000, lines 25 to 37."""
    peer, config = jiggled(peer_of(SOURCE_000)), read_config(SOURCE_000)
    ours = config.build().eval()
    ours.load_state_dict(peer.state_dict())
    x, level, _ = inputs(config, (28, 28), torch.float32)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            peer(x, level)
        padded = peer(F.pad(x, (2, 2, 2, 2), mode="replicate"), level).sample
        assert ours(x, level).shape == (3, 1, 28, 28)
        assert largest(padded[..., 2:30, 2:30], ours(x, level)) < 1e-5


# ---- the contract of all networks


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (7, 3)], ids=str)
def test_any_size_goes_in_and_comes_out(size: tuple[int, int]) -> None:
    network = TINY.build()
    x, level, _ = inputs(TINY, size, torch.float32)
    assert network(x, level).shape == (3, 3, *size)


def test_no_class_is_the_last_row_of_the_table() -> None:
    network = jiggled(replace(TINY, classes=3).build())
    x, level, _ = inputs(TINY, (4, 4), torch.float32)
    with torch.no_grad():
        none = network(x, level)
        assert torch.equal(none, network(x, level, torch.tensor([3, 3, 3])))
        assert not torch.allclose(none, network(x, level, torch.tensor([0, 1, 2])))


def test_noise_scale_multiplies_the_level() -> None:
    plain, scaled = jiggled(TINY.build()), replace(TINY, noise_scale=250.0).build().eval()
    scaled.load_state_dict(plain.state_dict())
    x, level, _ = inputs(TINY, (4, 4), torch.float32)
    with torch.no_grad():
        assert torch.equal(scaled(x, level / 250), plain(x, 250 * (level / 250)))


def test_every_weight_is_trained_and_bf16_is_near() -> None:
    config = replace(TINY, classes=2, resnet_downsample=True, resnet_upsample=True)
    network = jiggled(config.build())
    x, level, cond = inputs(config, (4, 4), torch.float32)
    exact = network(x, level, cond)
    exact.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x, level, cond).float()
    assert ((rough - exact).norm() / exact.norm()).item() < 0.03


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"block_out_channels": (8, 18)}, "18 channels wide, which 4 groups"),
        ({"block_out_channels": ()}, "give a width per level"),
        ({"attention_up": (True,)}, "attention_up is"),
        ({"attention_head_dim": 17}, "give 1 to 16"),
        ({"downsample_padding": 2}, "downsample_padding is 2"),
        ({"freq_shift": 4}, "of 4 frequencies"),
        ({"attn_norm_num_groups": 3}, "does not divide the 16"),
        ({"layers_per_block": 0}, "layers_per_block is 0"),
        ({"out_channels": 0}, "outputs is 0"),
        ({"classes": -1}, "classes is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"mid_block_scale_factor": 0.0}, "mid_block_scale_factor is 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_shapes_that_cannot_be_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(TINY, **changes).build()


def test_wrong_calls_are_refused() -> None:
    network = TINY.build()
    x, level, _ = inputs(TINY, (4, 4), torch.float32)
    with pytest.raises(ValueError, match=r"wants images \(B, 3, H, W\)"):
        network(x[:, :1], level)
    with pytest.raises(ValueError, match="one level per image"):
        network(x, level[0])
    with pytest.raises(ValueError, match="without classes"):
        network(x, level, torch.tensor([0, 0, 0]))
    with pytest.raises(ValueError, match="labels from 0 to 4"):
        replace(TINY, classes=3).build()(x, level, torch.tensor([0, 4, 0]))


def test_the_config_builds_the_network_of_its_shape() -> None:
    assert isinstance(TINY.build(), UNet2D)
    assert TINY.build().config == TINY
