"""sfumato evaluate: a run measured on images that it was not trained on.

RUN/evaluation/evaluation.json   every number, beside the words that say what it is of
RUN/evaluation/evaluation.png    the bound's terms, losses by noise level, or images and what is
                                 decoded of them
RUN/evaluation/nearest.png       with --samples: drawn images above their nearest training images
RUN/evaluation/spectrum.png      with --samples: their power by frequency beside that of real ones
"""

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..arguments import Evaluate, UsageError
from ..assembly import Splits, splits_of
from ..config import AnyRun, Run
from ..console import Reporter, count, facts_block, reading
from ..data import ImageData, fingerprint, spread, subset
from ..devices import pick_device
from ..discrete import DiscreteVP
from ..features import features_of
from ..folder import DataCard, find, new_folder, read_card
from ..kinds import read_run
from ..noising import ScaledInput
from ..page import write_page
from ..planning import data_of
from ..quality import LEAST, Real, control_of
from ..storage import write_file
from ..wrapping import columns, paragraphs, wrapped
from .drawn import Drawn, measure_drawn
from .measures import MEASURES
from .subject import Report, Subject

Say = Callable[[str], None]


def run_evaluate(args: Evaluate) -> None:
    """Measure what runs of this kind are measured by; write it into the run's folder.

    Raises: ValueError where the run held no images out and none are given, or where its own
    changed; FileNotFoundError where it has no checkpoint.
    """
    for name in ("limit", "steps"):
        value = getattr(args, name)
        if value is not None and value < 2:
            raise UsageError(f"--{name} {value}; at least 2 are needed.")
    folder = find(args.run)
    run, card = read_run(folder), read_card(folder)
    if args.flow:
        check_flow(run)
    check_drawing(args, run)
    device = pick_device(args.device)
    with Reporter(quiet=args.quiet) as reporter:
        data, told = images_of(args, run, card, reporter.say)
        subject = Subject(folder, run, data, told, device, args, reporter.say)
        report = MEASURES[type(run)](subject)
        drawn = None
        if args.samples is not None:
            drawn = measure_drawn(subject, real_images(args, run, card, reporter.say))
        title = f"{folder}, step {report.step:,}, {subject.weights} weights"
        reporter.say(facts_block(title, {"images": told, **report.words}, columns()))
        for note in report.notes:
            reporter.say(paragraphs(note))
        if drawn is not None:
            reporter.say(f"\n{drawn.words}\n")
        elif isinstance(run, Run):
            reporter.say(wrapped(f"What it draws was not looked at: `{asked(args, folder)}`"))
        out = write(subject, report, drawn)  # numbers are said before: the disk may be full
        write_page(folder)
        more = ", nearest.png, spectrum.png" if drawn is not None else ""
        reporter.say(wrapped(f"Written to {out}: evaluation.json, evaluation.png{more}"))


def asked(args: Evaluate, folder: Path) -> str:
    """The command that measures what the run draws."""
    data = "" if args.data is None else f" --data {shlex.quote(args.data)}"
    return f"sfumato evaluate {shlex.quote(str(folder))} --samples 1000{data}"


def check_flow(run: AnyRun) -> None:
    """Raises UsageError where there is no probability-flow ODE to take the bits of."""
    if not isinstance(run, Run):
        raise UsageError(f"--flow: a {type(run).__name__} has no density; leave it out.")
    process = run.process.process if isinstance(run.process, ScaledInput) else run.process
    if isinstance(process, DiscreteVP):
        raise UsageError(
            f"--flow: {process} was trained at its {process.steps:,} steps only, and the "
            "ODE is of continuous processes, as Karras(). Its variational bits are exact: leave "
            "--flow out."
        )


def check_drawing(args: Evaluate, run: AnyRun) -> None:
    """Raises UsageError where images can't be drawn, or flags on them are of no use.

    Raises: ValueError too, where there are no such features, or what they need is not there.
    """
    if args.samples is None:
        for name in ("bits", "features", "weights"):
            if getattr(args, name) not in (None, False):
                raise UsageError(f"--{name} goes with drawn images: give --samples N too.")
        return
    if not isinstance(run, Run):
        raise UsageError(f"--samples: a {type(run).__name__} draws no images; leave it out.")
    if args.samples < LEAST:
        raise UsageError(f"--samples {args.samples}; at least {LEAST} are needed, better 1,000.")
    if args.features not in (None, "auto", "judge"):  # refused now, not after minutes of measuring
        features_of(args.features, weights=args.weights)


def write(subject: Subject, report: Report, drawn: Drawn | None = None) -> Path:
    """evaluation.json and the pictures in a new folder, beside those of earlier times."""
    made = {
        "made_by": "sfumato evaluate",
        "run": subject.folder.name,
        "kind": type(subject.run).__name__,
        "step": report.step,
        "weights": subject.weights,
        "images": subject.told,
    }
    data = {"count": len(subject.data), "fingerprint": fingerprint(subject.data)}
    quality = {} if drawn is None else {"drawn": drawn.numbers}
    found = plain({**made, **data, **report.numbers, **quality})
    text = json.dumps(found, indent=1, allow_nan=False)
    out = new_folder(subject.folder, "evaluation")
    report.draw(out / "evaluation.png", made)
    if drawn is not None:
        drawn.draw(out, made)
    write_file(out / "evaluation.json", text.encode())
    return out


