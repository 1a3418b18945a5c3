"""Data sets from every kind of source, made here file by file."""

import io
import os
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from packing import KINDS, as_folder, as_tar, as_tar_gz, as_zip, fruit, load_broken, png, values
from sfumato.data import ImageData, containers, evenly, find, load, sizes, spread

# --- image files --------------------------------------------------------------------------------


@KINDS
def test_a_class_is_a_folder_however_packed(tmp_path, make):
    calls = []
    source = make(tmp_path / "fruit", fruit(**{"read me.txt": b"hello"}))
    data = load(source, progress=lambda *call: calls.append(call))
    assert values(data) == [10, 11, 12, 20]
    assert data.labels.tolist() == [0, 0, 0, 1]
    assert data.class_names == ("apple", "pear")
    assert data.images.shape == (4, 1, 4, 4)
    assert data.images.dtype == torch.uint8
    assert (data.name, data.source) == ("fruit", str(source))
    assert data.skipped == data.notes == ()
    assert calls == [(4, 4), (4, 4)]  # headers, then pixels


@KINDS
def test_shared_folders_are_no_classes(tmp_path, make):
    files = {f"set/all/{name}": data for name, data in fruit().items()}
    assert load(make(tmp_path / "x", files)).class_names == ("apple", "pear")
    flat = {"set/all/b.png": png(2), "set/all/a.png": png(1)}
    data = load(make(tmp_path / "y", flat))
    assert (values(data), data.labels, data.class_names) == ([1, 2], None, ())


def test_images_beside_the_class_folders_take_the_labels_away(tmp_path):
    data = load(as_folder(tmp_path, fruit(**{"cover.png": png(99)})))
    assert data.labels is None
    assert len(data) == 5
    assert "cover.png" in data.notes[0]


def test_pictures_of_other_formats_are_told(tmp_path):
    other = {"apple/x.heic": b"1", "pear/y.HEIC": b"2", "pear/z.cr2": b"3", "notes.txt": b"4"}
    data = load(as_folder(tmp_path, fruit(**other)))
    assert len(data) == 4
    assert data.notes == ("Not read: 1 .cr2, 2 .heic. Save them as PNG or JPEG to have them too.",)


def test_folders_named_train_and_test_choose_the_split(tmp_path):
    files = {f"train/{name}": data for name, data in fruit().items()}
    source = as_folder(tmp_path, files | {"Test/pear/9.png": png(29), "Test/apple/9.png": png(19)})
    train, test = load(source), load(source, split="test")
    assert (values(train), values(test)) == ([10, 11, 12, 20], [19, 29])
    assert train.class_names == test.class_names == ("apple", "pear")
    assert train.notes == ("Of its folders test, train only train was read.",)
    with pytest.raises(ValueError, match="no test split"):
        load(source / "train", split="test")


def test_class_folders_that_are_no_utf_8_get_names_that_can_be_written(tmp_path):
    """The folder of them all is refused: run.json keeps its path, and must find it again."""
    odd = os.fsdecode(b"caf\xe9")
    files = {f"pets/{odd}/1.png": png(1), "pets/dog/1.png": png(2)}
    data = load(as_folder(tmp_path / "x", files) / "pets")
    assert data.class_names == ("caf%dce9", "dog")
    assert values(data) == [1, 2]
    with pytest.raises(ValueError, match=r"caf\\udce9' is not UTF-8"):
        load(tmp_path / "x" / "pets" / odd)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test1"), ("train2017", "val2017"), ("Train_Images", "test-set"), ("train", "eval")],
)
def test_folders_named_almost_train_and_test_do_too(tmp_path, train, test):
    """Those of Kaggle's cats and dogs, of COCO, and the like."""
    files = {f"{train}/1.png": png(1), f"{train}/2.png": png(2), f"{test}/3.png": png(3)}
    data = load(as_folder(tmp_path, files))
    assert (values(data), data.labels, data.class_names) == ([1, 2], None, ())
    names = ", ".join(sorted((train.lower(), test.lower())))
    assert data.notes == (f"Of its folders {names} only {train.lower()} was read.",)
    assert values(load(tmp_path, split="test")) == [3]


