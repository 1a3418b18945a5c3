"""Quality a minute on Fashion-MNIST: contenders are given the same minutes of a quiet machine.

times        seconds of each one's training step, in turn, on a quiet machine
course       seconds of a step of diffusers' course beside one of ours
student      seconds of a step of distilling beside one of ours
drawing      seconds of each contender's drawing, in turn
fashion-10   each trains as many steps as fit into 10 minutes of those, then draws 5,000 images
fashion-30   the same with 30 (any other number by --minutes)
fashion-60   the same with 60, of the source documents' recipes alone: ours has ten for it
NAME-30      one contender of fashion-30 alone, say diffusers-30: takes its place in that table
distill      our ten-minute run tuned for one and two steps, for ten minutes
digits       digits_fast, ten minutes, on the built-in digits
rivals       the source documents' recipes there, as many minutes, a fifth as many images

Steps, not the clock, end a training, so that it may share its machine; the first four may
not. Runs are kept in --runs; one that is there is gone on with, or taken as it is.

Squared Frechet distance in the frozen features to the test images, of 500 drawn images a class; the
floor is that of as many training images, and the interval twice the jackknife's error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.data import ImageData, load, spread, subset
from sfumato.features import Features, features_of
from sfumato.measuring import Estimate, Moments, frechet_estimate
from sfumato.memory import keep_freed

from .contenders import CONTENDERS, COURSE, DIGITS, RIVALS, SOURCES, Contender, OfDiffusers
from .distilling import DISTILLED, STUDENT, Distilled, Distilling
from .keeping import CLASSES, begun, drawn_by, once, stored
from .machine import ROOT
from .options import Options, chosen, keep, say
from .quality_page import measured, picture_of
from .results import RESULTS, Row, read
from .rounds import Facts, Runner, in_turn
from .showing import titled
from .tutorial import Tutorial

ROUNDS, REPEATS, DRAWING_ROUNDS, DRAWN_AT_ONCE = 6, 8, 3, 125
IMAGES, SHOWN = 5000, 5  # SHOWN: of a class, in a picture
SECONDS = 600
# By minutes. An hour is what ours has ten minutes for, so that ours has no hour of its own.
ENTERED = {10: (CONTENDERS[0], *RIVALS), 30: CONTENDERS, 60: SOURCES}
# Timed apart, since to time all anew would be to train all anew: their steps are counted by it.
BESIDE: dict[str, OfDiffusers | Distilling] = {"course": COURSE, "student": DISTILLED}


def run(options: Options) -> None:
    keep_freed()
    entered = {**({options.minutes: CONTENDERS} if options.minutes else {}), **ENTERED}
    apart = {
        f"{one.key}-{m}": partial(fashion, options, 60 * m, (one,))
        for m, some in entered.items()
        for one in some
    }
    if options.only in apart:
        keep("quality", options.only, options, apart[options.only])
        return
    rounds = {
        f"fashion-{m}": partial(fashion, options, 60 * m, entered[m]) for m in sorted(entered)
    }
    cases: dict[str, Callable[[], Any]] = {
        "times": partial(times, options),
        **{case: partial(beside, options, other) for case, other in BESIDE.items()},
        "drawing": partial(drawing, options),
        **rounds,
        "distill": partial(distill, options),
        "digits": partial(digits, options, (DIGITS,), IMAGES),
        "rivals": partial(digits, options, RIVALS, IMAGES // 5),
    }
    if options.minutes and not options.only:
        options = replace(options, only=f"fashion-{options.minutes}")
    for case in chosen(options, list(cases)):
        keep("quality", case, options, cases[case])


# --- how long a step takes


def times(options: Options) -> tuple[Facts, list[Row], Facts]:
    """A row a contender's training step, all in turn."""
    data = load(options.data, limit=4000)
    some = [one for one in (*CONTENDERS, DIGITS) if one not in BESIDE.values()]
    steppers = {one.key: one.stepper(data) for one in some}
    return steps_of(steppers, {one.key: one.batch for one in some}, data, options)


def beside(options: Options, other: OfDiffusers | Distilling) -> tuple[Facts, list[Row], Facts]:
    """Another one's training step beside ours, in turn."""
    data, ours = load(options.data, limit=4000), CONTENDERS[0]
    name = f"{ours.key}: beside {other.key}"
    steppers = {name: ours.stepper(data), other.key: other.stepper(data)}
    return steps_of(steppers, {name: ours.batch, other.key: other.batch}, data, options)


def steps_of(
    steppers: Mapping[str, Callable[[], Any]],
    batches: Mapping[str, int],
    data: ImageData,
    options: Options,
) -> tuple[Facts, list[Row], Facts]:
    """A row each, of its steps in turn with the others'."""
    rounds = 2 if options.quick else options.rounds or ROUNDS
    seconds = in_turn([Runner(*pair, keep_freed) for pair in steppers.items()], rounds, 1, REPEATS)
    rows = [
        Row(key, of_one(s), batches[key], "images", 0.0, precision_of(steppers[key]))
        for key, s in seconds.items()
    ]
    return {"rounds": rounds, "steps_a_round": REPEATS, "data": data.name}, rows, {}


