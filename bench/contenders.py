"""Who is given the same minutes on Fashion-MNIST: our recipe, source 002's and source 000's.

Each can do three things: take training steps (to be timed), be trained into a folder, and draw
uint8 images of 28 x 28 from it. Seconds are those of training steps alone, for all of them.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.config import Run, SamplingConfig
from sfumato.data import ImageData
from sfumato.devices import emulates_bf16
from sfumato.generation import Order, draw
from sfumato.loading import load_run
from sfumato.recipes import RECIPES

from .commands import finished
from .ours import Ours
from .peers import Tuning
from .tutorial import DPM_STEPS, LESSONS, Tutorial, drawer, fastest, mirrored

Labels = Sequence[int]
Draw = Callable[[Sequence[int], Labels], Tensor]  # (seeds, labels) to uint8 (N, C, H, W)


class Contender(Protocol):
    """key: of rows and folders. words: what it is; title: the same above its images. sampler: in
    words. calls: network calls an image, both branches of guidance counted.

    precision: how steps are run, in the contender's own words, as a row of `times` tells it."""

    @property
    def key(self) -> str: ...
    @property
    def words(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def guidance(self) -> float: ...
    @property
    def sampler(self) -> str: ...
    @property
    def calls(self) -> int: ...

    def stepper(self, data: ImageData) -> Callable[[], Any]:
        """A training that has begun: each call is one step."""
        ...

    def sketcher(self, data: ImageData, precision: str) -> tuple[Draw, float]:
        """An untrained one that draws with a share of the sampler's steps, and that share."""
        ...

    def train(self, data: str, folder: Path, steps: int, precision: str) -> None:
        """Into the folder, in a process of its own; goes on where it was stopped."""
        ...

    def drawer(self, folder: Path) -> Draw: ...


@dataclass(frozen=True)
class OfRecipe:
    """One of our recipes, by `sfumato train`. share: of its sampler's steps, to be timed by."""

    key: str
    words: str
    title: str
    recipe: str
    share: float = 1.0

    def run(self) -> Run:
        found = RECIPES[self.recipe]()
        assert isinstance(found, Run)
        return found

    @property
    def batch(self) -> int:
        return self.run().train.batch

    @property
    def guidance(self) -> float:
        return self.run().sampling.guidance

    @property
    def sampler(self) -> str:
        return sampler_words(self.run().sampling)

    @property
    def calls(self) -> int:
        return calls_of(self.run().sampling)

    def begun(self, data: ImageData, precision: str = "auto") -> Ours:
        run = replace(self.run(), precision=precision)
        data = data if run.data.labels else replace(data, labels=None)
        return Ours(run, data)

    def stepper(self, data: ImageData) -> Callable[[], Any]:
        return self.begun(data)

    def sketcher(self, data: ImageData, precision: str) -> tuple[Draw, float]:
        begun = self.begun(data, precision)
        run = begun.task.run
        few = replace(run.sampling, steps=max(1, round(self.share * run.sampling.steps)))
        model, shape = begun.state.average, (data.channels, *data.size)

        def drawn(seeds: Sequence[int], labels: Labels) -> Tensor:
            asked = labels if run.network.classes else None
            order = Order(seeds, asked, shape)
            return draw(model, order, few, begun.task.conditions, torch.device("cpu"))  # type: ignore[arg-type]

        return drawn, few.steps / run.sampling.steps

    def train(self, data: str, folder: Path, steps: int, precision: str) -> None:
        begun = ["--resume"] if (folder / "run.json").exists() else []
        words = ["train", self.recipe, "--data", data, "--steps", str(steps), "--quiet", *begun]
        words += ["--precision", precision, "--previews", "1", "--out", str(folder)]
        finished([sys.executable, "-m", "sfumato", *words])

    def drawer(self, folder: Path) -> Draw:
        return drawer_of(folder)


def drawer_of(folder: Path, sampling: SamplingConfig | None = None) -> Draw:
    """A run's images as `sfumato sample` draws them; sampling is in place of the run's own."""
    loaded = load_run(str(folder), torch.device("cpu"))
    chosen = sampling or loaded.run.sampling

    def drawn(seeds: Sequence[int], labels: Labels) -> Tensor:
        asked = labels if loaded.run.network.classes else None
        order = Order(seeds, asked, loaded.card.shape)
        return draw(loaded.denoiser, order, chosen, loaded.conditions, loaded.device)

    return drawn


def sampler_words(sampling: SamplingConfig) -> str:
    return f"{type(sampling.solver).__name__}, {sampling.steps} steps"


def calls_of(sampling: SamplingConfig) -> int:
    """Network calls an image, of a solver that calls its denoiser once a step."""
    return sampling.steps * (1 if sampling.guidance in (0, 1) else 2)


@dataclass(frozen=True)
class OfDiffusers:
    """One of diffusers' own lessons by diffusers itself, class-conditional, as fast as it is.

    clipped: whether x0 is, in drawing.
    """

    key: str
    words: str
    title: str
    lesson: str
    guidance: float = 1.0
    calls: int = DPM_STEPS
    clipped: bool = True

    @property
    def sampler(self) -> str:
        kind = "sde-dpmsolver++, x0 clipped" if self.clipped else "sde-dpmsolver++"
        return f"DPMSolverMultistepScheduler ({kind}), {DPM_STEPS} steps"

    @property
    def batch(self) -> int:
        return LESSONS[self.lesson].batch

    def stepper(self, data: ImageData) -> Callable[[], Any]:
        assert data.labels is not None
        tuning = fastest(data.images, data.labels, self.lesson)
        return Tutorial(data.images, data.labels, self.lesson, tuning)

    def sketcher(self, data: ImageData, precision: str) -> tuple[Draw, float]:
        assert data.labels is not None
        tuning = Tuning.named(precision)
        model = Tutorial(data.images, data.labels, self.lesson, tuning).model
        return drawer(model, self.lesson, 2, tuning), 2 / DPM_STEPS

    def train(self, data: str, folder: Path, steps: int, precision: str) -> None:
        words = [data, str(folder), str(steps), self.lesson, precision]
        finished([sys.executable, "-m", "bench.tutorial", *words])

    def drawer(self, folder: Path) -> Draw:
        model, lesson, tuning = Tutorial.saved(folder)
        quick = replace(tuning, bf16=not emulates_bf16(torch.device("cpu")))
        return drawer(mirrored(model), lesson, DPM_STEPS, quick, self.clipped)


OURS = OfRecipe("fashion_fast", "ours: recipe fashion_fast", "ours", "fashion_fast")
FOUR_CONV = OfRecipe(
    "four_conv",
    "source 002's network by our recipe four_conv_mnist; it has no classes",
    "source 002 (no classes)",
    "four_conv_mnist",
    0.1,
)
DIFFUSERS = OfDiffusers(
    "diffusers",
    "source 000's recipe by diffusers, with classes, in its fastest arithmetic here",
    "source 000 by diffusers",
    "source-000",
)
COURSE = OfDiffusers(
    "course",
    "diffusers' course, its network of 1.7 M weights with classes, likewise",
    "diffusers' course",
    "course",
)
# After ten minutes theirs is drawn better so, after thirty and sixty clipped: experiments/LOG.md.
RIVALS: tuple[Contender, ...] = (
    FOUR_CONV,
    replace(DIFFUSERS, clipped=False),
    replace(COURSE, clipped=False),
)
SOURCES: tuple[Contender, ...] = (FOUR_CONV, DIFFUSERS)
CONTENDERS: tuple[Contender, ...] = (OURS, *SOURCES, COURSE)
DIGITS = OfRecipe("digits_fast", "ours: recipe digits_fast", "ours", "digits_fast")
