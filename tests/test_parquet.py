"""Parquet tables of images. Where pyarrow is not installed, what needs no pyarrow is tested."""

import json
import sys

import pytest

from packing import as_folder, as_zip, load_broken, png, values
from sfumato.data import load, parquet
from sfumato.data.containers import Container

# The layout as Hugging Face's library writes it, as data: schema.metadata[b"huggingface"].
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"},
    "text": {"dtype": "string", "_type": "Value"},
}
ROWS = {
    "image": [{"bytes": png(k), "path": f"{k}.png"} for k in range(5)],
    "label": [2, 0, 0, 2, 1],
    "text": ["an owl", "a cat", " ", "another owl", None],
}


def noted(features):
    return {"huggingface": json.dumps({"info": {"features": features}})}


def write(path, rows, features=None, group=2):
    """A table of the columns of `rows`, with so many rows in a group."""
    pa = pytest.importorskip("pyarrow")
    tables = pytest.importorskip("pyarrow.parquet")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = {"image": image, "img": image, "text": pa.string(), "raw": pa.binary()}
    fields = [pa.field(name, kinds.get(name, _kind(pa, rows[name]))) for name in rows]
    schema = pa.schema(fields, metadata=None if features is None else noted(features))
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.write_table(pa.table(rows, schema=schema), path, row_group_size=group)
    return path


def _kind(pa, column):
    return pa.string() if any(isinstance(value, str) for value in column) else pa.int64()


@pytest.mark.parametrize("group", [1, 2, 3, 100])
def test_a_table_of_images_labels_and_captions(tmp_path, group):
    path = write(tmp_path / "pets.parquet", ROWS, FEATURES, group)
    data = load(path)
    assert values(data) == [0, 1, 2, 3, 4]
    assert data.labels.tolist() == [2, 0, 0, 2, 1]
    assert data.class_names == ("cat", "dog", "owl")
    assert data.captions == ("an owl", "a cat", "", "another owl", "")
    assert (data.name, data.source) == ("pets", str(path))
    assert data.notes == ("2 of 5 images have no caption: an empty one.",)
    half = load(path, limit=3)
    assert [ROWS["label"][value] for value in values(half)] == half.labels.tolist()
    bare = load(path, labels=False)
    assert (bare.labels, bare.captions) == (None, data.captions)


