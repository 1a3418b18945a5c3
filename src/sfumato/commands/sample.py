"""sfumato sample: pictures and a film from a finished run."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..arguments import Sample, UsageError, numbers
from ..codec import Pixels
from ..conditions import Captions
from ..config import Run, SamplingConfig
from ..consistency import ConsistencyTuning, MultistepConsistency
from ..console import Reporter
from ..devices import pick_device
from ..films import film
from ..folder import DataCard, new_folder
from ..generation import Order, class_rows
from ..kinds import near, to_dict
from ..loading import Loaded, drawn_by, guided_as, load_run
from ..pictures import grid, save_png
from ..planning import given, sampling_with
from ..sampling import Point
from ..tuned_runs import find_tuned, guided, notes_on

T = TypeVar("T")

FILM_FRAMES = 30
FILM_COLUMNS = 4


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
    """Seeds and conditions of what was asked for; see each_shows."""
    if isinstance(loaded.conditions, Captions):
        return prompts_order(args, loaded.conditions, loaded.card)
    if args.prompt:
        raise UsageError(
            f"--prompt {args.prompt[0]!r}: {loaded.folder.name} was not trained on captions."
        )
    classes, names = loaded.run.network.classes, loaded.card.class_names
    if loaded.guide is not None and not classes:
        classes = len(names)  # the classifier knows them
    if args.label is not None and not classes:
        raise UsageError(f"--label {args.label}: the run was trained without classes.")
    wanted = list(range(classes)) if args.label is None else classes_asked(args.label, names)
    seeds = seeds_asked(args, len(wanted))
    labels = each_shows(wanted, len(seeds), args.columns) if wanted else None
    return Order(seeds, labels, loaded.card.shape)


def each_shows(wanted: Sequence[T], count: int, columns: int) -> list[T]:
    """What each image shows: of classes or prompts one a row; all in turn where rows run out.

    So ten images of ten classes are one of each, and not ten of the first. In turn only where each
    column then shows one of them, which the grid can name.
    """
    in_columns = count <= columns or columns % len(wanted) == 0
    if -(-count // columns) < len(wanted) and in_columns:
        return [wanted[i % len(wanted)] for i in range(count)]
    return [wanted[i // columns % len(wanted)] for i in range(count)]


def seeds_asked(args: Sample, rows: int) -> list[int]:
    """The seeds that were typed, or enough of them for a grid of `rows` rows (0: a square)."""
    if args.seeds is not None:
        return numbers(args.seeds)
    if args.count is not None:
        return list(range(args.count))
    return class_rows(rows, args.columns if rows else args.columns**2)[0]


def prompts_order(args: Sample, conditions: Captions, card: DataCard) -> Order:
    """The prompts; without any, captions that the model was trained on."""
    if args.label is not None:
        raise UsageError(f"--label {args.label}: this run takes words: --prompt 'a {args.label}'.")
    wanted = list(args.prompt) or conditions.examples(8)
    seeds = seeds_asked(args, len(wanted))
    prompts = each_shows(wanted, len(seeds), args.columns)
    return Order(seeds, None, card.shape, prompts)


def settings_of(loaded: Loaded, sampling: SamplingConfig, **more: Any) -> dict[str, Any]:
    """What a picture says of how it was made: enough to make it again."""
    return {
        "made_by": "sfumato sample",
        "run": loaded.folder.name,
        "step": loaded.step,
        "data": loaded.card.name,
        "weights": loaded.weights,
        "precision": loaded.precision,
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
    loaded = load_run(args.run, device, args.raw, args.precision, args.best)
    sampling, notes = sampling_asked(args, loaded)
    loaded = guided_as(loaded, sampling)
    order = order_of(args, loaded)
    if args.out is not None and args.out.exists():
        raise UsageError(f"--out {args.out} is there already; choose another name.")
    wanted = args.out or loaded.folder / "drawn"
    with Reporter(quiet=args.quiet) as reporter:
        for note in notes:
            reporter.warn(note)
        reporter.say(
            f"{len(order)} images from {loaded.folder}, step {loaded.step:,}, "
            f"{loaded.weights} weights, "
            f"{sampling.solver}, {sampling.steps} steps, {guided(sampling)}"
        )
        loaded.tell_moved(reporter.say)
        with folder_of_pictures(wanted) as out:
            images = draw_with_progress(loaded, order, sampling, args.batch, reporter)
            write_grid(images, order, loaded, sampling, out / "samples.png", args.columns)
            if args.files:
                write_files(images, order, loaded, sampling, out)
            if args.film:
                make_film(loaded, sampling, out / "film.webp", order)
        reporter.say(f"Written to {out}. What a picture is: sfumato info {out / 'samples.png'}")


@contextmanager
def folder_of_pictures(wanted: Path) -> Iterator[Path]:
    """A new folder, made before an hour of drawing; gone again where nothing came into it.

    Raises: OSError, saying what to do, where it can't be made.
    """
    try:
        out = new_folder(wanted.parent, wanted.name)
    except OSError as error:
        told = error.strerror or str(error)
        raise OSError(
            error.errno,
            f"could not make {wanted} for the pictures: {told}. Give another folder by --out",
        ) from error
    try:
        yield out
    finally:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def sampling_asked(args: Sample, loaded: Loaded) -> tuple[SamplingConfig, list[str]]:
    """The settings to sample with, and what is to be said of them.

    Raises: FileNotFoundError where --nfe asks for what was never tuned.
    """
    sampling = sampling_with(loaded.run.sampling, args)
    if args.nfe is None:
        return sampling, notes_on_student(loaded.run, sampling)
    decided = given(sampler=args.sampler, steps=args.steps, grid=args.grid, eta=args.eta)
    if decided:
        raise UsageError(
            f"--{next(iter(decided))} with --nfe {args.nfe}: a tuned sampler has its own; leave "
            "one of them out."
        )
    tuned = find_tuned(loaded.folder, args.nfe, sampling)
    return tuned.sampling, notes_on(tuned, loaded.step, loaded.weights)


def notes_on_student(run: Run, sampling: SamplingConfig) -> list[str]:
    """Of a distilled run: what is asked of its network that it did not learn."""
    if type(run.objective) is not ConsistencyTuning:
        return []
    notes = []
    if type(sampling.solver) is not MultistepConsistency:
        notes.append(
            f"the run was distilled: its network jumps to the image at once, and {sampling.solver} "
            "asks it for a path that it does not know. Leave --sampler out."
        )
    if sampling.guidance != 1:
        notes.append(
            f"the run was distilled without guidance, and its jumps were never guided: "
            f"{guided(sampling)} may harm. Leave --guidance out."
        )
    return notes


def draw_with_progress(
    loaded: Loaded, order: Order, sampling: SamplingConfig, batch: int, reporter: Reporter
) -> torch.Tensor:
    """draw, with a line for each finished batch where there are several."""
    reported = [0]

    def on_point(start: int, point: Point) -> None:
        if start > reported[0]:
            reported[0] = start
            reporter.say(f"  {start:,} of {len(order):,} images")

    return drawn_by(loaded, order, sampling, batch, on_point)


def named(order: Order, names: tuple[str, ...]) -> list[str] | None:
    """The prompt or the class's name of each image; None without either."""
    if order.prompts is not None:
        return list(order.prompts)
    return None if order.labels is None else [names[label] for label in order.labels]


