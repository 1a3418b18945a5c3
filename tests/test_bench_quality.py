"""The same minutes for every contender: what is counted, kept, and drawn."""

import importlib
from dataclasses import replace
from functools import partial

import pytest
import torch

from bench import ablations, contenders, distilling, keeping, quality, tutorial
from bench.options import Options, keep
from bench.ours import Ours
from bench.peers import Tuning
from bench.results import Row
from sfumato.data import ImageData, load
from sfumato.discrete import CosineBetas
from sfumato.features import features_of
from sfumato.measuring import Moments, frechet
from sfumato.networks import UNetConfig
from sfumato.process import RectifiedFlow
from sfumato.schedules import Constant, CosineDecay

TEXT = "source-000"
PLAIN, OTHER = Tuning(), Tuning(bf16=True, channels_last=True, fused=True)
SMALL = {"block_out_channels": (32, 32), "layers_per_block": 1}


def small(lesson: tutorial.Lesson, classes: int) -> torch.nn.Module:
    model = importlib.import_module("diffusers").UNet2DModel
    down, up = ("DownBlock2D",) * 2, ("UpBlock2D",) * 2
    kinds = {"down_block_types": down, "up_block_types": up, "num_class_embeds": classes}
    return model(sample_size=32, in_channels=1, out_channels=1, **SMALL, **kinds)


def begun(tuning: Tuning = PLAIN, lesson: str = TEXT) -> tutorial.Tutorial:
    data = load("digits", limit=20)
    return tutorial.Tutorial(data.images, data.labels, lesson, tuning)


def test_a_tutorial_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr(tutorial, "network", small)
    whole, first, second = begun(), begun(), begun()
    for _ in range(4):
        whole()
    for _ in range(2):
        first()
    first.save(tmp_path)
    second.restore(tmp_path)
    for _ in range(2):
        second()
    assert second.step == 4
    saved = whole.model.state_dict()
    assert all(torch.equal(saved[name], v) for name, v in second.model.state_dict().items())
    moments = [t.optimizer.state_dict()["state"][0]["exp_avg"] for t in (whole, second)]
    assert torch.equal(*moments)


def test_a_saved_tutorial_draws_as_it_was_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(tutorial, "network", small)
    training = begun(tuning=OTHER)
    training()
    training.save(tmp_path)
    model, lesson, tuning = tutorial.Tutorial.saved(tmp_path)
    assert lesson == TEXT
    assert tuning == OTHER == Tuning.named(str(OTHER))
    assert model.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model.conv_out.weight, training.model.conv_out.weight)
    with pytest.raises(ValueError, match="was begun by source-000, bf16 autocast, channels_last"):
        begun().restore(tmp_path)
    with pytest.raises(ValueError, match="'bf16' is no tuning of a peer"):
        Tuning.named("bf16")


def test_the_fastest_tuning_is_the_one_that_takes_least(monkeypatch):
    taken = dict(zip(tutorial.TUNINGS, (3.0, 2.0, 4.0, 5.0)))
    monkeypatch.setattr(tutorial, "Tutorial", lambda *told: told[-1])
    monkeypatch.setattr(tutorial, "trial", lambda step, warm, count: taken[step])
    monkeypatch.setattr(tutorial, "emulates_bf16", lambda device: False)
    assert tutorial.fastest(None, None, TEXT) == tutorial.TUNINGS[1]
    taken[tutorial.TUNINGS[3]] = 1.0
    assert tutorial.fastest(None, None, TEXT) == tutorial.TUNINGS[3]
    monkeypatch.setattr(tutorial, "emulates_bf16", lambda device: True)
    assert tutorial.TUNINGS[3].bf16
    assert tutorial.fastest(None, None, TEXT) == tutorial.TUNINGS[1]
    assert len({str(tuning) for tuning in tutorial.TUNINGS}) == 4


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own
def test_the_courses_lesson_trains_is_kept_and_draws_images_of_28_pixels(tmp_path, monkeypatch):
    course = tutorial.LESSONS["course"]
    monkeypatch.setitem(tutorial.LESSONS, "course", replace(course, batch=2))
    training = begun(lesson="course")
    assert training() > 0
    assert training.optimizer.param_groups[0]["weight_decay"] == 0
    training.save(tmp_path)
    model, lesson, tuning = tutorial.Tutorial.saved(tmp_path)
    saved = training.model.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    drawn = tutorial.drawer(tutorial.mirrored(model), lesson, 2, tuning)([1, 2], [3, 4])
    assert (drawn.shape, drawn.dtype) == ((2, 1, 28, 28), torch.uint8)
    with pytest.raises(ValueError, match="begun by course, fp32, not by source-000, fp32"):
        begun().restore(tmp_path)


