"""Several processes of one run as forks: what torchrun would start, without importing anew."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato import checkpoint, trainer
from sfumato.distributed import Training
from sfumato.folder import read_metrics
from sfumato.peers import Peers
from sfumato.training import Batch

from .kills import COMMAND
from .nursery import exit_code

PATIENCE = "8"  # seconds: SFUMATO_PATIENCE
LIMIT = 15.0  # seconds in which all must have ended
WORDS = [*COMMAND, "--previews", "0"]
Arrange = Callable[[int], None]  # (rank): done in each process before it begins
AtStep = Callable[[int, int, Tensor], Tensor]  # (rank, finished steps, losses) to losses


@dataclass(frozen=True)
class Ranks:
    """Processes that run, and the files that they write."""

    numbers: list[int]
    told: Path  # a folder: RANK.err and RANK.rows

    def ended(self, limit: float) -> list[int | None]:
        """Exit codes in order; None for one that still ran after `limit` seconds, and is killed."""
        until, codes = time.monotonic() + limit, [_ended(number) for number in self.numbers]
        while None in codes and time.monotonic() < until:
            time.sleep(0.02)
            codes = [
                _ended(number) if code is None else code
                for number, code in zip(self.numbers, codes, strict=True)
            ]
        for number, code in zip(self.numbers, codes, strict=True):
            if code is None:
                os.kill(number, signal.SIGKILL)
                os.waitpid(number, 0)
        return codes

    def words(self, rank: int) -> str:
        """What a process wrote to its standard error."""
        return (self.told / f"{rank}.err").read_text()

    def rows(self, rank: int) -> list[tuple[int, list[str]]]:
        """(finished steps, the examples) of each batch that a process trained on."""
        path = self.told / f"{rank}.rows"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def batches(self) -> dict[int, list[str]]:
        """The examples of each step, those of process 0 first."""
        found: dict[int, list[str]] = {}
        for rank in range(len(self.numbers)):
            for step, examples in self.rows(rank):
                found.setdefault(step, []).extend(examples)
        return found


def _ended(number: int) -> int | None:
    """The exit code of a process that has ended, None while it runs."""
    if os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return None
    return exit_code(number)


def as_given(rank: int, step: int, losses: Tensor) -> Tensor:
    return losses


def nothing(rank: int) -> None: ...


def started(
    words: list[str],
    size: int,
    told: Path,
    arrange: Arrange = nothing,
    at_step: AtStep = as_given,
) -> Ranks:
    """The command in `size` processes; one is alone, as without torchrun."""
    told.mkdir(parents=True, exist_ok=True)
    port = free_port()
    numbers = []
    for rank in range(size):
        number = os.fork()
        if not number:
            _be(rank, size, port, told, partial(_work, words, rank, told, arrange, at_step))
        numbers.append(number)
    return Ranks(numbers, told)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _be(rank: int, size: int, port: int, told: Path, work: Callable[[], int]) -> None:
    """In the fork: have the environment that torchrun makes, work, and end."""
    code = 1
    with contextlib.suppress(BaseException):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
        where |= {"RANK": str(rank), "WORLD_SIZE": str(size)} if size > 1 else {}
        os.environ.update({**where, "SFUMATO_PATIENCE": PATIENCE, "GLOO_SOCKET_IFNAME": "lo"})
        os.dup2(os.open(told / f"{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        code = work()
    os._exit(code)


def _work(words: list[str], rank: int, told: Path, arrange: Arrange, at_step: AtStep) -> int:
    from sfumato.__main__ import main

    note_examples(rank, told / f"{rank}.rows", at_step)
    arrange(rank)
    sys.argv = ["sfumato", *words]
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def note_examples(rank: int, path: Path, at_step: AtStep) -> None:
    """From here on each part of a batch that is trained on is noted, and given to at_step."""
    before = trainer.join
    path.unlink(missing_ok=True)

    def join(peers: Peers, training: Training) -> Training:
        state, loss = training.state, training.loss

        def noted(model: nn.Module, batch: Batch) -> Tensor:
            with open(path, "a") as file:
                file.write(json.dumps([state.step, examples_of(batch)]) + "\n")
            return at_step(rank, state.step, loss(model, batch))

        return before(peers, replace(training, loss=noted))

    trainer.join = join


def examples_of(batch: Batch) -> list[str]:
    """A digest of each row: its pixels, label, time and noise."""
    n = len(batch["u"])
    return [
        hashlib.sha256(
            b"".join(batch[name][row].contiguous().numpy().tobytes() for name in sorted(batch))
        ).hexdigest()[:12]
        for row in range(n)
    ]


def stop_after(step: int, victim: int = 0) -> AtStep:
    """SIGTERM to one of the processes in the middle of a step."""

    def at_step(rank: int, finished: int, losses: Tensor) -> Tensor:
        if rank == victim and finished == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    return at_step


def command(run: Path, steps: int, *more: str) -> list[str]:
    """The words to begin a run, or to go on with it."""
    resume = ["--resume"] if (run / "run.json").exists() else []
    return [*WORDS, *more, "--steps", str(steps), "--out", str(run), *resume]


def losses_of(run: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(run) if row["kind"] == "train"}


def end_of(run: Path) -> list[Any]:
    """[digest of weights, averages and moments, every logged loss]: the same where runs are."""
    found = checkpoint.newest(run, mend=False)
    if found is None:
        return []
    parts = (found[1][f"{name}.safetensors"] for name in ("weights", "average", "optimizer"))
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    return [checkpoint.step_of(found[0]), digest, sorted(losses_of(run).items())]
