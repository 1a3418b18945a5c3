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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

SOURCES = Path(__file__).parent
# Not -ffast-math: the kernels tell what is no number from what is.
RELAXED = ("-fno-math-errno", "-fno-trapping-math", "-freciprocal-math", "-fno-signed-zeros")
FLAGS = ("-O3", "-march=native", *RELAXED, "-fopenmp", "-fPIC", "-shared")
SWITCH = "SFUMATO_NATIVE"
SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}  # of a function for that type


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """The functions of native/NAME.c; None where they can't be had here."""
    return None if why_not() else ctypes.CDLL(str(built(SOURCES / f"{name}.c")))


def takes(name: str, x: Tensor) -> bool:
    """Whether native/NAME.c takes x: an ordinary tensor on the CPU, of a type that it knows."""
    return ordinary(x) and x.dtype in SUFFIX and x.numel() > 0 and library(name) is not None


def ordinary(x: Tensor) -> bool:
    """Whether x is its own numbers on the CPU: not a compiler's, torch.func's or another's."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
    )


def are_rows(shape: tuple[int, ...], *tensors: Tensor | None) -> bool:
    """Whether those that there are have that shape, which C takes on trust."""
    return all(t is None or t.shape == shape for t in tensors)


def are_weights(shape: tuple[int, ...], *tensors: Tensor | None) -> bool:
    """are_rows, and float32, one after the other."""
    there = [t for t in tensors if t is not None]
    return are_rows(shape, *there) and all(
        t.dtype == torch.float32 and t.is_contiguous() and ordinary(t) for t in there
    )


@functools.cache
def can(name: str, dtype: torch.dtype) -> bool:
    """Whether native/NAME.c was built for that type: some want instructions that not all have."""
    loaded = library(name)
    return loaded is not None and bool(getattr(loaded, f"can_{SUFFIX[dtype]}")())


def call(
    name: str, function: str, told: ctypes.Structure, dtype: torch.dtype, *tensors: Tensor | None
) -> None:
    """Run a function of native/NAME.c: (settings, pointers to the tensors, threads).

    Raises: MemoryError where it had no room for its sums.
    """
    loaded = library(name)
    assert loaded is not None
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
    threads = ctypes.c_int64(torch.get_num_threads())
    if getattr(loaded, f"{function}_{SUFFIX[dtype]}")(ctypes.byref(told), *pointers, threads):
        raise MemoryError(f"{function}: no memory for its sums")


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
        with ThreadPoolExecutor() as pool:  # a compiler each: together they take some four seconds
            list(pool.map(built, SOURCES.glob("*.c")))
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
    code = [path.read_bytes() for path in (source, *sorted(SOURCES.glob("*.h")))]
    told = [*code, " ".join(FLAGS).encode(), torch.__version__.encode(), processor()]
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