@pytest.mark.parametrize(("lesson", "rate"), [("source-000", 4e-4), ("course", 1e-3)])
def test_a_lessons_rate_is_its_texts_from_the_first_step_on(monkeypatch, lesson, rate):
    monkeypatch.setattr(tutorial, "network", small)
    training = begun(lesson=lesson)
    met = []
    for _ in range(3):
        met.append(training.optimizer.param_groups[0]["lr"])
        training()
    assert met == [rate] * 3


def test_the_tutorials_batches_are_padded_images_of_their_labels():
    training = begun()
    clean, labels, noise, times = training.batch_at(3)
    inside = ((clean[:, :, 2:-2, 2:-2] + 1) * 127.5).round().to(torch.uint8)
    for image, label in zip(inside, labels):
        same = (training.images == image).flatten(1).all(1).nonzero()[:, 0]
        assert label in training.labels[same]
    assert (clean[:, :, :2] == -1).all()
    assert (clean[:, :, :, -2:] == -1).all()
    assert noise.shape == (16, 1, 32, 32)
    assert ((times >= 0) & (times < 1000)).all()
    assert not torch.equal(training.batch_at(4)[2], noise)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own
@pytest.mark.parametrize("steps", [2, tutorial.DPM_STEPS])
def test_the_tutorials_sampler_draws_what_a_perfect_network_knows(steps):
    """Of classes of one even image each, x0 = c: eps = (x - alpha c) / sigma is exact."""
    alphas = tutorial.scheduler().alphas_cumprod
    grey = torch.tensor([-1.0, 0.2065, 0.603])  # levels 0, 153.8 and 204.4

    def perfect(x, t, class_labels, return_dict):
        alpha, sigma = alphas[t] ** 0.5, (1 - alphas[t]) ** 0.5
        return [(x - alpha * grey[class_labels][:, None, None, None]) / sigma]

    drawn = tutorial.drawer(perfect, TEXT, steps, PLAIN)([5, 6, 7], [2, 0, 1])
    wanted = ((grey[[2, 0, 1]] + 1) * 127.5).round().to(torch.uint8)
    assert drawn.shape == (3, 1, 28, 28)
    assert (drawn == wanted[:, None, None, None]).all()


@pytest.mark.parametrize(("lesson", "side"), [(TEXT, 32), ("course", 28)])
def test_the_tutorials_network_is_the_same_function_when_it_is_ours(lesson, side):
    """The quality rows of diffusers are drawn through it, so that it has to be diffusers' own."""
    torch.manual_seed(3)
    model = tutorial.network(tutorial.LESSONS[lesson], 10).eval()
    for weight in model.parameters():  # the untrained ones are almost deaf to class and time
        weight.data += 0.02 * torch.randn_like(weight)
    x, labels = torch.randn(3, 1, side, side), torch.tensor([7, 0, 9])
    asked = {"class_labels": labels, "return_dict": False}
    for t in (torch.tensor(3), torch.tensor(741)):
        with torch.no_grad():
            wanted, got = model(x, t, **asked)[0], tutorial.mirrored(model)(x, t, **asked)[0]
            other = model(x, t, **{**asked, "class_labels": labels.flip(0)})[0]
        assert wanted.std() > 0.1
        assert not torch.allclose(other[0], wanted[0], atol=1e-3)
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("slow", [True, False])
def test_what_diffusers_trained_is_drawn_in_bf16_where_that_is_quick(monkeypatch, slow):
    made = []
    monkeypatch.setattr(contenders.Tutorial, "saved", lambda _: ("model", TEXT, PLAIN))
    monkeypatch.setattr(contenders, "mirrored", lambda model: f"our {model}")
    monkeypatch.setattr(contenders, "drawer", lambda *told: made.append(told))
    monkeypatch.setattr(contenders, "emulates_bf16", lambda _: slow)
    contenders.DIFFUSERS.drawer("folder")
    ((model, lesson, steps, tuning, clipped),) = made
    assert (model, lesson, steps, clipped) == ("our model", TEXT, tutorial.DPM_STEPS, True)
    assert tuning == replace(PLAIN, bf16=not slow)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own
