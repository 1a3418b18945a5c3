"""sfumato compare: several networks on the same images with the same budget, then one verdict.

    OUT/NAME/       each contestant: a run as any other
    OUT/judge/      the evaluator of all of them
    OUT/samples/    what each drew, from the same seeds
    OUT/compare.json, compare.png, log.txt

The same command again goes on where it stopped; what is finished is not done again.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checkpoint
from ..arguments import Compare, UsageError, seconds
from ..assembly import Splits, splits_of
from ..comparing import (
    Comparison,
    Contestant,
    Gap,
    comparison_figure,
    curve_of,
    notes,
    speed_of,
    table,
)
from ..conditions import Captions
from ..config import Run
from ..console import Reporter, reading
from ..data import ImageData, fingerprint, spread, subset
from ..devices import pick_device
from ..folder import read_metrics
from ..generation import Order
from ..judging import (
    Judge,
    Verdict,
    farther,
    known,
    load_judge,
    measure,
    save_judge,
    train_judge,
)
from ..kinds import dumps, near, read_run, to_dict
from ..loading import Loaded, load_run
from ..measuring import Moments
from ..networks.describe import flops, parameter_count
from ..pictures import replacing
from ..planning import check_same, load_data
from ..recipes import RECIPES, recipe_at
from ..recipes.comparison import same_for_all
from ..storage import clear_unfinished, write_file
from ..tasks import TASKS
from ..trainer import Trainer, budget_words
from .sample import draw_with_progress

EPOCHS = 10.0  # of each contestant, unless told otherwise
DRAWN_AT_ONCE = 128


def run_compare(args: Compare) -> None:
    """Train each contestant that is not finished, draw from each, measure all, tell."""
    device = pick_device(args.device)
    _check_numbers(args)
    out = args.out or Path("runs/compare")
    _check_folder(out)
    runs, data = contestants_of(args, reading(Reporter(quiet=args.quiet).say))
    splits = splits_of(runs[0].data, data)
    if splits.held_out is None or len(splits.held_out) < 2:
        raise ValueError(f"{len(data)} images are too few to hold two back: give 20 or more.")
    with Reporter(out / "log.txt", args.quiet) as reporter:
        judge = judge_in(out, data, splits, device, args.seed, reporter)
        for run in runs:
            code = trained(run, data, device, out / run.name, args.quiet, reporter)
            if code is not None:
                reporter.say("Stopped. The same command goes on with the comparison.")
                sys.exit(code)
        tell(out, runs, splits, judge, args, device, reporter)


def _check_numbers(args: Compare) -> None:
    if len(args.recipes) < 2:
        raise UsageError(f"compare {' '.join(args.recipes)} with what? Give two or more recipes.")
    if args.samples < 2:
        raise UsageError(f"--samples {args.samples}: a distance wants 2 images or more.")


def _check_folder(out: Path) -> None:
    """Raise ValueError for a folder that holds something else than a comparison."""
    there = [path.name for path in out.iterdir()] if out.exists() else []
    if there and "judge" not in there and not all(_ours(name) for name in there):
        raise ValueError(
            f"--out {out} is there already and holds no comparison ({', '.join(sorted(there)[:4])}"
            ", ...). Choose another name."
        )


def _ours(name: str) -> bool:
    return name == "log.txt" or name.startswith(".unfinished-")


# --- the contestants


def contestants_of(args: Compare, progress: Any) -> tuple[list[Run], ImageData]:
    """The settled runs, which differ in network and name alone, and the images of all.

    Raises: UsageError or ValueError where a recipe is unknown, no diffusion, or there twice.
    """
    recipes = [_run_of(name) for name in args.recipes]
    names = [run.name for run in recipes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{', '.join(twice)} is there twice: contestants need names of their own.")
    first = recipes[0]
    config = replace(first.data, source=args.data)
    train = replace(first.train, **_budget(args), seed=args.seed)
    data = load_data(config, progress)
    base = replace(first, data=config, train=train)
    runs = [same_for_all(base, other) for other in recipes]
    return [TASKS[type(run)].settled(run, data) for run in runs], data


def _run_of(name: str) -> Run:
    recipe = recipe_at(name)
    if recipe is None:
        raise UsageError(f"there is no recipe {name!r}; {near(name, RECIPES)}")
    run = recipe()
    if not isinstance(run, Run):
        raise UsageError(f"{name} is a {type(run).__name__}, which draws nothing to compare.")
    return replace(run, name=name.rpartition(":")[2])


def _budget(args: Compare) -> dict[str, Any]:
    none: dict[str, Any] = {"steps": None, "images": None, "epochs": None, "seconds": None}
    if args.time is None and args.images is None:
        return {**none, "epochs": EPOCHS}
    time = None if args.time is None else seconds(args.time)
    return {**none, "images": args.images, "seconds": time}


def trained(
    run: Run, data: ImageData, device: torch.device, folder: Path, quiet: bool, reporter: Reporter
) -> int | None:
    """Train the contestant in its folder, or go on, or leave it; None once its budget is spent.

    Else the code to exit with, of the signal that stopped it.
    """
    trainer = Trainer(run, data, device, quiet)
    if (folder / "run.json").is_file():
        if is_finished(run, folder):
            reporter.say(f"{run.name} is trained already: {folder}")
            return None
        return None if trainer.start(folder, None)[1] else trainer.code
    if folder.exists():  # stopped before it was a run
        folder.rename(_free(folder.with_name(f"{folder.name}.stopped")))
    return None if trainer.start(None, folder)[1] else trainer.code


def _free(path: Path) -> Path:
    names = [path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000))]
    return next(name for name in names if not name.exists())


def is_finished(run: Run, folder: Path) -> bool:
    """Whether the run in the folder has spent this budget, and left its pictures.

    Raises: ValueError where it was trained with other settings.
    """
    saved = read_run(folder)
    precision = saved.precision if run.precision == "auto" else run.precision
    check_same(saved, replace(run, precision=precision))
    found = checkpoint.newest(folder, mend=False)
    if found is None or not (folder / "samples.png").is_file():
        return False
    state = json.loads(found[1]["state.json"])
    return run.train.progress(state["step"], state["seconds"]) >= 1


# --- the evaluator


def judge_in(
    out: Path,
    data: ImageData,
    splits: Splits,
    device: torch.device,
    seed: int,
    reporter: Reporter,
) -> Judge:
    """The judge in OUT/judge, made and put there if there is none.

    Raises: ValueError where it was made of other images, or with another seed.
    """
    made_of = {"data": fingerprint(data), "seed": seed}
    folder = out / "judge"
    if folder.exists():
        judge = load_judge(folder, device)
        if {name: judge.facts[name] for name in made_of} != made_of:
            raise ValueError(
                f"{folder} judges other images, or was made with another seed than {seed}: "
                "choose another --out."
            )
        return judge
    clear_unfinished(out)
    reporter.say("making the evaluator out of the training images ...")
    judge = train_judge(splits.train, device, seed)
    facts = {**judge.facts, **made_of, "what": judge.words}
    assert splits.held_out is not None
    labels = splits.held_out.labels
    if labels is not None and judge.config.classes:
        right = (judge.look(splits.held_out.images)[1] == labels).double().mean().item()
        facts["held_out_accuracy"] = right
        reporter.say(f"it is right on {right:.1%} of {len(labels)} real images that it never saw.")
    judge = replace(judge, facts=facts)
    save_judge(judge, folder)
    return judge


# --- samples and verdicts


def order_like(loaded: Loaded, real: ImageData) -> Order:
    """An image for each of the real ones, of its class or caption; seeds from 0."""
    seeds, shape = range(len(real)), loaded.card.shape
    if isinstance(loaded.conditions, Captions):
        return Order(seeds, None, shape, list(real.captions or ()))
    labels = (
        real.labels.tolist() if loaded.run.network.classes and real.labels is not None else None
    )
    return Order(seeds, labels, shape)


def samples_of(loaded: Loaded, order: Order, path: Path, reporter: Reporter) -> Tensor:
    """uint8 (N, C, H, W): read where they were drawn before of the same step and settings."""
    recipe = json.dumps(
        {
            "step": loaded.step,
            "precision": loaded.precision,
            "sampling": to_dict(loaded.run.sampling),
            "seeds": len(order),
            "labels": order.labels and list(order.labels),
            "prompts": order.prompts and list(order.prompts),
        }
    )
    if path.is_file():
        with np.load(path) as saved:
            if str(saved["recipe"]) == recipe:
                return torch.from_numpy(saved["images"])
    reporter.say(f"drawing {len(order):,} images from {loaded.folder.name} ...")
    loaded.tell_moved(reporter.say)
    images = draw_with_progress(loaded, order, loaded.run.sampling, DRAWN_AT_ONCE, reporter)
    with replacing(path) as draft:
        np.savez_compressed(draft, images=images.numpy(), recipe=np.array(recipe))
    return images


def contestant_of(loaded: Loaded, verdict: Verdict) -> Contestant:
    """What its folder knows of a trained contestant."""
    run, rows = loaded.run, read_metrics(loaded.folder)
    shape = loaded.codec.shape(loaded.card.shape)
    network = loaded.denoiser.network
    last = [row for row in rows if row["kind"] == "train"][-1]
    return Contestant(
        name=run.name,
        network=to_dict(run.network),
        precision=run.precision,
        parameters=parameter_count(network),
        flops=flops(network, shape, run.network.classes, *run.caption),
        steps=loaded.step,
        images=loaded.step * run.train.batch,
        seconds=last["seconds"],
        images_per_s=speed_of(rows),
        curve=curve_of(rows),
        verdict=verdict,
    )


def facts_of(
    run: Run, data: ImageData, judge: Judge, device: torch.device, held: int
) -> dict[str, Any]:
    """What all contestants share, as plain JSON values."""
    threads = f"cpu, {torch.get_num_threads()} threads"
    shared = {
        name: value
        for name, value in json.loads(dumps(run)).items()
        if name not in ("name", "recipe", "network", "precision")
    }
    return {
        "data": data.name,
        "images": len(data),
        "held_out": held,
        "device": threads if device.type == "cpu" else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "budget": budget_words(run),
        "batch": run.train.batch,
        "seed": run.train.seed,
        "process": str(run.process),
        "parameterization": type(run.parameterization).__name__,
        "sampling": to_dict(run.sampling),
        "judge": judge.facts,
        "same_for_all": shared,
    }


def tell(
    out: Path,
    runs: Sequence[Run],
    splits: Splits,
    judge: Judge,
    args: Compare,
    device: torch.device,
    reporter: Reporter,
) -> None:
    """Draw and measure; write compare.json and compare.png; print the table."""
    assert splits.held_out is not None
    real = real_ones(splits.held_out, args.samples, reporter)
    reference = judge.moments(splits.train.images)
    labels = None if real.labels is None else real.labels.tolist()
    contestants, drawn = [], []
    for run in runs:
        loaded = load_run(str(out / run.name), device)
        loaded = replace(loaded, run=replace(loaded.run, sampling=run.sampling))
        order = order_like(loaded, real)
        drawn.append(samples_of(loaded, order, out / "samples" / f"{run.name}.npz", reporter))
        verdict = measure(judge, drawn[-1], order.labels, reference)
        contestants.append(contestant_of(loaded, verdict))
    floor = measure(judge, real.images, labels, reference)
    facts = facts_of(runs[0], splits.train, judge, device, len(splits.held_out))
    gaps = gaps_of(contestants, drawn, judge, reference)
    comparison = Comparison(tuple(contestants), floor, facts, gaps)
    write_file(out / "compare.json", json.dumps(comparison.as_json(), indent=1).encode())
    comparison_figure(comparison, drawn, real.images, labels, out / "compare.png")
    for line in ["", *table(comparison), "", *notes(comparison)]:
        reporter.say(line)
    reporter.say(f"Written: {out / 'compare.png'} and {out / 'compare.json'}")


def gaps_of(
    contestants: Sequence[Contestant], drawn: Sequence[Tensor], judge: Judge, reference: Moments
) -> tuple[Gap, ...]:
    """How much farther the samples of each are than those of the nearest contestant."""
    nearest = min(range(len(drawn)), key=lambda number: contestants[number].verdict.frechet)
    gaps = []
    for number, one in enumerate(contestants):
        if number != nearest:
            found = farther(judge, drawn[number], drawn[nearest], reference)
            gaps.append(Gap(one.name, contestants[nearest].name, found.mean, known(found.error)))
    return tuple(gaps)


def real_ones(held: ImageData, wanted: int, reporter: Reporter) -> ImageData:
    """As many held-out images as samples are drawn, each class in its share: both at one n."""
    if len(held) < wanted:
        reporter.say(
            f"{len(held)} images are held out, so as many samples are drawn, not {wanted}: "
            "distances compare at one n only."
        )
    return subset(held, spread(len(held), min(wanted, len(held)), held.labels))
