"""What is printed is what happened, in numbers that a person reads, and without codes in a file."""

import dataclasses
import io
import math
import subprocess
import sys

import pytest

from sfumato.console import (
    Progress,
    Reporter,
    count,
    duration,
    facts_block,
    is_live,
    progress_line,
    short,
    versions,
)

HERE = Progress(
    step=1250,
    seconds=60.0,
    loss=0.05,
    images_per_s=2500.4,
    lr=3e-4,
    memory_gb=1.234,
    steps=5000,
)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1234567, "1,234,567"), (-1000, "-1,000")]
)
def test_counts(value, text):
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 FLOP"),
        (1, "1 FLOP"),
        (950, "950 FLOP"),
        (999.6, "1 kFLOP"),
        (1.2e9, "1.2 GFLOP"),
        (123_456_789, "123 MFLOP"),
        (1e12, "1 TFLOP"),
        (2.5e21, "2.5e+03 EFLOP"),
        (math.inf, "inf FLOP"),
    ],
)
def test_metric_prefixes(value, text):
    assert short(value, "FLOP") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.25, "4.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86400, "1 d 00 h"),
        (7.7 * 86400, "7 d 16 h"),
        (math.nan, "unknown"),
        (math.inf, "unknown"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_quarter_done_in_a_minute_leaves_three():
    assert (HERE.done, HERE.seconds_left) == (0.25, 180.0)


def test_of_two_budgets_the_one_that_ends_first_counts():
    both = dataclasses.replace(HERE, budget_s=120.0)
    assert (both.done, both.seconds_left) == (0.5, 60.0)
    assert dataclasses.replace(both, seconds=500.0).done == 1.0


def test_nothing_done_or_planned_means_an_unknown_end():
    assert math.isnan(dataclasses.replace(HERE, step=0).seconds_left)
    assert math.isnan(dataclasses.replace(HERE, steps=None).seconds_left)


def test_the_line_says_everything():
    assert progress_line(HERE, 0.0512) == (
        "step 1,250/5,000  25 %  loss 0.0512  2,500 images/s  1 min 00 s so far  "
        "ETA 3 min 00 s  lr 0.0003  1.2 GB"
    )
    timed = dataclasses.replace(HERE, steps=None, budget_s=61.0)
    assert progress_line(timed, 0.05).startswith("step 1,250  98 %  loss 0.0500")


def test_the_end_is_not_announced_before_it_is_there():
    assert "  99 %" in progress_line(dataclasses.replace(HERE, step=4999), 0.05)
    assert "  100 %" in progress_line(dataclasses.replace(HERE, step=5000), 0.05)


def test_facts_are_aligned_and_long_ones_wrapped_without_breaking_a_path():
    path = "runs/" + "a-very-long-name/" * 8
    block = facts_block("train", {"data": "one two " * 20, "results": path, "note": ""}, width=60)
    title, *lines = block.splitlines()
    assert title == "train"
    assert {line[:11] for line in lines} == {"  data     ", "  results  ", "           ", "  note"}
    assert f"  results  {path}" in lines
    assert max(len(line) for line in lines if path not in line) <= 60


def test_versions_name_what_a_bug_report_needs():
    assert [word in versions() for word in ("sfumato", "Python 3.", "torch ")] == [True] * 3


# --- the reporter


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self):
        return self.now


def report(stream, log=None, ticks=(), **options):
    """Reports a step a tick, at these seconds."""
    clock = Clock()
    with Reporter(log, stream=stream, clock=clock, **options) as reporter:
        reporter.header("sfumato train", {"device": "cpu"})
        for step, clock.now in enumerate(ticks, 1):
            reporter.progress(dataclasses.replace(HERE, step=step, steps=len(ticks)))
        reporter.say("done")
        reporter.warn("the disk is nearly full")


def test_plain_lines_come_every_so_often_with_the_last_one_and_no_codes():
    stream = io.StringIO()
    report(stream, ticks=(0, 4, 9.9, 10, 12, 19.9, 21, 22), every=10)
    text = stream.getvalue()
    steps = [line.split()[1] for line in text.splitlines() if line.startswith("step")]
    assert steps == ["1/8", "4/8", "7/8", "8/8"]
    assert "\x1b" not in text
    assert "\r" not in text
    assert "ETA" in text
    assert text.splitlines()[:3] == [
        "sfumato train",
        f"  versions  {versions()}",
        "  device    cpu",
    ]
    assert "warning: the disk is nearly full" in text


