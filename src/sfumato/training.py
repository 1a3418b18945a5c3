"""Training: the loop, its state, and nothing about diffusion.

A batch is a dict of tensors with one row an example, and a pure function of the step; the loss is
a function of model and batch. So a run that stops anywhere and goes on is the run that never did.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from . import ema
from .data.batches import generator_at
from .devices import is_out_of_memory, read
from .peers import Alone, Peers
from .schedules import LinearDecay, Schedule

WARMUP_SHARE = 0.1  # of the budget, at most
Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
ALONE = Alone()


@dataclass(frozen=True)
class TrainConfig:
    """How to optimize. The budget is the first reached of steps, images, epochs and seconds.

    batch counts the images of an optimizer step, over all micro-batches; micro_batch is the most
    that is run at once. The rate follows the budget: under one of seconds the clock, so that only
    the other budgets can be repeated bit for bit. epoch_images, the size of an epoch, is filled in
    from the data. compiled: by torch.compile.
    """

    steps: int | None = None
    images: int | None = None
    epochs: float | None = None
    seconds: float | None = None
    epoch_images: int = 0
    batch: int = 64
    micro_batch: int | None = None
    lr: float = 2e-3
    warmup_steps: int = 100
    decay: Schedule = LinearDecay()
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    ema_length: float = 0.1  # width of the weights' average, as a share of the run so far
    seed: int = 0
    save_every_steps: int | None = None
    save_every_seconds: float = 60.0  # or 30 times what a save takes, if that is longer
    keep: int = 2  # checkpoints, the newest
    keep_every: int | None = None  # and those of every so many steps
    previews: int = 12  # sample grids and held-out losses, denser at the start
    preview_epochs: float | None = None  # instead: one every so many epochs
    compiled: bool = False
    fsdp: bool = False  # cut weights, average and moments over the processes: FSDP2

    def __post_init__(self) -> None:
        if all(b is None for b in (self.steps, self.images, self.epochs, self.seconds)):
            raise ValueError(
                "a run needs a budget: give steps, images, epochs or seconds (--time 10m)."
            )
        for name in (
            "steps",
            "images",
            "epochs",
            "seconds",
            "preview_epochs",
            "batch",
            "micro_batch",
            "lr",
            "grad_clip",
            "save_every_steps",
            "keep_every",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"train.{name} = {value}; it must be above 0.")
        for name, least in (("warmup_steps", 0), ("previews", 0), ("keep", 1), ("weight_decay", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(
                    f"train.{name} = {getattr(self, name)}; {least} or more is wanted."
                )
        ema.power_of(self.ema_length)

    def progress(self, step: int, seconds: float) -> float:
        """The share of the budget that is spent: 1 or more is the end."""
        shares = [
            done / budget
            for done, budget in (
                (step, self.steps),
                (step * self.batch, self.images),
                (self.epochs_at(step), self.epochs),
                (seconds, self.seconds),
            )
            if budget is not None
        ]
        return max(shares)

    def epochs_at(self, step: int) -> float:
        """Epochs that `step` finished steps have shown; 0 where their size is not known."""
        return step * self.batch / self.epoch_images if self.epoch_images else 0.0

    def previews_due(self, step: int, progress: float) -> int:
        """How many previews belong before this moment, the one at the start counted."""
        if self.preview_epochs is None or not self.epoch_images:
            return previews_due(progress, self.previews)
        passed = self.epochs_at(step) / self.preview_epochs
        whole = int(passed + 1e-9)
        return (
            1 + whole + int(progress >= 1 and passed - whole > 1e-6)
        )  # one at the end in any case

    def lr_at(self, step: int, progress: float) -> float:
        """The learning rate of the step that follows `step` finished ones.

        The warm-up ends after warmup_steps or a tenth of the budget, whichever comes first.
        """
        warm = max((step + 1) / max(1, self.warmup_steps), progress / WARMUP_SHARE)
        return self.lr * self.decay(progress) * min(1.0, warm)


@dataclass
class TrainState:
    """All that a run needs to go on as if it had never stopped."""

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0  # spent in training, over all its parts
    previews: int = 0  # made so far
    epoch_loss: float = 0.0  # summed over the steps of the epoch so far
    epoch_steps: int = 0
    skipped: int = 0  # batches whose loss or gradient was not finite

    @classmethod
    def fresh(cls, model: nn.Module, config: TrainConfig) -> "TrainState":
        average = copy.deepcopy(model).eval().requires_grad_(False)
        return cls(model, average, optimizer_of(model, config))


def optimizer_of(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over the model's parameters."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def split(batch: Batch, most: int | None) -> Iterator[Batch]:
    """The batch in parts of at most `most` rows, in order."""
    for place in ALONE.parts(len(next(iter(batch.values()))), most):
        yield {name: rows[place] for name, rows in batch.items()}


def with_progress(batch: Batch, progress: float) -> Batch:
    """The batch with the share of the budget that is spent, (B,), for losses that change by it."""
    rows = len(next(iter(batch.values())))
    return {**batch, "progress": torch.full((rows,), progress, dtype=torch.float64)}


def backward(
    model: nn.Module, loss: Loss, batch: Batch, most: int | None, peers: Peers = ALONE
) -> tuple[list[Tensor], Tensor]:
    """Add the gradients of the batch's mean loss, part by part: its terms (), the losses (b,)."""
    n, terms, losses = len(next(iter(batch.values()))), [], []
    places = peers.parts(n, most)
    for number, place in enumerate(places, 1):
        with peers.exchanging(number == len(places)):
            each = loss(model, {name: rows[place] for name, rows in batch.items()})
            value = each.sum() / n
            (value * peers.size).backward()  # they take the mean over the processes
        terms.append(value.detach())
        losses.append(each.detach())
    return terms, torch.cat(losses)


