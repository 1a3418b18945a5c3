"""diffusers' UNet2DModel: its config.json as a UNet2DConfig and back, its weights as ours.

Of config.json every key is used, or at its neutral value, or refused by name.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..networks.unet2d import UNet2DConfig
from .fitting import check_weights, floating, skeleton

MODEL = "UNet2DModel"
CLASSES = "_sfumato_classes"  # diffusers drops keys that begin with an underscore
DEFAULTS: dict[str, Any] = {  # of diffusers 0.42's constructor: what a missing key means
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
SAME = (  # fields of UNet2DConfig that diffusers has under the same name
    *("in_channels", "out_channels", "layers_per_block", "attention_head_dim", "norm_num_groups"),
    *("norm_eps", "attn_norm_num_groups", "dropout", "downsample_padding", "flip_sin_to_cos"),
    *("freq_shift", "time_embedding_dim", "center_input_sample", "mid_block_scale_factor"),
)
DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}
SCALE_SHIFT = {"default": False, "scale_shift": True}
FOURIER = {"positional": False, "fourier": True}
RESIZE = {"conv": False, "resnet": True}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def choice(settings: Mapping[str, Any], key: str, table: Mapping[Any, Any], file: str) -> Any:
    """What the table has for a setting. Raises: ValueError, by name, where it has nothing."""
    value = settings[key]
    for name, meant in table.items():  # one by one, since a value may be a list
        if name == value:
            return meant
    shown = "null" if value is None else repr(value)
    known = ", ".join("null" if name is None else repr(name) for name in table)
    raise ValueError(
        f"{file} has {key} = {shown}, which has no counterpart here; {known} can be read."
    )


def read_config(raw: Mapping[str, Any], file: str = "config.json") -> UNet2DConfig:
    """The UNet2DConfig of a config.json. Its weights are read_weights(config, theirs).

    diffusers' class tables have no row for "no class", so num_class_embeds classes are read and
    that row is added; but where sfumato wrote the file, its last row is the one.

    Raises: ValueError, naming the key, for what UNet2DConfig can't be.
    """
    settings = {**DEFAULTS, **raw}
    choice(settings, "act_fn", {"silu": None, "swish": None}, file)
    choice(settings, "class_embed_type", {None: None}, file)
    if settings["norm_num_groups"] is None:
        raise ValueError(f"{file} has norm_num_groups = null; a number of groups is wanted.")
    return UNet2DConfig(
        **{name: settings[name] for name in SAME},
        block_out_channels=tuple(settings["block_out_channels"]),
        attention_down=choices(settings, "down_block_types", DOWN, file),
        attention_up=choices(settings, "up_block_types", UP, file),
        middle=choice(settings, "mid_block_type", {"UNetMidBlock2D": True, None: False}, file),
        middle_attention=settings["add_attention"],
        scale_shift=choice(settings, "resnet_time_scale_shift", SCALE_SHIFT, file),
        resnet_downsample=choice(settings, "downsample_type", RESIZE, file),
        resnet_upsample=choice(settings, "upsample_type", RESIZE, file),
        fourier=choice(settings, "time_embedding_type", FOURIER, file),
        classes=settings.get(CLASSES, settings["num_class_embeds"] or 0),
    )


def choices(
    settings: Mapping[str, Any], key: str, table: Mapping[Any, Any], file: str
) -> tuple[Any, ...]:
    """choice, for each of a list."""
    return tuple(choice({key: value}, key, table, file) for value in settings[key])


def unread(raw: Mapping[str, Any]) -> list[str]:
    """Keys of a config.json that UNet2DModel itself does not read."""
    return [key for key in raw if key not in DEFAULTS and not key.startswith("_")]


def unet_settings(config: UNet2DConfig, size: tuple[int, int]) -> dict[str, Any]:
    """What UNet2DModel is made with to be the config's network, for images of size (H, W).

    Raises: ValueError for a noise_scale other than 1, which diffusers has no name for.
    """
    if config.noise_scale != 1:
        raise ValueError(
            f"the network's noise_scale is {config.noise_scale:g}; diffusers' UNet2DModel has "
            "none: train with noise_scale 1 to export."
        )
    classes = {"num_class_embeds": config.classes + 1, CLASSES: config.classes}
    return {
        **{name: getattr(config, name) for name in SAME},
        "sample_size": size[0] if size[0] == size[1] else list(size),
        "out_channels": config.outputs,
        "block_out_channels": list(config.block_out_channels),
        "down_block_types": [named(DOWN, attends) for attends in config.attention_down],
        "up_block_types": [named(UP, attends) for attends in config.attention_up],
        "mid_block_type": "UNetMidBlock2D" if config.middle else None,
        "add_attention": config.middle_attention,
        "resnet_time_scale_shift": named(SCALE_SHIFT, config.scale_shift),
        "downsample_type": named(RESIZE, config.resnet_downsample),
        "upsample_type": named(RESIZE, config.resnet_upsample),
        "time_embedding_type": named(FOURIER, config.fourier),
        **(classes if config.classes else {}),
    }


def named(table: Mapping[str, bool], value: bool) -> str:
    """The first name of a value in a table."""
    return next(name for name, meant in table.items() if meant == value)


def read_weights(
    config: UNet2DConfig, theirs: Mapping[str, Tensor], file: str = "the weights"
) -> dict[str, Tensor]:
    """The state dict of config.build(), in float32, of a file's tensors.

    Attention of files older than diffusers 0.13 (from memory) is renamed; where the table of
    classes lacks the row for "no class" it is added, as zeros.

    Raises: ValueError, naming tensors, where they are those of another network.
    """
    ours = {renamed(name): floating(value) for name, value in theirs.items()}
    table = ours.get("class_embedding.weight")
    if table is not None and len(table) == config.classes:
        ours["class_embedding.weight"] = torch.cat([table, torch.zeros_like(table[:1])])
    check_weights(skeleton(config.build, file), ours, file)
    return ours


def renamed(name: str) -> str:
    """A tensor's name as diffusers writes it now."""
    *path, module, kind = name.split(".")
    if len(path) > 1 and path[-2] == "attentions":
        module = OLD_NAMES.get(module, module)
    return ".".join([*path, module, kind])
