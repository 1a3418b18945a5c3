"""Checkpoints: a training state as a folder of safetensors and JSON, no pickle.

    RUN/checkpoints/step-0001000/{weights,average,optimizer}.safetensors, state.json, manifest.json

`average` holds the weights' average (EMA), which sampling uses.
"""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from .storage import DamagedError, commit_folder, read_folder, retire
from .training import TrainState, load_optimizer, optimizer_tensors

FORMAT = 1
Say = Callable[[str], None]


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def files_of(state: TrainState) -> dict[str, bytes]:
    """The content of a checkpoint's files."""
    moments, groups = optimizer_tensors(state)
    scalars = {
        "format": FORMAT,
        "step": state.step,
        "seconds": state.seconds,
        "previews": state.previews,
        "epoch_loss": state.epoch_loss,
        "epoch_steps": state.epoch_steps,
        "optimizer_groups": groups,
    }
    return {
        "weights.safetensors": save(_plain(state.model.state_dict())),
        "average.safetensors": save(_plain(state.average.state_dict())),
        "optimizer.safetensors": save(_plain(moments)),
        "state.json": json.dumps(scalars, indent=1).encode(),
    }


def restore(state: TrainState, files: dict[str, bytes]) -> None:
    """Make `state`, freshly built from the same run.json, the saved one.

    Raises: ValueError where the files are of a newer format or another network.
    """
    scalars = json.loads(files["state.json"])
    if scalars["format"] > FORMAT:
        raise ValueError(
            f"the checkpoint has format {scalars['format']}, this sfumato reads up to {FORMAT}: "
            "update sfumato."
        )
    try:
        state.model.load_state_dict(load(files["weights.safetensors"]))
        state.average.load_state_dict(load(files["average.safetensors"]))
    except RuntimeError as error:
        raise ValueError(f"the checkpoint is of another network than run.json: {error}") from error
    load_optimizer(state, load(files["optimizer.safetensors"]), scalars["optimizer_groups"])
    state.step, state.seconds = scalars["step"], scalars["seconds"]
    state.previews = scalars["previews"]
    state.epoch_loss = scalars.get("epoch_loss", 0.0)  # not in the first runs
    state.epoch_steps = scalars.get("epoch_steps", 0)


def write_best(run: Path, state: TrainState, loss: float) -> None:
    """Keep the average as RUN/best/step-N, in place of the one that was best before."""
    files = {
        "average.safetensors": save(_plain(state.average.state_dict())),
        "state.json": json.dumps({"format": FORMAT, "step": state.step, "loss": loss}).encode(),
    }
    target = run / "best" / f"step-{state.step:09d}"
    if not target.exists():
        commit_folder(target, files)
    for old in best_folders(run):
        if old != target:
            retire(old)


def best_folders(run: Path) -> list[Path]:
    """The committed best averages: one, or two where a crash came between writing and removing."""
    return sorted(path for path in (run / "best").glob("step-*") if path.suffix == "")


def folders(run: Path) -> list[Path]:
    """The run's committed checkpoints, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.suffix == "")


def write(run: Path, state: TrainState, keep: int) -> Path:
    """Commit a checkpoint of this step, then remove all but the newest `keep`."""
    target = run / "checkpoints" / f"step-{state.step:09d}"
    if not target.exists():
        commit_folder(target, files_of(state))
    for old in folders(run)[: -max(1, keep)]:
        retire(old)
    return target


def _set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint to NAME.corrupt, or NAME.2.corrupt where that is taken."""
    names = [f"{folder.name}.corrupt", *(f"{folder.name}.{n}.corrupt" for n in range(2, 1000))]
    aside = next(path for path in map(folder.with_name, names) if not path.exists())
    return folder.rename(aside)


def newest(
    run: Path, say: Say | None = None, mend: bool = True
) -> tuple[Path, dict[str, bytes]] | None:
    """The newest checkpoint that is whole, and its files; None where there is none.

    A damaged one is told of and the one before it tried; mend, which is for the run's own process,
    renames it to NAME.corrupt.
    """
    for folder in reversed(folders(run)):
        try:
            return folder, read_folder(folder)
        except DamagedError as error:
            aside = _set_aside(folder) if mend else folder
            if say is not None:
                say(f"Damaged checkpoint: {error} It is {aside.name}; the one before is taken.")
    return None
