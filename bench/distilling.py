"""Our ten-minute run, tuned to draw in one and two steps by `sfumato distill`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato.commands.distill import MIDDLE, TUNING
from sfumato.config import SamplingConfig
from sfumato.consistency import ConsistencyGrid, MultistepConsistency
from sfumato.data import ImageData

from .commands import finished
from .contenders import OURS, Draw, calls_of, drawer_of, sampler_words
from .ours import Ours

STUDENT = "distilled"


@dataclass(frozen=True)
class Distilled:
    """A way of drawing: by the student or the teacher, and how."""

    key: str
    words: str
    student: bool
    sampling: SamplingConfig

    @property
    def calls(self) -> int:
        return calls_of(self.sampling)

    def drawer(self, folder: Path) -> Draw:
        return drawer_of(folder, self.sampling)


def own_sampling() -> SamplingConfig:
    return OURS.run().sampling


@dataclass(frozen=True)
class Distilling:
    """The student's training, and the ways of drawing that are compared."""

    batch: int
    key: str = STUDENT

    def stepper(self, data: ImageData) -> Callable[[], Any]:
        """Half-way through: at first the target is x0 itself, and later the network is asked."""
        run = replace(OURS.run(), objective=TUNING, precision="fp32")
        begun = Ours(run, data)
        assert run.train.seconds is not None
        begun.state.seconds = run.train.seconds / 2
        return begun

    def train(self, teacher: Path, folder: Path, steps: int) -> None:
        begun = (folder / "run.json").exists()
        how = ["--resume"] if begun else ["--steps", str(steps)]
        words = ["distill", str(teacher), *how, "--out", str(folder)]
        finished([sys.executable, "-m", "sfumato", *words, "--quiet"])

    def ways(self) -> tuple[Distilled, ...]:
        own = own_sampling()
        student = SamplingConfig(
            MultistepConsistency(), ConsistencyGrid(MIDDLE), steps=2, clipped=own.clipped
        )
        one = replace(student, steps=1)
        plain = replace(own, guidance=1.0)
        guided = f"guidance {own.guidance:g}"
        few = [replace(plain, steps=n) for n in (2, 4)]
        return (
            Distilled("teacher", f"teacher: {sampler_words(own)}, {guided}", False, own),
            Distilled("teacher-plain", f"teacher: {sampler_words(plain)}", False, plain),
            *(
                Distilled(f"teacher-{s.steps}", f"teacher: {sampler_words(s)}", False, s)
                for s in few
            ),
            Distilled("student-1", "student, 1 step", True, one),
            Distilled("student-2", "student, 2 steps", True, student),
        )


DISTILLED = Distilling(OURS.batch)