Remember = Callable[[nn.Module, Batch, Tensor], None]  # (model, batch, losses (B,))


def forget(model: nn.Module, batch: Batch, losses: Tensor) -> None:
    """A Remember that keeps nothing."""


def take_step(
    state: TrainState,
    loss: Loss,
    batch: Batch,
    config: TrainConfig,
    remember: Remember = forget,
    peers: Peers = ALONE,
) -> dict[str, float]:
    """One optimizer step and one of the average; the scalars that describe it.

    remember is told the batch's losses after the step, for objectives that learn from them.

    Raises: FloatingPointError before anything changed, where loss or gradient is not finite.
    """
    state.model.train()
    state.optimizer.zero_grad(set_to_none=True)
    progress = config.progress(state.step, state.seconds)
    terms, losses = backward(
        state.model, loss, with_progress(batch, progress), config.micro_batch, peers
    )
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.grad_clip)
    norm = getattr(norm, "full_tensor", lambda: norm)()  # of a model cut by FSDP2
    *parts, grad_norm = read([*terms, norm])
    rows = len(next(iter(batch.values())))
    value, losses = peers.whole(sum(parts, 0.0), losses, rows)
    if not (abs(value) < float("inf") and grad_norm < float("inf")):
        raise FloatingPointError(
            f"the loss is {value} and its gradient's norm {grad_norm} at step {state.step + 1}; "
            "the weights are as they were before it. Usual causes: a learning rate that is too "
            "high (try --lr at a third), a value in the data that is not a number, fp16."
        )
    lr = config.lr_at(state.step, progress)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    remember(state.model, batch, losses)
    state.step += 1
    ema.update(state.average, state.model, ema.decay_at(state.step, config.ema_length))
    return {"loss": value, "lr": lr, "grad_norm": grad_norm, **_epoch(state, value, config)}


def _epoch(state: TrainState, loss: float, config: TrainConfig) -> dict[str, float]:
    """Count the step's loss in its epoch; at the epoch's end its number and its mean loss."""
    state.epoch_loss += loss
    state.epoch_steps += 1
    return _epoch_end(state, config)


def _epoch_end(state: TrainState, config: TrainConfig) -> dict[str, float]:
    finished = int(config.epochs_at(state.step))
    if finished == int(config.epochs_at(state.step - 1)) or not state.epoch_steps:
        return {}
    mean = state.epoch_loss / state.epoch_steps
    state.epoch_loss, state.epoch_steps = 0.0, 0
    return {"epoch": finished, "epoch_loss": mean}


@torch.no_grad()
def losses_of(model: nn.Module, loss: Loss, batch: Batch, most: int | None) -> Tensor:
    """The loss of each example without training on it, (n,), on the CPU."""
    was_training = model.training
    model.eval()
    values = torch.cat([loss(model, part).cpu() for part in split(batch, most)])
    model.train(was_training)
    return values


def previews_due(progress: float, count: int) -> int:
    """How many previews belong before `progress`: one at 0, `count` more, denser at the start.

    None at all where count is 0.
    """
    if count == 0:
        return 0
    return sum(progress >= (index / count) ** 2 for index in range(count + 1))


MOST_SKIPPED = 10  # batches in a row that are not finite


