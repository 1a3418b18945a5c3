"""What was to be reached, on the benchmarks' page: the bars, and words on every miss."""

from dataclasses import replace

import pytest

from bench import page, targets
from bench.results import BEST, DOCUMENTED, RESULTS, Row
from test_bench import all_parts, apart, part

WORDS = {"words": "a network", "peer": "diffusers", "batch": 16}


def row(name: str, seconds: float, peak: int = 1000, **facts: object) -> Row:
    return Row(name, (seconds,) * 3, 16, "images", 1.0, {"peak_mb": peak, **facts})


def of_one(bench: str, *parts: page.Part) -> list[targets.Target]:
    return targets.of({bench: {one.case: one for one in parts}})


@pytest.mark.parametrize(
    ("seconds", "peak", "found", "met"),
    [
        (1.0, 900, ["2.20", "1.45", "900"], [True, True, True]),  # at a bar it is reached
        (1.01, 901, ["2.18", "1.44", "901"], [False, False, False]),
        (1.1, 800, ["2.00", "1.32", "800"], [False, False, True]),
        (0.9, 950, ["2.44", "1.61", "950"], [True, True, False]),
    ],
)
def test_training_is_held_to_both_of_the_peers_rows(seconds, peak, found, met):
    rows = row(DOCUMENTED, 2.2), row(BEST, 1.45, 900), row("ours", seconds, peak)
    made = of_one("training", part("dit-64", *rows, **WORDS))
    assert [one.found for one in made] == found
    assert [one.met for one in made] == met
    assert [one.kind for one in made] == ["dit-64 2.2", "dit-64 1.45", "memory"]
    assert made[2].wanted.startswith("900,")


@pytest.mark.parametrize(("own", "other", "met"), [(-0.01, 0.02, True), (0.03, -0.02, False)])
def test_losses_may_be_off_by_what_another_seed_does(own, other, met):
    more = {"from_fp32": own, "seed_from_seed": other}
    (made,) = of_one("loss", part("unet2d-16", more=more, steps=500))
    assert made.met is met


def test_few_calls_are_held_to_the_nearest_fixed_solver():
    def few(calls: int, distance: float, off: float) -> list[Row]:
        far = ("tuned", "tuned", distance, off), ("ddim", "fixed", 9.0, 0.1)
        return [
            Row(
                f"{name}, {calls}",
                (1.0,),
                facts={"calls": calls, "kind": kind, **apart(d, 0.0), "off": o},
            )
            for name, kind, d, o in (*far, ("unipc", "fixed", 2.0, 0.2))
        ]

    made = of_one("sampling", part("calls", *few(4, 1.9, 0.15), *few(5, 2.1, 0.05)))
    assert [one.met for one in made] == [True, False, False, True]
    assert [one.wanted for one in made] == ["2.00 (unipc)", "0.100 (ddim)"] * 2
    assert [one.kind for one in made] == ["4 calls", "4 calls, off", "5 calls", "5 calls, off"]


def test_quality_is_held_to_the_others_after_three_times_as_long_and_six():
    def far(**distances: float) -> list[Row]:
        return [row(name, 1.0, distance=d) for name, d in distances.items()]

    ten = part("fashion-10", *far(fashion_fast=50.0, diffusers=90.0))
    others = far(fashion_fast=9.0, diffusers=60.0, course=40.0)
    thirty = part("fashion-30", *others, seconds=1800)
    (made,) = of_one("quality", ten, thirty)
    assert (made.wanted, made.found, made.met) == (
        "40.0, the others' least after 30",
        "50.00",
        False,
    )
    for later, least in ((55.0, "40.0"), (39.0, "39.0")):
        sixty = part("fashion-60", *far(diffusers=later), seconds=3600)
        (made,) = of_one("quality", ten, thirty, sixty)
        assert made.wanted == f"{least}, the others' least after 30 and 60"
    assert of_one("quality", ten) == []


@pytest.mark.parametrize(("far", "met"), [(2.0, False), (1.9, True)])
def test_digits_are_held_to_the_nearest_of_the_others(far, met):
    ours = part("digits", row("digits_fast", 1.0, distance=far), seconds=600)
    others = (row("course", 1.0, distance=30.0), row("diffusers", 1.0, distance=2.0))
    (made,) = of_one("quality", ours, part("rivals", *others, seconds=600))
    assert (made.wanted, made.found) == ("2.0, the others' least after as many", f"{far:.2f}")
    assert made.met is met
    assert of_one("quality", ours) == []


def test_start_up_and_waiting_have_bars():
    first, image = targets.START_BARS
    made = of_one("startup", part("startup", row(first, 5.0), row(image, 3.1)))
    assert [one.met for one in made] == [True, False]
    told = part("folder", more={"waiting_share": 0.02, "slower_than_ready": 0.031}, **WORDS)
    assert [one.met for one in of_one("input", told)] == [False]


def test_the_page_tells_a_miss_and_why():
    rows = row(DOCUMENTED, 2.2), row(BEST, 1.45, 900), row("ours", 1.01, 800)
    found = {"training": {"dit-64": part("dit-64", *rows, **WORDS)}}
    text = page.page(found)
    assert f"## {targets.TITLE}\n" in text
    assert "| training dit-64: times diffusers, at its best | 1.45 | 1.44 | **no** |" in text
    assert targets.TRIED["dit-64 1.45"] in text
    assert targets.TRIED["memory"] not in text
    assert targets.ELSEWHERE not in text
    assert targets.ELSEWHERE in page.page({}, found)
    assert "without AVX-512, training dit-64" in page.page({}, found)
    good = {
        "training": {
            "dit-64": part("dit-64", *rows[:2], replace(rows[2], seconds=(0.5,) * 3), **WORDS)
        }
    }
    assert targets.TRIED["dit-64 1.45"] not in page.page(good)
    assert targets.LOG not in page.page(good)


def test_every_benchmark_with_a_bar_is_asked():
    found = {bench: {one.case: one for one in parts} for bench, parts in all_parts().items()}
    kinds = {one.kind for one in targets.of(found)}
    first, image = targets.START_BARS
    assert kinds >= {
        "unet2d-16 2.2",
        "memory",
        "loss",
        "input",
        "sampling",
        "4 calls",
        first,
        image,
    }


def test_every_miss_of_what_was_measured_has_its_words():
    here, there = (targets.of(page.of_folder(f)) for f in (RESULTS, RESULTS / page.OTHER))
    missed = [one.kind for one in here if not one.met]
    assert [kind for kind in missed if not targets.TRIED.get(kind)] == []
    assert targets.ELSEWHERE in page.page(*map(page.of_folder, (RESULTS, RESULTS / page.OTHER)))
    assert any(not one.met for one in there)
