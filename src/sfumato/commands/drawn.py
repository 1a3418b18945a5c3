"""sfumato evaluate --samples: images drawn by a run, measured beside real ones."""

import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..appearance import scales_figure
from ..conditions import Captions
from ..console import WIDTH, count, reading
from ..data import ImageData, fingerprint, generator_at, spread
from ..data.places import home
from ..feature_cache import FeatureCache
from ..features import Features, features_of, fitting
from ..generation import Order
from ..judge_cache import JudgeCache
from ..loading import Loaded, drawn_by, guided_as, load_run
from ..pictures import grid, save_png
from ..quality import Quality, Real, quality
from ..results import Drawing, Record, Result, Yardstick, to_json, version
from ..sampling import Point
from ..wrapping import columns, wrapped
from .subject import Subject

BATCH = 128
COLUMNS = 12  # of drawn images beside their nearest

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Drawn:
    """What was found of drawn images: for the file, for the reader, and as pictures in a folder."""

    numbers: dict[str, Any]
    words: str
    draw: Callable[[Path, Settings], None]


def measure_drawn(subject: Subject, compared: tuple[str, Real]) -> Drawn:
    """Draw --samples images by the run's sampler, of the classes or captions of its training.

    compared: what they are measured beside, in words and as images.
    """
    args, (told, real) = subject.args, compared
    loaded = load_run(str(subject.folder), subject.device, best=args.best)
    loaded = guided_as(loaded, loaded.run.sampling)
    loaded.tell_moved(subject.say)
    known = real.known
    network = network_of(subject, known)
    network(known.images[:1])  # what it can't see is refused before images are drawn for an hour
    order = order_of(loaded, known, args.samples or 0)
    images = drawn_images(subject, loaded, order)
    asked = asked_of(order, network, known)
    record = Record(yardstick(network, told, real, len(images)), drawing(loaded, order))
    found = quality(network, images, asked, real, record, subject.say, cache_of(subject.device))
    numbers = {
        **to_json(found.results),
        "decibels_by_frequency": {
            "frequencies": found.scales.frequencies.tolist(),
            "drawn": found.scales.gap.tolist(),
            "real": None if found.control is None else found.control.gap.tolist(),
        },
    }
    return Drawn(
        numbers, table(found.results, columns()), partial(draw_pictures, images, real, found)
    )


def network_of(subject: Subject, known: ImageData) -> Features:
    args = subject.args
    name = args.features or "auto"
    name = fitting(known) if name == "auto" else name
    if name == "judge" and not judges().path(known, subject.device).exists():
        subject.say("training a judge, a small network of these images; it is kept for next time")
    return features_of(
        name,
        subject.device,
        args.weights,
        known,
        notice=reading(subject.say, "steps of the judge's training", every=10.0),
        judges=judges(),
    )


def judges() -> JudgeCache:
    """$SFUMATO_HOME/judges; trouble with it is told on standard error."""
    return JudgeCache(home() / "judges", partial(print, file=sys.stderr))


def cache_of(device: torch.device) -> FeatureCache:
    """$SFUMATO_HOME/features; trouble with it is told on standard error."""
    return FeatureCache(home() / "features", device.type, partial(print, file=sys.stderr))


# --- drawing


def order_of(loaded: Loaded, known: ImageData, samples: int) -> Order:
    """Seeds 0 to samples - 1, with the classes or captions of real images, in their shares."""
    seeds, shape = list(range(samples)), loaded.card.shape
    labels = known.labels if loaded.run.network.classes else None
    rows = torch.arange(samples) % len(known)
    if samples < len(known):
        rows = spread(len(known), samples, labels)
    mixed = rows[torch.randperm(samples, generator=generator_at(0, "asked"))].tolist()
    if isinstance(loaded.conditions, Captions):
        captions = known.captions or tuple(loaded.conditions.examples(len(known)))
        return Order(seeds, None, shape, [captions[row % len(captions)] for row in mixed])
    if labels is None:
        return Order(seeds, None, shape)
    return Order(seeds, [int(labels[row]) for row in mixed], shape)


def asked_of(order: Order, network: Features, known: ImageData) -> Tensor | None:
    """(N,) the classes asked for, where the network's classes are the data set's; else None."""
    knows = network.name in (fitting(known), "judge") and network.classes == len(known.class_names)
    return torch.tensor(order.labels) if order.labels is not None and knows else None