def test_a_sampler_says_whether_it_clips_and_clips_then_alone():
    """A network that sees no noise in anything takes x0 out of [-1, 1]."""
    plain = replace(contenders.DIFFUSERS, clipped=False)
    assert "x0 clipped" in contenders.DIFFUSERS.sampler
    assert "x0 clipped" not in plain.sampler

    def silent(x, t, class_labels, return_dict):
        return (torch.zeros_like(x),)

    images = [
        tutorial.drawer(silent, TEXT, 4, PLAIN, one)([5], [0]).float() for one in (True, False)
    ]
    assert (images[0] - images[1]).abs().max() > 1


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own
def test_the_tutorials_images_hang_on_their_own_seeds_alone():
    def wrong(x, t, class_labels, return_dict):
        return [0.5 * x]

    alone = tutorial.drawer(wrong, TEXT, 4, PLAIN)([6], [1])
    among = tutorial.drawer(wrong, TEXT, 4, PLAIN)([5, 6], [0, 1])
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(among[0], among[1])


def test_drawing_that_was_timed_later_counts(tmp_path):
    def timed_as(case, *rows):
        keep("quality", case, Options(out=tmp_path), lambda: ({}, list(rows), {}))

    step, old, new = Row("x", (1.0,)), Row("x: drawing", (2.0,)), Row("x: drawing", (3.0,))
    timed_as("drawing", new)
    timed_as("times", step, old)
    assert quality.timed(Options(out=tmp_path)) == {"x": step, "x: drawing": new}


def test_minutes_are_counted_in_steps(tmp_path):
    step = Row("x", (0.5, 0.25, 0.3), 64, "images")
    assert quality.steps_in(600, step, Options()) == 2000
    assert quality.steps_in(600, step, Options(quick=True)) == 2
    assert quality.of_one([3.0, 6.0]) == (3.0 / quality.REPEATS, 6.0 / quality.REPEATS)
    assert [quality.named("x", s) for s in (600, 1800)] == ["x", "x-30m"]
    with pytest.raises(ValueError, match="--only times"):
        quality.timed(Options(out=tmp_path))


def test_a_part_tells_the_command_that_makes_it_again_with_its_rounds(tmp_path):
    for rounds, more in ((None, ""), (2, " --rounds 2")):
        options = Options(out=tmp_path, rounds=rounds)
        part = keep("quality", "times", options, lambda: ({}, [Row("x", (1.0,), 1, "images")], {}))
        assert part.command == f"python -m bench quality --only times{more}"


def test_what_was_not_timed_is_named_with_the_case_that_times_it():
    for key, case in (("course", "course"), ("distilled", "student"), ("diffusers", "times")):
        with pytest.raises(ValueError, match=f"no step of {key} was timed: first --only {case}"):
            quality.step_of(key, {})


def test_a_run_is_trained_once_and_never_taken_for_another(tmp_path):
    called, asked = [], {"steps": 30, "data": "d"}
    for _ in range(2):
        wall = keeping.once(tmp_path / "run", asked, partial(called.append, 1))
    assert called == [1]
    assert 0 <= wall < 60
    for key, other in (("steps", 31), ("data", "e")):
        with pytest.raises(ValueError, match=f"run.json tells of .*'{key}': {other!r}.* is asked"):
            keeping.once(tmp_path / "run", {**asked, key: other}, partial(called.append, 1))

    def fails() -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        keeping.once(tmp_path / "other", asked, fails)
    keeping.once(tmp_path / "other", asked, partial(called.append, 2))
    assert called == [1, 2]


