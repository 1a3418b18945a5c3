"""sfumato sweep on a tiny run: what is written, what is said, and that the commands do it."""

import json
import shlex
from dataclasses import replace

import pytest
import torch
from PIL import Image

import sfumato.commands.sweep as command
import sfumato.sweeping as sweeping
from sfumato.arguments import Sample, Sweep, UsageError
from sfumato.commands.sweep import JUDGE_SEED, Plan, asked_for, by_rank, plan_of
from sfumato.commands.sweep_quality import judge_by
from sfumato.commands.tune import AT_ONCE, asked_of, noise_of
from sfumato.conditions import rows_of
from sfumato.features import features_of
from sfumato.generation import draw, wrapped
from sfumato.grids import KarrasGrid
from sfumato.loading import load_run
from sfumato.measuring import frechet_estimate
from sfumato.multistep import DEIS
from sfumato.parsing import parse
from sfumato.planning import sampling_with
from sfumato.quality import Real
from sfumato.rivals import Rival
from sfumato.solvers import DDIM, DPMSolverPP2M, Heun
from sfumato.sweep_words import grid_words, tables, verdicts
from sfumato.sweeping import converged, judged
from tiny import commands, images, run, train_in

CPU = torch.device("cpu")
FEW = {"ddim": DDIM(), "heun": Heun(), "deis": DEIS(3)}


