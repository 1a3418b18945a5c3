"""Latents on disk: as the codec encodes them, whole or not at all, and where there is room."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sfumato.latent_cache import encode_all
from sfumato.latents import LatentCodec
from test_latents import CONFIG, MEANS, STDS, Halves, halves, pictures


def test_the_cache_holds_what_the_codec_encodes(tmp_path):
    codec, images = halves(), pictures()
    told = []
    latents = encode_all(codec, images, tmp_path, "k", lambda *done: told.append(done))
    assert latents.dtype == torch.float16
    assert torch.equal(latents, codec.encode(images).half())
    assert told == [(5, 5)]
    both = encode_all(codec, images, tmp_path, "k", flips=True)
    assert torch.equal(both, torch.stack([latents, codec.encode(images.flip(-1)).half()]))


@pytest.mark.parametrize("flips", [False, True])
def test_parts_are_cached_in_their_places(tmp_path, monkeypatch, flips):
    images, told = pictures(), []
    sides = [images, images.flip(-1)] if flips else [images]
    whole = torch.stack([halves().encode(side).half() for side in sides])
    monkeypatch.setattr("sfumato.latents.AT_ONCE", 2 * 8 * 6)
    latents = encode_all(
        halves(), images, tmp_path, "k", lambda *done: told.append(done), flips=flips
    )
    assert torch.equal(latents, whole if flips else whole[0])
    counts = [2, 4, 5, 7, 9, 10] if flips else [2, 4, 5]
    assert told == [(count, counts[-1]) for count in counts]


def test_a_second_call_reads_and_does_not_encode(tmp_path):
    codec = halves()
    first = encode_all(codec, pictures(), tmp_path, "k")
    calls = codec.model.calls
    assert torch.equal(encode_all(codec, pictures(), tmp_path, "k"), first)
    assert codec.model.calls == calls == 1
    encode_all(codec, pictures(), tmp_path, "other data")
    encode_all(replace(codec, means=(0.0, 0.0)), pictures(), tmp_path, "k")
    encode_all(codec, pictures(4), tmp_path, "k")
    assert codec.model.calls == calls + 3
    assert len(list(tmp_path.iterdir())) == 4


def test_writing_into_latents_does_not_reach_the_cache(tmp_path):
    codec = halves()
    encode_all(codec, pictures(), tmp_path, "k").zero_()
    assert encode_all(codec, pictures(), tmp_path, "k").any()
    assert codec.model.calls == 1


@pytest.mark.parametrize("name", ["latents.npy", "manifest.json"])
def test_a_damaged_cache_is_told_of_set_aside_and_made_anew(tmp_path, name):
    codec, said = halves(), []
    first = encode_all(codec, pictures(), tmp_path, "k").clone()
    for _ in range(2):
        folder = next(path for path in tmp_path.iterdir() if path.suffix == "")
        (folder / name).write_bytes((folder / name).read_bytes()[:-3])
        again = encode_all(codec, pictures(), tmp_path, "k", say=said.append)
        assert torch.equal(again, first)
    assert codec.model.calls == 3
    assert len(said) == 2
    assert "Damaged cache" in said[0]
    assert sum(path.suffix == ".corrupt" for path in tmp_path.iterdir()) == 2


def test_an_interrupted_encoding_leaves_no_cache(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_all(halves(), pictures(), tmp_path, "k", interrupt)
    assert list(tmp_path.iterdir()) == []


def with_free(monkeypatch, size):
    usage = SimpleNamespace(free=size)
    monkeypatch.setattr("sfumato.latent_cache.shutil.disk_usage", lambda path: usage)


def test_latents_that_the_disk_has_no_room_for_are_refused_before_any_is_encoded(
    tmp_path, monkeypatch
):
    """5 images of (2, 4, 3) float16 are 240 bytes, and with their mirror images 480."""
    codec = halves()
    with_free(monkeypatch, 480)
    monkeypatch.setattr("sfumato.latent_cache.SHARE", 0.5)
    assert encode_all(codec, pictures(), tmp_path, "k").shape == (5, 2, 4, 3)
    with pytest.raises(ValueError, match=r"With data\.flip=false they take half") as caught:
        encode_all(codec, pictures(), tmp_path, "k", flips=True)
    for word in ("5 images", "0.0 MB", "0.0 MB free", str(tmp_path), "SFUMATO_HOME", "--limit"):
        assert word in str(caught.value)
    assert codec.model.calls == 1
    assert "0.0 MB are in" not in str(caught.value)


def test_what_lies_half_written_is_named_where_there_is_no_room(tmp_path, monkeypatch):
    half = tmp_path / ".unfinished-abc-1"
    half.mkdir()
    (half / "latents.npy").write_bytes(bytes(700_000))
    with_free(monkeypatch, 0)
    with pytest.raises(ValueError, match=r"0\.7 MB are in .*unfinished-abc-1: remove that"):
        encode_all(halves(), pictures(), tmp_path, "k")
    (tmp_path / ".unfinished-stray").write_bytes(bytes(500_000))
    several = rf"1\.2 MB are in 2 unfinished ones in {tmp_path} \(\.unfinished-\*\): remove those"
    with pytest.raises(ValueError, match=several):
        encode_all(halves(), pictures(), tmp_path, "k")


def test_what_vanishes_while_it_is_counted_hides_no_error(tmp_path, monkeypatch):
    (tmp_path / ".unfinished-abc-1").mkdir()
    gone = [tmp_path / ".unfinished-abc-1", tmp_path / ".unfinished-gone-2"]
    with_free(monkeypatch, 0)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: gone)
    monkeypatch.setattr("sfumato.latent_cache.clear_abandoned", lambda *rest: None)
    with pytest.raises(ValueError, match="or train on fewer images"):
        encode_all(halves(), pictures(), tmp_path, "k")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_others_left_and_let_nobody_remove_is_told_and_left(tmp_path, monkeypatch, kind):
    """Of a folder that several people share: each may remove only what is their own."""

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    left, said = tmp_path / ".unfinished-abc-1", []
    left.mkdir() if kind == "folder" else left.touch()
    os.utime(left, (1, 1))
    monkeypatch.setattr("sfumato.storage.disk.remove", refuse)
    monkeypatch.setattr("sfumato.storage.disk.remove_folder", refuse)
    assert encode_all(halves(), pictures(), tmp_path, "k", say=said.append).shape == (5, 2, 4, 3)
    assert left.exists()
    assert len(said) == 1
    assert f"{left}, which an unfinished" in said[0]
    assert encode_all(halves(), pictures(), tmp_path, "other").shape == (5, 2, 4, 3)


def test_an_old_file_that_is_called_unfinished_is_removed(tmp_path):
    (tmp_path / ".unfinished-stray").touch()
    os.utime(tmp_path / ".unfinished-stray", (1, 1))
    encode_all(halves(), pictures(), tmp_path, "k")
    assert not (tmp_path / ".unfinished-stray").exists()


def test_a_killed_encoding_is_removed_and_one_that_goes_on_is_not(tmp_path):
    """Hours pass over one file, whose folder says when it was begun."""
    killed, busy = (tmp_path / f".unfinished-{name}" for name in ("killed-1", "busy-2"))
    for folder in (killed, busy):
        folder.mkdir()
        (folder / "latents.npy").write_bytes(b"half")
        os.utime(folder, (1, 1))
    os.utime(killed / "latents.npy", (1, 1))
    encode_all(halves(), pictures(), tmp_path, "k")
    assert (killed.exists(), busy.exists()) == (False, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_up_meanwhile_is_told_with_the_file(tmp_path, monkeypatch):
    """/dev/full refuses every write, as a full disk does; a map of a file would be a signal."""

    def on_the_full_disk(path, mode):
        return open("/dev/full", mode)

    monkeypatch.setattr("sfumato.latent_cache.open", on_the_full_disk, raising=False)
    with pytest.raises(OSError, match=r"could not write .*latents\.npy") as caught:
        encode_all(halves(), pictures(), tmp_path, "k")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


class Wrong(LatentCodec):
    """Says one shape and encodes to another."""

    def encode(self, images):
        latents = super().encode(images)
        return latents[:, :1] if self.means == MEANS else latents.mT


@pytest.mark.parametrize("means", [MEANS, (0.0, 0.0)])
def test_latents_of_another_shape_than_the_codec_says_are_refused_at_the_first(tmp_path, means):
    """Too few numbers or another order of them: they would be read as what they are not."""
    told = []
    codec = Wrong(Halves(), CONFIG, means, STDS)
    with pytest.raises(ValueError, match=r"\(5, .*\) .* \(2, 4, 3\)"):
        encode_all(codec, pictures(), tmp_path, "k", lambda *done: told.append(done))
    assert told == []
    assert list(tmp_path.iterdir()) == []


def test_what_fails_outside_of_the_file_is_not_told_as_the_files(tmp_path):
    def lost(done, total):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError) as caught:
        encode_all(halves(), pictures(), tmp_path, "k", lost)
    assert "latents.npy" not in str(caught.value)