def test_shards_are_read_by_split_in_their_order(tmp_path):
    for k in range(3):
        rows = {"image": [{"bytes": png(10 * k + i), "path": None} for i in range(2)]}
        write(tmp_path / f"data/train-0000{k}-of-00003.parquet", rows)
    write(tmp_path / "data/test-00000-of-00001.parquet", {"image": ROWS["image"][:1]})
    as_folder(tmp_path, {"README.md": b"", ".cache/train-9.parquet": b"not seen"})
    train, test = load(tmp_path), load(tmp_path, split="test")
    assert (values(train), values(test)) == ([0, 1, 10, 11, 20, 21], [0])
    assert (train.labels, train.captions) == (None, None)
    assert train.notes == ("Of its tables only train was read, not test.",)
    with pytest.raises(ValueError, match="no tables with unlabeled in their names"):
        load(tmp_path, split="unlabeled")
    (tmp_path / "data/test-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match="no tables with test in their names"):
        load(tmp_path, split="test")
    with pytest.raises(ValueError, match="is one table, with no test split"):
        load(tmp_path / "data/train-00000-of-00003.parquet", split="test")


def test_columns_by_other_names(tmp_path):
    rows = {"img": ROWS["image"], "fine_label": ROWS["label"], "caption": ["x"] * 5}
    data = load(write(tmp_path / "a.parquet", rows))
    assert (data.labels.tolist(), data.class_names) == (ROWS["label"], ("0", "1", "2"))
    assert data.captions == ("x",) * 5
    rows = {"raw": [png(k) for k in range(3)], "breed": [1, 0, 1]}
    features = {"breed": {"_type": "ClassLabel", "names": ["pug", "husky"]}}
    data = load(write(tmp_path / "b.parquet", rows, features))
    assert (values(data), data.labels.tolist()) == ([0, 1, 2], [1, 0, 1])
    assert data.class_names == ("pug", "husky")
    rows = {"image": ROWS["image"][:2], "label": ["pear", "apple"]}
    assert load(write(tmp_path / "c.parquet", rows)).class_names == ("apple", "pear")


def test_rows_without_bytes_or_labels_are_named(tmp_path):
    cells = [{"bytes": None, "path": "elsewhere.png"}, *ROWS["image"][1:]]
    rows = {"image": cells, "label": [0, 1, -1, None, 2]}
    data = load_broken(write(tmp_path / "a.parquet", rows, FEATURES))
    assert (values(data), data.labels.tolist()) == ([1, 4], [1, 2])
    assert [name for name, _ in data.skipped] == [f"a.parquet/00000{k}" for k in (2, 3, 0)]
    assert "its row has no bytes" in data.skipped[-1][1]
    hidden = load(write(tmp_path / "b.parquet", ROWS | {"label": [-1] * 5}, FEATURES))
    assert hidden.labels is None
    assert "Its column label is empty." in hidden.notes


def test_tables_that_are_refused(tmp_path):
    none = write(tmp_path / "none.parquet", {"text": ["a"], "width": [3]})
    with pytest.raises(ValueError, match=r"no column of images .* has: .*text: string.*width"):
        load(none)
    empty = write(tmp_path / "empty.parquet", {"image": []})
    with pytest.raises(ValueError, match="has no rows"):
        load(empty)
    wrong = write(tmp_path / "wrong.parquet", ROWS | {"label": [3] * 5}, FEATURES)
    with pytest.raises(ValueError, match="labels beyond its 3 names"):
        load(wrong)
    write(tmp_path / "two/1.parquet", ROWS, FEATURES)
    write(tmp_path / "two/2.parquet", ROWS)
    with pytest.raises(ValueError, match=r"2\.parquet has other columns or classes than"):
        load(tmp_path / "two")
    (tmp_path / "bad.parquet").write_bytes(none.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is no Parquet table, or damaged"):
        load(tmp_path / "bad.parquet")


# --- without pyarrow ----------------------------------------------------------------------------


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    as_folder(tmp_path, {"train.parquet": b"PAR1"})
    for source in (tmp_path, tmp_path / "train.parquet"):
        with pytest.raises(ValueError, match=r'pip install "sfumato\[parquet\]"'):
            load(source)
    with pytest.raises(ValueError, match="unpack it and give the folder"):
        load(as_zip(tmp_path / "x", {"train.parquet": b"PAR1"}))


def test_tables_beside_images_are_not_looked_at(tmp_path):
    assert values(load(as_folder(tmp_path, {"metadata.parquet": b"", "1.png": png(7)}))) == [7]


class Schema:
    """What of a schema is read: names, kinds by their words, and the library's note."""

    def __init__(self, kinds, features):
        self.names, self.kinds = list(kinds), kinds
        note = noted(features)["huggingface"]
        self.metadata = {b"huggingface": note.encode()} if features else None

    def field(self, name):
        return type("Field", (), {"type": self.kinds[name]})

    def __iter__(self):
        return iter(f"{name}: {kind}" for name, kind in self.kinds.items())


STRUCT = "struct<bytes: binary, path: string>"


@pytest.mark.parametrize(
    ("kinds", "features", "expected"),
    [
        (
            {"image": STRUCT, "label": "int64", "text": "string"},
            FEATURES,
            ("image", "label", "text"),
        ),
        ({"img": STRUCT, "fine_label": "int64"}, {}, ("img", "fine_label", None)),
        (
            {"image": STRUCT, "mask": STRUCT, "caption": "large_string"},
            {},
            ("image", None, "caption"),
        ),
        ({"photo": "large_binary", "text": "list<item: string>"}, {}, ("photo", None, None)),
    ],
)
def test_the_layout_by_names_and_kinds(kinds, features, expected):
    layout = parquet._layout(Schema(kinds, features), "it")
    assert (layout.image, layout.label, layout.caption) == expected
    assert layout.class_names == (("cat", "dog", "owl") if features else None)


@pytest.mark.parametrize("kinds", [{"a": STRUCT, "b": STRUCT}, {"image": "string"}])
def test_a_layout_in_doubt_is_refused(kinds):
    with pytest.raises(ValueError, match="it has no column of images called image"):
        parquet._layout(Schema(kinds, {}), "it")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("default/test/0000.parquet", "test"),
        ("my_validation.parquet", "validation"),
        ("trainings.parquet", None),
        ("0000.parquet", None),
    ],
)
def test_the_split_in_a_name(name, word):
    assert parquet._split_word(name) == word


def test_what_a_folder_of_tables_is():
    def holds(*names):
        return parquet.present(Container("here", names, lambda name: b""))

    assert holds("a.parquet", "README.md")
    assert not holds("a.parquet", "1.png")
    assert not holds("a.csv")
