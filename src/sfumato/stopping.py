"""Signals that end a run: it finishes its step, saves, and exits with 128 plus their number.

SIGINT is Ctrl-C, SIGTERM what `kill` and schedulers send, SIGUSR1 what Slurm and others send some
time before, SIGHUP that the terminal is gone. Before and after training, when there is nothing to
save, they end the process as they always do, which a shell tells as the same code.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANGUP = getattr(signal, "SIGHUP", None)
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")  # those that the system has


class Interrupted(BaseException):
    """Raised out of work that only looks at the run, so that it can be saved without waiting."""


class StopRequest:
    """Signals become a wish that the loop grants after its step; Ctrl-C again ends all at once."""

    def __init__(self) -> None:
        self.asked = False
        self.number = 0
        self._interruptible = False

    @property
    def code(self) -> int:
        """What the process shall exit with; 0 where no signal came."""
        return 128 + self.number if self.number else 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked, self.number = True, self.number or number
        if self._interruptible:
            self._interruptible = False
            raise Interrupted

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Take the signals within the block."""
        signals = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        # nohup is asked for so that a run outlives its terminal
        signals = [n for n in signals if n != HANGUP or signal.getsignal(n) != signal.SIG_IGN]
        before = [signal.signal(number, self) for number in signals]
        try:
            yield self
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within the block a signal raises Interrupted, at any moment."""
        self._interruptible = True
        try:
            if self.asked:  # it came just before
                raise Interrupted
            yield
        finally:
            self._interruptible = False
