"""DiT of other programs: files of the authors' state dict, and diffusers' folders.

How the weights lie in both is told in dit_layouts.
"""

from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

from ..bound import Hybrid
from ..config import DataConfig, Run, SamplingConfig
from ..discrete import LinearBetas
from ..grids import LinspaceGrid
from ..networks.dit import DiTConfig
from ..objective import Denoising, DiscreteTimes, Objective
from ..parameterization import PredictNoise
from ..solvers import Ancestral
from ..training import Constant, TrainConfig
from .diffusers import find_weights, read_json, scheduler_in
from .diffusers_schedulers import Schedule, read_schedule
from .dit_layouts import POSITIONS, Weights, from_diffusers, from_original, tensors
from .imported import Imported
from .torch_files import Tree, read_tensors

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
SIGNS = {"x_embedder.proj.weight", "final_layer.linear.weight", "blocks.0.attn.qkv.weight"}
LATENT = 4  # channels of the autoencoder that the published models were trained on
GUESSED = "The process is taken to be DDPM's: 1,000 linear betas, the noise predicted."


def read(path: Path) -> Imported | None:
    """The DiT in a file of the authors' layout or in a diffusers folder; None for anything else.

    Raises: ValueError for a DiT that can't be read, and for a file that is damaged or a program.
    """
    if path.is_dir():
        return read_folder(path)
    if path.suffix not in SUFFIXES:
        return None
    weights, average = halves(read_tensors(path))
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
    run = run_of(path.stem, config, latent=config.in_channels == LATENT)
    source = f"DiT, {path.name}"
    return Imported(run, weights, shape, source, average, class_names, notes=notes)


def notes_on(config: DiTConfig) -> tuple[str, ...]:
    notes = [GUESSED]
    if config.in_channels == LATENT:
        notes.append(
            f"It draws latents of {LATENT} channels: the autoencoder that it was trained on, "
            "Stable Diffusion's with factor 0.18215, has to be given as the codec."
        )
    return tuple(notes)


def objective_of(learned: bool, steps: int) -> Objective:
    return Hybrid(steps) if learned else Denoising(DiscreteTimes(steps))


def run_of(name: str, config: DiTConfig, latent: bool) -> Run:
    """How the authors train and sample: Peebles and Xie (2023), section 4 (from memory)."""
    learned = config.out_channels == 2 * config.in_channels
    return Run(
        name=name,
        data=DataConfig(source=""),
        process=LinearBetas(1000),
        parameterization=PredictNoise(time_scale=1000.0, time_offset=-1.0),
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
    inner = folder / "transformer"
    inner = inner if inner.is_dir() else folder
    if not (inner / "config.json").exists():
        return None
    described = read_json(inner / "config.json")
    if not is_dit(described):
        return None
    config, weights = from_diffusers(described, tensors(read_tensors(find_weights(inner))))
    notes = () if config.shared_embedding else ("Each block has an embedding of its own.",)
    names = class_names(folder / "model_index.json")
    side = described.get("sample_size", 32)
    found = imported(folder, config, weights, side, notes=notes, class_names=names)
    file = scheduler_in(folder)
    return found if file is None else scheduled(found, read_schedule(read_json(file)))


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
    labels = read_json(path).get("id2label") if path.exists() else None
    return tuple(labels[key] for key in sorted(labels, key=int)) if labels else ()
