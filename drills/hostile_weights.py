"""Weights of other programs that are not what they should be; run in a fork of the nursery."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.commands.import_ import read_any
from sfumato.interop import diffusers
from sfumato.interop.autoencoders import kl_description
from sfumato.interop.diffusers import as_json
from sfumato.latents import open_codec
from sfumato.networks.adm import ADMConfig
from sfumato.networks.autoencoder import AutoencoderConfig
from sfumato.networks.dit import DiTConfig
from sfumato.networks.small import PulferUNetConfig
from sfumato.networks.unet2d import UNet2DConfig

Weights = dict[str, Tensor]
Write = Callable[[Path, Weights], Path]
UNET = UNet2DConfig(
    in_channels=1, out_channels=1, block_out_channels=(32,), attention_down=(False,),
    attention_up=(False,), layers_per_block=1,
)  # fmt: skip
KL = AutoencoderConfig(in_channels=1, widths=(32,), groups=32, patch=1)


def one_file(path: Path, weights: Weights) -> Path:
    save_file(weights, path / "model.safetensors")
    return path / "model.safetensors"


def one_pickle(path: Path, weights: Weights) -> Path:
    torch.save(weights, path / "model.pt")
    return path / "model.pt"


def unet_folder(path: Path, weights: Weights) -> Path:
    settings = diffusers.unet_settings(UNET, (8, 8))
    (path / "config.json").write_bytes(as_json({"_class_name": diffusers.MODEL, **settings}))
    save_file(weights, path / "diffusion_pytorch_model.safetensors")
    return path


def kl_folder(path: Path, weights: Weights) -> Path:
    (path / "config.json").write_bytes(as_json(kl_description(KL)))
    save_file(weights, path / "diffusion_pytorch_model.safetensors")
    return path


def pulfer(weights: Weights) -> Weights:
    return {f"network.{name}": value for name, value in weights.items()}


PROGRAMS: dict[str, tuple[Any, Write, Callable[[Path], Any]]] = {
    "DiT": (DiTConfig(1, 1, patch=2, depth=2, width=384, heads=6, classes=3), one_file, read_any),
    "ADM": (
        ADMConfig(1, 1, channels=32, multipliers=(1, 2), blocks=1, attention_at=()),
        one_pickle,
        read_any,
    ),
    "small": (
        PulferUNetConfig(1, None, 4, 28, 10, 8),
        lambda path, weights: one_pickle(path, pulfer(weights)),
        read_any,
    ),
    "UNet2DModel": (UNET, unet_folder, read_any),
    "AutoencoderKL": (KL, kl_folder, open_codec),
}
NAMED = ("is missing", "has no place", "not (", "NaN", "not torch.", "no tensor", "asks for torch.")


def without(weights: Weights, name: str) -> Weights:
    return {key: value for key, value in weights.items() if key != name}


def renamed(weights: Weights, name: str) -> Weights:
    return {("module." if key == name else "") + key: value for key, value in weights.items()}


CHANGES: dict[str, Callable[[Weights, str], Weights]] = {
    "missing": without,
    "extra": lambda weights, name: {**weights, f"{name}.more": torch.ones(2)},
    "renamed": renamed,
    "shape": lambda weights, name: {**weights, name: torch.ones(*weights[name].shape, 2)},
    "flat": lambda weights, name: {**weights, name: torch.ones(7)},
    "dtype": lambda weights, name: {**weights, name: weights[name].to(torch.int64)},
    "complex": lambda weights, name: {**weights, name: weights[name].to(torch.complex64)},
    "NaN": lambda weights, name: {**weights, name: torch.full_like(weights[name], torch.nan)},
    "infinity": lambda weights, name: {**weights, name: weights[name] + torch.inf},
}


def tried(short: bool) -> dict[str, Any]:
    """{"tried", "lost": what was read, or refused without saying what is wrong}."""
    count, lost = 0, []
    for program, (config, write, read) in PROGRAMS.items():
        weights = {name: v.clone() for name, v in config.build().state_dict().items()}
        if problem := result(write, read, weights):
            lost.append(f"{program}, undamaged: {problem}")
        for kind, change in CHANGES.items():
            names = list(weights)
            for name in names[-1:] if short else (names[0], names[len(names) // 2], names[-1]):
                count += 1
                if verdict := judged(result(write, read, change(weights, name)), name):
                    lost.append(f"{program}, {kind} {name}: {verdict}"[:200])
    return {"tried": count, "lost": lost}


def result(write: Write, read: Callable[[Path], Any], weights: Weights) -> str:
    """The words of the refusal; "" where it was read."""
    with TemporaryDirectory() as folder:
        try:
            read(write(Path(folder), weights))
        except ValueError as error:
            return str(error)
        except Exception as error:  # a traceback, for whoever typed the command
            return f"traceback of {type(error).__name__}: {error}"
    return ""


def judged(told: str, name: str) -> str:
    """What is wrong with a refusal; "" where it says what is, or that the file is none of ours."""
    if not told:
        return "it was read"
    if told.startswith("traceback"):
        return told
    plain = any(word in told for word in NAMED) or "can be imported" in told
    return "" if plain else f"it does not say what is wrong: {told}"
