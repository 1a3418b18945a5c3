"""Seconds for 1,000 class-conditional images from a run's folder, by the number of steps."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sfumato.config import SamplingConfig
from sfumato.denoiser import NetworkDenoiser
from sfumato.generation import Order, draw
from sfumato.loading import Loaded, load_run

from .options import Options, chosen, keep
from .results import Row
from .rounds import Facts, Runner, in_turn

ROUNDS, IMAGES = 5, 1000
STEPS = (4, 6, 10, 18)
RUN = "fashion_fast"  # the recipe's, in runs/


def run(options: Options) -> None:
    options = replace(options, run=options.run or RUN)
    for case in chosen(options, ["sampling"]):
        keep("sampling", case, options, lambda: measured(options))


def measured(options: Options) -> tuple[Facts, list[Row], Facts]:
    images = 20 if options.quick else IMAGES
    loaded = load_run(options.run, torch.device("cpu"))
    classes = loaded.run.network.classes
    labels = [seed % classes for seed in range(images)] if classes else None
    order = Order(range(images), labels, loaded.card.shape)
    each = [replace(loaded.run.sampling, steps=n) for n in STEPS[: 2 if options.quick else None]]
    runners = [
        Runner(
            f"{sampling.solver}, {sampling.steps} steps", partial(drawn, loaded, order, sampling)
        )
        for sampling in each
    ]
    batches = -(-images // 128)
    calls = {r.name: network_calls(loaded.denoiser, r.step) // batches for r in runners}
    rounds = options.rounds or ROUNDS
    seconds = in_turn(runners, rounds, warm=0)
    rows = [
        Row(name, s, images, "images", 0.0, {"nfe": calls[name]}) for name, s in seconds.items()
    ]
    settings = {"rounds": rounds, "images": images, "precision": loaded.run.precision}
    network = type(loaded.run.network).__name__
    return {**settings, "run": loaded.folder.name, "network": network}, rows, {}


def drawn(loaded: Loaded, order: Order, sampling: SamplingConfig) -> Tensor:
    """The images, as `sfumato sample` draws them."""
    parts = (loaded.conditions, loaded.device)
    return draw(
        loaded.denoiser, order, sampling, *parts, codec=loaded.codec, log_prob=loaded.log_prob
    )


def network_calls(denoiser: NetworkDenoiser, step: Callable[[], object]) -> int:
    """How often a step calls the network; also warms it up."""
    count = [0]

    def seen(*_: object) -> None:
        count[0] += 1

    hook = denoiser.network.register_forward_pre_hook(seen)
    try:
        step()
    finally:
        hook.remove()
    return count[0]
