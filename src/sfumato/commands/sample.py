"""sfumato sample: pictures and a film from a finished run."""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from .. import checkpoint
from ..arguments import Sample, UsageError, numbers
from ..assembly import build
from ..codec import Codec
from ..conditions import Conditions, Labels, Nothing
from ..config import Run, SamplingConfig, loads, near, to_dict
from ..console import Reporter
from ..denoiser import NetworkDenoiser
from ..devices import DTYPES, pick_device
from ..films import film
from ..folder import DataCard, find, new_folder, read_card
from ..generation import Order, class_rows, draw
from ..pictures import grid, save_png
from ..planning import sampling_with
from ..sampling import Point

FILM_FRAMES = 30
FILM_COLUMNS = 4


@dataclass(frozen=True)
class Loaded:
    """A run that can be sampled."""

    folder: Path
    run: Run
    card: DataCard
    denoiser: NetworkDenoiser
    step: int
    device: torch.device
    weights: str  # "average" or "raw"
    codec: Codec
    conditions: Conditions


def load_run(
    name: str, device: torch.device, raw: bool = False, precision: str | None = None
) -> Loaded:
    """The newest whole checkpoint of a run, ready to draw from.

    Raises: FileNotFoundError where there is no run, or none with a checkpoint.
    """
    folder = find(name)
    run = loads((folder / "run.json").read_text("utf-8"))
    found = checkpoint.newest(folder, lambda text: print(text, file=sys.stderr), mend=False)
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint yet; train it: sfumato train {folder}")
    path, files = found
    denoiser = build(run, device).eval()
    denoiser.load_state_dict(load(files["weights.safetensors" if raw else "average.safetensors"]))
    denoiser.precision = DTYPES[precision or run.precision]
    step = int(path.name.partition("-")[2])
    classes = run.network.classes
    return Loaded(
        folder,
        run,
        read_card(folder),
        denoiser,
        step,
        device,
        "raw" if raw else "average",
        run.codec.build(folder, device),
        Labels(classes) if classes else Nothing(),
    )


def classes_asked(label: str, names: tuple[str, ...]) -> list[int]:
    """ "3,cat" as class indices, by name first and then by number."""
    found = []
    for word in label.split(","):
        word = word.strip()
        if word in names:
            found.append(names.index(word))
        elif word.isdigit() and int(word) < len(names):
            found.append(int(word))
        else:
            known = f"or a number from 0 to {len(names) - 1}"
            raise UsageError(f"there is no class {word!r}; {near(word, names)} {known}")
    return found


