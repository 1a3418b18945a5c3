"""Kept features are those that a look gives, of these pixels by this network, or none at all."""

import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save

from sfumato import disk, feature_cache
from sfumato import kept as kept_on_disk
from sfumato.data import subset
from sfumato.feature_cache import FILE, FeatureCache, look_at_all, opened, pixels_digest
from sfumato.features import features_of, named
from sfumato.quality import Real, quality
from sfumato.storage import TEMPORARY, DamagedError, commit_folder, retire
from test_measuring_quality import means, random
from test_measuring_results import RECORD


class Eye:
    """Features and classes of which it is known how many images were looked at for them."""

    def __init__(self, factor=1.0, dtype=torch.float64):
        self.factor, self.dtype, self.seen = factor, dtype, 0

    def __call__(self, batch):
        self.seen += len(batch)
        return (means(batch) * self.factor / 7).to(self.dtype), batch[:, 0, 0, 0].long() % 3


def network(eye, digest="means", resize="none"):
    return named("means", digest, eye, resize, classes=3)


@pytest.fixture
def told():
    return []


@pytest.fixture
def cache(tmp_path, told):
    return FeatureCache(tmp_path / "home" / "features", "cpu", told.append)


def look(eye, images, cache, **more):
    return look_at_all(network(eye, **more), {"real": images}, ["real"], cache)["real"]


def kept(cache):
    return sorted(cache.folder.iterdir())


def same(one, other):
    return one[0].dtype == other[0].dtype and all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_kept_is_what_a_look_gives_to_the_last_bit(cache, dtype):
    images, eye = random(23, 1).images, Eye(dtype=dtype)
    plain = look(Eye(dtype=dtype), images, None)
    assert same(look(eye, images, cache), plain)
    assert same(look(eye, images, cache), plain)
    assert eye.seen == 23
    (folder,) = kept(cache)
    assert load_file(folder / FILE)["features"].dtype == dtype  # no more room than it takes


def test_measures_with_and_without_are_equal_and_a_second_one_looks_at_the_drawn_alone(cache):
    train = random(90, 1)
    real = Real(subset(train, range(60)), random(40, 2), train, random(30, 3))
    drawn, eye = random(40, 4, high=200).images, Eye()

    def judged(cache):
        found = quality(network(eye), drawn, None, real, RECORD, lambda text: None, cache)
        return [(r.name, r.value, r.error, r.floor) for r in found.results]

    plain = judged(None)
    seen = [eye.seen]
    for _ in range(2):
        assert judged(cache) == plain
        seen.append(eye.seen)
    assert [b - a for a, b in zip([0, *seen], seen)] == [60 + 40 + 40 + 90 + 30] * 2 + [40]
    assert len(kept(cache)) == 4  # the drawn ones are not kept


def test_another_pixel_network_resize_or_device_is_looked_at_anew(cache):
    images, eye = random(12, 1).images, Eye()
    other = images.clone()
    other[5, 2, 3, 3] += 1
    swapped = images.flip(0)
    look(eye, images, cache)
    assert not same(look(eye, other, cache), look(Eye(), images, None))
    assert same(look(eye, swapped, cache), look(Eye(), swapped, None))
    assert same(look(Eye(2), images, cache, digest="others"), look(Eye(2), images, None))
    assert same(look(Eye(3), images, cache, resize="another"), look(Eye(3), images, None))
    gpu = FeatureCache(cache.folder, "cuda", cache.warn)
    assert same(look(Eye(4), images, gpu), look(Eye(4), images, None))
    assert len(kept(cache)) == 6


def test_a_callable_that_does_not_say_when_it_changes_is_never_kept(cache):
    images = random(12, 1).images
    look_at_all(features_of(means), {"real": images}, ["real"], cache)
    assert not cache.folder.exists()


def test_features_without_classes_are_kept_as_well(cache):
    images, seen = random(12, 1).images, []

    def see(batch):
        seen.append(len(batch))
        return means(batch), None

    for _ in range(2):
        features, classes = look(see, images, cache)
        assert classes is None
        assert torch.equal(features, means(images))
    assert seen == [12]


def test_pixels_are_known_by_their_values_and_shape_wherever_they_lie():
    images = random(12, 1).images
    turned = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels last
    assert pixels_digest(turned) == pixels_digest(images)
    assert pixels_digest(images[::2]) == pixels_digest(images[::2].clone())
    others = [images.flip(0), images.view(12, 3, 4, 9), images.view(torch.int8), images[:11]]
    assert len({pixels_digest(each) for each in (images, *others)}) == 5


def test_what_a_killed_writer_left_an_hour_ago_is_removed(cache):
    cache.folder.mkdir(parents=True)
    old, new = (cache.folder / f"{TEMPORARY}{name}" for name in ("old", "new"))
    for path in (old, new):
        path.mkdir()
    os.utime(old, (1, 1))
    look(Eye(), random(12, 1).images, cache)
    assert (old.exists(), new.exists()) == (False, True)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [cut, flipped, os.unlink])
def test_a_damaged_file_is_told_of_and_made_anew(cache, told, harm):
    images, eye = random(12, 1).images, Eye()
    look(eye, images, cache)
    (folder,) = kept(cache)
    harm(folder / FILE)
    assert same(look(eye, images, cache), look(Eye(), images, None))
    assert len(told) == 1
    assert "made anew" in told[0]
    assert str(folder) in told[0]
    assert (eye.seen, kept(cache)) == (24, [folder])
    look(eye, images, cache)
    assert (eye.seen, len(told)) == (24, 1)