def test_images_that_were_drawn_are_not_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "BATCH", 4)
    asked, how = [], {"sampler": "heun", "begun": None}

    def draw(seeds, labels):
        asked.append((list(seeds), labels))
        return torch.tensor(list(seeds), dtype=torch.uint8)[:, None, None, None]

    folder = tmp_path / "run"
    keeping.drawn_by(lambda: draw, folder, 6, how)
    (tmp_path / "run-drawn" / "000000.npy").unlink()
    images = keeping.drawn_by(lambda: draw, folder, 6, how)
    assert images.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert asked == [([0, 1, 2, 3], [0, 1, 2, 3]), ([4, 5], [4, 5]), ([0, 1, 2, 3], [0, 1, 2, 3])]
    keeping.drawn_by(lambda: pytest.fail("nothing is missing"), folder, 6, how)
    for other, count in (({"sampler": "ddim"}, 6), ({"begun": "today"}, 6), ({}, 8)):
        with pytest.raises(ValueError, match=r"drawn\.json tells of .* is asked for now"):
            keeping.drawn_by(lambda: draw, folder, count, {**how, **other})


def test_a_training_made_anew_in_the_same_place_is_not_judged_by_the_images_of_the_old(tmp_path):
    folder, asked = tmp_path / "run", {"steps": 30}
    assert keeping.begun(folder) is None
    keeping.once(folder, asked, lambda: None)
    first = keeping.begun(folder)
    keeping.once(folder, asked, lambda: None)
    assert keeping.begun(folder) == first
    keeping.note_of(folder).unlink()
    keeping.once(folder, asked, lambda: None)
    assert keeping.begun(folder) > first


def tiny(recipe: contenders.OfRecipe) -> Ours:
    run = recipe.run()
    network = UNetConfig(
        channels=8, multipliers=(1,), blocks=1, attention_at=(), groups=4, head_channels=8
    )
    data = load("digits", limit=20)
    data = data if run.data.labels else replace(data, labels=None)
    return Ours(replace(run, network=network, precision="fp32"), data)


def test_calls_are_the_rows_that_the_network_sees_an_image():
    begun, rows = tiny(contenders.OURS), []
    model, run = begun.state.average, begun.task.run
    model.network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    order = contenders.Order(range(3), [0, 1, 2], (1, 28, 28))
    device = torch.device("cpu")
    contenders.draw(model, order, run.sampling, begun.task.conditions, device)
    assert sum(rows) == 3 * contenders.OURS.calls == 72
    unguided = replace(run.sampling, guidance=1.0)
    assert contenders.calls_of(unguided) == 12


def test_a_timed_step_of_the_student_asks_its_network_twice():
    """Once for what it finds, once for its target, as in all but the first few of its steps."""
    step, calls = distilling.DISTILLED.stepper(load("digits", limit=20)), []
    step.state.model.network.register_forward_pre_hook(lambda _, inputs: calls.append(1))
    step()
    assert len(calls) == 2


def test_every_variant_changes_what_it_says_and_can_be_trained():
    ours = contenders.OURS.run()
    train = replace(ours.train, seconds=None, steps=1_000_000, seed=0)
    assert ablations.VARIANTS["as it is"].run(0) == replace(ours, train=train, precision="auto")
    runs = {name: variant.run(0) for name, variant in ablations.VARIANTS.items()}
    assert isinstance(runs["flow"].process, RectifiedFlow)
    assert isinstance(runs["noise"].process, CosineBetas)
    assert isinstance(runs["constant"].train.decay, Constant)
    assert isinstance(runs["cosine"].train.decay, CosineDecay)
    assert (ours.train.muon, runs["AdamW"].train.muon) == (True, False)
    network, train = ours.network, ours.train
    assert (network.patch, runs["pixels"].network.patch) == (2, 1)
    assert (network.blocks, runs["one block"].network.blocks) == (2, 1)
    assert (network.channels, runs["48 channels"].network.channels) == (32, 48)
    assert (runs["batch 32"].train.batch, train.batch, runs["batch 128"].train.batch) == (
        32,
        64,
        128,
    )
    data, seen = load("digits", limit=20), set()
    for name, variant in ablations.VARIANTS.items():
        run = variant.run(1)
        seen.add(replace(run, train=replace(run.train, seed=0)))
        assert run.train.seed == 1
        assert run.train.steps == 1_000_000
        small = replace(run, train=replace(run.train, batch=2), precision="fp32")
        assert Ours(small, data)() > 0, name
    assert len(seen) == len(ablations.VARIANTS)


