"""What a drill is, and how drills are run."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Count:
    """How often something was tried, how often it held, and a figure or two beside it."""

    tried: int
    held: int
    note: str = ""


Drill = Callable[[bool], Count]  # takes short: seconds for the test suite, not the full figure


@dataclass(frozen=True)
class Outcome:
    """What came of a drill. what: the first line of its docstring."""

    name: str
    what: str
    tried: int
    held: int
    note: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Something was tried, and all of it held."""
        return 0 < self.tried == self.held


def carried_out(name: str, drill: Drill, short: bool) -> Outcome:
    """Run one drill. What it raises is a loss, and is told."""
    begun = time.monotonic()
    try:
        count = drill(short)
    except Exception as error:
        count = Count(1, 0, f"{type(error).__name__}: {error}"[:200])
    what = (drill.__doc__ or "").partition("\n")[0]
    seconds = round(time.monotonic() - begun, 1)
    return Outcome(name, what, count.tried, count.held, count.note, seconds)