class Hooks(Protocol):
    """What the loop calls; none of it may change the state or draw from a global generator."""

    def log(self, state: TrainState, scalars: dict[str, float]) -> None: ...

    def preview(self, state: TrainState) -> None: ...

    def save(self, state: TrainState) -> None: ...

    def skipped(self, state: TrainState, reason: str) -> None: ...

    def smaller(self, state: TrainState, micro_batch: int) -> None: ...

    def stopped(self) -> bool: ...


def train(
    state: TrainState,
    loss: Loss,
    batch_at: Callable[[int], Batch],
    config: TrainConfig,
    hooks: Hooks,
    clock: Callable[[], float] = time.monotonic,
    remember: Remember = forget,
    peers: Peers = ALONE,
) -> None:
    """Advance `state` until the budget is spent or hooks.stopped(); save at the end either way.

    Of several processes all stop and save at the same step, whichever was asked to; process 0 has
    the clock.

    A batch whose loss or gradient is not finite is left out, and MOST_SKIPPED in a row end the run.
    A batch that memory is too short for is run in smaller parts from then on.

    Raises: FloatingPointError at such an end, with the state as it was before and saved.
    """
    begun, before = clock(), state.seconds
    next_save = state.seconds + config.save_every_seconds
    in_row = 0
    # With a larger budget than before, previews that were made at its end are due again.
    spent = config.progress(state.step, state.seconds)
    state.previews = min(state.previews, config.previews_due(state.step, spent))
    while True:
        progress = config.progress(state.step, state.seconds)
        due = config.previews_due(state.step, progress)
        if due > state.previews:
            state.previews = due
            hooks.preview(state)
        if progress >= 1 or peers.most(int(hooks.stopped())):
            break
        try:
            scalars, config = step_that_fits(state, loss, batch_at, config, hooks, remember, peers)
        except FloatingPointError as error:
            in_row += 1
            if in_row >= MOST_SKIPPED:
                hooks.save(state)
                raise too_many_skipped(state, error) from error
            skip(state, config)
            hooks.skipped(state, str(error))
            continue
        in_row = 0
        state.seconds = peers.lead(before + clock() - begun)
        hooks.log(state, scalars)
        if _save_is_due(state, config, next_save):
            save_begun = clock()
            hooks.save(state)
            pause = max(config.save_every_seconds, 30 * (clock() - save_begun))
            next_save = peers.lead(state.seconds + pause)
    hooks.save(state)


def step_that_fits(
    state: TrainState,
    loss: Loss,
    batch_at: Callable[[int], Batch],
    config: TrainConfig,
    hooks: Hooks,
    remember: Remember,
    peers: Peers = ALONE,
) -> tuple[dict[str, float], TrainConfig]:
    """take_step, in parts of half the size for as long as memory is short; how it was done.

    Raises: what take_step does; the refusal itself where not even one image fits, or where other
    processes have taken part in half of the step.
    """
    who = [peers.rank] if peers.rank else []  # its own rows, its own dice
    while True:
        torch.manual_seed(generator_at(config.seed, "dropout", state.step, *who).initial_seed())
        try:
            return take_step(state, loss, batch_at(state.step), config, remember, peers), config
        except (MemoryError, RuntimeError) as error:
            most = config.micro_batch or config.batch
            if not is_out_of_memory(error) or most == 1:
                raise
            if peers.size > 1:
                raise RuntimeError(
                    f"memory is short in process {peers.rank} at step {state.step + 1:,}, and the "
                    "others wait in the middle of it: go on with a --micro-batch below "
                    f"{-(-most // peers.size)} ({error})."
                ) from error
        state.optimizer.zero_grad(set_to_none=True)
        config = replace(config, micro_batch=most // 2)
        hooks.smaller(state, most // 2)


def skip(state: TrainState, config: TrainConfig) -> None:
    """Go on to the next batch as if this one were not there: weights, average, moments stay."""
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.skipped += 1
    if _epoch_end(state, config):
        state.epoch_loss, state.epoch_steps = 0.0, 0


def too_many_skipped(state: TrainState, error: FloatingPointError) -> FloatingPointError:
    return FloatingPointError(
        f"{MOST_SKIPPED} batches in a row could not be trained on. The weights are finite and were "
        f"saved at step {state.step:,}, as they were after the last good batch. The last of the "
        f"{MOST_SKIPPED}: {error}"
    )


def _save_is_due(state: TrainState, config: TrainConfig, next_save: float) -> bool:
    if config.save_every_steps:
        return state.step % config.save_every_steps == 0
    return state.seconds >= next_save
