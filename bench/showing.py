"""Images of several contenders side by side, a class a row, as one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sfumato.pictures import BACKGROUND, INK, grid

SCALE, GAP, SPACE, TITLE = 2, 1, 14, 22  # pixels


def side_by_side(blocks: Mapping[str, Tensor], rows: Sequence[str], path: Path) -> None:
    """blocks: title to uint8 images (N, C, H, W), len(rows) rows of as many columns each."""
    pictures = [
        grid(
            images,
            columns=len(images) // len(rows),
            gap=GAP,
            row_labels=rows if place == 0 else None,
            scale=SCALE,
        ).convert("L")
        for place, images in enumerate(blocks.values())
    ]
    width = sum(one.width for one in pictures) + SPACE * (len(pictures) - 1)
    sheet = Image.new("L", (width, TITLE + max(one.height for one in pictures)), BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    left = 0
    for title, picture in zip(blocks, pictures, strict=True):
        sheet.paste(picture, (left, TITLE))
        cells = grid(blocks[title], columns=len(blocks[title]) // len(rows), gap=GAP, scale=SCALE)
        middle = left + picture.width - cells.width / 2
        pen.text((middle, TITLE / 2), title, INK, font, anchor="mm")
        left += picture.width + SPACE
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=80, method=6)
