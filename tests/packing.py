"""Data sets made on the spot: files by name, packed in each of the ways that are read."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from sfumato.data import Tolerance, UnreadableWarning, load


def png(value=0, size=(4, 4), mode="L"):
    stream = io.BytesIO()
    Image.new(mode, size[::-1], value).save(stream, "PNG")
    return stream.getvalue()


SHARED = Path(__file__).parents[2] / "shared" / "data"
FRUIT = {"apple/1.png": 10, "apple/2.png": 11, "apple/deep/3.png": 12, "pear/1.png": 20}


def fruit(**more):
    return {name: png(value) for name, value in FRUIT.items()} | more


def as_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_zip(path, files):
    path = path.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def as_tar(path, files, mode="w"):
    path = path.with_suffix(".tar" if mode == "w" else ".tar.gz")
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def as_tar_gz(path, files):
    return as_tar(path, files, "w:gz")


KINDS = pytest.mark.parametrize("make", [as_folder, as_zip, as_tar, as_tar_gz])


def load_broken(path, **options):
    """A set of which any share may be broken, and some of it is."""
    with pytest.warns(UnreadableWarning):
        return load(path, tolerance=Tolerance(most=1), **options)


def values(data):
    """The first pixel of each image: what the files above were filled with."""
    return data.images[:, 0, 0, 0].tolist()