@KINDS
def test_a_part_in_several_folders_is_read_whole(tmp_path, make):
    """Classes are what lies in them; train_1 is none, and one class may lie in two of them."""
    names = ("train_1/cat/1", "train_2/all/dog/2", "Train_3/cat/3", "val1/cat/4", "val2/dog/5")
    source = make(tmp_path / "pets", {f"x/{name}.png": png(int(name[-1])) for name in names})
    train, test = load(source), load(source, split="test")
    assert sorted(values(train)) == [1, 2, 3]
    assert (values(test), test.class_names, test.labels.tolist()) == (
        [4, 5],
        ("cat", "dog"),
        [0, 1],
    )
    assert train.class_names == ("all", "cat")
    there = "Of its folders train_1, train_2, train_3, val1, val2 only"
    assert train.notes == (f"{there} train_1, train_2, train_3 were read.",)
    assert test.notes == (f"{there} val1, val2 were read.",)


def test_parts_in_several_folders_without_classes_have_no_labels(tmp_path):
    files = {f"{name}/1.png": png(k) for k, name in enumerate(("train1", "train2", "test"))}
    data = load(as_folder(tmp_path, files))
    assert (values(data), data.labels, data.class_names) == ([0, 1], None, ())


@pytest.mark.parametrize("labels", [True, False])
def test_parts_beside_other_folders_are_all_read_and_that_is_told(tmp_path, labels):
    """Without labels, too: what is trained on holds the images to test on."""
    files = {f"{name}/1.png": png(k) for k, name in enumerate(("extra", "test1", "train"))}
    data = load(as_folder(tmp_path, files), labels=labels)
    assert data.class_names == (("extra", "test1", "train") if labels else ())
    assert "folders test1, train look like parts" in data.notes[0]
    assert "3 in all: give the folder train alone" in data.notes[0]


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (("train", "plane"), False),
        (("train", "valley"), False),
        (("train1", "train2"), False),
        (("car", "test tube", "train"), False),
        (("train station", "test pilot", "airport"), False),
        (("vale", "train"), False),
        (("trains", "tests", "cars"), False),
        (("train_a", "test-1b"), True),
        (("train_images", "test", "plane"), True),
        (("trainA", "testA", "trainB", "testB"), True),
    ],
)
def test_classes_that_are_called_as_a_part_is_are_classes(tmp_path, folders, told):
    files = {f"{name}/1.png": png(k) for k, name in enumerate(folders)}
    data = load(as_folder(tmp_path, files))
    assert data.class_names == tuple(sorted(folders))
    assert bool(data.notes) is told
    with pytest.raises(ValueError, match="no test split"):
        load(tmp_path, split="test")


@KINDS
def test_hidden_files_are_not_seen(tmp_path, make):
    hidden = {".DS_Store": b"x", "__MACOSX/1.png": png(), "pear/.thumbs/1.png": png(1)}
    data = load(make(tmp_path / "x", fruit(**hidden)))
    assert (values(data), data.skipped) == ([10, 11, 12, 20], ())


@KINDS
def test_broken_files_are_named_and_left_out(tmp_path, make):
    bad = {
        "apple/0.png": png(1, (64, 64))[:60],
        "pear/0.jpg": b"only words",
        "pear/2.png": b"",
        "plum/1.png": b"GIF89a",
    }
    data = load_broken(make(tmp_path / "x", fruit(**bad)))
    assert values(data) == [10, 11, 12, 20]
    assert data.labels.tolist() == [0, 0, 0, 1]
    assert data.class_names == ("apple", "pear", "plum")  # numbers do not hang on what is broken
    assert [path for path, _ in data.skipped] == sorted(bad)
    reasons = dict(data.skipped)
    assert reasons["pear/0.jpg"] == "not an image of a kind that is read here"
    assert reasons["pear/2.png"] == "the file is empty"
    assert "4 files were left out, the first: apple/0.png (" in data.describe()


def test_where_nothing_is_left_the_error_says_what_was_found(tmp_path):
    with pytest.raises(ValueError, match=r"not one of 1 images .* a.png \(the file is empty\)"):
        load(as_folder(tmp_path / "a", {"a.png": b""}))
    with pytest.raises(ValueError, match=r"no image; found: 2 \.txt, 1 \.csv"):
        load(as_folder(tmp_path / "b", {"1.txt": b"", "2.txt": b"", "3.csv": b""}))
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="found: nothing"):
        load(tmp_path / "c")


