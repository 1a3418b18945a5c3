"""DiT of other programs: files of the authors' state dict, and diffusers' folders.

How the weights lie in both is told in dit_layouts.
"""

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..bound import Hybrid
from ..config import DataConfig, Run, SamplingConfig
from ..discrete import LinearBetas
from ..grids import LinspaceGrid
from ..networks.dit import DiTConfig
from ..objective import Denoising, DiscreteTimes, Objective
from ..parameterization import PredictNoise
from ..schedules import Constant
from ..solvers import Ancestral
from ..storage import write_file
from ..training import TrainConfig
from .diffusers import (
    VERSION,
    WEIGHTS,
    as_json,
    find_weights,
    scheduler_in,
    write_files,
)
from .diffusers_schedulers import FILE as SCHEDULER_FILE
from .diffusers_schedulers import Schedule, read_schedule, schedule_settings
from .dit_layouts import (
    POSITIONS,
    Weights,
    from_diffusers,
    from_original,
    tensors,
    to_diffusers,
    to_original,
)
from .imported import Imported
from .reading import naming, read_settings
from .torch_files import Tree, read_tensors

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
SIGNS = {"x_embedder.proj.weight", "final_layer.linear.weight", "blocks.0.attn.qkv.weight"}
CLASSES = 1000  # ImageNet's, which DiTPipeline counts on
INDEX = PredictNoise(time_scale=1000.0, time_offset=-1.0)
PIXELS = (1, 3)  # channels of images; any other number is that of latents
CODEC_MISSING = (
    "It draws latents: give the autoencoder that it was trained on, by --codec PATH; of 4 channels "
    "Stable Diffusion's with factor 0.18215."
)
GUESSED = "The process is taken to be DDPM's: 1,000 linear betas, the noise predicted."


def read(path: Path) -> Imported | None:
    """The DiT in a file of the authors' layout or in a diffusers folder; None for anything else.

    Raises: ValueError for a DiT that can't be read, and for a file that is damaged or a program.
    """
    if path.is_dir():
        return read_folder(path)
    return of_tree(read_tensors(path), path) if path.suffix in SUFFIXES else None


def of_tree(tree: Tree, path: Path) -> Imported | None:
    """The same of what read_tensors returned of the file at `path`."""
    with naming(path):
        return _of_tree(tree, path)


def _of_tree(tree: Tree, path: Path) -> Imported | None:
    weights, average = halves(tree)
    if not weights.keys() >= SIGNS:
        return None
    config, ours = from_original(weights)
    smooth = from_original(average)[1] if average else None
    side, notes = side_of(weights, config.patch)
    return imported(path, config, ours, side, average=smooth, notes=notes)


def halves(tree: Tree) -> tuple[Weights, Weights | None]:
    """(weights, their average) of a bare state dict, or of a training run's model and ema."""
    average = tree.get("ema")
    if not isinstance(average, dict):
        return tensors(tree), None
    weights = tree.get("model")
    return tensors(weights if isinstance(weights, dict) else average), tensors(average)


def side_of(weights: Weights, patch: int) -> tuple[int, tuple[str, ...]]:
    """(pixels or latents to a side, what to say of it)."""
    if POSITIONS in weights:
        return isqrt(weights[POSITIONS].shape[1]) * patch, ()
    return 16 * patch, (
        f"The file has no pos_embed, which would tell the image's size: {16 * patch} is assumed.",
    )


def imported(
    path: Path,
    config: DiTConfig,
    weights: Weights,
    side: int,
    *,
    average: Weights | None = None,
    notes: tuple[str, ...] = (),
    class_names: tuple[str, ...] = (),
) -> Imported:
    """The run and weights of a DiT of side x side images or latents."""
    shape = (config.in_channels, side, side)
    notes = (*notes, *notes_on(config))
    run = run_of(path.stem, config, latent=config.in_channels not in PIXELS)
    source = f"DiT, {path.name}"
    return Imported(run, weights, shape, source, average, class_names, notes=notes)


def notes_on(config: DiTConfig) -> tuple[str, ...]:
    return (GUESSED,) if config.in_channels in PIXELS else (GUESSED, CODEC_MISSING)


def objective_of(learned: bool, steps: int) -> Objective:
    return Hybrid(steps) if learned else Denoising(DiscreteTimes(steps))


def run_of(name: str, config: DiTConfig, latent: bool) -> Run:
    """How the authors train and sample: Peebles and Xie (2023), section 4 (from memory)."""
    learned = config.out_channels == 2 * config.in_channels
    return Run(
        name=name,
        data=DataConfig(source=""),
        process=LinearBetas(1000),
        parameterization=INDEX,
        objective=objective_of(learned, 1000),
        network=config,
        train=TrainConfig(
            steps=400_000, batch=256, lr=1e-4, warmup_steps=0, decay=Constant(),
            betas=(0.9, 0.999), weight_decay=0.0,
        ),
        sampling=SamplingConfig(
            Ancestral(None if learned else 0.0), LinspaceGrid(), steps=250,
            guidance=4.0 if config.classes else 1.0, clipped=not latent,
        ),
        learned_variance=learned,
    )  # fmt: skip


def read_folder(folder: Path) -> Imported | None:
    """The DiT of a pipeline's folder, or of its `transformer` folder."""
    with naming(folder):
        return _read_folder(folder)


