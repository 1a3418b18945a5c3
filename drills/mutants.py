"""Image files of fourteen formats, and what becomes of them: bits flipped, cut off, spliced."""

import os
import random
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 20)  # (width, height)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@cache
def seeds() -> dict[str, bytes]:
    """A whole file of each format, by the suffix that it is given; all show the same noise."""
    values = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 4), np.uint8)
    rgba = Image.fromarray(values)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    palette = rgb.quantize(16)
    frames = {"save_all": True, "append_images": [rgb.rotate(90, expand=False)]}
    return {
        "1.png": encoded(rgb, "PNG"),
        "2.png": encoded(deep, "PNG"),
        "3.png": encoded(palette, "PNG", transparency=bytes(range(16))),
        "4.png": encoded(rgb, "PNG", **frames),
        "5.jpg": encoded(rgb, "JPEG"),
        "6.jpg": encoded(rgb.convert("CMYK"), "JPEG", progressive=True),
        "7.gif": encoded(palette, "GIF", **frames),
        "8.webp": encoded(rgba, "WEBP", lossless=True),
        "9.webp": encoded(rgb, "WEBP", **frames),
        "10.tif": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "11.bmp": encoded(rgb, "BMP"),
        "12.ppm": encoded(grey, "PPM"),
        "13.jp2": encoded(rgb, "JPEG2000"),
        "14.avif": encoded(rgb, "AVIF"),
    }


def flipped(data: bytes, dice: random.Random) -> bytes:
    """One to eight bits turned; in the first 64 bytes as often as in all the rest."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        end = min(64, len(data)) if dice.random() < 0.5 else len(data)
        changed[dice.randrange(end)] ^= 1 << dice.randrange(8)
    return bytes(changed)


def spliced(data: bytes, other: bytes, dice: random.Random) -> bytes:
    """The start of one file and the end of another."""
    return data[: dice.randrange(len(data))] + other[dice.randrange(len(other)) :]


def mutants(count: int, seed: int) -> dict[str, bytes]:
    """`count` files by name: bits flipped, truncated, spliced, of a wrong suffix, or empty."""
    dice, whole = random.Random(seed), seeds()
    made = {}
    for number in range(count):
        kind = dice.choice(list(whole))
        data, suffix = whole[kind], kind.partition(".")[2]
        fate = dice.choices(["flip", "cut", "splice", "suffix", "empty"], (50, 20, 20, 9, 1))[0]
        if fate == "flip":
            data = flipped(data, dice)
        elif fate == "cut":
            data = data[: dice.randrange(len(data))]
        elif fate == "splice":
            data = spliced(data, whole[dice.choice(list(whole))], dice)
        elif fate == "suffix":
            suffix = dice.choice(list(whole)).partition(".")[2]
        else:
            data = b""
        made[f"{number:05}-{fate}.{suffix}"] = data
    return made


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def add_odd_files(folder: Path) -> set[str]:
    """A FIFO, a folder, loops and links to devices, called as images are; those to be named."""
    (folder / "folder.png").mkdir()
    (folder / "sealed.png").write_bytes(b"")
    (folder / "sealed.png").chmod(0)
    os.mkfifo(folder / "pipe.png")
    for name, target in (("loop", "loop.png"), ("gone", "nowhere"), ("zero", "/dev/zero")):
        os.symlink(target, folder / f"{name}.png")
    os.symlink("..", folder / "folder.png" / "up")
    return {f"{name}.png" for name in ("sealed", "pipe", "loop", "gone", "zero")}