def order_of(args: Sample, loaded: Loaded) -> Order:
    """Seeds and labels of what was asked for: a class a row unless told otherwise."""
    classes, names = loaded.run.network.classes, loaded.card.class_names
    if args.label is not None and not classes:
        raise UsageError(f"--label {args.label}: the run was trained without classes.")
    wanted = list(range(classes)) if args.label is None else classes_asked(args.label, names)
    if args.seeds is not None:
        seeds = numbers(args.seeds)
    elif args.count is not None:
        seeds = list(range(args.count))
    else:
        seeds, _ = class_rows(len(wanted), args.columns if wanted else args.columns**2)
    labels = (
        [wanted[i // args.columns % len(wanted)] for i in range(len(seeds))] if wanted else None
    )
    return Order(seeds, labels, loaded.card.shape)


def settings_of(loaded: Loaded, sampling: SamplingConfig, **more: Any) -> dict[str, Any]:
    """What a picture says of how it was made: enough to make it again."""
    return {
        "made_by": "sfumato sample",
        "run": loaded.folder.name,
        "step": loaded.step,
        "data": loaded.card.name,
        "weights": loaded.weights,
        "sampling": to_dict(sampling),
        **more,
    }


def run_sample(args: Sample) -> None:
    """Draw, then write the grid, the film and single files where asked."""
    for name in ("count", "columns", "batch"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}; at least 1 is needed.")
    device = pick_device(args.device)
    loaded = load_run(args.run, device, args.raw, args.precision)
    sampling = sampling_with(loaded.run.sampling, args)
    order = order_of(args, loaded)
    if args.out is not None and args.out.exists():
        raise UsageError(f"--out {args.out} is there already; choose another name.")
    wanted = args.out or loaded.folder / "drawn"
    with Reporter(quiet=args.quiet) as reporter:
        reporter.say(
            f"{len(order)} images from {loaded.folder}, step {loaded.step:,}, "
            f"{loaded.weights} weights, "
            f"{sampling.solver}, {sampling.steps} steps, guidance {sampling.guidance:g}"
        )
        images = draw_with_progress(loaded, order, sampling, args.batch, reporter)
        out = new_folder(wanted.parent, wanted.name)
        write_grid(images, order, loaded, sampling, out / "samples.png", args.columns)
        if args.files:
            write_files(images, order, loaded, sampling, out)
        if args.film:
            make_film(loaded, sampling, out / "film.webp", order)
        reporter.say(f"Written to {out}. What a picture is: sfumato info {out / 'samples.png'}")


def draw_with_progress(
    loaded: Loaded, order: Order, sampling: SamplingConfig, batch: int, reporter: Reporter
) -> torch.Tensor:
    """draw, with a line for each finished batch where there are several."""
    reported = [0]

    def on_point(start: int, point: Point) -> None:
        if start > reported[0]:
            reported[0] = start
            reporter.say(f"  {start:,} of {len(order):,} images")

    return draw(
        loaded.denoiser,
        order,
        sampling,
        loaded.conditions,
        loaded.device,
        batch,
        on_point,
        loaded.codec,
    )


def row_labels(order: Order, names: tuple[str, ...], columns: int) -> list[str] | None:
    """The class of each row of the grid; None where a row mixes classes."""
    if order.labels is None:
        return None
    rows = [order.labels[i : i + columns] for i in range(0, len(order), columns)]
    if any(len(set(row)) > 1 for row in rows):
        return None
    return [names[row[0]] for row in rows]


def write_grid(
    images: torch.Tensor,
    order: Order,
    loaded: Loaded,
    sampling: SamplingConfig,
    path: Path,
    columns: int,
) -> None:
    labels = row_labels(order, loaded.card.class_names, columns)
    picture = grid(images, columns=min(columns, len(images)), row_labels=labels)
    more = {"seeds": list(order.seeds), "labels": order.labels and list(order.labels)}
    save_png(picture, path, settings_of(loaded, sampling, **more))


def write_files(
    images: torch.Tensor, order: Order, loaded: Loaded, sampling: SamplingConfig, out: Path
) -> None:
    """A PNG an image, named by its seed, at its own size."""
    for i, image in enumerate(images):
        label = None if order.labels is None else loaded.card.class_names[order.labels[i]]
        seed = order.seeds[i]
        picture = grid(image[None], columns=1, gap=0, scale=1)
        stem = "" if label is None else re.sub(r"[^\w-]+", "-", label) + "-"
        name = f"{stem}{seed:06d}.png"
        save_png(picture, out / name, settings_of(loaded, sampling, seed=seed, label=label))


def make_film(loaded: Loaded, sampling: SamplingConfig, path: Path, order: Order) -> None:
    """The denoising film of a few of the images: x_t beside the estimate of x0."""
    few = _few(order)
    points: list[Point] = []
    smooth = replace(sampling, steps=max(sampling.steps, FILM_FRAMES))
    draw(
        loaded.denoiser,
        few,
        smooth,
        loaded.conditions,
        loaded.device,
        batch=len(few),
        on_point=lambda start, point: points.append(point),
        codec=loaded.codec,
    )
    write_film(points, loaded, smooth, path, few)


def _few(order: Order) -> Order:
    """The first FILM_COLUMNS of each class, or the first square of them."""
    if order.labels is None:
        return replace(order, seeds=order.seeds[: FILM_COLUMNS**2])
    seen: dict[int, int] = {}
    kept = []
    for i, label in enumerate(order.labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= FILM_COLUMNS and len(seen) <= 10:
            kept.append(i)
    kept.sort(key=lambda i: (order.labels or [])[i])
    labels = [order.labels[i] for i in kept]
    return replace(order, seeds=[order.seeds[i] for i in kept], labels=labels)


def write_film(
    points: list[Point], loaded: Loaded, sampling: SamplingConfig, path: Path, order: Order
) -> None:
    """Frame k shows x at time k and the estimate of x0 that was made from it."""
    process = loaded.denoiser.process
    shown = points[:-1]
    estimates = [point.prediction.x0 for point in points[1:] if point.prediction is not None]
    every = max(1, -(-len(shown) // FILM_FRAMES))
    picked = sorted({*range(0, len(shown), every), len(shown) - 1})
    alphas = [process.alpha(shown[i].t).item() for i in picked]
    sigmas = [process.sigma(shown[i].t).item() for i in picked]
    film(
        [shown[i].x.cpu() for i in picked],
        [loaded.codec.decode(estimates[i]).cpu() for i in picked],
        path,
        alphas,
        sigmas,
        settings=settings_of(loaded, sampling, seeds=list(order.seeds)),
        steps=picked,
        columns=FILM_COLUMNS,
        row_labels=row_labels(order, loaded.card.class_names, FILM_COLUMNS),
    )
