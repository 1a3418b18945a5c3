"""From what was typed to a settled run: recipe, data and flags brought together."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .arguments import Sample, Train, UsageError, seconds
from .codec import Pixels
from .config import RUNS, AnyRun, DataConfig, Run, SamplingConfig
from .data import ImageData, Tolerance, fingerprint, load
from .data.places import home
from .devices import pick_device
from .folder import DataCard, read_card
from .kinds import loads, override, read_run, to_dict
from .named import SOLVERS as SOLVERS
from .named import grid_named
from .recipes import RECIPES, recipe_at
from .recipes.own_images import NAME, own_images
from .solvers import DDIM
from .tasks import TASKS

FREE_TO_CHANGE = {  # when a run goes on: what the finished steps did not depend on
    *(
        "train.steps",
        "train.images",
        "train.seconds",
        "train.save_every_steps",
        "train.keep",
        "train.keep_every",
    ),
    *("train.save_every_seconds", "train.previews", "train.micro_batch", "sampling", "name"),
    *("train.epochs", "train.preview_epochs", "train.compiled", "train.fsdp"),
    "precision",  # they did, but a run may move to a machine with other arithmetic; it is told
    "data.unreadable",
    "train.epoch_images",  # the data are compared by their fingerprint
}


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def load_data(
    config: DataConfig, progress: Any = None, before: DataCard | None = None, cache: bool = True
) -> ImageData:
    """The images that the settings ask for.

    before: of a run that goes on; what was chosen for it is not chosen anew. cache: sets of many
    files are kept decoded in the user's cache folder.
    """
    return load(
        config.source,
        size=config.size or (before.size if before else None),
        channels=config.channels or (before.channels if before else None),
        limit=config.limit,
        labels=config.labels,
        progress=progress,
        split=config.split,
        tolerance=Tolerance(most=config.unreadable),
        others=tuple(RECIPES),
        cache=home() / "decoded" if cache else None,
    )


def starting_point(args: Train) -> AnyRun | None:
    """The run that --config or the recipe names; None where the source is a data set."""
    if args.config is not None:
        return loads(args.config.read_bytes(), args.config)
    recipe = recipe_at(args.source)
    if recipe is None:
        return None
    run = recipe()
    if not isinstance(run, RUNS):
        raise ValueError(f"{args.source} returned a {type(run).__name__}; a recipe returns a Run.")
    return run


def plan(args: Train, progress: Any = None) -> tuple[AnyRun, ImageData]:
    """The settled run and its images.

    Raises: UsageError or ValueError for what can't be read, found or combined.
    """
    run = starting_point(args)
    check_source(args, run)
    config = data_config(args, run)
    data = load_data(config, progress, cache=args.cache)
    card, automatic = None, run is None
    if run is None:
        run = chosen_for(args, data)
    if args.resume:
        folder = resume_folder(args, args.name or run.name)
        card = read_card(folder)
        data = as_before(card, config, data, progress)
        if automatic:  # what was chosen then stands, whatever would be chosen today
            run = read_run(folder)
    run = with_flags(replace(run, data=config), args)
    data = as_used(run, data, card)
    return TASKS[type(run)].settled(run, data), data


def chosen_for(args: Train, data: ImageData) -> Run:
    """The recipe for images of the user's own, on the device that was asked for."""
    gpu = pick_device(args.device).type != "cpu"
    deviation = Pixels().deviation(data.images)
    return own_images(data, args.source, args.preset, deviation, gpu, args.captions)


def check_source(args: Train, run: AnyRun | None) -> None:
    """Raise UsageError unless it is said what to train on."""
    if run is None and not args.source:
        raise UsageError(f"train what? A recipe ({', '.join(RECIPES)}) or a folder of images.")
    if run is not None and args.captions and not (isinstance(run, Run) and run.text):
        raise UsageError(
            f"--captions is for images of your own; {run.name} is settled already. Train on the "
            "folder itself, or on the recipe emoji_text with --data."
        )
    if run is not None and not (run.data.source or args.data or args.source):
        raise UsageError(
            f"{run.name} was imported without images: import it again with --data and the images "
            "it was trained on."
        )


