"""What a run prints: a block of facts, one live line or now and then a plain one, and log.txt.

    time left = seconds (1 - done) / done,    done = step / steps  or  seconds / seconds planned

Numbers come out as people write them. rich is imported by the first live line, not before.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_EVERY = 10.0  # seconds between two plain lines
REDRAW_EVERY = 0.1  # seconds: a live line that changes faster cannot be read
SMOOTHING = 50  # updates that the printed loss is a mean over, about
WIDTH = 100  # of lines that go to a file
BAR = 16  # letters of the live bar


# --- numbers


def count(value: int) -> str:
    """1234567 as "1,234,567"."""
    return f"{value:,}"


def short(value: float, unit: str = "") -> str:
    """Three digits and a metric prefix: 1.2e9, "FLOP" is "1.2 GFLOP", 950 is "950"."""
    if not math.isfinite(value):
        return f"{value} {unit}".strip()
    power = 0
    while abs(float(f"{value:.3g}")) >= 1000 and power < 6:
        value, power = value / 1000, power + 1
    prefix = ["", "k", "M", "G", "T", "P", "E"][power]
    return f"{value:.3g} {prefix}{unit}".strip()


def duration(seconds: float) -> str:
    """185 as "3 min 05 s", 7500 as "2 h 05 min", 4.25 as "4.2 s"; "unknown" unless finite."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, smaller, size, part in (
        ("d", "h", 86400, 3600),
        ("h", "min", 3600, 60),
        ("min", "s", 60, 1),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part:02d} {smaller}"
    return f"{whole} s"


# --- what stands in the lines


@dataclass(frozen=True)
class Progress:
    """Where a run is: what one line of progress says."""

    step: int  # optimizer steps done
    seconds: float  # of training, those before a resume included
    loss: float  # of the last step
    images_per_s: float
    lr: float
    memory_gb: float  # the greatest so far
    steps: int | None = None  # planned; None for a budget of time
    budget_s: float | None = None  # seconds planned; None for a budget of steps

    @property
    def done(self) -> float:
        """The share of the budget that is used, in [0, 1]; of two the one that ends first."""
        shares = [self.step / self.steps] if self.steps else []
        shares += [self.seconds / self.budget_s] if self.budget_s else []
        return min(1.0, max(shares, default=0.0))

    @property
    def seconds_left(self) -> float:
        """Expected seconds to the end; NaN where nothing is known yet."""
        return self.seconds * (1 - self.done) / self.done if self.done > 0 else math.nan


def progress_line(progress: Progress, loss: float) -> str:
    """One line, the important first: how far, loss, speed, time left, then the rest."""
    of = f"/{count(progress.steps)}" if progress.steps else ""
    return "  ".join(
        [
            f"step {count(progress.step)}{of}  {math.floor(100 * progress.done)} %",
            f"loss {loss:.4f}",
            f"{progress.images_per_s:,.0f} images/s",
            f"{duration(progress.seconds)} so far",
            f"ETA {duration(progress.seconds_left)}",
            f"lr {progress.lr:.2g}",
            f"{progress.memory_gb:.2g} GB",
        ]
    )


def versions() -> str:
    """The versions that a bug report needs, without importing torch."""
    names = ("sfumato", "torch")
    found = [f"{name} {_version(name)}" for name in names]
    return "  ".join([found[0], f"Python {platform.python_version()}", found[1], platform.system()])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return "(not installed)"


def facts_block(title: str, facts: Mapping[str, str], width: int = WIDTH) -> str:
    """A title and aligned lines "name  value"; a long value goes on below its own start."""
    margin = max((len(name) for name in facts), default=0) + 4
    lines = [title]
    for name, value in facts.items():
        wrapper = textwrap.TextWrapper(
            width=max(width, margin + 30),
            initial_indent=f"  {name}".ljust(margin),
            subsequent_indent=" " * margin,
            break_long_words=False,  # a path stays one word that can be copied
            break_on_hyphens=False,
        )
        lines += wrapper.wrap(value) or [f"  {name}"]
    return "\n".join(lines)


WORTH_SAYING = 0.5  # seconds left, below which the end is there before the line is read


def reading(
    say: Callable[[str], None],
    what: str = "reading images",
    every: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[int, int], None]:
    """A progress function as data.load wants it: says how far it is, every so many seconds."""
    begun = last = clock()
    first, seen = 0, -1  # done where the clock was started; before the first call

    def progress(done: int, total: int) -> None:
        nonlocal begun, last, first, seen
        now = clock()
        if seen < 0 or done < seen:  # a pass begins: headers first, then pixels
            begun, last, first = now, now, done
        seen = done
        if now - last < every or not first < done < total:
            return
        last, left = now, (now - begun) * (total - done) / (done - first)
        if left >= WORTH_SAYING:
            say(f"{what}: {count(done)} of {count(total)}, about {duration(left)} left")

    return progress


