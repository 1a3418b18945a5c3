"""Broken images of a set are left out and named, up to a share; files that came, went, changed."""

import warnings
from dataclasses import replace

import pytest

from packing import KINDS, as_folder, as_zip, load_broken, png, values
from sfumato.data import Tolerance, UnreadableWarning, load, split
from sfumato.data.changes import Changes, changes, index, index_text, read_index
from sfumato.data.quarantine import as_text, judge


def numbered(count, *broken):
    return {f"{k:03}.png": b"" if k in broken else png(k) for k in range(count)}


# --- unreadable ---------------------------------------------------------------------------------


@KINDS
def test_one_of_a_hundred_is_a_warning_with_its_name(tmp_path, make):
    with pytest.warns(UnreadableWarning) as caught:
        data = load(make(tmp_path / "x", numbered(100, 7)))
    assert [str(w.message) for w in caught] == [
        "1 image was left out of 100, unreadable: 007.png (the file is empty)."
    ]
    assert data.unreadable == (("007.png", "the file is empty"),)
    assert values(data) == [k for k in range(100) if k != 7]
    assert data.names == tuple(f"{k:03}.png" for k in range(100) if k != 7)


def test_two_of_a_hundred_look_damaged_and_a_fifth_is_the_most(tmp_path):
    with pytest.warns(UnreadableWarning, match=r"LOOKS DAMAGED, 2\.0% of it: 2 images were"):
        load(as_folder(tmp_path / "a", numbered(100, 7, 8)))
    with pytest.warns(UnreadableWarning, match="20 images were left out of 100"):
        data = load(as_folder(tmp_path / "b", numbered(100, *range(20))))
    assert len(data.unreadable) == 20
    c = as_zip(tmp_path / "c", numbered(100, *range(21)))
    told = r"c\.zip: 21 of 100 images cannot be read: 000\.png .*002\.png \(.*\); and 18 more\. Up"
    with pytest.raises(ValueError, match=told):
        load(c)
    assert len(load_broken(c)) == 79
    with pytest.raises(ValueError, match=r"1 of 1 images .* Up to 0\.0% would"):
        judge([("a", "b")], 1, "x", Tolerance(0, 0))


def test_a_whole_set_says_nothing_and_only_images_that_are_tried_count(tmp_path):
    files = numbered(10, 3) | {"notes.txt": b"", "labels": b""}
    folder = as_folder(tmp_path / "x", files)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load(folder, limit=2)  # the third and the eighth
    assert (data.names, data.unreadable) == (("002.png", "007.png"), ())


def test_the_warning_names_ten():
    failures = [(f"{k}.png", "cut off") for k in range(12)]
    with pytest.warns(UnreadableWarning, match=r"9\.png \(cut off\); and 2 more\.$"):
        judge(failures, 10_000, "x", Tolerance())
    assert as_text(failures[:2]) == "0.png\tcut off\n1.png\tcut off\n"


@pytest.mark.parametrize("shares", [{"loud": 1.5}, {"most": -0.1}, {"most": float("nan")}])
def test_tolerances_are_shares(shares):
    with pytest.raises(ValueError, match="give a share of the files"):
        Tolerance(**shares)


# --- changes ------------------------------------------------------------------------------------


def test_names_go_with_their_images(tmp_path):
    files = {f"{kind}/{k}.png": png(10 * n + k) for n, kind in enumerate("ab") for k in range(5)}
    whole = load(as_folder(tmp_path, files))
    rest, held = split(whole, 4)
    for part in (whole, rest, held):
        assert [files[name] for name in part.names] == [png(value) for value in values(part)]
    with pytest.raises(ValueError, match="1 names for 10 images"):
        replace(whole, names=("x",))


def test_an_index_is_of_pixels_label_and_caption(tmp_path):
    files = {f"{kind}/{k}.png": png(k) for kind in "ab" for k in range(2)}
    data = load(as_folder(tmp_path, files | {"a/0.txt": b"a dot"}))
    digests = index(data)
    assert list(digests) == list(data.names)
    assert len({*digests.values()}) == 4  # two have the same pixels and other labels
    assert index(replace(data, captions=("a dot", "x", "", "")))["a/1.png"] != digests["a/1.png"]
    assert read_index(index_text(digests)) == digests
    assert index(replace(data, names=None)) is None
    turned = replace(data, images=data.images.reshape(4, 1, 2, 8))
    assert not {*index(turned).values()} & {*digests.values()}


def test_what_came_went_and_changed(tmp_path):
    folder = as_folder(tmp_path, numbered(8))
    before = index(load(folder))
    for name in ("000.png", "001.png", "002.png", "003.png"):
        (folder / name).unlink()
    as_folder(folder, {"005.png": png(99), "new.png": png(0)})
    found = changes(before, index(load(folder)))
    gone = ("000.png", "001.png", "002.png", "003.png")
    assert found == Changes(("new.png",), gone, ("005.png",))
    assert str(found) == (
        "1 added (new.png); 4 removed (000.png, 001.png, 002.png, ...); 1 changed (005.png)"
    )
    assert str(changes(before, before)) == "0 added; 0 removed; 0 changed"


@pytest.mark.parametrize("text", ["x", "0123456789abcdef name", "abc  name"])
def test_an_index_in_another_form_is_refused(text):
    with pytest.raises(ValueError, match="line 2 is"):
        read_index("0123456789abcdef  a\n" + text)


def test_arrays_have_no_names():
    assert load("digits").names is None
    assert load("digits").unreadable == ()
