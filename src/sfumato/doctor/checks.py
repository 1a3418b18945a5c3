"""All checks of a data set, of a plan or of a run's folder, in order."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..assembly import splits_of
from ..codec import Pixels
from ..config import AnyRun, AutoencoderRun, Run
from ..data import ImageData, Tolerance, evenly, fingerprint, load
from ..devices import pick_device
from ..folder import DataCard, read_card, read_metrics
from ..interop.fitting import skeleton
from ..kinds import read_run
from ..networks.describe import asked, flops
from ..parameterization import EDMPreconditioning
from ..places import find
from ..planning import as_used, data_of, load_data
from ..recipes import RECIPES
from ..storage import DamagedError
from ..tasks import TASKS
from ..tasks.diffusion import MOST_ROWS
from . import data as images
from . import draws, plan, process, run
from .finding import NOTE, WRONG, Finding, found, sorted_by_severity
from .machine import Machine, check_machine, pace, this_machine

REFUSED = (ValueError, OSError, DamagedError)
NO_RUN = {"few-images", "unreadable"}  # that training tells by itself


def look_at_data(source: str) -> list[Finding]:
    """A folder, an archive, a file of arrays, or the name of a data set."""
    path = Path(source)
    findings: list[Finding] = []
    try:
        if path.suffix.lower() in (".npy", ".npz") and path.is_file():
            findings += images.check_file(path)
        if not findings:
            data = load(source, tolerance=Tolerance(most=1.0), others=tuple(RECIPES))
            findings += images.check_images(data)
    except REFUSED as error:
        findings.append(refused(error))
    return sorted_by_severity(findings)


def look_at_plan(config: AnyRun, machine: Machine | None = None) -> list[Finding]:
    """A run's settings with its images, where they can be read."""
    machine = machine or this_machine(pick_device())
    findings = list(of_settings(config))
    data = None
    try:
        data = as_used(config, load_data(config.data))
        config = TASKS[type(config)].settled(config, data)
    except REFUSED as error:
        missing = data is None
        findings.append(found("no-data", NOTE, error=str(error)) if missing else refused(error))
        return sorted_by_severity(findings)
    try:
        findings += of_images(config, data)
        findings += of_means(config, data, machine, None)
    except REFUSED as error:
        findings.append(refused(error))
    return sorted_by_severity(findings)


def before_training(
    config: AnyRun, data: ImageData, seconds: float, device: torch.device, folder: Path
) -> list[Finding]:
    """What to warn of before a settled run whose step takes `seconds`: in under a second."""
    findings = [*of_settings(config), *of_images(config, data)]
    findings += of_means(config, data, this_machine(device, folder), seconds)
    return sorted_by_severity(f for f in findings if f.code not in NO_RUN and f.severity != NOTE)


def look_at_run(
    name: str, machine: Machine | None = None, data: ImageData | None = None
) -> list[Finding]:
    """A run's folder: its settings, its log, and its last drawings beside its images.

    data: the images of the run, where they are at hand; else they are read again.
    """
    folder = find(name)
    config, card, rows = read_run(folder), read_card(folder), read_metrics(folder)
    findings = [*of_settings(config), *run.check_log(config, rows)]
    findings += of_average(config, rows)
    try:
        if data is None:
            data = data_of(config, card)
            check_same_images(card, data)
    except REFUSED as error:
        findings.append(found("data-gone", NOTE, error=str(error)))
        return sorted_by_severity(findings)
    findings += of_images(config, data)
    findings += of_latents(config, data, folder)
    findings += of_drawings(config, data, folder)
    train = run.of_kind(rows, "train")
    if train and train[-1]["step"]:
        machine = machine or this_machine(pick_device(), folder)
        seconds = train[-1]["seconds"] / train[-1]["step"]
        findings += of_means(config, data, machine, seconds, run.ended_at(config, rows))
    return sorted_by_severity(findings)


def refused(error: Exception) -> Finding:
    """What training would end with."""
    return found("refused", WRONG, error=str(error))


def check_same_images(card: DataCard, data: ImageData) -> None:
    """Raises: ValueError where these are not the images that the run was trained on."""
    if fingerprint(data) != card.fingerprint:
        raise ValueError(
            f"{card.source} has other images now: {len(data):,} of {data.size} where the run saw "
            f"{card.images:,} of {card.size}, or other pixels or labels."
        )


