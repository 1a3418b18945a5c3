"""A picture of one contender's images, a class a row, to stand beside the others'."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sfumato.pictures import BACKGROUND, INK, grid

COLUMNS, SCALE, GAP, SPACE, TITLE = 5, 2, 1, 8, 22  # images; the others in pixels


def titled(title: str, images: Tensor, path: Path, names: Sequence[str] | None = None) -> None:
    """images: uint8 (N, C, H, W), COLUMNS to a row. names: of the rows, where they are to stand."""
    cells = grid(images, columns=COLUMNS, gap=GAP, scale=SCALE).convert("L")
    told = grid(images, columns=COLUMNS, gap=GAP, row_labels=names, scale=SCALE).convert("L")
    sheet = Image.new("L", (told.width + SPACE, TITLE + told.height), BACKGROUND)
    sheet.paste(told, (0, TITLE))
    middle = (told.width - cells.width / 2, TITLE / 2)
    ImageDraw.Draw(sheet).text(middle, title, INK, ImageFont.load_default(size=13), anchor="mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=80, method=6)
