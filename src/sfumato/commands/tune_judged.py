"""What sfumato tune says of a tuned sampler beside the fixed ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..measuring import jackknife
from ..rivals import Rival
from ..tuning import TEACHER_STEPS, mean_distance


@dataclass(frozen=True, eq=False)
class Judged:
    """What was measured on seeds that were used for nothing else.

    near, other: (n,), root mean square distances of the tuned one's and the best fixed one's images
    from the teacher's, the same seeds in both. rivals: the nearest first. grids: how many of the
    standard ones were tried, and of how many. missed: by the teacher, the tuned sampler and the
    best fixed one, the root of Aim.missed; empty where the data were not there.
    """

    near: Tensor
    other: Tensor
    rivals: list[Rival]
    grids: tuple[int, int]
    missed: Mapping[str, float] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return len(self.near)

    @property
    def tuned(self) -> float:
        return mean_distance(self.near)

    @property
    def nearer(self) -> int:
        """Images of which the tuned one is nearer than the best rival's."""
        return int((self.near < self.other).sum())

    @property
    def gain(self) -> float:
        """How much nearer the tuned one is, over all images."""
        return mean_distance(self.other) - self.tuned

    @property
    def error(self) -> float:
        """Of the gain, by the jackknife over images: what the pairs share cancels."""
        return jackknife(_without_each(self.other) - _without_each(self.near))

    @property
    def closer(self) -> int:
        """1 where it is nearer to the teacher, -1 where it is farther, 0 where neither is told."""
        return 0 if abs(self.gain) <= 2 * self.error else 1 if self.gain > 0 else -1

    @property
    def levelled(self) -> bool:
        """Whether it misses less of the data's levels than the best fixed one."""
        return bool(self.missed) and self.missed["tuned"] < self.missed[self.rivals[0].name]

    @property
    def better(self) -> bool:
        return self.closer > 0 or (self.closer == 0 and self.levelled)

    def lines(self) -> list[str]:
        """The table, then the verdict."""
        rows = [("tuned", self.tuned, "")]
        rows += [(r.name, r.distance, f"{r.grid}, {r.steps} steps") for r in self.rivals]
        rows.sort(key=lambda row: row[1])
        told = [f"  {name:<8} {far:.4f}  {how}".rstrip() for name, far, how in rows]
        return [*told, *self.hurried(), *self.levels(), self.verdict()]

    def hurried(self) -> list[str]:
        tried, there = self.grids
        if tried == there:
            return []
        return [
            f"The fixed solvers were tried on {tried} of {there} standard grids only, for want of "
            "time: on another one they may be nearer. A longer --time tries more."
        ]

    def levels(self) -> list[str]:
        """How the levels of the values agree with the data's."""
        if not self.missed:
            return []
        found = ", ".join(f"{name} {far:.3f}" for name, far in self.missed.items())
        words = "How often values and neighbours' differences lie near the data's levels, off by"
        return [f"{words}: {found}."]

    def verdict(self) -> str:
        best = self.rivals[0]
        both = f"{self.tuned:.4f} against {best.distance:.4f}"
        sure = f"a difference of {self.gain:+.4f} ± {2 * self.error:.4f}"
        if self.closer > 0:
            return (
                f"The tuned sampler is {best.distance / self.tuned:.2f} times nearer to the "
                f"teacher than the best fixed solver, {best.name} ({both}, {sure}); nearer in "
                f"{self.nearer} of {self.images} images."
            )
        found = "farther from the teacher than" if self.closer else "as near to the teacher as"
        words = f"The tuned sampler is {found} the best fixed solver, {best.name}, as far as "
        words += f"{self.images} images tell ({both}, {sure})"
        if self.levelled:
            return f"{words}; it is nearer to the levels of the data, to which it is fitted too."
        return f"{words}: nothing was gained. More --time may help."


def _without_each(far: Tensor) -> Tensor:
    """(n,): mean_distance of far, (n,), without one after the other."""
    squares = far.double().square()
    return ((squares.sum() - squares) / max(1, len(far) - 1)).clamp(min=0).sqrt()


def heading(judged: Judged, calls: int) -> list[str]:
    return [
        f"Root mean square distance to the images of a teacher of {TEACHER_STEPS} calls, as they "
        f"are diffused, from the same noise: {judged.images} new seeds, {calls} calls:"
    ]
