"""The page on quality: seconds of drawing as measured last, and what to hold against it."""

from dataclasses import replace

from bench import plots, quality_page
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
        "DDPM's own 1,000 steps were not tried",
    ):
        assert words in quality_page.INTRO


def test_ours_alone_has_the_colour_of_ours_wherever_it_stands():
    rows = [replace(ROW, name=n, facts={**JUDGED, "title": n}) for n in ("a", "ours", "b")]
    (axis,) = plots.qualities({"fashion-60": part("x", *rows, more=FLOOR, seconds=3600)}).axes
    points = [line.get_color() for line in axis.get_lines() if line.get_marker() == "o"]
    assert points == [plots.ORANGE, plots.BLUE, plots.ORANGE]
