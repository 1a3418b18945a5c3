"""Our few lines of C: compiled where they are first wanted, kept in the user's cache, optional.

Where there is no compiler, or no OpenMP library of PyTorch's own to share, `library` gives None and
PyTorch's operations do the same work, slower. SFUMATO_NATIVE=0 asks for that.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCES = Path(__file__).parent
# Not -ffast-math: the kernels tell what is no number from what is.
RELAXED = ("-fno-math-errno", "-fno-trapping-math", "-freciprocal-math", "-fno-signed-zeros")
FLAGS = ("-O3", "-march=native", *RELAXED, "-fopenmp", "-fPIC", "-shared")
SWITCH = "SFUMATO_NATIVE"


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """The functions of native/NAME.c; None where they can't be had here."""
    return None if why_not() else ctypes.CDLL(str(built(SOURCES / f"{name}.c")))


@functools.cache
def why_not() -> str:
    """Why the C is not used on this machine; empty where it is."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    if platform.system() != "Linux":
        return f"it is built on Linux only, and this is {platform.system()}"
    if compiler() is None:
        return "there is no C compiler (cc, gcc or clang)"
    if not list(openmp().glob("libgomp*")):
        return "PyTorch brings no OpenMP library to share"
    try:
        built(SOURCES / "group_norm.c")
    except (OSError, subprocess.SubprocessError) as error:
        return f"compiling it failed: {error}"
    return ""


def compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def openmp() -> Path:
    """Where PyTorch's OpenMP library lies: a second one would bring a second set of threads."""
    return Path(torch.__file__).parent / "lib"


def built(source: Path) -> Path:
    """The shared library of a C file, compiled unless this machine has done it before.

    Raises: OSError or subprocess.SubprocessError where that fails.
    """
    compile_by = compiler()
    assert compile_by is not None
    told = [source.read_bytes(), " ".join(FLAGS).encode(), torch.__version__.encode(), processor()]
    key = hashlib.sha256(b"\0".join(told)).hexdigest()[:16]
    target = home() / f"{source.stem}-{key}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [compile_by, *FLAGS, str(source), "-o", str(made), f"-L{openmp()}", "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        os.replace(made, target)  # whole or not at all, also where two processes come at once
    return target


def home() -> Path:
    """$SFUMATO_HOME/native, by default in ~/.cache/sfumato."""
    root = os.environ.get("SFUMATO_HOME")
    return (Path(root) if root else Path.home() / ".cache" / "sfumato") / "native"


def processor() -> bytes:
    """What -march=native depends on: a home may be shared by unlike machines."""
    lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    told = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return "\n".join(sorted(told)).encode()
