"""STL-10's and CIFAR-100's files, made here byte by byte."""

import io
import pickle

import numpy as np
import pytest

from packing import KINDS, as_folder, as_tar
from sfumato.data import cifar100, containers, find, load, stl10

# --- STL-10 -------------------------------------------------------------------------------------

TABLE = np.random.default_rng(0).integers(0, 256, (12, 3, 96, 96), np.uint8)  # as it is seen
NAMES = ("a plane", *stl10.CLASS_NAMES[1:])


def column_by_column(images):
    """A literal transcription: for each channel, each column from the left, from top to bottom."""
    stream = io.BytesIO()
    for image in images:
        for channel in image:
            for column in range(96):
                stream.write(bytes(channel[:, column].tolist()))
    return stream.getvalue()


def stl(labels=bytes((1, 10, 3, 3)), **more):
    files = {
        "train_X.bin": column_by_column(TABLE[:4]),
        "train_y.bin": labels,
        "test_X.bin": column_by_column(TABLE[4:7]),
        "test_y.bin": bytes((2, 2, 9)),
        "unlabeled_X.bin": column_by_column(TABLE[7:]),
        "class_names.txt": "\n".join(NAMES).encode() + b"\n",
        "fold_indices.txt": b"0 1 2",
    }
    return {f"stl10_binary/{name}": contents for name, contents in (files | more).items()}


@KINDS
def test_each_split_however_packed(tmp_path, make):
    source = make(tmp_path / "x", stl())
    parts = {"train": TABLE[:4], "test": TABLE[4:7], "unlabeled": TABLE[7:]}
    labels = {"train": [0, 9, 2, 2], "test": [1, 1, 8]}
    for split, expected in parts.items():
        data = load(source, split=split)
        assert np.array_equal(data.images.numpy(), expected)
        assert data.name == "stl10"
        if split in labels:
            assert data.labels.tolist() == labels[split]
            assert data.class_names == NAMES
    assert (data.labels, data.class_names) == (None, ())
    assert "unlabelled images beside them were left" in load(source).notes[0]


def test_the_unlabelled_images_alone_are_the_training_split(tmp_path):
    files = {name: c for name, c in stl().items() if "train" not in name and "test" not in name}
    data = load(as_folder(tmp_path, files))
    assert np.array_equal(data.images.numpy(), TABLE[7:])
    assert (data.labels, data.notes) == (None, ())
    with pytest.raises(ValueError, match=r"has no test_X\.bin; of STL-10 it has .* unlabeled"):
        load(tmp_path, split="test")
    (tmp_path / "stl10_binary" / "class_names.txt").unlink()
    as_folder(
        tmp_path, {"train_X.bin": stl()["stl10_binary/train_X.bin"], "train_y.bin": b"\1" * 4}
    )
    assert load(tmp_path).class_names == stl10.CLASS_NAMES


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("train_X.bin", b"", "has 0 bytes"),
        ("train_X.bin", bytes(27647), "27,647 bytes, no multiple of 27648"),
        ("train_y.bin", bytes((1, 1, 1)), "should hold 4 labels from 1 to 10"),
        ("train_y.bin", bytes((1, 1, 1, 0)), "should hold 4 labels"),
        ("train_y.bin", bytes((1, 1, 1, 11)), "should hold 4 labels"),
    ],
)
def test_damaged_stl_files(tmp_path, name, contents, message):
    with pytest.raises(ValueError, match=message):
        load(as_folder(tmp_path, stl(**{name: contents})))


def test_a_file_too_large_for_an_archive_says_to_unpack_it(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_MEMBER", 1000)
    with pytest.raises(ValueError, match=r"unlabeled_X\.bin .* Unpack the archive"):
        load(as_tar(tmp_path / "x", stl()), split="unlabeled")


def test_only_stl_has_an_unlabelled_split(tmp_path):
    with pytest.raises(ValueError, match="digits have no unlabeled split"):
        load("digits", split="unlabeled")
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="no unlabeled split"):
        load(tmp_path / "a.npy", split="unlabeled")
    for name in ("train-images-idx3-ubyte", "data_batch_1", "a.png"):
        with pytest.raises(ValueError, match="is not STL-10"):
            load(as_folder(tmp_path / name, {name: b""}), split="unlabeled")


