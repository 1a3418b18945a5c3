"""Packed data that unpack to far more than images ever do: refused while little is unpacked.

Deflate packs zeros 1,030 to 1, and encoded images hardly at all. What stays below FREE bytes, or
below MAX_RATIO times what it was packed into, passes.
"""

import gzip
from typing import IO

MAX_RATIO = 200
FREE = 8 * 2**20  # bytes
_PIECE = 2**20


def check_ratio(size: int, packed: int) -> None:
    """Raise ValueError for `size` bytes out of `packed` ones, where that is a bomb's ratio."""
    if size > FREE + MAX_RATIO * packed:
        raise ValueError(
            f"{size:,} bytes or more packed into {packed:,}, over {MAX_RATIO} times as many: no "
            "images are packed so well. Unpack it yourself if you trust it"
        )


def read_packed(stream: gzip.GzipFile, raw: IO[bytes], most: int) -> bytes:
    """Up to `most` bytes of `stream`, which unpacks the file `raw`.

    Raises ValueError as soon as their ratio to what was read of `raw` is a bomb's.
    """
    pieces, size = [], 0
    while size < most and (piece := stream.read(min(_PIECE, most - size))):
        size += len(piece)
        check_ratio(size, raw.tell())
        pieces.append(piece)
    return b"".join(pieces)
