"""Numbers that are not finite, averages, and memory that is short: N1, N2, N4, D6."""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn

from sfumato import checkpoint, ema
from sfumato.assembly import batches, build, loss_of
from sfumato.config import Run
from sfumato.data import generator_at
from sfumato.training import Batch, TrainState, take_step, train

from .drill import Count, Drill
from .kills import COMMAND
from .nursery import command, exit_code, forked
from .resuming import CPU, Quiet, contents, images, run_with

STEPS = 12
ROW = 10  # bad batches that end a run; docs/reliability.md promises it
BAD = (float("nan"), float("inf"), -float("inf"))


class Counting(Quiet):
    """Notes what was left out."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__(stop_at)
        self.left_out: list[int] = []
        self.saved: list[dict[str, bytes]] = []

    def skipped(self, state: TrainState, reason: str) -> None:
        self.left_out.append(state.step)

    def save(self, state: TrainState) -> None:
        self.saved.append(checkpoint.files_of(state))


def without(run: Run, skipped: set[int]) -> TrainState:
    """The state of a run that never looked at these batches."""
    state = TrainState.fresh(build(run, CPU), run.train)
    loss, batch_at = loss_of(run), batches(run, images(), CPU)
    for step in range(STEPS):
        torch.manual_seed(generator_at(run.train.seed, "dropout", step).initial_seed())
        if step in skipped:
            state.step, state.skipped = state.step + 1, state.skipped + 1
        else:
            take_step(state, loss, batch_at(step), run.train)
    return state


def with_fault(run: Run, kind: str, at: int, value: float) -> tuple[TrainState, Counting]:
    """A run in which one number of one step is `value`: in the loss, a gradient, noise, a time."""
    state = TrainState.fresh(build(run, CPU), run.train)
    loss, batch_at, hooks = loss_of(run), batches(run, images(), CPU), Counting()
    weight = next(state.model.parameters())

    def broken_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        losses = loss(model, batch)
        return losses * value if kind == "loss" and state.step == at and model.training else losses

    def broken_batch(step: int) -> Batch:
        batch = batch_at(step)
        if step == at and kind in ("eps", "u"):
            batch[kind] = batch[kind].clone()
            batch[kind].view(-1)[3] = value
        return batch

    def broken_gradient(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * value if kind == "gradient" and state.step == at else gradient

    weight.register_hook(broken_gradient)
    train(state, broken_loss, broken_batch, replace(run.train, steps=STEPS), hooks)
    return state, hooks


def same(first: TrainState, second: TrainState) -> bool:
    """Everything but the clock and the mean loss of the epoch, which a reference does not keep."""
    found = []
    for state in (first, second):
        clone = replace(state, epoch_loss=0.0, epoch_steps=0, previews=0)
        found.append(contents(clone))
    return found[0] == found[1]


def n1(short: bool) -> Count:
    """One number that is not finite: that batch is left out, and all else is as without it."""
    dice, tried, held = random.Random(1), 6 if short else 200, 0
    run = run_with(micro_batch=5, flip=True, label_dropout=0.3, steps=STEPS)
    clean = cache(lambda at: without(run, {at}))
    for number in range(tried):
        kind = ("loss", "gradient", "eps", "u")[number % 4]
        at, value = dice.randrange(STEPS), dice.choice(BAD)
        state, hooks = with_fault(run, kind, at, value)
        held += hooks.left_out == [at + 1] and same(state, clean(at))
    return Count(tried, held, "in the loss, a gradient, the noise and the time")


def n2(short: bool) -> Count:
    """Ten such batches in a row stop the run; what was saved is finite, as after the last good."""
    tried, held = 2 if short else 12, _nine_go_on() + forked("numerics:tells_by_its_code")
    for begin in range(tried):
        run = run_with(steps=begin + 30)
        state = TrainState.fresh(build(run, CPU), run.train)
        loss, batch_at, hooks = loss_of(run), batches(run, images(), CPU), Counting()

        def broken(step: int, begin: int = begin, batch_at: Any = batch_at) -> Batch:
            batch = batch_at(step)
            if step >= begin:
                batch["eps"][0] = float("nan")
            return batch

        try:
            train(state, loss, broken, run.train, hooks)
        except FloatingPointError as error:
            told = f"{ROW} batches in a row" in str(error)
            last = TrainState.fresh(build(run, CPU), run.train)
            checkpoint.restore(last, hooks.saved[-1])
            tensors = [*last.model.state_dict().values(), *last.average.state_dict().values()]
            finite = all(bool(torch.isfinite(value).all()) for value in tensors)
            held += told and finite and len(hooks.left_out) == ROW - 1
    return Count(tried + 2, held, "nine in a row go on; the command's exit code is 3")


def _nine_go_on() -> bool:
    """Nine bad batches, a good one, nine bad ones: left out, and the run ends as any."""
    run = run_with(steps=2 * ROW)
    state = TrainState.fresh(build(run, CPU), run.train)
    batch_at, hooks = batches(run, images(), CPU), Counting()

    def broken(step: int) -> Batch:
        batch = batch_at(step)
        if (step + 1) % ROW:
            batch["eps"][0] = float("nan")
        return batch

    try:
        train(state, loss_of(run), broken, run.train, hooks)
    except FloatingPointError:
        return False
    return len(hooks.left_out) == state.skipped == 2 * (ROW - 1)


def tells_by_its_code() -> bool:
    """The command at a rate that no weights survive: exit code 3, and what it saved is finite."""
    with TemporaryDirectory() as root:
        run = Path(root, "run")
        code = exit_code(command([*COMMAND, "--steps", "40", "--lr", "1e30", "--out", str(run)]))
        files = checkpoint.newest(run, mend=False)
        saved = load(files[1]["weights.safetensors"]).values() if files else ()
        return code == 3 and bool(saved) and all(bool(value.isfinite().all()) for value in saved)


def n4(short: bool) -> Count:
    """The average of a thousand steps is its closed form: a weighted mean of all of them."""
    held, lengths, steps = 0, (0.02, 0.1, 0.25), 1000
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(steps, 9, generator=generator, dtype=torch.float64)
    for length in lengths:
        average, moving = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
        for step in range(1, steps + 1):
            moving.weight.data.copy_(values[step - 1].view(3, 3))
            ema.update(average, moving, ema.decay_at(step, length))
        wanted = (profile(steps, length)[:, None] * values).sum(0).view(3, 3)
        held += bool(torch.allclose(average.weight, wanted, rtol=0, atol=1e-6))
    return Count(len(lengths), held, "widths 0.02, 0.1 and 0.25 of the run")


def profile(steps: int, length: float) -> Tensor:
    """(steps,) the weights of 1 .. n in the average after n steps: (k^p - (k-1)^p) / n^p.

    They are the masses of the density p x^(p-1) on (0, 1), cut into n parts. Its variance is
    p / ((p + 1)^2 (p + 2)), and p is where that is the square of `length`.
    """
    low, high = 1.0, 1e4  # the variance falls from 1/12
    for _ in range(200):
        p = (low + high) / 2
        low, high = (p, high) if p / ((p + 1) ** 2 * (p + 2)) > length**2 else (low, p)
    ends = (torch.arange(steps + 1, dtype=torch.float64) / steps) ** p
    return ends.diff()


def d6(short: bool) -> Count:
    """A batch that memory is too short for is run in parts, with the same result."""
    tried = held = 0
    for most in (1, 5) if short else (1, 2, 3, 5, 7):
        run = run_with(micro_batch=None, steps=4)
        still = replace(run, network=replace(run.network, dropout=0.0))
        loss = loss_of(run)

        state, hooks = TrainState.fresh(build(run, CPU), run.train), Parts()

        def tight(
            model: nn.Module,
            batch: Batch,
            most: int = most,
            loss: Any = loss,
            state: TrainState = state,
        ) -> torch.Tensor:
            if len(batch["u"]) > most and state.step >= 2:  # before, dropout changes no weight
                torch.rand(5)  # it had begun to draw
                raise torch.OutOfMemoryError("no memory is left")
            return loss(model, batch)

        train(state, tight, batches(run, images(), CPU), run.train, hooks)
        wanted = TrainState.fresh(build(run, CPU), run.train)
        told = replace(run.train, micro_batch=hooks.parts[-1])
        for config, stop in ((run.train, 2), (told, None)):
            train(wanted, loss, batches(run, images(), CPU), config, Quiet(stop))
        fits = hooks.parts == PARTS[: len(hooks.parts)] and hooks.parts[-1] <= most
        held += fits and same(state, wanted)
        whole = _logged(still, None)  # the optimizer is blind to a gradient's scale, the log is not
        held += all(close(_logged(still, size), whole) for size in (5, hooks.parts[-1]))
        tried += 2
    return Count(tried, held, "halved until it fits, and remembered; the same to rounding")


PARTS = [6, 3, 1]  # of a batch of 12


def _logged(run: Run, micro_batch: int | None) -> Tensor:
    """(steps, 2): the loss and the gradient's norm of each step."""
    state, hooks = TrainState.fresh(build(run, CPU), run.train), Quiet()
    config = replace(run.train, micro_batch=micro_batch)
    train(state, loss_of(run), batches(run, images(), CPU), config, hooks)
    return torch.tensor([(row["loss"], row["grad_norm"]) for row in hooks.rows.values()])


def close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-3, atol=0)


class Parts(Quiet):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[int] = []

    def smaller(self, state: TrainState, micro_batch: int) -> None:
        self.parts.append(micro_batch)


DRILLS: dict[str, Drill] = {"N1": n1, "N2": n2, "N4": n4, "D6": d6}