X = torch.zeros(12, 6)
WRONG = {
    "too few": {"features": X[:11]},
    "too many": {"features": torch.zeros(13, 6)},
    "not finite": {"features": X.log().index_fill(0, torch.arange(11), 0.0)},
    "whole numbers": {"features": X.long()},
    "flat": {"features": X[:, 0]},
    "none": {"other": X},
    "classes of fewer": {"features": X, "classes": torch.zeros(11).long()},
    "broken classes": {"features": X, "classes": torch.zeros(12)},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_whole_file_of_something_else_is_refused(cache, told, name):
    images, eye = random(12, 1).images, Eye()
    look(eye, images, cache)
    (folder,) = kept(cache)
    retire(folder)
    commit_folder(folder, {FILE: save({k: v.contiguous() for k, v in WRONG[name].items()})})
    with pytest.raises(DamagedError, match=FILE):
        opened(folder, 12)
    assert same(look(eye, images, cache), look(Eye(), images, None))
    assert len(told) == 1


@pytest.mark.parametrize("call", ["write", "sync", "rename", "make_folder"])
def test_a_disk_that_refuses_costs_nothing_and_nothing_is_left_half_written(
    cache, told, monkeypatch, call
):
    def refuse(*args):
        raise OSError(28, "No space left on device")

    images, eye = random(12, 1).images, Eye()
    with monkeypatch.context() as patch:
        patch.setattr(disk, call, refuse)
        assert same(look(eye, images, cache), look(Eye(), images, None))
    assert len(told) == 1
    assert "No space left" in told[0]
    assert not cache.folder.exists() or kept(cache) == []
    look(eye, images, cache)
    assert eye.seen == 24
    assert len(kept(cache)) == 1


def test_all_sets_keep_to_the_room_and_the_longest_unread_goes_first(cache, monkeypatch):
    sets = [random(12, seed).images for seed in range(3)]
    for at, images in enumerate(sets[:2]):
        look(Eye(), images, cache)
        (new,) = [p for p in kept(cache) if (p / "manifest.json").stat().st_mtime > 1e6]
        os.utime(new / "manifest.json", (at, at))
    size = sum(file.stat().st_size for file in kept(cache)[0].iterdir())
    look(Eye(), sets[0], cache)  # read now, so the other one is the older
    monkeypatch.setattr(feature_cache, "MOST", int(2.5 * size))
    look(Eye(), sets[2], cache)
    assert len(kept(cache)) == 2
    eye = Eye()
    for images in (sets[0], sets[2]):
        look(eye, images, cache)
    assert eye.seen == 0
    monkeypatch.setattr(feature_cache, "MOST", 10)
    look(Eye(), random(12, 9).images, cache)  # larger than all the room: nothing goes for it
    assert len(kept(cache)) == 2


def test_progress_counts_all_images_that_are_looked_at_and_no_others(cache):
    sets = {"real": random(250, 1).images, "drawn": random(120, 2).images}

    def counted():
        seen = []
        look_at_all(network(Eye()), sets, ["real"], cache, lambda *at: seen.append(at))
        return seen

    assert counted() == [(100, 370), (200, 370), (250, 370), (350, 370), (370, 370)]
    assert counted() == [(100, 120), (120, 120)]


@pytest.mark.parametrize("what", ["torch", "format"])
def test_what_another_program_looked_at_is_looked_at_anew(cache, monkeypatch, what):
    images, eye = random(12, 1).images, Eye()
    look(eye, images, cache)
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "another")
    else:
        monkeypatch.setattr(feature_cache, "FORMAT", feature_cache.FORMAT + 1)
    look(eye, images, cache)
    assert (eye.seen, len(kept(cache))) == (24, 2)


@pytest.mark.parametrize(("more", "there"), [(10, True), (-10, False)])
def test_a_set_takes_at_most_its_share_of_the_disk(cache, monkeypatch, more, there):
    images = random(12, 1).images
    room = len(feature_cache.packed(look(Eye(), images, None))) / kept_on_disk.SHARE
    usage = SimpleNamespace(free=room + more)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    look(Eye(), images, cache)
    assert bool(kept(cache)) is there


@pytest.mark.parametrize("call", ["read_folder", "retire"])
def test_a_folder_that_can_not_be_read_or_removed_is_told_of(cache, told, monkeypatch, call):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    images = random(12, 1).images
    look(Eye(), images, cache)
    if call == "retire":
        cut(kept(cache)[0] / FILE)
    where = kept_on_disk if call == "retire" else feature_cache
    monkeypatch.setattr(where, call, refuse)
    assert same(look(Eye(), images, cache), look(Eye(), images, None))
    assert "Permission denied" in told[-1]


def test_what_others_left_is_told_of_and_stays_and_the_rest_is_kept(cache, told, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    left = cache.folder / f"{TEMPORARY}abc-1"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    monkeypatch.setattr("sfumato.storage.disk.remove_folder", refuse)
    look(Eye(), random(12, 1).images, cache)
    assert left.exists()
    assert [f"{left}, which" in text for text in told] == [True]
    assert len(kept(cache)) == 2
