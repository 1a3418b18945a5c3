"""Decoded images on disk: the same data set as decoded anew, or decoded anew."""

import os
import shutil
import warnings
import zipfile
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import kept as kept_on_disk
from sfumato.data import UnreadableWarning, cache, fingerprint, load
from sfumato.data.containers import Container
from sfumato.data.decoding import Batch
from sfumato.storage import MANIFEST, TEMPORARY, DamagedError


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    monkeypatch.setattr(cache, "LEAST_FILES", 3)


@pytest.fixture
def folder(tmp_path):
    """Six images of two classes."""
    rng = np.random.default_rng(0)
    for index in range(6):
        path = tmp_path / "images" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "home" / "decoded"


def forbidden(*_):
    raise AssertionError("decoded again")


def assert_same(one, other):
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)
    assert (one.names, one.skipped, one.unreadable) == (
        other.names,
        other.skipped,
        other.unreadable,
    )
    assert fingerprint(one) == fingerprint(other)


def sets(kept):
    return sorted(path for path in kept.iterdir() if not path.name.startswith("."))


def test_a_second_start_has_the_same_images_and_decodes_none(folder, kept, monkeypatch):
    plain = load(folder, size=8)
    first = load(folder, size=8, cache=kept)
    monkeypatch.setattr(cache, "decode_all", forbidden)
    second = load(folder, size=8, cache=kept)
    for data in (first, second):
        assert_same(plain, data)
        assert data.notes[:-1] == plain.notes
    assert "Kept for the next start" in first.notes[-1]
    assert "Decoded at an earlier start" in second.notes[-1]


def test_what_is_written_into_the_images_stays_out_of_the_cache(folder, kept):
    before = load(folder, size=8, cache=kept).images.clone()
    load(folder, size=8, cache=kept).images.zero_()
    assert torch.equal(load(folder, size=8, cache=kept).images, before)


def test_a_broken_file_is_named_again(folder, kept, monkeypatch):
    (folder / "a" / "7.png").write_bytes(b"no image")
    with pytest.warns(UnreadableWarning):
        first = load(folder, size=8, cache=kept)
    monkeypatch.setattr(cache, "decode_all", forbidden)
    with pytest.warns(UnreadableWarning, match=r"a/7\.png"):
        second = load(folder, size=8, cache=kept)
    assert len(second) == 6
    assert_same(first, second)


def changed(folder, what):
    """The folder with one thing changed; the settings to load it with."""
    path = folder / "a" / "0.png"
    if what == "time":
        os.utime(path, ns=(1, 1))
    elif what == "pixels":
        Image.new("RGB", (8, 9)).save(path)
    elif what == "name":
        path.rename(folder / "a" / "00.png")
    elif what == "gone":
        path.unlink()
    more = {"size": {"size": 4}, "channels": {"channels": 1}}
    return {"size": 8, **more.get(what, {})}


@pytest.mark.parametrize("what", ["time", "pixels", "name", "gone", "size", "channels"])
def test_what_changed_is_decoded_anew(folder, kept, what):
    load(folder, size=8, cache=kept)
    settings = changed(folder, what)
    assert_same(load(folder, **settings), load(folder, **settings, cache=kept))
    assert len(sets(kept)) == 2


def damage(path, how):
    if how == "pixel":
        content = bytearray((path / cache.IMAGES).read_bytes())
        content[-1] ^= 1
        (path / cache.IMAGES).write_bytes(content)
    elif how == "short":
        (path / cache.IMAGES).write_bytes((path / cache.IMAGES).read_bytes()[:-8])
    elif how == "rest":
        (path / cache.REST).write_bytes(b"{}")
    elif how == "manifest":
        (path / MANIFEST).unlink()
    elif how == "another":  # whole, and of no form that is read here
        files = {cache.REST: b"[]", cache.IMAGES: (path / cache.IMAGES).read_bytes()}
        cache.retire(path)
        cache.disk.make_folder(path.with_name("x"))
        for name, content in files.items():
            (path.with_name("x") / name).write_bytes(content)
        cache.commit_written(path.with_name("x"), path, {})