def data_config(args: Train, run: AnyRun | None) -> DataConfig:
    """The settings of the data: the run's, with what was typed in place of its own."""
    flags = given(
        size=args.size,
        channels=args.channels,
        limit=args.limit,
        label_dropout=args.label_dropout,
        test=args.test,
        labels=None if args.labels else False,
        flip=args.flip or None,
    )
    if run is not None and args.config is not None and args.source:
        flags["source"] = args.source
    if args.data is not None:
        flags["source"] = args.data
    config = replace(run.data if run else DataConfig(source=args.source), **flags)
    return with_settings(_Data(config), [s for s in args.settings if _is_of_data(s)]).data


@dataclass(frozen=True)
class _Data:
    """What of a run is known before its images are."""

    data: DataConfig


def _is_of_data(setting: str) -> bool:
    return setting.partition("=")[0].partition(".")[0] == "data"


def as_before(card: DataCard, config: DataConfig, data: ImageData, progress: Any) -> ImageData:
    """The images in the size and with the channels that the run with this card began with."""
    size_changed = config.size is None and card.size != data.size
    channels_changed = config.channels is None and card.channels != data.channels
    return load_data(config, progress, card) if size_changed or channels_changed else data


def data_of(run: AnyRun, card: DataCard, progress: Any = None) -> ImageData:
    """The images of a run that began before, as it was trained on them."""
    return as_used(run, load_data(run.data, progress, card), card)


def as_used(run: AnyRun, data: ImageData, before: DataCard | None = None) -> ImageData:
    """The images without the captions, where the run reads none: they are not what it is told.

    So a run that began when captions were not read has the same fingerprint. before: of a run that
    goes on; if it counted them in, they stay.
    """
    if data.captions is None or (isinstance(run, Run) and run.text is not None):
        return data
    if before is not None and before.fingerprint == fingerprint(data):
        return data
    note = "The captions are not used"
    note += (
        "; --captions trains on them, as the recipe emoji_text does." if run.recipe == NAME else "."
    )
    return replace(data, captions=None, notes=(*data.notes, note))


def _halves(setting: str) -> tuple[str, str]:
    path, _, text = setting.partition("=")
    return path, text


def with_flags(run: AnyRun, args: Train) -> AnyRun:
    """The run with what was typed in place of its own settings."""
    changes = given(
        batch=args.batch,
        micro_batch=args.micro_batch,
        lr=args.lr,
        warmup_steps=args.warmup,
        ema_length=args.ema,
        seed=args.seed,
        previews=args.previews,
        preview_epochs=args.preview_epochs,
        compiled=args.compile or None,
        fsdp=args.fsdp or None,
        muon=False if args.fsdp else None,  # which needs whole matrices
        save_every_steps=args.save_every,
    )
    budget = given(
        steps=args.steps,
        images=args.images,
        epochs=args.epochs,
        seconds=None if args.time is None else seconds(args.time),
    )
    if budget:  # one that is typed replaces the recipe's, of whatever kind
        changes |= {"steps": None, "images": None, "epochs": None, "seconds": None, **budget}
    run = replace(run, train=replace(run.train, **changes))
    run = with_sampling(run, args)
    run = replace(run, **given(name=args.name, precision=args.precision))
    return with_settings(run, [s for s in args.settings if not _is_of_data(s)])


C = TypeVar("C")


def with_settings(config: C, settings: Sequence[str]) -> C:
    """The configuration with every "path=value" of --set in place of its own."""
    for setting in settings:
        config = override(config, *_halves(setting))
    return config


