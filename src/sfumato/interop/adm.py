"""ADM of other programs: the U-Net files of OpenAI's guided-diffusion and improved-diffusion.

Ours has their keys and shapes, so that weights go either way as they are. What the shapes tell,
the network's form, is read off them; what they don't tell (heads, the schedule, the image's size)
comes from the program's own flags in NAME.json beside NAME.pt, as

    {"image_size": 64, "num_head_channels": 64, "noise_schedule": "cosine", ...}

else from PUBLIC, where the form is that of a published model, else from the program's defaults; and
the notes say which. The classifiers and the upsamplers of that program are refused by name.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..bound import Hybrid
from ..config import DataConfig, Run, SamplingConfig
from ..discrete import CosineBetas, DiscreteVP, LinearBetas
from ..grids import LinspaceGrid
from ..networks.adm import ADMConfig
from ..objective import Denoising, DiscreteTimes
from ..parameterization import PredictNoise
from ..schedules import Constant
from ..solvers import Ancestral
from ..training import TrainConfig
from .dit_layouts import Weights, check_fit, needed, tensors
from .fitting import sides
from .imported import Imported
from .reading import json_of, naming
from .torch_files import Tree, read_tensors

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
SIGNS = {"time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.emb_layers.1.weight"}
MAX_FLAGS = 100_000  # bytes
Flags = dict[str, Any]

DEFAULTS: Flags = {  # of the flags that the weights don't tell, as in its script_util.py
    "num_heads": 4,
    "num_head_channels": -1,
    "use_new_attention_order": False,
    "dropout": 0.0,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "rescale_timesteps": False,
    "sigma_small": False,
}
TOLD = {  # flags that the weights tell, or that change no picture
    *("num_channels", "num_res_blocks", "channel_mult", "attention_resolutions", "class_cond"),
    *("learn_sigma", "use_scale_shift_norm", "resblock_updown", "use_checkpoint", "use_fp16"),
    *("use_kl", "rescale_learned_sigmas", "timestep_respacing"),
}
REFUSED = {"predict_xstart": False, "num_heads_upsample": -1}  # what else these may not be
SCHEDULES = {"linear": LinearBetas, "cosine": CosineBetas}
PUBLIC: dict[tuple[int, tuple[int, ...]], Flags] = {  # (channels, multipliers); README.md's flags
    (192, (1, 2, 3, 4)): {
        **{"image_size": 64, "num_head_channels": 64, "use_new_attention_order": True},
        **{"noise_schedule": "cosine", "dropout": 0.1},
    },
    (256, (1, 1, 2, 3, 4)): {"image_size": 128, "num_heads": 4},
    (256, (1, 1, 2, 2, 4, 4)): {"image_size": 256, "num_head_channels": 64},
    (128, (1, 2, 2, 4, 4, 8, 8)): {"image_size": 512, "num_head_channels": 64},
}


def read(path: Path) -> Imported | None:
    """The model in a file of guided-diffusion's layout; None for anything else.

    Raises: ValueError for one that can't be read, for flags beside it that are unknown, and for a
    file that is damaged or a program.
    """
    if path.is_dir() or path.suffix not in SUFFIXES:
        return None
    return of_tree(read_tensors(path), path)


def of_tree(tree: Tree, path: Path) -> Imported | None:
    """The same of what read_tensors returned of the file at `path`."""
    with naming(path):
        return _of_tree(tree, path)


def _of_tree(tree: Tree, path: Path) -> Imported | None:
    weights = tensors(tree)
    if not weights.keys() >= SIGNS or any(".transformer_blocks." in name for name in weights):
        return None
    check_kind(weights)
    shape_only = infer(weights)
    flags, note = flags_of(path, shape_only)
    config = with_flags(shape_only, flags)
    check_fit(config.build, weights)
    size, guess = size_of(config, flags)
    return Imported(
        run=run_of(path.stem, config, flags),
        weights=weights,
        shape=(config.in_channels, size, size),
        source=f"ADM (guided-diffusion), {path.name}",
        notes=(note, *guess, *notes_on(config, flags)),
    )


def check_kind(weights: Weights) -> None:
    """Raise ValueError for the program's other networks, which have the same beginning."""
    if not any(name.startswith("output_blocks.") for name in weights):
        raise ValueError(
            "this is guided-diffusion's classifier, the way down of a U-Net alone: only its "
            "diffusion models can be read"
        )
    if sides(weights, "input_blocks.0.0.weight", 4)[1] == 6:
        raise ValueError(
            "this network takes 6 channels: it is guided-diffusion's upsampler, which is shown a "
            "small image beside the noisy one; only models that draw from noise alone can be read"
        )


