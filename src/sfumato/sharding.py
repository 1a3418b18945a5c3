"""Models larger than a device: FSDP2 cuts weights, average and moments over the processes.

    torchrun --nproc-per-node 8 -m sfumato train FOLDER --fsdp

Each process keeps a part of every tensor, gathers a block's weights for as long as the block runs,
and writes its parts by torch's distributed checkpoints (DCP), as safetensors. Such a checkpoint is
read by any number of processes, and by one without FSDP.
"""

import copy
import errno
import json
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from . import checkpoint
from .distributed import Group, Training, WholeLoss
from .saving import Failures
from .shards import PARTS, in_shards, named
from .storage import TEMPORARY, commit_written, make_folders, remove_tree, remove_what_can_be
from .training import Loss, TrainConfig, TrainState, optimizer_of


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The outermost modules in lists, each of which runs on its own: what is gathered at once."""
    found: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            found += [block for block in child if any(True for _ in block.parameters())]
        else:
            found += blocks_of(child)
    return found


def joined(group: Group, training: Training) -> Training:
    """Cut the state in place, filled from a checkpoint in shards if it is at the step of one."""
    state, run = training.state, training.run
    plain = whole_copy(state) if group.rank == 0 else None
    root = cut_state(state, training.loss, training.config)

    def exchanging(now: bool) -> AbstractContextManager[None]:
        root.set_requires_gradient_sync(now)  # type: ignore[operator]
        return nullcontext()

    group.exchanging = exchanging
    saved = checkpoint.folder_of(run, state.step)
    if saved.exists() and in_shards(saved):
        read(saved, state)
    hooks = ShardedHooks(training, group, plain)
    return replace(training, loss=lambda _, batch: root(batch), hooks=hooks, viewed=hooks.last_look)


def cut_state(state: TrainState, loss: Loss, config: TrainConfig) -> nn.Module:
    """Cut weights, average and moments in place; the loss of a batch as the weights' root."""
    # A block may return a view of its input's memory; nothing here changes one in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    moments, groups = checkpoint.optimizer_tensors(state)
    for parameter in (*state.model.parameters(), *state.average.parameters()):
        parameter.data = parameter.data.contiguous()  # FSDP2 takes no channels-last weights
    root = WholeLoss(state.model, loss)
    for model, top in ((state.model, root), (state.average, state.average)):
        for block in blocks_of(model):
            fully_shard(block)
        fully_shard(top)
    state.optimizer = optimizer_of(state.model, config)
    parameters = dict(state.model.named_parameters())
    mine = {
        name: _part_like(value, parameters[name.rpartition(".")[0]])
        for name, value in moments.items()
    }
    checkpoint.load_optimizer(state, mine, groups)
    return root


