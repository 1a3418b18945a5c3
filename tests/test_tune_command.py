"""sfumato tune, and sfumato sample --nfe, on a tiny run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato.commands.tune as command
import sfumato.tuning as tuning
from conftest import normal
from sfumato.aim import Aim
from sfumato.arguments import Tune, UsageError
from sfumato.assembly import splits_of
from sfumato.commands.tune import Plan, data_of_run, plan_of, sampling_asked
from sfumato.config import SamplingConfig
from sfumato.consistency import MultistepConsistency
from sfumato.exact import GaussianMixture
from sfumato.generation import Order, draw
from sfumato.grids import KarrasGrid
from sfumato.kinds import from_dict
from sfumato.loading import load_run
from sfumato.multistep import DEIS
from sfumato.pictures import read_settings
from sfumato.process import Karras
from sfumato.rivals import ENDS, FIXED, Rival, standard_grids
from sfumato.solvers import DDIM
from sfumato.tuned_runs import find_tuned, path_of, read_tuned, save_tuned
from sfumato.tuning import Pairs, cost, distances, teacher_path
from tiny import commands, images, run, train_in

CPU = torch.device("cpu")
FEW = {"ddim": DDIM(), "deis": DEIS(3)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_in(tmp_path_factory.mktemp("runs") / "run", run(steps=3, previews=0), images())


@pytest.fixture(scope="module")
def tuned(trained):
    """The run, tuned for 3 calls in next to no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "TEACHER_STEPS", 6)
        patch.setattr(command, "FIXED", FEW)
        patch.setattr(command, "own_splits", own)
        patch.setattr("sfumato.rivals.FIXED", FEW)
        call = commands(patch, trained.parent, NoCapture())
        call("tune", trained, "--nfe", 3, "--time", "1s", "--device", "cpu")
    return trained


def own(args, run, card, say):
    """The images that train_in trained on, which no source knows."""
    return splits_of(run.data, images())


AT_TWO = SamplingConfig(guidance=2.0)


class NoCapture:
    """What `commands` reads output from, in a fixture of a module."""

    def readouterr(self):
        return self

    out = ""


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    return commands(monkeypatch, tmp_path, capsys)


def pixels_of(path):
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture))


def record_of(folder):
    return json.loads(path_of(folder, 3, AT_TWO).read_text())


def process_of(folder):
    return load_run(str(folder), CPU).denoiser.process


def test_what_was_found_is_written_beside_the_run(tuned):
    record, found = record_of(tuned), read_tuned(path_of(tuned, 3, AT_TWO))
    assert found.sampling.steps == len(found.sampling.grid.ratios) == 3
    assert found.sampling.guidance == 2.0
    assert (found.step, found.weights) == (3, "average")
    assert {row["name"] for row in record["fixed"]} == set(FEW)
    best = record["fixed"][0]
    gain, error = best["distance"] - record["tuned"], record["error_of_the_difference"]
    levelled = record["levels_missed"]["tuned"] < record["levels_missed"][best["name"]]
    assert record["better"] == (gain > 2 * error or (gain >= -2 * error and levelled))
    tried, there = record["standard_grids"]
    assert 1 <= tried <= there == len(standard_grids(process_of(tuned)))
    with Image.open(path_of(tuned, 3, AT_TWO).with_suffix(".png")) as picture:
        assert picture.width > picture.height


def test_seeds_to_fit_by_and_to_judge_by_are_those_recorded_and_disjoint(trained, monkeypatch):
    drawn = []
    real = command.noise_of
    monkeypatch.setattr(command, "noise_of", lambda *asked: drawn.append(asked[1:]) or real(*asked))
    monkeypatch.setattr(tuning, "TEACHER_STEPS", 2)
    loaded = load_run(str(trained), CPU)
    stages = command.Stages(loaded, loaded.denoiser, 3, Plan(2, 3, 4, 1), None, Quiet())
    monkeypatch.setattr(command, "FIXED", FEW)
    monkeypatch.setattr("sfumato.rivals.FIXED", FEW)
    table, rivals, aim = stages.fitted(0.0, 0.0)
    fitted, drawn[:] = list(drawn), []
    judge, judged = stages.judged(table, rivals, aim)
    told = command.facts_of(loaded, stages.plan, judged, 0.0)["seeds"]
    assert fitted == [tuple(told["learn"]), tuple(told["apart"])]
    assert drawn == [tuple(told["judge"])]
    spans = [range(a, a + n) for a, n in told.values()]
    assert len(set().union(*spans)) == sum(map(len, spans))
    assert judged.tuned == pytest.approx(tuning.distance(loaded.denoiser, judge, table))


