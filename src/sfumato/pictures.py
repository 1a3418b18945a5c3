"""Pictures of images: labelled grids, and PNG files that carry the settings they were made with.

    cell (r, c) of a grid starts at    x = left + gap + c (w + gap),    y = top + gap + r (h + gap)

with w and h an image's width and height times a whole-number scale, `left` and `top` the margins
that the labels need. Images come as uint8 tensors (N, C, H, W), C = 1 (grey), 3 (RGB) or 4 (RGBA).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from .lettering import lines, lines_within

if TYPE_CHECKING:  # to read a picture's settings must not cost the import of torch
    from numpy.typing import NDArray
    from torch import Tensor

    Pixels = NDArray[np.uint8]

BACKGROUND = 232  # a grey that neither black digits nor photographs on white run into
INK = "#303030"
CELL_PIXELS = 72  # what a small image is enlarged to, about: 28 px digits to 3x
SHEET_PIXELS = 1200  # a sheet stays narrower than this if a smaller scale can do it
FONT_SIZE = 14
PAD = 6  # between a label and the cells
TEXT_KEY = "sfumato"
IMAGE_DESCRIPTION = 0x010E  # EXIF


def blank(mode: str, size: tuple[int, int]) -> Image.Image:
    return Image.new("L", size, BACKGROUND).convert(mode)


# --- grids


@dataclass(frozen=True)
class _Sheet:
    """Where the cells of a grid are, in pixels of the picture."""

    rows: int
    columns: int
    width: int  # of a cell
    height: int
    gap: int
    left: int  # margins for labels
    top: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """(x, y) of a cell's upper left pixel."""
        x = self.left + self.gap + column * (self.width + self.gap)
        y = self.top + self.gap + row * (self.height + self.gap)
        return x, y

    @property
    def size(self) -> tuple[int, int]:
        return self.corner(self.rows, self.columns)


def _pixels(images: Tensor) -> Pixels:
    return cells_of(np.asarray(images.detach().cpu()))


def cells_of(array: Pixels) -> Pixels:
    """(N, C, H, W) uint8 as (N, H, W) or (N, H, W, 3); the background shows through RGBA."""
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"a picture needs uint8 images (N, C, H, W) with C of 1, 3 or 4, not {array.dtype} "
            f"{array.shape}. Decode model values to uint8 first."
        )
    if 0 in array.shape:
        raise ValueError(f"there is nothing to draw in images of shape {array.shape}")
    if array.shape[1] == 1:
        return array[:, 0]
    colours = array[:, :3].transpose(0, 2, 3, 1)
    if array.shape[1] == 3:
        return colours
    opacity = array[:, 3, :, :, None] / 255
    return np.rint(opacity * colours + (1 - opacity) * BACKGROUND).astype(np.uint8)


