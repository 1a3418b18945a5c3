"""The benchmark of sampling: who takes part, and what the page says of them."""

from dataclasses import replace

import pytest
import torch

from bench import contests, quality_page, sampling_calls, sampling_page
from bench.results import Row
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
    assert "| more than the tuned | off the teacher | with up to 4 set to 0 |" in text
    assert "| far, next grid | 4 | 9.00 ± 0.10 | +7.50 ± 0.04 | 0.0400 | 1.25 |" in text
    assert "1.40 ± 0.10, with values up to 4 set to 0 1.75. Off:" in text


def test_the_page_says_what_has_to_be_there_before_the_command():
    timed, _ = all_parts()["sampling"]
    text = sampling_page.timed(timed)
    assert "--guidance 1.5 --guidance-from 0.3 --guidance-to inf`" in text
    assert text.index("sfumato train fashion_fast") < text.index(timed.command)


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
