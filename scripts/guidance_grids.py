"""Draw docs/pictures/guidance-*.webp: the same seeds at guidance scales 1, 2 and 4.

    python scripts/guidance_grids.py RUNS [--judge FOLDER] [--images 500]

RUNS holds runs of the recipes digits, digits_unlabelled, noisy_classifier and emoji_text, each in
a folder of its recipe's name. FOLDER is a judge of digits (`sfumato compare` leaves one in its
folder): with it, docs/measured/guidance.json says how many of --images digits are of the class that
was asked for, and how far they are from the training images. Nothing is picked: seeds from 0.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sfumato.assembly import splits_of
from sfumato.data import load
from sfumato.generation import Order, class_rows, draw
from sfumato.judging import load_judge, measure
from sfumato.lettering import lines
from sfumato.loading import Loaded, guided, load_run
from sfumato.pictures import FONT_SIZE, INK, blank, grid

DOCS = Path(__file__).parents[1] / "docs"
CPU = torch.device("cpu")
SCALES = (1.0, 2.0, 4.0)
GAP = 16
COLUMNS = 5
PROMPTS = (  # no caption of the set is one of them (checked below); the last three are hard
    "a yellow apple",
    "blue apple",
    "black apple",
    "red book",
    "white book",
    "a red circle",
    "blue moon",
    "purple apple",
    "crying frog",
    "purple cat face",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--images", type=int, default=500)
    args = parser.parse_args()
    labelled = load_run(str(args.runs / "digits"), CPU)
    plain = load_run(str(args.runs / "digits_unlabelled"), CPU)
    by_classifier = guided(plain, str(args.runs / "noisy_classifier"))
    text = load_run(str(args.runs / "emoji_text"), CPU)
    show(labelled, "classes", digits_order(labelled, COLUMNS))
    show(by_classifier, "classifier", digits_order(by_classifier, COLUMNS))
    show(text, "text", prompts_order(text, COLUMNS))
    if args.judge is not None:
        judged = {
            "free": judged_at(labelled, args.judge, args.images),
            "classifier": judged_at(by_classifier, args.judge, args.images),
        }
        told = {"images": args.images, **judged}
        path = DOCS / "measured" / "guidance.json"
        path.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
        print(path.read_text("utf-8"))


def digits_order(loaded: Loaded, columns: int) -> Order:
    seeds, labels = class_rows(10, columns)
    return Order(seeds, labels, loaded.card.shape)


def prompts_order(loaded: Loaded, columns: int) -> Order:
    known = set(load("twemoji").captions or ()) & set(PROMPTS)
    if known:
        raise ValueError(f"{sorted(known)} are captions of the set: ask for something new.")
    wanted = [prompt for prompt in PROMPTS for _ in range(columns)]
    return Order(range(len(wanted)), None, loaded.card.shape, wanted)


def drawn(loaded: Loaded, order: Order, scale: float) -> torch.Tensor:
    """The images at this scale: of the classifier where there is one, else classifier-free."""
    which = "guidance" if loaded.guide is None else "classifier_scale"
    sampling = replace(loaded.run.sampling, **{which: scale})
    return draw(
        loaded.denoiser,
        order,
        sampling,
        loaded.conditions,
        CPU,
        codec=loaded.codec,
        log_prob=loaded.log_prob,
    )


def show(loaded: Loaded, name: str, order: Order) -> None:
    """One picture of the grids at every scale, side by side, under their titles."""
    rows = list(order.prompts or map(str, order.labels or ()))[::COLUMNS]
    grids = [
        grid(drawn(loaded, order, scale), COLUMNS, row_labels=None if index else rows, scale=2)
        for index, scale in enumerate(SCALES)
    ]
    picture = side_by_side(grids, [f"scale {scale:g}" for scale in SCALES])
    path = DOCS / "pictures" / f"guidance-{name}.webp"
    picture.save(path, quality=85, method=6)
    print(f"{path}: {picture.size}, {path.stat().st_size:,} bytes")


def side_by_side(grids: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    masks = lines(titles, FONT_SIZE)
    top = masks[0].height + GAP
    width = sum(picture.width for picture in grids) + GAP * (len(grids) - 1)
    sheet = blank(grids[0].mode, (width, top + grids[0].height))
    x = 0
    for picture, mask in zip(grids, masks):
        sheet.paste(INK, (x + picture.width - grids[-1].width, GAP // 2), mask)
        sheet.paste(picture, (x, top))
        x += picture.width + GAP
    return sheet


def judged_at(loaded: Loaded, folder: Path, images: int) -> dict[str, Any]:
    """By scale: the share of digits that the judge takes for what was asked, and their distance."""
    judge = load_judge(folder, CPU)
    reference = judge.moments(splits_of(loaded.run.data, load("digits")).train.images)
    order = digits_order(loaded, images // 10)
    found = {}
    for scale in SCALES:
        verdict = measure(judge, drawn(loaded, order, scale), order.labels, reference)
        found[f"{scale:g}"] = {"asked": verdict.agreement, "distance": round(verdict.frechet, 2)}
    return found


if __name__ == "__main__":
    main()
