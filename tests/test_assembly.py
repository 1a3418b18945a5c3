"""Pixels in and out of [-1, 1], devices, precision, and what a run fills in from its data."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from sfumato.assembly import build, loss_of, lost_classes, settle, splits_of
from sfumato.codec import Pixels
from sfumato.commands.train import print_plan
from sfumato.conditions import Labels, Nothing
from sfumato.config import SamplingConfig
from sfumato.data import subset
from sfumato.devices import Trial, emulates_bf16, faster_precision, pick_device
from sfumato.exact import Empirical
from sfumato.generation import Order, class_rows, draw, wrapped
from sfumato.grids import KarrasGrid
from sfumato.networks.exactness import Error
from sfumato.parameterization import EDMPreconditioning
from sfumato.prediction import Prediction
from sfumato.process import Karras
from sfumato.recipes import RECIPES
from sfumato.solvers import DPMSolverPP2M
from sfumato.tasks import Parts, settle_precision, task, task_of
from sfumato.trainer import Trainer
from tiny import CPU, images, parts, run


def test_every_pixel_value_survives_the_codec():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x = Pixels().encode(values)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)
    torch.testing.assert_close(x.flatten().diff(), torch.full((255,), 2 / 255), rtol=1e-4, atol=0)
    assert torch.equal(Pixels().decode(x), values)


def test_decoding_rounds_and_clamps_and_never_wraps():
    x = torch.tensor([-3.0, -1.0, 1.4 / 127.5 - 1, 1.6 / 127.5 - 1, 1.0, 7.0])
    assert Pixels().decode(x).tolist() == [0, 0, 1, 2, 255, 255]


def test_only_uint8_is_encoded():
    with pytest.raises(ValueError, match=r"torch\.float32; uint8 in 0\.\.255 is wanted"):
        Pixels().encode(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99x", "tpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name):
    with pytest.raises(ValueError, match=rf"device '{name}': PyTorch .* can use .*cpu here"):
        pick_device(name)


def test_the_cpu_can_always_be_asked_for():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda", "mps")


def test_a_run_learns_channels_classes_and_deviation_from_its_data():
    recipe = replace(RECIPES["digits"](), parameterization=EDMPreconditioning(sigma_data=0.0))
    recipe = replace(recipe, data=replace(recipe.data, held_out=0))
    settled = settle(recipe, images(classes=3))
    assert settled.network.in_channels == settled.network.out_channels == 1
    assert settled.network.classes == 3
    measured = Pixels().encode(images().images).std().item()
    assert settled.parameterization.sigma_data == pytest.approx(measured, abs=1e-3)
    assert settle(replace(recipe, learned_variance=True), images()).network.out_channels == 2


def test_what_is_held_out_is_not_looked_at_to_settle_a_run():
    data = images()
    recipe = replace(RECIPES["digits"](), parameterization=EDMPreconditioning(sigma_data=0.0))
    recipe = replace(recipe, data=replace(recipe.data, held_out=3, test=7))
    train = splits_of(recipe.data, data).train
    sigma = settle(recipe, data).parameterization.sigma_data
    assert sigma == pytest.approx(Pixels().encode(train.images).std().item(), abs=1e-3)
    seen = {image.numpy().tobytes() for image in train.images}
    unseen = torch.tensor([image.numpy().tobytes() not in seen for image in data.images])
    assert unseen.sum() == 10
    brighter = torch.where(unseen[:, None, None, None], 255, data.images)
    assert settle(recipe, replace(data, images=brighter)).parameterization.sigma_data == sigma


def of_classes(*counts):
    """So many images of each of the classes a, b, ..."""
    data, labels = images(sum(counts)), torch.arange(len(counts))
    names = tuple("abcdefghi"[: len(counts)])
    return replace(data, labels=labels.repeat_interleave(torch.tensor(counts)), class_names=names)


def test_a_class_of_which_nothing_is_trained_on_is_told_of():
    """The only image of b is held out; of c there is none anywhere."""
    data, config = of_classes(5, 1, 0, 24), run().data
    splits = splits_of(replace(config, held_out=3), data)
    assert splits.held_out.labels.tolist().count(1) == 1
    words = lost_classes(run(), splits)
    assert words.startswith("2 of 4 classes have no image to train on: ")
    assert "b (1 held back from training), c (none was read)." in words
    whole = splits_of(replace(config, held_out=0), of_classes(4, 1, 25))
    assert lost_classes(run(), whole) == ""


def test_many_lost_classes_are_counted_and_five_of_them_named():
    words = lost_classes(run(), splits_of(run().data, of_classes(25, 0, 0, 0, 0, 0, 0, 5)))
    assert words.startswith("6 of 8 classes")
    assert "f (none was read) and 1 more." in words


def test_what_has_no_classes_has_lost_none():
    splits = splits_of(run().data, of_classes(25, 0))
    without = replace(run(), network=replace(run().network, classes=0))
    assert lost_classes(without, splits) == ""
    assert lost_classes(run(), replace(splits, train=replace(splits.train, labels=None))) == ""


def test_training_warns_of_a_lost_class_and_so_does_its_plan(tmp_path, capsys):
    data = of_classes(30, 0)
    settled = settle(run(steps=1), data)
    Trainer(settled, data, CPU, quiet=True).start(None, tmp_path / "run")
    assert "classes have no image" in (tmp_path / "run" / "log.txt").read_text()
    capsys.readouterr()
    print_plan(settled, data, CPU)
    assert "classes have no image" in capsys.readouterr().out


def test_a_plan_looks_for_lost_classes_without_a_copy_of_the_images(monkeypatch, capsys):
    """Of a large set it would take as much memory again as the images, for labels alone."""
    copied = []

    def noted(data, indices):
        part = subset(data, indices)
        copied.append(part.images.numel())
        return part

    data = of_classes(5, 1, 0, 24)
    settled = settle(replace(run(), data=replace(run().data, held_out=3)), data)
    monkeypatch.setattr("sfumato.data.record.subset", noted)
    print_plan(settled, data, CPU)
    assert copied == [0, 0]
    assert "b (1 held back from training), c (none was read)." in capsys.readouterr().out


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = build(run(), CPU).state_dict()
    torch.manual_seed(2)
    second = build(run(), CPU).state_dict()
    other = build(run(seed=5), CPU).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_precision_is_kept_as_asked_and_otherwise_decided_with_a_reason():
    parts = Parts(Path("none"), None, images(), None, CPU, print)
    assert settle_precision(task_of(run(), parts)) == ("fp32", "fp32, as asked")
    decided, reason = settle_precision(task_of(replace(run(), precision="auto"), parts))
    assert decided in ("fp32", "bf16")
    assert reason.startswith(f"{decided}: ")
    assert "here" in reason


def test_bf16_that_is_emulated_is_not_even_tried(monkeypatch):
    automatic = replace(run(), precision="auto")
    parts = Parts(Path("none"), None, images(), None, CPU, print)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(task, "_trial", lambda *_: pytest.fail("it was tried"))
    said = "bf16 is done in software here, about ten times slower than fp32"
    assert settle_precision(task_of(automatic, parts)) == ("fp32", f"fp32: {said}")
    asked = task_of(replace(run(), precision="bf16"), parts)
    assert settle_precision(asked) == ("bf16", f"bf16, as asked; {said}")
    assert not emulates_bf16(torch.device("cuda"))


def test_bf16_is_not_taken_where_one_of_its_convolutions_is_wrong(monkeypatch):
    parts = Parts(Path("none"), None, images(), None, CPU, print)
    fast = lambda trials: ("bf16", "bf16: here bf16 takes 0.50 of fp32's time")  # noqa: E731
    monkeypatch.setattr(task, "faster_precision", fast)
    monkeypatch.setattr(task, "emulates_bf16", lambda device: False)
    automatic = task_of(replace(run(), precision="auto"), parts)
    assert settle_precision(automatic)[0] == "bf16"
    assert "convolutions are right to 0." in settle_precision(automatic)[1]
    wrong = Error(0.3, "3 x 3, 8 to 8 channels at 8 x 8")
    monkeypatch.setattr(task, "worst_convolution", lambda *_: wrong)
    said = "fp32: here bf16's convolution 3 x 3, 8 to 8 channels at 8 x 8 is wrong by 30%"
    assert settle_precision(automatic) == ("fp32", said)


def test_bf16_runs_the_network_only_and_agrees_with_fp32():
    exact, rough = (build(replace(run(), precision=p), CPU).eval() for p in ("fp32", "bf16"))
    for model in (exact, rough):
        torch.manual_seed(0)
        torch.nn.init.normal_(model.network.out.conv.weight, std=0.2)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor(0.7, dtype=torch.float64)
    a, b = exact(x, t).x0, rough(x, t).x0
    assert b.dtype == torch.float32
    assert 0 < (a - b).abs().max() < 0.05 * a.abs().max()


def test_class_rows():
    assert class_rows(2, 3) == ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1])
    assert class_rows(0, 4) == ([0, 1, 2, 3], None)


def test_a_label_an_image():
    with pytest.raises(ValueError, match="2 labels for 3 seeds"):
        Order([0, 1, 2], [0, 1], (1, 8, 8))


def test_guidance_without_classes_is_refused():
    sampling = replace(run().sampling, guidance=2.0)
    with pytest.raises(ValueError, match="model without classes; its scale is 1"):
        wrapped(build(run(), CPU), sampling, Nothing())


def test_images_that_are_no_numbers_are_reported_by_seed():
    model = build(run(), CPU)
    torch.nn.init.constant_(model.network.out.conv.bias, float("nan"))
    with pytest.raises(FloatingPointError, match=r"2 of 2 images.*seeds \[7, 9\]"):
        draw(model, Order([7, 9], [0, 1], (1, 8, 8)), run().sampling, Labels(3), CPU)


def test_the_loss_is_the_objectives_on_encoded_pixels():
    state, _, batch_at, _ = parts(run())
    batch = batch_at(0)
    x0 = batch["images"].float() / 127.5 - 1
    expected = run().objective(state.model.eval(), x0, batch["labels"], batch["u"], batch["eps"])
    torch.testing.assert_close(loss_of(run())(state.model, batch), expected)


def test_each_image_is_of_the_class_that_was_asked_for_whatever_the_batch():
    data = images(n=36)
    x0 = Pixels().encode(data.images)
    perfect = Empirical(Karras(), x0, data.labels)
    wanted = [2, 0, 1, 1, 2, 0, 0]
    sampling = SamplingConfig(DPMSolverPP2M(), KarrasGrid(), steps=12)
    drawn = draw(perfect, Order(range(7), wanted, (1, 8, 8)), sampling, Labels(3), CPU, batch=3)
    distance = (drawn[:, None].int() - data.images[None].int()).abs().flatten(2).sum(2)
    assert distance.amin(1).max() < 64  # an optimal denoiser gives back training images
    assert data.labels[distance.argmin(1)].tolist() == wanted


@dataclass
class Recording:
    """A denoiser that remembers what it was asked."""

    process: Karras = field(default_factory=Karras)
    conds: list[list[int]] = field(default_factory=list)

    def __call__(self, x_t, t, cond=None):
        self.conds.append(cond.tolist())
        x0 = cond.to(x_t)[:, None, None, None].expand_as(x_t)
        return Prediction(x_t, x0, t, self.process)


def test_guidance_asks_for_the_labels_and_the_null_class_and_extrapolates_by_its_scale():
    recording = Recording()
    guided = wrapped(recording, SamplingConfig(guidance=3.0), Labels(10))
    x0 = guided(torch.zeros(2, 1, 4, 4), torch.tensor(1.0), torch.tensor([4, 7])).x0
    assert recording.conds == [[4, 7, 10, 10]]
    assert x0[:, 0, 0, 0].tolist() == [10 + 3 * (4 - 10), 10 + 3 * (7 - 10)]
    clipped = wrapped(recording, SamplingConfig(guidance=3.0, clipped=True), Labels(10))
    x0 = clipped(torch.zeros(2, 1, 4, 4), torch.tensor(1.0), torch.tensor([4, 7])).x0
    assert x0[:, 0, 0, 0].tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("share", "error", "decided"),
    [(0.5, 0.01, "bf16"), (0.9, 0.01, "fp32"), (1.5, 0.01, "fp32"), (0.5, 0.2, "fp32")],
)
def test_bf16_must_be_both_faster_and_right(share, error, decided):
    def trial(low):
        made = Trial(lambda: None, lambda: torch.ones(4) * (1 + error if low else 1), CPU)
        made.step = lambda: made.seconds.append(share if low else 1.0)
        return made

    assert faster_precision({"fp32": trial(False), "bf16": trial(True)})[0] == decided
