"""How the processes of a run train together: one alone, by DDP, or by FSDP2."""

from pathlib import Path

from .distributed import Group, Joined, replicated
from .peers import Peers
from .saving import Say
from .training import Hooks, Loss, TrainConfig, TrainState


def join(
    peers: Peers,
    state: TrainState,
    loss: Loss,
    hooks: Hooks,
    config: TrainConfig,
    run: Path,
    warn: Say,
) -> Joined:
    """The loss and hooks of one process alone, or as DDP or FSDP2 want them.

    Raises: ValueError where FSDP2 is wanted of a process alone.
    """
    if not isinstance(peers, Group):
        if config.fsdp:
            raise ValueError(
                "--fsdp cuts a model over several processes, and this is one alone: start it by "
                "torchrun --nproc-per-node N -m sfumato train ..., or add train.fsdp=false."
            )
        return Joined(loss, hooks)
    if not config.fsdp:
        return Joined(replicated(peers, state.model, loss), hooks)
    from . import sharding  # slow to import

    return sharding.joined(peers, state, loss, hooks, config, run, warn)
