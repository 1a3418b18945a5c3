"""Captions and labels that are written beside the images."""

import json
from dataclasses import replace

import pytest
import torch

from packing import KINDS, as_folder, load_broken, png, values
from sfumato.data import fingerprint, load, split, subset

IMAGES = {f"{k}.png": png(k) for k in range(4)}


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def captioned(tmp_path):
    rows = [{"file_name": f"{k}.png", "text": f"number {k}"} for k in range(4)]
    return load(as_folder(tmp_path / "set", IMAGES | {"metadata.jsonl": lines(*rows)}))


# --- the record ---------------------------------------------------------------------------------


def test_subset_split_and_limit_carry_captions(tmp_path):
    data = captioned(tmp_path)
    assert data.captions == ("number 0", "number 1", "number 2", "number 3")
    assert subset(data, torch.tensor([3, 1])).captions == ("number 3", "number 1")
    for part in (*split(data, 2), load(tmp_path / "set", limit=3)):
        assert [f"number {value}" for value in values(part)] == list(part.captions)
    with pytest.raises(ValueError, match="1 captions for 4 images"):
        replace(data, captions=("one",))


def test_the_fingerprint_counts_captions_only_where_there_are_any(tmp_path):
    data = captioned(tmp_path)
    bare = load(as_folder(tmp_path / "bare", IMAGES))
    assert bare.captions is None
    assert fingerprint(replace(data, captions=None)) == fingerprint(bare)
    shifted = replace(data, captions=("number 0number 1", "", "number 2", "number 3"))
    assert len({fingerprint(d) for d in (data, bare, shifted)}) == 3


def test_describe_tells_of_captions(tmp_path):
    data = captioned(tmp_path)
    assert "no labels, 4 different captions ('number 0' for one), from" in data.describe()
    long = replace(data, captions=("", "x" * 90, "x" * 90, ""))
    assert f"1 different caption ('{'x' * 57}...' for one)" in long.describe()
    assert "captions that are all empty" in replace(data, captions=("",) * 4).describe()


# --- tables -------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("column", ["text", "caption"])
def test_a_table_in_both_forms_however_packed(tmp_path, make, column):
    texts = ["a red hat", 'quoted "words", and a comma', "déjà vu", "two\nlines"]
    rows = [{"file_name": f"{k}.png", column: text} for k, text in enumerate(texts)]
    table = f"\ufefffile_name,{column}\r\n" + "".join(
        f'{k}.png,"{text.replace(chr(34), chr(34) * 2)}"\r\n' for k, text in enumerate(texts)
    )
    for name, contents in (("metadata.jsonl", lines(*rows)), ("metadata.csv", table.encode())):
        data = load(make(tmp_path / name.replace(".", "-"), IMAGES | {name: contents}))
        assert (data.captions, data.labels, data.notes) == (tuple(texts), None, ())


def test_tables_in_sub_folders_name_files_from_there(tmp_path):
    files = {}
    for part, first in (("train", 10), ("test", 20)):
        rows = [{"file_name": f"in/{k}.png", "text": f"{part} {k}"} for k in range(2)]
        files[f"{part}/metadata.jsonl"] = lines(*rows)
        files |= {f"{part}/in/{k}.png": png(first + k) for k in range(2)}
    source = as_folder(tmp_path, files)
    train, test = load(source), load(source, split="test")
    assert (values(train), train.captions) == ([10, 11], ("train 0", "train 1"))
    assert (values(test), test.captions) == ([20, 21], ("test 0", "test 1"))
    assert train.notes == ("Of its folders test, train only train was read.",)


def test_a_label_column_becomes_classes(tmp_path):
    def labels_of(*labels):
        rows = [{"file_name": f"{k}.png", "label": kind} for k, kind in enumerate(labels)]
        data = load(as_folder(tmp_path, IMAGES | {"metadata.jsonl": lines(*rows)}))
        assert data.captions is None
        return data

    data = labels_of(2, 0, 2, 0)
    assert (data.labels.tolist(), data.class_names) == ([2, 0, 2, 0], ("0", "1", "2"))
    data = labels_of("pear", "apple", None, "apple")
    assert (data.labels.tolist(), data.class_names) == ([1, 0, 0], ("apple", "pear"))
    assert data.skipped == (("2.png", "metadata.jsonl has no label for it"),)
    assert labels_of(None, None, None, None).labels is None
    (tmp_path / "metadata.jsonl").unlink()
    table = "file_name,label\n" + "".join(f"{k}.png,{10 * k}\n" for k in range(4))
    data = load(as_folder(tmp_path, {"metadata.csv": table.encode()}))
    assert data.labels.tolist() == [0, 10, 20, 30]  # by number, where "10" < "2" by letter
    assert load(tmp_path, labels=False).labels is None