def plain(value: Any) -> Any:
    """As JSON can say it: infinities become "inf" and "-inf", NaN null."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


# --- which images


def images_of(args: Evaluate, run: AnyRun, card: DataCard, say: Say) -> tuple[ImageData, str]:
    """(at most --limit images, spread evenly over all that qualify; in words which they are)."""
    if args.data is None:
        whole, what, unknown = own_images(args, run, card, say), f"{args.split} images", ""
    else:
        whole = given_images(args, args.data, run, card, say)
        what, unknown = "images", "; whether it was trained on some of them is not checked"
    if len(whole) < 2:
        raise ValueError(
            f"{len(whole)} of {whole.name}: a mean with its error wants 2 images or more."
        )
    some = min(args.limit, len(whole))
    part = f"all {count(some)}" if some == len(whole) else f"{count(some)} of {count(len(whole))}"
    chosen = subset(whole, spread(len(whole), some, whole.labels))
    return chosen, f"{part} {what} of {whole.name}{unknown}"


def own_images(args: Evaluate, run: AnyRun, card: DataCard, say: Say) -> ImageData:
    """Those of the run's own images that --split names.

    Raises: ValueError where there are none, or the images are not those that it was trained on.
    """
    splits = own_splits(args, run, card, say)
    part = {"held-out": splits.held_out, "test": splits.test}[args.split]
    if part is None:
        other = "--split held-out, or --data" if args.split == "test" else "--data"
        raise ValueError(f"{args.run} kept no {args.split} images apart: give {other}.")
    return part


def own_splits(args: Evaluate, run: AnyRun, card: DataCard, say: Say) -> Splits:
    """All of the run's own images.

    Raises: ValueError where none are known, or they are not those that it was trained on.
    """
    if not card.images:
        raise ValueError(
            f"{args.run} was imported without images, so none are known to be held out: give "
            "--data."
        )
    data = data_of(run, card, reading(say))
    if fingerprint(data) != card.fingerprint:
        raise ValueError(
            f"the images of {run.data.source} are not those that {args.run} was trained on: it had "
            f"{card.images:,} of {card.size}, now there are {len(data):,} of {data.size}, or their "
            "pixels, labels or order changed. Which of them it held out can't be known: bring the "
            "old ones back, or give others with --data."
        )
    return splits_of(run.data, data)


def real_images(args: Evaluate, run: AnyRun, card: DataCard, say: Say) -> tuple[str, Real]:
    """(what drawn images are compared to, in words, and these with the others that measures need).

    Raises: ValueError where the run has none of those that --against names.
    """
    assert args.samples is not None
    if args.data is not None:
        whole = given_images(args, args.data, run, card, say)
        reference, control = control_of(whole, None, args.samples, in_shares(run))
        return f"images of {whole.name}", Real(reference, control, None, None)
    splits = own_splits(args, run, card, say)
    test = test_part(run, card, splits, say) if args.against == "test" else splits.test
    unseen = splits.held_out if test is None else test
    chosen = {"train": splits.train, "held-out": splits.held_out, "test": test}[args.against]
    if chosen is None:
        raise ValueError(f"{args.run} kept no {args.against} images: give another --against.")
    others = unseen if args.against == "train" else splits.train
    reference, control = control_of(chosen, others, args.samples, in_shares(run))
    real = Real(reference, control, splits.train, unseen, mirrored=run.data.flip)
    return f"{args.against} images of {chosen.name}", real


def in_shares(run: AnyRun) -> bool:
    """Whether the run is told what to draw, and so is asked for each class in its share."""
    return isinstance(run, Run) and bool(run.network.classes or run.text)


def test_part(run: AnyRun, card: DataCard, splits: Splits, say: Say) -> ImageData:
    """The images that the run kept for a test, or else those that their authors named so.

    Raises: ValueError where there are none.
    """
    if splits.test is not None:
        return splits.test
    config = replace(run.data, split="test", limit=None)
    return data_of(replace(run, data=config), card, reading(say))


def given_images(args: Evaluate, source: str, run: AnyRun, card: DataCard, say: Say) -> ImageData:
    """The images of --data, at the run's size and with its classes.

    Raises: ValueError where they are those that it was trained on, or lack its classes.
    """
    split = "test" if args.split == "test" else "train"
    config = replace(run.data, source=source, size=None, channels=None, limit=None, split=split)
    data = data_of(replace(run, data=config), card, reading(say))
    if fingerprint(data) == card.fingerprint:
        raise ValueError(
            f"--data {source} is what {args.run} was trained on: leave --data out, to measure on "
            "the images that it held out."
        )
    if not getattr(run.network, "classes", 0):
        return replace(data, labels=None)
    if data.labels is None or data.class_names != card.class_names:
        raise ValueError(
            f"--data {source} has the classes {data.class_names}; {args.run} was trained on "
            f"{card.class_names}: give a sub-folder each, of the same names."
        )
    return data