def row_labels(order: Order, names: tuple[str, ...], columns: int) -> list[str] | None:
    """What each row of the grid shows; None where a row mixes classes."""
    each = named(order, names)
    if each is None:
        return None
    rows = [each[i : i + columns] for i in range(0, len(order), columns)]
    if any(len(set(row)) > 1 for row in rows):
        return None
    return [row[0] for row in rows]


def column_labels(order: Order, names: tuple[str, ...], columns: int) -> list[str] | None:
    """What each column of the grid shows; None where a column mixes classes."""
    each = named(order, names)
    if each is None or any(each[i] != each[i % columns] for i in range(len(each))):
        return None
    return each[:columns]


def write_grid(
    images: torch.Tensor,
    order: Order,
    loaded: Loaded,
    sampling: SamplingConfig,
    path: Path,
    columns: int,
) -> None:
    labels = row_labels(order, loaded.card.class_names, columns)
    across = column_labels(order, loaded.card.class_names, columns) if labels is None else None
    wide = min(columns, len(images))
    picture = grid(images, columns=wide, row_labels=labels, column_labels=across)
    more: dict[str, Any] = {
        "seeds": list(order.seeds),
        "labels": order.labels and list(order.labels),
    }
    if order.prompts is not None:
        more["prompts"] = list(order.prompts if labels is None else dict.fromkeys(order.prompts))
    save_png(picture, path, settings_of(loaded, sampling, **more))