# --- CIFAR-100 ----------------------------------------------------------------------------------

ROWS = np.random.default_rng(1).integers(0, 256, (4, 3072), np.uint8)
COARSE, FINE = [19, 0, 7, 7], [99, 3, 0, 50]
FINE_NAMES = [f"kind_{k:02}" for k in range(100)]


def binary(split="train"):
    pairs = zip(COARSE, FINE, ROWS, strict=True)
    contents = b"".join(bytes(pair[:2]) + pair[2].tobytes() for pair in pairs)
    names = "\n".join(FINE_NAMES).encode() + b"\n"
    folder = "cifar-100-binary"
    return {f"{folder}/{split}.bin": contents, f"{folder}/fine_label_names.txt": names}


def python(split="train", **changes):
    table = {b"data": ROWS, b"fine_labels": FINE, b"coarse_labels": COARSE} | changes
    meta = {b"fine_label_names": [name.encode() for name in FINE_NAMES]}
    folder = "cifar-100-python"
    return {f"{folder}/{split}": pickle.dumps(table, 2), f"{folder}/meta": pickle.dumps(meta, 2)}


@KINDS
@pytest.mark.parametrize("form", [binary, python])
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar_100_in_both_forms(tmp_path, make, form, split):
    data = load(make(tmp_path / "x", form(split)), split=split)
    assert data.images.numpy().tobytes() == ROWS.tobytes()
    assert data.images.shape == (4, 3, 32, 32)
    assert data.labels.tolist() == FINE
    assert (data.name, data.class_names) == ("cifar100", tuple(FINE_NAMES))


def test_cifar_100_without_the_split_or_the_names(tmp_path):
    as_folder(tmp_path, binary())
    with pytest.raises(ValueError, match=r"has no cifar-100-binary/test\.bin beside"):
        load(tmp_path, split="test")
    as_folder(tmp_path, {"cifar-100-binary/fine_label_names.txt": b"one\ntwo\n"})
    with pytest.raises(ValueError, match="has 2 names of fine classes"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (pickle.dumps({b"fine_labels": FINE}), "no data of shape"),
        (pickle.dumps({b"data": ROWS, b"labels": FINE}, 2), "no fine_labels"),
        (pickle.dumps({b"data": ROWS, b"fine_labels": FINE[:3]}, 2), "should hold 4 fine labels"),
        (pickle.dumps({b"data": ROWS, b"fine_labels": [0, 1, 2, 100]}, 2), "from 0 to 99"),
        (pickle.dumps([1]), "holds a list"),
        (b"cposix\nsystem\n.", "asks for posix.system"),
    ],
)
def test_damaged_and_hostile_cifar_100(tmp_path, contents, message):
    files = python() | {"cifar-100-python/train": contents}
    with pytest.raises(ValueError, match=message):
        load(as_folder(tmp_path / "a", files))
    files = binary() | {"cifar-100-binary/train.bin": bytes(3075)}
    with pytest.raises(ValueError, match="no multiple of 3074"):
        load(as_folder(tmp_path / "b", files))


def test_a_folder_named_train_is_no_cifar_100(tmp_path):
    container = containers.Container("here", ("meta", "train/1.png"), lambda name: b"")
    assert not cifar100.present(container)


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("stl10", "data/stl10_binary"),
        ("STL-10", "stl10"),
        ("celeba", "data/celeba/img_align_celeba"),
        ("celeba", "img_align_celeba"),
        ("cifar-100", "data/cifar-100-python"),
    ],
)
def test_where_the_sets_are_looked_for(tmp_path, monkeypatch, name, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFUMATO_HOME", str(tmp_path / "home"))
    with pytest.raises(ValueError, match="is not on this machine"):
        find(name)
    (tmp_path / place).mkdir(parents=True)
    assert find(name) == (tmp_path / place).resolve()
