"""The record of a data set, its splits and fingerprint; the built-in digits."""

import gzip
import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from packing import SHARED
from sfumato.data import ImageData, fingerprint, load, split, spread


def record(count=20, classes=2):
    images = torch.arange(count * 6, dtype=torch.uint8).reshape(count, 1, 2, 3)
    labels = torch.arange(count) * classes // count
    return ImageData(images, labels, tuple("abcdef"[:classes]), "toy", "here")


def test_split_is_a_partition_in_each_class_s_share():
    data = record(30, 3)
    train, held = split(data, 6)
    assert (len(train), len(held)) == (24, 6)
    assert torch.bincount(held.labels).tolist() == [2, 2, 2]
    firsts = train.images[:, 0, 0, 0].tolist() + held.images[:, 0, 0, 0].tolist()
    assert sorted(firsts) == sorted(data.images[:, 0, 0, 0].tolist())
    torch.manual_seed(3)
    assert fingerprint(split(data, 6)[1]) == fingerprint(held)
    unlabelled, _ = split(replace(data, labels=None), 29)
    assert len(unlabelled) == 1
    for bad in (0, 30, -1):
        with pytest.raises(ValueError, match=f"held_out = {bad}"):
            split(data, bad)


@pytest.mark.parametrize("count", [1, 5, 17, 60])
def test_spread_is_even(count):
    labels = torch.tensor([0] * 40 + [1] * 13 + [2] * 7)[torch.randperm(60)]
    assert spread(10, 3, torch.tensor([0] * 3 + [1] * 7)).tolist() == [1, 5, 8]
    for wanted in range(count + 1):
        assert len(spread(count, wanted).unique()) == wanted
    chosen = spread(60, count, labels)
    assert torch.equal(chosen, chosen.sort().values)
    for kind, size in enumerate((40, 13, 7)):
        assert abs(int((labels[chosen] == kind).sum()) - count * size / 60) < 1


def test_the_fingerprint_is_over_shape_pixels_and_labels():
    data = record()
    plain = hashlib.sha256(b"((20, 1, 2, 3), True)")
    plain.update(bytes(range(120)))
    plain.update(struct.pack("<20q", *[0] * 10, *[1] * 10))
    assert fingerprint(data) == plain.hexdigest()
    assert fingerprint(replace(data, name="other", notes=("x",))) == fingerprint(data)
    others = (
        replace(data, labels=None),
        replace(data, labels=1 - data.labels),
        replace(data, images=data.images.reshape(20, 1, 3, 2)),
        replace(data, images=255 - data.images),
    )
    assert len({fingerprint(d) for d in (data, *others)}) == 5


def test_describe_says_it_all():
    data = replace(record(), skipped=(("x.png", "empty"),), notes=("A note.",))
    assert data.describe() == (
        "toy: 20 images of 2 x 3 (height x width), grey, 2 classes of 10 (a, b), from here. "
        "1 file was left out, the first: x.png (empty). A note."
    )
    assert "no labels" in replace(data, labels=None).describe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(20, 1, 2, 3)}, "torch.float32"),
        ({"images": torch.zeros(20, 2, 3, dtype=torch.uint8)}, "shape"),
        ({"labels": torch.zeros(19, dtype=torch.int64)}, r"give int64 \(20,\)"),
        ({"labels": torch.full((20,), 2)}, "from 2 to 2, but there are 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(record(), **change)


# --- the built-in digits ------------------------------------------------------------------------


def test_the_digits_are_pinned_and_every_prefix_is_balanced():
    data = load("digits")
    assert data.images.shape == (5000, 1, 28, 28)
    assert torch.equal(data.labels, torch.arange(5000) % 10)
    assert data.class_names == tuple("0123456789")
    assert int(data.images.long().sum()) == 131267102
    assert fingerprint(data) == "e590dd4d3045e56ed866dcd0ead81b8f7167cec089bd5b38a80925b0b03e66c3"


def test_the_digits_are_those_of_the_csv():
    path = SHARED / "mnist_5k.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here: the digits were checked against their pinned hash only")
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    data = load("digits")
    assert np.bincount(rows[:, 784]).tolist() == torch.bincount(data.labels).tolist()
    theirs = sorted((int(row[784]), row[:784].tobytes()) for row in rows)
    ours = [i.numpy().tobytes() for i in data.images]
    assert sorted(zip(data.labels.tolist(), ours, strict=True)) == theirs
