"""A comparison differs in networks alone, stops and goes on, and says what its numbers are of."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

import sfumato.judging
import sfumato.session
from sfumato.__main__ import main
from sfumato.arguments import Compare, UsageError
from sfumato.commands import compare as command
from sfumato.comparing import (
    COLOURS,
    Comparison,
    Contestant,
    Gap,
    curve_of,
    draw_comparison,
    notes,
    picked,
    speed_of,
    table,
)
from sfumato.data import ImageData
from sfumato.judging import Verdict
from sfumato.kinds import loads, to_dict
from sfumato.measuring import Estimate
from sfumato.networks.describe import flops, parameter_count
from sfumato.pictures import read_settings
from sfumato.recipes import RECIPES, comparison
from sfumato.stopping import StopRequest

RECIPE = """
from dataclasses import replace
from sfumato.grids import KarrasGrid
from sfumato.networks.unet import UNetConfig
from sfumato.recipes.comparison import compare_dit

def one():
    run = compare_dit()
    train = replace(run.train, batch=6, previews=1, save_every_steps=1)
    network = replace(run.network, patch=4, depth=1, width=12, heads=1)
    sampling = replace(run.sampling, steps=2)
    return replace(run, precision="fp32", network=network, train=train, sampling=sampling)

def two():
    network = UNetConfig(channels=4, multipliers=(1,), blocks=1, attention_at=(), groups=2,
                         middle_attention=False)
    return replace(one(), network=network, train=replace(one().train, lr=99.0))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty place with a recipe file and 60 pictures of two classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(sfumato.judging, "LEAST_STEPS", 15)
    (tmp_path / "mine.py").write_text(RECIPE)
    generator = torch.Generator().manual_seed(0)
    for name, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(30):
            noise = torch.randint(0, 40, (8, 8), generator=generator)
            picture = Image.fromarray((shade + noise).to(torch.uint8).numpy())
            picture.save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(
        sys,
        "argv",
        ["sfumato", "compare", "mine.py:one", "mine.py:two", "--data", "data", *words],
    )
    main()
    return capsys.readouterr().out


# --- the command


def test_samples_are_measured_beside_images_of_every_class():
    """Folders are read a class after the other: the first images are of the first classes."""
    labels = torch.arange(10).repeat_interleave(5)
    images = torch.zeros(50, 1, 8, 8, dtype=torch.uint8)
    held = ImageData(images, labels, tuple("abcdefghij"), "sorted", "a test")
    taken = command.real_ones(held, 20, None)
    assert taken.labels.bincount().tolist() == [2] * 10


def test_compare_from_end_to_end_and_again(folder, monkeypatch, capsys):
    words = ("--images", "24", "--samples", "500", "--device", "cpu")
    printed = call(monkeypatch, capsys, *words)
    out = folder / "runs" / "compare"
    told = json.loads((out / "compare.json").read_text())
    assert "6 images are held out, so as many samples are drawn, not 500" in printed
    assert [one["name"] for one in told["contestants"]] == ["one", "two"]
    for one in told["contestants"]:
        run = loads((out / one["name"] / "run.json").read_text())
        assert one["network"] == to_dict(run.network)
        assert one["parameters"] == parameter_count(run.network.build())
        assert one["flops"] == flops(run.network.build(), (1, 8, 8), 2)
        assert one["images"] == 24 == one["curve"][-1]["images"]
        assert one["steps"] == 4
        assert one["verdict"]["images"] == told["floor"]["images"] == 6
        assert 0 <= one["verdict"]["agreement"] <= 1
        assert re.search(rf"^{one['name']} .* {one['verdict']['frechet']:.3f} ", printed, re.M)
    (gap,) = told["gaps"]
    by_distance = sorted(told["contestants"], key=lambda one: one["verdict"]["frechet"])
    assert [gap["than"], gap["name"]] == [one["name"] for one in by_distance]
    near, far = (one["verdict"]["frechet"] for one in by_distance)
    assert gap["distance"] == pytest.approx(far - near)
    assert f"Farther than {gap['than']}: {gap['name']} by {gap['distance']:.3f} +- " in printed
    assert told["judge"]["seed"] == told["seed"] == 0
    assert told["budget"] == "24 images"
    assert read_settings(out / "compare.png")["sampling"]["steps"] == 2

    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    again = call(monkeypatch, capsys, *words)
    assert again.count("is trained already") == 2
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*")} == before
    assert json.loads((out / "compare.json").read_text()) == told


