"""Films of a sampling run: the noisy x_t beside the estimate of x0, point by point, WebP or GIF.

    shown(x_t) = 127.5 (1 + x_t / sqrt(alpha^2 + 4 sigma^2)),    clamped to [0, 255]

The file carries its settings; `pictures.read_settings` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .lettering import lines
from .pictures import (
    FONT_SIZE,
    IMAGE_DESCRIPTION,
    INK,
    PAD,
    TEXT_KEY,
    as_json,
    blank,
    cells_of,
    draw,
    grid,
    replacing,
    scale_for,
)

if TYPE_CHECKING:
    from torch import Tensor

    from .pictures import Pixels

CELL_PIXELS = 56  # two grids share the width, and every frame costs
RAIL = "#c8c8c8"  # of the bar
WEBP: dict[str, dict[str, Any]] = {  # by mode of the frames
    "L": {"lossless": True, "quality": 50},  # for grey noise smaller and crisper than a lossy file
    "RGB": {"quality": 70},
}


def show_noisy(x_t: Tensor, alpha: float, sigma: float) -> Pixels:
    """x_t as it is best looked at: 127.5 (1 + x_t / sqrt(alpha^2 + 4 sigma^2)), (N, C, H, W) uint8.

    At sigma = 0 that is the image itself. Pure noise gets a standard deviation of half the range,
    so 95 % of it is drawn as it is; a clamp of x_t to [-1, 1] would make a third black or white.
    """
    shown = x_t.detach().cpu().double().numpy() / math.hypot(alpha, 2 * sigma)
    levels = 127.5 * (1 + shown.clip(-1, 1))
    if sigma > 0.1 * alpha:  # 32 levels: the noise itself hides the steps, and the file shrinks
        levels = np.floor(levels / 8).clip(0, 31) * 255 / 31
    return np.rint(levels).astype(np.uint8)


def _side_by_side(
    panels: Sequence[Image.Image],
    texts: Sequence[tuple[Image.Image, Image.Image]],
    widths: Sequence[int],
    done: float,
) -> Image.Image:
    """A frame: each panel with its texts, one above and one below, and a bar of what is done."""
    line, edge = texts[0][0].height, 2 * PAD
    height = edge + line + PAD + panels[0].height + PAD + line + 3 * PAD
    canvas = blank(panels[0].mode, (sum(widths) + (len(widths) + 1) * edge, height))
    x = edge
    for panel, (above, below), width in zip(panels, texts, widths):
        canvas.paste(INK, (x, edge), above)
        canvas.paste(panel, (x, edge + line + PAD))
        canvas.paste(INK, (x, edge + line + 2 * PAD + panel.height), below)
        x += width + edge
    for share, ink in ((1.0, RAIL), (done, INK)):
        end = edge + round(share * (canvas.width - 2 * edge))
        canvas.paste(ink, (edge, height - 2 * PAD, end, height - 2 * PAD + 3))
    return canvas


def _film_texts(
    alphas: Sequence[float], sigmas: Sequence[float], steps: Sequence[int]
) -> list[tuple[str, str]]:
    """What stands below the two grids of each frame."""
    return [
        (f"step {step} of {steps[-1]}", f"signal {alpha:.3f},  noise {sigma:.3f}")
        for alpha, sigma, step in zip(alphas, sigmas, steps)
    ]


def _frames(
    left: Sequence[Image.Image], right: Sequence[Image.Image], below: Sequence[tuple[str, str]]
) -> list[Image.Image]:
    captions = lines(("x_t, noisy", "estimate of x0"), FONT_SIZE)
    masks = [lines(texts, FONT_SIZE) for texts in below]
    widths = [
        max(panels[0].width, caption.width, *(mask.width for mask in column))
        for panels, caption, column in zip((left, right), captions, zip(*masks))
    ]
    last = max(1, len(left) - 1)
    return [
        _side_by_side((x, x0), list(zip(captions, texts)), widths, index / last)
        for index, (x, x0, texts) in enumerate(zip(left, right, masks))
    ]


def _fixed_palette(frames: list[Image.Image]) -> tuple[list[Image.Image], list[int]]:
    """The frames in the same 256 colours for all: with a palette each they would flicker."""
    if frames[0].mode == "L":
        greys = [level for level in range(256) for _ in range(3)]
        for frame in frames:
            frame.putpalette(greys)
        return frames, greys
    width, height = frames[0].size
    shown = frames[:: max(1, len(frames) // 6)] + frames[-1:]
    album = Image.new("RGB", (width, height * len(shown)))
    for index, frame in enumerate(shown):
        album.paste(frame, (0, index * height))
    palette = album.quantize(256, Image.Quantize.MEDIANCUT)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    return indexed, palette.getpalette() or []


def _write_film(
    frames: list[Image.Image], path: Path, durations: list[int], settings: Mapping[str, Any]
) -> None:
    note = f"{TEXT_KEY} {as_json(settings)}"
    options: dict[str, Any]
    if path.suffix.lower() == ".gif":
        frames, palette = _fixed_palette(frames)
        options = {"format": "GIF", "comment": note.encode(), "palette": palette}
    else:
        exif = Image.Exif()
        exif[IMAGE_DESCRIPTION] = note
        options = {"format": "WEBP", "exif": exif.tobytes(), "method": 2, **WEBP[frames[0].mode]}
    with replacing(path) as draft:
        frames[0].save(
            draft, save_all=True, append_images=frames[1:], duration=durations, loop=0, **options
        )


def _check(path: Path, counts: Sequence[int]) -> None:
    if path.suffix.lower() not in (".webp", ".gif"):
        raise ValueError(f"a film is a .webp or a .gif file, not {path.name!r}")
    if min(counts) != max(counts) or not counts[0]:
        raise ValueError(f"a film needs equally many x_t, x0, alphas, sigmas, steps, not {counts}")


def film(
    frames_x: Sequence[Tensor],
    frames_x0: Sequence[Tensor],
    path: str | Path,
    alphas: Sequence[float],
    sigmas: Sequence[float],
    *,
    settings: Mapping[str, Any] | None = None,
    steps: Sequence[int] | None = None,
    columns: int | None = None,
    row_labels: Sequence[str] | None = None,
    scale: int | None = None,
    milliseconds: tuple[int, int, int] = (800, 90, 2500),
) -> None:
    """Writes how noise became images: x_t beside the estimate of x0, a frame a recorded point.

    Measured as WebP, 30 points: 100 grey 28 x 28 images 2.2 MB, 40 of them 0.9 MB, 40 images of
    32 x 32 in colour 2.4 MB. A GIF is two to four times as large: give it fewer images.

    Args:
        frames_x: F noisy batches (N, C, H, W), float in the network's units; see show_noisy.
        frames_x0: F estimates (N, C, H, W), uint8, in the same order.
        path: ends in .webp (smaller, all colours) or .gif.
        alphas, sigmas: F scales of signal and of noise, those of the points.
        settings: plain JSON values, kept in the file for read_settings.
        steps: F numbers of solver steps done, for the counter; 0 to F - 1 unless given.
        columns, row_labels, scale: as for grid; the labels stand beside x_t.
        milliseconds: how long the first frame, each frame between, and the last frame stay.

    Raises:
        ValueError: for another suffix, no frames, or sequences of different lengths.
    """
    path, steps = Path(path), range(len(frames_x)) if steps is None else steps
    _check(path, [len(part) for part in (frames_x, frames_x0, alphas, sigmas, steps)])
    noisy = [show_noisy(*point) for point in zip(frames_x, alphas, sigmas)]
    columns = math.ceil(math.sqrt(len(noisy[0]))) if columns is None else columns
    if scale is None:  # two grids share the width, and every frame costs
        scale = scale_for(noisy[0][0, 0], 2 * columns, CELL_PIXELS)
    left = [draw(list(cells_of(x)), columns, 2, row_labels, None, scale) for x in noisy]
    right = [grid(x0, columns, scale=scale) for x0 in frames_x0]
    first, between, last = milliseconds
    durations = [first, *[between] * (len(left) - 2), last][-len(left) :]
    frames = _frames(left, right, _film_texts(alphas, sigmas, steps))
    _write_film(frames, path, durations, settings or {})
