"""Results are compared where their recipes agree, and what differs is named; JSON keeps them."""

import json
import math
import subprocess
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

import sfumato
from sfumato import results
from sfumato.features import UNKNOWN
from sfumato.results import (
    Drawing,
    Record,
    Result,
    Yardstick,
    check_alike,
    difference,
    from_json,
    to_json,
    version,
)

YARD = Yardstick("mnist", "0f" * 8, "none", 1000, "test images of mnist", 10_000, "ab" * 8)
DRAWING = Drawing(
    "digits", 400, "average", "Heun()", 18, 1.0, "classes", "0 to 999", "fp32", "0.1.0"
)
RECORD = Record(YARD, DRAWING)
RESULT = Result("Frechet distance (mnist features)", 3.5, 0.25, 1.25, "lower", RECORD)


def changed(**changes):
    """RESULT with other fields, wherever in it they are."""
    yard, drawing = (
        replace(part, **{k: v for k, v in changes.items() if hasattr(part, k)})
        for part in (YARD, DRAWING)
    )
    mine = {k: v for k, v in changes.items() if k in ("name", "value", "error", "floor")}
    return replace(RESULT, record=Record(yard, drawing), **mine)


def test_a_difference_has_the_error_of_both():
    other = changed(value=5.0, error=0.6, run="other", step=900, version="0.2.0")
    gap, error = difference(RESULT, other)
    assert gap == 1.5
    assert error == pytest.approx(math.hypot(0.25, 0.6))
    assert math.isnan(difference(RESULT, replace(other, error=None))[1])


OTHER = {int: 7, float: 2.5, str: "another"}
EVERY = [*fields(Yardstick), *fields(Drawing)]


@pytest.mark.parametrize("field", EVERY, ids=lambda field: field.name)
def test_every_field_of_the_recipe_must_agree_unless_it_is_what_is_compared(field):
    other = changed(**{field.name: OTHER[field.type]})
    assert other.record != RECORD
    if field.name in ("run", "step", "version"):
        return check_alike(RESULT, other)
    with pytest.raises(ValueError, match=f"results of different {field.name} don't compare"):
        check_alike(RESULT, other)
    if field.name in {f.name for f in fields(Drawing)}:
        check_alike(RESULT, other, varied=(field.name,))
    return None


def test_what_is_of_the_yardstick_can_not_be_varied():
    with pytest.raises(ValueError, match="'images' is no field of a drawing"):
        check_alike(RESULT, RESULT, varied=("images",))


def test_different_measures_and_unknown_networks_do_not_compare():
    with pytest.raises(ValueError, match=r"FID and Frechet .* are different measures"):
        check_alike(changed(name="FID"), RESULT)
    with pytest.raises(ValueError, match="came without a digest"):
        check_alike(changed(digest=UNKNOWN), changed(digest=UNKNOWN))


def test_json_keeps_all_and_the_record_once():
    results = [RESULT, replace(RESULT, name="Recall", error=None, floor=None)]
    text = json.dumps(to_json(results), allow_nan=False)
    assert from_json(json.loads(text)) == results
    assert text.count("test images of mnist") == 1


def test_what_is_no_result_is_refused():
    with pytest.raises(ValueError, match="2 records"):
        to_json([RESULT, changed(step=7)])
    good = to_json([RESULT])
    for wrong in ([], {}, {**good, "results": [{"value": 1}]}, {**good, "record": {}}):
        with pytest.raises(ValueError, match="no results as sfumato writes them"):
            from_json(wrong)


def test_the_version_is_this_programs_with_its_commit_where_it_is_known(monkeypatch, tmp_path):
    asked = []

    def git(words, check, text, **rest):
        asked.append((words, check, text))
        if len(asked) > 1:
            raise subprocess.CalledProcessError(128, words)
        return SimpleNamespace(stdout="abc1234-dirty\n")

    monkeypatch.setattr(results.subprocess, "run", git)
    monkeypatch.setattr(results, "__file__", str(tmp_path / "src" / "sfumato" / "results.py"))
    assert version() == sfumato.__version__  # installed: no tree, and none is asked
    (tmp_path / ".git").mkdir()
    assert version() == f"{sfumato.__version__} (abc1234-dirty)"
    assert asked == [(["git", "-C", str(tmp_path), "describe", "--always", "--dirty"], True, True)]
    assert version() == f"{sfumato.__version__} (commit unknown)"