class NoCapture:
    """What `commands` reads output from, in a fixture of a module."""

    out = ""

    def readouterr(self):
        return self


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A run, swept at 2 and 4 calls and two scales of guidance in next to no time."""
    folder = train_in(tmp_path_factory.mktemp("runs") / "run", run(steps=3, previews=0), images())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "FIXED", FEW)
        patch.setattr("sfumato.rivals.FIXED", FEW)
        patch.setattr(command, "LEAST_STEPS", 8)
        patch.setattr(command, "MOST_STEPS", 8)
        patch.setattr("sfumato.commands.sweep_quality.real_images", lambda *_: no_images())
        call = commands(patch, folder.parent, NoCapture())
        words = ("--nfe", "4,2", "--guidance", "1,2", "--time", "2s", "--device", "cpu")
        call("sweep", folder, *words)
    return folder


def no_images():
    raise ValueError("there are none here")


@pytest.fixture(scope="module")
def record(swept):
    return json.loads((swept / "sweep.json").read_text())


def test_every_number_of_calls_and_guidance_has_its_rows(record):
    kinds = {(row["calls"], row["guidance"]) for row in record["rows"]}
    assert kinds == {(2, 1.0), (4, 1.0), (2, 2.0), (4, 2.0)}
    assert {row["sampler"] for row in record["rows"]} >= set(FEW)
    assert all(row["spent"] <= row["calls"] for row in record["rows"])
    assert set(record["floor"]) == {"1", "2"}
    assert record["quality"] is None


def test_what_adds_noise_has_no_distance(record):
    noisy = {row["sampler"] for row in record["rows"] if row["adds_noise"]}
    assert noisy == {"ddim, eta 0.5", "ddim, eta 1", "ddpm-large", "churn"}
    assert all((row["distance"] is None) == row["adds_noise"] for row in record["rows"])


def test_a_command_draws_by_the_sampler_that_was_measured(swept, record):
    loaded = load_run(str(swept), CPU)
    best = min(
        (row for row in record["rows"] if (row["calls"], row["guidance"]) == (4, 1.0)),
        key=lambda row: row["distance"] or 9e9,
    )
    args = parse(shlex.split(best["command"])[1:])
    assert type(args) is Sample
    sampling = sampling_with(loaded.run.sampling, args)
    assert (sampling.steps, sampling.guidance) == (best["steps"], 1.0)
    denoiser = wrapped(loaded.denoiser, sampling, loaded.conditions)
    count = record["images"]["1"]
    assert record["images"].keys() == record["reference_steps"].keys() == record["floor"].keys()
    cond = rows_of(asked_of(loaded, count), slice(None), CPU)
    noise = noise_of(loaded, JUDGE_SEED, count)
    pairs = converged(denoiser, noise, cond, 8, AT_ONCE)
    rival = Rival("", sampling.solver, sampling.grid, sampling.steps, 0.0)
    again = judged(denoiser, pairs, rival, 4, 1.0)
    assert again.rival.distance == pytest.approx(best["distance"], rel=1e-4)


def test_quality_is_that_of_the_images_that_the_sampler_draws(swept):
    loaded, data = load_run(str(swept), CPU), images()
    network = features_of(lambda batch: batch.flatten(1)[:, :5].float())
    judge = judge_by(network, loaded, ("some images", Real(data, data, None, None)), 9)
    row = sweeping.Row(4, 1.5, Rival("ddim", DDIM(), KarrasGrid(), 4, 0.0), 4, torch.empty(0), 0.0)
    sampling = replace(loaded.run.sampling, solver=DDIM(), grid=KarrasGrid(), steps=4)
    sampling = replace(sampling, guidance=1.5)
    drawn = draw(loaded.denoiser, judge.order, sampling, loaded.conditions, CPU)
    assert judge.of(row).quality == frechet_estimate(network(drawn), judge.reference)
    assert judge.floor.mean == pytest.approx(0, abs=1e-6)  # of the reference itself
    assert (judge.images, judge.record()["reference_images"]) == (9, len(data))


def test_the_picture_and_the_page_are_there(swept):
    with Image.open(swept / "sweep.png") as picture:
        assert picture.width > picture.height  # two panels
    page = (swept / "index.html").read_text()
    assert 'id="samplers"' in page
    assert "--sampler" in page


def test_the_words_name_the_best_of_each_number_of_calls(record):
    lines = verdicts(record)
    for calls in (2, 4):
        for scale in (1, 2):
            (line,) = [x for x in lines if x.startswith(f"{calls} calls, guidance {scale}:")]
            rows = [r for r in record["rows"] if (r["calls"], r["guidance"]) == (calls, scale)]
            best = min(rows, key=lambda r: r["distance"] if r["distance"] is not None else 9e9)
            assert f"nearest is {best['sampler']} on" in line
            assert f"  {best['command']}" in lines


def test_the_table_stars_the_nearest_and_no_other(record):
    text = "\n".join(tables(record))
    assert text.count(" *") == 4 + 2  # one a cell's column and guidance, and the legend of both
    assert "can't" not in text


def test_quality_is_told_with_its_floor_and_what_cannot_be_told_apart(record):
    rows = [dict(row) for row in record["rows"]]
    for i, row in enumerate(rows):
        row["quality"] = {"value": 5.0 + i, "error": 0.6}
    judge = {"measure": "Frechet distance (mnist features)", "images": 100, "floor": 1.5}
    judge |= {"reference": "train images of digits", "reference_images": 4500}
    told = {**record, "rows": rows, "quality": judge}
    text = "\n".join(tables(told))
    assert "as many other real images: 1.5" in text
    assert "is no error" in text
    drew = [line for line in verdicts(told) if "drew best" in line]
    assert len(drew) == 2
    assert "5 ± 0.6; within the error:" in drew[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"nfe": "0"}, "1 to 200"),
        ({"nfe": "five"}, "whole numbers are wanted"),
        ({"eta": "2"}, "0 .DDIM. to 1"),
        ({"guidance": "a"}, "numbers are wanted"),
        ({"images": 3}, "at least 8"),
        ({"time": "soon"}, "no time"),
    ],
)
def test_what_cannot_be_swept_is_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        asked_for(Sweep("run", **flags))


def test_a_plan_stays_within_its_budget_where_it_can():
    counts, grids = [5, 10, 20, 50], 6
    for each in (0.0005, 0.001, 0.002):
        plan = plan_of(600, each, counts, grids)
        survey = plan.survey * len(command.FIXED) * grids * sum(counts)
        judging = plan.judge * len(command.FIXED) * command.GRIDS_EACH * sum(counts)
        reference = 2 * plan.steps * (plan.survey + plan.judge)
        assert (survey + judging + reference) * each < 600
        assert plan.steps >= 2 * max(counts)
    assert plan_of(1, 1.0, counts, grids) == Plan(2, 4, 100)  # the least, however slow


def test_the_first_of_every_number_of_calls_is_drawn_first():
    made = [
        sweeping.Row(calls, 1.0, Rival(n, DPMSolverPP2M(), None, 1, 0.0), 1, torch.empty(0), 0.0)
        for calls in (5, 10)
        for n in "ab"
    ]
    order = [(row.calls, row.rival.name) for row in by_rank(made)]
    assert order == [(5, "a"), (10, "a"), (5, "b"), (10, "b")]


def test_grids_in_words():
    karras = {"kind": "KarrasGrid", "sigma_min": 0.02, "sigma_max": 20.0, "rho": 7.0}
    assert grid_words(karras) == "Karras 20 to 0.02"
    assert grid_words({**karras, "sigma_max": None, "rho": 3.0}) == "Karras all to 0.02, rho 3"
    assert grid_words({"kind": "TrailingGrid"}) == "trailing"