def of_one(seconds: Sequence[float]) -> tuple[float, ...]:
    """Of turns of REPEATS steps, a step's; the step before them, with cold caches, is not timed."""
    return tuple(value / REPEATS for value in seconds)


def precision_of(stepper: Any) -> Facts:
    """How a contender's steps are run: as its `train` is told."""
    told = stepper.tuning if isinstance(stepper, Tutorial) else stepper.task.run.precision
    return {"precision": str(told)}


def drawing(options: Options) -> tuple[Facts, list[Row], Facts]:
    """Rows of images a second, by some of each sampler's steps on untrained networks."""
    data = load(options.data, limit=4000)
    count, rounds = (10, 1) if options.quick else (DRAWN_AT_ONCE, options.rounds or DRAWING_ROUNDS)
    measured = timed(options)
    sketches = {
        one.key: one.sketcher(data, step_of(one.key, measured).facts["precision"])
        for one in CONTENDERS
    }
    labels = [k % CLASSES for k in range(count)]
    runners = [
        Runner(key, partial(draw, range(count), labels)) for key, (draw, _) in sketches.items()
    ]
    seconds = in_turn(runners, rounds, warm=1)
    rows = [
        Row(f"{key}: drawing", s, count * sketches[key][1], "images") for key, s in seconds.items()
    ]
    return {"rounds": rounds, "data": data.name}, rows, {}


# --- training and drawing


def fashion(
    options: Options, seconds: int, entered: Sequence[Contender]
) -> tuple[Facts, list[Row], Facts]:
    """Each of those entered after so many seconds of its steps, beside the floor."""
    yard = Yard.of(options.data, "fashion", 40 if options.quick else IMAGES)
    measured = timed(options)
    pictures, minutes, rows = folder_of_pictures(options), seconds // 60, []
    titled("test images", yard.shown(yard.test), pictures / picture_of("test"), yard.names)
    for one in entered:
        folder = options.runs / named(one.key, seconds)
        rows.append(entry(one, folder, options, seconds, yard, measured))
        picture = pictures / picture_of(one.key, minutes)
        titled(one.title, yard.shown_of(stored(folder)), picture)
    settings = {"seconds": seconds, **yard.settings, "data": yard.name}
    return settings, rows, yard.floor


def entry(
    one: Contender,
    folder: Path,
    options: Options,
    seconds: int,
    yard: "Yard",
    measured: Mapping[str, Row],
) -> Row:
    """One contender, trained for so many seconds of its steps on the yard's data, and judged."""
    step = step_of(one.key, measured)
    steps = steps_in(seconds, step, options)
    precision = step.facts["precision"]
    asked = {"steps": steps, "data": yard.source, "precision": precision}
    wall = once(folder, asked, partial(one.train, yard.source, folder, steps, precision))
    row = judged(one, folder, yard, measured, {"steps": steps, "wall_s": wall})
    say(f"  {one.words}: {row.facts['distance']:.2f}")
    return row


def named(key: str, seconds: int) -> str:
    return key if seconds == SECONDS else f"{key}-{seconds // 60}m"


def folder_of_pictures(options: Options) -> Path:
    own = options.out.resolve() == RESULTS.resolve()
    return (ROOT / "docs" if own else options.out) / "pictures"


def timed(options: Options) -> dict[str, Row]:
    """The rows of MEASURED. Raises: ValueError where no step was measured."""
    found = read("quality", options.out)
    if "times" not in found:
        raise ValueError(
            "the minutes are counted in steps, and no step was timed: first, on a quiet machine, "
            "python -m bench quality --only times"
        )
    return measured(found)


def step_of(key: str, measured: Mapping[str, Row]) -> Row:
    """Raises: ValueError where it was not timed, with the case that times it."""
    if key not in measured:
        case = next((case for case, other in BESIDE.items() if other.key == key), "times")
        raise ValueError(f"no step of {key} was timed: first --only {case}.")
    return measured[key]


def steps_in(seconds: float, step: Row, options: Options) -> int:
    return 2 if options.quick else int(seconds / step.median)


# --- measuring