def write_files(
    images: torch.Tensor, order: Order, loaded: Loaded, sampling: SamplingConfig, out: Path
) -> None:
    """A PNG an image, named by its seed, at its own size."""
    each = named(order, loaded.card.class_names)
    for i, image in enumerate(images):
        label = None if each is None else each[i]
        seed = order.seeds[i]
        picture = grid(image[None], columns=1, gap=0, scale=1)
        stem = "" if label is None else re.sub(r"[^\w-]+", "-", label) + "-"
        name = f"{stem}{seed:06d}.png"
        save_png(picture, out / name, settings_of(loaded, sampling, seed=seed, label=label))


def make_film(loaded: Loaded, sampling: SamplingConfig, path: Path, order: Order) -> None:
    """The denoising film of a few of the images: x_t beside the estimate of x0."""
    few = _few(order)
    points: list[Point] = []
    smooth = sampling
    if not hasattr(sampling.grid, "steps"):  # a tuned grid has one number of steps
        smooth = replace(sampling, steps=max(sampling.steps, FILM_FRAMES))
    drawn_by(loaded, few, smooth, len(few), lambda start, point: points.append(point))
    write_film(points, loaded, smooth, path, few)


def film_of_run(folder: Path, device: torch.device) -> Path:
    """RUN/film.webp of a run that draws, as its own settings say."""
    loaded = load_run(str(folder), device)
    loaded = guided_as(loaded, loaded.run.sampling)
    path = folder / "film.webp"
    make_film(loaded, loaded.run.sampling, path, order_of(Sample(run=str(folder)), loaded))
    return path


def _few(order: Order) -> Order:
    """The first FILM_COLUMNS of each class or prompt, or the first square of them."""
    each: Sequence[Any] | None = order.prompts if order.labels is None else order.labels
    if each is None:
        return replace(order, seeds=order.seeds[: FILM_COLUMNS**2])
    seen: dict[Any, int] = {}
    kept = []
    for i, what in enumerate(each):
        seen[what] = seen.get(what, 0) + 1
        if seen[what] <= FILM_COLUMNS and len(seen) <= 10:
            kept.append(i)
    rank = {what: place for place, what in enumerate(sorted(seen))}
    kept.sort(key=lambda i: rank[each[i]])
    return Order(
        [order.seeds[i] for i in kept],
        order.labels and [order.labels[i] for i in kept],
        order.shape,
        order.prompts and [order.prompts[i] for i in kept],
    )


def write_film(
    points: list[Point], loaded: Loaded, sampling: SamplingConfig, path: Path, order: Order
) -> None:
    """Frame k shows x at time k and the estimate of x0 that was made from it."""
    shown = points[:-1]
    estimates = [point.prediction.x0 for point in points[1:] if point.prediction is not None]
    every = max(1, -(-len(shown) // FILM_FRAMES))
    picked = sorted({*range(0, len(shown), every), len(shown) - 1})
    size = order.shape[1:]
    noisy, alphas, sigmas = noisy_frames([shown[i] for i in picked], loaded, size)
    film(
        noisy,
        [loaded.codec.decode(estimates[i], size).cpu() for i in picked],
        path,
        alphas,
        sigmas,
        settings=settings_of(loaded, sampling, seeds=list(order.seeds)),
        steps=picked,
        columns=FILM_COLUMNS,
        row_labels=row_labels(order, loaded.card.class_names, FILM_COLUMNS),
    )


def noisy_frames(
    points: Sequence[Point], loaded: Loaded, size: tuple[int, int]
) -> tuple[list[torch.Tensor], list[float], list[float]]:
    """(x_t, alphas, sigmas) for the film; of latents, what the codec makes of x_t at unit power."""
    process = loaded.denoiser.process
    alphas = [process.alpha(point.t).item() for point in points]
    sigmas = [process.sigma(point.t).item() for point in points]
    if isinstance(loaded.run.codec, Pixels):
        return [point.x.cpu() for point in points], alphas, sigmas
    powers = [(a**2 + s**2) ** 0.5 for a, s in zip(alphas, sigmas)]
    seen = [loaded.codec.decode(p.x / power, size).cpu() for p, power in zip(points, powers)]
    return [Pixels().encode(x) for x in seen], [1.0] * len(points), [0.0] * len(points)
