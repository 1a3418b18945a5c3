"""A run so small that a hundred of its steps take a second."""

from dataclasses import replace
from pathlib import Path

import torch

from sfumato.assembly import batches, build, loss_of, settle
from sfumato.config import Run
from sfumato.data import ImageData
from sfumato.recipes import RECIPES
from sfumato.training import TrainConfig, TrainState, optimizer_tensors

CPU = torch.device("cpu")


def images(n: int = 37, classes: int = 3, size: int = 8) -> ImageData:
    """Random pictures, brighter for higher classes."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(n) % classes
    pixels = torch.randint(0, 120, (n, 1, size, size), generator=generator)
    pixels = (pixels + 40 * labels[:, None, None, None]).to(torch.uint8)
    return ImageData(pixels, labels, tuple("abc"[:classes]), "tiny", "a test")


def run(**train: object) -> Run:
    """The digits recipe with a network of a few thousand weights and everything random on."""
    recipe = RECIPES["digits"]()
    network = replace(
        recipe.network,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention_at=(),
        middle_attention=False,
        groups=4,
        dropout=0.1,
    )
    settings = {"seconds": None, "steps": 20, "batch": 12, "micro_batch": 5, "warmup_steps": 4}
    changed = replace(
        recipe,
        data=replace(recipe.data, flip=True, label_dropout=0.3),
        network=network,
        train=replace(recipe.train, **{**settings, **train}),  # type: ignore[arg-type]
        precision="fp32",
    )
    return settle(changed, images())


class Hooks:
    """Stops after a given step; remembers what was logged and saved."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.now = stop_at, 0
        self.rows: list[dict[str, float]] = []
        self.previews: list[int] = []
        self.saved: list[int] = []

    def log(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.now = state.step
        self.rows.append({"step": state.step, **scalars})

    def preview(self, state: TrainState) -> None:
        self.previews.append(state.step)

    def save(self, state: TrainState) -> None:
        self.saved.append(state.step)

    def stopped(self) -> bool:
        return self.stop_at is not None and self.now >= self.stop_at


def parts(config: Run) -> tuple:  # type: ignore[type-arg]
    """(fresh state, loss, batch_at, TrainConfig) of a run on the tiny images."""
    state = TrainState.fresh(build(config, CPU), config.train)
    return state, loss_of(config), batches(config, images(), CPU), config.train


def fingerprint(state: TrainState) -> list[torch.Tensor]:
    """Everything that a run carries on, as a flat list of tensors."""
    moments, _ = optimizer_tensors(state)
    moments = [moments[name] for name in sorted(moments)]
    return [*state.model.state_dict().values(), *state.average.state_dict().values(), *moments]


def same(first: TrainState, second: TrainState) -> bool:
    """Bit for bit."""
    pairs = zip(fingerprint(first), fingerprint(second), strict=True)
    return first.step == second.step and all(torch.equal(a, b) for a, b in pairs)


SHARED = Path(__file__).parents[2] / "shared" / "data"
__all__ = ["CPU", "SHARED", "Hooks", "TrainConfig", "fingerprint", "images", "parts", "run", "same"]