def test_only_network_and_name_differ(folder):
    runs, _ = command.contestants_of(
        Compare(("mine.py:one", "mine.py:two"), data="data", seed=7), None
    )
    one, two = runs
    assert two.train.lr != 99.0
    assert one.network != two.network
    assert replace(two, name="one", recipe=one.recipe, network=one.network) == one
    assert one.train.seed == 7
    assert (one.train.epochs, one.train.seconds) == (command.EPOCHS, None)


def test_a_stop_is_kept_and_the_same_command_goes_on(folder, monkeypatch, capsys):
    """Stopped after the first step of the first contestant, and again in the second."""
    words = ("--images", "24", "--samples", "6", "--device", "cpu", "--out", "cmp")
    asked = StopRequest.__init__

    def at_once(self):
        asked(self)
        self.asked, self.number = True, 15

    monkeypatch.setattr(StopRequest, "__init__", at_once)
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, capsys, *words)
    assert end.value.code == 143
    assert "The same command goes on" in capsys.readouterr().out
    assert not (folder / "cmp" / "two").exists()
    assert not (folder / "cmp" / "compare.json").exists()
    monkeypatch.setattr(StopRequest, "__init__", asked)

    def broken(*rest):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "samples_of", broken)
        with pytest.raises(SystemExit, match="stopped at once"):
            call(monkeypatch, capsys, *words)
    (folder / "cmp" / "two" / "run.json").unlink()  # as if killed while it was being made
    printed = call(monkeypatch, capsys, *words)
    assert printed.count("is trained already") == 1
    assert (folder / "cmp" / "two.stopped").is_dir()
    assert (folder / "cmp" / "compare.png").is_file()


