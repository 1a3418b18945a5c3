"""Checkpoints beside training: a state is turned into bytes at once and written by a thread.

A save that fails is told and the run goes on, with its older checkpoints; three in a row, or the
last one of a run, end it.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from . import checkpoint
from .training import TrainConfig, TrainState

MOST_FAILURES = 3  # in a row

Say = Callable[[str], None]


class Failures:
    """How many saves in a row have failed."""

    def __init__(self, warn: Say) -> None:
        self.warn, self.count = warn, 0

    def add(self, error: OSError) -> None:
        """Tell of one more.

        Raises: OSError where it is the third.
        """
        self.count += 1
        if self.count >= MOST_FAILURES:
            raise type(error)(
                error.errno,
                f"{self.count} saves in a row failed, so the run stops before more is lost; the "
                f"last reason: {error.strerror}",
            ) from error
        self.warn(
            f"a save failed and the run goes on ({self.count} of {MOST_FAILURES} in a row): "
            f"{error.strerror}"
        )


class Saver:
    """Writes the checkpoints of one run, one at a time."""

    def __init__(self, run: Path, config: TrainConfig, warn: Say) -> None:
        self.run, self.config = run, config
        self.failures = Failures(warn)
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[Path] | None = None

    def begin(self, state: TrainState) -> None:
        """Save the state as it is now; returns before it is on the disk.

        Raises: OSError where this is the third save in a row that could not be written.
        """
        self.settle()
        files, keep, every = checkpoint.files_of(state), self.config.keep, self.config.keep_every
        self._pending = self._pool.submit(
            checkpoint.commit, self.run, state.step, files, keep, every
        )

    def look(self) -> None:
        """Tell of a save that has failed in the meantime; to be called at every step.

        Raises: as begin.
        """
        if self._pending is not None and self._pending.done():
            self.settle()

    def settle(self) -> None:
        """Wait until what was begun is on the disk, or has failed and is told.

        Raises: as begin.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except OSError as error:
            self.failures.add(error)
        else:
            self.failures.count = 0

    def close(self) -> None:
        """Wait for the last save.

        Raises: OSError where it failed: nothing later would make up for it.
        """
        pending, self._pending = self._pending, None
        self._pool.shutdown()
        if pending is not None:
            pending.result()
