"""The promise of the first command: digits, class by class, that a stranger can read."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from judge import read, trained
from sfumato.folder import read_metrics
from tiny import SHARED

MNIST = SHARED / "mnist"


def sfumato(*words: str, where: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sfumato", *words], cwd=where, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def drawn_digits(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The images that `sample --files` wrote, and the labels in their names."""
    images, labels = [], []
    for path in sorted(folder.glob("*-*.png")):
        with Image.open(path) as image:
            images.append(np.asarray(image.convert("L")))
        labels.append(int(path.name[0]))
    return torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not MNIST.is_dir(), reason=f"SKIPPED LOUDLY: no full MNIST in {MNIST}")
def test_a_classifier_that_the_run_never_saw_reads_the_digits_that_were_asked_for(tmp_path):
    judge, accuracy = trained(str(MNIST))
    assert accuracy > 0.985
    printed = sfumato("demo", where=tmp_path)
    run = tmp_path / "runs" / "demo"
    for name in ("samples.png", "film.webp", "loss.png", "index.html"):
        assert (run / name).is_file()
    spent = [row["seconds"] for row in read_metrics(run) if row["kind"] == "train"][-1]
    assert spent < 190, printed  # at most three minutes of training, whatever the machine
    sfumato(
        "sample",
        "demo",
        "--count",
        "500",
        "--columns",
        "50",
        "--files",
        "--no-film",
        where=tmp_path,
    )
    images, labels = drawn_digits(run / "drawn")
    assert labels.bincount().tolist() == [50] * 10
    agreement = (read(judge, images) == labels).double().mean().item()
    print(f"judge {accuracy:.4f} on test digits, {agreement:.3f} of 500 drawn digits as asked")
    assert agreement >= 0.9


def test_a_demo_of_a_second_leaves_everything_in_its_place(tmp_path):
    printed = sfumato("demo", "--time", "1s", where=tmp_path)
    run = tmp_path / "runs" / "demo"
    for name in ("samples.png", "film.webp", "loss.png", "index.html", "data-preview.png"):
        assert (run / name).stat().st_size > 1000
    assert re.search(r"Look at runs/demo/samples.png: ten rows, a digit a row", printed)
    with Image.open(run / "samples.png") as image:
        assert min(image.size) > 500
