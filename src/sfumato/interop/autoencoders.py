"""Other programs' autoencoders: diffusers' AutoencoderKL and AutoencoderTiny, madebyollin's TAESD.

Everything here is a function of dicts: what a file holds to what we build, and back. Where it
says "means" and "stds" those are the latents' per channel, (z - mean) / std being what a diffusion
model sees; diffusers has them as shift_factor and 1 / scaling_factor, the same for every channel,
or as latents_mean and latents_std.
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..networks.autoencoder import AutoencoderConfig
from ..networks.taesd import TAESDConfig
from .fitting import check_weights, floating, skeleton
from .reading import naming, read_settings
from .torch_files import read_tensors

Weights = dict[str, Tensor]
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
FIXED = {"act_fn": "silu"}  # what we build has no other; so with the blocks' types
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


def tensors_of(path: Path) -> Weights:
    """The file's tensors by name.

    Raises: ValueError where it holds anything else.
    """
    found = read_tensors(path)
    weights = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if len(weights) != len(found):
        raise ValueError(f"{path} holds more than named tensors: it is no autoencoder's file")
    return weights


def kl_config(described: dict[str, Any]) -> AutoencoderConfig:
    """The AutoencoderConfig of an AutoencoderKL's config.json; what it leaves out is its default.

    Raises: ValueError for a variant that we don't build.
    """
    check_kl(described)
    return AutoencoderConfig(
        in_channels=described.get("in_channels", 3),
        latent_channels=described.get("latent_channels", 4),
        widths=tuple(described.get("block_out_channels", (64,))),
        blocks=described.get("layers_per_block", 1),
        groups=described.get("norm_num_groups", 32),
        middle_attention=described.get("mid_block_add_attention", True),
        quant_conv=described.get("use_quant_conv", True),
        post_quant_conv=described.get("use_post_quant_conv", True),
        patch=1,
    )


def check_kl(described: dict[str, Any]) -> None:
    inputs = described.get("in_channels", 3)
    if described.get("out_channels", inputs) != inputs:
        raise ValueError(
            f"this AutoencoderKL takes {inputs} channels and returns {described['out_channels']}; "
            "only those that return what they take can be read"
        )
    for name, wanted in FIXED.items():
        if described.get(name, wanted) != wanted:
            raise ValueError(f"{name} is {described[name]!r}; only {wanted!r} can be read")
    for name, wanted in BLOCKS.items():
        if set(described.get(name, (wanted,))) != {wanted}:
            raise ValueError(f"{name} is {described[name]}; only {wanted} can be read")


def kl_description(
    config: AutoencoderConfig, means: tuple[float, ...] = (), stds: tuple[float, ...] = ()
) -> dict[str, Any]:
    """Undo kl_config: what AutoencoderKL.from_config takes.

    Raises: ValueError for a patch, which AutoencoderKL does not have.
    """
    if config.patch != 1:
        raise ValueError(
            f"patch is {config.patch}, for which AutoencoderKL has no place: only an autoencoder "
            "that was trained with patch = 1 can be exported"
        )
    levels = len(config.widths)
    measured = {"latents_mean": list(means), "latents_std": list(stds), "scaling_factor": 1.0}
    return {
        "_class_name": "AutoencoderKL",
        **FIXED,
        **{name: [kind] * levels for name, kind in BLOCKS.items()},
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks,
        "norm_num_groups": config.groups,
        "mid_block_add_attention": config.middle_attention,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.post_quant_conv,
        **(measured if stds else {}),
    }


def kl_moments(described: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(means, stds) of an AutoencoderKL's config.json, per channel."""
    channels = described.get("latent_channels", 4)
    means = described.get("latents_mean") or [described.get("shift_factor") or 0.0] * channels
    scale = described.get("scaling_factor", 0.18215)
    stds = [std / scale for std in described.get("latents_std") or [1.0] * channels]
    return tuple(map(float, means)), tuple(map(float, stds))


def kl_weights(state: Weights) -> Weights:
    """An AutoencoderKL's state dict as ours: the same but for the old names of its attention.

    In the oldest files those weights are 1 x 1 convolutions, (C, C, 1, 1); here (C, C).
    """
    return {modern(name): flat(name, value) for name, value in state.items()}


