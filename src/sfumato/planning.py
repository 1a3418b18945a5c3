"""From what was typed to a settled run: recipe, data and flags brought together."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

from .arguments import Sample, Train, UsageError, seconds
from .codec import Pixels
from .config import RUNS, AnyRun, DataConfig, Run, SamplingConfig, loads, override, to_dict
from .data import ImageData, load
from .grids import Grid, KarrasGrid, LeadingGrid, LinspaceGrid, TrailingGrid, UniformGrid
from .recipes import RECIPES, own_images, recipe_at
from .solvers import (
    DDIM,
    Ancestral,
    Churn,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    Solver,
)
from .tasks import TASKS

SOLVERS: dict[str, Solver] = {
    "heun": Heun(),
    "dpm++2m": DPMSolverPP2M(),
    "ddim": DDIM(),
    "ddpm": Ancestral(),
    "ddpm-large": Ancestral(variance_mix=1.0),
    "euler": Euler(),
    "euler-maruyama": EulerMaruyama(),
    "churn": Churn(Heun(), amount=0.3, min_ratio=0.05, max_ratio=50.0, noise_scale=1.003),
}
GRIDS: dict[str, Grid] = {
    "karras": KarrasGrid(),
    "uniform": UniformGrid(),
    "leading": LeadingGrid(),
    "trailing": TrailingGrid(),
    "linspace": LinspaceGrid(),
}
FREE_TO_CHANGE = {  # when a run goes on: nothing that the finished steps depended on
    *("train.steps", "train.images", "train.seconds", "train.save_every_steps", "train.keep"),
    *("train.save_every_seconds", "train.previews", "train.micro_batch", "sampling", "name"),
    *("train.epochs", "train.preview_epochs", "train.compiled"),
    "train.epoch_images",  # the data are compared by their fingerprint
}


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def load_data(config: DataConfig, progress: Any = None) -> ImageData:
    """The images that the settings ask for."""
    return load(
        config.source,
        size=config.size,
        channels=config.channels,
        limit=config.limit,
        labels=config.labels,
        progress=progress,
    )


def starting_point(args: Train) -> AnyRun | None:
    """The run that --config or the recipe names; None where the source is a data set."""
    if args.config is not None:
        return loads(args.config.read_text("utf-8"))
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
    if run is None and not args.source:
        raise UsageError(f"train what? A recipe ({', '.join(RECIPES)}) or a folder of images.")
    data_flags = given(size=args.size, channels=args.channels, limit=args.limit)
    if not args.labels:
        data_flags["labels"] = False
    if args.flip:
        data_flags["flip"] = True
    if run is not None and args.config is not None and args.source:
        data_flags["source"] = args.source
    if args.data is not None:
        data_flags["source"] = args.data
    config = replace(run.data if run else DataConfig(source=args.source), **data_flags)
    config = replace(config, **given(label_dropout=args.label_dropout, test=args.test))
    for setting in args.settings:
        if setting.startswith("data."):
            config = override(config, *_halves(setting.removeprefix("data.")), where="data")
    data = load_data(config, progress)
    if run is None:
        run = own_images(data, args.source, args.preset, Pixels().deviation(data.images))
    run = with_flags(replace(run, data=config), args)
    return TASKS[type(run)].settled(run, data), data


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
    for setting in args.settings:
        run = override(run, *_halves(setting))
    return run


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
    if args.sampler is not None:
        sampling = replace(sampling, solver=SOLVERS[args.sampler])
    if isinstance(args, Sample):
        sampling = _sample_only(sampling, args)
    return sampling


def _sample_only(sampling: SamplingConfig, args: Sample) -> SamplingConfig:
    if args.grid is not None:
        sampling = replace(sampling, grid=GRIDS[args.grid])
    more = given(
        clipped=args.clipped,
        guidance_from=args.guidance_from,
        guidance_to=args.guidance_to,
        classifier=args.classifier,
        classifier_scale=args.classifier_scale,
    )
    sampling = replace(sampling, **more)
    if args.eta:
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
    return loads(path.read_text("utf-8")).name == name


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