@pytest.mark.parametrize("how", ["pixel", "short", "rest", "manifest", "another"])
def test_a_damaged_set_is_said_and_made_anew(folder, kept, monkeypatch, how):
    plain = load(folder, size=8, cache=kept)
    (path,) = sets(kept)
    damage(path, how)
    again = load(folder, size=8, cache=kept)
    assert any("was damaged" in note for note in again.notes)
    assert_same(plain, again)
    monkeypatch.setattr(cache, "decode_all", forbidden)
    assert_same(plain, load(folder, size=8, cache=kept))


def test_what_was_half_written_is_not_used_and_later_removed(folder, kept):
    load(folder, size=8, cache=kept)
    (path,) = sets(kept)
    half, busy = (path.with_name(f"{TEMPORARY}{name}") for name in ("half", "busy"))
    path.rename(half)
    (half / MANIFEST).unlink()
    busy.mkdir()  # another process's, of this moment
    for file in (*half.iterdir(), half):
        os.utime(file, (1, 1))
    assert "Kept" in load(folder, size=8, cache=kept).notes[-1]
    assert sorted(kept.iterdir()) == sorted([busy, path])


def test_the_sets_read_longest_ago_make_room(folder, kept, monkeypatch):
    for place, size in enumerate((4, 5, 6)):
        load(folder, size=size, cache=kept)
        newest = max(sets(kept), key=lambda path: (path / MANIFEST).stat().st_mtime_ns)
        os.utime(newest / MANIFEST, (place, place))
    load(folder, size=4, cache=kept)  # read again, so that 5 is the oldest
    before = set(sets(kept))
    monkeypatch.setattr(cache, "MOST", 2600)
    load(folder, size=7, cache=kept)
    assert sum(file.stat().st_size for path in sets(kept) for file in path.iterdir()) <= 3200
    assert len(before & set(sets(kept))) < 3
    for size, there in ((4, True), (5, False)):
        notes = load(folder, size=size, cache=kept).notes
        assert ("earlier start" in notes[-1]) is there


def test_a_set_too_large_or_a_full_disk_is_told(folder, kept, monkeypatch):
    monkeypatch.setattr(cache, "MOST", 100)
    assert "Not kept" in load(folder, size=8, cache=kept).notes[-1]
    monkeypatch.undo()
    monkeypatch.setattr(cache, "LEAST_FILES", 3)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "commit_written", full)
    data = load(folder, size=8, cache=kept)
    assert "No space left" in data.notes[-1]
    assert_same(load(folder, size=8), data)
    assert list(kept.iterdir()) == []


IMAGES = np.zeros((5, 8, 8, 3), np.uint8)


def a_batch(images, kept=None, notes=()):
    return Batch(images, np.arange(len(images) if kept is None else kept), (("x", "why"),), notes)


def container(where, stamps):
    return Container(where, tuple(stamps), read=forbidden, stamp=stamps.__getitem__)


