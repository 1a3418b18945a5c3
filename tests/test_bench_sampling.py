"""The benchmark of sampling: who takes part, and what the page says of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import contests, quality_page, sampling_calls, sampling_page, targets
from bench.results import Part, Row
from bench.tables import interval
from sfumato.grids import KarrasGrid
from sfumato.named import grid_named
from test_bench import all_parts, part


def test_a_solvers_next_grid_is_a_row_of_its_own():
    met: set[str] = set()
    names = [contests.named_once(name, met) for name in ("ddim", "lms", "ddim")]
    assert names == ["ddim", "lms", f"ddim{contests.NEXT_GRID}"]


def test_only_what_looks_black_is_made_black():
    images = torch.tensor([[0, 1, 4, 5, 255]], dtype=torch.uint8)
    assert sampling_calls.cleared(images).tolist() == [[0, 0, 0, 5, 255]]
    assert sampling_calls.cleared(images).dtype == torch.uint8


def test_the_page_has_the_distances_of_black_backgrounds_where_there_are_any():
    _, calls = all_parts()["sampling"]
    plain = sampling_page.by_calls(calls)
    assert "set to 0" not in plain
    rows = [replace(row, facts={**row.facts, "cleared": 1.25}) for row in calls.rows]
    rows[1] = replace(rows[1], name=f"far{contests.NEXT_GRID}, 4")
    told = replace(calls, rows=tuple(rows), more={**calls.more, "teacher_cleared": 1.75})
    text = sampling_page.by_calls(told)
    assert "| more than the tuned | off the teacher | with up to 4 set to 0 | grid |" in text
    assert (
        "| far, next grid | 4 | 9.00 ± 0.20 | +7.50 ± 0.08 | 0.0400 | 1.25 | karras:0.15,,inf |"
        in text
    )
    assert "1.40 ± 0.20, with values up to 4 set to 0 1.75. Off:" in text


def test_the_page_says_what_has_to_be_there_before_the_command():
    timed, _ = all_parts()["sampling"]
    text = sampling_page.timed(timed)
    assert "--guidance 1.5 --guidance-from 0.3 --guidance-to inf`" in text
    assert text.index("sfumato train fashion_fast") < text.index(timed.command)


def both() -> list[tuple[Part, Callable[[Part], str]]]:
    timed, calls = all_parts()["sampling"]
    return [(timed, sampling_page.timed), (calls, sampling_page.by_calls)]


def test_an_interval_is_twice_the_error_and_the_section_says_so():
    assert interval(0.104) == "± 0.21"
    made = Path(sampling_page.__file__).parent.glob("*.py")
    assert [path.name for path in made if "±" in path.read_text("utf-8")] == ["tables.py"]
    for words in (sampling_page.INTRO, quality_page.INTRO, quality_page.ABLATIONS):
        assert "twice the jackknife's error" in words


@pytest.mark.parametrize(
    ("commit", "words"),
    [
        ("0123456789ab", "at commit 0123456789"),
        ("0123456789ab+", "at commit 0123456789+"),
        ("unknown", "at commit unknown"),
    ],
)
def test_under_each_table_stands_the_commit_that_its_samplers_are_of(commit, words):
    for one, shown in both():
        told = shown(replace(one, machine={**one.machine, "commit": commit}))
        under = told[told.rindex(" |\n") :]
        assert f"Drawn {words}, by samplers fitted then or before." in under


def test_of_a_run_that_another_bench_leaves_the_page_says_which():
    _, calls = all_parts()["sampling"]
    assert "is left in" not in sampling_page.by_calls(calls)
    told = replace(calls, settings={**calls.settings, "run": "fashion_fast-30m"})
    words = "That run is left in `--runs` by `python -m bench quality --only fashion_fast-30`."
    assert words in sampling_page.by_calls(told)


def test_how_a_grid_was_chosen_is_what_the_part_says():
    pixels = "that is nearest to a teacher of many steps by the pixels of 20 images."
    race = "that is nearest of all by the same distance, of 250 images of other seeds."
    for one, shown in both():
        assert pixels in shown(one)
        raced = shown(replace(one, settings={**one.settings, "raced": 250}))
        assert race in raced
        assert pixels not in raced
        second = replace(one.rows[-1], name=f"lms{contests.NEXT_GRID}")
        told = shown(replace(one, rows=(*one.rows, second)))
        assert "20 images; `next grid` is its second." in told
    assert "20 images" not in sampling_page.INTRO


def test_what_distances_are_to_is_what_the_part_says():
    for one, shown in both():
        told = {**one.settings, "reference": "train images of x", "measure": "Far (x features)"}
        more = {**one.more, "floor": 0.25}
        text = shown(replace(one, settings=told, more=more))
        assert "Far (x features), squared, to train images of x; the floor is 0.25." in text
    assert "to training images" not in sampling_page.INTRO.partition("What to hold")[0]


def test_the_section_says_what_to_hold_against_it():
    _, _, against = sampling_page.INTRO.partition("What to hold against it: ")
    for words in ("its weight and its starts", "step 1,675", "luck of one fit", "1,000 of the"):
        assert words in against


def test_calls_are_those_that_were_made_where_they_were_counted():
    _, calls = all_parts()["sampling"]
    asked = "Calls are those asked for; solvers of two calls a step may make fewer."
    assert asked in sampling_page.by_calls(calls)
    rows = [replace(row, facts={**row.facts, "nfe": row.facts["calls"]}) for row in calls.rows]
    rows = [
        replace(row, facts={**row.facts, "nfe": 7}) if row.name == "near0, 8" else row
        for row in rows
    ]
    text = sampling_page.by_calls(replace(calls, rows=tuple(rows)))
    assert "| near0 | 7 | 2.00" in text
    assert "| near1 | 8 | 2.00" in text
    assert text.index("| near0 | 7 |") > text.index("| **tuned** | 8 |")  # beside those of 8
    assert asked not in text


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({2: 9.0, 4: 3.0, 12: 1.0}, "The teacher is nearer than its student from 4 calls on."),
        ({2: 9.0, 4: 6.0}, "The student is nearer than every row of its teacher."),
    ],
)
def test_a_student_is_held_to_its_teacher_of_few_calls(teacher, words):
    found = {("student-1", 1): 8.0, ("student-2", 2): 5.0}
    found |= {(f"teacher-{calls}", calls): far for calls, far in teacher.items()}
    told = {"words": "x", "error": 0.1, "steps": 9}
    rows = [
        Row(name, (1.0,), facts={**told, "calls": calls, "distance": far})
        for (name, calls), far in found.items()
    ]
    more = {"floor": 0.1, "floor_error": 0.01}
    text = quality_page.distilled(part("distill", *rows[::-1], more=more, seconds=600, images=100))
    assert words in text
    shown = [line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| x")]
    assert shown == [str(calls) for calls in sorted(calls for _, calls in found)]


def test_how_long_fitting_took_is_told_and_held_to_two_minutes():
    _, calls = all_parts()["sampling"]
    rows = [
        replace(row, facts={**row.facts, "fitted_s": 90.0 + 9 * row.facts["calls"]})
        if row.facts["kind"] == "tuned"
        else row
        for row in calls.rows
    ]
    told = replace(calls, rows=tuple(rows))
    counts = sorted(row.facts["calls"] for row in rows if "fitted_s" in row.facts)
    least, most = (90 + 9 * one for one in (counts[0], counts[-1]))
    assert f"took {least} to {most} s to fit" in sampling_page.by_calls(told)
    assert "to fit" not in sampling_page.by_calls(calls)
    (made,) = (t for t in targets.of({"sampling": {"calls": told}}) if t.kind == "fitting")
    assert (made.found, made.met) == (str(most), most <= 120)
    assert not [t for t in targets.of({"sampling": {"calls": calls}}) if t.kind == "fitting"]


def test_the_grids_that_took_part_are_told():
    for one, shown in both():
        assert "walks the standard grid that is nearest" in shown(one)
        told = replace(one, settings={**one.settings, "grids": 15, "raced": 250})
        assert "walks the one of 15 grids (the standard ones, and those even in" in shown(told)


def test_before_the_command_stand_the_samplers_that_it_needs():
    _, calls = all_parts()["sampling"]
    seeded = replace(calls, settings={**calls.settings, "seed": 1, "step": 3144})
    assert "train fashion_fast --seed 1 --steps 3144`" in sampling_page.by_calls(seeded)
    assert "`sfumato train fashion_fast` makes" in sampling_page.by_calls(calls)
    assert "(N is 4, 8)" in sampling_page.by_calls(all_parts()["sampling"][1])


@pytest.mark.parametrize("text", ["karras:0.02,20,7", "karras:0.1,4,inf", "leading:1", "uniform:0"])
def test_a_grid_is_told_as_the_command_takes_it(text):
    assert sampling_page.typed(str(grid_named(text))) == text
    assert grid_named(sampling_page.typed(str(KarrasGrid()))) == KarrasGrid()