class Quiet:
    """A reporter that nobody listens to."""

    def say(self, text):
        pass


def test_sample_nfe_draws_by_it_and_the_picture_can_be_drawn_again(tuned, call, tmp_path):
    out = tmp_path / "drawn"
    call("sample", tuned, "--nfe", 3, "--count", 4, "--files", "--out", out, "--device", "cpu")
    settings = read_settings(out / "samples.png")
    sampling = from_dict(settings["sampling"])
    assert sampling == read_tuned(path_of(tuned, 3, AT_TWO)).sampling
    loaded = load_run(str(tuned), CPU)
    order = Order(settings["seeds"], settings["labels"], loaded.card.shape)
    again = draw(loaded.denoiser, order, sampling, loaded.conditions, CPU)
    files = sorted(out.glob("*-00000*.png"), key=lambda path: path.stem[-6:])
    drawn = torch.stack([pixels_of(path) for path in files])
    assert torch.equal(drawn, again[:, 0])
    with Image.open(out / "film.webp") as film:
        assert film.n_frames >= 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nfe", 5], "no sampler of 5 calls tuned for guidance 2; there is nfe-3-guidance-2"),
        (["--nfe", 3, "--guidance", 1.5], "tune .* --nfe 3 --guidance 1.5"),
        (["--nfe", 3, "--guidance-to", 4], "for guidance 2 to 4; .* --guidance 2 --guidance-to 4$"),
        (["--nfe", 0], "--nfe 0; 2 to 20 network calls"),
        (["--nfe", 3, "--clipped", "False"], "clipped = True, and False is asked"),
        (["--nfe", 3, "--steps", 4], "--steps with --nfe 3"),
        (["--nfe", 3, "--sampler", "ddim"], "--sampler with --nfe 3"),
        (["--nfe", 3, "--eta", 0], "--eta 0.0 belongs to --sampler ddim"),
        (["--nfe", 3, "--worse", "runs/other"], "autoguidance leads away from runs/other"),
    ],
)
def test_what_it_was_not_tuned_for_is_refused(tuned, call, words, message):
    with pytest.raises(SystemExit, match=message):
        call("sample", tuned, *words, "--device", "cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--nfe", 1], "2 to 20"), (["--nfe", 21], "2 to 20"), (["--time", "soon"], "no time")],
)
def test_what_cannot_be_tuned_is_refused(trained, call, words, message):
    with pytest.raises(SystemExit, match=message):
        call("tune", trained, *words, "--device", "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"worse": "runs/other"}, "autoguidance leads away from runs/other"),
        ({"solver": MultistepConsistency()}, "was distilled"),
        ({"classifier": "guide"}, "classifier guide guides"),
    ],
)
def test_a_run_without_one_trajectory_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sampling_asked(replace(run().sampling, **change), Tune("some", nfe=3))


def test_another_interval_of_noise_is_another_file(tuned):
    plain = path_of(tuned, 3, AT_TWO)
    inside = replace(read_tuned(plain).sampling, guidance_from=0.3, guidance_to=4.0)
    path = path_of(tuned, 3, inside)
    assert (plain.name, path.name) == (
        "nfe-3-guidance-2.json",
        "nfe-3-guidance-2-from-0.3-to-4.json",
    )
    with pytest.raises(FileNotFoundError, match=r"--guidance-from 0\.3 --guidance-to 4$"):
        find_tuned(tuned, 3, inside)
    save_tuned(path, inside, 3, "average", {"better": True})
    try:
        assert find_tuned(tuned, 3, inside).path == path
        assert find_tuned(tuned, 3, read_tuned(plain).sampling).path == plain
    finally:
        path.unlink()


def test_a_sampler_that_was_there_before_is_kept(tuned, tmp_path):
    sampling, path = read_tuned(path_of(tuned, 3, AT_TWO)).sampling, tmp_path / "nfe-3-x.json"
    assert save_tuned(path, sampling, 3, "average", {"better": True}) is None
    before = save_tuned(path, sampling, 4, "average", {"better": False})
    assert before == tmp_path / "nfe-3-x.json.before"
    assert (read_tuned(before).step, read_tuned(path).step) == (3, 4)
    assert [file.name for file in tmp_path.glob("nfe-*.json")] == [path.name]


