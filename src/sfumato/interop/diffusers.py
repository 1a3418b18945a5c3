"""diffusers' folders of an unconditional or class-conditional UNet2DModel: read and written.

    FOLDER/model_index.json                      which pipeline
           unet/config.json                      diffusers_unet.py
           unet/diffusion_pytorch_model.safetensors, or .bin
           scheduler/scheduler_config.json       diffusers_schedulers.py

Also read: the older layout with all of them in one folder, and a unet folder alone. diffusers
itself is not needed for any of it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save
from torch import Tensor

from ..bound import Hybrid
from ..codec import Pixels
from ..config import DataConfig, Run
from ..networks.unet2d import UNet2DConfig
from ..objective import Denoising, DiscreteTimes, Objective
from ..schedules import Constant
from ..storage import write_file
from ..training import TrainConfig
from .diffusers_schedulers import FILE as SCHEDULER_FILE
from .diffusers_schedulers import Schedule, read_schedule, schedule_settings
from .diffusers_unet import MODEL, read_config, read_weights, unet_settings, unread
from .imported import Imported
from .reading import naming, read_settings
from .torch_files import read_tensors

WEIGHTS = "diffusion_pytorch_model"
VERSION = "0.35.0"  # of diffusers, whose layout is written
PIPELINES = {"DDPMScheduler": "DDPMPipeline", "DDIMScheduler": "DDIMPipeline"}


class Parts(NamedTuple):
    """Where the parts of a pipeline are; scheduler is None where there is none."""

    folder: Path
    unet: Path
    scheduler: Path | None


def read(path: Path) -> Imported | None:
    """The model in a diffusers folder; None where the path is not one of a UNet2DModel.

    Raises: ValueError, naming the key or the file, for what has no counterpart here, is damaged,
    or is a pickle of more than tensors.
    """
    with naming(path):
        return _read(path)


def _read(path: Path) -> Imported | None:
    parts = locate(path)
    if parts is None:
        return None
    raw = read_settings(parts.unet / "config.json")
    network = read_config(raw, str(parts.unet / "config.json"))
    weights_file = find_weights(parts.unet)
    tensors = {k: v for k, v in read_tensors(weights_file).items() if isinstance(v, Tensor)}
    weights = read_weights(network, {str(k): v for k, v in tensors.items()}, str(weights_file))
    schedule, notes = find_schedule(parts)
    check_outputs(network, schedule, parts.unet)
    if unread(raw):
        notes += (f"{MODEL} itself does not read {', '.join(unread(raw))}.",)
    if network.classes:
        notes += ("Row `classes` of its table says 'no class'; untrained, it adds nothing.",)
    name = re.sub(r"[^\w.-]+", "-", parts.folder.resolve().name).strip("-") or "imported"
    return Imported(
        run=run_of(name, network, schedule),
        weights=weights,
        shape=(network.in_channels, *size_of(raw, parts.unet)),
        source=f"{path} (diffusers)",
        notes=notes,
    )


def locate(path: Path) -> Parts | None:
    """The parts of a pipeline's folder, or of a bare unet's; None for anything else.

    Raises: ValueError for a pipeline with a unet that is not UNet2DModel, or with other parts.
    """
    index = path / "model_index.json"
    if index.is_file():
        described = read_settings(index)
        if "unet" not in described:
            return None
        check_pipeline(index, described)
        unet = path / "unet"
        return Parts(path, unet if unet.is_dir() else path, scheduler_in(path))
    if (path / "config.json").is_file() and is_unet(read_settings(path / "config.json")):
        beside = scheduler_in(path) or scheduler_in(path.parent)
        return Parts(path.parent if path.name == "unet" else path, path, beside)
    return None


def is_unet(described: Mapping[str, Any]) -> bool:
    return described.get("_class_name") == MODEL


def scheduler_in(folder: Path) -> Path | None:
    """scheduler_config.json of a pipeline's folder, in its own folder or beside the rest."""
    files = (folder / "scheduler" / SCHEDULER_FILE, folder / SCHEDULER_FILE)
    return next((file for file in files if file.is_file()), None)


def check_pipeline(index: Path, described: Mapping[str, Any]) -> None:
    """Raise ValueError unless the pipeline is a UNet2DModel and a scheduler."""
    parts = {key: value for key, value in described.items() if isinstance(value, list)}
    unet = parts.get("unet", [None])[-1]
    others = sorted(parts.keys() - {"unet", "scheduler"})
    if unet != MODEL or others:
        raise ValueError(
            f"{index} describes a {described.get('_class_name')} of unet {unet}"
            f"{' and ' + ', '.join(others) if others else ''}; pipelines of a {MODEL} and a "
            "scheduler alone can be imported."
        )


