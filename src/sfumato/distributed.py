"""Several processes that train one model: torchrun starts them, DDP or FSDP2 joins their gradients.

    torchrun --nproc-per-node 2 -m sfumato train digits

Process 0 makes the run's folder, writes and prints; the others train and are silent. Small numbers
on which they must agree go over gloo, on the CPU; gradients over NCCL where there are GPUs.
"""

import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.nn.parallel import DistributedDataParallel

from .heartbeats import LOST, Heartbeats, meeting_point, patience, served_by_torchrun
from .peers import Alone, LostPeerError, Peers, ToldError
from .saving import Say
from .stopping import StopRequest
from .training import Batch, Hooks, Loss, TrainConfig, TrainState

LONGEST = timedelta(days=1)  # of a collective call: heartbeats notice much earlier who is gone
MEETING = 300.0  # seconds in which all processes must have started; or SFUMATO_PATIENCE
WAITING = 0.1  # seconds between two looks
# Groups of processes, until the process is gone: what takes one down waits, holding Python's lock,
# for threads that may want it to let go of a tensor (PyTorch's issue 56297).
KEPT: list[Any] = []


def started_together() -> bool:
    """Whether torchrun, or what speaks like it, has started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def number_of_process() -> int:
    """This process's number among those of the run; 0 where it is one alone."""
    return int(os.environ["RANK"]) if started_together() else 0