def of_settings(config: AnyRun) -> Iterator[Finding]:
    """What needs neither images nor a machine."""
    yield from plan.check_rate(config)
    yield from plan.check_length(config.train.ema_length)
    if not isinstance(config, Run):
        return
    yield from process.check_process(config.process)
    undefined = list(process.check_prediction(config))
    yield from undefined
    if not any(finding.code == "zero-snr" for finding in undefined):
        yield from process.check_times(config)
    yield from draws.check_sampling(config)


def of_images(config: AnyRun, data: ImageData) -> Iterator[Finding]:
    """The images, and the settings beside them. The run is settled."""
    unlabelled = isinstance(config, AutoencoderRun) or not config.network.classes
    yield from images.check_images(replace(data, labels=None) if unlabelled else data)
    yield from images.check_flip(data, config.data)
    yield from images.check_held_out(data, config.data)
    yield from images.check_batch(len(data), config.train.batch)
    if isinstance(config, Run):
        told = bool(config.network.classes) or config.text is not None
        yield from draws.check_guidance(config, told)
        yield from plan.check_width(config, config.codec.channels(data.channels))
        shape, cond = latent_shape(config, data), asked(config.network.classes, *config.caption)
        yield from plan.check_told(config, shape, cond)
        if isinstance(config.parameterization, EDMPreconditioning):
            measured = config.codec.deviation(data.images)
            yield from images.check_sigma_data(config.parameterization.sigma_data, measured)


def of_means(
    config: AnyRun,
    data: ImageData,
    machine: Machine,
    seconds: float | None,
    ended: int | None = None,
) -> Iterator[Finding]:
    """Time, memory and disk.

    seconds: of a step; None to estimate it from below. ended: at which step, of a run that has.
    """
    weights = weights_of(config)
    precision = config.precision if ended is None else "auto"
    yield from check_machine(machine, weights, config.train.keep, precision)
    least = seconds is None
    if seconds is None and isinstance(config, Run):
        work = 3 * forward(config, data) * config.train.batch
        seconds = work / pace(torch.device(machine.device))
    if seconds is None:
        return
    yield from plan.check_budget(config.train, seconds, least, ended)
    steps = ended or plan.planned_steps(config.train)
    limit = None if ended else config.train.seconds
    steps = steps if limit is None else min(steps or 10**12, int(limit / seconds))
    if steps and isinstance(config, Run):
        values = data.channels * data.size[0] * data.size[1]
        batch, count = config.train.batch, len(splits_of(config.data, data).train)
        yield from plan.check_memory(weights, steps, batch, count, values)
        if not least or limit is None:
            yield from draws.check_brief(config, steps)


def weights_of(config: AnyRun) -> int:
    """Numbers in the network, counted without making it."""
    return sum(value.numel() for value in skeleton(config.network.build, "the network").values())


def latent_shape(config: Run, data: ImageData) -> tuple[int, int, int]:
    """(C, H, W) of what the network sees: the codec may have made the images smaller."""
    f = getattr(config.codec, "f", 1)
    return config.codec.channels(data.channels), -(-data.size[0] // f), -(-data.size[1] // f)


def forward(config: Run, data: ImageData) -> int:
    """FLOPs of one image."""
    with torch.device("meta"):
        network = config.network.build()
    return flops(network, latent_shape(config, data), config.network.classes, *config.caption)


def of_average(config: AnyRun, rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """How much of the average is of weights that were hardly trained, or of another program's."""
    train = run.of_kind(rows, "train")
    if train:
        first = max(plan.FIRST, train[0]["step"] - 1)
        yield from plan.check_average(train[-1]["step"], config.train.ema_length, first)


def of_latents(config: AnyRun, data: ImageData, folder: Path) -> Iterator[Finding]:
    """The latents that the run's own codec makes of some of its images."""
    if isinstance(config, Run) and not isinstance(config.codec, Pixels):
        codec = config.codec.build(folder, torch.device("cpu"))
        with torch.no_grad():
            yield from images.check_latents(codec.encode(images.some(data.images, 16)))


def of_drawings(config: AnyRun, data: ImageData, folder: Path) -> Iterator[Finding]:
    """The newest preview beside the images."""
    newest = max((folder / "samples").glob("step-*.npy"), default=None)
    if newest is None or not isinstance(config, Run):
        return
    drawn = torch.from_numpy(np.load(newest, allow_pickle=False))
    # previews show as many of each class, whatever the data's shares
    real = data.images[evenly(data, min(config.network.classes, MOST_ROWS), 1000)]
    if drawn.shape[1:] == real.shape[1:] and len(drawn) > 1 and len(real):
        yield from run.check_drawn(drawn, real)
