"""Images of every mode, and the pixels that each should become, worked out by hand."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sfumato.data.images import Pixels, recolour

from .mutants import encoded

Given = bytes | Callable[[], Pixels]  # a file, or what to call where no format holds the mode
Case = tuple[str, Given, int | None, Pixels]  # name, given, channels asked for, wanted

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
DICE = np.random.default_rng(3).integers(0, 256, (16, 16, 4), np.uint8)
COLOURS, OPACITY = np.ascontiguousarray(DICE[..., :3]), DICE[..., 3]


def cases() -> list[Case]:
    return [*plain(), *see_through(), *palettes(), *other_spaces(), *deep(), *turned(), *moving()]


def plain() -> Iterator[Case]:
    bits = (RAMP > 99).astype(np.uint8) * 255
    yield "1", encoded(Image.fromarray(bits).convert("1"), "PNG"), None, bits
    yield "L", encoded(Image.fromarray(RAMP), "PNG"), None, RAMP
    yield "L as 3", encoded(Image.fromarray(RAMP), "PNG"), 3, np.stack([RAMP] * 3, -1)
    yield "RGB", encoded(Image.fromarray(COLOURS), "BMP"), None, COLOURS
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    grey = np.round(COLOURS @ weights).astype(np.uint8)
    yield "RGB as 1", encoded(Image.fromarray(COLOURS), "PNG"), 1, grey
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("PNG", "TIFF", "WEBP"):
        exact = {"lossless": True} if kind == "WEBP" else {}
        file = encoded(Image.fromarray(COLOURS), kind, icc_profile=profile, **exact)
        yield f"ICC in {kind}", file, None, COLOURS


def on_paper(values: NDArray[np.uint8], opacity: NDArray[np.uint8]) -> Pixels:
    """values x opacity + white x (1 - opacity)."""
    share = opacity.astype(float) / 255
    share = share[..., None] if values.ndim == 3 else share
    return np.round(values * share + 255 * (1 - share)).astype(np.uint8)


def see_through() -> Iterator[Case]:
    pair = Image.merge("LA", (Image.fromarray(RAMP), Image.fromarray(OPACITY)))
    yield "LA", encoded(pair, "PNG"), None, on_paper(RAMP, OPACITY)
    for kind in ("PNG", "TIFF"):
        yield f"RGBA {kind}", encoded(Image.fromarray(DICE), kind), None, on_paper(COLOURS, OPACITY)
    yield "RGBA as 4", encoded(Image.fromarray(DICE), "PNG"), 4, DICE
    keyed = np.where((RAMP == 7)[..., None], 255, np.stack([RAMP] * 3, -1)).astype(np.uint8)
    keyed[..., 1] = np.where(RAMP == 7, 255, 9)
    colours = np.stack([RAMP, np.full_like(RAMP, 9), RAMP], -1)
    key = encoded(Image.fromarray(colours), "PNG", transparency=(7, 9, 7))
    yield "RGB + tRNS", key, None, keyed
    holed = np.where(RAMP == 7, 255, RAMP).astype(np.uint8)
    yield "L + tRNS", encoded(Image.fromarray(RAMP), "PNG", transparency=7), None, holed


def palettes() -> Iterator[Case]:
    table = DICE[:, 0, :3]
    index = RAMP % 16
    image = Image.fromarray(index)
    image.putpalette(table.tobytes())
    for kind in ("PNG", "GIF", "BMP"):
        yield f"P {kind}", encoded(image, kind), None, table[index]
    opacity = DICE[:, 1, 3]
    file = encoded(image, "PNG", transparency=opacity.tobytes())
    yield "P + tRNS", file, None, on_paper(table[index], opacity[index])
    pair = image.convert("PA")
    pair.putalpha(Image.fromarray(OPACITY))
    wanted = on_paper(table[index], OPACITY)
    yield "PA", lambda: np.asarray(recolour(pair, 3)), None, wanted


def other_spaces() -> Iterator[Case]:
    ink = DICE.astype(float)
    light = np.round((255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255).astype(np.uint8)
    yield "CMYK", encoded(Image.fromarray(DICE, "CMYK"), "TIFF"), None, light
    yield "YCbCr", lambda: np.asarray(recolour(Image.fromarray(COLOURS, "YCbCr"), 3)), None, jfif()
    hues = np.zeros((16, 16, 3), np.uint8)
    hues[:8], hues[8:, :, 2] = (0, 255, 200), RAMP[8:]  # red above, greys below
    red = np.where(hues[..., 1:2] > 0, (200, 0, 0), hues[..., 2:]).astype(np.uint8)
    yield "HSV", lambda: np.asarray(recolour(Image.fromarray(hues, "HSV"), 3)), None, red
    neutral = np.zeros((16, 16, 3), np.uint8)
    neutral[..., 0] = RAMP
    yield "LAB", encoded(Image.fromarray(neutral, "LAB"), "TIFF"), None, lightness_to_grey()


def jfif() -> Pixels:
    """JFIF 1.02: R = Y + 1.402 (Cr - 128) and so on."""
    y, cb, cr = (COLOURS[..., k].astype(float) - (0, 128, 128)[k] for k in range(3))
    red, green, blue = y + 1.402 * cr, y - 0.34414 * cb - 0.71414 * cr, y + 1.772 * cb
    return np.round(np.clip(np.stack([red, green, blue], -1), 0, 255)).astype(np.uint8)


def lightness_to_grey() -> Pixels:
    """CIE's L* of 0 to 100 as 0 to 255, to sRGB's curve: what has no colour is grey."""
    light = RAMP / 255 * 100
    y = np.where(light > 8, ((light + 16) / 116) ** 3, light * 27 / 24389)
    return np.round(
        255 * np.where(y > 0.0031308, 1.055 * y ** (1 / 2.4) - 0.055, 12.92 * y)
    ).astype(np.uint8)


def deep() -> Iterator[Case]:
    steps = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    wanted = np.round(steps / 257).astype(np.uint8)
    assert len(np.unique(wanted)) >= 250  # a clipped ramp has a few
    yield "I;16", encoded(Image.fromarray(steps), "PNG"), None, wanted
    big = Image.frombytes("I;16B", (16, 16), steps.astype(">u2").tobytes())
    yield "I;16B", encoded(big, "TIFF"), None, wanted
    wide = Image.fromarray(steps.astype(np.int32))
    yield "I", encoded(wide, "TIFF"), None, wanted
    yield "F", encoded(Image.fromarray((RAMP / 255).astype(np.float32)), "TIFF"), None, RAMP


def turned() -> Iterator[Case]:
    """EXIF's orientations (table 4.6.4): where the stored row 0 and column 0 are seen."""
    stored = COLOURS[:, :10]  # 16 high, 10 wide
    flipped = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1]}
    across = stored.transpose(1, 0, 2)
    flipped |= {5: across, 6: across[:, ::-1], 7: across[::-1, ::-1], 8: across[::-1]}
    for orientation, wanted in flipped.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield (
            f"EXIF {orientation}",
            encoded(Image.fromarray(stored), "PNG", exif=exif),
            None,
            np.ascontiguousarray(wanted),
        )


def moving() -> Iterator[Case]:
    first, second = Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)
    frames = {"save_all": True, "append_images": [second]}
    yield "APNG", encoded(first, "PNG", **frames), None, COLOURS
    yield "WebP", encoded(first, "WEBP", lossless=True, **frames), None, COLOURS
    grey, inverse = Image.fromarray(RAMP), Image.fromarray(255 - RAMP)
    still = {"save_all": True, "append_images": [inverse], "optimize": False}
    yield "GIF", encoded(grey, "GIF", **still), None, RAMP
