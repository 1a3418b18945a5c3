"""The page of a run holds all that the run left, runs nothing that it found, and asks no one."""

import base64
import itertools
import json
import os
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from sfumato.page import MOST_GRIDS, read_rows, write_page

EVIL = "<script>alert('1')</script>"
RUN = {
    "kind": "Run",
    "name": f"digits {EVIL}",
    "process": {"kind": "Karras"},
    "objective": {"kind": "Denoising", "times": {"kind": "LogNormalTimes", "mean": -1.2}},
    "train": {"lr": 0.001, EVIL: EVIL, "note": "猫 & dog"},
}
ROWS = [
    {"kind": "train", "step": 1000, "images": 128_000, "seconds": 185, "loss": 0.25},
    {"kind": "held_out", "step": 1000, "images": 128_000, "raw": 0.5, "ema": 0.125},
]


class Reader(HTMLParser):
    """Counts the tags of a page and keeps its pictures and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.pictures, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs))

    def handle_data(self, data):
        self.text += data


def read(folder, **options):
    path = write_page(folder, **options)
    assert path == folder / "index.html"
    return Reader(path.read_text(encoding="utf-8"))


def bytes_of(picture):
    return base64.b64decode(picture["src"].partition(";base64,")[2])


def save(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 8), shade).save(path)
    return path.read_bytes()


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "digits"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(RUN))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + '\n{"kind": "tra')
    return folder


def test_the_page_shows_every_picture_byte_by_byte_and_every_grid_in_order(run):
    names = ["samples.png", "film.webp", "loss.png", "data-preview.png"]
    wanted = {name: save(run / name, shade) for shade, name in enumerate(names, 100)}
    steps = [10_000_000, 0, 500]  # the first has a digit more than the name is padded to
    grids = {
        step: save(run / "samples" / f"step-{step:07d}.png", k) for k, step in enumerate(steps)
    }
    save(run / "samples" / "other.png", 200)
    page = read(run)
    shown = [bytes_of(picture) for picture in page.pictures]
    at_steps = [grids[step] for step in sorted(steps)]
    assert shown == [
        wanted["samples.png"],
        *at_steps,
        *(wanted[name] for name in names[1:]),
    ]
    assert {(picture["width"], picture["height"]) for picture in page.pictures} == {("12", "8")}
    assert all(picture["alt"] for picture in page.pictures)
    assert re.findall(r"step ([\d,]+)", page.text) == ["0", "500", "10,000,000"]


def test_a_gif_stands_in_for_a_missing_webp(run):
    wanted = save(run / "film.gif")
    (picture,) = read(run).pictures
    assert bytes_of(picture) == wanted
    assert picture["src"].startswith("data:image/gif;")


def test_a_long_run_shows_evenly_spaced_grids_and_says_so(run):
    for step in range(150):
        save(run / "samples" / f"step-{step:07d}.png")
    page = read(run)
    shown = [int(step) for step in re.findall(r"step (\d+)", page.text)]
    assert (len(shown), shown[0], shown[-1]) == (MOST_GRIDS, 0, 149)
    assert {b - a for a, b in itertools.pairwise(shown)} == {2, 3}
    assert "60 of 150 grids" in page.text


def test_nothing_that_a_run_holds_becomes_code(run):
    page = read(run, commands=[f"sfumato sample {EVIL}"])
    html = (run / "index.html").read_text(encoding="utf-8")
    assert page.tags.count("script") == 1  # the page's own
    assert EVIL not in html
    assert html.count("&lt;script&gt;") == 6  # title, heading, name, key, value, command
    assert EVIL in page.text
    assert "猫 & dog" in page.text


def test_nothing_is_fetched_from_anywhere(run):
    save(run / "samples" / "step-0000000.png")
    html = write_page(run).read_text(encoding="utf-8")
    assert not re.search(r"https?://|//cdn|@import|url\(|<link", html)
    assert "default-src 'none'" in html


def test_settings_and_last_numbers_are_told(run):
    text = read(run).text
    assert "process: Karras" in text
    assert "objective: Denoising" in text
    assert "timesLogNormalTimestimes.mean-1.2" in text
    assert "1,000steps128,000images seen3 min 05 straining time" in text
    assert "0.2500training loss, last batch0.1250held-out loss, EMA0.5000held-out" in text
    assert "1 line of metrics.jsonl could not be read" in text


def test_the_next_commands_name_the_folder(run):
    odd = run.rename(run.parent / "my digits")
    text = read(odd).text
    assert f"sfumato sample '{odd}'" in text
    assert f"sfumato info '{odd}'" in text


def test_what_draws_nothing_is_not_to_be_sampled(run):
    (run / "run.json").write_text(json.dumps(RUN | {"kind": "AutoencoderRun"}))
    save(run / "samples.png")
    text = read(run).text
    assert "sfumato sample" not in text
    assert f"sfumato evaluate {run}" in text
    assert "images that it was not trained on" in text


def test_measurements_are_shown_the_newest_of_them(run):
    for number, name in enumerate(["evaluation", "evaluation-10", "evaluation-9"]):
        newest = save(run / name / "evaluation.png", number)
        os.utime(run / name / "evaluation.png", (number, number))
    spectra = save(run / "spectra.png", 77)
    assert [bytes_of(picture) for picture in read(run).pictures] == [newest, spectra]


def test_an_empty_folder_gives_a_page_with_its_name(tmp_path):
    page = read(tmp_path, commands=[])
    assert tmp_path.name in page.text
    assert "section" not in page.tags
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]


def test_metrics_of_null_and_nan_are_shown_as_far_as_they_go(tmp_path):
    row = {"kind": "train", "step": 3, "images": 30, "loss": None, "seconds": float("nan")}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n3\n\n")
    assert read_rows(tmp_path / "metrics.jsonl")[1] == 2
    text = read(tmp_path).text
    assert "unknowntraining time" in text
    assert "training loss" not in text


def test_a_page_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="no folder of a run"):
        write_page(tmp_path / "none")
    (tmp_path / "run.json").write_text("[1")
    with pytest.raises(ValueError, match=r"run\.json is not the JSON object"):
        write_page(tmp_path)
    assert not (tmp_path / "index.html").exists()
