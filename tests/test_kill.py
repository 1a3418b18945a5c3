"""kill -9 at random moments: the run that goes on ends with the very weights of an unbroken one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from sfumato import checkpoint
from sfumato.folder import read_metrics
from sfumato.storage import read_folder

STEPS, KILLS = 40, 10
COMMAND = [
    *(sys.executable, "-m", "sfumato", "train", "digits", "--steps", str(STEPS), "--device", "cpu"),
    *("--limit", "200", "--batch", "12", "--micro-batch", "5", "--precision", "fp32", "--flip"),
    *("--label-dropout", "0.3", "--save-every", "3", "--previews", "2", "--sample-steps", "2"),
    *("network.channels=8", "network.multipliers=[1, 2]", "network.blocks=1", "network.groups=4"),
    *("network.attention_at=[]", "network.middle_attention=false", "network.dropout=0.1"),
    *("train.keep=3", "--quiet"),
]


def rows_of(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder) if row["kind"] == "train"]


def start(folder: Path, *more: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "true"}
    return subprocess.Popen(
        [*COMMAND, "--out", str(folder), *more], env=environment, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def kill_after(process: subprocess.Popen, folder: Path, step: int, delay: float) -> None:
    """kill -9 once `step` is logged, and a moment more; or at once where it ended before."""
    metrics = folder / "metrics.jsonl"
    for _ in range(60_000):
        logged = metrics.read_text().count('"train"') if metrics.exists() else 0
        if logged >= step or process.poll() is not None:
            break
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def test_ten_kills_change_nothing(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(whole))
    dice = random.Random(7)
    marks = sorted(dice.sample(range(1, STEPS - 3), KILLS))
    for number, mark in enumerate(marks):
        more = ["--resume"] if (broken / "run.json").exists() else []
        done = len(rows_of(broken)) if broken.exists() else 0
        process = start(broken, *more)
        kill_after(process, broken, min(STEPS - 1, max(mark, done - 4)), dice.random() * 0.05)
        assert number == 0 or checkpoint.newest(broken) is not None
    finish(start(broken, "--resume"))
    _same_ending(whole, broken)


def _same_ending(whole: Path, broken: Path) -> None:
    ends = [checkpoint.folders(folder)[-1] for folder in (whole, broken)]
    assert ends[0].name == ends[1].name == f"step-{STEPS:09d}"
    first, second = (read_folder(end) for end in ends)
    for name in ("weights.safetensors", "average.safetensors", "optimizer.safetensors"):
        assert first[name] == second[name], name
    losses = [[(row["step"], row["loss"]) for row in rows_of(f)] for f in (whole, broken)]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[1]] == list(range(1, STEPS + 1))
    assert not list((broken / "checkpoints").glob(".unfinished*"))


def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    loud = [word for word in COMMAND if word != "--quiet"]
    process = subprocess.Popen(
        [*loud, "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or '"train"' not in metrics.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    printed, _ = process.communicate(timeout=120)
    step = rows_of(folder)[-1]["step"]
    assert step < STEPS
    assert f"Stopped and saved at step {step}. Go on with: sfumato train {folder}" in printed
    assert checkpoint.folders(folder)[-1].name == f"step-{step:09d}"