def _read_folder(folder: Path) -> Imported | None:
    inner = folder / "transformer"
    inner = inner if inner.is_dir() else folder
    if not (inner / "config.json").exists():
        return None
    described = read_settings(inner / "config.json")
    if not is_dit(described):
        return None
    config, weights = from_diffusers(described, tensors(read_tensors(find_weights(inner))))
    notes = () if config.shared_embedding else ("Each block has an embedding of its own.",)
    names = class_names(folder / "model_index.json")
    side = described.get("sample_size", 32)
    found = imported(folder, config, weights, side, notes=notes, class_names=names)
    file = scheduler_in(folder)
    return found if file is None else scheduled(found, read_schedule(read_settings(file)))


def scheduled(found: Imported, schedule: Schedule) -> Imported:
    """The same with the process and the sampling of its pipeline's scheduler."""
    run = found.run
    run = replace(
        run,
        process=schedule.process,
        parameterization=schedule.parameterization,
        objective=objective_of(run.learned_variance, schedule.process.steps),
        sampling=replace(schedule.sampling, guidance=run.sampling.guidance),
    )
    notes = tuple(note for note in found.notes if note != GUESSED) + schedule.notes
    return replace(found, run=run, notes=notes)


def is_dit(described: dict[str, Any]) -> bool:
    """Whether config.json is of DiTTransformer2DModel, by its present name or the older one."""
    name = described.get("_class_name")
    older = name == "Transformer2DModel" and described.get("norm_type") == "ada_norm_zero"
    return name == "DiTTransformer2DModel" or older


def class_names(path: Path) -> tuple[str, ...]:
    """The pipeline's id2label, in order; nothing where it has none."""
    labels = read_settings(path).get("id2label") if path.exists() else None
    return tuple(labels[key] for key in sorted(labels, key=int)) if labels else ()


# ---- from a run to files


def write_original(
    folder: Path, run: Run, weights: Mapping[str, Tensor], shape: tuple[int, int, int]
) -> tuple[str, ...]:
    """Write model.pt, a state dict as the authors' DiT loads it, into an empty folder.

    shape: (C, H, W) of what the network sees, pixels or latents.

    Returns: whole sentences on how to load it, for people.
    Raises: ValueError, naming what could be exported, for what their program has not.
    """
    config = network_of(run)
    theirs = run.process == LinearBetas(1000) and run.parameterization == INDEX
    if not theirs or not config.classes:
        raise ValueError(
            f"{run.name} is {run.process} with {run.parameterization} in {config.classes} classes; "
            "DiT's own program has 1,000 linear betas, the noise predicted, and classes: a run "
            "with process=LinearBetas, parameterization=PredictNoise, its time_scale=1000 and "
            "time_offset=-1, on images with classes, can be exported."
        )
    side = square(shape)
    file = BytesIO()
    torch.save(to_original(config, plain(weights), side), file)
    write_file(folder / "model.pt", file.getvalue())
    call = (
        f"DiT(input_size={side}, patch_size={config.patch}, in_channels={config.in_channels}, "
        f"hidden_size={config.width}, depth={config.depth}, num_heads={config.heads}, "
        f"mlp_ratio={config.mlp_ratio:g}, num_classes={config.classes}, "
        f"learn_sigma={run.learned_variance})"
    )
    return (f"{call}.load_state_dict(torch.load(PATH)) reads it.",)


def write_diffusers(
    folder: Path, run: Run, weights: Mapping[str, Tensor], shape: tuple[int, int, int]
) -> tuple[str, ...]:
    """Write a DiTTransformer2DModel and its scheduler into an empty folder; as write_original."""
    config = network_of(run)
    described, state = to_diffusers(config, plain(weights), square(shape))
    name, scheduler, notes = schedule_settings(run)
    scheduler = {"_class_name": name, "_diffusers_version": VERSION, **scheduler}
    files = {
        f"transformer/{WEIGHTS}.safetensors": save(state, metadata={"format": "pt"}),
        "transformer/config.json": as_json({**described, "_diffusers_version": VERSION}),
        f"scheduler/{SCHEDULER_FILE}": as_json(scheduler),
    }
    write_files(folder, files)
    call = 'DiTTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer") reads it'
    return (f"{call}. {_pipeline_words(run)}", *notes)


def _pipeline_words(run: Run) -> str:
    """What diffusers' DiTPipeline makes of it, which takes more for granted than the network."""
    config = network_of(run)
    why_not = ["draws latents, and this run pixels"] if config.in_channels in PIXELS else []
    why_not += ["leaves out the learned variance that the scheduler wants"] * run.learned_variance
    if why_not:
        return f"diffusers' DiTPipeline does not draw by it: it {' and '.join(why_not)}."
    words = "A DiTPipeline is made of that, the scheduler and an AutoencoderKL."
    limit = f" It takes class {CLASSES} for none: guidance_scale=1 there."
    return words if config.classes == CLASSES else words + limit


def network_of(run: Run) -> DiTConfig:
    if not isinstance(run.network, DiTConfig):
        raise ValueError(f"{run.name} is a {type(run.network).__name__}; a DiTConfig is wanted.")
    return run.network


def square(shape: tuple[int, int, int]) -> int:
    """The side of (C, H, W)."""
    if shape[1] != shape[2]:
        raise ValueError(f"images of {shape[1]} x {shape[2]}: DiT elsewhere takes squares alone.")
    return shape[1]


def plain(weights: Mapping[str, Tensor]) -> Weights:
    return {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}
