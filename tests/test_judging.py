"""The distance of Gaussians is the closed form; a judge knows classes and is the same when read."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save
from torch import nn

import tiny
from conftest import normal
from sfumato.data import generator_at
from sfumato.judging import (
    EyeConfig,
    Judge,
    farther,
    load_judge,
    measure,
    save_judge,
    train_judge,
)
from sfumato.measuring import Estimate, Moments, frechet
from sfumato.storage import DamagedError, commit_folder, read_folder
from sfumato.training import take_step

CPU = tiny.CPU


def gaussian(mean, covariance, count=101):
    """Moments of a set of which these are the mean and the covariance."""
    mean, covariance = (torch.tensor(value, dtype=torch.float64) for value in (mean, covariance))
    return Moments(count, mean, covariance * (count - 1))


# --- the distance


def test_of_gaussians_with_aligned_axes_it_is_a_sum_over_axes():
    first = gaussian([1.0, 2.0, 3.0], [[4.0, 0, 0], [0, 9.0, 0], [0, 0, 1.0]])
    second = gaussian([0.0, 2.0, 5.0], [[1.0, 0, 0], [0, 16.0, 0], [0, 0, 1.0]])
    gaps, deviations = 1 + 0 + 4, (2 - 1) ** 2 + (3 - 4) ** 2
    assert frechet(first, second) == pytest.approx(gaps + deviations, abs=1e-12)
    assert frechet(second, first) == pytest.approx(gaps + deviations, abs=1e-12)


def test_of_two_turned_ellipses_it_is_the_formula_for_the_root_of_a_2_by_2_matrix():
    """tr M^(1/2) = (tr M + 2 det(M)^(1/2))^(1/2), whichever way M's axes point."""
    one = torch.tensor([[3.0, 1.2], [1.2, 1.0]], dtype=torch.float64)
    two = torch.tensor([[0.7, -0.5], [-0.5, 2.0]], dtype=torch.float64)
    product = one @ two
    root = (product.trace() + 2 * product.det().sqrt()).sqrt()
    wanted = (one.trace() + two.trace() - 2 * root).item() + 0.25
    found = frechet(gaussian([0.0, 0.0], one.tolist()), gaussian([0.3, 0.4], two.tolist()))
    assert found == pytest.approx(wanted, abs=1e-12)


def test_between_a_set_and_itself_it_is_zero_even_with_fewer_images_than_features():
    for count in (5, 300):
        moments = Moments.of(normal(count, 20))
        assert frechet(moments, moments) < 1e-6 * moments.covariance.trace().item()


def test_a_shift_costs_its_square_and_a_turn_nothing():
    features, shift = normal(50, 6), normal(6, seed=1)
    turn = torch.linalg.qr(normal(6, 6, seed=2))[0]
    first, second = Moments.of(features), Moments.of(features + shift)
    assert frechet(first, second) == pytest.approx(shift.square().sum().item(), abs=1e-6)
    other = normal(40, 6, seed=3) * 2
    turned = frechet(Moments.of(features @ turn), Moments.of(other @ turn))
    assert turned == pytest.approx(frechet(first, Moments.of(other)), rel=1e-9)


