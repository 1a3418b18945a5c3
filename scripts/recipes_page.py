"""Make docs/recipes.md: what every recipe is, and what came of it when it was trained.

    python scripts/recipes_page.py                      the page again, from docs/recipes/*.json
    python scripts/recipes_page.py RUN...               these runs' numbers and pictures first
    python scripts/recipes_page.py --free FOLDER RUN... with pictures that anyone may publish, for
                                                        autoencoders to decode, and a credit.txt
    python scripts/recipes_page.py --sizes              sizes of the recipes that were not trained

docs/recipes/NAME.json holds a recipe's numbers, NAME.webp its grid and NAME-loss.webp its curves;
docs/measured what latent_cost.py and guidance_grids.py measured.
Images that a run was trained on are never shown, but for those that come with sfumato.
"""

import argparse
import json
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from recipes_words import SISTERS, data_words, page

from sfumato.assembly import fitted
from sfumato.config import AnyRun, AutoencoderRun, Run
from sfumato.console import duration, short
from sfumato.folder import DataCard, read_card, read_metrics
from sfumato.kinds import loads, to_dict
from sfumato.latents import open_codec
from sfumato.networks import flops, parameter_count
from sfumato.pictures import grid
from sfumato.planning import differences
from sfumato.recipes import RECIPES
from sfumato.reconstruction import psnr, reconstruct

DOCS = Path(__file__).parents[1] / "docs"
MOST_BYTES = 150_000
MOST_PIXELS = (960, 720, 480)  # a side; tried in this order
NOT_A_CHANGE = (  # settled by the data or the machine, or told elsewhere on the page
    "data.label_dropout: 0.1 -> 0.0",  # of a classifier, which has no "no class"
    *("data.source", "network", "parameterization", "precision", "codec", "name", "text"),
    *("train.epoch_images", "train.micro_batch", "train.save", "train.keep", "train.compiled"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    parser.add_argument("--free", type=Path, help="a folder of pictures free to publish")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where recipes.md lies")
    parser.add_argument("--sizes", action="store_true", help="measure what was not trained")
    args = parser.parse_args()
    for folder in args.runs:
        name = add(args.docs, folder, args.free)
        print(f"{folder}: {args.docs}/recipes/{name}.json and its pictures")
    if args.sizes:
        for name in SISTERS:
            write(args.docs, name, size_of(name), keep=True)
    (args.docs / "recipes.md").write_text(
        page(read_all(args.docs / "recipes"), read_all(args.docs / "measured")), "utf-8"
    )


def read_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Every record of a folder, by its name."""
    files = sorted(folder.glob("*.json"))
    return {path.stem: json.loads(path.read_text("utf-8")) for path in files}


def write(docs: Path, name: str, record: dict[str, Any], keep: bool = False) -> None:
    """docs/recipes/NAME.json; keep: not where a trained run is told of in it."""
    path = docs / "recipes" / f"{name}.json"
    old = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if keep and "steps" in old:
        return
    if "fixed_batch" in old:  # of large_recipes.py
        record = {**record, "fixed_batch": old["fixed_batch"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")


# --- one run


def add(docs: Path, folder: Path, free: Path | None) -> str:
    """Write the record and the pictures of a finished run; the name of its recipe.

    Raises: ValueError where it is not finished, of no recipe, or shows what may not be published.
    """
    run, card = loads((folder / "run.json").read_text("utf-8")), read_card(folder)
    if run.recipe not in RECIPES:
        raise ValueError(f"{folder} is a run of {run.recipe!r}, which is no recipe of sfumato's.")
    if not (folder / "samples.png").exists():
        raise ValueError(f"{folder} has no samples.png: it did not finish. Give finished runs.")
    record = record_of(folder, run, card)
    if isinstance(run, AutoencoderRun):
        picture, record["shown"] = decoded_pictures(folder, card, free)
    else:
        picture, record["shown"] = opened(folder / "samples.png"), shown_words(run)
    target = docs / "recipes" / run.recipe
    target.parent.mkdir(parents=True, exist_ok=True)
    save(picture, target.with_suffix(".webp"))
    save(opened(folder / "loss.png"), target.with_name(f"{run.recipe}-loss.webp"))
    write(docs, run.recipe, record)
    return run.recipe


def record_of(folder: Path, run: AnyRun, card: DataCard) -> dict[str, Any]:
    """The numbers of a run, as JSON holds them."""
    rows, log = read_metrics(folder), (folder / "log.txt").read_text("utf-8")
    steps = [row for row in rows if row["kind"] == "train"]
    held = [row for row in rows if row["kind"] == "held_out"]
    weights, forward = cost_in(log)
    return {
        "recipe": run.recipe,
        "data": data_words(card),
        "size": f"{card.size[0]} x {card.size[1]}",
        "split": line_of(log, "split"),
        "weights": weights,
        "flops": forward,
        "device": line_of(log, "device"),
        "precision": run.precision,
        "batch": run.train.batch,
        "steps": steps[-1]["step"],
        "seconds": round(steps[-1]["seconds"]),
        "images_per_s": round(statistics.median(row["images_per_s"] for row in steps[1:]), 1),
        "held_out": held[-1]["ema"] if held else None,
        "held_out_at_start": held[0]["ema"] if held else None,
        "changed": changes(run),
        "numbers": numbers_of(folder, rows),
    }


def cost_in(log: str) -> tuple[str, str]:
    """(parameters, FLOPs of an image forward) as the head of a run's log tells them."""
    words = " ".join(log.partition("parameters")[0].split()[-1:])
    forward = " ".join(log.partition("parameters,")[2].partition("an image")[0].split())
    return words, forward


def line_of(log: str, name: str) -> str:
    """What the head of a log says of `name`, in one line."""
    lines = log.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"  {name} "))
    told = [lines[first].removeprefix(f"  {name}")]
    for line in lines[first + 1 :]:
        if not line.startswith(" " * 10):
            break
        told.append(line)
    return " ".join(" ".join(told).split())


