"""A checkpoint that several processes wrote in parts, as one process would have written it.

Each part is a safetensors file by torch's distributed checkpoints; its header says where the pieces
in it begin: {"DCP_SHARDING_INFO": {NAME: {"saved_offsets": [row, column, ...]}}}.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from .interop.reading import json_of, tensors_of
from .storage import check_folder, read_folder

PREFIX = "shard-"  # of the files' names
PARTS = ("weights", "average", "optimizer")


def whole_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files with {weights,average,optimizer}.safetensors in place of shards, if there are any.

    Raises: ValueError, naming a file or tensor, where the pieces do not make up whole tensors.
    """
    shards = {name: content for name, content in files.items() if name.startswith(PREFIX)}
    if not shards:
        return dict(files)
    pieces: dict[str, list[tuple[list[int], Tensor]]] = {}
    for name, content in shards.items():
        for tensor, offsets, piece in _pieces(content, name):
            pieces.setdefault(tensor, []).append((offsets, piece))
    tensors = {name: _joined(name, found) for name, found in pieces.items()}
    rest = {name: content for name, content in files.items() if name not in shards}
    return {**rest, **{f"{part}.safetensors": save(named(tensors, part)) for part in PARTS}}


def in_shards(folder: Path) -> bool:
    """Whether a checkpoint's folder was written in parts."""
    return any(folder.glob(f"{PREFIX}*"))


def read_checked(folder: Path) -> dict[str, bytes]:
    """Of a checkpoint in shards state.json, all of it checked; of any other all its files.

    Raises: DamagedError where a file is not as it was written.
    """
    if not in_shards(folder):
        return read_folder(folder)
    check_folder(folder)
    return {"state.json": (folder / "state.json").read_bytes()}


def named(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors called PART.NAME, by NAME."""
    begin = f"{part}."
    return {name[len(begin) :]: value for name, value in tensors.items() if name.startswith(begin)}


def _pieces(content: bytes, where: str) -> Iterator[tuple[str, list[int], Tensor]]:
    """(name, first index in each dimension, piece) of each tensor in a shard's file."""
    tensors = tensors_of(content, where)  # also checks the header
    (length,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    described = json_of(metadata.get("DCP_SHARDING_INFO", "{}").encode(), f"{where}: its header")
    for name, piece in tensors.items():
        yield name, _offsets(described.get(name), piece, f"{where}: {name!r}"), piece


def _offsets(described: Any, piece: Tensor, where: str) -> list[int]:
    found: Any = described.get("saved_offsets") if isinstance(described, dict) else [0] * piece.ndim
    whole = isinstance(found, list) and all(type(n) is int and 0 <= n < 2**40 for n in found)
    if not whole or len(found) != piece.ndim:
        raise ValueError(f"{where} is a piece without the place that it has in its tensor.")
    return list(found)


def _joined(name: str, pieces: list[tuple[list[int], Tensor]]) -> Tensor:
    """The tensor that the pieces fill without a gap."""
    ends = [[n + size for n, size in zip(at, p.shape, strict=True)] for at, p in pieces]
    if len({len(end) for end in ends}) > 1 or len({p.dtype for _, p in pieces}) > 1:
        raise ValueError(f"the pieces of {name!r} are of different tensors.")
    shape = [max(sizes) for sizes in zip(*ends, strict=True)]
    if sum(piece.numel() for _, piece in pieces) != torch.Size(shape).numel():
        raise ValueError(f"the pieces of {name!r} leave gaps, or overlap: a shard is missing.")
    tensor = torch.empty(shape, dtype=pieces[0][1].dtype)
    filled = torch.zeros(shape, dtype=torch.bool)
    for offsets, piece in pieces:
        place = tuple(slice(n, n + size) for n, size in zip(offsets, piece.shape, strict=True))
        tensor[place], filled[place] = piece, True
    if not filled.all():
        raise ValueError(f"the pieces of {name!r} overlap, and leave gaps.")
    return tensor
