"""The report: a section for what is there and none for what is not, of bounded size."""

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sfumato.arguments import Report, UsageError
from sfumato.commands.report import run_report
from sfumato.page import write_comparison, write_page
from sfumato.report.embedding import FILM_BYTES, PICTURE_BYTES, embedded
from sfumato.report.parts import number, with_error
from sfumato.report.trained import GRIDS_BYTES

VOID = {"meta", "img", "input", "br", "link"}
EVIL = "<script>alert('1')</script>"
RUN = {"kind": "Run", "name": "digits", "process": {"kind": "Karras"}, "train": {"lr": 0.001}}
CARD = {"name": "digits", "source": "MNIST", "fingerprint": "f" * 64, "images": 5000}
CARD |= {"channels": 1, "size": [28, 28], "class_names": ["0", "1"]}
ROW = {"sampler": "deis", "calls": 5, "spent": 5, "guidance": 2.0, "steps": 5, "adds_noise": False}
ROW |= {"grid": {"kind": "KarrasGrid", "sigma_min": 0.02, "sigma_max": 20.0, "rho": 7.0}}
ROW |= {"distance": 0.1234, "error": 0.01, "seconds_an_image": 0.5, "quality": None}
ROW |= {"command": "sfumato sample runs/digits --sampler deis --steps 5 --grid karras:0.02,20"}
SWEEP = {"measure": "the distance", "images": 16, "floor": {"2": 0.001}, "own": [], "rows": [ROW]}
SWEEP |= {"quality": None}
TUNED = {
    "tuned": 0.05,
    "fixed": [{"name": "ddim", "distance": 0.2}, {"name": "lms", "distance": 0.1}],
}
TUNED |= {"sampling": {"steps": 6, "guidance": 2.0}}
DOCTOR = {"verdict": "risk", "findings": [{"severity": "note", "seen": "Still improving."}]}
DOCTOR["findings"] += [{"severity": "risk", "seen": f"Few images {EVIL}"}]
DOCTOR["findings"] = [{**f, "why": "Because.", "do": "More."} for f in DOCTOR["findings"]]
RECORD = {
    "yardstick": {"features": "mnist", "digest": "abc", "resize": "", "images": 1000}
    | {"reference": "train images", "reference_images": 4500, "reference_digest": "d"},
    "drawing": {"run": "digits", "step": 10, "weights": "average", "sampler": "Heun", "steps": 18}
    | {"guidance": 2.0, "asked": "classes", "seeds": "0 to 999", "version": "0.1 (abc1234)"},
}
DRAWN = {"name": "Frechet distance (mnist features)", "value": 3.25, "error": 0.5, "floor": 1.5}
EVALUATION = {"images": "64 held-out", "weights": "average", "step": 10, "fingerprint": "f"}
EVALUATION |= {"loss": {"mean": 0.5, "error": 0.02, "levels": []}}
EVALUATION |= {"variational_bits": {"total": {"mean": 2.125, "error": 0.04}}}
EVALUATION |= {"drawn": {"record": RECORD, "results": [{**DRAWN, "better": "lower"}]}}


class Checked(HTMLParser):
    """Fails where a tag is closed that is not open; keeps sections, text and pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.pictures, self.scripts, self.text = [], [], [], 0, ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        attrs = dict(attrs)
        self.scripts += tag == "script"
        if tag == "section":
            self.sections.append(attrs["id"])
        if tag == "img":
            self.pictures.append(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def checked(path):
    html = path.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(|<link", html)
    return Checked(html)


def save(path, size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 90).save(path)


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def noise(path, size, seed=0):
    """A picture that no codec makes small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


FILES = {  # what is there, and the sections that come of it
    "samples.png": "samples",
    "metrics.jsonl": "last-numbers",
    "doctor.json": "doctor",
    "samples/step-0000010.png": "steps",
    "film.webp": "from-noise-to-images",
    "loss.png": "losses",
    "evaluation/evaluation.json": "measured",
    "sweep.json": "samplers",
    "tuned/nfe-6-guidance-2.json": "tuned-samplers",
    "spectra.png": "spectra",
    "data.json": "data",
    "run.json": "settings",
}
VALUES = {"doctor.json": DOCTOR, "evaluation/evaluation.json": EVALUATION, "sweep.json": SWEEP}
VALUES |= {"tuned/nfe-6-guidance-2.json": TUNED, "data.json": CARD, "run.json": RUN}
VALUES |= {"metrics.jsonl": {"kind": "train", "step": 3, "images": 30, "seconds": 5, "loss": 0.5}}


def put(folder, name):
    if name in VALUES:
        dump(folder / name, VALUES[name])
    else:
        save(folder / name)


@pytest.fixture
def whole(tmp_path):
    """A run with everything."""
    for name in FILES:
        put(tmp_path / "digits", name)
    for name in ("evaluation.png", "nearest.png", "spectrum.png"):
        save(tmp_path / "digits" / "evaluation" / name)
    save(tmp_path / "digits" / "sweep.png")
    save(tmp_path / "digits" / "data-preview.png")
    return tmp_path / "digits"