def test_a_classifier_is_refused(tuned):
    wanted = replace(read_tuned(path_of(tuned, 3, AT_TWO)).sampling, classifier="guide")
    with pytest.raises(ValueError, match="classifier guide guides"):
        find_tuned(tuned, 3, wanted)


def test_a_newer_checkpoint_is_told(tuned, call, tmp_path, monkeypatch):
    path = path_of(tuned, 3, AT_TWO)
    before = path.read_bytes()
    path.write_text(json.dumps({**record_of(tuned), "step": 1, "better": False}))
    try:
        said = call(
            *("sample", tuned, "--nfe", 3, "--count", 1, "--no-film", "--raw"),
            *("--out", tmp_path / "drawn", "--device", "cpu"),
        )
    finally:
        path.write_bytes(before)
    assert "was tuned at step 1, and this is step 3" in said
    assert "on the average weights, not these" in said
    assert "no better than the best fixed solver" in said


@pytest.mark.parametrize("change", [{"step": "3"}, {"better": 1}, {"sampling": {}}, {"step": None}])
def test_a_file_that_is_none_is_named(tuned, tmp_path, change):
    path = tmp_path / "nfe-3.json"
    path.write_text(json.dumps({**record_of(tuned), **change}))
    with pytest.raises(ValueError, match=r"nfe-3\.json"):
        read_tuned(path)


def test_the_levels_that_were_missed_are_written(tuned):
    missed = record_of(tuned)["levels_missed"]
    assert {"teacher", "tuned"} < {*missed}
    assert len(missed) == 3


def test_data_are_those_of_training_encoded(trained, monkeypatch):
    monkeypatch.setattr(command, "own_splits", own)
    loaded = load_run(str(trained), CPU)
    found = data_of_run(loaded, 16, pytest.fail)
    train = splits_of(loaded.run.data, images()).train.images
    pixels = {row.numpy().tobytes() for row in train}
    assert {row.numpy().tobytes() for row in loaded.codec.decode(found)} == pixels


def test_data_are_of_the_classes_that_images_are_asked_of(trained, monkeypatch):
    """So that they are held against the same mixture."""
    monkeypatch.setattr(command, "own_splits", own)
    loaded = load_run(str(trained), CPU)
    train = splits_of(loaded.run.data, images()).train
    first = {row.numpy().tobytes() for row in train.images[train.labels == 0]}
    found = loaded.codec.decode(data_of_run(loaded, 1, pytest.fail))
    assert {row.numpy().tobytes() for row in found} == first
    assert loaded.run.network.classes > 1


def test_without_its_data_a_run_is_fitted_to_the_teacher_alone_and_says_so(trained):
    loaded, said = load_run(str(trained), CPU), []
    imported = replace(loaded, card=replace(loaded.card, images=0))
    assert data_of_run(imported, 16, said.append) is None
    assert "Fitted to the teacher alone" in said[0]


def test_the_bound_is_below_the_nearest_of_the_fixed():
    """On an exact denoiser, from the distances that rivals are measured by."""
    denoiser = GaussianMixture(Karras(), normal(12, 8, seed=4), 0.3)
    noise = normal(3, 8, seed=1)
    pairs = Pairs(noise, teacher_path(denoiser, noise, None)[-1].x, None)
    rivals = [Rival(name, one, KarrasGrid(0.1, 20.0), 5, 0.0) for name, one in FEW.items()]
    for order in (rivals, rivals[::-1]):
        found = command.bounded(denoiser, pairs, order, Aim(2.0))
        each = [distances(denoiser, pairs, r.grid(Karras(), 5), r.solver).mean() for r in rivals]
        assert found.bound == pytest.approx(command.NEARER * min(each).item() / 2, rel=1e-6)
        assert found.scale == 2.0