def test_links_and_loops(tmp_path):
    root = as_folder(tmp_path / "set", fruit())
    outside = as_folder(tmp_path / "plums", {"7.png": png(30)})
    os.symlink(root, root / "apple" / "loop")
    os.symlink(root / "pear", root / "apple" / "again")
    os.symlink(outside, root / "plum")
    os.symlink(tmp_path / "nothing", root / "pear" / "gone.png")
    data = load(root)
    assert values(data) == [10, 11, 12, 20, 30]
    assert data.class_names == ("apple", "pear", "plum")
    assert data.skipped == (("pear/gone.png", "a link to nothing, or no regular file"),)


@pytest.mark.parametrize("make", [as_zip, as_tar])
def test_member_names_are_labels_and_never_paths(tmp_path, make):
    names = ("../../evil/1.png", "/etc/2.png", "C:\\ha\\3.png", "a\x1b[2J/4.png", "./ok/5.png")
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in" / "x", {name: png(k) for k, name in enumerate(names)})
    before = sorted(tmp_path.rglob("*"))
    data = load(source)
    assert sorted(tmp_path.rglob("*")) == before
    assert sorted(data.class_names) == ["a%1b[2J", "etc", "evil", "ha", "ok"]


def test_of_two_members_of_one_name_the_later_counts(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, value in (("a.png", 1), ("b.png", 2), ("./a.png", 3)):
            member = tarfile.TarInfo(name)
            member.size = len(png(value))
            archive.addfile(member, io.BytesIO(png(value)))
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    data = load(path)
    assert values(data) == [3, 2]
    assert data.skipped == (
        ("c.png", "a link inside an archive"),
        ("a.png", "stands here twice; the later one is used"),
    )


def test_damaged_and_oversized_archives(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    for make in (as_tar, as_tar_gz):
        path = make(tmp_path / "x", {"a.png": stream.getvalue()})
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ValueError, match="is damaged"):
            load(path)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.png", png(1))
        archive.writestr("b.png", png(2), zipfile.ZIP_LZMA)
    assert load_broken(tmp_path / "b.zip").skipped == (
        ("b.png", "a zip compression other than deflate"),
    )
    monkeypatch.setattr(containers, "MAX_MEMBER", 100)
    for make in (as_tar, as_zip):
        data = load_broken(make(tmp_path / "y", {"a.png": stream.getvalue(), "b.png": png()}))
        assert [path for path, _ in data.skipped] == ["a.png"]
    monkeypatch.setattr(containers, "MAX_TAR", 1000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        load(as_tar_gz(tmp_path / "z", {"a.png": png()}))


@KINDS
def test_edm_labels(tmp_path, make):
    files = {f"00000/img{k}.png": png(k) for k in range(4)}
    pairs = b'{"labels": [["00000/img0.png", 2], ["00000/img1.png", 0], ["00000/img3.png", 2]]}'
    data = load(make(tmp_path / "x", files | {"dataset.json": pairs}))
    assert (values(data), data.labels.tolist()) == ([0, 1, 3], [2, 0, 2])
    assert data.class_names == ("0", "1", "2")
    assert data.skipped == (("00000/img2.png", "dataset.json has no label for it"),)
    files["00001/img4.png"] = png(4)
    data = load(make(tmp_path / "y", files | {"dataset.json": b'{"labels": null}'}))
    assert (len(data), data.labels) == (5, None)  # folders that only keep each other small
    for bad in (b"[]", b"{", b'{"labels": [3]}', b'{"labels": [["other.png", 1]]}'):
        with pytest.raises(ValueError, match=r"dataset\.json"):
            load(make(tmp_path / "z", files | {"dataset.json": bad}))


# --- size, channels, limit ----------------------------------------------------------------------


def test_a_size_is_chosen_and_said_where_images_differ(tmp_path):
    sides = [(100, 70), (80, 90), (200, 75)]
    files = {f"{k}.png": png(k, size) for k, size in enumerate(sides)}
    data = load(as_folder(tmp_path, files))
    assert data.size == (64, 64)  # 70 is the smallest short side
    assert "3 sizes, from 100 x 70 to 200 x 75" in data.notes[0]
    assert load(tmp_path, size=(50, 60)).size == (50, 60)
    assert load(tmp_path, size=(50, 60)).notes == ()
    large = load(tmp_path, size=78)
    assert large.notes == (
        "2 images are smaller than that and had to be enlarged, which adds no detail.",
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(28, 28)] * 3, (28, 28)),
        ([(96, 96)] * 3, (96, 96)),
        ([(256, 256)] * 3, (256, 256)),
        ([(300, 200)] * 3, (300, 200)),
        ([(300, 200), (200, 300)], (128, 128)),
        ([(100, 127), (130, 128)], (96, 96)),
        ([(80, 64), (64, 80)], (64, 64)),
        ([(50, 60), (60, 49)], (48, 48)),
        ([(33, 32), (31, 90)], (24, 24)),
        ([(5, 9), (7, 8)], (5, 5)),
        ([(9, 9)] + [(99, 99)] * 99 + [(99, 98)], (96, 96)),  # one thumbnail of 101
        ([(9, 9)] * 2 + [(99, 99)] * 99, (8, 8)),
        ([], (8, 8)),
    ],
)
def test_the_size_that_is_chosen(given, expected):
    frame = sizes.choose_frame(given, None)
    assert (frame.size, frame.crop) == (expected, None)
    assert len(frame.notes) == (len(set(given)) > 1)


