"""Films of a training run: the grid of the same seeds, step after step, WebP or GIF.

    frame i = samples/step-S_i.png, "step S_i of S_last", and a bar of length S_i / S_last

The bar goes by steps, so that a viewer sees when much happens: previews are closest together early.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .films import RAIL, _write_film
from .lettering import lines
from .pictures import FONT_SIZE, INK, PAD, blank, read_settings

NAME = re.compile(r"step-(\d+)\.png")
FRAMES = 60  # at most: more would take longer to see than the change is worth
WIDEST = 720  # pixels: larger grids are made smaller, by a whole number


def step_of(path: Path) -> int | None:
    """1200 of step-0001200.png; None of other files."""
    found = NAME.fullmatch(path.name)
    return int(found.group(1)) if found else None


def grids_of(run: Path) -> list[tuple[int, Path]]:
    """(step, picture) of RUN/samples, by step.

    Raises:
        FileNotFoundError: there is none.
    """
    numbered = [(step_of(path), path) for path in (run / "samples").glob("step-*.png")]
    found = sorted((step, path) for step, path in numbered if step is not None)
    if not found:
        raise FileNotFoundError(
            f"{run / 'samples'} has no step-*.png: a run draws them as it trains; give its folder"
        )
    return found


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 ... count - 1, evenly, both ends included."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def _opened(path: Path) -> Image.Image:
    """The picture in mode "L" or "RGB", at most about WIDEST wide."""
    with Image.open(path) as image:
        plain = image.convert("L" if image.mode in ("1", "L") else "RGB")
    smaller = -(-plain.width // WIDEST)
    return plain.reduce(smaller) if smaller > 1 else plain


def _frame(picture: Image.Image, text: Image.Image, done: float, width: int) -> Image.Image:
    """The grid, its text below, and a bar of what is done."""
    edge = 2 * PAD
    height = edge + picture.height + PAD + text.height + 3 * PAD
    canvas = blank(picture.mode, (width + 2 * edge, height))
    canvas.paste(picture, (edge, edge))
    canvas.paste(INK, (edge, edge + picture.height + PAD), text)
    for share, ink in ((1.0, RAIL), (done, INK)):
        end = edge + round(share * width)
        canvas.paste(ink, (edge, height - 2 * PAD, end, height - 2 * PAD + 3))
    return canvas


def frames_of(pictures: Sequence[Image.Image], steps: Sequence[int]) -> list[Image.Image]:
    """A frame for each picture, all of one size and mode.

    Raises:
        ValueError: the pictures differ in size.
    """
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) > 1:
        raise ValueError(
            f"the pictures of one film differ in size, {sizes}: take those of one setting only"
        )
    texts = lines([f"step {step:,} of {steps[-1]:,}" for step in steps], FONT_SIZE)
    width = max(sizes[0][0], *(text.width for text in texts))
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    last = max(1, steps[-1])
    return [
        _frame(picture.convert(mode), text, step / last, width)
        for picture, text, step in zip(pictures, texts, steps)
    ]


def training_film(
    run: Path,
    path: str | Path | None = None,
    *,
    frames: int = FRAMES,
    milliseconds: tuple[int, int, int] = (800, 250, 2500),
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Writes how a run's samples changed as it trained, a frame a preview; returns the file.

    Args:
        run: the run's folder, with samples/step-*.png from fixed seeds.
        path: ends in .webp (smaller, all colours) or .gif; RUN/training.webp unless given.
        frames: at most so many, evenly out of all, the first and the last among them.
        milliseconds: how long the first frame, each frame between, and the last frame stay.
        settings: plain JSON values, kept in the file for read_settings; those of the last picture,
            with the steps shown, unless given.

    Raises:
        FileNotFoundError: the run has no pictures yet.
        ValueError: for another suffix, fewer than 2 frames, or pictures of different sizes.
    """
    path = run / "training.webp" if path is None else Path(path)
    if path.suffix.lower() not in (".webp", ".gif"):
        raise ValueError(f"a film is a .webp or a .gif file, not {path.name!r}")
    if frames < 2:
        raise ValueError(f"a film of {frames} frames: it needs 2 or more, the first and the last")
    found = grids_of(run)
    shown = [found[index] for index in spread(len(found), frames)]
    steps = [step for step, _ in shown]
    drawn = frames_of([_opened(picture) for _, picture in shown], steps)
    first, between, last = milliseconds
    durations = [first, *[between] * (len(drawn) - 2), last][-len(drawn) :]
    if settings is None:
        settings = {**(read_settings(shown[-1][1]) or {}), "steps": steps}
    _write_film(drawn, path, durations, settings)
    return path