def _part_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a whole value, cut as the parameter of its shape is."""
    if value.shape != parameter.shape or not isinstance(parameter, DTensor):
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


# --- checkpoints


def tensors_of(state: TrainState) -> dict[str, Tensor]:
    """All tensors of a state, named PART.NAME, each as this process has it."""
    moments, _ = checkpoint.optimizer_tensors(state)
    parts = (state.model.state_dict(), state.average.state_dict(), moments)
    return {
        f"{part}.{name}": value
        for part, tensors in zip(PARTS, parts, strict=True)
        for name, value in tensors.items()
    }


def write(run: Path, state: TrainState, group: Group, config: TrainConfig) -> None:
    """Commit a checkpoint of a cut state, written by all processes at once.

    Raises: OSError where the disk refuses one of them, in all of them; what was written by then is
    removed.
    """
    target = checkpoint.folder_of(run, state.step)
    temporary = target.with_name(TEMPORARY + target.name)
    if not group.lead(float(not target.exists())):
        return
    leads = group.rank == 0
    try:
        _in_all(group, target, lambda: _emptied(temporary) if leads else None)
        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        tensors = tensors_of(state)
        _in_all(group, target, lambda: _saved(tensors, writer))
        scalars = json.dumps(checkpoint.scalars_of(state), indent=1).encode()
        files = {"state.json": scalars}
        _in_all(group, target, lambda: commit_written(temporary, target, files) if leads else None)
    except OSError:
        if leads and temporary.exists():
            remove_what_can_be(temporary)
        raise
    keep = (config.keep, config.keep_every)
    _in_all(group, target, lambda: checkpoint.rotate(run, *keep) if leads else None)


def _in_all(group: Group, target: Path, work: Callable[[], None]) -> None:
    """Do it in each process. Raises: OSError in all of them, where one or more could not."""
    refused: OSError | None = None
    try:
        work()
    except OSError as error:
        refused = error
    if not group.most(int(refused is not None)):
        return
    if refused is None:
        refused = OSError(errno.EIO, f"could not write {target}: another process tells why")
    raise refused


def _emptied(folder: Path) -> None:
    if folder.exists():
        remove_tree(folder)
    make_folders(folder)


def _saved(tensors: dict[str, Tensor], writer: HuggingFaceStorageWriter) -> None:
    """Raises: OSError, with the reason of the first process that the disk refused."""
    try:
        save(tensors, storage_writer=writer)
    except CheckpointException as error:  # one and the same in all processes
        reasons = {rank: found for rank, (found, _) in sorted(error.failures.items())}
        refused = {rank: found for rank, found in reasons.items() if _is_of_the_disk(found)}
        if len(refused) < len(reasons):
            raise RuntimeError(f"a checkpoint could not be written: {reasons}") from error
        rank, first = next(iter(refused.items()))
        number = getattr(first, "errno", None) or errno.EIO
        raise OSError(number, f"process {rank} could not write its part: {first}") from error


def _is_of_the_disk(error: BaseException) -> bool:
    """Also as safetensors tells it, in a class of its own."""
    return isinstance(error, OSError) or "I/O error" in str(error) or "IoError" in str(error)


def read(folder: Path, state: TrainState) -> None:
    """Fill a cut state from a checkpoint that `write` made, whatever number of processes wrote it.

    The folder's files are taken to be whole: see shards.read_checked.
    """
    scalars = checkpoint.scalars_in({"state.json": (folder / "state.json").read_bytes()})
    for parameter in state.model.parameters():
        zero = torch.zeros((), dtype=torch.float32)
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        state.optimizer.state[parameter] = {"step": zero, **moments} if scalars["step"] else {}
    tensors = tensors_of(state)
    load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))
    for part, model in zip(PARTS, (state.model, state.average), strict=False):
        model.load_state_dict(named(tensors, part))
    checkpoint.load_optimizer(state, named(tensors, PARTS[2]), scalars["optimizer_groups"])
    checkpoint.take_scalars(state, scalars)


# --- looking at a cut state


class ShardedHooks:
    """Hooks for a cut state: all processes save, and gather it where process 0 looks at it."""

    def __init__(self, training: Training, group: Group, plain: TrainState | None) -> None:
        self.hooks, self.run, self.config = training.hooks, training.run, training.config
        self.group, self.plain = group, plain  # plain: of process 0, to look at
        self.failures = Failures(training.warn)
        self.refusal: OSError | None = None  # of the last save
        self.log, self.skipped, self.smaller = (
            self.hooks.log,
            self.hooks.skipped,
            self.hooks.smaller,
        )
        self.stopped = self.hooks.stopped

    def preview(self, state: TrainState) -> None:
        seen = self.gather(state)
        self.hooks.preview(seen)
        state.previews = int(self.group.lead(seen.previews))

    def save(self, state: TrainState) -> None:
        """Raises: OSError where this is the third in a row that could not be written."""
        self.refusal = None
        try:
            write(self.run, state, self.group, self.config)
        except OSError as error:
            self.refusal = error
            self.failures.add(error)
        else:
            self.failures.count = 0

    def last_look(self, state: TrainState) -> TrainState:
        """gather, after the last save. Raises: OSError where it failed: no later one will do."""
        if self.refusal is not None:
            raise self.refusal
        return self.gather(state)

    def gather(self, state: TrainState) -> TrainState:
        """The state whole, but for the moments; in other processes than 0 the cut state itself."""
        for part in ("model", "average"):
            into = {} if self.plain is None else getattr(self.plain, part).state_dict()
            for name, value in getattr(state, part).state_dict().items():
                found = value.full_tensor() if isinstance(value, DTensor) else value
                if name in into:
                    into[name].copy_(found)
        if self.plain is None:
            return state
        for name in checkpoint.SCALARS:
            setattr(self.plain, name, getattr(state, name))
        return self.plain


def whole_copy(state: TrainState) -> TrainState:
    """A state of its own with these weights, before they are cut, to look at later."""
    model, average = copy.deepcopy(state.model), copy.deepcopy(state.average)
    return TrainState(model, average, state.optimizer)
