"""Checkpoints and the storage under them: whole or not at all, and never trusted unchecked."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch

from sfumato import checkpoint, disk, storage
from sfumato.training import train
from tiny import Hooks, parts, run, same


@pytest.fixture
def trained():
    state, loss, batch_at, settings = parts(run(steps=3))
    train(state, loss, batch_at, settings, Hooks())
    return state


def test_round_trip(tmp_path, trained):
    folder = checkpoint.write(tmp_path, trained, keep=2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "average.safetensors",
        "manifest.json",
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    ]
    again = parts(run(steps=3))[0]
    assert not same(again, trained)
    checkpoint.restore(again, storage.read_folder(folder))
    assert same(again, trained)
    assert (again.step, again.seconds, again.previews) == (
        trained.step,
        trained.seconds,
        trained.previews,
    )


def test_only_the_newest_are_kept(tmp_path, trained):
    for step in (1, 2, 3, 10):
        trained.step = step
        checkpoint.write(tmp_path, trained, keep=2)
    names = [path.name for path in checkpoint.folders(tmp_path)]
    assert names == ["step-000000003", "step-000000010"]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == names  # nothing else is left over


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(
    tmp_path, trained, name, damage
):
    for step in (1, 2):
        trained.step = step
        last = checkpoint.write(tmp_path, trained, keep=2)
    content = bytearray((last / name).read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    (last / name).write_bytes(content if damage == "flip" else content[:-1])
    if damage == "remove":
        (last / name).unlink()
    said = []
    found = checkpoint.newest(tmp_path, said.append)
    assert found is not None
    assert found[0].name == "step-000000001"
    assert len(said) == 1
    assert "step-000000002.corrupt" in said[0]
    assert (tmp_path / "checkpoints" / "step-000000002.corrupt").is_dir()  # kept, not deleted


def test_a_reader_leaves_a_damaged_checkpoint_where_it_is(tmp_path, trained):
    folder = checkpoint.write(tmp_path, trained, keep=2)
    (folder / "state.json").write_bytes(b"{}")
    said = []
    assert checkpoint.newest(tmp_path, said.append, mend=False) is None
    assert len(said) == 1
    assert folder.is_dir()


def test_a_system_that_cannot_read_now_damages_nothing(tmp_path, trained, monkeypatch):
    folder = checkpoint.write(tmp_path, trained, keep=2)

    def refuse(self):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as broken:
        broken.setattr("pathlib.Path.read_bytes", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            checkpoint.newest(tmp_path)
    assert checkpoint.newest(tmp_path)[0] == folder


def test_the_same_step_may_be_damaged_twice(tmp_path, trained):
    for _ in range(2):
        folder = checkpoint.write(tmp_path, trained, keep=2)
        (folder / "state.json").unlink()
        assert checkpoint.newest(tmp_path) is None
    assert len(list((tmp_path / "checkpoints").glob("*.corrupt"))) == 2


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest(tmp_path) is None


def test_a_newer_format_is_refused(tmp_path, trained):
    files = checkpoint.files_of(trained)
    scalars = json.loads(files["state.json"])
    files["state.json"] = json.dumps({**scalars, "format": 99}).encode()
    with pytest.raises(ValueError, match=r"format 99.*update sfumato"):
        checkpoint.restore(trained, files)


def test_another_network_is_refused_by_name(trained):
    config = run(steps=3)
    wider = parts(replace(config, network=replace(config.network, channels=16)))[0]
    with pytest.raises(ValueError, match="another network"):
        checkpoint.restore(wider, checkpoint.files_of(trained))


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    calls = []

    def full(path, content):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(disk, "write", full)
    with pytest.raises(OSError, match=r"could not write .*a: No space left") as caught:
        storage.commit_folder(tmp_path / "a", {"x": b"1", "y": b"2", "z": b"3"})
    assert caught.value.errno == 28
    assert list(tmp_path.iterdir()) == []


def test_a_committed_folder_is_never_overwritten(tmp_path):
    storage.commit_folder(tmp_path / "a", {"x": b"1"})
    with pytest.raises(FileExistsError, match="never overwritten"):
        storage.commit_folder(tmp_path / "a", {"x": b"2"})
    assert storage.read_folder(tmp_path / "a") == {"x": b"1"}


def test_no_room_is_known_before_a_byte_is_written(tmp_path, monkeypatch):
    few = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: few)
    with pytest.raises(OSError, match=r"3,\d\d\d bytes are to be written and 100 are free"):
        storage.commit_folder(tmp_path / "a", {"x": b"1" * 3000})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("manifest", ['["x"]', '{"x": 1}', '{"../x": "0"}', '{"..": "0"}', "3"])
def test_a_manifest_of_another_form_is_damage(tmp_path, manifest):
    storage.commit_folder(tmp_path / "a", {"x": b"1"})
    (tmp_path / "a" / storage.MANIFEST).write_text(manifest)
    with pytest.raises(storage.DamagedError, match=r"manifest.json (names|is not)"):
        storage.read_folder(tmp_path / "a")


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    (tmp_path / ".unfinished-step-1-99").mkdir()
    (tmp_path / ".unfinished-step-1-99" / "x").write_bytes(b"1")
    (tmp_path / ".unfinished-run.json").write_bytes(b"1")
    (tmp_path / "mine.txt").write_bytes(b"1")
    storage.clear_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_no_pickle_is_written(tmp_path, trained):
    for content in checkpoint.files_of(trained).values():
        assert not content.startswith((b"\x80", b"PK"))  # pickle, or torch.save's zip
    assert torch.is_tensor(next(iter(trained.model.parameters())))
