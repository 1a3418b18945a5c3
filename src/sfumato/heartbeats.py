"""Signs of life: each process tells the others once a second that it is there.

A collective call waits for every process. Where one is killed, hangs or is cut off, the others
would wait with it, for minutes or for ever; here they notice, say which one it is, and end.
"""

import os
import sys
import threading
import time
from collections.abc import Callable

from torch.distributed.distributed_c10d import PrefixStore, Store

GONE = 4  # exit code: another process of the run is gone
BEAT = 0.5  # seconds between two signs of life
SUSPECT = 3.0  # seconds without one after which a failed call is blamed on its process
PATIENCE = 60.0  # seconds without one that end the run; SFUMATO_PATIENCE in the environment
ENDED = "ended"


class Heartbeats:
    """A thread that beats, and listens for the other processes' beats."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.patience = float(os.environ.get("SFUMATO_PATIENCE") or PATIENCE)
        self._store = PrefixStore("alive", store)
        self._last: dict[int, tuple[bytes, float]] = {}  # what each said last, and since when
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeats", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        number = 0
        while not self._over.wait(BEAT):
            number += 1
            try:
                self._store.set(str(self.rank), str(number))
                self._listen()
            except RuntimeError as error:  # its connection, or the process that serves it
                if not self._over.is_set():
                    self._end(f"the meeting point of the processes is gone ({error})")
                return
            if silent := self.silent(self.patience):
                self._end(words(silent, self.size, self.patience))

    def _listen(self) -> None:
        now = time.monotonic()
        for rank in range(self.size):
            said = self._store.get(str(rank)) if self._store.check([str(rank)]) else b""
            if rank not in self._last or self._last[rank][0] != said:
                self._last[rank] = (said, now)

    def silent(self, seconds: float) -> list[int]:
        """The processes without a sign of life for so long; one that has ended well is none."""
        now = time.monotonic()
        return [
            rank
            for rank, (said, since) in self._last.items()
            if rank != self.rank and said != ENDED.encode() and now - since > seconds
        ]

    def blamed(self) -> str:
        """Who is gone, in words, after a call that failed; empty where all are there."""
        time.sleep(SUSPECT + 2 * BEAT)
        silent = self.silent(SUSPECT)
        return words(silent, self.size, SUSPECT) if silent else ""

    def _end(self, reason: str) -> None:
        """From this thread, while the main one waits in a call that will not return."""
        print(f"sfumato: {reason}. {ADVICE}", file=sys.stderr, flush=True)
        os._exit(GONE)

    def stop(self, say: Callable[[str], None] | None = None) -> None:
        """Tell the others that this process has ended well."""
        self._over.set()
        self._thread.join()
        try:
            self._store.set(str(self.rank), ENDED)
        except RuntimeError as error:  # they have all ended before
            if say is not None:
                say(str(error))


ADVICE = "What was last saved is whole: start the same command again with --resume."


def words(ranks: list[int], size: int, seconds: float) -> str:
    names = ", ".join(map(str, ranks))
    return f"process {names} of 0 to {size - 1} gave no sign of life for {seconds:g} s"