def test_what_memory_does_not_hold_is_made_smaller(monkeypatch):
    frame = sizes.choose_frame([(4000, 3000)] * 1000, 3)
    assert frame.size == (128, 128)
    assert "takes 33.5 GiB of memory: each was scaled to 128 x 128" in frame.notes[0]
    monkeypatch.setattr(sizes, "MAX_UNASKED", 100 * 64 * 64 * 3)
    for given in ([(4000, 3000)] * 100, [(200, 200), (201, 200)] * 50):
        assert sizes.choose_frame(given, None).size == (64, 64)
        assert sizes.choose_frame(given, 1).size == (96, 96)
    monkeypatch.setattr(sizes, "MAX_UNASKED", 0)
    assert sizes.choose_frame([(4000, 3000)] * 100, 3).size == (8, 8)


def faces(count=3):
    """As large as CelebA's: a white square of 140 in the middle of black."""
    image = Image.new("L", (178, 218))
    image.paste(255, (19, 39, 19 + 140, 39 + 140))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return {f"img_align_celeba/{k:06}.png": stream.getvalue() for k in range(count)}


@pytest.mark.parametrize(("size", "side"), [(None, 64), (64, 64), (32, 32), (140, 140)])
def test_the_centre_140_of_celeba_s_faces_is_cut_out(tmp_path, size, side):
    data = load(as_folder(tmp_path, faces()), size=size)
    assert data.size == (side, side)
    assert bool((data.images == 255).all())  # and not one black pixel
    assert f"the centre 140 x 140 was cut out and scaled to {side} x {side}" in data.notes[0]
    assert len(data.notes) == 1


def test_celeba_is_known_by_the_size_of_every_image_or_its_name(tmp_path):
    files = {name.split("/")[1]: data for name, data in faces().items()}
    source = as_folder(tmp_path / "mine", files)
    assert bool((load(source, size=64).images == 255).all())
    whole = load(source, size=(218, 178))
    assert (whole.images.float() / 255).mean() == pytest.approx(140 * 140 / (178 * 218))
    assert whole.notes == ()
    enlarged = load(source, size=256)
    assert enlarged.notes[-1].startswith("3 images are smaller than that")
    as_folder(source, {"zoo.png": png(0, (218, 179))})
    other = load(source, size=64)
    assert int(other.images[0].min()) == 0  # the black edge is there
    assert other.notes == ()
    named = as_folder(tmp_path / "named", faces() | {"img_align_celeba/zoo.png": png(0)})
    assert "140 x 140" in load(named, size=64).notes[0]