def with_sampling(run: AnyRun, args: Train) -> AnyRun:
    """The run with the flags about samples.

    Raises: UsageError where they were given to a run that draws none.
    """
    if isinstance(run, Run):
        return replace(run, sampling=sampling_with(run.sampling, args))
    asked = given(sampler=args.sampler, sample_steps=args.sample_steps, guidance=args.guidance)
    if asked:
        raise UsageError(
            f"--{next(iter(asked)).replace('_', '-')} is about samples, and {run.name} draws none."
        )
    return run


def sampling_with(sampling: SamplingConfig, args: Train | Sample) -> SamplingConfig:
    """The sampling settings with the flags of `train` or `sample` in place of their own."""
    steps = args.steps if isinstance(args, Sample) else args.sample_steps
    sampling = replace(sampling, **given(steps=steps, guidance=args.guidance))
    if args.sampler is not None and SOLVERS[args.sampler] != sampling.solver:
        # keep_eps belongs to the sampler of the program that the run was imported from
        sampling = replace(sampling, solver=SOLVERS[args.sampler], keep_eps=False)
    if isinstance(args, Sample):
        sampling = _sample_only(sampling, args)
    return sampling


def _sample_only(sampling: SamplingConfig, args: Sample) -> SamplingConfig:
    if args.grid is not None:
        sampling = replace(sampling, grid=grid_named(args.grid))
    more = given(
        clipped=args.clipped,
        guidance_from=args.guidance_from,
        guidance_to=args.guidance_to,
        classifier=args.classifier,
        classifier_scale=args.classifier_scale,
        worse=args.worse,
        worse_scale=args.worse_scale,
    )
    sampling = replace(sampling, **more)
    if args.eta is not None:
        if not isinstance(sampling.solver, DDIM):
            raise UsageError(f"--eta {args.eta} belongs to --sampler ddim.")
        sampling = replace(sampling, solver=DDIM(eta=args.eta))
    return sampling


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The fields in which two runs differ, as "path: old -> new"."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{path}: {old} -> {new}"]


def check_same(saved: AnyRun, now: AnyRun) -> AnyRun:
    """The run to go on with: the saved one with the budget that was asked for now.

    Of images that run at once the saved number, unless another is asked for.

    Raises: ValueError, with the list, where anything differs that the finished steps depended on.
    """
    lines = [
        line
        for line in differences(to_dict(saved), to_dict(now))
        if not any(line.startswith(path) for path in FREE_TO_CHANGE)
    ]
    if lines:
        raise ValueError(
            "the run can't go on with other settings than it began with: " + "; ".join(lines) + ". "
            "Leave those flags out, or start a new run with another --name."
        )
    if now.train.micro_batch is None:  # what fitted when it began, and sums are bit for bit
        return replace(now, train=replace(now.train, micro_batch=saved.train.micro_batch))
    return now


def resume_folder(args: Train, name: str, root: Path = Path("runs")) -> Path:
    """The folder that --resume means.

    Raises: FileNotFoundError where it holds no run.
    """
    if args.out is not None:
        folder = args.out
    elif (Path(args.source) / "run.json").is_file():
        folder = Path(args.source)
    else:
        same = [path.parent for path in root.glob("*/run.json") if _named(path, name)]
        folder = max(same, key=lambda path: path.stat().st_mtime, default=root / name)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(
            f"--resume: {folder} holds no run to go on with. Leave --resume out to start one."
        )
    return folder


def _named(path: Path, name: str) -> bool:
    try:
        return read_run(path.parent).name == name
    except ValueError as error:  # a folder beside it is no reason not to go on
        print(f"warning: passed over: {error}", file=sys.stderr)
        return False


def fields_of(run: AnyRun) -> dict[str, str]:
    """Every field of the run by its dotted path, as --set takes them."""
    flat: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if dataclasses.is_dataclass(value):
            flat[path or "run"] = type(value).__name__
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name), f"{path}.{field.name}".lstrip("."))
        else:
            flat[path] = repr(value)

    walk(run, "")
    return flat
