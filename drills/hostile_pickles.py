"""Sixty pickles that would each run something, and the files that such things come in.

They are put together of opcodes, so that none of what they name has to be imported to make them.
"""

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # torch before 1.6
WORD = "drilled"  # the canary's name; a file of this name is what every attack would leave
MODULE = "drill_canary"  # a module beside it that leaves it when it is imported


def called(name: str, arguments: bytes, protocol: int = 2) -> bytes:
    """Instructions that leave the call of a function, "module.name", on the stack."""
    module, _, function = name.rpartition(".")
    if protocol == 0:
        return b"(" + arguments + f"i{module}\n{function}\n".encode()
    if protocol == 1:
        return b"(" + f"c{module}\n{function}\n".encode() + arguments + b"o"
    if protocol < 4:
        return f"c{module}\n{function}\n".encode() + b"(" + arguments + b"tR"
    return text(module) + text(function) + b"\x93(" + arguments + b"tR"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(body: bytes, protocol: int) -> bytes:
    """A pickle of {"weights": what the instructions leave}."""
    begin = b"\x80" + bytes([protocol]) if protocol >= 2 else b""
    return begin + b"}" + text("weights") + body + b"s."


def attacks(canary: Path) -> list[tuple[str, bytes]]:
    """(name, pickle): what it would call, under the protocols from 0 to 5 in turn."""
    made = []
    for number, (name, arguments) in enumerate(CALLS):
        body = called(name, arguments(str(canary)), number % 6)
        made.append((name, whole(body, number % 6)))
    return [*made, *((name, make(str(canary))) for name, make in CHAINS.items())]


def shell(canary: str) -> bytes:
    return text(f"echo x > {canary}")


def python(canary: str) -> bytes:
    return text(f"open({canary!r}, 'w').close()")


def words(canary: str) -> bytes:
    return b"(" + text("/bin/touch") + text(canary) + b"l"


def path_and_words(canary: str) -> bytes:
    return text("/bin/touch") + words(canary)


def to_write(canary: str) -> bytes:
    return text(canary) + text("w")


def module(canary: str) -> bytes:
    return text(MODULE)


def address(canary: str) -> bytes:
    return b"(" + text("127.0.0.1") + b"I9\nt"


def link(canary: str) -> bytes:
    return text("http://127.0.0.1:9/")


def inner(canary: str) -> bytes:
    """A pickle within the pickle, as bytes: an attack that only the second loading sees."""
    content = whole(called("os.system", shell(canary)), 2)
    return b"B" + struct.pack("<I", len(content)) + content


CALLS: list[tuple[str, Callable[[str], bytes]]] = [
    *((name, shell) for name in ("os.system", "posix.system", "nt.system", "os.popen")),
    *((name, shell) for name in ("subprocess.getoutput", "subprocess.getstatusoutput")),
    *((name, words) for name in ("subprocess.Popen", "subprocess.call", "subprocess.run")),
    *((name, words) for name in ("subprocess.check_output", "pty.spawn", "_posixsubprocess.fork")),
    *((name, path_and_words) for name in ("os.execv", "posix.execv", "os.spawnv", "os.execvp")),
    ("torch.utils.collect_env.run", shell),
    ("multiprocessing.util.spawnv_passfds", path_and_words),
    *((name, python) for name in ("builtins.eval", "builtins.exec", "__builtin__.eval")),
    *((name, python) for name in ("builtins.compile", "timeit.timeit", "cProfile.run", "pdb.run")),
    *((name, python) for name in ("profile.run", "trace.Trace.run", "code.interact", "bdb.Bdb")),
    ("numpy.testing._private.utils.runstring", python),
    ("numpy.f2py.capi_maps.eval", python),
    *((name, module) for name in ("importlib.import_module", "builtins.__import__")),
    *((name, module) for name in ("pkgutil.resolve_name", "runpy.run_module", "pydoc.locate")),
    *((name, to_write) for name in ("builtins.open", "io.open", "_io.FileIO", "os.mkdir")),
    *((name, to_write) for name in ("pathlib.Path.touch", "shutil.copyfile", "os.symlink")),
    *((name, address) for name in ("socket.create_connection", "asyncio.open_connection")),
    *((name, link) for name in ("urllib.request.urlopen", "torch.hub.load_state_dict_from_url")),
    ("webbrowser.open", link),
    *(
        (name, inner)
        for name in ("pickle.loads", "_pickle.loads", "torch.storage._load_from_bytes")
    ),
    ("marshal.loads", inner),
    ("ctypes.CDLL", shell),
    (f"{MODULE}.anything", module),  # to be named is to be imported
]


