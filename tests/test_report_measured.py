"""What the report says of measurements: what is unknown, what came last, which runs compare."""

import os

import pytest

from sfumato.config import DataConfig
from sfumato.data.held import held_back
from sfumato.page import write_comparison, write_page
from test_report import (
    CARD,
    DRAWN,
    EVALUATION,
    FILES,
    ROW,
    RUN,
    SWEEP,
    TUNED,
    checked,
    dump,
    put,
    save,
)


def evaluated(**result):
    drawn = {**EVALUATION["drawn"], "results": [{**DRAWN, "better": "lower", **result}]}
    return {**EVALUATION, "drawn": drawn}


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({}, "3.25 ± 0.51.5lower"),
        ({"error": None}, "3.251.5lower"),
        ({"floor": None}, "3.25 ± 0.5unknownlower"),
        ({"better": "floor"}, "3.25 ± 0.51.5the same"),
        ({"better": "higher"}, "3.25 ± 0.51.5higher"),
    ],
)
def test_a_result_has_its_error_its_floor_and_which_way_is_better(tmp_path, result, text):
    dump(tmp_path / "evaluation" / "evaluation.json", evaluated(**result))
    assert text in checked(write_page(tmp_path)).text


@pytest.mark.parametrize("last", ["evaluation", "evaluation-2"])
def test_the_evaluation_that_was_written_last_is_shown(tmp_path, last):
    for name, value in (("evaluation", 11.0), ("evaluation-2", 22.0)):
        path = tmp_path / name / "evaluation.json"
        dump(path, evaluated(value=value))
        at = 2 * 10**9 if name == last else 10**9
        os.utime(path, (at, at))
    text = checked(write_page(tmp_path)).text
    shown, hidden = ("11 ± 0.5", "22 ± 0.5") if last == "evaluation" else ("22 ± 0.5", "11 ± 0.5")
    assert shown in text
    assert hidden not in text


def test_pictures_of_an_evaluation_are_shown_without_its_numbers_and_told_of(tmp_path):
    for name in ("evaluation.png", "nearest.png"):
        save(tmp_path / "evaluation" / name)
    page = checked(write_page(tmp_path, commands=[]))
    assert (page.sections, len(page.pictures)) == (["measured"], 2)
    assert "Copies would show here." in page.text
    assert "<nav>" not in (tmp_path / "index.html").read_text()  # nothing else to go to


def test_samplers_that_drew_are_in_order_of_calls_and_quality_beside_real_images(tmp_path):
    rows = [
        {**ROW, "sampler": name, "calls": calls, "quality": {"value": value, "error": 0.1}}
        for name, calls, value in (("aa", 10, 3.0), ("bb", 5, 9.0), ("cc", 5, 7.0))
    ]
    judge = {"measure": "Frechet distance", "images": 1000, "floor": 0.25}
    dump(tmp_path / "sweep.json", {**SWEEP, "rows": rows, "quality": judge})
    text = checked(write_page(tmp_path)).text
    assert "Frechet distance of 1000 images; as many other real ones: 0.25." in text
    assert "5cc27 ± 0.10.55bb29 ± 0.10.510aa23 ± 0.10.5" in text
    dump(tmp_path / "sweep.json", {**SWEEP, "rows": rows, "quality": {**judge, "floor": None}})
    assert "as many other real ones: unknown." in checked(write_page(tmp_path)).text


def test_the_command_of_a_tuned_sampler_asks_for_its_interval(tmp_path):
    ends = {"guidance_from": 0.3, "guidance_to": 4.0}
    for name, more in (("a", {}), ("b", ends), ("c", {**ends, "guidance_to": "inf"})):
        told = {**TUNED, "sampling": {"steps": 6, "guidance": 1.5, **more}}
        dump(tmp_path / "tuned" / f"nfe-6-{name}.json", told)
    text = checked(write_page(tmp_path)).text
    asked = "--nfe 6 --guidance 1.5"
    ends = ("", " --guidance-from 0.3 --guidance-to 4", " --guidance-from 0.3")
    assert [text.count(f"{asked}{words}") for words in ends] == [3, 1, 2]
    assert "61.5 from 0.3 to 40.05" in text


def test_tuned_samplers_are_in_order_of_calls_and_guidance(tmp_path):
    for steps, guidance in ((10, 1.0), (6, 3.0), (6, 1.0)):
        told = {**TUNED, "sampling": {"steps": steps, "guidance": guidance}}
        dump(tmp_path / "tuned" / f"nfe-{steps}-guidance-{guidance:g}.json", told)
    text = checked(write_page(tmp_path)).text
    cells = [f"{steps}{guidance}0.05lms, 0.12.00" for steps, guidance in ((6, 1), (6, 3), (10, 1))]
    assert "".join(cells) in text


# --- several runs


def beside(whole, tmp_path, **files):
    """The page of two runs, of which the other has these contents of these files."""
    other = tmp_path / "other"
    for name in FILES:
        put(other, name)
    for name, value in files.items():
        dump(other / f"{name}.json", value)
    return checked(write_comparison([whole, other], tmp_path / "comparison.html"))


@pytest.fixture
def whole(tmp_path):
    for name in FILES:
        put(tmp_path / "digits", name)
    return tmp_path / "digits"


def test_runs_of_one_name_have_their_folders_and_one_without_has_its_own(whole, tmp_path):
    text = beside(whole, tmp_path, run=RUN).text
    assert f"digits ({whole})digits ({tmp_path / 'other'})" in text
    assert "digitsmine" in beside(whole, tmp_path, run={**RUN, "name": "mine"}).text
    nameless = {key: value for key, value in RUN.items() if key != "name"}
    assert "digitsother" in beside(whole, tmp_path, run=nameless).text


