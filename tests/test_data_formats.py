"""IDX, CIFAR-10 and numpy files, made here byte by byte, and hostile ones."""

import gzip
import hashlib
import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from packing import KINDS, SHARED, as_folder, as_tar_gz, as_zip
from sfumato.data import arrays, cifar, idx, load

# --- IDX ----------------------------------------------------------------------------------------


def idx_file(values):
    head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(np.uint8).tobytes()


PICTURES = np.arange(3 * 4 * 5).reshape(3, 4, 5)
LABELS = np.array([2, 0, 2])


def idx_set(dot="-", packed=False, start="train"):
    pack = gzip.compress if packed else bytes
    end = ".gz" if packed else ""
    return {
        f"{start}-images{dot}idx3-ubyte{end}": pack(idx_file(PICTURES)),
        f"{start}-labels{dot}idx1-ubyte{end}": pack(idx_file(LABELS)),
    }


@KINDS
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_however_named_and_packed(tmp_path, make, dot, packed):
    data = load(make(tmp_path / "mine", idx_set(dot, packed)))
    assert torch.equal(data.images[:, 0], torch.from_numpy(PICTURES).byte())
    assert data.labels.tolist() == LABELS.tolist()
    assert data.class_names == ("0", "1", "2")
    assert data.name == "mine"


def test_idx_splits_and_missing_labels(tmp_path):
    train, test = idx_set(), idx_set(start="t10k")
    del test["t10k-labels-idx1-ubyte"]
    data = load(as_folder(tmp_path, train | test), split="test")
    assert (len(data), data.labels, data.class_names) == (3, None, ())
    as_folder(tmp_path, {"train-images-idx3-ubyte.gz": b"not looked at beside a plain one"})
    assert len(load(tmp_path)) == 3
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(ValueError, match="test split: t10k-images-idx3-ubyte"):
        load(tmp_path, split="test")
    as_folder(tmp_path / "other", train)
    with pytest.raises(ValueError, match=r"IDX files in \., other: give one of these"):
        load(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (b"", "begins with nothing"),
        (b"\0\0\x0d\3" + bytes(100), "begins with 00000d03"),
        (idx_file(PICTURES)[:-1], "3 x 4 x 5 values and holds 59"),
        (idx_file(PICTURES) + b"x", "holds 61"),
        (bytes((0, 0, 8, 3)) + b"\xff" * 12 + bytes(9), "4294967295 x"),
        (idx_file(PICTURES[:2]), "for 2 images"),
    ],
    ids=["empty", "floats", "short", "long", "boastful", "count"],
)
def test_damaged_idx_files(tmp_path, images, message, packed):
    files = idx_set(packed=packed)
    name = next(iter(files))
    as_folder(tmp_path, files | {name: gzip.compress(images) if packed else images})
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_a_broken_off_gzip(tmp_path):
    files = idx_set(packed=True)
    name = next(iter(files))
    with pytest.raises(ValueError, match=r"train-images.* is damaged"):
        load(as_folder(tmp_path, files | {name: files[name][:-12]}))


def test_garments_have_names(tmp_path, monkeypatch):
    data = load(as_folder(tmp_path / "my-Fashion", idx_set()))
    assert data.class_names[:3] == ("T-shirt/top", "Trouser", "Pullover")
    digest = hashlib.sha256(idx_file(LABELS)).hexdigest()
    for name, classes in (("fashion-mnist", idx.GARMENTS), ("mnist", idx.DIGITS)):
        monkeypatch.setitem(idx._KNOWN, digest, name)
        data = load(as_folder(tmp_path / "raw", idx_set()))
        assert (data.name, data.class_names) == (name, classes)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_true_sets_are_known_by_their_labels(tmp_path, name, split):
    folder = SHARED / name
    if not folder.exists():
        pytest.skip(f"{folder} is not here: the checksums were not tried on the true files")
    (tmp_path / "raw").symlink_to(folder)
    data = load(tmp_path / "raw", split=split, limit=100)
    assert len(data) == 100
    assert data.class_names == (idx.DIGITS if name == "mnist" else idx.GARMENTS)


# --- CIFAR-10 -----------------------------------------------------------------------------------

ROWS = np.random.default_rng(0).integers(0, 256, (4, 3072), np.uint8)
KINDS_OF = [3, 9, 0, 3]


def binary_batch():
    return b"".join(bytes([k]) + row.tobytes() for k, row in zip(KINDS_OF, ROWS, strict=True))


