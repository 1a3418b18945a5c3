"""sfumato evaluate --samples: the images are the run's own, its numbers those of the measures."""

import json
from dataclasses import replace

import pytest
import torch

from sfumato.arguments import Evaluate, UsageError
from sfumato.commands import drawn
from sfumato.commands import evaluate as evaluate_command
from sfumato.commands.evaluate import check_drawing, in_shares, real_images
from sfumato.data import fingerprint
from sfumato.features import features_of
from sfumato.folder import read_card
from sfumato.generation import Order, draw
from sfumato.kinds import read_run
from sfumato.measuring import Moments, frechet
from sfumato.pictures import read_settings
from sfumato.quality import control_of
from sfumato.recipes import RECIPES
from sfumato.results import check_alike, difference, from_json
from test_evaluate_command import BETAS, own, trained
from tiny import CPU, commands, pictures


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run with images held out and others for a test."""
    folder = tmp_path_factory.mktemp("drawn")
    pictures(folder / "pictures", n=240)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI", "true")
        patch.setenv("SFUMATO_HOME", str(folder / "home"))
        trained(folder, "betas", "digits_ddpm", **BETAS)
    return folder


@pytest.fixture
def sfumato(root, monkeypatch, capsys):
    monkeypatch.setattr("sfumato.judging.LEAST_STEPS", 3)
    return commands(monkeypatch, root, capsys)


@pytest.fixture
def evaluate(sfumato, root):
    """(results by name, the folder, what was printed) of `sfumato evaluate betas --samples ...`."""

    def call(*words):
        before = set((root / "runs/betas").glob("evaluation*"))
        few = ("--device", "cpu", "--steps", "2", "--limit", "4")
        text = sfumato("evaluate", "betas", *few, *words)
        (out,) = set((root / "runs/betas").glob("evaluation*")) - before
        found = json.loads((out / "evaluation.json").read_text())
        return {r.name: r for r in from_json(found["drawn"])}, out, text

    return call


NAME = "Frechet distance (judge features)"


def test_the_distance_is_that_of_the_runs_own_images_from_its_training_images(evaluate, root):
    by_name, out, text = evaluate("--samples", "40")
    loaded, splits = own(root, "betas")
    result = by_name[NAME]
    record = result.record
    order = drawn.order_of(loaded, splits.train, 40)
    assert order.seeds == list(range(40))
    assert torch.tensor(order.labels).bincount().tolist() == [20, 20]
    images = draw(loaded.denoiser, order, loaded.run.sampling, loaded.conditions, CPU)
    network = features_of("judge", data=splits.train)
    assert record.yardstick.digest == network.digest
    reference, _ = control_of(splits.train, None, 40)
    wanted = frechet(Moments.of(network(images)), Moments.of(network(reference.images)))
    assert result.value == pytest.approx(wanted, rel=1e-6)
    assert record.yardstick.reference_images == len(splits.train) - 40
    assert record.yardstick.reference_digest == fingerprint(reference)[:16]
    assert (record.drawing.steps, record.drawing.seeds) == (2, "0 to 39")
    assert (record.drawing.run, record.drawing.step) == ("betas", 5)
    assert f"{NAME}  " in text
    for name in ("nearest.png", "spectrum.png"):
        assert (out / name).is_file()
    assert read_settings(out / "nearest.png")["run"] == "betas"


def test_the_same_twice_compares_and_other_references_do_not(evaluate, root):
    first = evaluate("--samples", "16", "--against", "test")[0][NAME]
    kept = set((root / "home/features").iterdir())
    assert len(kept) >= 3  # of the test images, the control and the training images
    again = evaluate("--samples", "16", "--against", "test")[0][NAME]
    assert set((root / "home/features").iterdir()) == kept
    assert again.value == first.value
    assert difference(first, again)[0] == pytest.approx(0, abs=1e-9)
    assert "test images" in first.record.yardstick.reference
    assert first.record.yardstick.reference_images == 30
    assert first.floor is not None
    other = evaluate("--samples", "16", "--against", "held-out")[0][NAME]
    assert other.record.yardstick.reference_images == 20
    with pytest.raises(ValueError, match="results of different reference don't compare"):
        check_alike(first, other)


def test_given_images_are_what_is_compared_to(evaluate, root):
    pictures(root / "others", n=26)
    path = next((root / "others").glob("cat/*.png"))
    path.unlink()
    by_name, _, text = evaluate("--samples", "9", "--data", "others")
    assert by_name[NAME].record.yardstick.reference == "images of others"
    assert by_name[NAME].record.yardstick.reference_images == 25 - 9
    assert "training image" not in text


def test_the_record_says_what_else_guides(root):
    loaded = own(root, "betas")[0]
    sampling = replace(
        loaded.run.sampling,
        classifier="guide",
        classifier_scale=1.5,
        worse="runs/early",
        worse_scale=3.0,
    )
    order = Order(list(range(4)), [0] * 4, loaded.card.shape)
    told = drawn.drawing(replace(loaded, run=replace(loaded.run, sampling=sampling)), order)
    assert told.sampler.endswith(", classifier guide by 1.5, away from runs/early by 3")


def test_progress_counts_the_points_of_the_drawing(root, monkeypatch):
    loaded = own(root, "betas")[0]
    seen = []
    monkeypatch.setattr(drawn, "reading", lambda *words, **more: lambda *at: seen.append(at))
    monkeypatch.setattr(drawn, "BATCH", 4)
    subject = type("Subject", (), {"say": staticmethod(print)})
    order = Order(list(range(10)), [0] * 10, loaded.card.shape)
    drawn.drawn_images(subject, loaded, order)
    assert seen == [(i + 1, 9) for i in range(9)]  # three batches of two steps and the start


def test_a_class_is_asked_for_in_its_share(root):
    loaded, splits = own(root, "betas")
    known = splits.train
    uneven = torch.cat([torch.zeros(30, dtype=torch.int64), torch.ones(90, dtype=torch.int64)])
    known = type(known)(known.images[:120], uneven, known.class_names, "x", "y")
    order = drawn.order_of(loaded, known, 40)
    assert torch.tensor(order.labels).bincount().tolist() == [10, 30]
    assert order.labels != sorted(order.labels)


def test_what_can_not_be_drawn_is_refused(sfumato):
    for words, message in (
        (("betas", "--samples", "7"), "--samples 7; at least 8"),
        (("betas", "--features", "mnist"), "give --samples N too"),
        (("betas", "--samples", "8", "--features", "mnst"), "did you mean mnist"),
        (("betas", "--samples", "8", "--features", "mnist"), r"of \(1, 28, 28\) alone"),
        (("betas", "--samples", "8", "--features", "inception"), "Nothing is downloaded"),
    ):
        with pytest.raises(SystemExit, match=message):
            sfumato("evaluate", *words, "--device", "cpu", "--steps", "2", "--limit", "4")


def test_what_draws_no_images_has_none_to_measure():
    args = Evaluate(run="x", samples=9)
    with pytest.raises(UsageError, match="a ClassifierRun draws no images"):
        check_drawing(args, RECIPES["noisy_classifier"]())
    check_drawing(args, RECIPES["digits"]())


@pytest.mark.parametrize("name", ["fid", "inception"])
def test_features_that_are_not_there_are_refused_before_anything_is_measured(name, tmp_path):
    args = Evaluate(run="x", samples=9, features=name, weights=tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"no features called 'fid'|Nothing is downloaded"):
        check_drawing(args, RECIPES["digits"]())


def test_without_a_test_part_of_its_own_it_is_the_authors(root, monkeypatch):
    _, splits = own(root, "betas")
    asked = []
    monkeypatch.setattr(evaluate_command, "data_of", lambda run, *rest: asked.append(run.data))
    run = RECIPES["digits"]()
    run = replace(run, data=replace(run.data, limit=9))
    assert evaluate_command.test_part(run, None, splits, print) is splits.test
    assert not asked
    evaluate_command.test_part(run, None, replace(splits, test=None), print)
    assert (asked[0].split, asked[0].limit, asked[0].source) == ("test", None, "digits")


def test_floors_of_a_run_that_is_told_no_classes_are_of_images_at_random(root):
    """Told classes, it is asked for each in its share, and so are the others chosen."""
    folder, quiet = root / "runs/betas", lambda text: None
    run, card = read_run(folder), read_card(folder)
    untold = replace(run, network=replace(run.network, classes=0))
    args = Evaluate(run=str(folder), samples=20)
    controls = [real_images(args, each, card, quiet)[1].control for each in (run, untold)]
    kept = [control.labels.bincount().tolist() for control in controls]
    assert max(kept[0]) - min(kept[0]) <= 1
    assert kept[0] != kept[1]
    given = [in_shares(each) for each in (run, untold)]
    assert given == [True, False]


@pytest.mark.parametrize("flip", [False, True])
def test_copies_are_looked_for_among_mirror_images_where_the_run_was_trained_on_them(root, flip):
    folder = root / "runs/betas"
    run = read_run(folder)
    run = replace(run, data=replace(run.data, flip=flip))
    args = Evaluate(run=str(folder), samples=20)
    assert real_images(args, run, read_card(folder), lambda text: None)[1].mirrored == flip