def test_labels_of_a_table_win_over_folders_and_dataset_json_over_both(tmp_path):
    files = {f"{kind}/{k}.png": png(k) for k, kind in enumerate("aab")}
    rows = [{"file_name": f"{kind}/{k}.png", "text": kind} for k, kind in enumerate("aab")]
    source = as_folder(tmp_path, files | {"metadata.jsonl": lines(*rows)})
    assert load(source).class_names == ("a", "b")
    rows = [row | {"label": f"class {k}"} for k, row in enumerate(rows)]
    as_folder(tmp_path, {"metadata.jsonl": lines(*rows)})
    assert load(source).class_names == ("class 0", "class 1", "class 2")
    as_folder(tmp_path, {"dataset.json": b'{"labels": [["a/0.png", 0], ["b/2.png", 1]]}'})
    data = load(source)
    assert (data.labels.tolist(), data.captions) == ([0, 1], ("a", "b"))


def test_missing_captions_are_empty_and_strays_are_told(tmp_path):
    rows = [
        {"file_name": "0.png", "text": "zero"},
        {"file_name": "1.png", "text": None},
        {"file_name": "2.png"},
        {"file_name": "7.png", "text": "seven"},
    ]
    data = load(as_folder(tmp_path, IMAGES | {"metadata.jsonl": lines(*rows)}))
    assert data.captions == ("zero", "", "", "")
    assert data.notes == (
        "1 row names an image that metadata.jsonl does not lie beside, the first: 7.png.",
        "3 of 4 images have no caption: an empty one.",
    )
    as_folder(tmp_path, {"metadata.jsonl": lines({"file_name": "0.png", "width": 3})})
    data = load(tmp_path)
    assert data.captions is None
    assert data.notes == (
        "Nothing was taken from metadata.jsonl: "
        "no text, caption or label among its file_name, width.",
    )


def test_broken_images_take_their_captions_with_them(tmp_path):
    rows = [{"file_name": f"{k}.png", "text": f"number {k}"} for k in range(4)]
    files = IMAGES | {"1.png": b"no image", "metadata.jsonl": lines(*rows)}
    data = load_broken(as_folder(tmp_path, files))
    assert (values(data), data.captions) == ([0, 2, 3], ("number 0", "number 2", "number 3"))


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("metadata.jsonl", b'{"file_name": "0.png"}\n{', r"line 2 of metadata\.jsonl .* no JSON"),
        ("metadata.jsonl", b"[1]", r"line 1 of .* is '\[1\]': give one JSON object"),
        ("metadata.jsonl", b'{"text": "x"}', r"no file_name \(it has text\)"),
        ("metadata.jsonl", b'{"file_name": 3}', "no file_name"),
        ("metadata.jsonl", b'{"file_name": "0.png", "text": ["a"]}', r"the text \['a'\]"),
        ("metadata.jsonl", b'{"file_name": "0.png", "label": 0.5}', "the label 0.5"),
        ("metadata.jsonl", b'{"file_name": "0.png", "label": true}', "the label True"),
        ("metadata.jsonl", b'{"file_name": "\xff.png"}', "is not UTF-8"),
        ("metadata.csv", b"name,text\n0.png,x\n", r"no file_name \(it has name, text\)"),
        ("metadata.csv", b"file_name,text\n0.png,x,y\n", "more values than columns in line 2"),
    ],
)
def test_tables_that_are_refused(tmp_path, name, contents, message):
    with pytest.raises(ValueError, match=message):
        load(as_folder(tmp_path, IMAGES | {name: contents}))


def test_two_tables_in_one_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has both metadata"):
        load(as_folder(tmp_path, IMAGES | {"metadata.jsonl": b"", "metadata.csv": b""}))


# --- text files ---------------------------------------------------------------------------------


@KINDS
def test_text_files_beside_images(tmp_path, make):
    files = fruit_with_texts()
    data = load(make(tmp_path / "x", files))
    assert data.captions == ("an apple", "", "a pear")
    assert data.class_names == ("apple", "pear")
    assert data.notes == ("1 of 3 images has no caption: an empty one.",)
    rows = lines({"file_name": "apple/1.png", "text": "from the table"})
    data = load(make(tmp_path / "y", files | {"metadata.jsonl": rows}))
    assert data.captions == ("from the table", "", "")


def fruit_with_texts():
    return {
        "apple/1.png": png(1),
        "apple/1.txt": b"\n  an apple \nits second line does not count\n",
        "apple/2.png": png(2),
        "apple/2.json": b'{"caption": "is not read"}',
        "pear/3.png": png(3),
        "pear/3.txt": b"a pear",
        "readme.txt": b"not beside an image of its name",
    }


def test_a_text_file_that_is_none_is_named(tmp_path):
    data = load(as_folder(tmp_path, fruit_with_texts() | {"pear/3.txt": b"\xff\xfe"}))
    assert data.captions == ("an apple", "", "")
    assert [name for name, _ in data.skipped] == ["pear/3.txt"]