def python_2_batch(name=b"numpy.core.multiarray"):
    """Opcode by opcode what Python 2's cPickle wrote into data_batch_1, protocol 2."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    array = (
        b"c" + name + b"\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
        b"(K\1J"
        + struct.pack("<i", 4)
        + b"M\0\x0c\x86cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\0K\1\x87R"
        b"(K\3" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        b"\x89" + text(ROWS.tobytes()) + b"tb"
    )
    labels = b"](" + b"".join(b"K" + bytes([k]) for k in KINDS_OF) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + b"u."


def python_3_batch(protocol):
    return pickle.dumps({"data": ROWS, "labels": KINDS_OF, "filenames": ["x"] * 4}, protocol)


BATCHES = {
    "binary": ("cifar-10-batches-bin/data_batch_1.bin", binary_batch()),
    "python 2": ("cifar-10-batches-py/data_batch_1", python_2_batch()),
    "numpy 2": ("cifar-10-batches-py/data_batch_1", python_2_batch(b"numpy._core.multiarray")),
    "protocol 2": ("cifar-10-batches-py/data_batch_1", python_3_batch(2)),
    "protocol 4": ("cifar-10-batches-py/data_batch_1", python_3_batch(4)),
}


def test_the_hand_made_pickle_is_one():
    table = pickle.loads(python_2_batch(b"numpy._core.multiarray"), encoding="bytes")
    assert np.array_equal(table[b"data"], ROWS)


@KINDS
@pytest.mark.parametrize("form", BATCHES)
def test_cifar_in_both_forms_however_packed(tmp_path, make, form):
    name, contents = BATCHES[form]
    data = load(make(tmp_path / "x", {name: contents, "readme.html": b""}))
    assert data.images.shape == (4, 3, 32, 32)
    assert data.images.numpy().tobytes() == ROWS.tobytes()
    assert data.images[1, 2, 5, 7] == ROWS[1, 2 * 1024 + 5 * 32 + 7]
    assert data.labels.tolist() == KINDS_OF
    assert data.class_names[3] == "cat"
    assert (data.name, data.notes) == (
        "cifar10",
        ("Only 1 of CIFAR-10's 5 training files are there.",),
    )


def test_all_batches_in_their_order(tmp_path):
    files = {f"data_batch_{k}.bin": bytes([k]) + bytes([k]) * 3072 for k in (5, 2, 1, 4, 3)}
    data = load(as_folder(tmp_path, files | {"test_batch.bin": bytes([8]) + bytes(3072)}))
    assert data.labels.tolist() == [1, 2, 3, 4, 5]
    assert data.notes == ()
    assert load(tmp_path, split="test").labels.tolist() == [8]


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("make", [as_folder, as_tar_gz, as_zip])
def test_a_hostile_pickle_runs_nothing(tmp_path, make, protocol):
    ran = tmp_path / "ran"
    attack = Hostile(os.system, f"touch {ran}")
    contents = pickle.dumps({"labels": attack, "data": ROWS}, protocol)
    source = make(tmp_path / "x", {"cifar-10-batches-py/data_batch_1": contents})
    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.system"):
        load(source)
    assert not ran.exists()
    pickle.loads(pickle.dumps(attack, protocol))  # the attack is a real one
    assert ran.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("numpy", "fromfile"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "scalar"),
        ("sfumato.data.cifar", "os"),
    ],
)
def test_every_other_name_is_refused_by_name(module, name):
    stack_global = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
    stack_global += b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
    for contents in (f"c{module}\n{name}\n.".encode(), stack_global):
        with pytest.raises(ValueError, match=f"asks for {module}.{name}"):
            cifar.restricted_load(contents, "it")


def test_objects_outside_the_file_are_refused():
    with pytest.raises(ValueError, match="asks for an object outside the file"):
        cifar.restricted_load(b"Pfoo\n.", "it")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "not a pickle"),
        (b"hello", "not a pickle"),
        (python_2_batch()[:-20], "not a pickle"),
        (pickle.dumps([1]), "holds a list"),
        (pickle.dumps({"labels": []}), "it has: labels"),
        (pickle.dumps({"data": ROWS[:, :9], "labels": KINDS_OF}, 4), "no data of shape"),
        (pickle.dumps({"data": ROWS.astype("<i4"), "labels": KINDS_OF}, 4), "not uint8"),
        (pickle.dumps({"data": ROWS, "labels": [1]}, 4), "4 images and 1 labels"),
        (pickle.dumps({"data": ROWS, "labels": ["a"] * 4}, 4), "list of class numbers"),
        (pickle.dumps({"data": ROWS, "labels": [1, 2, 3, 10]}, 4), "label 10"),
        (b"cnumpy\ndtype\n}b.", "not a pickle"),  # writing into a class
    ],
)
def test_other_pickles(tmp_path, contents, message):
    with pytest.raises(ValueError, match=message):
        load(as_folder(tmp_path, {"data_batch_1": contents}))


def test_nothing_can_be_written_into_the_recorders():
    before = dict(vars(cifar._DType)), dict(vars(cifar._Record))
    for contents in (b"cnumpy\ndtype\n}b.", b"cnumpy\ndtype\n(N}tb.", b"cnumpy\ndtype\n)R}b."):
        try:
            cifar.restricted_load(contents, "it")
        except ValueError:
            continue
    assert (dict(vars(cifar._DType)), dict(vars(cifar._Record))) == before


def test_damaged_binary_files(tmp_path):
    with pytest.raises(ValueError, match="no multiple of 3073"):
        load(as_folder(tmp_path, {"data_batch_1.bin": binary_batch()[:-1]}))
    as_folder(tmp_path, {"data_batch_1.bin": binary_batch(), "data_batch_1": python_2_batch()})
    with pytest.raises(ValueError, match="one set of CIFAR-10's files"):
        load(tmp_path)


# --- numpy --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(2, 5, 6), (2, 5, 6, 1), (2, 1, 5, 6), (2, 5, 6, 3), (2, 3, 5, 6), (2, 4, 5, 6)]
)
def test_npy_layouts(tmp_path, shape):
    values = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    np.save(tmp_path / "set.npy", values)
    channels = {3: 1}.get(len(shape)) or (shape[1] if shape[1] < 5 else shape[3])
    data = load(tmp_path / "set.npy", channels=channels)
    assert data.images.shape == (2, channels, 5, 6)
    first = len(shape) == 4 and shape[1] < 5
    expected = values if first else values.reshape(2, 5, 6, channels).transpose(0, 3, 1, 2)
    assert np.array_equal(data.images.numpy(), expected.reshape(2, channels, 5, 6))
    assert (data.labels, data.name) == (None, "set")
    with pytest.raises(ValueError, match="no test split"):
        load(tmp_path / "set.npy", split="test")


@pytest.mark.parametrize(
    ("images", "labels"),
    [("x", "y"), ("images", "labels"), ("arr_0", "arr_1"), ("x_train", "y_train")],
)
def test_npz_names(tmp_path, images, labels):
    contents = {images: np.full((3, 4, 4), 7, np.uint8), labels: np.array([[1], [0], [3]])}
    np.savez_compressed(tmp_path / "set.npz", **contents)
    data = load(tmp_path / "set.npz")
    assert (data.labels.tolist(), data.class_names) == ([1, 0, 3], ("0", "1", "2", "3"))
    assert len(load(tmp_path / "set.npz", limit=2)) == 2
    with pytest.raises(
        ValueError, match=f"arrays {images}, {labels}: the images of the test split"
    ):
        load(tmp_path / "set.npz", split="test")


def test_npz_splits_and_bare_images(tmp_path):
    zeros = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "s.npz", x_train=zeros, y_train=[0, 1, 2], x_test=zeros[:2], y_test=[5, 5])
    assert load(tmp_path / "s.npz", split="test").labels.tolist() == [5, 5]
    np.savez(tmp_path / "b.npz", zeros)
    assert load(tmp_path / "b.npz").labels is None


@pytest.mark.parametrize(
    ("labels", "indices", "names"),
    [
        ([0, 2], [0, 2], ("0", "1", "2")),
        ([-1, 7], [0, 1], ("-1", "7")),
        ([100_000, 5], [1, 0], ("5", "100000")),
        (["pear", "apple"], [1, 0], ("apple", "pear")),
    ],
)
def test_labels_of_all_kinds(labels, indices, names):
    found, class_names = arrays.index_labels(labels, 2, "labels")
    assert (found.tolist(), class_names) == (indices, names)
    for bad in (labels[:1], [labels, labels], [0.5, 1.0]):
        with pytest.raises(ValueError, match=r"for 2 images give \(2,\) integers or words"):
            arrays.index_labels(bad, 2, "labels")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.linspace(-1, 1, 32).reshape(2, 4, 4), "float64 from -1 to 1: save it as uint8"),
        (np.array([[[0, 300]]]), "int64 from 0 to 300"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((2, 3, 5, 3), np.uint8), "does not tell the channels"),
        (np.zeros((2, 5, 5, 2), np.uint8), "does not tell the channels"),
        (np.zeros((0, 5, 5), np.uint8), "no images at all"),
    ],
)
def test_arrays_that_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.npy")


def test_pickled_and_damaged_numpy_files_are_refused(tmp_path):
    ran = tmp_path / "ran"
    np.save(tmp_path / "a.npy", np.array([Hostile(os.system, f"touch {ran}")], object))
    np.savez(tmp_path / "a.npz", x=np.array([Hostile(os.system, f"touch {ran}")], object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match="holds Python objects"):
            load(tmp_path / name)
    assert not ran.exists()
    whole = io.BytesIO()
    np.savez(whole, x=np.zeros((9, 9, 9), np.uint8))
    for contents in (b"", b"rubbish", whole.getvalue()[:500]):
        (tmp_path / "b.npz").write_bytes(contents)
        with pytest.raises(ValueError, match=r"b\.npz"):
            load(tmp_path / "b.npz")
