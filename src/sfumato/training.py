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
from .muon import Muon
from .peers import Alone, Peers
from .train_config import TrainConfig as TrainConfig

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
ALONE = Alone()


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
    """AdamW, or Muon, over the model's parameters."""
    if config.muon:
        lr, betas, decay = config.lr, config.betas, config.weight_decay
        return Muon(model.parameters(), lr, betas, weight_decay=decay)
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


def norm_of_gradients(model: nn.Module) -> Tensor:
    """Of all gradients as one vector, (); its parts are elsewhere where FSDP2 has cut the model."""
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


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

    A GPU is waited for once, where its numbers are read before the optimizer, and that wait stays:
    a batch that is not finite is left out with weights, average and moments as they were, which a
    number that is read a step late comes too late for, unless all of them are copied each step. The
    clock that --time and the learning rate go by would count what was asked of the GPU, not what
    is done. The next batch is made meanwhile (prefetching.py).

    remember is told the batch's losses after the step, for objectives that learn from them.

    Raises: FloatingPointError before anything changed, where loss or gradient is not finite.
    """
    state.model.train()
    state.optimizer.zero_grad(set_to_none=True)
    progress = config.progress(state.step, state.seconds)
    terms, losses = backward(
        state.model, loss, with_progress(batch, progress), config.micro_batch, peers
    )
    norm = norm_of_gradients(state.model)
    *parts, grad_norm = read([*terms, getattr(norm, "full_tensor", lambda: norm)()])
    rows = len(next(iter(batch.values())))
    value, losses = peers.whole(sum(parts, 0.0), losses, rows)
    if not (abs(value) < float("inf") and grad_norm < float("inf")):
        raise FloatingPointError(
            f"the loss is {value} and its gradient's norm {grad_norm} at step {state.step + 1}; "
            "the weights are as they were before it. Usual causes: a learning rate that is too "
            "high (try --lr at a third), a value in the data that is not a number, fp16."
        )
    if grad_norm > 0.99 * config.grad_clip:  # below it they would be multiplied by 1
        nn.utils.clip_grads_with_norm_(state.model.parameters(), config.grad_clip, norm)
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