def scale_for(cell: Pixels, columns: int, wanted: int = CELL_PIXELS) -> int:
    """The whole number, at least 1, that brings a cell (H, W, ...) nearest to `wanted` pixels."""
    height, width = cell.shape[:2]
    return max(1, min(round(wanted / max(height, width)), SHEET_PIXELS // (columns * width)))


def _check_labels(what: str, labels: Sequence[str] | None, count: int) -> None:
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} labels came for {count} {what}s: give one for each {what}")


def draw(
    cells: Sequence[Pixels | None],
    columns: int,
    gap: int,
    row_labels: Sequence[str] | None,
    column_labels: Sequence[str] | None,
    scale: int | None,
) -> Image.Image:
    """The grid of `grid`, of cells (H, W) or (H, W, 3) in row order; None leaves a place empty."""
    rows = math.ceil(len(cells) / columns)
    _check_labels("row", row_labels, rows)
    _check_labels("column", column_labels, columns)
    sample = next(cell for cell in cells if cell is not None)
    scale = scale_for(sample, columns) if scale is None else scale
    height, width = sample.shape[0] * scale, sample.shape[1] * scale
    font_size = min(max(FONT_SIZE, height // 10), 24)  # larger images, larger letters
    beside = lines(row_labels or (), min(font_size, height))
    above = lines_within(column_labels or (), width, font_size)
    left = max((mask.width + 2 * PAD for mask in beside), default=0)
    top = max((mask.height + PAD for mask in above), default=0)
    sheet = _Sheet(rows, columns, width, height, gap, left, top)
    canvas = blank("L" if sample.ndim == 2 else "RGB", sheet.size)
    for index, cell in enumerate(cells):
        if cell is not None:
            picture = Image.fromarray(cell).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(picture, sheet.corner(*divmod(index, columns)))
    _write_labels(canvas, sheet, beside, above)
    return canvas


def _write_labels(
    canvas: Image.Image, sheet: _Sheet, beside: Sequence[Image.Image], above: Sequence[Image.Image]
) -> None:
    """Right-aligned at the middle of each row, centred over each column, inside the margins."""
    for row, mask in enumerate(beside):
        x, y = sheet.corner(row, 0)
        x, y = sheet.left - PAD - mask.width, y + (sheet.height - mask.height) // 2
        canvas.paste(INK, (x, max(0, y)), mask)
    for column, mask in enumerate(above):
        x, _ = sheet.corner(0, column)
        x, y = x + (sheet.width - mask.width) // 2, sheet.top - mask.height
        canvas.paste(INK, (max(0, x), y), mask)


def grid(
    images: Tensor,
    columns: int | None = None,
    gap: int = 2,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int | None = None,
) -> Image.Image:
    """One picture of N images in rows of `columns`, mode "L" for grey images and else "RGB".

    Args:
        images: (N, C, H, W) uint8, C = 1, 3 or 4; transparent parts show the background.
        columns: the square root of N, rounded up, unless given.
        gap: pixels between the cells and around them.
        row_labels: one a row, written to the left.
        column_labels: one a column, written above; turned upright where they are too wide.
        scale: whole number of picture pixels an image pixel, by default so that a cell measures
            about 72; an image is never made smaller.

    Raises:
        ValueError: for other images, no images, or a wrong number of labels.
    """
    cells = list(_pixels(images))
    columns = math.ceil(math.sqrt(len(cells))) if columns is None else columns
    if columns < 1 or gap < 0 or (scale is not None and scale < 1):
        raise ValueError(f"columns {columns}, gap {gap}, scale {scale}: use at least 1, 0 and 1")
    return draw(cells, columns, gap, row_labels, column_labels, scale)


def data_preview(
    images: Tensor,
    class_names: Sequence[str] | None = None,
    labels: Tensor | None = None,
    columns: int = 10,
    rows: int = 20,
) -> Image.Image:
    """What a network will see: a class a row with its name, or without labels the first images.

    Args:
        images: (N, C, H, W) uint8, after crop, resize and flip.
        class_names: a name for each label.
        labels: (N,) whole numbers, indices of class_names.
        columns: images of a class that are shown.
        rows: classes that are shown: the first ones, where there are more.
    """
    if labels is None or not class_names:
        return grid(images[: columns * rows], columns=min(columns, len(images)))
    pixels = _pixels(images)
    kinds = np.asarray(labels.detach().cpu())
    if len(kinds) != len(pixels):
        raise ValueError(f"{len(kinds)} labels came for {len(pixels)} images: give one for each")
    names = list(class_names)[:rows]
    cells: list[Pixels | None] = []
    for label in range(len(names)):
        shown = [pixels[index] for index in np.flatnonzero(kinds == label)[:columns]]
        cells += [*shown, *[None] * (columns - len(shown))]
    if all(cell is None for cell in cells):
        raise ValueError(f"no image has a label below {len(names)}, the number of class names")
    return draw(cells, columns, 2, names, None, None)


# --- files


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write to, beside the wanted one, that takes its place once all went well.

    So a reader never meets half a file, and a failed write leaves the old one. Makes the folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}-{path.name}")  # same suffix: it names the format
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def as_json(settings: Mapping[str, Any]) -> str:
    """ASCII, for the text fields of PNG, EXIF and GIF know nothing wider that all programs read."""
    try:
        return json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a picture's settings must be plain JSON values (finite numbers, strings): {error}"
        ) from error


def save_png(image: Image.Image, path: str | Path, settings: Mapping[str, Any]) -> None:
    """Writes the picture, with its settings as JSON in the text chunk "sfumato", or nothing."""
    text = PngInfo()
    text.add_text(TEXT_KEY, as_json(settings))
    text.add_text("Software", "sfumato")
    with replacing(path) as draft:
        image.save(draft, format="PNG", pnginfo=text, optimize=True)


def read_settings(path: str | Path) -> dict[str, Any] | None:
    """The settings that save_png or film put into a PNG, WebP or GIF; None in a foreign picture.

    Raises:
        ValueError: the file is no picture, or its settings are damaged.
    """
    try:
        with Image.open(path) as image:
            image.load()  # a text chunk may come after the pixels
            texts = [image.info.get(TEXT_KEY), image.getexif().get(IMAGE_DESCRIPTION)]
            texts.append(image.info.get("comment", b""))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a picture that can be read: {error}") from error
    return _find_settings(texts, path)


def _find_settings(texts: Sequence[str | bytes | None], path: str | Path) -> dict[str, Any] | None:
    own, *marked = [t.decode("latin-1") if isinstance(t, bytes) else t or "" for t in texts]
    mark = f"{TEXT_KEY} "  # in fields that every program may use, ours starts with the name
    found = [own] if own else [text[len(mark) :] for text in marked if text.startswith(mark)]
    if not found:
        return None
    try:
        return dict(json.loads(found[0]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds settings that are no JSON object: {found[0]!r}") from error