def test_grey_images_have_one_channel_and_one_coloured_gives_all_three(tmp_path):
    files = {"1.png": png(7), "2.png": png((8, 8, 8), mode="RGB")}
    assert load(as_folder(tmp_path, files)).images.shape == (2, 1, 4, 4)
    files["3.png"] = png((1, 2, 3), mode="RGB")
    data = load(as_folder(tmp_path, files))
    assert data.images[:, :, 0, 0].tolist() == [[7, 7, 7], [8, 8, 8], [1, 2, 3]]
    assert load(tmp_path, channels=1).channels == 1
    np.save(tmp_path / "grey.npy", np.full((2, 5, 6, 3), 7, np.uint8))
    assert load(tmp_path / "grey.npy").channels == 1
    assert load(tmp_path / "grey.npy", channels=3).channels == 3
    four = load(tmp_path, channels=4)
    assert four.images[:, :, 0, 0].tolist() == [[7, 7, 7, 255], [8, 8, 8, 255], [1, 2, 3, 255]]


def test_arrays_are_fitted_as_files_are(tmp_path):
    rows = np.arange(24, dtype=np.uint8).reshape(1, 4, 6)
    np.save(tmp_path / "a.npy", rows)
    Image.fromarray(rows[0]).save(tmp_path / "a.png")
    (tmp_path / "png").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "png" / "a.png")
    for options in ({}, {"channels": 3}, {"channels": 4}, {"size": 2}, {"size": 9, "channels": 3}):
        array, file = load(tmp_path / "a.npy", **options), load(tmp_path / "png", **options)
        assert torch.equal(array.images, file.images)
        assert array.notes == file.notes or options.get("size") == 9
    assert len(load(tmp_path / "a.npy", size=9).notes) == 1


def test_limit_takes_from_every_class_and_labels_can_be_left(tmp_path):
    files = {f"{kind}/{k}.png": png(k) for kind in "abc" for k in range(8)}
    source = as_folder(tmp_path / "x", files)
    data = load(source, limit=6)
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert values(data) == [2, 6] * 3
    assert len(load(source, limit=100)) == 24
    bare = load(source, labels=False)
    assert (bare.labels, bare.class_names, len(bare)) == (None, (), 24)
    assert torch.bincount(load("digits", limit=500).labels).tolist() == [50] * 10
    assert load("digits", labels=False).labels is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "channels = 2"),
        ({"limit": 0}, "limit = 0"),
        ({"size": 0}, "size = 0"),
        ({"split": "val"}, "split = 'val'"),
        ({"split": "test"}, "no test split"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)


# --- names --------------------------------------------------------------------------------------


def test_names_are_looked_for_where_sets_usually_lie(tmp_path, monkeypatch):
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("SFUMATO_HOME", str(home))
    with pytest.raises(ValueError, match="mnist is not on this machine"):
        find("mnist")
    as_folder(home / "data" / "MNIST" / "raw", {"x": b""})
    assert find("mnist") == (home / "data" / "MNIST" / "raw").resolve()
    as_folder(here / "data" / "mnist", {"x": b""})
    assert find("MNIST") == (here / "data" / "mnist").resolve()


def test_a_misspelt_name_is_answered_with_the_near_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers").mkdir()
    for wrong, right in (("digit", "digits"), ("fashion-mnits", "fashion-mnist")):
        with pytest.raises(ValueError, match=f"Did you mean {right}"):
            load(wrong)
    with pytest.raises(ValueError, match="Did you mean flowers"):
        load("flower")
    (tmp_path / "one.png").write_bytes(png())
    with pytest.raises(ValueError, match="give the folder that it lies in"):
        load("one.png")


def test_as_many_of_each_class_are_taken_whatever_their_shares():
    labels = torch.tensor([0] * 40 + [2] * 3 + [11] * 9)
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    data = ImageData(images, labels, tuple("abcdefghijkl"), "uneven", "a test")
    chosen = evenly(data, 3, 6)
    assert labels[chosen].tolist() == [0, 0, 0, 2, 2, 2]
    assert chosen.tolist() == [6, 20, 33, 40, 41, 42]
    assert evenly(data, 3, 8)[4:].tolist() == [40, 41, 41, 42]  # a class of three, for four
    assert evenly(data, 0, 6).tolist() == spread(len(data), 6).tolist()
    assert evenly(replace(data, labels=None), 3, 1000).tolist() == list(range(52))
    assert evenly(replace(data, labels=0 * labels + 11), 3, 6).tolist() == []
