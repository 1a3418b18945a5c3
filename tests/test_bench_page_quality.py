"""The page on quality: seconds of drawing as measured last, and what to hold against it."""

import json
import re
from dataclasses import replace
from importlib.resources import files

import pytest
from safetensors import safe_open

from bench import plots, quality_page
from bench.machine import ROOT
from bench.results import Part, Row
from test_bench import FLOOR, JUDGED, part

ROW = Row("x", (1.0,), 10, "images", 0.0, JUDGED)  # from when images took 9 s


def drawn_in(seconds: float, name: str = "x") -> Row:
    return Row(f"{name}: drawing", (seconds,), 100, "images")


def seconds_shown(*measured: Part, row: Row = ROW) -> str:
    minutes = part("fashion-10", row, more=FLOOR, seconds=600, images=5000)
    text = quality_page.body({one.case: one for one in (minutes, *measured)})
    (line,) = (line for line in text.splitlines() if line.startswith("| ours |"))
    return line.split("|")[-3].strip()


def test_seconds_of_drawing_are_those_of_the_part_that_measured_it_last():
    old, new = part("times", ROW, drawn_in(3.0)), part("drawing", drawn_in(2.5))
    assert seconds_shown(old) == "30.0"
    assert seconds_shown(old, new) == seconds_shown(new, old) == "25.0"


def test_seconds_of_drawing_are_blank_where_none_was_measured():
    other = part("drawing", drawn_in(2.5, "y"))
    assert seconds_shown(other) == seconds_shown(part("times", ROW)) == ""


def test_a_row_without_seconds_of_drawing_is_shown_like_one_with_them():
    facts = {key: value for key, value in JUDGED.items() if key != "s_for_1000"}
    assert seconds_shown(part("drawing", drawn_in(2.5)), row=replace(ROW, facts=facts)) == "25.0"


def test_the_page_says_which_rates_diffusers_is_given():
    for words in (
        "the constant rates of their texts",
        "torch.compile is not tried",
        "DDPM's own 1,000 steps were tried",
    ):
        assert words in quality_page.INTRO


def test_ours_alone_has_the_colour_of_ours_wherever_it_stands():
    rows = [replace(ROW, name=n, facts={**JUDGED, "title": n}) for n in ("a", "ours", "b")]
    (axis,) = plots.qualities({"fashion-60": part("x", *rows, more=FLOOR, seconds=3600)}).axes
    points = [line.get_color() for line in axis.get_lines() if line.get_marker() == "o"]
    assert points == [plots.ORANGE, plots.BLUE, plots.ORANGE]


def dated(one: Part, date: str) -> Part:
    return replace(one, machine={**one.machine, "date": date})


def table_of(name: str, distance: float, date: str, case: str = "fashion-30", images: int = 5000):
    row = replace(ROW, name=name, facts={**JUDGED, "words": name, "distance": distance})
    other = replace(ROW, name="other", facts={**JUDGED, "words": "other", "distance": 7.0})
    rows = (row, other) if case.startswith("fashion") else (row,)
    return dated(part(case, *rows, more=FLOOR, seconds=1800, images=images), date)


def test_a_contender_measured_apart_and_later_stands_in_its_place_in_the_table():
    whole = table_of("a", 92.0, "2026-11-22T10:00:00+00:00")
    for date, wanted in (("2026-11-23T10:00:00+00:00", 80.0), ("2026-11-21T10:00:00+00:00", 92.0)):
        apart = table_of("a", 80.0, date, "a-30")
        parts = quality_page.joined({one.case: one for one in (whole, apart)})
        rows = parts["fashion-30"].rows
        assert [(r.name, r.facts["distance"]) for r in rows] == [("a", wanted), ("other", 7.0)]
        text = quality_page.body(parts)
        assert f"| a | **{wanted:.2f}**" in text
        assert (f"{apart.command}\n```" in text) == (wanted == 80.0)
        assert text.count("### 30 minutes") == 1


def test_a_contender_of_other_minutes_stays_out_of_the_table():
    whole = table_of("a", 92.0, "2026-11-22T10:00:00+00:00")
    apart = table_of("a", 80.0, "2026-11-23T10:00:00+00:00", "a-60")
    parts = {one.case: one for one in (whole, apart)}
    assert quality_page.joined(parts) == parts


def test_a_contender_that_was_measured_otherwise_is_not_put_beside_the_others():
    whole = table_of("a", 92.0, "2026-11-22T10:00:00+00:00")
    apart = table_of("a", 80.0, "2026-11-23T10:00:00+00:00", "a-30", images=500)
    with pytest.raises(ValueError, match=r"a-30 was measured by .*500.*--only fashion-30"):
        quality_page.joined({one.case: one for one in (whole, apart)})


def test_every_contender_has_its_picture_beside_the_test_images():
    text = quality_page.body({"fashion-30": table_of("a", 92.0, "2026-11-22T10:00:00+00:00")})
    found = re.findall(r'src="pictures/(.+?)"', text)
    wanted = ("test", "a-30", "other-30")
    assert found == [f"bench-quality-{name}.webp" for name in wanted]


def test_every_picture_of_the_page_is_there():
    text = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    found = re.findall(r'(?:src="|\]\()(pictures/[^")]+)', text)
    assert len(found) > 10
    assert [name for name in found if not (ROOT / "docs" / name).exists()] == []


def test_the_page_says_how_often_the_classifier_is_right():
    with safe_open(files("sfumato") / "assets" / "features_fashion.safetensors", "pt") as file:
        right = json.loads(file.metadata()["facts"])["test_accuracy"]
    assert right > 0.93
    assert f"right on {right:.1%} of the test images" in quality_page.INTRO


def test_the_digits_of_all_stand_in_one_table_with_pictures_of_those_that_have_one():
    told = ROW.facts | {"words": "ours", "title": "ours"}
    size = {"seconds": 600, "images": 5000, "test_images": 4000}
    own = part("digits", replace(ROW, facts=told), more=FLOOR, **size)
    drawn = {"words": "theirs", "title": "theirs", "picture": "theirs.webp", "guidance": 1}
    other = part("rivals", replace(ROW, facts=ROW.facts | drawn), seconds=600, images=1000)
    made = quality_page.digits(own, other)
    for words in (
        "| ours | ",
        "| 5,000 | ",
        ", guidance 1.5",
        "| theirs | ",
        "| 1,000 | ",
        "| 2,000 | ",
    ):
        assert words in made
    assert made.count('<img src="pictures/') == 2
    assert "pictures/theirs.webp" in made
    assert made.count(" --only ") == 2
    assert "<img" not in quality_page.digits(own, None)