def own_device(device: torch.device) -> torch.device:
    """This process's GPU of its machine, where GPUs are trained on."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


class Group:
    """The Peers of a process that torchrun started."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size, self._store = rank, size, store
        self.exchanging: Callable[[bool], AbstractContextManager[None]] = lambda now: nullcontext()

    def rows(self, n: int) -> slice:
        if n < self.size:
            raise ValueError(
                f"a batch of {n} can't be shared by {self.size} processes: each needs an image of "
                "its own. Give a larger --batch or start fewer processes."
            )
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def parts(self, n: int, most: int | None) -> list[slice]:
        """FSDP2 gathers weights in every part, so that each process needs as many of them.

        So parts of one row are of two in some, where the rows can't be shared evenly.
        """
        own = self.rows(n)
        rows, largest = own.stop - own.start, -(-n // self.size)
        count = min(-(-largest // (most or n)), n // self.size)
        ends = [own.start + rows * part // count for part in range(count + 1)]
        return [slice(*pair) for pair in pairwise(ends)]

    def whole(self, total: float, losses: Tensor, n: int) -> tuple[float, Tensor]:
        numbers = torch.zeros(n + 1, dtype=torch.float64)
        numbers[n], numbers[self.rows(n)] = total, losses.double().cpu()
        dist.all_reduce(numbers)
        return numbers[n].item(), numbers[:n].to(losses)

    def lead(self, value: float) -> float:
        number = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(number, 0)
        return number.item()

    def most(self, value: int) -> int:
        number = torch.tensor(value)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number.item())

    def tell(self, facts: dict[str, Any]) -> None:
        """From process 0 to all the others, once."""
        self._store.set("told", json.dumps(facts))

    def told(self) -> dict[str, Any]:
        """What process 0 tells, as soon as it does; however long it takes, while it lives."""
        while not self._store.check(["told"]):
            time.sleep(WAITING)
        found: dict[str, Any] = json.loads(self._store.get("told"))
        return found


class WholeLoss(nn.Module):
    """A model's loss as one module, whose forward pass DDP and FSDP2 can watch."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(self.model, batch)


def replicated(group: Group, model: nn.Module, loss: Loss) -> Loss:
    """The loss by DDP: each process has the whole model, and gets the mean of the gradients.

    DDP would lay out the gradients anew after its first step, and so add them up in another order
    from then on: a run that goes on would not be the one that never stopped, in its last digits.
    It leaves them as they are where it looks for parameters without a gradient.
    """
    warnings.filterwarnings("ignore", "Grad strides do not match")  # of convolutions of 1 x 1
    with warnings.catch_warnings():  # its successor came after the oldest PyTorch that will do
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
        joined = DistributedDataParallel(
            WholeLoss(model, loss), broadcast_buffers=False, find_unused_parameters=True
        )
    group.exchanging = lambda now: nullcontext() if now else joined.no_sync()
    return lambda _, batch: joined(batch)


@dataclass(frozen=True)
class Training:
    """What the loop is called with, in a process alone; `join` makes of it that of one of several.

    run: the folder. viewed: the state whole, to look at.
    """

    state: TrainState
    loss: Loss
    hooks: Hooks
    config: TrainConfig
    run: Path
    warn: Say
    viewed: Callable[[TrainState], TrainState] = lambda state: state


class Follower:
    """The hooks of the processes that write nothing."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def log(self, state: TrainState, scalars: dict[str, float]) -> None:
        """Process 0 does."""

    def preview(self, state: TrainState) -> None:
        """Process 0 does."""

    def save(self, state: TrainState) -> None:
        """Process 0 does."""

    def skipped(self, state: TrainState, reason: str) -> None:
        """Process 0 tells it."""

    def smaller(self, state: TrainState, micro_batch: int) -> None:
        """Never: see training.step_that_fits."""

    def stopped(self) -> bool:
        return self.stop.asked


def meet() -> tuple[TCPStore, int, int]:
    """(what all processes read and write, this one's number, how many they are), once all came.

    Raises: LostPeerError, naming those that did not come within MEETING.
    """
    rank, size = number_of_process(), int(os.environ["WORLD_SIZE"])
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not (host and port.isdigit() and 0 <= rank < size):
        raise ValueError(
            f"RANK={rank} and WORLD_SIZE={size} say that this process is one of several, but they "
            f"do not fit together or with MASTER_ADDR={host!r} and MASTER_PORT={port!r}: start "
            "them with torchrun, or take the four out of the environment to train alone."
        )
    seconds = patience(MEETING)
    wait = timedelta(seconds=seconds)
    serves = rank == 0 and not served_by_torchrun()
    try:
        if not serves:
            await_answer(host, int(port), seconds)
        store = TCPStore(host, int(port), size, serves, timeout=wait, wait_for_workers=False)
        absent = not_come(store, rank, size, seconds)
    except (RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise LostPeerError(
            f"process {rank} does not find {meeting_point(size)} at {host}:{port}, where all of "
            f"them meet, within {seconds:g} s ({reason})"
        ) from error
    if absent:
        raise LostPeerError(f"process {absent} of 0 to {size - 1} did not come in {seconds:g} s")
    store.set_timeout(LONGEST)
    return store, rank, size


def await_answer(host: str, port: int, seconds: float) -> None:
    """Until somebody listens there. TCPStore would wait longer than it is told.

    Raises: OSError where nobody does for so many seconds.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(WAITING)


def not_come(store: Store, rank: int, size: int, seconds: float) -> str:
    """The numbers of the processes that are not there in so many seconds; the same in all."""
    store.set(f"here/{rank}", "")
    missing, until = list(range(size)), time.monotonic() + seconds
    while missing and not store.check(["absent"]):
        missing = [other for other in missing if not store.check([f"here/{other}"])]
        if missing and time.monotonic() > until:
            store.set("absent", ", ".join(map(str, missing)))
            time.sleep(10 * WAITING)  # for the others to read it: this process may serve the store
        time.sleep(WAITING / 10)
    return store.get("absent").decode() if missing else ""


@contextmanager
def peers_of(device: torch.device) -> Iterator[Peers]:
    """The processes of this run, for as long as the block lasts.

    Raises: LostPeerError, naming it, where an error in the block comes of a process that is gone;
    ToldError where process 0 has failed in the block for the same reason.
    """
    if not started_together():
        yield Alone()
        return
    store, rank, size = meet()
    alive = Heartbeats(store.clone(), rank, size)  # type: ignore[attr-defined]
    alive.begin()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    group_store = PrefixStore("group", store)
    try:
        dist.init_process_group(
            backend, store=group_store, rank=rank, world_size=size, timeout=LONGEST
        )
        yield Group(PrefixStore("sfumato", store), rank, size)
    except BaseException as error:
        raise ended(alive, error) from error
    finally:
        KEPT.extend(dist.distributed_c10d._world.pg_map)
    dist.destroy_process_group()
    alive.stop()


def ended(alive: Heartbeats, error: BaseException) -> BaseException:
    """What an error in one of several processes is for the user; the others are told of it."""
    who = alive.blamed() if isinstance(error, RuntimeError) else ""
    if who:
        alive.leave(who, LOST)
        return LostPeerError(who)
    reason = str(error) or type(error).__name__
    alive.leave(reason)
    return ToldError(reason) if alive.repeats(reason) else error