def test_a_larger_budget_goes_on_and_other_settings_are_refused(folder, monkeypatch, capsys):
    words = ("--samples", "6", "--device", "cpu")
    call(monkeypatch, capsys, "--images", "6", *words)
    printed = call(monkeypatch, capsys, "--images", "12", *words)
    assert printed.count("goes on at step 1") == 2
    for more, message in (
        (("--seed", "1"), "another seed than 1"),
        (("--out", "data"), "holds no comparison"),
    ):
        with pytest.raises(SystemExit, match=message):
            call(monkeypatch, capsys, "--images", "12", *words, *more)


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        (("digits",), "with what"),
        (("digits", "digits"), "digits is there twice"),
        (("digits", "no_such"), "no recipe 'no_such'"),
        (("digits", "noisy_classifier"), "draws nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_made(tmp_path, recipes, message):
    out = tmp_path / "cmp"
    with pytest.raises(UsageError, match=message):
        command.run_compare(Compare(recipes, out=out, device="cpu", quiet=True))
    assert not out.exists()


def test_the_three_networks_of_the_default_cost_about_the_same():
    """0.4 GFLOP an image of 28 x 28, as their recipes say."""
    assert Compare().recipes == ("compare_unet2d", "compare_sd_unet", "compare_dit")
    for name in Compare().recipes:
        run = comparison.same_for_all(RECIPES["compare_unet2d"](), RECIPES[name]())
        network = replace(run.network, in_channels=1, out_channels=1, classes=10).build()
        assert 0.3e9 < flops(network, (1, 28, 28), 10) < 0.5e9, name


# --- the record


def contestant(name, loss, asked=0.5):
    rows = [
        {"kind": "held_out", "images": 0, "seconds": 0.0, "ema": 1.0, "raw": 1.1},
        {"kind": "train", "images": 64, "seconds": 1.5, "images_per_s": 0.0},
        {"kind": "train", "images": 128, "seconds": 2.5, "images_per_s": 90.0},
        {"kind": "train", "images": 192, "seconds": 3.5, "images_per_s": 110.0},
        {"kind": "held_out", "images": 192, "seconds": 4.0, "ema": loss, "raw": loss + 0.1},
    ]
    verdict = Verdict(100, 10 * loss, 0.25, asked, None if asked is None else 0.05)
    speed = speed_of(rows)
    curve = curve_of(rows)
    return Contestant(name, {}, "fp32", 12_345, 400_000_000, 3, 192, 4.0, speed, curve, verdict)


FACTS = {
    "data": "digits",
    "budget": "192 images",
    "batch": 64,
    "seed": 0,
    "process": "Karras()",
    "parameterization": "EDMPreconditioning",
    "device": "cpu",
    "judge": {"images": 900, "what": "64 features", "held_out_accuracy": 0.97},
    "sampling": {"solver": {"kind": "Heun"}, "steps": 18, "guidance": 1.5},
}
BOTH = Comparison(
    (contestant("first", 0.25), contestant("second", 0.5)),
    Verdict(100, 0.2, 0.01, 0.97, 0.017),
    FACTS,
    (Gap("second", "first", 2.5, 0.125),),
)


def test_a_contestant_is_read_out_of_its_rows():
    one = BOTH.contestants[0]
    assert one.images_per_s == 100.0  # the median of those that were measured
    assert [(look.images, look.seconds, look.loss) for look in one.curve] == [
        (0, 0.0, 1.0),
        (192, 4.0, 0.25),
    ]
    assert one.loss == 0.25
    with pytest.raises(ValueError, match="no held-out loss"):
        curve_of([])


def test_the_table_has_every_number_and_straight_columns():
    lines = table(BOTH)
    assert len({len(line) for line in lines}) == 1
    numbers = "12.3 k 400 M 100 192 4.0 s 0.2500 2.500 +- 0.250 50.0% +- 5.0%"
    assert " ".join(lines[1].split()) == f"first {numbers}"
    assert " ".join(lines[-1].split()) == "real, held out 0.200 +- 0.010 97.0% +- 1.7%"
    few = Verdict(2, 0.2, None, None, None)
    bare = Comparison((contestant("a", 0.1, None),), few, FACTS, ())
    assert " ".join(table(bare)[-1].split()) == "real, held out 0.200 -"
    assert table(bare)[1].rstrip().endswith(" -")


def test_the_notes_say_what_each_number_is_of():
    told = " ".join(notes(BOTH))
    for words in ("100 samples to 900 training images", "no FID", "97.0%", "seeds 0 to 99", "Heun"):
        assert words in told
    assert BOTH.as_json()["contestants"][0]["flops_trained"] == 3 * 400_000_000 * 192


def test_a_difference_no_larger_than_its_error_is_said_to_be():
    three = replace(BOTH, gaps=(*BOTH.gaps, Gap("third", "first", 0.1, 0.125)))
    told = notes(three)[0]
    assert told.startswith(
        "Farther than first: second by 2.500 +- 0.125; third by 0.100 +- 0.125, which is no more "
        "than its error."
    )
    assert three.as_json()["gaps"][1] == {
        "name": "third",
        "than": "first",
        "distance": 0.1,
        "error": 0.125,
    }
    few = replace(BOTH, gaps=(Gap("second", "first", 2.5, None),))
    assert "second by 2.500, too few samples" in notes(few)[0]
    assert "Farther" not in notes(replace(BOTH, gaps=()))[0]


def test_gaps_are_from_the_nearest(monkeypatch):
    """Of the samples themselves, row by row, by the judge that measured all."""
    asked = []

    def farther(judge, images, than, reference):
        asked.append((judge, images, than, reference))
        return Estimate(1.5, float("inf"))

    monkeypatch.setattr(command, "farther", farther)
    three = [contestant(name, loss) for name, loss in (("a", 0.3), ("b", 0.1), ("c", 0.2))]
    gaps = command.gaps_of(three, ["A", "B", "C"], "judge", "real")
    assert gaps == (Gap("a", "b", 1.5, None), Gap("c", "b", 1.5, None))
    assert asked == [("judge", "A", "B", "real"), ("judge", "C", "B", "real")]


def test_the_figure_shows_the_curves_and_the_samples_of_each_class():
    labels = [0, 1] * 5
    samples = [torch.full((10, 1, 8, 8), shade, dtype=torch.uint8) for shade in (10, 90, 200)]
    figure = draw_comparison(BOTH, samples[:2], samples[2], labels)
    by_images, by_time, *panels, _ = figure.axes
    for axes, ends in ((by_images, 192), (by_time, 4.0)):
        for line, one, colour in zip(axes.lines, BOTH.contestants, COLOURS):
            assert list(line.get_xdata()) == [0, ends]
            assert list(line.get_ydata()) == [1.0, one.loss]
            assert to_hex(line.get_color()) == colour
    assert [panel.get_title().splitlines()[0] for panel in panels] == [
        "first",
        "second",
        "real, held out",
    ]
    shown = [panel.images[0].get_array() for panel in panels]
    assert [int((array == shade).any()) for array, shade in zip(shown, (10, 90, 200))] == [1] * 3
    assert picked(labels, 10) == [0, 2, 4, 6, 1, 3, 5, 7]
    assert picked(None, 99) == list(range(25))
    assert picked([0, 1, 2], 3) == [0, 1, 2]
    assert picked([1, 1, 1, 0, 0, 0, 0], 7) == [3, 4, 5, 6]  # the row of class 1 has a gap
