"""All writing of things that must not be lost: a folder appears whole, or not at all.

    write every file into a temporary folder, fsync each; write manifest.json with the SHA-256 of
    each, fsync; rename the folder to its name; fsync the folder that holds it.

A reader checks the manifest before it uses a byte. Damaged folders are renamed, never deleted.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

MANIFEST = "manifest.json"
TEMPORARY = ".unfinished-"


class DamagedError(Exception):
    """A committed folder is not what its manifest says."""


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; a no-op where the system can't open folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file's content so that a reader sees the old or the new, never a part."""
    temporary = path.with_name(TEMPORARY + path.name)
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def commit_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `target` with these files and a manifest, all or nothing.

    Raises: FileExistsError where target exists; OSError where the disk refuses.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already; a committed folder is never overwritten.")
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        for name, content in files.items():
            write_file(temporary / name, content)
        write_file(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        os.rename(temporary, target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a committed folder, each checked against the manifest.

    Raises: DamagedError, naming the file, where one is missing or changed; OSError where the
    system can't read now, which says nothing of the files.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = {name: (folder / name).read_bytes() for name in manifest}
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise DamagedError(f"{folder}: {error}") from error
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest[name]:
            raise DamagedError(f"{folder / name} does not have the SHA-256 that the manifest says.")
    return files


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed writer left behind."""
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