def test_merged_moments_are_those_of_all():
    features = 100 + normal(57, 5)
    merged = Moments.of(features[:20]).merged(Moments.of(features[20:21]))
    merged = merged.merged(Moments.of(features[21:]))
    assert merged.count == 57
    torch.testing.assert_close(merged.mean, features.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(merged.covariance, features.T.cov(), rtol=1e-10, atol=1e-12)


def test_what_has_no_distance_says_why():
    with pytest.raises(ValueError, match="2 or more"):
        frechet(Moments.of(normal(1, 3)), Moments.of(normal(9, 3)))
    with pytest.raises(ValueError, match="3 and 4 features"):
        frechet(Moments.of(normal(9, 3)), Moments.of(normal(9, 4)))


# --- the judge


@pytest.fixture(scope="module")
def data():
    return tiny.images(90, classes=3)


@pytest.fixture(scope="module")
def judge(data):
    return train_judge(data, CPU, seed=3, steps=40)


def test_it_knows_the_classes_and_agreement_is_their_share(data, judge):
    reference, labels = judge.moments(data.images), data.labels.tolist()
    told = measure(judge, data.images, labels, reference)
    assert told.agreement > 0.95
    wrong = [(label + 1) % 3 for label in labels]
    assert measure(judge, data.images, wrong, reference).agreement < 0.05
    half = [label if i % 2 else (label + 1) % 3 for i, label in enumerate(labels)]
    n = len(labels)
    mixed = measure(judge, data.images, half, reference)
    found = (judge.look(data.images)[1] == torch.tensor(half)).double().mean().item()
    assert mixed.agreement == found
    near = (found * n + 2) / (n + 4)
    assert mixed.agreement_error == pytest.approx((near * (1 - near) / (n + 4)) ** 0.5)
    assert told.agreement_error > 0  # though all, or nearly all, are as asked


def test_its_features_are_standard_over_the_images_it_was_made_of(data, judge):
    moments = judge.moments(data.images)
    torch.testing.assert_close(moments.mean, torch.zeros(64).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        moments.covariance.diagonal(), torch.ones(64).double(), atol=1e-9, rtol=0
    )


def test_the_images_themselves_are_at_no_distance_and_noise_is_far(data, judge):
    reference = judge.moments(data.images)
    assert measure(judge, data.images, None, reference).frechet < 1e-4
    noise = torch.randint(0, 256, data.images.shape, dtype=torch.uint8)
    assert measure(judge, noise, None, reference).frechet > 5


class FirstTwo(nn.Module):
    """Sees the first two values of an image, as they are; of no classes."""

    def __init__(self):
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return 127.5 * (x.flatten(1)[:, :2] + 1)

    def logits(self, features):
        return features[:, :1]


def seeing_pixels():
    zero, one = torch.zeros(2).double(), torch.ones(2).double()
    return Judge(EyeConfig(1, 0, (8,), 1), FirstTwo(), zero, one, {})


def grains(*shape):
    """Noise, uint8."""
    return torch.randint(0, 256, shape, generator=generator_at(5, "grains")).to(torch.uint8)


def test_one_image_many_times_is_as_far_as_its_features_and_all_that_it_lacks_without_error():
    """|mean - mean|^2 + tr(C): of a point C is 0, and every share of its copies is the same one."""
    copies = torch.tensor([30, 40], dtype=torch.uint8).view(1, 1, 1, 2).repeat(40, 1, 1, 1)
    told = measure(seeing_pixels(), copies, None, gaussian([27.0, 36.0], [[2.0, 1.0], [1.0, 3.0]]))
    assert told.frechet == pytest.approx(3**2 + 4**2 + 2 + 3, rel=1e-4)
    assert told.frechet_error == pytest.approx(0, abs=1e-6)


def test_a_distance_has_the_error_by_which_other_draws_of_as_many_differ(data, judge):
    reference = judge.moments(data.images)
    noise = grains(12, 40, *data.images.shape[1:])
    told = [measure(judge, images, None, reference) for images in noise]
    spread = torch.tensor([each.frechet for each in told]).std().item()
    error = sum(each.frechet_error for each in told) / len(told)
    assert spread / 2.5 < error < 2.5 * spread
    assert measure(judge, noise[0, :3], None, reference).frechet_error is None


def test_images_are_farther_by_the_square_of_their_shift_with_the_doubt_of_pairs():
    """Shifted along the one value in which they are all alike, no draw of them is in doubt."""
    eye, values = seeing_pixels(), grains(60, 1, 1, 2) // 2
    values[..., 1] = 100
    reference = eye.moments(values)
    along, across = (values + torch.tensor(by, dtype=torch.uint8) for by in ((0, 5), (5, 0)))
    gap, doubtful = (farther(eye, shifted, values, reference) for shifted in (along, across))
    assert gap.mean == pytest.approx(25, rel=1e-4)
    assert gap.error == pytest.approx(0, abs=1e-4)
    assert doubtful.mean == pytest.approx(25, rel=1e-4)
    assert doubtful.error > 1
    assert farther(eye, values, values, reference) == Estimate(0.0, 0.0)
    back = farther(eye, values, across, reference)
    assert (back.mean, back.error) == (-doubtful.mean, pytest.approx(doubtful.error))


def test_the_same_seed_makes_the_same_judge_and_another_another(data, judge):
    again = train_judge(data, CPU, seed=3, steps=40)
    other = train_judge(data, CPU, seed=4, steps=40)
    looks = [one.look(data.images)[0] for one in (judge, again, other)]
    assert torch.equal(looks[0], looks[1])
    assert not torch.equal(looks[0], looks[2])


def test_it_sees_by_the_average_of_its_weights(data, monkeypatch):
    states = []

    def noted(state, *rest):
        states.append(state)
        return take_step(state, *rest)

    monkeypatch.setattr("sfumato.judging.take_step", noted)
    eye = train_judge(data, CPU, seed=3, steps=3).eye.state_dict()
    average, raw = (one.state_dict() for one in (states[-1].average, states[-1].model))
    assert all(torch.equal(value, average[name]) for name, value in eye.items())
    assert not torch.equal(eye["out.weight"], raw["out.weight"])


def test_without_classes_it_is_not_trained_and_says_so(data):
    bare = replace(data, labels=None, class_names=())
    judge = train_judge(bare, CPU, steps=40, notice=lambda done, of: pytest.fail("trained"))
    assert judge.facts["steps"] == 0
    assert "untrained" in judge.words
    told = measure(judge, data.images, [0] * len(data), judge.moments(data.images))
    assert told.agreement is None


def test_what_is_read_judges_as_what_was_saved(tmp_path, data, judge):
    save_judge(judge, tmp_path / "judge")
    again = load_judge(tmp_path / "judge", CPU)
    assert torch.equal(again.look(data.images)[0], judge.look(data.images)[0])
    assert again.facts == judge.facts
    with pytest.raises(FileExistsError):
        save_judge(judge, tmp_path / "judge")
    (tmp_path / "judge" / "judge.json").write_text("{}")
    with pytest.raises(DamagedError):
        load_judge(tmp_path / "judge", CPU)


@pytest.mark.parametrize("change", ["", "features", "widths", "weights"])
def test_what_is_no_judge_is_refused_by_name(tmp_path, judge, change):
    save_judge(judge, tmp_path / "judge")
    files = read_folder(tmp_path / "judge")
    record = json.loads(files["judge.json"])
    if change == "weights":
        files["judge.safetensors"] = save({"mean": torch.zeros(1)})
    elif change:
        record["config"][change] = [10**12] if change == "widths" else 10**12
    else:
        record = {}
    commit_folder(tmp_path / "other", {**files, "judge.json": json.dumps(record).encode()})
    with pytest.raises(ValueError, match="other"):
        load_judge(tmp_path / "other", CPU)


@pytest.mark.parametrize("size", [8, 28, 33, 64])
def test_any_size_ends_in_a_small_map(size):
    config = EyeConfig.fitting(tiny.images(4, size=size))
    left = -(-size // config.first_stride)
    for _ in config.widths[1:]:
        left = -(-left // 2)
    assert 4 <= left <= 8
    assert config.first_stride == (1 if size <= 32 else 2)
    assert config.widths == tuple(min(128, 16 * 2**level) for level in range(len(config.widths)))


def test_one_class_is_none_and_two_are_two():
    data = tiny.images(8, classes=2)
    assert EyeConfig.fitting(data).classes == 2
    assert EyeConfig.fitting(replace(data, labels=0 * data.labels, class_names=("a",))).classes == 0
    assert EyeConfig.fitting(replace(data, labels=None)).classes == 0
