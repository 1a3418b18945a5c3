"""How the learning rate falls over a run's budget."""

from dataclasses import dataclass
from math import cos, pi
from typing import Protocol


class Schedule(Protocol):
    """The learning rate's factor, in [0, 1], at a progress in [0, 1]."""

    def __call__(self, progress: float) -> float: ...


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} = {value}; a share from 0 to 1 is wanted.")


@dataclass(frozen=True)
class Constant:
    """No decay."""

    def __call__(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class LinearDecay:
    """Hold until `hold` of the budget is spent, then fall in a line to `floor`."""

    hold: float = 0.4
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_shares(hold=self.hold, floor=self.floor)

    def __call__(self, progress: float) -> float:
        rest = min(max(progress - self.hold, 0.0) / max(1 - self.hold, 1e-9), 1.0)
        return 1 - (1 - self.floor) * rest


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from 1 to `floor`."""

    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_shares(floor=self.floor)

    def __call__(self, progress: float) -> float:
        return self.floor + (1 - self.floor) * (1 + cos(pi * min(progress, 1.0))) / 2
