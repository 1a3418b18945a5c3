"""sfumato evaluate --samples: nobody waits for what was not asked for, or is known already."""

import json
import shutil

import pytest

from sfumato.commands import drawn, measures
from sfumato.results import Drawing, Record, Result, Yardstick
from test_evaluate_drawn import NAME, evaluate, root, sfumato

__all__ = ["evaluate", "root", "sfumato"]


def test_distances_are_not_made_to_wait_for_the_bound(sfumato, root, monkeypatch):
    def never(*given):
        raise AssertionError("the bound was measured")

    monkeypatch.setattr(measures, "variational_bits", never)
    text = sfumato("evaluate", "betas", "--samples", "8", "--device", "cpu")
    assert "Bits per dimension were left out" in text
    assert NAME in " ".join(text.split())
    newest = max((root / "runs/betas").glob("evaluation*"), key=lambda path: path.stat().st_mtime)
    found = json.loads((newest / "evaluation.json").read_text())
    assert "variational_bits" not in found
    assert found["loss"]["mean"] > 0
    for more in (("--bits",), ("--steps", "2")):
        with pytest.raises(AssertionError, match="the bound was measured"):
            sfumato("evaluate", "betas", "--samples", "8", "--device", "cpu", *more)


def test_the_judge_of_the_same_images_is_trained_once(evaluate, root, monkeypatch):
    shutil.rmtree(root / "home/judges", ignore_errors=True)
    assert "training a judge" in evaluate("--samples", "8")[2]
    assert any((root / "home/judges").iterdir())

    def never(*given, **more):
        raise AssertionError("trained again")

    monkeypatch.setattr("sfumato.judge_cache.train_judge", never)
    by_name, _, text = evaluate("--samples", "8")
    assert NAME in by_name
    assert "training a judge" not in text


def test_the_table_fits_where_the_terminal_is_narrow():
    by = Yardstick("judge", "d" * 16, "none", 9, "train images of x", 20, "e" * 16)
    of = Drawing("x", 5, "average", "heun", 18, 1.0, "nothing", "0 to 8", "fp32", "0.1")
    long = "Nearer to a training image than unseen ones are (in features)"
    results = tuple(Result(name, 0.5, 0.1, 0.5, "floor", Record(by, of)) for name in ("FID", long))
    for width in (60, 80, 100):
        lines = drawn.table(results, width).split("\n")
        assert max(map(len, lines)) <= width
    assert "0.5 ± 0.1   0.5   the same" in lines[2]
    assert " ".join(drawn.table(results, 60).split()).count("unseen") == 1
