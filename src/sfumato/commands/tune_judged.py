"""What sfumato tune says of a tuned sampler beside the fixed ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..rivals import Rival
from ..tuning import TEACHER_STEPS


@dataclass(frozen=True)
class Judged:
    """What was measured on seeds that were used for nothing else.

    missed: by the teacher, the tuned sampler and the best fixed one, the root of Aim.missed; empty
    where the data were not there.
    """

    tuned: float
    rivals: list[Rival]  # the nearest first
    nearer: int  # images of which the tuned one is nearer than the best rival's
    images: int
    missed: Mapping[str, float] = field(default_factory=dict)

    @property
    def better(self) -> bool:
        return self.tuned < self.rivals[0].distance

    def lines(self) -> list[str]:
        """The table, then the verdict."""
        rows = [("tuned", self.tuned, "")]
        rows += [(r.name, r.distance, f"{r.grid}, {r.steps} steps") for r in self.rivals]
        rows.sort(key=lambda row: row[1])
        told = [f"  {name:<8} {far:.4f}  {how}".rstrip() for name, far, how in rows]
        return [*told, *self.levels(), self.verdict()]

    def levels(self) -> list[str]:
        """How the levels of the values agree with the data's."""
        if not self.missed:
            return []
        found = ", ".join(f"{name} {far:.3f}" for name, far in self.missed.items())
        words = "How often values and neighbours' differences lie near the data's levels, off by"
        return [f"{words}: {found}."]

    def verdict(self) -> str:
        best = self.rivals[0]
        if not self.better:
            return (
                f"The tuned sampler is no better than {best.name} ({self.tuned:.4f} against "
                f"{best.distance:.4f}): nothing was gained. More --time may help."
            )
        return (
            f"The tuned sampler is {best.distance / self.tuned:.2f} times nearer to the teacher "
            f"than the best fixed solver, {best.name}; nearer in {self.nearer} of {self.images} "
            "images."
        )


def heading(judged: Judged, calls: int) -> list[str]:
    return [
        f"Root mean square distance to the images of a teacher of {TEACHER_STEPS} calls, as they "
        f"are diffused, from the same noise: {judged.images} new seeds, {calls} calls:"
    ]