def test_a_key_holds_the_place_the_names_their_stamps_and_both_settings():
    plain = ("/a", {"x.png": (1, 2, 3), "y.png": (4, 5, 6)}, (8, 8), 3)
    others = [
        ("/b", *plain[1:]),
        (plain[0], {"x.png": (1, 2, 3), "z.png": (4, 5, 6)}, *plain[2:]),
        (plain[0], {"x.png": (1, 2, 3), "y.png": (4, 5, 7)}, *plain[2:]),
        (*plain[:2], (8, 9), 3),
        (*plain[:2], None, 3),
        (*plain[:3], None),
    ]
    keys = [
        cache.key_of(container(where, stamps), stamps.__getitem__, [*stamps], *rest)
        for where, stamps, *rest in (plain, plain, *others)
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 1 + len(others)


@pytest.mark.parametrize("first", [0, 1])
def test_room_is_made_by_what_was_read_longest_ago_and_no_more_than_is_asked(tmp_path, first):
    for place, name in enumerate("ab"):
        cache.write(tmp_path / name, a_batch(IMAGES))
        os.utime(tmp_path / name / MANIFEST, (place ^ first, place ^ first))
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    kept_on_disk.make_room(tmp_path, size)
    assert [path.name for path in sets(tmp_path)] == ["a", "b"]
    kept_on_disk.make_room(tmp_path, size - 1)
    assert [path.name for path in sets(tmp_path)] == ["ba"[first]]


def test_what_another_process_has_put_there_meanwhile_stays(tmp_path):
    for value in (0, 1):
        assert "Kept" in cache.keep(tmp_path / "set", a_batch(IMAGES + np.uint8(value)))
    assert not cache.opened(tmp_path / "set").images.any()
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]


def test_few_files_and_no_cache_write_nothing(folder, kept, monkeypatch):
    load(folder, size=8)
    monkeypatch.setattr(cache, "LEAST_FILES", 7)
    load(folder, size=8, cache=kept)
    assert not kept.exists()
    monkeypatch.setattr(cache, "LEAST_FILES", 6)  # as many are not few
    load(folder, size=8, cache=kept)
    assert len(sets(kept)) == 1


@pytest.mark.parametrize("what", ["pillow", "format"])
def test_what_another_program_decoded_is_decoded_anew(folder, kept, monkeypatch, what):
    load(folder, size=8, cache=kept)
    if what == "pillow":
        monkeypatch.setattr(cache, "PIL", SimpleNamespace(__version__="another"))
    else:
        monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert "Kept" in load(folder, size=8, cache=kept).notes[-1]
    assert len(sets(kept)) == 2


def test_a_set_maps_its_file_and_writing_into_it_changes_no_file(tmp_path):
    images = np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3)
    assert "Kept" in cache.keep(tmp_path / "set", a_batch(images, notes=("two",)))
    batch = cache.opened(tmp_path / "set")
    assert isinstance(batch.images, np.memmap)
    batch.images[:] = 0
    batch.images.flush()
    again = cache.opened(tmp_path / "set")
    assert np.array_equal(again.images, images)
    assert again.kept.tolist() == [0, 1, 2, 3, 4]
    assert (again.skipped, again.notes) == ((("x", "why"),), ("two",))


@pytest.mark.parametrize(
    "batch",
    [a_batch(IMAGES[0]), a_batch(IMAGES, kept=4), a_batch(IMAGES.astype(np.int8))],
    ids=["three axes", "fewer than it says", "of another type"],
)
def test_a_whole_set_of_something_else_is_refused(tmp_path, batch):
    cache.write(tmp_path / "set", batch)
    with pytest.raises(DamagedError, match=r"images\.npy holds"):
        cache.opened(tmp_path / "set")


@pytest.mark.parametrize(("more", "there"), [(0, True), (-10, False)])
def test_a_set_takes_at_most_its_share_of_the_disk(tmp_path, monkeypatch, more, there):
    free = round(IMAGES.nbytes / kept_on_disk.SHARE) + more
    usage = namedtuple("usage", "total used free")(10**9, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    told = cache.keep(tmp_path / "home" / "set", a_batch(IMAGES))
    assert ("Kept" in told, (tmp_path / "home" / "set").exists()) == (there, there)


def test_an_archive_is_known_by_its_own_time(folder, kept, tmp_path, monkeypatch):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(Path(folder).rglob("*.png")):
            archive.write(file, file.relative_to(folder).as_posix())
    first = load(path, size=8, cache=kept)
    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr(cache, "decode_all", forbidden)
        assert_same(first, load(path, size=8, cache=kept))
    os.utime(path, (1, 1))
    assert "Kept" in load(path, size=8, cache=kept).notes[-1]