# From tensors to a configuration


def infer(weights: Weights) -> ADMConfig:
    """What names and shapes tell of the network; heads and their order stay as by default.

    Raises: ValueError where the levels are not those of a U-Net of this kind.
    """
    blocks = blocks_a_level(weights)
    count = 1 + max(numbers(weights, r"output_blocks\.(\d+)\."))
    if count % (blocks + 1):
        raise ValueError(f"{count} output_blocks are no whole number of levels of {blocks + 1}")
    ends = range(count - 1, -1, -(blocks + 1))  # the last stage of each level, finest first
    widths = [len(needed(weights, f"output_blocks.{i}.0.in_layers.2.weight")) for i in ends]
    attending = [f"output_blocks.{i}.1.qkv.weight" in weights for i in ends]
    _, in_channels, _, _ = sides(weights, "input_blocks.0.0.weight", 4)
    first = widths[0]
    if any(width % first for width in widths):
        raise ValueError(f"levels are {widths} wide: each must be a multiple of the first")
    labels, told = weights.get("label_emb.weight"), weights["middle_block.0.emb_layers.1.weight"]
    _, sinusoids = sides(weights, "time_embed.0.weight", 2)
    return ADMConfig(
        in_channels=in_channels,
        out_channels=len(needed(weights, "out.2.weight")),
        channels=first,
        multipliers=tuple(width // first for width in widths),
        blocks=blocks,
        attention_at=tuple(2**level for level, attends in enumerate(attending) if attends),
        classes=0 if labels is None else len(labels),
        scale_shift=len(told) == 2 * widths[-1],
        residual_resampling=any(re.fullmatch(RESIDUAL_UP, name) for name in weights),
        conv_resampling=bool(grown(weights)) or len(widths) == 1,
        time_features=None if sinusoids == first else sinusoids,
    )


RESIDUAL_UP = r"output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight"
CONVOLUTION_UP = r"output_blocks\.(\d+)\.[12]\.conv\.weight"


def blocks_a_level(weights: Weights) -> int:
    """Residual blocks a level on the way down: the first level of the way up ends where it grows.

    Where nothing there has weights, the way down has gaps in their place; one level has neither.
    """
    if grows := grown(weights):
        return min(grows)
    there = numbers(weights, r"input_blocks\.(\d+)\.")
    return next(i for i in range(max(there) + 2) if i not in there) - 1


def grown(weights: Weights) -> set[int]:
    """The stages of the way up that double the resolution with weights."""
    return numbers(weights, RESIDUAL_UP) | numbers(weights, CONVOLUTION_UP)


def numbers(weights: Weights, pattern: str) -> set[int]:
    """The numbers in the names that begin as the pattern does."""
    return {int(found[1]) for name in weights if (found := re.match(pattern, name))}


# From flags to the rest


def flags_of(path: Path, config: ADMConfig) -> tuple[Flags, str]:
    """(flags, where they come from) of the file beside it, of a public model, or by default."""
    beside = path.with_suffix(".json")
    if beside.exists():
        return {**DEFAULTS, **checked(beside)}, f"Heads and schedule are those of {beside.name}."
    known = PUBLIC.get((config.channels, config.multipliers))
    if known is not None and config.residual_resampling:
        size = known["image_size"]
        said = f"Its form is that of the published {size} x {size} model, whose flags are taken."
        return {**DEFAULTS, **known}, said
    return dict(DEFAULTS), (
        f"How many heads it has, and its schedule, are in no tensor: the program's defaults are "
        f"taken, 4 heads and linear betas. If it was trained otherwise, write its flags to "
        f'{beside.name} beside it, as {{"num_head_channels": 64, "noise_schedule": "cosine"}}, or '
        'of improved-diffusion {"diffusion_steps": 4000, "noise_schedule": "cosine", '
        '"rescale_timesteps": true}.'
    )


def checked(path: Path) -> Flags:
    """The flags in a file. Raises ValueError for unknown ones and for those that ours has not."""
    flags = json_of(path.read_bytes(), path, MAX_FLAGS)
    known = {*DEFAULTS, *TOLD, *REFUSED, "image_size"}
    if odd := sorted(set(flags) - known):
        raise ValueError(f"{path}: {odd} are no flags of guided-diffusion: {sorted(known)} are")
    for name, value in REFUSED.items():
        if flags.get(name, value) != value:
            raise ValueError(f"{path}: {name} is {flags[name]}; only {value} can be read")
    for name, value in wrong_types(flags):
        raise ValueError(f"{path}: {name} is {value!r}, which is not of the type of its default")
    check_clock(path, flags)
    if flags.get("noise_schedule", "linear") not in SCHEDULES:
        raise ValueError(f"{path}: noise_schedule is one of {', '.join(SCHEDULES)}")
    return flags


def check_clock(path: Path, flags: Flags) -> None:
    """Raises ValueError where the two programs, whose tensors are alike, would tell other times.

    Of 1,000 steps the rescaled ones are the steps.
    """
    steps = flags.get("diffusion_steps", 1000)
    if steps != 1000 and "rescale_timesteps" not in flags:
        raise ValueError(
            f"{path}: diffusion_steps is {steps} and rescale_timesteps is not given, which is to "
            "say whether the network was told the step, or its share of all steps times 1000: add "
            '"rescale_timesteps": true for improved-diffusion, false for guided-diffusion, which '
            "are their defaults"
        )


def wrong_types(flags: Flags) -> Iterator[tuple[str, Any]]:
    for name, default in {**DEFAULTS, "image_size": 64}.items():
        value = flags.get(name, default)
        fits = type(value) is type(default) or (name == "dropout" and type(value) is int)
        if not fits:
            yield name, value


def with_flags(config: ADMConfig, flags: Flags) -> ADMConfig:
    heads = flags["num_head_channels"]
    return replace(
        config,
        heads=flags["num_heads"],
        head_channels=None if heads == -1 else heads,
        heads_first=not flags["use_new_attention_order"],
        dropout=float(flags["dropout"]),
    )


def size_of(config: ADMConfig, flags: Flags) -> tuple[int, tuple[str, ...]]:
    """(pixels to a side, what to say of it)."""
    if "image_size" in flags:
        return flags["image_size"], ()
    size = 8 * config.factors[-1]
    return size, (f"The images' size is in no tensor: {size} is taken, 8 at the coarsest level.",)


def notes_on(config: ADMConfig, flags: Flags) -> tuple[str, ...]:
    process = f"The process is {flags['diffusion_steps']:,} {flags['noise_schedule']} betas."
    if not config.classes:
        return (process,)
    return process, (
        "It was trained with a class for every image: guidance other than 1 by leaving the class "
        "out says nothing until it is trained on with data.label_dropout above 0."
    )


def process_of(flags: Flags) -> DiscreteVP:
    return SCHEDULES[flags["noise_schedule"]](flags["diffusion_steps"])


def run_of(name: str, config: ADMConfig, flags: Flags) -> Run:
    """How the program trains and samples: Dhariwal and Nichol (2021), section 2 (from memory)."""
    steps, learned = flags["diffusion_steps"], config.out_channels == 2 * config.in_channels
    mix = None if learned else 0.0 if flags["sigma_small"] else 1.0
    unit = 1000 / steps if flags["rescale_timesteps"] else 1.0  # what it counts steps in
    return Run(
        name=name,
        data=DataConfig(source="", label_dropout=0.0),
        process=process_of(flags),
        parameterization=PredictNoise(time_scale=steps * unit, time_offset=-unit),
        objective=Hybrid(steps) if learned else Denoising(DiscreteTimes(steps)),
        network=config,
        train=TrainConfig(
            steps=500_000, batch=256, lr=1e-4, warmup_steps=0, decay=Constant(),
            betas=(0.9, 0.999), weight_decay=0.0,
        ),
        sampling=SamplingConfig(
            Ancestral(mix), LinspaceGrid(), steps=min(250, steps), clipped=True
        ),
        learned_variance=learned,
    )  # fmt: skip