@pytest.mark.parametrize(
    ("fars", "bound"), [((float("nan"), 2.0, 3.0), 1.8), ((float("nan"),), None)]
)
def test_a_fixed_solver_that_draws_no_numbers_is_no_bound(monkeypatch, fars, bound):
    told = iter(fars)
    monkeypatch.setattr(Aim, "far", lambda *_: torch.tensor(next(told)))
    denoiser = GaussianMixture(Karras(), normal(2, 4, seed=4), 0.3)
    pairs = Pairs(normal(2, 4, seed=1), normal(2, 4, seed=2), None)
    rivals = [Rival("ddim", DDIM(), KarrasGrid(0.1, 20.0), 2, 0.0) for _ in fars]
    found = command.bounded(denoiser, pairs, rivals, Aim()).bound
    assert found == pytest.approx(float("inf") if bound is None else bound)


@pytest.mark.parametrize(("process", "tops"), [(Karras(), [25, 40, 80]), (Karras(30.0), [25, 30])])
def test_even_tables_are_dpm_solver_on_even_steps_from_what_the_process_has(process, tops):
    tables = command.even_tables(process, 5)
    ends = [(table.grid.ratios[0], table.grid.ratios[-1]) for table in tables]
    wanted = [(top, end) for top in tops for end in ENDS]
    assert ends == [pytest.approx(pair) for pair in wanted]
    for table in tables:
        logs = torch.tensor(table.grid.ratios).log().diff()
        assert logs.tolist() == pytest.approx([logs[0].item()] * 4, rel=1e-4)
        rows = table.solver.rows  # the same steps: r = 1, and the last is of first order
        assert rows[3] == pytest.approx((0, 0, -0.5, 1.5), abs=1e-6)
        assert rows[4] == pytest.approx((0, 0, 0, 0, 1), abs=1e-6)


def test_it_begins_with_what_costs_least_fitted_or_not():
    denoiser = GaussianMixture(Karras(), normal(12, 8, seed=4), 0.3)
    noise = normal(24, 8, seed=1)
    path = teacher_path(denoiser, noise, None)
    pairs = Pairs(noise, path[-1].x, None)
    aim = Aim.of(pairs.images, None)
    rivals = [Rival(n, one, KarrasGrid(0.1, 20.0), 5, 0.0) for n, one in FIXED.items()]
    nearest = command.nearest_tables(Karras(), [r for r in rivals if r.name in ("heun", "deis")])
    assert nearest == [tuning.table_of(FIXED["deis"], Karras(), KarrasGrid(0.1, 20.0)(Karras(), 5))]
    tables = [*nearest, *command.even_tables(Karras(), 5)]
    found = command.start_of(denoiser, tables, pairs, path, pairs, aim)
    few = pairs.at(torch.arange(16))  # of these the first AT_ONCE choose
    assert found not in tables  # fitted weights are nearer here
    assert cost(denoiser, few, found, aim) < min(cost(denoiser, few, t, aim) for t in tables)


def test_no_more_grids_of_fixed_solvers_are_begun_with_than_said():
    grids = [KarrasGrid(0.1, 20.0), KarrasGrid(0.1, 20.0), *map(KarrasGrid, (0.02, 0.05, 0.2))]
    rivals = [Rival("ddim", DDIM(), grid, 4, far) for far, grid in enumerate(grids)]
    found = command.nearest_tables(Karras(), rivals)
    lows = [table.grid.ratios[-1] for table in found]
    assert lows == pytest.approx([0.1, 0.02, 0.05])
    assert len(found) == command.FIXED_GRIDS


def test_a_plan_keeps_half_of_the_budget_for_the_gradient():
    for each in (0.0005, 0.002, 0.005):
        plan = plan_of(120, each, calls=6, grids=6)
        calls = (plan.learn + plan.apart + plan.judge) * 40 + plan.survey * 11 * 6 * 6
        assert (calls + plan.judge * 23 * 6) * each < 60
    assert plan_of(1, 1.0, 6, 6) == Plan(16, 16, 16, 4)  # the least, however slow


def test_the_command_to_use_it_has_the_flags_it_was_tuned_for(tuned):
    loaded = load_run(str(tuned), CPU)
    args = Tune(str(tuned), nfe=3, guidance=1.5, guidance_to=4.0)
    wanted = f"sfumato sample {tuned} --nfe 3 --guidance 1.5 --guidance-to 4.0"
    assert command.use_of(loaded, args) == wanted


def test_usage_errors_are_usage_errors(trained):
    with pytest.raises(UsageError, match="2 to 20"):
        command.run_tune(Tune(str(trained), nfe=0))
