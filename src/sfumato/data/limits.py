"""What is refused of an encoded image by its header, before memory is asked for.

    pixels    width x height, in all and for each byte of the file
    tiles     of a TIFF: each is decoded whole, however small the image is
    scans     of a progressive JPEG: each goes over the whole image once more
    text      of a PNG, which may unpack to a thousand times its size: taken out, nobody reads it

Pillow checks width x height alone, and only warns up to 179 megapixels. Its own limits of text let
60 KB of a PNG become 60 MB.
"""

from PIL import Image

MAX_PIXELS = 64_000_000  # 256 MB as RGBA
SMALL = 4_000_000  # pixels that any file may have
MAX_PIXELS_A_BYTE = 800  # one circle on 16 megapixels of white has 52 (JPEG) to 555 (GIF)
MAX_SCANS = 100  # encoders write about 10
SMALL_TILE = 2**20  # pixels of a TIFF's tile that are allowed in any image

_PNG = b"\x89PNG\r\n\x1a\n"
_UNREAD = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_ORIENTED = b"Raw profile type exif\0"  # ImageMagick's: it may say which side is up
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF 6.0, section 15


def check(image: Image.Image, data: bytes) -> None:
    """Raise ValueError where the opened, not yet decoded image `data` would take too much."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{width} x {height} is {width * height / 1e6:.0f} megapixels, "
            f"over the limit of {MAX_PIXELS // 1_000_000}"
        )
    bilevel = 8 if image.mode == "1" else 1
    if width * height > max(SMALL, bilevel * MAX_PIXELS_A_BYTE * len(data)):
        raise ValueError(
            f"{width} x {height} pixels in {len(data):,} bytes, which hold no image of that size"
        )
    if image.format == "TIFF":
        _check_tiles(image)
    if image.info.get("progressive"):
        # Coded data has a 0 after each 0xff: there, what looks like a scan's start is one. (Phones
        # append films to their JPEGs, where it may be chance; those are not progressive.)
        scans = data.count(b"\xff\xda")
        if scans > MAX_SCANS:
            raise ValueError(f"{scans:,} scans, over the limit of {MAX_SCANS} for a JPEG")


def _check_tiles(image: Image.Image) -> None:
    tags = image.getexif()
    width, length = (int(tags.get(tag, 0)) for tag in (_TILE_WIDTH, _TILE_LENGTH))
    most = max(SMALL_TILE, min(4 * image.width * image.height, MAX_PIXELS))
    if width * length > most:
        raise ValueError(
            f"tiles of {width} x {length} for an image of {image.width} x {image.height}"
        )


def without_text(data: bytes) -> bytes:
    """A PNG less its text and colour profile; other bytes as they came.

    The first profile of EXIF data that is kept as text stays, since it may turn the image.
    """
    if not data.startswith(_PNG) or not any(kind in data for kind in _UNREAD):
        return data
    kept, at, oriented = [_PNG], len(_PNG), False
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length  # length, kind, contents and their sum
        turns = not oriented and kind != b"iCCP" and data.startswith(_ORIENTED, at + 8)
        oriented = oriented or turns
        if turns or kind not in _UNREAD:
            kept.append(data[at:end])
        at = end
    return b"".join((*kept, data[at:]))