@pytest.mark.parametrize("name", FILES)
def test_a_section_is_there_where_its_file_is_and_only_then(tmp_path, name):
    put(tmp_path, name)
    assert checked(write_page(tmp_path, commands=[])).sections == [FILES[name]]


def test_everything_is_on_the_page_in_order_and_linked(whole):
    page = checked(write_page(whole))
    assert page.sections == [*FILES.values(), "commands"]
    html = (whole / "index.html").read_text()
    assert all(f'href="#{name}"' in html for name in page.sections)
    assert len(page.pictures) == 10
    for word in ("0.1234 ± 0.01", "3.25 ± 0.5", "1.5", "2.125 ± 0.04", "2.00", "karras:0.02,20"):
        assert word in page.text, word
    assert f"sfumato train --config {whole}/run.json" in page.text


def test_the_doctor_is_heard_at_the_top_and_what_he_says_is_no_code(whole):
    page = checked(write_page(whole))
    assert page.scripts == 1
    assert "The doctor: at risk" in page.text.partition("Samples")[0]
    assert EVIL in page.text
    assert page.text.index("Few images") < page.text.index("Still improving")


@pytest.mark.parametrize("name", ["doctor.json", "sweep.json", "tuned/nfe-6-guidance-2.json"])
@pytest.mark.parametrize("text", ["[1", "{}", '{"findings": 3, "rows": [{}]}'])
def test_a_damaged_file_is_named_on_the_page(whole, name, text):
    (whole / name).write_text(text)
    page = checked(write_page(whole))
    assert f"{name.rpartition('/')[2]} could not be read" in page.text
    assert FILES[name] in page.sections


def test_a_damaged_evaluation_leaves_its_pictures(whole):
    (whole / "evaluation" / "evaluation.json").write_text("{")
    page = checked(write_page(whole))
    assert "evaluation.json could not be read" in page.text
    assert len(page.pictures) == 10


# --- size


def test_a_picture_within_its_bytes_is_the_file_itself_and_one_beyond_them_fits(tmp_path):
    noise(tmp_path / "a.png", (300, 400))
    own = (tmp_path / "a.png").stat().st_size
    assert "data-smaller" not in embedded(tmp_path / "a.png", "a", own)
    html = embedded(tmp_path / "a.png", "a", own // 4)
    assert "data:image/webp" in html
    assert "data-smaller" in html
    assert len(html) < own // 4 * 4 / 3 + 200
    width, height = (int(x) for x in re.findall(r'(?:width|height)="(\d+)"', html))
    assert abs(width / height - 4 / 3) < 0.02


def test_a_film_that_is_made_smaller_is_still_a_film(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 60, 80, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame) for frame in pixels]
    path = tmp_path / "film.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=70, lossless=True)
    html = embedded(path, "film", path.stat().st_size // 3)
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    with Image.open(BytesIO(data)) as film:
        assert film.n_frames == 5
    assert len(data) <= path.stat().st_size // 3


def test_the_page_of_a_run_of_large_pictures_has_a_bound_and_says_its_size(tmp_path):
    for i in range(4):
        noise(tmp_path / "samples" / f"step-{i:07d}.png", (620, 620), i)
    noise(tmp_path / "samples.png", (620, 620))
    page = write_page(tmp_path)
    assert page.stat().st_size < 4 / 3 * (GRIDS_BYTES + PICTURE_BYTES + FILM_BYTES) + 50_000
    text = checked(page).text
    assert re.search(r"This page: [\d.]+ MB, 5 pictures, 5 of them smaller", text)


# --- several runs


def test_two_runs_stand_side_by_side(whole, tmp_path):
    other = tmp_path / "other"
    for name in FILES:
        put(other, name)
    dump(other / "run.json", {**RUN, "name": f"other {EVIL}", "train": {"lr": 0.5}})
    page = checked(write_comparison([whole, other], tmp_path / "comparison.html"))
    assert page.scripts == 1
    assert EVIL in page.text
    assert {"numbers", "measured", "samples", "settings-that-differ"} <= set(page.sections)
    assert "train.lr0.0010.5" in page.text
    assert "training loss, last batch0.50000.5000" in page.text
    assert "Frechet distance (mnist features)3.25 ± 0.53.25 ± 0.51.5" in page.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("run.json", {**RUN, "process": {"kind": "LinearVP"}}), "differ in process"),
        (("data.json", {**CARD, "fingerprint": "0"}), "differ in data"),
    ],
)
def test_losses_that_do_not_compare_are_left_out(whole, tmp_path, change, message):
    other = tmp_path / "other"
    for name in FILES:
        put(other, name)
    dump(other / change[0], change[1])
    page = checked(write_comparison([whole, other], tmp_path / "comparison.html"))
    assert message in page.text
    assert "training loss" not in page.text


