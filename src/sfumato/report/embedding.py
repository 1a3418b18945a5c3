"""Pictures inside a page: their own bytes, or where these are too many a smaller picture's."""

import base64
from collections.abc import Iterator
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageSequence

MIME = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif"}
PICTURE_BYTES = 1_000_000
FILM_BYTES = 3_000_000
SHARES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15)  # of the width, until it fits
QUALITY = 85  # of WebP


def embedded(path: Path, alt: str, most: int = PICTURE_BYTES) -> str:
    """An <img> that holds its file, with its size so that the page does not jump.

    most: bytes; a larger file is encoded anew, and smaller, until it fits or has the last of
    SHARES.
    """
    with Image.open(path) as image:
        width, height = image.size
    data, mime = path.read_bytes(), MIME[path.suffix]
    mark = ""
    if len(data) > most:
        data, (width, height) = fitted(path, most)
        mime, mark = "image/webp", "data-smaller "
    source = f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
    return f'<img {mark}src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'


def fitted(path: Path, most: int) -> tuple[bytes, tuple[int, int]]:
    """(WebP of at most so many bytes, its size), a film as a film."""
    found = (b"", (0, 0))
    for found in smaller(path):
        if len(found[0]) <= most:
            break
    return found


def smaller(path: Path) -> Iterator[tuple[bytes, tuple[int, int]]]:
    for share in SHARES:
        with Image.open(path) as image:
            size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
            frames = [
                frame.convert("RGB").resize(size, Image.Resampling.LANCZOS)
                for frame in ImageSequence.Iterator(image)
            ]
            duration = image.info.get("duration", 100)
        file = BytesIO()
        film = {"save_all": True, "append_images": frames[1:], "duration": duration, "loop": 0}
        more = film if len(frames) > 1 else {}
        frames[0].save(file, "WEBP", quality=QUALITY, **more)
        yield file.getvalue(), size