def is_live(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether one line may be drawn over and over: a terminal, and nothing asks for plain text."""
    plain = environment.get("NO_COLOR") or environment.get("CI")
    return stream.isatty() and not plain and environment.get("TERM") != "dumb"


# --- the reporter


class Reporter:
    """Prints a run to a stream and to log.txt; use it in a `with`, so that the last line is kept.

    On a terminal the progress is one line that is drawn anew; elsewhere it is a plain line every
    `every` seconds, without control codes. log.txt always gets the plain lines. Quiet prints
    warnings only.
    """

    def __init__(
        self,
        log_path: str | Path | None = None,
        quiet: bool = False,
        *,
        stream: TextIO | None = None,
        live: bool | None = None,
        every: float = PLAIN_EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            log_path: a file to append to; its folder is made.
            quiet: no lines on the stream but warnings.
            stream: standard output unless given.
            live: whether to draw one live line; found out by `is_live` unless given.
            clock: gives seconds; only their differences count.
        """
        self.stream = sys.stdout if stream is None else stream
        self.quiet, self.every, self.clock = quiet, every, clock
        self.live = not quiet and (is_live(self.stream, os.environ) if live is None else live)
        self._log = _open_log(log_path)
        self._nowhere: TextIO | None = None
        self._line: Live | None = None
        self._last: Progress | None = None
        self._is_written = True  # the last progress, as a plain line
        self._loss, self._losses = math.nan, 0
        self._plain_at = self._drawn_at = -math.inf

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def header(self, title: str, facts: Mapping[str, str]) -> None:
        """The block before a run: versions, then device, data, network, plan, folder by name."""
        width = shutil.get_terminal_size((WIDTH, 24)).columns if self.live else WIDTH
        self.say(facts_block(title, {"versions": versions(), **facts}, min(width, WIDTH)))

    def say(self, text: str = "") -> None:
        """A line or several, to the stream unless quiet, and to log.txt."""
        self._write(text, to_stream=not self.quiet)

    def warn(self, text: str) -> None:
        """What must be seen even in a quiet run."""
        self._write(f"warning: {text}", to_stream=True)

    def progress(self, progress: Progress) -> None:
        """Tells where the run is; prints it if it is time to."""
        self._smooth(progress.loss)
        self._last, self._is_written, now = progress, False, self.clock()
        if self.live and now - self._drawn_at >= REDRAW_EVERY:
            self._drawn_at = now
            self._draw(progress)
        if now - self._plain_at >= self.every:
            self._plain_at = now
            self._write_progress(progress, to_stream=not self.quiet and not self.live)

    def end_progress(self) -> None:
        """Ends the live line and writes the last progress as a plain one."""
        was_drawn = self._line is not None
        if self._line is not None:
            self._line.stop()  # takes it off the screen
            self._line = None
        if self._last is not None and (was_drawn or not self._is_written):
            self._write_progress(self._last, not self.quiet, to_log=not self._is_written)
        self._last = None

    def close(self) -> None:
        """Ends the progress and closes log.txt."""
        self.end_progress()
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._nowhere is not None:
            self._nowhere.close()

    def _smooth(self, loss: float) -> None:
        """A running mean over about SMOOTHING losses; a NaN is shown and then forgotten."""
        if not math.isfinite(self._loss) or not math.isfinite(loss):
            self._loss, self._losses = loss, 1
            return
        self._losses = min(self._losses + 1, SMOOTHING)
        self._loss += (loss - self._loss) / self._losses

    def _write_progress(self, progress: Progress, to_stream: bool, to_log: bool = True) -> None:
        self._write(progress_line(progress, self._loss), to_stream, to_log)
        self._is_written = True

    def _write(self, text: str, to_stream: bool, to_log: bool = True) -> None:
        if self._log is not None and to_log:
            self._write_log(text)
        if not to_stream:
            return
        with self._going_on():
            if self._line is not None:
                self._line.console.print(text, markup=False, highlight=False, soft_wrap=True)
                return
            encoding = self.stream.encoding or "utf-8"
            safe = text.encode(encoding, "backslashreplace").decode(encoding)  # cp1252, a class 猫
            print(safe, file=self.stream, flush=True)

    def _write_log(self, text: str) -> None:
        assert self._log is not None
        try:
            self._log.write(text + "\n")
        except OSError as error:
            self._log = None
            self.warn(f"log.txt can't be written any more, and the run goes on: {error}")

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """A terminal or pipe that is gone is no reason to lose a run: log.txt has all from here."""
        try:
            yield
        except OSError as error:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, for as long as it runs
            if self.stream is sys.stdout:
                sys.stdout = nowhere
            else:
                self._nowhere = nowhere  # ours alone to close
            self.stream, self._line, self.live = nowhere, None, False
            self._write(f"warning: nobody reads the output any more: {error}", to_stream=False)

    def _draw(self, progress: Progress) -> None:
        with self._going_on():
            self._draw_line(progress)

    def _draw_line(self, progress: Progress) -> None:
        from rich.text import Text

        if self._line is None:
            self._line = _live_line(self.stream)
        console, words = self._line.console, progress_line(progress, self._loss)
        line = Text(no_wrap=True, overflow="ellipsis")
        if console.width >= BAR + 2 + len(words):
            full = round(BAR * progress.done)
            stroke = "-" if console.options.ascii_only else "\u2501"
            line.append(stroke * full, style="cyan")
            line.append(stroke * (BAR - full) + "  ", style="bright_black")
        self._line.update(line.append(words), refresh=True)


def _open_log(path: str | Path | None) -> TextIO | None:
    if path is None:
        return None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return open(path, "a", encoding="utf-8", buffering=1)


def _live_line(stream: TextIO) -> Live:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, force_terminal=True, highlight=False)
    line = Live(console=console, auto_refresh=False, transient=True)
    line.start()
    return line