def find_weights(folder: Path) -> Path:
    """The weights, safetensors before a pickle."""
    files = [folder / f"{WEIGHTS}{suffix}" for suffix in (".safetensors", ".bin")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        there = ", ".join(sorted(file.name for file in folder.iterdir()))
        raise ValueError(f"{folder} has no {files[0].name} or {files[1].name}; it holds {there}.")
    return found


def find_schedule(parts: Parts) -> tuple[Schedule, tuple[str, ...]]:
    """The scheduler's settings, and notes on them."""
    if parts.scheduler is None:
        schedule = read_schedule({"_class_name": "DDPMScheduler"})
        said = f"No {SCHEDULER_FILE} is there: diffusers' own DDPMScheduler is taken."
        return schedule, (said, *schedule.notes)
    schedule = read_schedule(read_settings(parts.scheduler))
    return schedule, schedule.notes


def check_outputs(network: UNet2DConfig, schedule: Schedule, unet: Path) -> None:
    """Raise ValueError where the network's outputs are not what the scheduler reads."""
    wanted = network.in_channels * (2 if schedule.learned_variance else 1)
    if network.outputs != wanted or network.fourier:
        kind = "fourier" if network.fourier else "positional"
        raise ValueError(
            f"{unet / 'config.json'} has out_channels = {network.outputs} and time_embedding_type "
            f"= {kind!r}; for {network.in_channels} in_channels its scheduler wants {wanted} and "
            "'positional'."
        )


def size_of(raw: Mapping[str, Any], unet: Path) -> tuple[int, int]:
    """(H, W) of the images."""
    size = raw.get("sample_size")
    if size is None:
        raise ValueError(
            f"{unet / 'config.json'} has no sample_size: write the images' side into it, as "
            '"sample_size": 32.'
        )
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def run_of(name: str, network: UNet2DConfig, schedule: Schedule) -> Run:
    """The run: as diffusers samples it, and trained on as its example scripts do."""
    steps = schedule.process.steps
    objective: Objective = Denoising(DiscreteTimes(steps))
    if schedule.learned_variance:
        objective = Hybrid(steps)
    return Run(
        name=name,
        data=DataConfig(source=""),
        process=schedule.process,
        parameterization=schedule.parameterization,
        objective=objective,
        network=network,
        train=TrainConfig(steps=100_000, batch=64, lr=1e-4, warmup_steps=500, decay=Constant()),
        sampling=schedule.sampling,
        learned_variance=schedule.learned_variance,
        precision="fp32",
    )


# ---- from a run to a folder


def write(
    folder: Path, run: Run, weights: Mapping[str, Tensor], shape: tuple[int, int, int]
) -> tuple[str, ...]:
    """Make a folder from which DDPMPipeline or DDIMPipeline draws what the run draws.

    Args:
        folder: not there yet, or empty.
        weights: the state dict of run.network.build().
        shape: (C, H, W) of the images.

    Returns: whole sentences on how to call it, for people.
    Raises: ValueError, naming what could be exported, where diffusers has no such model.
    """
    network = exportable(run, shape)
    name, scheduler, notes = schedule_settings(run)
    pipeline = PIPELINES[name]
    if network.classes:
        notes += (f"{pipeline} passes no labels: call unet(x, t, class_labels=...) yourself.",)
    unet = {
        "_class_name": MODEL,
        "_diffusers_version": VERSION,
        **unet_settings(network, shape[1:]),
    }
    index = {
        "_class_name": pipeline,
        "_diffusers_version": VERSION,
        "scheduler": ["diffusers", name],
        "unet": ["diffusers", MODEL],
    }
    described = {"_class_name": name, "_diffusers_version": VERSION, **scheduler}
    plain = {key: value.detach().float().cpu().contiguous() for key, value in weights.items()}
    files = {
        f"unet/{WEIGHTS}.safetensors": save(plain, metadata={"format": "pt"}),
        "unet/config.json": as_json(unet),
        f"scheduler/{SCHEDULER_FILE}": as_json(described),
        "model_index.json": as_json(index),  # last: it makes a folder a pipeline
    }
    write_files(folder, files)
    return notes


def exportable(run: Run, shape: tuple[int, int, int]) -> UNet2DConfig:
    """The run's network, if diffusers has its like."""
    network = run.network
    if not isinstance(network, UNet2DConfig):
        raise ValueError(
            f"the run's network is a {type(network).__name__}; runs with a UNet2DConfig, as of "
            "--set network=UNet2DConfig, can be exported to diffusers."
        )
    if run.codec != Pixels():
        raise ValueError(
            f"the run's codec is {run.codec}; only runs on pixels can be exported to diffusers."
        )
    if network.fourier:
        raise ValueError(
            "the run's network has fourier=True, which no pipeline of diffusers drives."
        )
    height, width = shape[1:]
    if height % network.multiple or width % network.multiple:
        raise ValueError(
            f"images of {height} x {width} are padded here, but diffusers' {MODEL} takes multiples "
            f"of {network.multiple} only: train at such a --size to export."
        )
    return network


def as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write each file, in order, under a folder that must be new or empty."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds files already; choose another folder.")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
