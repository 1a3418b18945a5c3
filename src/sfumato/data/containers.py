"""Where files lie: a folder, a zip or a tar, all read in the same way and never unpacked.

A name is made of plain parts with "/" between them. What an archive calls a member is a label
here and never a path to write to: "..", drives and leading slashes are dropped from it.
Hidden files and folders (".DS_Store", "__MACOSX") are not seen.
"""

import gzip
import os
import re
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from sfumato.data.unpacking import check_ratio, read_packed

Skipped = tuple[tuple[str, str], ...]

MAX_MEMBER = 512 * 2**20  # bytes of one member, unpacked
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)
MAX_TAR = 4 * 2**30  # bytes of a compressed tar, unpacked: it is held in memory


@dataclass(frozen=True)
class Container:
    """Files by name. `read` may be called from any thread; it raises images.READ_ERRORS."""

    where: str
    names: tuple[str, ...]  # sorted
    read: Callable[[str], bytes]
    skipped: Skipped = ()  # (name, reason) of what could not even be listed
    # What changes where the file of this name does; None where nothing tells.
    stamp: Callable[[str], tuple[int, ...]] | None = None


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """The container at `path`; closed at the end of the block.

    Raises ValueError where it is none, or a damaged one.
    """
    with ExitStack() as stack:
        try:
            container = _open(path, stack)
        except _DAMAGE as error:
            raise ValueError(f"{path} is damaged: {error}. Fetch or make it anew.") from error
        yield container


def _open(path: Path, stack: ExitStack) -> Container:
    if path.is_dir():
        return _folder(path)
    if zipfile.is_zipfile(path):
        return _zip(path, stack.enter_context(zipfile.ZipFile(path)))
    stream = _unpacked(path, stack)
    if tarfile.is_tarfile(stream):
        stream.seek(0)
        return _tar(path, stack.enter_context(tarfile.open(fileobj=stream, mode="r:")))
    raise ValueError(
        f"{path} is neither a folder nor a zip, tar, npz or npy file. One image or one file of a "
        "set is not a data set: give the folder that it lies in."
    )


def plain_name(name: str) -> str:
    """Parts with "/" between them, no "..", no drive, nothing that a terminal would obey."""
    parts = [p for p in re.split(r"[\\/]+", name) if p not in ("", ".", "..")]
    if parts and re.fullmatch("[A-Za-z]:", parts[0]):
        parts = parts[1:]
    plain = "/".join(parts)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else f"%{ord(c):02x}" for c in plain)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _listed(
    where: Path,
    found: Iterable[tuple[str, Any]],
    read: Callable[[Any], bytes],
    skipped: Skipped,
    stamp: Callable[[Any], tuple[int, ...]],
) -> Container:
    """`found` are (name, key for `read`). Of two of one name the later counts, as on unpacking."""
    keys: dict[str, Any] = {}
    doubles = []
    for name, key in found:
        name = plain_name(name)
        if not name or _hidden(name):
            continue
        if name in keys:
            doubles.append((name, "stands here twice; the later one is used"))
        keys[name] = key
    return Container(
        str(where),
        tuple(sorted(keys)),
        lambda name: read(keys[name]),
        (*skipped, *doubles),
        lambda name: stamp(keys[name]),
    )


def _stamp(path: Path | str) -> tuple[int, ...]:
    """Size, and when content and entry were last changed: the latter can't be set by a program."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _folder(root: Path) -> Container:
    unread: list[tuple[str, str]] = []
    found = []
    above = len(os.path.join(root, ""))
    for folder, file in _walk(root, unread):
        path = os.path.join(folder, file)  # a Path would take a second for 50,000 files
        name = path[above:].replace(os.sep, "/")
        if os.path.isfile(path):
            found.append((name, path))
        elif not _hidden(name):
            unread.append((plain_name(name), "a link to nothing, or no regular file"))
    return _listed(root, found, _read_file, tuple(unread), _stamp)


def _read_file(path: str) -> bytes:
    _check_size(os.stat(path).st_size)
    with open(path, "rb") as file:
        return file.read()


def _walk(root: Path, unread: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(folder, file), links followed, each real folder entered once: loops end."""

    def complain(error: OSError) -> None:
        unread.append((plain_name(str(error.filename)), str(error.strerror)))

    seen = set()
    starts = [str(root)]
    for start in starts:  # grows: links come after all real folders, which keep their own names
        for folder, inside, files in os.walk(start, onerror=complain):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                inside.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            inside[:] = sorted(name for name in inside if not _hidden(name))
            paths = (os.path.join(folder, name) for name in inside)
            starts.extend(path for path in paths if os.path.islink(path))
            yield from ((folder, file) for file in files)


def _zip(path: Path, archive: zipfile.ZipFile) -> Container:
    lock = threading.Lock()  # zipfile counts its open members without one

    def read(member: zipfile.ZipInfo) -> bytes:
        _check_size(member.file_size)
        check_ratio(member.file_size, member.compress_size)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("a zip compression other than deflate")  # not in every Python
        with lock, archive.open(member) as stream:
            return stream.read(member.file_size)  # read() unpacks more than that, if there is more

    whole = _stamp(path)
    found = [(m.filename, m) for m in archive.infolist() if not m.is_dir()]
    return _listed(path, found, read, (), lambda member: whole)


def _tar(path: Path, archive: tarfile.TarFile) -> Container:
    lock = threading.Lock()  # one file position for all

    def read(member: tarfile.TarInfo) -> bytes:
        _check_size(member.size)
        with lock:
            stream = archive.extractfile(member)
            assert stream is not None  # regular files only were listed
            return stream.read()

    members = archive.getmembers()
    links = [m.name for m in members if m.issym() or m.islnk()]
    holes = [m.name for m in members if m.issparse()]
    unread = [(plain_name(name), "a link inside an archive") for name in links]
    unread += [(plain_name(name), "a sparse file inside an archive") for name in holes]
    found = [(m.name, m) for m in members if m.isreg() and not m.issparse()]
    whole = _stamp(path)
    return _listed(path, found, read, tuple(unread), lambda member: whole)


def _unpacked(path: Path, stack: ExitStack) -> IO[bytes]:
    """A seekable stream of the file's contents; of a gzipped one, in memory."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        return stack.enter_context(path.open("rb"))
    with path.open("rb") as raw, gzip.open(raw) as archive:
        try:
            contents = read_packed(archive, raw, MAX_TAR + 1)
        except ValueError as error:
            raise ValueError(f"{path}: {error}.") from error
    if len(contents) > MAX_TAR:
        raise ValueError(
            f"{path} unpacks to more than {MAX_TAR / 2**30:g} GiB. Decompress it to a plain .tar "
            "first, which is read in place."
        )
    return stack.enter_context(BytesIO(contents))


def _check_size(size: int) -> None:
    if size > MAX_MEMBER:
        raise ValueError(f"{size:,} bytes, over the limit of {MAX_MEMBER:,} for one file")
