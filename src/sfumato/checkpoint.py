"""Checkpoints: a training state as a folder of safetensors and JSON, no pickle.

    RUN/checkpoints/step-0001000/{weights,average,optimizer}.safetensors, state.json, manifest.json

`average` holds the weights' average (EMA), which sampling uses.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor

from .devices import circumstances
from .interop.reading import json_of, tensors_of
from .shards import whole_files
from .storage import DamagedError, commit_folder, read_folder, retire
from .training import TrainState

FORMAT = 3
ADDED: dict[int, dict[str, Any]] = {  # to state.json, by the format that began with them
    2: {"epoch_loss": 0.0, "epoch_steps": 0, "skipped": 0, "optimizer_tensors": ()},
    3: {"circumstances": {}},
}
T = TypeVar("T")
Say = Callable[[str], None]


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them: on the CPU, in one piece, and none in the memory of another."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if place in seen else value
        seen.add(place)
    return plain


SCALARS = ("step", "seconds", "previews", "epoch_loss", "epoch_steps", "skipped")


def scalars_of(state: TrainState) -> dict[str, Any]:
    """What state.json holds."""
    moments, groups = optimizer_tensors(state)
    numbers = {name: getattr(state, name) for name in SCALARS}
    rest = {"optimizer_groups": groups, "optimizer_tensors": sorted(moments)}
    now = circumstances(next(state.model.parameters()).device)
    return {"format": FORMAT, **numbers, "circumstances": now, **rest}


def take_scalars(state: TrainState, scalars: dict[str, Any]) -> None:
    """Undo scalars_of, but for the optimizer. Raises: ValueError that names what is missing."""
    for name in SCALARS:
        setattr(state, name, entry(scalars, name))


def files_of(state: TrainState) -> dict[str, bytes]:
    """The content of a checkpoint's files."""
    moments, _ = optimizer_tensors(state)
    scalars = scalars_of(state)
    return {
        "weights.safetensors": save(_plain(state.model.state_dict())),
        "average.safetensors": save(_plain(state.average.state_dict())),
        "optimizer.safetensors": save(_plain(moments)),
        "state.json": json.dumps(scalars, indent=1).encode(),
    }


def restore(state: TrainState, files: dict[str, bytes]) -> None:
    """Make `state`, freshly built from the same run.json, the saved one.

    Raises: ValueError, before anything is changed but weights, where the files are of a newer
    format or another network, or where one entry of what training needs is missing: none of them is
    made up.
    """
    scalars = scalars_in(files)
    try:
        state.model.load_state_dict(
            tensors_of(entry(files, "weights.safetensors"), "weights.safetensors")
        )
        state.average.load_state_dict(
            tensors_of(entry(files, "average.safetensors"), "average.safetensors")
        )
    except RuntimeError as error:
        raise ValueError(f"the checkpoint is of another network than run.json: {error}") from error
    moments = tensors_in(files, "optimizer.safetensors")
    for name in entry(scalars, "optimizer_tensors"):
        entry(moments, name)
    load_optimizer(state, moments, entry(scalars, "optimizer_groups"))
    take_scalars(state, scalars)


def tensors_in(files: dict[str, bytes], name: str) -> dict[str, Tensor]:
    """A file's tensors. Raises: ValueError, naming it, where it is missing or holds none."""
    return tensors_of(entry(files, name), name)


def scalars_in(files: dict[str, bytes]) -> dict[str, Any]:
    """state.json, with what checkpoints of older formats did not have.

    Raises: ValueError for a newer format.
    """
    scalars = json_of(entry(files, "state.json"), "state.json")
    number = entry(scalars, "format")
    if number > FORMAT:
        raise ValueError(
            f"the checkpoint has format {number}, this sfumato reads up to {FORMAT}: update "
            "sfumato."
        )
    for newer in range(number + 1, FORMAT + 1):
        scalars = {**ADDED[newer], **scalars}
    entry(scalars, "circumstances")
    return scalars


def changed_circumstances(files: dict[str, bytes], device: torch.device) -> str:
    """What of the machine is not as it was when these files were written, in words."""
    before, now = scalars_in(files)["circumstances"], circumstances(device)
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    return "; ".join(f"{name} {before[name]} then, {now[name]} now" for name in changed)