def chain(*instructions: bytes) -> Callable[[str], bytes]:
    return lambda canary: b"".join(instructions).replace(b"CANARY", canary.encode())


def _unicode(value: str) -> bytes:
    """A line of protocol 0, whose length needs no counting."""
    return b"V" + value.encode() + b"\n"


CHAINS: dict[str, Callable[[str], bytes]] = {
    "getattr chain": chain(
        *(b"cbuiltins\ngetattr\n", b"(", b"cbuiltins\n__import__\n", b"(", _unicode("os"), b"tR"),
        *(_unicode("system"), b"tR", b"(", _unicode("echo x > CANARY"), b"tR."),
    ),
    "attrgetter": chain(
        *(b"coperator\nattrgetter\n(", _unicode("system"), b"tR(cos\nsys\n", b"tR."),
    ),
    "methodcaller": chain(
        *(b"coperator\nmethodcaller\n(", _unicode("system"), _unicode("echo x > CANARY")),
        b"tR(cos\nos\ntR.",
    ),
    "map within list": chain(
        *(b"cbuiltins\nlist\n(cbuiltins\nmap\n(cos\nsystem\n(", _unicode("echo x > CANARY")),
        b"ltRtR.",
    ),
    "functools.partial": chain(
        *(b"cfunctools\npartial\n(cos\nsystem\n", _unicode("echo x > CANARY"), b"tR(tR."),
    ),
    "build changes a class": chain(
        b"ccollections\nOrderedDict\n}", _unicode("__setstate__"), b"cos\nsystem\nsb0",
        *(b"ccollections\nOrderedDict\n)R", _unicode("echo x > CANARY"), b"b."),
    ),
    "_rebuild_tensor with a call inside": chain(
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\n(",
        *(_unicode("echo x > CANARY"), b"tRK\x00(t(t\x89NtR."),
    ),
    "persistent id is a call": chain(
        b"\x80\x02(", _unicode("storage"), b"cos\nsystem\n(", _unicode("echo x > CANARY"), b"tR",
        *(_unicode("0"), _unicode("cpu"), b"K\x04tQ."),
    ),
    "numpy object array": chain(
        *(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t", _unicode("O"), b"tR"),
        *(b"(K\x01(K\x01tcnumpy\ndtype\n(", _unicode("O8"), b"tR\x89(cos\nsystem\n("),
        *(_unicode("echo x > CANARY"), b"tRltb."),
    ),
}  # fmt: skip


# --- what they come in


def bare(content: bytes) -> bytes:
    return content


def torch_zip(content: bytes) -> bytes:
    return zipped({"archive/data.pkl": content, "archive/version": b"3\n"})


def torch_legacy(content: bytes) -> bytes:
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    return LEGACY + pickle.dumps(1001, 2) + pickle.dumps(machine, 2) + content + pickle.dumps([], 2)


def torch_tar(content: bytes) -> bytes:
    """As torch 0.1 wrote it."""
    return tarred({"sys_info": content, "pickle": content, "storages": content, "tensors": content})


def array(content: bytes) -> bytes:
    """A .npy of objects, which are a pickle after the header."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def arrays(content: bytes) -> bytes:
    return zipped({"x.npy": array(content), "y.npy": array(content)})


def cifar_tar(content: bytes) -> bytes:
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    return tarred({f"cifar-10-batches-py/{name}": content for name in names})


def cifar100_tar(content: bytes) -> bytes:
    return tarred({f"cifar-100-python/{name}": content for name in ("train", "test", "meta")})


def disguised(content: bytes) -> bytes:
    """A safetensors header of nothing, the pickle where the numbers should be."""
    return struct.pack("<Q", 2) + b"{}" + content


WEIGHTS: tuple[Callable[[bytes], bytes], ...] = (
    *(bare, torch_zip, torch_legacy, torch_tar, disguised),
)
SUFFIXES = (".pt", ".safetensors", ".ckpt", ".bin", ".pth", ".SAFETENSORS", "")
IMAGES: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    *(("set.npy", array), ("set.npz", arrays), ("set.tar", cifar_tar), ("set.pkl", bare)),
    *(("set.npy", bare), ("set.zip", torch_zip), ("other.tar", cifar100_tar)),
)


def zipped(members: dict[str, bytes], **settings: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **settings) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()
