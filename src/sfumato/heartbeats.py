"""Signs of life: each process tells the others twice a second that it is there, or why it ends.

A collective call waits for every process. Where one is killed, hangs or is cut off, the others
would wait with it, for minutes or for ever; here they notice, say which one it is, and end.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from torch.distributed.distributed_c10d import PrefixStore, Store

GONE = 4  # exit code: another process of the run is gone
BEAT = 0.5  # seconds between two signs of life
SUSPECT = 3.0  # seconds without one after which a failed call is blamed on its process
PATIENCE = 60.0  # seconds without one that end the run; SFUMATO_PATIENCE in the environment
ENDED = b"ended"  # said last by a process that is done,
LEFT, LOST = b"left:", b"lost:"  # by one that failed, and by one that failed for want of another
MOST_WORDS = 2000  # characters of the reason
ADVICE = "What was last saved is whole; the same command with --resume goes on with it."


def patience(usual: float = PATIENCE) -> float:
    """Seconds to wait for other processes: those of SFUMATO_PATIENCE, where it is set."""
    return float(os.environ.get("SFUMATO_PATIENCE") or usual)


class Heartbeats:
    """What the processes of a run say of themselves, and what follows of it."""

    def __init__(
        self, store: Store, rank: int, size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rank, self.size, self.clock = rank, size, clock
        self.patience = patience()
        self._store = PrefixStore("alive", store)
        self._last: dict[int, tuple[bytes, float]] = {}  # what each said last, and since when
        self._answered = clock()  # when the store last did
        self._broken = ""  # how it was lost
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, name="heartbeats", daemon=True)
            for work in (self._speak, self._judge)
        ]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    # --- speaking and listening

    def _speak(self) -> None:
        number = 0
        while not self._over.wait(BEAT):
            number += 1
            try:
                self.beat(number)
            except RuntimeError as error:
                self._broken = str(error).partition("\n")[0]
                return

    def beat(self, number: int) -> None:
        """Say that this process is there, and take in what the others say."""
        self._store.set(str(self.rank), str(number))
        self._listen()

    def _listen(self) -> None:
        now = self.clock()
        for rank in range(self.size):
            said = self._store.get(str(rank)) if self._store.check([str(rank)]) else b""
            if rank not in self._last or self._last[rank][0] != said:
                self._last[rank] = (said, now)
        self._answered = now

    def _hears(self) -> bool:
        """Listen, while nothing is said any more; whether there is still something to hear."""
        try:
            self._listen()
        except RuntimeError as error:
            self._broken = str(error)
        return not self._broken

    # --- judging

    def _judge(self) -> None:
        """Apart from speaking, which waits for as long as the store hangs."""
        while not self._over.wait(BEAT):
            if reason := self.verdict(self.patience):
                self._end(reason)

    def verdict(self, seconds: float, grace: float = SUSPECT) -> str:
        """Why the run is over, empty where it is not: a process is gone, or silent for `seconds`.

        One that told why it ends is believed after `grace` seconds, in which this one may come to
        the same end by itself.
        """
        for rank, since in self._said(LEFT, LOST).items():
            if self._broken or self.clock() - since >= grace:
                return self._of_one_that_left(rank)
        if self._broken or self.clock() - self._answered > seconds:
            silence = self._broken or f"silent for {seconds:g} s"
            return f"{meeting_point(self.size)} is gone ({silence}). {ADVICE}"
        silent = self.silent(seconds)
        return f"{words(silent, self.size, seconds)}. {ADVICE}" if silent else ""

    def silent(self, seconds: float) -> list[int]:
        """The processes without a sign of life for so long; one that has ended well is none."""
        now, done = self.clock(), self._said(ENDED)
        return [
            rank
            for rank, (_, since) in self._last.items()
            if rank != self.rank and rank not in done and now - since > seconds
        ]

    def _said(self, *begin: bytes) -> dict[int, float]:
        """The other processes whose last words begin so, and since when they do."""
        return {
            rank: since
            for rank, (said, since) in sorted(self._last.items())
            if rank != self.rank and said.startswith(begin)
        }

    def _of_one_that_left(self, rank: int) -> str:
        """Told in full by itself and by process 0, and not by a hundred others.

        Who is gone is told by all, in the words of the first to notice.
        """
        said = self._last[rank][0]
        if said.startswith(LOST):
            return said.removeprefix(LOST).decode()
        if self.rank:
            return f"process {self.rank} ends with process {rank}, which tells why."
        return f"process {rank} has ended: {said.removeprefix(LEFT).decode()}"

    def _end(self, reason: str) -> None:
        """From a thread, while the main one waits in a call that will not return."""
        with suppress(RuntimeError):  # where the store is gone, so is who would read it
            self._store.set(str(self.rank), LOST.decode() + reason)
        print(f"sfumato: {reason}", file=sys.stderr, flush=True)
        os._exit(GONE)

    def blamed(self) -> str:
        """Why a call between the processes failed; empty where all are there."""
        until = self.clock() + SUSPECT + 3 * BEAT
        while self.clock() < until:
            if reason := self.verdict(SUSPECT, grace=0):
                return reason
            time.sleep(BEAT / 5)
        return ""

    # --- ending

    def stop(self) -> None:
        """Tell the others that this process has ended well."""
        self._last_words(ENDED)
        while self._hosts() and self._hears() and not self._all_have_ended():
            time.sleep(BEAT / 10)  # what they say, they say to this process

    def _all_have_ended(self) -> bool:
        done = {*self._said(ENDED, LEFT, LOST), *self.silent(self.patience), self.rank}
        return len(done) == self.size

    def leave(self, reason: str, kind: bytes = LEFT) -> None:
        """Tell the others that this process has failed, and why."""
        self._last_words(kind + reason[:MOST_WORDS].encode())
        if self._hosts():
            time.sleep(3 * BEAT)  # so that they hear it before this process is gone

    def repeats(self, reason: str) -> bool:
        """Whether process 0 ends, now or in a moment, for the same reason, and has told it."""
        wanted = LEFT + reason[:MOST_WORDS].encode()
        until = self.clock() + SUSPECT
        while self.rank and self._hears() and self.clock() < until:
            if 0 in self._last and self._last[0][0] == wanted:
                return True
            time.sleep(BEAT / 5)
        return False

    def _last_words(self, said: bytes) -> None:
        self._over.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2 * BEAT)
        try:
            self._store.set(str(self.rank), said.decode())
        except RuntimeError as error:  # nobody is left to hear it
            self._broken = str(error)

    def _hosts(self) -> bool:
        return self.rank == 0 and not served_by_torchrun()


def served_by_torchrun() -> bool:
    """Whether torchrun serves the store, or else process 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def meeting_point(size: int) -> str:
    return "torchrun" if served_by_torchrun() else f"process 0 of 0 to {size - 1}"


def words(ranks: list[int], size: int, seconds: float) -> str:
    names = ", ".join(map(str, ranks))
    return f"process {names} of 0 to {size - 1} gave no sign of life for {seconds:g} s"