class Drawn:
    """A contender whose images are those that it is given."""

    key, batch, words, title = "x", 64, "x in words", "x"
    guidance, sampler, calls = 1.5, "a sampler", 24

    def __init__(self, images):
        self.images = images

    def drawer(self, folder):
        return lambda seeds, labels: self.images[list(seeds)]


def test_a_row_tells_what_its_contender_saw_drew_and_took(tmp_path):
    """Features are the pixels: the distance is that of Gaussians of them."""
    make = torch.Generator().manual_seed(0)
    test, others, drawn = (
        torch.randint(0, most, (n, 1, 2, 2), generator=make, dtype=torch.uint8)
        for n, most in ((60, 256), (40, 256), (40, 100))
    )
    network = features_of(lambda images: images.flatten(1).double())
    data = [
        ImageData(i, torch.arange(len(i)) % 10, tuple("0123456789"), "d", "a test")
        for i in (test, others)
    ]
    moments = Moments.of(test.flatten(1))
    yard = quality.Yard("d", "d", data[0].class_names, data[0], network, moments, 40, data[1])
    step = Row("x", (0.5, 0.25, 0.3), 64, "images", 0.0, {"precision": "bf16"})
    measured = {"x": step, "x: drawing": Row("x: drawing", (2.0, 4.0, 8.0), 100, "images")}
    row = quality.judged(Drawn(drawn), tmp_path / "x", yard, measured, {"steps": 300})
    wanted = frechet(Moments.of(drawn.flatten(1)), moments)
    assert row.facts["distance"] == pytest.approx(wanted, abs=1e-4)
    floor = frechet(Moments.of(others.flatten(1)), moments)
    assert yard.floor["floor"] == pytest.approx(floor, abs=1e-4)
    assert row.facts["images_seen"] == 300 * 64
    assert "s_for_1000" not in row.facts  # the page has it from what is measured later
    assert (row.facts["precision"], row.seconds, row.median) == ("bf16", step.seconds, 0.3)
    shown = yard.shown(data[0])
    assert shown.shape == (10 * quality.SHOWN, 1, 2, 2)
    assert torch.equal(shown[quality.SHOWN], test[1])
    assert torch.equal(yard.shown_of(drawn)[1], drawn[10])


def test_the_floor_of_halves_is_one_half_of_each_class_beside_the_other():
    make = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 2, 2), generator=make, dtype=torch.uint8)
    data = ImageData(images, torch.arange(60) % 10, tuple("0123456789"), "d", "a test")
    looked = []

    def look(batch):
        looked.append(batch)
        return batch.flatten(1).double()

    found = quality.floor_of_halves(data, features_of(look))
    one, other = looked
    assert len(one) == len(other) == 30
    both = torch.cat([one, other]).flatten(1)
    assert torch.equal(both.unique(dim=0), images.flatten(1).unique(dim=0))
    wanted = frechet(Moments.of(one.flatten(1)), Moments.of(other.flatten(1)))
    assert found["floor"] == pytest.approx(wanted, abs=1e-4)


def test_an_hour_is_the_source_documents_recipes_alone(monkeypatch):
    made = {}
    monkeypatch.setattr(quality, "keep", lambda _, case, __, find: made.update({case: find}))
    for minutes in (0, 45, 60):
        quality.run(Options(minutes=minutes, only=f"fashion-{minutes or 60}"))
    quality.run(Options(only="course-30"))
    entered = {case: find.args[1:] for case, find in made.items()}
    assert entered == {
        "fashion-45": (2700, contenders.CONTENDERS),
        "fashion-60": (3600, (contenders.FOUR_CONV, contenders.DIFFUSERS)),
        "course-30": (1800, (contenders.COURSE,)),
    }
