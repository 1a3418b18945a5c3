"""Images that are broken, of every kind, or hostile: I1, I3 and I4."""

import os
import struct
import threading
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from sfumato.data import ImageData, Tolerance, UnreadableWarning, load
from sfumato.data.containers import Container
from sfumato.data.decoding import decode_all
from sfumato.data.images import READ_ERRORS, decode, reason

from . import bombs, modes
from .drill import Count, Drill
from .memory import cost_of, resident
from .mutants import add_odd_files, mutants, seeds, write

HUNG = 2.0  # seconds for one file
RAISED = (
    struct.error("x"),
    SyntaxError("x"),
    OverflowError("x"),
    zlib.error("x"),
    MemoryError(),
    Image.DecompressionBombWarning("x"),
)


def i1(short: bool) -> Count:
    """Broken image files: each is read, or named once with its reason"""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    parts, size = (2, 300) if short else (10, 1000)
    outcomes, slowest, before = [_exceptions_are_caught()], 0.0, 0.0
    for part in range(parts):
        files = mutants(size, seed=part)
        slowest = max(slowest, *map(_seconds, files.values()))
        outcomes.append(_accounted_for(files))
        before = before or resident()  # after the first part: what is loaded once is loaded
    grown = resident() - before
    tried, held = (sum(column) for column in zip(*outcomes))
    fast, small = slowest < HUNG, grown < 200
    note = f"slowest {slowest * 1000:.0f} ms, memory {grown:+.0f} MB"
    return Count(tried + 2, held + fast + small, note)


def _seconds(data: bytes) -> float:
    begun = time.thread_time()
    with suppress(READ_ERRORS):  # whether it has a reason is seen where a folder of them is read
        decode(data, (16, 16), 3)
    return time.thread_time() - begun


def _accounted_for(files: dict[str, bytes]) -> tuple[int, int]:
    """(files, those among the images or else among what was left out, once, with a reason)."""
    with TemporaryDirectory() as root:
        odd = add_odd_files(write(Path(root), files | {"whole.png": seeds()["1.png"]}))
        with _let_go(Path(root, "pipe.png")) as hung:
            data, warned = _tolerantly(Path(root))
    seen = Counter((*(data.names or ()), *(name for name, why in data.skipped if why)))
    names = {*files, *odd, "whole.png"}
    strays = seen.keys() - names
    once = sum(seen[name] == 1 for name in names)
    return len(names) + 2, once + (warned == 1 and not strays) + (not hung)


@contextmanager
def _let_go(pipe: Path) -> Iterator[list[Path]]:
    """Who reads the pipe within the block is let go after a while; yields a list that tells so."""
    hung: list[Path] = []

    def write_nothing() -> None:
        with suppress(OSError):  # nobody reads it
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            hung.append(pipe)

    timer = threading.Timer(10 * HUNG, write_nothing)
    timer.start()
    try:
        yield hung
    finally:
        timer.cancel()


def _tolerantly(path: Path) -> tuple[ImageData, int]:
    """The set, and how many warnings there were of unreadable files."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load(path, 16, 3, tolerance=Tolerance(most=1))
    return data, sum(issubclass(w.category, UnreadableWarning) for w in caught)


def _exceptions_are_caught() -> tuple[int, int]:
    """(kinds of exception that decoders raise, those that became a reason)."""
    whole = seeds()["1.png"]
    held = 0
    for error in RAISED:

        def read(name: str, error: Exception = error) -> bytes:
            if name == "bad":
                raise error
            return whole

        batch = decode_all(Container("x", ("bad", "good"), read), ("bad", "good"), (8, 8), 3, None)
        held += [name for name, why in batch.skipped if why] == ["bad"]
    return len(RAISED), held


def i3(short: bool) -> Count:
    """Every mode of pixels, against values worked out by hand, to 1 of 255"""
    worst, lost = 0, []
    cases = modes.cases()
    for name, given, channels, wanted in cases:
        pixels = decode(given, None, channels).pixels if isinstance(given, bytes) else given()
        same = pixels.shape == wanted.shape
        error = int(np.abs(pixels.astype(int) - wanted.astype(int)).max()) if same else 255
        worst = max(worst, error)
        if error > 1:
            lost.append(f"{name}: {error if same else pixels.shape}")
    return Count(len(cases), len(cases) - len(lost), "; ".join(lost) or f"worst error {worst}")


def i4(short: bool) -> Count:
    """Bombs: refused, or what is packed in them left packed, within 50 ms and 20 MB each"""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    files, limit = bombs.images(), 0.5 if short else 0.05  # a test shall pass on a slow machine
    outcomes = [_decoding(data, refused, limit) for data, refused in files.values()]
    names = list(files)
    with TemporaryDirectory() as root:
        for name, path in bombs.data_sets(Path(root)).items():
            names.append(name)
            outcomes.append(_withstood(lambda path=path: load(path, 16), True, limit))
    lost = [f"{n} {s:.3f} s {m:.0f} MB" for n, (ok, s, m) in zip(names, outcomes) if not ok]
    most = max(megabytes for _, _, megabytes in outcomes)
    slowest = max(seconds for _, seconds, _ in outcomes)
    note = "; ".join(lost) or f"at most {slowest * 1000:.0f} ms and {most:.0f} MB"
    return Count(len(names), len(names) - len(lost), note)


def _decoding(data: bytes, refused: bool, limit: float) -> tuple[bool, float, float]:
    return _withstood(lambda: decode(data, (16, 16), 3), refused, limit)


def _withstood(
    work: Callable[[], object], refused: bool, limit: float
) -> tuple[bool, float, float]:
    """(whether it held, CPU seconds, MB)."""

    def tried() -> bool:
        try:
            work()
        except READ_ERRORS as error:
            return bool(reason(error))
        return False

    cost = cost_of(tried)
    held = cost.answer == refused and cost.seconds < limit and cost.megabytes < 20
    return held, cost.seconds, cost.megabytes


DRILLS: dict[str, Drill] = {"I1": i1, "I3": i3, "I4": i4}