def test_measures_by_other_recipes_are_not_compared(whole, tmp_path):
    other = tmp_path / "other"
    put(other, "run.json")
    drawing = {**RECORD["drawing"], "guidance": 3.0}
    drawn = {**EVALUATION["drawn"], "record": {**RECORD, "drawing": drawing}}
    dump(other / "evaluation" / "evaluation.json", {**EVALUATION, "drawn": drawn})
    page = checked(write_comparison([whole, other], tmp_path / "comparison.html"))
    assert "different recipes" in page.text
    assert "Frechet" not in page.text


# --- the command


def test_report_writes_one_page_or_a_comparison(whole, tmp_path, capsys):
    other = tmp_path / "other"
    put(other, "run.json")
    run_report(Report((str(whole),)))
    assert str(whole / "index.html") in capsys.readouterr().out
    run_report(Report((str(whole), str(other))))
    assert (tmp_path / "comparison.html").is_file()
    run_report(Report((str(whole),), out=tmp_path / "mine.html"))
    run_report(Report((str(whole),), out=tmp_path / "mine.html"))  # a page of ours is replaced
    assert (tmp_path / "mine.html").read_bytes() == (whole / "index.html").read_bytes()


def test_report_replaces_no_file_of_others(whole, tmp_path):
    (tmp_path / "letter.html").write_text("Dear")
    with pytest.raises(UsageError, match="no page of ours"):
        run_report(Report((str(whole),), out=tmp_path / "letter.html"))
    with pytest.raises(UsageError, match="is a folder"):
        run_report(Report((str(whole),), out=tmp_path))
    with pytest.raises(UsageError, match="which run"):
        run_report(Report(()))


def test_the_film_is_the_runs_own_or_else_the_newest_that_was_drawn(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    assert "from-noise-to-images" not in checked(write_page(tmp_path)).sections
    (tmp_path / "drawn-2").mkdir()
    Image.new("L", (9, 7)).save(tmp_path / "drawn-2" / "film.webp")
    page = checked(write_page(tmp_path))
    assert (page.sections[0], page.pictures[0]["width"]) == ("from-noise-to-images", "9")
    Image.new("L", (5, 5)).save(tmp_path / "film.webp")
    assert checked(write_page(tmp_path)).pictures[0]["width"] == "5"


def test_the_settings_tell_the_versions_and_the_commit(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    told = "training digits\n  versions    sfumato 0.1.0  Python 3.12\n"
    (tmp_path / "log.txt").write_text(f"{told}  program     0.1.0 (abc1234)\n")
    assert "sfumato 0.1.0  Python 3.12, commit abc1234." in checked(write_page(tmp_path)).text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (True, "True"),
        ("a", "a"),
        (None, "None"),
        (0.0, "0"),
        (1234.56, "1235"),
        (0.0001, "0.0001"),
        (0.00009, "9.0e-05"),
        (-0.5, "-0.5"),
        (-0.00009, "-9.0e-05"),
    ],
)
def test_a_number_is_written_as_people_read_it(value, text):
    assert number(value) == text
    assert with_error({"mean": value, "error": None}) == text
    assert with_error({"x": value, "error": 0.123}, "x") == f"{text} ± 0.12"


def compared(whole, tmp_path, file, value):
    """The page of a run with everything beside one whose file holds something else."""
    other = tmp_path / "other"
    for name in FILES:
        put(other, name)
    dump(other / file, value)
    return checked(write_comparison([whole, other], tmp_path / "comparison.html"))


@pytest.mark.parametrize("field", ["run", "step", "version"])
def test_measures_of_another_run_step_or_version_compare(whole, tmp_path, field):
    record = {**RECORD, "drawing": {**RECORD["drawing"], field: "another"}}
    found = {**EVALUATION, "drawn": {**EVALUATION["drawn"], "record": record}}
    page = compared(whole, tmp_path, "evaluation/evaluation.json", found)
    assert "Frechet distance (mnist features)3.25 ± 0.53.25 ± 0.51.5" in page.text


def test_measures_by_another_yardstick_or_of_other_images_do_not(whole, tmp_path):
    record = {**RECORD, "yardstick": {**RECORD["yardstick"], "images": 999}}
    found = {**EVALUATION, "fingerprint": "g", "drawn": {**EVALUATION["drawn"], "record": record}}
    page = compared(whole, tmp_path, "evaluation/evaluation.json", found)
    assert "Frechet" not in page.text
    assert "measured on different images" in page.text
    assert "2.125" not in page.text


@pytest.mark.parametrize("part", ["objective", "process", "codec", "parameterization"])
def test_losses_want_one_of_each_of_these(whole, tmp_path, part):
    page = compared(whole, tmp_path, "run.json", {**RUN, part: {"kind": "Another"}})
    assert f"differ in {part}" in page.text
    assert "training loss" not in page.text


def test_of_several_samplers_the_nearest_of_so_many_calls_is_shown(tmp_path):
    rows = [{**ROW, "sampler": "lms", "distance": 0.2}, ROW, {**ROW, "calls": 10, "distance": None}]
    dump(tmp_path / "sweep.json", {**SWEEP, "rows": rows})
    text = checked(write_page(tmp_path)).text
    assert "deis" in text
    assert "lms" not in text
