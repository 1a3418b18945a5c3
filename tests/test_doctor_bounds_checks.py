"""The doctor's checks together: before training, of a plan, and of a run's folder."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.config import Run
from sfumato.data import ImageData, fingerprint
from sfumato.doctor.checks import (
    before_training,
    check_same_images,
    forward,
    of_drawings,
    of_images,
    of_latents,
    of_means,
)
from sfumato.doctor.plan import check_width
from sfumato.folder import DataCard
from sfumato.parameterization import PredictNoise
from sfumato.solvers import DDIM
from sfumato.tasks import TASKS
from test_doctor_bounds import DIGITS, data_of, pictures, rare, told
from test_doctor_faults import GOOD

# --- before training


def settled(run: Run, data: ImageData) -> Run:
    return TASKS[Run].settled(run, data)  # type: ignore[return-value]


def test_a_run_that_is_told_no_classes_may_have_rare_ones() -> None:
    data = rare(1, 1200)
    assert ("rare-class", "risk") in told(of_images(settled(DIGITS, data), data))
    plain = replace(DIGITS, data=replace(DIGITS.data, labels=False))
    plain = replace(plain, sampling=replace(plain.sampling, guidance=1.0))
    plain = settled(plain, replace(data, labels=None, class_names=()))
    assert "rare-class" not in dict(told(of_images(plain, data)))


@pytest.mark.parametrize("files", [1, 40])
def test_before_training_no_note_is_told_nor_what_training_tells_itself(
    tmp_path: Path, files: int
) -> None:
    """Few images, and files that can't be read; 400 images of two classes are looked at."""
    broken = (("a.png", "cut short"),) * files
    data = data_of(pictures(400), torch.arange(400) % 2, unreadable=broken)
    run = settled(replace(DIGITS, train=replace(DIGITS.train, lr=1e-6)), data)
    known = {"few-images": "risk", "unreadable": "risk" if files == 40 else "note"}
    assert known.items() <= dict(told(of_images(run, data))).items()
    found = dict(told(before_training(run, data, 0.1, torch.device("cpu"), tmp_path)))
    assert found["lr-low"] == "risk"
    assert known.keys() & found.keys() == set()
    assert "note" not in found.values()


# --- what a run's folder and its plan lack


def test_other_images_than_the_runs_are_refused() -> None:
    data = data_of(pictures(20), torch.arange(20) % 2)
    size = (data.images.shape[2], data.images.shape[3])
    card = DataCard("x", "a test", fingerprint(data), 20, 1, size, data.class_names)
    check_same_images(card, data)
    with pytest.raises(ValueError, match="a test has other images now: 20 of"):
        check_same_images(card, replace(data, images=data.images.flip(0)))


def test_a_step_takes_at_least_its_flops_by_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times forward for each image of the batch; a year at a FLOP a second is too long."""
    data = data_of(pictures(1200), torch.arange(1200) % 2)
    train = replace(DIGITS.train, seconds=None, steps=1000, batch=16)
    run = settled(replace(DIGITS, train=train), data)
    work = 3 * forward(run, data) * 16
    for days, wanted in ((0.99, []), (1.01, [("budget-long-least", "risk")])):
        pace = 1000 * work / (days * 86_400)
        monkeypatch.setattr("sfumato.doctor.checks.pace", lambda device, pace=pace: pace)
        assert told(of_means(run, data, GOOD, None)) == wanted


def test_seconds_end_a_plan_before_its_images_are_learned_by_heart() -> None:
    data = data_of(pictures(1200), torch.arange(1200) % 2)
    train = replace(DIGITS.train, seconds=None, steps=10**6)
    run = settled(replace(DIGITS, train=train), data)
    assert ("by-heart", "risk") in told(of_means(run, data, GOOD, 0.001))
    run = replace(run, train=replace(run.train, seconds=0.5))
    assert told(of_means(run, data, GOOD, 0.001)) == []


def test_what_gives_the_image_need_not_let_noise_through() -> None:
    """EDM's network gives noise of high levels back, unless it skips nothing."""
    network = replace(DIGITS.network, patch=8)  # type: ignore[call-arg]
    run = replace(DIGITS, network=network)
    assert told(check_width(run, 1)) == [("noise-stuck", "wrong")]
    way = replace(DIGITS.parameterization, skip=False)  # type: ignore[call-arg]
    assert told(check_width(replace(run, parameterization=way), 1)) == []


