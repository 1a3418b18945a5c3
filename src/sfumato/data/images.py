"""One encoded image to uint8 pixels, whatever its mode.

    the file -> upright (EXIF) -> 8 bits -> opacity laid on white -> channels -> crop -> size

What each kind becomes:
    palette, CMYK, YCbCr    RGB; a palette of greys counts as grey
    CIELAB                  sRGB, see `colour`
    opacity of any kind     laid on white, unless 4 channels are asked for
    16-bit                  round(value / 257): the whole range, where Pillow would clip at 255
    float                   from 0 to 1, or refused
    32-bit integer          as 16-bit; refused where its range leaves a doubt, see `_wide`
    1-bit                   0 and 255
    animated                the first frame

Colour profiles (ICC) are not applied: the numbers in the file are taken for sRGB.

Sizes are (height, width) throughout; Pillow's own are (width, height).
"""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sfumato.data.colour import lab_to_rgb
from sfumato.data.limits import check, without_text

Pixels = NDArray[np.uint8]
Size = tuple[int, int]

# A closed list: Pillow's others include ones that start an outside program (EPS) and ones
# without a signature, which take any text for an image (TGA).
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF")
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".tif", ".tiff"),
    *(".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".avif"),
)

# What Pillow and the archive readers raise on damaged files: the documented ones, and
# RuntimeError, which its AVIF decoder and an encrypted zip member raise.
READ_ERRORS = (
    OSError,  # UnidentifiedImageError, a truncated file, and tarfile's and gzip's own
    EOFError,
    ValueError,
    SyntaxError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    ZeroDivisionError,
    MemoryError,
    RuntimeError,  # NotImplementedError: a zip's unknown compression
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # an error while a set is decoded
)