@dataclass(frozen=True, eq=False)
class Yard:
    """Test images to measure by, and as many training images as are drawn, for the floor."""

    source: str
    name: str
    names: tuple[str, ...]
    test: ImageData
    features: Features
    moments: Moments
    count: int
    others: ImageData

    @classmethod
    def of(cls, source: str, features: str, count: int) -> "Yard":
        train, test = load(source), load(source, split="test")
        network = features_of(features)
        others = subset(train, spread(len(train), count, train.labels))
        moments = Moments.of(network(test.images))
        return cls(source, test.name, test.class_names, test, network, moments, count, others)

    def distance(self, images: Tensor) -> Estimate:
        return frechet_estimate(self.features(images), self.moments)

    @property
    def settings(self) -> Facts:
        found = {"images": self.count, "test_images": len(self.test)}
        return {**found, "features": self.features.name, "digest": self.features.digest}

    @property
    def floor(self) -> Facts:
        floor = self.distance(self.others.images)
        return {"floor": round(floor.mean, 4), "floor_error": round(floor.error, 4)}

    def shown(self, data: ImageData) -> Tensor:
        """SHOWN of each class, a class a row."""
        assert data.labels is not None
        rows = [data.images[data.labels == k][:SHOWN] for k in range(CLASSES)]
        return torch.cat(rows)

    def shown_of(self, drawn: Tensor) -> Tensor:
        return torch.cat([drawn[k::CLASSES][:SHOWN] for k in range(CLASSES)])


def judged(one: Contender, folder: Path, yard: Yard, measured: dict[str, Row], facts: Facts) -> Row:
    """The contender's row: a step's seconds, and all that came of them."""
    asked = {"sampler": one.sampler, "guidance": one.guidance, "begun": begun(folder)}
    images = drawn_by(partial(one.drawer, folder), folder, yard.count, asked)
    found = yard.distance(images)
    step = measured[one.key]
    facts = facts | {
        "words": one.words,
        "title": one.title,
        "images_seen": facts["steps"] * one.batch,
        "distance": round(found.mean, 4),
        "error": round(found.error, 4),
        "guidance": one.guidance,
        "sampler": one.sampler,
        "calls": one.calls,
        "precision": step.facts["precision"],
    }
    return Row(one.key, step.seconds, one.batch, "images", 0.0, facts)


# --- what comes after ten minutes


def distill(options: Options) -> tuple[Facts, list[Row], Facts]:
    """Teacher and student, by steps of sampling."""
    yard = Yard.of(options.data, "fashion", 40 if options.quick else IMAGES)
    measured = timed(options)
    teacher = options.runs / CONTENDERS[0].key
    if not (teacher / "run.json").exists():
        raise ValueError(f"{teacher} is the teacher, and not there: first --only fashion-10.")
    step = step_of(STUDENT, measured)
    steps = steps_in(SECONDS, step, options)
    folder = options.runs / STUDENT
    asked = {"steps": steps, "data": options.data, "teacher": begun(teacher)}
    wall = once(folder, asked, partial(DISTILLED.train, teacher, folder, steps))
    rows = [
        student_row(way, folder, teacher, yard, step, {"steps": steps, "wall_s": wall})
        for way in DISTILLED.ways()
    ]
    return {"seconds": SECONDS, **yard.settings, "data": yard.name}, rows, yard.floor


def student_row(
    way: Distilled, folder: Path, teacher: Path, yard: Yard, step: Row, facts: Facts
) -> Row:
    """One way of drawing, of the teacher or the student; seconds are of the student's step."""
    place = folder.with_name(f"{STUDENT}-{way.key}")
    drawing = folder if way.student else teacher
    asked = {"sampler": way.words, "begun": begun(drawing)}
    images = drawn_by(partial(way.drawer, drawing), place, yard.count, asked)
    found = yard.distance(images)
    facts = facts | {
        "words": way.words,
        "distance": round(found.mean, 4),
        "error": round(found.error, 4),
        "calls": way.calls,
    }
    return Row(way.key, step.seconds, DISTILLED.batch, "images", 0.0, facts)


def digits(
    options: Options, entered: Sequence[Contender], images: int
) -> tuple[Facts, list[Row], Facts]:
    """Ten minutes each on the built-in digits: measured by the mnist features against them.

    There are 5,000 of them and no test set, so that nine tenths of the reference or all are what
    they were trained on; the floor is that of one half beside the other.
    """
    data, network = load("digits"), features_of("mnist")
    count, moments = 40 if options.quick else images, Moments.of(network(data.images))
    yard = Yard("digits", data.name, data.class_names, data, network, moments, count, data)
    measured, pictures, rows = timed(options), folder_of_pictures(options), []
    titled("the digits", yard.shown(data), pictures / picture_of("digits"), yard.names)
    for one in entered:
        folder = options.runs / (one.key if one is DIGITS else f"{one.key}-digits")
        row = entry(one, folder, options, SECONDS, yard, measured)
        picture = picture_of(f"{one.key}-digits")
        titled(one.title, yard.shown_of(stored(folder)), pictures / picture)
        rows.append(replace(row, facts={**row.facts, "picture": picture}))
    settings = {**yard.settings, "seconds": SECONDS, "data": data.name}
    return settings, rows, floor_of_halves(data, network)


def floor_of_halves(data: ImageData, network: Features) -> Facts:
    """One half of the images beside the other: half as many as drawn, by chance twice as far."""
    half = spread(len(data), len(data) // 2, data.labels)
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[half] = False
    found = frechet_estimate(network(data.images[half]), Moments.of(network(data.images[rest])))
    return {"floor": round(found.mean, 4), "floor_error": round(found.error, 4)}