def test_quiet_prints_warnings_only_and_logs_all(tmp_path):
    stream, log = io.StringIO(), tmp_path / "new" / "log.txt"
    report(stream, log, ticks=(0, 1), quiet=True)
    loud = io.StringIO()
    report(loud, ticks=(0, 1))
    assert stream.getvalue() == "warning: the disk is nearly full\n"
    assert log.read_text(encoding="utf-8") == loud.getvalue()


def test_the_log_of_a_resumed_run_goes_on(tmp_path):
    for _ in range(2):
        report(io.StringIO(), tmp_path / "log.txt")
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]


def test_live_redraws_one_line_leaves_the_last_and_logs_plain_lines(tmp_path):
    stream, log = io.StringIO(), tmp_path / "log.txt"
    report(stream, log, ticks=(0, 4, 8, 12), every=10, live=True)
    screen, plain = stream.getvalue(), log.read_text(encoding="utf-8")
    assert screen.count("step 2/4") == 1  # drawn, and not in a plain line
    assert screen.count("\x1b[2K") >= 4  # each drawing wipes the one before
    assert screen.splitlines()[-1].endswith("1.2 GB")
    assert "\x1b" not in screen.splitlines()[-1].split("step")[1]
    assert [line.split()[1] for line in plain.splitlines() if line.startswith("step")] == [
        "1/4",
        "4/4",
    ]
    assert "\x1b" not in plain


def test_live_draws_no_faster_than_the_eye_reads():
    stream = io.StringIO()
    report(stream, ticks=[k / 1000 for k in range(300)], live=True)
    drawn = {k for k in range(1, 301) if f"step {k}/300" in stream.getvalue()}
    assert drawn == {1, 101, 201, 300}


def test_the_loss_shown_is_a_mean_and_a_nan_is_not_hidden():
    stream = io.StringIO()
    with Reporter(stream=stream, every=0) as reporter:
        for loss in (1.0, 2.0, 6.0, math.nan, 4.0):
            reporter.progress(dataclasses.replace(HERE, loss=loss))
    shown = [line.split("loss ")[1].split()[0] for line in stream.getvalue().splitlines()]
    assert shown == ["1.0000", "1.5000", "3.0000", "nan", "4.0000"]


def test_letters_that_a_stream_cannot_hold_do_not_stop_a_run():
    raw = io.BytesIO()
    with Reporter(stream=io.TextIOWrapper(raw, encoding="ascii")) as reporter:
        reporter.say("class 猫")
        assert raw.getvalue() == b"class \\u732b\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "live"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"CI": "true"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_a_live_line_needs_a_terminal_that_wants_one(stream, environment, live):
    assert is_live(stream, environment) is live


def test_plain_lines_need_neither_rich_nor_torch():
    code = """
import sys
from sfumato.console import Reporter
with Reporter(live=False) as reporter:
    reporter.header("a", {})
sys.exit("rich" in sys.modules or "torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_reading_many_files_says_how_many_and_how_long():
    from sfumato.console import reading

    now, said = [0.0], []
    progress = reading(said.append, every=2.0, clock=lambda: now[0])
    for second, done in ((0, 0), (1, 10), (2, 20), (3, 30), (4, 50), (6, 97), (7, 100)):
        now[0] = float(second)
        progress(done, 100)
    assert said == [
        "reading images: 20 of 100, about 8.0 s left",
        "reading images: 50 of 100, about 4.0 s left",
    ]


def test_output_that_nobody_reads_does_not_end_a_run(tmp_path):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    with Reporter(tmp_path / "log.txt", stream=Gone(), live=False) as reporter:
        reporter.say("one")
        reporter.warn("two")
    told = (tmp_path / "log.txt").read_text().splitlines()
    assert (told[0], told[2]) == ("one", "warning: two")
    assert "nobody reads" in told[1]
