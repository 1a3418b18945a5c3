"""Lines of text as masks, in a font that has their letters: labels of grids, texts of films.

A mask is a picture of mode "L": 255 where ink goes, 0 where none does.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SMALLEST = 11  # pixels: a label that is too wide even so is turned by 90 degrees
UNASSIGNED = "\U0010fffe"  # no font has it: what it looks like is what a missing letter looks like
WIDE_FONTS = (  # have Chinese letters; their usual file names on Linux, Windows and macOS
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "msyh.ttc",
    "simhei.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf",
)


def has_letters(font: Font, text: str) -> bool:
    """Whether the font can draw every letter of the text."""
    missing = bytes(font.getmask(UNASSIGNED))
    return all(bytes(font.getmask(letter)) != missing for letter in set(text) - {" "})


def _fonts(size: float) -> Iterator[Font]:
    """Pillow's own (ASCII), matplotlib's (Latin, Greek, Cyrillic), then what the system has."""
    yield ImageFont.load_default(size)
    import matplotlib

    yield ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
    for name in WIDE_FONTS:
        try:
            yield ImageFont.truetype(name, size)
        except OSError:  # not installed here
            continue


def font_for(text: str, size: float) -> Font:
    """The first font that has every letter of the text, else the default one and a warning."""
    for font in _fonts(size):
        if has_letters(font, text):
            return font
    warnings.warn(
        f"No font found here has all the letters of {text!r}: a picture shows boxes for some. "
        "Install Noto Sans CJK, or rename the classes.",
        stacklevel=2,
    )
    return ImageFont.load_default(size)


def _line(text: str, font: Font) -> Image.Image:
    """One line as a mask that holds all of its ink and is as high as any line of this font."""
    left, top, right, bottom = font.getbbox(text)
    left, top = min(left, 0), min(top, 0)  # of italics, or an accent on a capital letter
    depth = max(bottom, font.getbbox("Ag")[3])
    mask = Image.new("L", (max(1, math.ceil(right - left)), math.ceil(depth - top) + 1))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font)
    return mask


def lines(texts: Sequence[str], size: float) -> list[Image.Image]:
    """A mask for each text, all in one font of `size` pixels; line breaks count as spaces."""
    flat = [" ".join(text.split()) for text in texts]
    font = font_for("".join(flat), size)
    return [_line(text, font) for text in flat]


def lines_within(texts: Sequence[str], width: int, size: int) -> list[Image.Image]:
    """Masks no wider than `width` pixels: if need be in a smaller font, or turned upright."""
    for smaller in range(size, SMALLEST - 1, -1):
        masks = lines(texts, smaller)
        if all(mask.width <= width for mask in masks):
            return masks
    turned = lines(texts, min(size, max(1, width - 2)))
    return [mask.transpose(Image.Transpose.ROTATE_90) for mask in turned]
