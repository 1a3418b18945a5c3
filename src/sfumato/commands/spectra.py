"""sfumato spectra: whether low frequencies come first, measured of one run.

    in training    RUN/samples/step-N.npy, the same seeds at every preview, against the data
    in sampling    the estimates of x0 along trajectories that are drawn now, against the data

and of both when each scale came to hold the data's power, and when it came to look as it does in
the last images: see ..spectra. Writes RUN/spectra.png and RUN/spectra.json.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import Spectra as Arguments
from ..arguments import UsageError
from ..assembly import splits_of
from ..codec import Pixels
from ..config import SamplingConfig
from ..console import Reporter, reading
from ..data import fingerprint
from ..devices import pick_device
from ..generation import draw
from ..grids import KarrasGrid
from ..kinds import to_dict
from ..loading import Loaded, load_run
from ..page import write_page
from ..planning import data_of
from ..sampling import Point
from ..solvers import DPMSolverPP2M
from ..spectra import (
    SETTLED,
    Arrival,
    Spectra,
    arrival_of,
    radial_power,
    settled_of,
    spectra_of,
    spectrum_figure,
)
from ..storage import write_file
from ..tasks.diffusion import rows_to_draw
from ..training_film import step_of

SHARE = 0.5  # of the data's power: from there to twice as much counts as reached
STEPS = 40  # of the trajectory
MOST_REAL = 2000  # training images whose power the data's is
FEW_PREVIEWS = 5
CLEAR = 0.5  # a rank correlation beyond which one order is called the rule


def run_spectra(args: Arguments) -> None:
    """Measure, print, write."""
    if args.samples < 1:
        raise UsageError(f"--samples {args.samples}; at least 1 is needed.")
    loaded = load_run(args.run, pick_device(args.device))
    with Reporter(quiet=args.quiet) as reporter:
        loaded.tell_moved(reporter.say)
        real = training_images(loaded, reporter)
        target = radial_power(real)[1]
        training = in_training(loaded.folder, reporter)
        reporter.say(f"drawing about {args.samples} images in {STEPS} steps ...")
        sampling, facts = in_sampling(loaded, args.samples)
        record = {
            "made_by": "sfumato spectra",
            "run": loaded.folder.name,
            "step": loaded.step,
            "data": loaded.card.name,
            "images": len(real),
            "share": SHARE,
            "settled": SETTLED,
            "sampling": facts,
        }
        path = loaded.folder / "spectra.png"
        spectrum_figure(target, path, training, sampling, SHARE, settings=record)
        write_file(path.with_suffix(".json"), dumped(record, target, training, sampling))
        write_page(loaded.folder)
        for line in [*words_of(target, training, sampling), f"Written: {path} and spectra.json"]:
            reporter.say(line)


# --- what is measured


def training_images(loaded: Loaded, reporter: Reporter) -> Tensor:
    """uint8 (N, C, H, W): the run's own, at most MOST_REAL, spread over all.

    Raises: ValueError where they are not those that it was trained on.
    """
    if not loaded.run.data.source:
        raise ValueError(
            f"{loaded.folder.name} was imported without images, so there is no spectrum to compare "
            "with: import it again with --data and the images it was trained on."
        )
    data = data_of(loaded.run, loaded.card, reading(reporter.say))
    if fingerprint(data) != loaded.card.fingerprint:
        raise ValueError(
            f"{data.name} is not what {loaded.folder.name} was trained on: its pixels or labels "
            "changed. Bring the old images back."
        )
    images = splits_of(loaded.run.data, data).train.images
    return images[:: -(-len(images) // MOST_REAL)]


def previews_of(folder: Path) -> list[tuple[int, Path]]:
    """(step, samples) of RUN/samples, by step."""
    numbered = [(step_of(p.with_suffix(".png")), p) for p in (folder / "samples").glob("*.npy")]
    return sorted((step, path) for step, path in numbered if step is not None)


def in_training(folder: Path, reporter: Reporter) -> Spectra | None:
    """The spectra of the previews and their likeness to the last; None where there are too few."""
    found = previews_of(folder)
    if len(found) < FEW_PREVIEWS:
        reporter.warn(
            f"{folder / 'samples'} holds {len(found)} step-*.npy, too few to see an order in "
            "training: train with --previews 20."
        )
        return None
    batches = [torch.from_numpy(np.load(path)) for _, path in found]
    return spectra_of(batches, [step for step, _ in found], final=batches[-1])


def followed(sampling: SamplingConfig) -> SamplingConfig:
    """As trained, without guidance, and by a solver that adds no noise of its own."""
    plain = replace(sampling, solver=DPMSolverPP2M(), grid=KarrasGrid(), steps=STEPS)
    return replace(plain, guidance=1.0, classifier="")


def in_sampling(loaded: Loaded, count: int) -> tuple[Spectra, dict[str, Any]]:
    """The spectra of the estimates of x0 by noise level, and how they were drawn.

    Estimates of latents are decoded first; of pixels they are taken as they are, unrounded.
    """
    run, settings = loaded.run, followed(loaded.run.sampling)
    rows = min(run.network.classes, 10)
    columns = max(1, count // rows if rows else int(count**0.5))
    order, _ = rows_to_draw(run, loaded.conditions, loaded.card, columns)
    points: list[Point] = []
    final = draw(
        loaded.denoiser,
        order,
        settings,
        loaded.conditions,
        loaded.device,
        batch=len(order),
        on_point=lambda start, point: points.append(point),
        codec=loaded.codec,
    )
    made = [point.prediction for point in points if point.prediction is not None]
    levels = [loaded.denoiser.process.ratio(each.t.flatten()[0]).item() for each in made]
    size = loaded.card.size
    in_pixels = isinstance(run.codec, Pixels)
    estimates = [
        each.x0.cpu() if in_pixels else loaded.codec.decode(each.x0, size) for each in made
    ]
    facts = {**to_dict(settings), "images": len(order), "seeds": [order.seeds[0], order.seeds[-1]]}
    return spectra_of(estimates, levels, final=estimates[-1] if in_pixels else final), facts


# --- what is told


def words_of(target: Tensor, training: Spectra | None, sampling: Spectra) -> list[str]:
    """The claim "low frequencies first, details later" as sentences with numbers."""
    lines = [] if training is None else part_words("In training", training, target, "step {:,.0f}")
    return [*lines, *part_words("In sampling", sampling, target, "sigma / alpha = {:.3g}")]


def part_words(name: str, spectra: Spectra, target: Tensor, place: str) -> list[str]:
    """A heading and a line each for power and for likeness."""
    power, likeness = arrival_of(spectra, target, SHARE), settled_of(spectra, SETTLED)
    ends = f"{place.format(spectra.at[0])} to {place.format(spectra.at[-1])}"
    return [
        f"{name} ({len(spectra.at)} looks, {ends}):",
        f"  power within a factor of {1 / SHARE:g} of the data's: {arrival_words(power, place)}",
        f"  likeness to the last images over {SETTLED:g}: {arrival_words(likeness, place)}",
    ]


def arrival_words(arrival: Arrival, place: str) -> str:
    """One arrival in words: when each third of the frequencies came, and what the order was."""
    parts = zip(("low", "middle", "high"), (arrival.low, arrival.middle, arrival.high))
    when = ", ".join(f"{n} {'never' if at is None else place.format(at)}" for n, at in parts)
    missing = f", {arrival.missing} of {arrival.rings} rings never" if arrival.missing else ""
    if 2 * arrival.missing > arrival.rings:
        return f"{when}{missing}: too early to say in which order."
    return (
        f"{when}{missing}; rank correlation of frequency and time {arrival.correlation:+.2f}: "
        f"{verdict(arrival.correlation)}."
    )


def verdict(correlation: float) -> str:
    """What a rank correlation of frequency and time says of the claim."""
    if correlation > CLEAR:
        return "low frequencies first"
    return "details first" if correlation < -CLEAR else "no clear order"


def dumped(
    record: dict[str, Any], target: Tensor, training: Spectra | None, sampling: Spectra
) -> bytes:
    """spectra.json: the recipe, the data's power, and of both parts all that was measured."""
    parts = {"in_training": training, "in_sampling": sampling}
    measured = {name: measured_of(part, target) for name, part in parts.items() if part is not None}
    about = {"frequencies": sampling.frequencies.tolist(), "data": target.tolist()}
    return json.dumps({**record, "power": about, **measured}, indent=1).encode()


def measured_of(spectra: Spectra, target: Tensor) -> dict[str, Any]:
    """Places, powers (S, K), likenesses (S, K) and the two arrivals, as plain JSON values."""
    assert spectra.likeness is not None
    return {
        "at": list(spectra.at),
        "power": spectra.power.tolist(),
        "likeness": spectra.likeness.tolist(),
        "reached": asdict(arrival_of(spectra, target, SHARE)),
        "settled": asdict(settled_of(spectra, SETTLED)),
    }
