"""How the processes of a run train together: one alone, by DDP, or by FSDP2."""

from dataclasses import replace

from .distributed import Group, Training, replicated
from .peers import Peers


def join(peers: Peers, training: Training) -> Training:
    """The loss and hooks of one process alone, or as DDP or FSDP2 want them.

    Raises: ValueError where FSDP2 is wanted of a process alone.
    """
    if not isinstance(peers, Group):
        if training.config.fsdp:
            raise ValueError(
                "--fsdp cuts a model over several processes, and this is one alone: start it by "
                "torchrun --nproc-per-node N -m sfumato train ..., or add train.fsdp=false."
            )
        return training
    if not training.config.fsdp:
        return replace(training, loss=replicated(peers, training.state.model, training.loss))
    from . import sharding  # slow to import

    return sharding.joined(peers, training)
