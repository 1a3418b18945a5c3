"""4 to 8 calls: the tuned sampler of each beside every fixed solver, by two measures.

All draw the same seeds and classes. `distance` is the Frechet distance of the benchmark, `off` the
root mean square of the pixels' difference from the teacher's, in [-1, 1]; `cleared` is the distance
where values of a background that is nearly black are made 0; `more` is how much larger
a solver's distance is than that of the tuned sampler of as many calls, with the error of a pair.
"""

import time
from dataclasses import dataclass, replace

from torch import Tensor

from sfumato.commands.sweep_quality import Judge
from sfumato.config import SamplingConfig
from sfumato.grids import KarrasGrid
from sfumato.loading import Loaded
from sfumato.measuring import frechet_difference, frechet_estimate
from sfumato.tuned_runs import Tuned
from sfumato.tuning import TEACHER, TEACHER_STEPS

from .contests import Contestant, calls_of, fixed, of_tuned, tuned_of
from .options import say
from .results import Row
from .rounds import Facts

COUNTS = (4, 5, 6, 7, 8)
UNSEEN = 4  # of 255: values up to it look black


@dataclass(frozen=True, eq=False)
class Seen:
    """What came of a sampler. features, cleared: (N, D). off: see above. seconds: of drawing."""

    features: Tensor
    cleared: Tensor
    off: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Scene:
    """What samplers are compared on. teacher: its images, (N, C, H, W), of the judge's seeds."""

    loaded: Loaded
    judge: Judge
    teacher: Tensor
    quick: bool

    @classmethod
    def of(cls, loaded: Loaded, judge: Judge, asked: SamplingConfig, quick: bool) -> "Scene":
        steps = 4 if quick else TEACHER_STEPS
        sampling = replace(asked, solver=TEACHER, grid=KarrasGrid(), steps=steps, keep_eps=False)
        return cls(loaded, judge, Contestant("", "", sampling).drawn(loaded, judge), quick)

    def rows(self, calls: int) -> list[Row]:
        """The tuned sampler of so many calls, then the fixed ones, the least distance first."""
        tuned = tuned_of(self.loaded, calls)[0]
        own = of_tuned(tuned)
        base = self.seen(own)
        rivals = fixed(self.loaded, self.judge, tuned.sampling, calls, self.quick)
        made = [self.row(one, calls, self.seen(one), base) for one in rivals]
        made.sort(key=lambda row: row.facts["distance"])
        row = self.row(own, calls, base, base)
        return [replace(row, facts={**row.facts, "fitted_s": tuned.seconds}), *made]

    def seen(self, one: Contestant) -> Seen:
        begun = time.perf_counter()
        images = one.drawn(self.loaded, self.judge)
        seconds = time.perf_counter() - begun
        off = (images.float() - self.teacher.float()).square().mean().sqrt().item() / 127.5
        network = self.judge.network
        return Seen(network(images), network(cleared(images)), off, seconds)

    def row(self, one: Contestant, calls: int, seen: Seen, base: Seen) -> Row:
        reference = self.judge.reference
        found = frechet_estimate(seen.features, reference)
        more = frechet_difference(seen.features, base.features, reference)
        facts = {
            **{"kind": one.kind, "calls": calls, "off": seen.off},
            **{"nfe": calls_of(one.sampling, self.loaded)},
            **{"grid": "its own" if one.kind == "tuned" else str(one.sampling.grid)},
            **{"distance": found.mean, "error": found.error},
            **{"cleared": frechet_estimate(seen.cleared, reference).mean},
            **{"more": more.mean, "more_error": more.error},
        }
        name = f"{'tuned' if one.kind == 'tuned' else one.name}, {calls}"
        return Row(name, (seen.seconds,), self.judge.images, "images", 0.0, facts)


def compared(loaded: Loaded, judge: Judge, quick: bool) -> tuple[list[Row], Facts]:
    """All rows, and the teacher's own distance."""
    tuned = [tuned_of(loaded, calls)[0] for calls in COUNTS]
    check_alike(tuned)
    scene = Scene.of(loaded, judge, tuned[0].sampling, quick)
    rows = []
    for calls in COUNTS:
        say(f"  {calls} calls")
        rows += scene.rows(calls)
    found = frechet_estimate(judge.network(scene.teacher), judge.reference)
    black = frechet_estimate(judge.network(cleared(scene.teacher)), judge.reference)
    more = {"teacher": found.mean, "teacher_error": found.error, "teacher_cleared": black.mean}
    return rows, more


def check_alike(found: list[Tuned]) -> None:
    """Raises: ValueError where they are not all for the guidance that the first one is for."""
    for one in found:
        if told(one) != told(found[0]):
            raise ValueError(
                f"{one.path.name} is for another guidance than {found[0].path.name}: tune every "
                "number of calls with the same --guidance, --guidance-from and --guidance-to."
            )


def told(one: Tuned) -> tuple[float, float, float]:
    return one.sampling.guidance, one.sampling.guidance_from, one.sampling.guidance_to


def cleared(images: Tensor) -> Tensor:
    """uint8 images with all that looks black made 0."""
    return images.where(images > UNSEEN, 0)
