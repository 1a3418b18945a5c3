"""Small files that ask for much memory or time: images, and data sets of them."""

import gzip
import struct
import tarfile
import zipfile
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from .mutants import encoded, seeds

MANY = 64 * 10**6  # bytes that a bomb of a data set unpacks to
WORD = struct.Struct(">I")


def chunk(kind: bytes, contents: bytes) -> bytes:
    sum_of = zlib.crc32(kind + contents)
    return WORD.pack(len(contents)) + kind + contents + WORD.pack(sum_of)


def png(width: int, height: int, extra: bytes = b"", pixels: bytes = b"") -> bytes:
    """Grey. extra: chunks between header and pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = pixels or zlib.compress(bytes(2))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@cache
def packed(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def images() -> dict[str, tuple[bytes, bool]]:
    """(bytes, whether it is to be refused) by name; the others decode, and cost no more."""
    return {**_refused(), **_harmless()}


def _refused() -> dict[str, tuple[bytes, bool]]:
    whole = seeds()
    grey = Image.new("L", (16, 16))
    jpeg, deep = encoded(grey, "JPEG"), encoded(grey, "JPEG", progressive=True)
    j2k, avif = encoded(grey, "JPEG2000", no_jp2=True), whole["14.avif"]
    gif, vp8 = encoded(Image.new("P", (2, 2)), "GIF"), _lossless_webp()
    frame = gif.rindex(b",\0\0\0\0\2\0\2\0") + 5
    found = {
        "PNG 9000": png(9000, 9000),
        "PNG 20000": png(20000, 20000),
        "PNG 2^31": png(2**31 - 1, 2**31 - 1),
        "PNG wide": png(2**31 - 1, 1),
        "PNG of one grey": png(8000, 8000, pixels=packed(8000 * 8001)),
        "J2K of one grey": _put(j2k, j2k.index(b"\xff\x51") + 6, struct.pack(">II", 7900, 7900)),
        "GIF screen": _put(gif, 6, b"\xff" * 4),
        "GIF frame": _put(gif, frame, b"\xff" * 4),
        "JPEG 65500": _put(jpeg, jpeg.index(b"\xff\xc0") + 5, struct.pack(">HH", 65500, 65500)),
        "JPEG 8100": _put(jpeg, jpeg.index(b"\xff\xc0") + 5, struct.pack(">HH", 8100, 8100)),
        "JPEG scans": _many_scans(_put(deep, deep.index(b"\xff\xc2") + 5, b"\x1e\0\x1e\0")),
        "J2K 60000": _put(j2k, j2k.index(b"\xff\x51") + 6, struct.pack(">II", 60000, 60000)),
        "AVIF 30000": _put(avif, avif.index(b"ispe") + 8, struct.pack(">II", 30000, 30000)),
        "WebP 16384": _put(vp8, vp8.index(b"VP8L") + 9, WORD.pack(0xFFFFFF0F)),
        "WebP canvas": _webp_canvas(vp8),
        "BMP 30000": _bmp(30000, 0),
        "BMP packed": _bmp(7900, 1),
        "BMP upside down": _bmp(-30000, 0),
        "PPM 40000": b"P6 40000 40000 255\n",
        "PPM digits": b"P6 " + b"9" * 400 + b" 1 255\n",
        "TIFF 60000": tiff(60000, 60000),
        "TIFF tile": tiff(4, 4, tile=2**15, compression=8),
        "TIFF tile LZW": tiff(4, 4, tile=2**15, compression=5),
        "TIFF tile 2^30": tiff(4, 4, tile=2**30, compression=8),
        "ICO": encoded(grey, "ICO"),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90000 90000\n%%EndComments\n",
        "TGA": bytes((0, 0, 2)) + bytes(9) + struct.pack("<HH", 65535, 65535) + bytes((32, 0)),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"/>',
    }
    return {name: (data, True) for name, data in found.items()}


def _harmless() -> dict[str, tuple[bytes, bool]]:
    text = b"".join(chunk(b"zTXt", b"k%d\0\0" % n + packed(2**20 - 1)) for n in range(60))
    wide = b"".join(chunk(b"iTXt", b"k%d\0\1\0\0\0" % n + packed(2**20 - 1)) for n in range(60))
    turned = b"Raw profile type exif\0\0" + packed(2**20 - 1)
    found = {
        "zTXt of 60 MB": png(1, 1, text),
        "iTXt of 60 MB": png(1, 1, wide),
        "zTXt of 64 MB": png(1, 1, chunk(b"zTXt", b"k\0\0" + packed(MANY))),
        "zTXt of EXIF": png(1, 1, chunk(b"zTXt", turned) * 60),
        "iCCP of 64 MB": png(1, 1, chunk(b"iCCP", b"p\0\0" + packed(MANY))),
        "IDAT of 64 MB": png(1, 1, pixels=packed(MANY)),
        "TIFF of a long tag": tiff(4, 4, more=((700, 1, 2**31, 0),)),
    }
    return {name: (data, False) for name, data in found.items()}


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def tiff(
    width: int,
    height: int,
    tile: int = 0,
    compression: int = 1,
    more: tuple[tuple[int, int, int, int], ...] = (),
) -> bytes:
    """Little-endian, 8-bit grey, of one strip or one square tile; tags are (number, type, n, v)."""
    contents = packed(2**20)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression)]
    tags += [(262, 3, 1, 1), (277, 3, 1, 1), *more]
    where = (322, 323, 324, 325) if tile else (273, 278, 279)
    size = (tile, tile, 8, len(contents)) if tile else (8, height, len(contents))
    tags += [(number, 4, 1, value) for number, value in zip(where, size)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<I", 8 + len(contents))
    return head + contents + struct.pack("<H", len(tags)) + entries + bytes(4)


def _many_scans(jpeg: bytes) -> bytes:
    """800 scans after the first, each of which says in a few bytes that no block changes."""
    blocks = (7680 // 8) ** 2
    bits = "0" + "1" * 14  # Huffman code 0: a run of 2^14 blocks, and 2^14 - 1 more
    runs = bits * -(-blocks // 32767)
    runs = runs.ljust(-(-len(runs) // 8) * 8, "0")
    coded = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    table = b"\xff\xc4\0\x14\x10\x01" + bytes(15) + b"\xe0"
    scan = table + b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0" + coded
    return jpeg[:-2] + scan * 800 + b"\xff\xd9"


def _lossless_webp() -> bytes:
    return encoded(Image.new("RGB", (2, 2)), "WEBP", lossless=True)


def _webp_canvas(still: bytes) -> bytes:
    """An animation of 16384 x 16384 whose one frame is 2 x 2."""
    side = (16383).to_bytes(3, "little") * 2
    frame = bytes(6) + (1).to_bytes(3, "little") * 2 + (99).to_bytes(3, "little") + b"\0"
    frame += still[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + side
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body += b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _bmp(height: int, compression: int) -> bytes:
    """As wide as high; a negative height stands for rows from above. compression 1: runs."""
    bits, colours = (8, 256) if compression else (24, 0)
    start = 54 + 4 * colours
    head = b"BM" + struct.pack("<IHHI", start, 0, 0, start)
    size = (40, abs(height), height, 1, bits, compression, 0, 0, 0, colours, 0)
    return head + struct.pack("<IiiHHIIiiII", *size) + bytes(4 * colours) + b"\0\1"


# --- data sets ----------------------------------------------------------------------------------


def data_sets(root: Path) -> dict[str, Path]:
    """Archives and arrays that unpack to a thousand times their size; all are to be refused."""
    return {
        "zip": _zip(root / "a.zip", {"a.png": bytes(MANY), "b.png": bytes(MANY)}),
        "zip of zips": _zip(root / "b.zip", {"a.zip": _zip_bytes({"a.png": bytes(MANY)})}),
        "zip that lies": _lying_zip(root / "c.zip"),
        "tar.gz": _tar_gz(root / "d.tar.gz"),
        "tar with holes": _sparse_tar(root / "e.tar"),
        "npz": _npz(root / "f.npz"),
        "npy header": _npy(root / "g.npy"),
        "idx.gz": _idx(root / "idx"),
        "huge file": _hollow(root / "hollow"),
    }


def _zip_bytes(files: dict[str, bytes]) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(_zip_bytes(files))
    return path


def _lying_zip(path: Path) -> Path:
    """A member that says that it unpacks to 1,000 bytes."""
    data = _zip_bytes({"a.png": bytes(MANY)})
    path.write_bytes(data.replace(struct.pack("<I", MANY), struct.pack("<I", 1000)))
    return path


def _tar_gz(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = MANY
        archive.addfile(member, BytesIO(bytes(MANY)))
    return path


def _sparse_tar(path: Path) -> Path:
    """GNU's old form of a file with holes: one block is there, the rest is said to be zeros."""
    member = tarfile.TarInfo("a.png")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)  # where the block lies, its size
    header[483:495] = b"%011o\0" % 400_000_000  # bytes with the holes
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(512 + 1024))
    return path


def _npz(path: Path) -> Path:
    np.savez_compressed(path, x=np.zeros((MANY // 64, 8, 8), np.uint8))
    return path


def _npy(path: Path) -> Path:
    """A header of 10^15 values and no values."""
    with path.open("wb") as file:
        shape = (10**9, 1000, 1000)
        what = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, what)
    return path


def _idx(folder: Path) -> Path:
    folder.mkdir()
    header = bytes((0, 0, 8, 3)) + struct.pack(">III", MANY // 64, 8, 8)
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(header + bytes(MANY))
    return folder


def _hollow(folder: Path) -> Path:
    """A file of 3 GB that takes no room on the disk."""
    folder.mkdir()
    with (folder / "a.png").open("wb") as file:
        file.write(seeds()["1.png"])
        file.truncate(3 * 10**9)
    return folder
