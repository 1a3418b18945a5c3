"""A training film shows the run's own grids, pixel by pixel, in the order of their steps."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from sfumato.pictures import PAD, grid, read_settings, save_png
from sfumato.training_film import WIDEST, grids_of, spread, training_film

EDGE = 2 * PAD


def fake_run(folder, steps, channels=1, size=8, labels=None):
    """A run whose samples brighten with each step."""
    for number, step in enumerate(steps):
        level = 40 + 200 * number // len(steps)
        images = torch.full((6, channels, size, size), level, dtype=torch.uint8)
        picture = grid(images, columns=3, scale=2, row_labels=labels)
        save_png(picture, folder / "samples" / f"step-{step:07d}.png", {"run": "a", "step": step})
    return folder


def frames_in(path):
    with Image.open(path) as film:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]


def durations_in(path):
    with Image.open(path) as film:
        found = []
        for index in range(film.n_frames):
            film.seek(index)
            film.load()
            found.append(film.info["duration"])
        return found


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_each_frame_holds_its_grid_pixel_by_pixel(tmp_path, suffix):
    steps = [0, 9, 100, 1200]
    run = fake_run(tmp_path, steps, labels=["one", "two"])
    path = training_film(run, tmp_path / f"film.{suffix}")
    frames = frames_in(path)
    assert len(frames) == 4
    for step, frame in zip(steps, frames):
        with Image.open(run / "samples" / f"step-{step:07d}.png") as picture:
            wanted = np.asarray(picture.convert("RGB"))
        height, width = wanted.shape[:2]
        assert np.array_equal(frame[EDGE : EDGE + height, EDGE : EDGE + width], wanted)


def test_the_bar_is_as_long_as_the_share_of_steps(tmp_path):
    steps = [0, 300, 600, 1200]
    frames = frames_in(training_film(fake_run(tmp_path, steps)))
    for step, frame in zip(steps, frames):
        bar = frame[-EDGE, EDGE:-EDGE, 0]
        assert (bar < 100).sum() == round(step / 1200 * len(bar))


def test_steps_are_ordered_as_numbers_and_other_files_left_alone(tmp_path):
    fake_run(tmp_path, [12_000_000, 3, 200])
    (tmp_path / "samples" / "step-of-mine.png").write_bytes(b"")
    assert [step for step, _ in grids_of(tmp_path)] == [3, 200, 12_000_000]


def test_the_film_says_which_run_and_steps_it_shows(tmp_path):
    path = training_film(fake_run(tmp_path, [0, 5, 7]))
    assert path == tmp_path / "training.webp"
    assert read_settings(path) == {"run": "a", "step": 7, "steps": [0, 5, 7]}
    assert read_settings(training_film(tmp_path, settings={"a": 1})) == {"a": 1}


def test_a_long_run_is_thinned_evenly_with_both_ends(tmp_path):
    run = fake_run(tmp_path, range(0, 230, 10))
    path = training_film(run, frames=5)
    assert read_settings(path)["steps"] == [0, 60, 110, 160, 220]
    assert durations_in(path) == [800, 250, 250, 250, 2500]
    for count in (2, 59, 60, 61, 1000):
        kept = spread(count, 60)
        assert (kept[0], kept[-1], len(kept)) == (0, count - 1, min(count, 60))
        assert sorted(set(kept)) == kept


def test_one_picture_makes_a_film_of_one_frame(tmp_path):
    assert len(frames_in(training_film(fake_run(tmp_path, [0])))) == 1


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_colours_stay(tmp_path, suffix):
    run = fake_run(tmp_path, [0, 5], channels=3)
    first, last = frames_in(training_film(run, tmp_path / f"film.{suffix}"))
    inner = (slice(EDGE + 4, EDGE + 16),) * 2
    assert abs(int(first[inner].mean()) - 40) <= 2
    assert abs(int(last[inner].mean()) - 140) <= 2


def test_wide_grids_become_smaller_by_a_whole_number(tmp_path):
    run = fake_run(tmp_path, [0, 5], size=300)
    (frame, _) = frames_in(training_film(run))
    assert frame.shape[1] == -(-1808 // 3) + 2 * EDGE <= WIDEST


def test_what_cannot_be_filmed_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"samples has no step-\*\.png"):
        training_film(tmp_path)
    fake_run(tmp_path, [0])
    with pytest.raises(ValueError, match=r"a \.webp or a \.gif file, not 'a\.mp4'"):
        training_film(tmp_path, tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="a film of 1 frames: it needs 2 or more"):
        training_film(tmp_path, frames=1)
    fake_run(tmp_path, [7], size=9)
    with pytest.raises(ValueError, match=r"differ in size, \[\(56, 38\), \(62, 42\)\]"):
        training_film(tmp_path)
