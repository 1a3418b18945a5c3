"""A kept judge is the one that training makes, of these images, or it is made anew."""

import os
from dataclasses import replace

import pytest
import torch

from sfumato import disk, judge_cache, judging
from sfumato.features import features_of
from sfumato.judge_cache import JudgeCache
from test_feature_cache import cut, flipped
from tiny import CPU, images


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("sfumato.judging.LEAST_STEPS", 3)


@pytest.fixture
def told():
    return []


@pytest.fixture
def cache(tmp_path, told):
    return JudgeCache(tmp_path / "home" / "judges", told.append)


@pytest.fixture
def steps(monkeypatch):
    """Training steps that were taken."""
    taken, original = [], judging.take_step

    def counted(*given):
        taken.append(1)
        return original(*given)

    monkeypatch.setattr(judging, "take_step", counted)
    return taken


def test_a_judge_is_trained_once_and_sees_the_same_to_the_last_bit(cache, steps):
    data = images()
    plain = features_of("judge", data=data)
    first = features_of("judge", data=data, judges=cache)
    assert len(steps) == 6
    again = features_of("judge", data=data, judges=cache)
    assert len(steps) == 6
    assert plain.digest == first.digest == again.digest
    assert torch.equal(plain(data.images), again(data.images))
    assert torch.equal(plain.look(data.images)[1], again.look(data.images)[1])
    assert again.classes == 3


def test_other_images_labels_or_ways_of_making_have_a_judge_of_their_own(cache, monkeypatch):
    data = images()
    other = data.images.clone()
    other[0, 0, 0, 0] ^= 1
    paths = {cache.path(data, CPU), cache.path(data, torch.device("cuda"))}
    paths.add(cache.path(replace(data, images=other), CPU))
    paths.add(
        cache.path(type(data)(data.images, data.labels.flip(0), data.class_names, "", ""), CPU)
    )
    monkeypatch.setattr("sfumato.judging.LEAST_STEPS", 4)
    paths.add(cache.path(data, CPU))
    assert len(paths) == 5


@pytest.mark.parametrize("harm", [cut, flipped, os.unlink])
def test_a_damaged_judge_is_told_of_and_made_anew(cache, told, steps, harm):
    data = images()
    wanted = cache.judge(data, CPU).look(data.images)
    harm(cache.path(data, CPU) / "judge.safetensors")
    found = cache.judge(data, CPU).look(data.images)
    assert torch.equal(found[0], wanted[0])
    assert len(steps) == 6
    assert "damaged" in told[0]
    assert cache.judge(data, CPU).facts["images"] == 37
    assert len(steps) == 6


def test_a_disk_that_refuses_costs_nothing_but_the_next_training(cache, told, steps, monkeypatch):
    def refuse(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "make_folder", refuse)
    assert cache.judge(images(), CPU).config.classes == 3
    assert "not kept for the next time" in told[0]


def test_the_oldest_judge_makes_room(cache, monkeypatch):
    data = images()
    cache.judge(data, CPU)
    first = cache.path(data, CPU)
    size = sum(file.stat().st_size for file in first.iterdir())
    monkeypatch.setattr(judge_cache, "MOST", int(2.5 * size))
    for n in (38, 39):
        cache.judge(images(n), CPU)
    assert not first.exists()
    assert len(list(cache.folder.iterdir())) == 2