@pytest.mark.parametrize(("count", "size", "looked"), [(2, 8, True), (1, 8, False), (2, 9, False)])
def test_drawings_of_the_images_size_are_looked_at(
    tmp_path: Path, count: int, size: int, looked: bool
) -> None:
    drawn = np.full((count, 1, size, size), 255, np.uint8)
    for step, images in ((1, 0 * drawn), (20, drawn)):  # the newest counts
        (tmp_path / "samples").mkdir(exist_ok=True)
        np.save(tmp_path / "samples" / f"step-{step:07d}.npy", images)
    found = list(of_drawings(DIGITS, data_of(pictures(1200)), tmp_path))
    assert ("one-image" in dict(told(found))) is looked
    assert all(dict(f.facts)["shift"] > 0 for f in found if f.code == "tint")


def test_drawings_are_compared_with_as_many_of_each_class_as_previews_show(tmp_path: Path) -> None:
    """Black and white images, of which the data has few and many, are no tint."""
    labels = torch.tensor([0] * 30 + [1] * 970)
    images = (255 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    data = ImageData(images.clone(), labels, ("black", "white"), "uneven", "a test")
    (tmp_path / "samples").mkdir()
    drawn = images[10:50].numpy()  # 20 of each
    np.save(tmp_path / "samples" / "step-0000020.npy", drawn)
    config = replace(DIGITS, network=replace(DIGITS.network, classes=2))  # type: ignore[type-var]
    assert told(of_drawings(config, data, tmp_path)) == []
    assert "tint" in dict(told(of_drawings(DIGITS, replace(data, labels=None), tmp_path)))
    gone = replace(data, labels=labels * 0 + 11, class_names=tuple("abcdefghijkl"))
    assert list(of_drawings(config, gone, tmp_path)) == []


@dataclass(frozen=True)
class Loud:
    """A codec whose latents are noise of this deviation."""

    std: float

    def build(self, folder: Path, device: torch.device) -> "Loud":
        return self

    def encode(self, images: Tensor) -> Tensor:
        make = torch.Generator().manual_seed(0)
        return self.std * torch.randn(len(images), 2, 16, 16, generator=make)


def test_the_latents_of_a_runs_own_codec_are_looked_at(tmp_path: Path) -> None:
    data = data_of(pictures(40))
    for std, wanted in ((1.0, []), (5.5, [("latents-unscaled", "wrong")])):
        run = replace(DIGITS, codec=Loud(std))  # type: ignore[arg-type]
        assert told(of_latents(run, data, tmp_path)) == wanted
    assert told(of_latents(DIGITS, data, tmp_path)) == []


def test_ddim_after_few_steps_is_told_of_where_they_are_known() -> None:
    """Steps of a budget of seconds are not, before one was timed."""
    data = data_of(pictures(1200), torch.arange(1200) % 2)
    run = replace(DIGITS, parameterization=PredictNoise())
    run = settled(replace(run, sampling=replace(run.sampling, solver=DDIM())), data)
    brief = ("ddim-brief", "risk")
    assert brief in told(of_means(run, data, GOOD, 0.15))  # 1,000 steps in 150 s
    assert brief not in told(of_means(run, data, GOOD, 0.05))
    assert brief not in told(of_means(run, data, GOOD, None))
    run = replace(run, train=replace(run.train, seconds=None, steps=1000))
    assert brief in told(of_means(run, data, GOOD, None))