_ORIENTATION = 0x0112  # EXIF and TIFF
_TURNS = {  # EXIF orientation: what brings the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ROUNDED = 1e-3  # by which resampling and rounding may take a float beyond 0 and 1: a quarter level
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Decoded:
    """One image and what happened to it."""

    pixels: Pixels  # (H, W) where grey, else (H, W, 3) or (H, W, 4)
    enlarged: bool  # some side had fewer pixels than asked for


def probe(data: bytes) -> Size:
    """(H, W) of the upright image, from the header alone.

    Raises one of READ_ERRORS where it cannot be read.
    """
    with _opened(data) as image:
        # Pillow gives a TIFF's size upright. A PNG without a key would be decoded whole here.
        unmarked = image.info.keys().isdisjoint(("exif", "Raw profile type exif"))
        as_stored = image.format == "TIFF" or (image.format == "PNG" and unmarked)
        return _upright(image.size, 1 if as_stored else _orientation(image))


def decode(
    data: bytes,
    size: Size | None = None,
    channels: int | None = None,
    crop: Size | None = None,
) -> Decoded:
    """The pixels of an encoded image.

    size: None keeps it; (H, W) scales the image until it covers that, and crops the centre.
    channels: 1, 3 or 4; None gives (H, W) where every pixel is grey, else (H, W, 3).
    crop: (H, W) of the centre that is cut out before scaling, where the image is larger.
    Raises one of READ_ERRORS where it cannot be read.
    """
    with _opened(data) as image:
        stored = image.size
        if size is not None and crop is None:
            _shrink_on_load(image, size)
        image.load()
        orientation = _orientation(image)
        plain = recolour(_eight_bit(image), channels)
    if orientation in _TURNS:
        plain = plain.transpose(_TURNS[orientation])
    pixels = np.asarray(cover(centre(plain, crop), size))
    height, width = _upright(stored, orientation) if crop is None else crop
    enlarged = size is not None and (height < size[0] or width < size[1])
    return Decoded(grey_if_grey(pixels) if channels is None else pixels, enlarged)


def reason(error: Exception) -> str:
    """Why a file was left out, in words that are the same on every run."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a kind that is read here"  # Pillow's has a memory address in it
    text = " ".join(str(error).split())
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__} {text}"


def recolour(image: Image.Image, channels: int | None) -> Image.Image:
    """An 8-bit image as L (1), RGB (3) or RGBA (4); None: L or RGB, as it comes."""
    if channels == 4:
        opaque = not image.has_transparency_data
        return (on_white(image) if opaque else image).convert("RGBA")
    flat = on_white(image)
    return flat if channels is None else flat.convert("L" if channels == 1 else "RGB")


def on_white(image: Image.Image) -> Image.Image:
    """L or RGB, opacity laid on white: the paper that icons and drawings are made for."""
    colour = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        return image.convert(colour)
    whole = image.convert("LA" if colour == "L" else "RGBA")
    paper = Image.new(colour, image.size, "white")
    paper.paste(whole.convert(colour), mask=whole.getchannel("A"))
    return paper


def centre(image: Image.Image, size: Size | None) -> Image.Image:
    """The middle (H, W) of an image; all of it along a side that is no longer than that."""
    if size is None:
        return image
    height, width = min(size[0], image.height), min(size[1], image.width)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def cover(image: Image.Image, size: Size | None) -> Image.Image:
    """Scale by one factor, antialiased, until `size` (H, W) is covered; crop the centre."""
    if size is None or image.size == size[::-1]:
        return image
    (width, height), (new_height, new_width) = image.size, size
    scale = min(width / new_width, height / new_height)  # old pixels for a new one
    left, top = (width - scale * new_width) / 2, (height - scale * new_height) / 2
    right, bottom = min(left + scale * new_width, width), min(top + scale * new_height, height)
    box = (max(left, 0), max(top, 0), right, bottom)  # rounding may lead a hair outside
    # Lanczos as in EDM's and most papers' data; a gap of 3 is as good as none, and faster.
    return image.resize((new_width, new_height), Image.Resampling.LANCZOS, box, reducing_gap=3.0)


def grey_if_grey(pixels: Pixels) -> Pixels:
    """(H, W) where R = G = B everywhere, else the pixels as they came."""
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    return pixels


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    if not data:
        raise ValueError("the file is empty")
    Image.init()  # Pillow knows no format before; it does this once
    known = tuple(name for name in FORMATS if name in Image.OPEN)
    plain = without_text(data)
    with Image.open(BytesIO(plain), formats=known) as image:
        check(image, plain)
        yield image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except READ_ERRORS:
        return 1  # a damaged EXIF block says nothing of the pixels, which are there
    return value if value in _TURNS else 1


def _upright(size: tuple[int, int], orientation: int) -> Size:
    """Pillow's (width, height) as stored to (H, W) as seen."""
    return size if orientation in _SIDEWAYS else size[::-1]


def _shrink_on_load(image: Image.Image, size: Size) -> None:
    """Let a JPEG decode at 1/2, 1/4 or 1/8, never below twice the size that is wanted."""
    ratio = 2 * max(size) / min(image.size)  # max and min: right however EXIF turns it
    wanted = (int(np.ceil(ratio * image.size[0])), int(np.ceil(ratio * image.size[1])))
    image.draft(None, wanted)  # nothing happens for other formats


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _deep(image)
    if image.mode == "I":
        return _wide(image)
    if image.mode == "F":
        return _real(image)
    if image.mode == "LAB":
        return Image.fromarray(lab_to_rgb(np.asarray(image)))
    return image


def _scaled(values: NDArray[np.generic], top: int) -> Pixels:
    """0..top to 0..255, rounded: integers, so that every level is exact."""
    wide = values.astype(np.int64)
    return np.minimum((wide * 255 + top // 2) // top, 255).astype(np.uint8)


def _deep(image: Image.Image) -> Image.Image:
    """16-bit grey. A TIFF may say that it holds 12 bits."""
    values = np.asarray(image)
    twelve = image.format == "TIFF" and image.getexif().get(258) in (12, (12,))
    grey = Image.fromarray(_scaled(values, 4095 if twelve else 65535))
    key = image.info.get("transparency")
    if key is not None:  # a PNG's one see-through level, compared before it is rounded
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _wide(image: Image.Image) -> Image.Image:
    """32-bit integers, as which Pillow gives some PNG and PPM of 16 bits: white is 65535.

    A file of 32 bits without a value above 255 is refused: it may be of 8 bits or a dark one of 16,
    and taken by its own brightest it would be no neighbour's equal. So are signed ones of 16.
    """
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    signed = image.format == "TIFF" and image.getexif().get(258) in (16, (16,))
    surely = image.format in ("PNG", "PPM") or high > 255 or high == 0
    if low < 0 or high > 65535 or signed or not surely:
        kind = "signed" if signed else "32-bit"
        raise ValueError(
            f"{kind} integers from {low} to {high}, which do not say what white is: save it with "
            "8 or 16 bits"
        )
    return Image.fromarray(_scaled(values, 65535))


def _real(image: Image.Image) -> Image.Image:
    """Floats from 0, black, to 1, white: never by the image's own range, see `_wide`."""
    values = np.asarray(image)
    low, high = values.min(), values.max()  # float32, which are written with digits to tell them by
    if not (low >= -_ROUNDED and high <= 1 + _ROUNDED):  # `not` also catches NaN
        raise ValueError(
            f"float values from {low!s} to {high!s}, of which 1 would be white: save it from 0 to "
            "1, or as 8 bits"
        )
    levels = values.astype(np.float64).clip(0, 1) * 255
    return Image.fromarray(np.floor(levels + 0.5).astype(np.uint8))
