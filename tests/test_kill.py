"""Signals end a run of the command with all of its steps saved; kill -9 is drill K2."""

import signal
import subprocess
import sys
import time

import pytest

from drills.kills import COMMAND, rows_of
from sfumato import checkpoint
from sfumato.stopping import StopRequest

STEPS = 40
NUMBERS = {"SIGTERM": 143, "SIGUSR1": 138, "SIGINT": 130}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, name):
    folder = tmp_path / "run"
    loud = [word for word in COMMAND if word != "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sfumato", *loud, "--steps", str(STEPS), "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or '"train"' not in metrics.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == NUMBERS[name]
    step = rows_of(folder)[-1][0]
    assert step < STEPS
    assert f"Stopped and saved at step {step}. Go on with: sfumato train {folder}" in printed
    assert checkpoint.folders(folder)[-1].name == f"step-{step:09d}"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no terminals that go")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_goes_ends_a_run_unless_nohup_began_it(ignored):
    stop, before = StopRequest(), signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with stop.listening():
            signal.raise_signal(signal.SIGHUP)
        left = signal.getsignal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert stop.asked is not ignored
    assert left == (signal.SIG_IGN if ignored else signal.SIG_DFL)
