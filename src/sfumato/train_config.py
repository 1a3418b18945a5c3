"""How to optimize, and for how long."""

from dataclasses import dataclass

from . import ema
from .schedules import LinearDecay, Schedule

WARMUP_SHARE = 0.1  # of the budget, at most


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
    muon: bool = False  # instead of AdamW for what is a matrix
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
        if self.muon and self.fsdp:
            raise ValueError(
                "train.muon with train.fsdp: Muon needs whole matrices, and FSDP2 cuts them. Leave "
                "one of them out; several processes without --fsdp keep them whole."
            )

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


def previews_due(progress: float, count: int) -> int:
    """How many previews belong before `progress`: one at 0, `count` more, denser at the start.

    None at all where count is 0.
    """
    if count == 0:
        return 0
    return sum(progress >= (index / count) ** 2 for index in range(count + 1))