def test_only_losses_are_left_out_where_runs_do_not_compare(whole, tmp_path):
    assert "Losses are left out" not in beside(whole, tmp_path).text
    text = beside(whole, tmp_path, data={**CARD, "fingerprint": "0"}).text
    assert "Losses are left out: these runs differ in data" in text
    assert "images seen3030" in text


DATA = {"held_out": 512, "test": 0}


@pytest.mark.parametrize("changed", [{"held_out": 100}, {"test": 50}])
def test_losses_on_other_held_out_images_do_not_compare(whole, tmp_path, changed):
    dump(whole / "run.json", {**RUN, "data": DATA})
    assert "Losses are left out" not in beside(whole, tmp_path, run={**RUN, "data": DATA}).text
    text = beside(whole, tmp_path, run={**RUN, "data": {**DATA, **changed}}).text
    assert "Losses are left out: these runs differ in the images held out" in text
    assert "training loss" not in text


@pytest.mark.parametrize(
    "data", [{"held_out": 512}, {"test": 0}, {"held_out": 600, "test": 0}, {"held_out": 500}, {}]
)
def test_losses_compare_where_the_same_images_are_held_out_whatever_was_asked_for(
    whole, tmp_path, data
):
    """Of 5,000 images at most a tenth is held out; an older run.json has no `test`."""
    dump(whole / "run.json", {**RUN, "data": DATA})
    text = beside(whole, tmp_path, run={**RUN, "data": data}).text
    assert "Losses are left out" not in text
    assert "training loss" in text


def test_a_tenth_is_held_out_of_what_a_fifth_for_the_test_leaves_at_most():
    asked = [(499, 0), (501, 0), (500, 10), (600, 2000)]
    assert [held_back(5000, *each) for each in asked] == [
        (499, 0),
        (500, 0),
        (499, 10),
        (400, 1000),
    ]
    assert held_back(9) == (0, 0)
    assert held_back(50_000) == (DataConfig().held_out, DataConfig().test)


def test_curves_that_do_not_compare_are_said_to(whole, tmp_path):
    assert "do not compare" not in beside(whole, tmp_path).text
    text = beside(whole, tmp_path, run={**RUN, "objective": {"kind": "Another"}}).text
    losses = text.partition("Losses are left out")[2].partition("Losses")[2]
    assert "These do not compare: the runs differ in objective." in losses


def test_losses_of_two_seeds_compare_but_for_their_noise(whole, tmp_path):
    text = beside(whole, tmp_path, run={**RUN, "train": {"lr": 0.001, "seed": 7}}).text
    assert text.count("The seeds differ") == 2  # above the numbers, and above the curves
    assert "training loss, last batch0.50000.5000" in text
    assert "The seeds differ" not in beside(whole, tmp_path).text


def bits(steps, weights="average", seed=0, kind="variational_bits"):
    one = {"total": {"mean": 2.125, "error": 0.04}, "steps": steps, "seed": seed}
    plain = {key: value for key, value in EVALUATION.items() if key != "drawn"}
    return {**plain, kind: one, "weights": weights}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (bits(50), "being unlike: variational bits in steps (250, 50). "),
        (bits(250, "best average"), "being unlike: the weights (average, best average). "),
        (bits(250), None),
    ],
)
def test_bits_that_were_measured_in_unlike_ways_are_said_not_to_compare(
    whole, tmp_path, other, told
):
    dump(whole / "evaluation" / "evaluation.json", bits(250))
    text = beside(whole, tmp_path, **{"evaluation/evaluation": other}).text
    assert "variational bits, total2.125 ± 0.042.125 ± 0.04" in text
    assert ("do not compare" in text) == bool(told)
    assert (told or "") in text


@pytest.mark.parametrize(
    ("kind", "steps", "seed", "told"),
    [
        ("variational_bits", 50, 0, True),
        ("variational_bits", 250, 1, False),
        ("flow_bits", 50, 0, False),
        ("flow_bits", 50, 1, False),
    ],
)
def test_more_steps_make_a_bound_smaller_and_nothing_else(whole, tmp_path, kind, steps, seed, told):
    """Of the flow they make the estimate finer, and a seed is no reason at all."""
    dump(whole / "evaluation" / "evaluation.json", bits(250, kind=kind))
    other = bits(steps, seed=seed, kind=kind)
    text = beside(whole, tmp_path, **{"evaluation/evaluation": other}).text
    assert f"being unlike: {kind.replace('_', ' ')} in " in text
    assert ("More steps alone make a bound smaller" in text) is told


def test_held_out_losses_of_an_evaluation_are_compared_nowhere(whole, tmp_path):
    text = beside(whole, tmp_path).text
    assert "variational bits, total2.125 ± 0.042.125 ± 0.04" in text
    assert "0.5 ± 0.02" not in text


def test_evaluations_without_drawn_images_compare_by_their_means(whole, tmp_path):
    plain = {key: value for key, value in EVALUATION.items() if key != "drawn"}
    dump(whole / "evaluation" / "evaluation.json", plain)
    text = beside(whole, tmp_path, **{"evaluation/evaluation": plain}).text
    assert "2.125 ± 0.042.125 ± 0.04" in text
    assert "Frechet" not in text


def test_sections_are_of_pictures_that_are_there_and_settings_that_all_have(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for lr, folder in enumerate(folders):
        dump(folder / "run.json", {**RUN, "train": {"lr": lr, f"only {lr}": 7}})
    page = checked(write_comparison(folders, tmp_path / "comparison.html"))
    assert set(page.sections) & {"samples", "losses", "samplers", "spectra"} == set()
    assert "train.lr01" in page.text
    assert "only" not in page.text