def changes(run: AnyRun) -> list[str]:
    """The settings, of those that a reader would type, in which the run is not its recipe."""
    lines = differences(to_dict(RECIPES[run.recipe]()), to_dict(run))
    return [line for line in lines if not line.startswith(NOT_A_CHANGE)]


def numbers_of(folder: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """What was measured besides the loss, each with its unit, by the name it goes by."""
    found: dict[str, str] = {}
    for row in rows:
        if row["kind"] == "codec":
            found["PSNR"] = f"{row['psnr_db']:.2f} dB on {row['images']:,} held-out images"
            found["KL"] = f"{row['kl_nats_an_image']:,.0f} nats an image"
        if row["kind"] == "accuracy":
            right = (f"{level['accuracy']:.1%} at {level['ratio']:g}" for level in row["levels"])
            found["right, by sigma / alpha"] = ", ".join(right)
        if row["kind"] == "test":
            found["test loss"] = f"{row['ema']:.4f}"
    evaluations = sorted(
        folder.glob("evaluation*/evaluation.json"), key=lambda p: p.stat().st_mtime
    )
    if evaluations:
        found |= evaluated(json.loads(evaluations[-1].read_text("utf-8")))
    return found


def evaluated(report: dict[str, Any]) -> dict[str, str]:
    """The numbers of sfumato evaluate that have a name and a unit of their own."""
    images, found = report["images"], {}
    units = {
        "variational_bits": "bits/dim (bound)",
        "flow_bits": "bits/dim (flow)",
        "psnr_db": "dB",
    }
    for key, unit in units.items():
        if key in report:
            estimate = report[key].get("total", report[key])
            found[unit if "bits" in unit else f"PSNR of {images}"] = (
                f"{estimate['mean']:.3f} ± {estimate['error']:.3f}"
                + (f", {images}" if "bits" in unit else " dB")
            )
    return found


# --- pictures


def shown_words(run: AnyRun) -> str:
    if not isinstance(run, Run):
        return "Held-out digits as the classifier sees them, a noise level a row"
    sampling = run.sampling
    guided = f", guidance {sampling.guidance:g}" if sampling.guidance != 1 else ""
    return (
        f"Samples: {type(sampling.solver).__name__}, {sampling.steps} steps{guided}, seeds from 0"
    )


def decoded_pictures(folder: Path, card: DataCard, free: Path | None) -> tuple[Image.Image, str]:
    """Pictures of `free` cut square at the run's size, and below each what its latent keeps.

    Raises: ValueError where there is no such folder, or no credit.txt that says whose they are.
    """
    if free is None or not (free / "credit.txt").is_file():
        raise ValueError(
            f"{folder} is an autoencoder, and its own pictures show the images it was trained on. "
            "Give others that may be published: --free FOLDER, with a credit.txt that says whose "
            "they are."
        )
    paths = sorted(path for path in free.iterdir() if path.suffix in (".png", ".jpg"))
    images = torch.stack([square(path, card.size) for path in paths])
    saved = open_codec(folder)
    model = saved.config.build()
    model.load_state_dict(saved.weights)
    with torch.no_grad():
        decoded, _ = reconstruct(model.eval(), images)
    worth = psnr(images, decoded).tolist()
    names = [f"{path.stem} {value:.1f} dB" for path, value in zip(paths, worth)]
    picture = grid(
        torch.cat([images, decoded]),
        len(paths),
        row_labels=["original", "decoded"],
        column_labels=names,
        scale=1,
    )
    credit = (free / "credit.txt").read_text("utf-8").strip()
    return picture, f"Pictures never trained on, and decoded ({credit})"


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def square(path: Path, size: tuple[int, int]) -> torch.Tensor:
    """The picture's middle at `size`: (3, H, W) uint8."""
    image = opened(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cut = image.crop((left, top, left + side, top + side)).resize(
        size[::-1], Image.Resampling.LANCZOS
    )
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1)


def save(picture: Image.Image, path: Path) -> None:
    """As WebP, small enough for a page, as large and good as that allows."""
    for side, quality in product(MOST_PIXELS, (90, 80, 65)):
        smaller = picture.copy()
        smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
        smaller.save(path, quality=quality, method=6)
        if path.stat().st_size <= MOST_BYTES:
            return
    print(f"{path}: {path.stat().st_size:,} bytes, more than {MOST_BYTES:,}")


# --- sizes of what was not trained


def size_of(name: str) -> dict[str, Any]:
    """Weights and FLOPs of a recipe at the shape that its images, or their latents, have."""
    run, shape = RECIPES[name](), SISTERS[name].shape
    assert isinstance(run, Run)
    outputs = shape[0] * (2 if run.learned_variance else 1)
    config = fitted(run.network, shape[0], outputs, 0, 0)
    with torch.device("meta"):
        network = config.build()
    return {
        "recipe": name,
        "weights": f"{parameter_count(network):,}",
        "flops": short(flops(network, shape), "FLOP"),
        "size": " x ".join(map(str, shape)),
        "planned": budget(run),
    }


def budget(run: Run) -> str:
    """The recipe's own budget in words."""
    train = run.train
    if train.epochs is not None:
        return f"{train.epochs:g} epochs of batch {train.batch}"
    if train.steps is not None:
        return f"{train.steps:,} steps of batch {train.batch}"
    return duration(train.seconds or 0)


if __name__ == "__main__":
    main()