def modern(name: str) -> str:
    return re.sub(
        r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.",
        lambda found: f"{found[1]}{OLD_ATTENTION[found[2]]}.",
        name,
    )


def flat(name: str, value: Tensor) -> Tensor:
    return value[:, :, 0, 0] if ".attentions." in name and value.ndim == 4 else value


def read_kl(folder: Path) -> tuple[AutoencoderConfig, Weights, tuple[tuple[float, ...], ...]]:
    """(config, weights, (means, stds)) of a folder that AutoencoderKL.save_pretrained wrote.

    A whole pipeline's folder is one too: its `vae` is taken.
    """
    if not (folder / "config.json").exists():
        folder = folder / "vae"
    where = folder / "config.json"
    described = read_settings(where)
    safe = folder / "diffusion_pytorch_model.safetensors"
    file = safe if safe.exists() else safe.with_suffix(".bin")
    if not file.exists():
        raise ValueError(f"{folder} has no {safe.name} or {file.name}: bring the weights too.")
    weights = {name: floating(value) for name, value in kl_weights(tensors_of(file)).items()}
    with naming(where):
        config, moments = kl_config(described), kl_moments(described)
    check_weights(skeleton(config.build, where), weights, file)
    return config, weights, moments


def taesd_config(encoder: Weights) -> TAESDConfig:
    """The shape of the TAESD whose encoder's file holds these tensors, named N.*.

    Raises: ValueError where they are not a TAESD's of the usual depth, sides divided by 8.
    """
    try:
        width, in_channels = encoder["0.weight"].shape[:2]
        return TAESDConfig(
            in_channels=in_channels,
            latent_channels=encoder["14.weight"].shape[0],
            width=width,
            pooled="13.pool.0.weight" in encoder,
        )
    except KeyError as error:
        raise ValueError(
            f"no tensor {error} among {sorted(encoder)[:4]}, ...: this is not the encoder of a "
            "TAESD that divides the sides by 8, and others can't be read"
        ) from error


def taesd_weights(encoder: Weights, decoder: Weights) -> Weights:
    """The two published files' tensors as the state dict of networks.taesd.TAESD, in float32."""
    halves = {"encoder": encoder, "decoder": decoder}
    return {f"{half}.{name}": floating(t) for half, of in halves.items() for name, t in of.items()}


def read_taesd(path: Path) -> tuple[TAESDConfig, Weights]:
    """(config, weights) of NAME_encoder.pth and NAME_decoder.pth: either of them, or their folder.

    Raises: ValueError where the pair is not there, or there are several.
    """
    folder = path if path.is_dir() else path.parent
    stem = "*" if path.is_dir() else path.stem.removesuffix("_encoder").removesuffix("_decoder")
    encoders = sorted(folder.glob(f"{stem}_encoder.pth"))
    if len(encoders) != 1:
        raise ValueError(
            f"{len(encoders)} files NAME_encoder.pth in {folder}, where one is wanted with its "
            "NAME_decoder.pth: give the path of either of the two files"
        )
    decoder_file = folder / encoders[0].name.replace("_encoder", "_decoder")
    if not decoder_file.is_file():
        raise ValueError(f"{decoder_file} is not there: both halves of a TAESD are wanted.")
    encoder, decoder = tensors_of(encoders[0]), tensors_of(decoder_file)
    with naming(encoders[0]):
        config, weights = taesd_config(encoder), taesd_weights(encoder, decoder)
    check_weights(skeleton(config.build, encoders[0]), weights, encoders[0])
    return config, weights


def from_tiny(state: Weights) -> Weights:
    """The state dict of an AutoencoderTiny as TAESD's: encoder.layers.N, decoder.layers.N - 1."""
    return {_renumbered(name, r"(\w+)\.layers\.(\d+)", "", 1): t for name, t in state.items()}


def to_tiny(weights: Weights) -> Weights:
    """Undo from_tiny."""
    return {_renumbered(name, r"(\w+)\.(\d+)", "layers.", -1): t for name, t in weights.items()}


def _renumbered(name: str, pattern: str, infix: str, shift: int) -> str:
    """diffusers squashes before its decoder's layers, and so counts one less there."""

    def changed(found: re.Match[str]) -> str:
        number = int(found[2]) + (shift if found[1] == "decoder" else 0)
        return f"{found[1]}.{infix}{number}"

    return re.sub(f"^{pattern}", changed, name)
