"""What the loop asks of the processes that train with it; one process alone answers for itself.

Every process makes the same batch from (seed, step) and trains on its own rows of it. So the order
of the images and their noise are those of one process, whatever the number, and a run may go on
with another.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor


class LostPeerError(Exception):
    """Another process of the run is gone or does not answer."""


class ToldError(Exception):
    """Every process of the run fails for the same reason, and process 0 tells it."""


class Peers(Protocol):
    """The processes of a run; each calls the same methods in the same order."""

    @property
    def rank(self) -> int:
        """This process's number, from 0; process 0 writes and prints."""
        ...

    @property
    def size(self) -> int: ...

    def rows(self, n: int) -> slice:
        """This process's part of n rows."""
        ...

    def parts(self, n: int, most: int | None) -> list[slice]:
        """This process's rows of n in order, at most `most` at once; as many parts in each."""
        ...

    def exchanging(self, now: bool) -> AbstractContextManager[None]:
        """Within the block a backward pass averages gradients over the processes, if `now`."""
        ...

    def whole(self, total: float, losses: Tensor, n: int) -> tuple[float, Tensor]:
        """(the sum of the totals, the losses (n,) of all rows in order) from those of each."""
        ...

    def lead(self, value: float) -> float:
        """Process 0's value."""
        ...

    def most(self, value: int) -> int:
        """The largest of the values."""
        ...


class Alone:
    """One process: Peers without any others."""

    rank, size = 0, 1

    def rows(self, n: int) -> slice:
        return slice(0, n)

    def parts(self, n: int, most: int | None) -> list[slice]:
        size = most or n
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def exchanging(self, now: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def whole(self, total: float, losses: Tensor, n: int) -> tuple[float, Tensor]:
        return total, losses

    def lead(self, value: float) -> float:
        return value

    def most(self, value: int) -> int:
        return value