def drawn_images(subject: Subject, loaded: Loaded, order: Order) -> Tensor:
    """uint8 (N, C, H, W); says how long it will take."""
    sampling = loaded.run.sampling
    subject.say(
        f"drawing {count(len(order))} images: {sampling.solver}, {sampling.steps} steps, guidance "
        f"{sampling.guidance:g}"
    )
    progress = reading(subject.say, "points of the drawing", every=10.0)
    batches, seen = -(-len(order) // BATCH), 0
    points = batches * len(sampling.grid(loaded.denoiser.process, sampling.steps))

    def on_point(start: int, point: Point) -> None:
        nonlocal seen
        seen += 1
        progress(seen, points)

    return drawn_by(loaded, order, sampling, BATCH, on_point)


# --- the record


def yardstick(network: Features, told: str, real: Real, images: int) -> Yardstick:
    return Yardstick(
        features=network.name,
        digest=network.digest,
        resize=network.resize,
        images=images,
        reference=told,
        reference_images=len(real.reference),
        reference_digest=fingerprint(real.reference)[:16],
    )


def drawing(loaded: Loaded, order: Order) -> Drawing:
    sampling = loaded.run.sampling
    bounds = (sampling.guidance_from, sampling.guidance_to)
    guidance = (
        "" if bounds == (0.0, float("inf")) else f", guidance from {bounds[0]} to {bounds[1]}"
    )
    clipped = ", x0 clipped" if sampling.clipped else ""
    others = ""
    if sampling.classifier:
        others += f", classifier {sampling.classifier} by {sampling.classifier_scale:g}"
    if sampling.worse:
        others += f", away from {sampling.worse} by {sampling.worse_scale:g}"
    asked = "classes" if order.labels is not None else "captions"
    known = order.labels is not None or order.prompts is not None
    return Drawing(
        run=loaded.folder.name,
        step=loaded.step,
        weights=loaded.weights,
        sampler=f"{sampling.solver} on {sampling.grid}{guidance}{clipped}{others}",
        steps=sampling.steps,
        guidance=sampling.guidance,
        asked=f"{asked} in the shares of the data" if known else "nothing",
        seeds=f"0 to {len(order) - 1}",
        precision=loaded.precision,
        version=version(),
    )


# --- words and pictures


def table(results: tuple[Result, ...], width: int = WIDTH) -> str:
    """A row a result: value with its error, the floor, and which way is better; then the recipe.

    width: in columns; a long name goes on in the next line.
    """
    head = ("measure", "drawn", "real", "better is")
    rows = [head, *(_row(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    widths[0] = min(widths[0], max(20, width - sum(widths[1:]) - 2 * len(head)))
    lines = []
    for row in rows:
        name, *more = textwrap.wrap(row[0], widths[0], subsequent_indent="  ")
        cells = [name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        lines += ["  " + "  ".join(cells), *(f"  {part}" for part in more)]
    by, of = results[0].record.yardstick, results[0].record.drawing
    recipe = (
        f"{count(by.images)} images, seeds {of.seeds}, {of.weights} weights of step {of.step:,}, "
        f"{of.sampler}, {of.steps} steps, guidance {of.guidance:g}, of {of.asked}; beside "
        f"{count(by.reference_images)} {by.reference}; {by.features} features {by.digest}, resize "
        f'{by.resize}. The column "real" is the floor: as many other real images.'
    )
    return "\n".join([*lines, wrapped(recipe, width)])


def _row(result: Result) -> tuple[str, str, str, str]:
    error = "" if result.error is None else f" ± {result.error:.2g}"
    floor = "unknown" if result.floor is None else _number(result.floor)
    way = {"floor": "the same"}.get(result.better, result.better)
    return result.name, _number(result.value) + error, floor, way


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def draw_pictures(
    images: Tensor, real: Real, found: Quality, folder: Path, settings: Settings
) -> None:
    save_png(nearest_picture(images, real, found), folder / "nearest.png", settings)
    scales_figure(found.scales, found.control, folder / "spectrum.png", settings)


def nearest_picture(images: Tensor, real: Real, found: Quality) -> Any:
    """Drawn images from the nearest to its training image to the farthest; these below, twice."""
    by_features, by_pixels = found.neighbours.features, found.neighbours.pixels
    order = by_features[0].argsort()
    shown = order[torch.linspace(0, len(order) - 1, min(COLUMNS, len(order))).long()]
    rows = [images[shown], *(real.known_at(by[1][shown]) for by in (by_features, by_pixels))]
    return grid(
        torch.cat(rows),
        columns=len(shown),
        row_labels=["drawn", "nearest by features", "nearest by pixels"],
        column_labels=[f"{distance:.2f}" for distance in by_features[0][shown].tolist()],
    )
