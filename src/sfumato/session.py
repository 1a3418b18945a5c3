"""A training run in its folder: what the loop's hooks write, print and draw."""

import sys
import time
from collections import deque
from dataclasses import dataclass, field, replace
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import checkpoint
from .assembly import by_level
from .console import Progress, Reporter
from .devices import is_out_of_memory
from .folder import append_metrics, has_row, read_metrics
from .kinds import dumps
from .pictures import grid, save_png
from .plots import loss_figure
from .saving import Saver
from .stopping import Interrupted, StopRequest
from .storage import write_file
from .tasks import Shown, Task
from .training import Batch, TrainConfig, TrainState, losses_of

PREVIEW_SHARE = 0.1  # of the time since the start
LEVELS = 8  # at most: equal shares of the training times, each with a held-out loss of its own
MOST_UNWRITTEN = 10_000  # rows that wait for the disk
TICK = 1e-3  # seconds: clocks there are stand still for longer than a tiny step takes
EVERY_STEP_UNTIL = 2_000  # after that every tenth step gets a row, or days would fill the disk


def memory_gb(device: torch.device) -> float:
    """The most memory used so far, in GB: the GPU's, or this process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return 0.0  # not told there
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def steps_of(budget: TrainConfig) -> int | None:
    """The steps that a budget other than time comes to; None where there is only time."""
    images = [budget.images, budget.epochs and budget.epochs * budget.epoch_images]
    # 1.1 epochs of 50 images are 55, which the product of floats overshoots
    counts = [budget.steps, *(few and ceil(few / budget.batch - 1e-9) for few in images)]
    return min((count for count in counts if count), default=None)


def _of_step(scalars: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in scalars.items() if not name.startswith("epoch")}


@dataclass
class Session:
    """The hooks of one training run; see training.Hooks."""

    task: Task
    folder: Path
    data_name: str
    held_out: Batch | None
    device: torch.device
    reporter: Reporter
    stop: StopRequest
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=50))
    begun: float = field(default_factory=time.monotonic)
    looked: float = 0.0  # seconds spent on previews
    speed: float = 0.0  # images/s, as last measured
    saver: Saver = field(init=False)
    unwritten: list[dict[str, Any]] = field(default_factory=list)  # rows that the disk refused

    def __post_init__(self) -> None:
        self.saver = Saver(self.folder, self.run.train, self.reporter.warn)

    @property
    def run(self) -> Any:
        return self.task.run

    def stopped(self) -> bool:
        return self.stop.asked

    def _row(self, row: dict[str, Any]) -> None:
        """Add a row to metrics.jsonl; what the disk refuses is told, and tried again with the next.

        Raises: OSError once MOST_UNWRITTEN rows wait.
        """
        self.unwritten.append(row)
        try:
            append_metrics(self.folder, *self.unwritten)
        except OSError as error:
            if len(self.unwritten) > MOST_UNWRITTEN:
                raise
            if len(self.unwritten) == 1:
                self.reporter.warn(f"metrics.jsonl can't be written, the rows wait: {error}")
            return
        self.unwritten.clear()

    def log(self, state: TrainState, scalars: dict[str, float]) -> None:
        """A row in metrics.jsonl and the live line."""
        self.saver.look()
        speed = self._images_per_second(state.step)
        self._log_epoch(state, scalars)
        budget, images = self.run.train, state.step * self.run.train.batch
        memory = memory_gb(self.device)
        if state.step <= EVERY_STEP_UNTIL or state.step % 10 == 0:
            row = {"kind": "train", "step": state.step, "images": images}
            row |= {"seconds": round(state.seconds, 3), **_of_step(scalars)}
            row |= {"images_per_s": round(speed, 1), "memory_gb": round(memory, 3)}
            self._row(row)
        steps = steps_of(budget)
        self.reporter.progress(
            Progress(
                step=state.step,
                seconds=state.seconds,
                loss=scalars["loss"],
                images_per_s=speed,
                lr=scalars["lr"],
                memory_gb=memory,
                steps=steps,
                budget_s=budget.seconds,
            )
        )

    def _log_epoch(self, state: TrainState, scalars: dict[str, float]) -> None:
        """At an epoch's end: its mean loss, as a row and a line."""
        if "epoch" not in scalars:
            return
        row = {"kind": "epoch", "step": state.step, "epoch": scalars["epoch"]}
        images = state.step * self.run.train.batch
        self._row({**row, "images": images, "loss": scalars["epoch_loss"]})
        if self.run.train.epochs is not None:  # else there may be one every few seconds
            self.reporter.say(f"epoch {scalars['epoch']:,}: mean loss {scalars['epoch_loss']:.4f}")

    def _images_per_second(self, step: int) -> float:
        """Over the last fifty steps; previews and saves between them left out."""
        now = time.monotonic()
        self.recent.append((now, step))
        (then, first), n = self.recent[0], len(self.recent)
        if n > 1:
            self.speed = (step - first) * self.run.train.batch / max(now - then, TICK)
        return self.speed

    def preview(self, state: TrainState) -> None:
        """The held-out loss of weights and average, a grid from fixed seeds, the loss figure.

        Left out where previews have taken more than a tenth of the time; never the first or last,
        nor those asked for by epochs.
        """
        now = time.monotonic()
        last = self.run.train.progress(state.step, state.seconds) >= 1
        asked = self.run.train.preview_epochs is not None
        too_much = self.looked > PREVIEW_SHARE * (now - self.begun)
        if too_much and state.step and not (last or asked):
            return
        try:
            with self.stop.interrupting():
                self._try_to_look(state)
        except Interrupted:
            state.previews -= 1  # when the run goes on, it is due again
        self.looked += time.monotonic() - now
        self.recent.clear()

    def _try_to_look(self, state: TrainState) -> None:
        try:
            self._look(state)
        except (FloatingPointError, OSError) as error:  # a picture is not worth a run
            self.reporter.warn(f"no preview at step {state.step:,}: {error}")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.reporter.warn(f"no preview at step {state.step:,}, memory is short: {error}")

    def _look(self, state: TrainState) -> None:
        self._evaluate(state)
        shown = self.task.show(state.average, quick=True)
        if shown is None:
            return
        path = self.folder / "samples" / f"step-{state.step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        self.save_grid(state, shown, path)
        np.save(path.with_suffix(".npy"), shown.images.numpy())  # for spectra: a PNG has labels
        if state.step:  # before it there is no curve yet, and drawing it would delay the first step
            self.draw_losses(state)

    def _evaluate(self, state: TrainState) -> None:
        if self.held_out is None:
            return
        most, loss = self.run.train.micro_batch or self.run.train.batch, self.task.loss
        raw = losses_of(state.model, loss, self.held_out, most)
        # Before the first step the average is the weights: once is enough, and training begins.
        average = losses_of(state.average, loss, self.held_out, most) if state.step else raw
        row: dict[str, Any] = {"kind": "held_out", "step": state.step}
        row |= {"images": state.step * self.run.train.batch, "seconds": round(state.seconds, 3)}
        row |= {"raw": raw.mean().item(), "ema": average.mean().item()}
        log_snr = self.task.levels(min(LEVELS, len(raw)))
        by_noise = ""
        if log_snr:
            levels = len(log_snr)
            row |= {
                "raw_by_level": by_level(raw, levels),
                "ema_by_level": by_level(average, levels),
            }
            row["level_log_snr"] = log_snr
            low, high = row["ema_by_level"][0], row["ema_by_level"][-1]
            by_noise = f" (low noise {low:.3f}, high noise {high:.3f})"
        if not has_row(self.folder, "held_out", state.step):
            self._row(row)
        self._keep_best(state, row["ema"])
        self.reporter.say(
            f"held-out loss at step {state.step:,}: {row['raw']:.4f}, averaged weights "
            f"{row['ema']:.4f}{by_noise}"
        )

    def _keep_best(self, state: TrainState, loss: float) -> None:
        """Save the average where its held-out loss is the lowest so far."""
        best = checkpoint.best_loss(self.folder)  # not of metrics.jsonl: writing it may have failed
        if state.step and isfinite(loss) and (best is None or loss <= best):
            checkpoint.write_best(self.folder, state, loss)

    def draw_losses(self, state: TrainState) -> None:
        """loss.png from metrics.jsonl."""
        loss_figure(read_metrics(self.folder), self.folder / "loss.png", self.settings(state))

    def save(self, state: TrainState) -> None:
        self.saver.begin(state)

    def skipped(self, state: TrainState, reason: str) -> None:
        """A row and a warning for a batch that was left out."""
        self._row({"kind": "skipped", "step": state.step, "reason": reason})
        self.reporter.warn(f"batch {state.step:,} is left out: {reason}")

    def smaller(self, state: TrainState, micro_batch: int) -> None:
        """Remember that no more than these images fit into memory at once."""
        train = replace(self.run.train, micro_batch=micro_batch)
        self.task = replace(self.task, run=replace(self.run, train=train))  # type: ignore[type-var]
        write_file(self.folder / "run.json", dumps(self.run).encode())
        self.reporter.warn(
            f"memory is short at step {state.step + 1:,}: from here on {micro_batch} images are "
            f"run at once. A step still sees {train.batch}."
        )

    def save_grid(self, state: TrainState, shown: Shown, path: Path) -> None:
        """A grid as a PNG that knows how it was made."""
        picture = grid(shown.images, columns=shown.columns, row_labels=shown.row_labels)
        save_png(picture, path, {**self.settings(state), **shown.settings})

    def settings(self, state: TrainState) -> dict[str, Any]:
        """What a picture says of where it comes from."""
        return {
            "made_by": "sfumato train",
            "run": self.folder.name,
            "step": state.step,
            "data": self.data_name,
            "weights": "average",
        }