def entry(found: dict[str, T], name: str) -> T:
    """found[name]. Raises: ValueError that names what is missing."""
    if name not in found:
        raise ValueError(
            f"the checkpoint lacks {name!r}, without which the run can't go on exactly: it was "
            "changed by hand or by another program. Use an older checkpoint."
        )
    return found[name]


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


def best_loss(run: Path) -> float | None:
    """The least held-out loss of those that are kept as best; None where none is."""
    told = (json.loads((path / "state.json").read_bytes()) for path in best_folders(run))
    return min((one["loss"] for one in told), default=None)


NAME = re.compile(r"step-\d{9,}")


def folders(run: Path) -> list[Path]:
    """The run's committed checkpoints, oldest first; what has other names is not ours."""
    found = [p for p in (run / "checkpoints").glob("step-*") if NAME.fullmatch(p.name)]
    return sorted((path for path in found if path.is_dir()), key=step_of)


def write(run: Path, state: TrainState, keep: int, keep_every: int | None = None) -> Path:
    """Commit a checkpoint of this step, then remove old ones; see rotate."""
    return commit(run, state.step, files_of(state), keep, keep_every)


def commit(
    run: Path, step: int, files: dict[str, bytes], keep: int, keep_every: int | None = None
) -> Path:
    """write for a state that was turned into files before."""
    target = folder_of(run, step)
    if not target.exists():
        commit_folder(target, files)
    rotate(run, keep, keep_every)
    return target


def rotate(run: Path, keep: int, keep_every: int | None = None) -> None:
    """Remove all but the newest `keep`, and those whose step is a multiple of `keep_every`."""
    for old in folders(run)[: -max(1, keep)]:
        if not (keep_every and step_of(old) % keep_every == 0):
            retire(old)


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:09d}"


def step_of(folder: Path) -> int:
    return int(folder.name.partition("-")[2])


def _set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint to NAME.corrupt, or NAME.2.corrupt where that is taken."""
    names = [f"{folder.name}.corrupt", *(f"{folder.name}.{n}.corrupt" for n in range(2, 1000))]
    aside = next(path for path in map(folder.with_name, names) if not path.exists())
    return folder.rename(aside)


def read(folder: Path) -> dict[str, bytes]:
    """A checkpoint's files as one process writes them, each checked. Raises: as read_folder."""
    return whole_files(read_folder(folder))


def newest(
    run: Path,
    say: Say | None = None,
    mend: bool = True,
    read: Callable[[Path], dict[str, bytes]] = read,
) -> tuple[Path, dict[str, bytes]] | None:
    """The newest checkpoint that is whole, and its files; None where there is none.

    A damaged one is told of and the one before it tried; mend, which is for the run's own process,
    renames it to NAME.corrupt.
    """
    for folder in reversed(folders(run)):
        try:
            return folder, read(folder)
        except DamagedError as error:
            aside = _set_aside(folder) if mend else folder
            if say is not None:
                say(f"Damaged checkpoint: {error} It is {aside.name}; the one before is taken.")
    return None


# --- the optimizer


def optimizer_tensors(state: TrainState) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The optimizer's state as tensors named PARAMETER.KEY, and its groups' settings."""
    names = [name for name, _ in state.model.named_parameters()]
    saved = state.optimizer.state_dict()
    tensors = {
        f"{names[index]}.{key}": value
        for index, entry in saved["state"].items()
        for key, value in entry.items()
    }
    return tensors, saved["param_groups"]


def laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """The value with its numbers in the parameter's order in memory, where it has its shape.

    Files hold rows one after another. The fused AdamW takes parameter and moments as they lie, so
    those of a channels-last weight would be shuffled against it.
    """
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter.detach(), dtype=value.dtype, device=value.device).copy_(value)


def load_optimizer(
    state: TrainState, tensors: dict[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Undo optimizer_tensors."""
    entries: dict[int, dict[str, Tensor]] = {}
    parameters = dict(state.model.named_parameters())
    numbers = {name: number for number, name in enumerate(parameters)}
    for name, value in tensors.items():
        owner, _, key = name.rpartition(".")
        entries.setdefault(numbers[owner], {})[key] = laid_out(value, parameters[owner])
    state.optimizer.load_state_dict({"state": entries, "param_groups": groups})
