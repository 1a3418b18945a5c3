"""What is wrong with a plan of training: rates, budgets, networks too large for the images."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..config import AnyRun, Run
from ..ema import power_of
from ..recipes.own_images import noise_passes
from ..train_config import TrainConfig
from .finding import RISK, WRONG, Finding, found
from .process import known

FAST_RISK, FAST_WRONG = 0.5, 1.5  # rate times width; the recipes that were trained have up to 0.26
SLOW = 1e-5  # rate: of fine-tuning, not of training
SLOW_FOR_WIDTH = 1e-3  # rate times width; DDPM's least, on 256 pixels, is 2.6e-3 (from memory)
DAY = 86_400.0
FEW_STEPS = 300  # from scratch: blots until then (the demo says so below 500)
BY_HEART = 1_000.0  # passes over the images times weights a pixel, beyond which they are learned
FIRST = 100  # steps of the weights that are hardly trained
STALE = 0.05  # of the average


def width_of(network: Any) -> int | None:
    """Channels of the first level; None where the network does not call them so."""
    for name in ("channels", "width"):
        if hasattr(network, name):
            return int(getattr(network, name))
    wide = getattr(network, "block_out_channels", None) or getattr(network, "widths", None)
    return int(wide[0]) if wide else None


def check_rate(run: AnyRun) -> Iterator[Finding]:
    """The rate a network of this width bears falls about as 1 / width."""
    lr, width = run.train.lr, width_of(run.network)
    if width is not None and lr * width > FAST_RISK:
        severity = WRONG if lr * width > FAST_WRONG else RISK
        yield found("lr-high", severity, lr=lr, width=width, better=0.064 / width)
    if lr < SLOW or (width is not None and lr * width < SLOW_FOR_WIDTH):
        yield found("lr-low", RISK, lr=lr)


def check_width(run: Run, channels: int) -> Iterator[Finding]:
    """Noise through a network whose first level is narrower than a square of pixels."""
    half = torch.tensor([run.process.t_max / 2], dtype=torch.float64)
    way = known(run.parameterization)(run.process, half)
    asked = (way.c_skip * run.process.sigma(half) / way.c_out).abs().item()  # of noise, in target
    patch = getattr(run.network, "patch", 1)
    if asked > 1e-6 and not noise_passes(run.network, channels):
        width = width_of(run.network)
        yield found("noise-stuck", WRONG, values=patch**2 * channels, width=width, patch=patch)


class _Told(Tensor):
    """Marks what is computed from the noise level: what torch makes of one is one."""


def check_told(run: Run, shape: tuple[int, ...], cond: Any) -> Iterator[Finding]:
    """Whether the noise level reaches the network's output. shape: (C, H, W); on no device."""
    with torch.device("meta"), torch.no_grad():
        network = run.network.build()
        level = torch.empty(1).as_subclass(_Told)
        answer = network(torch.empty(1, *shape), level, cond)
    if not isinstance(answer, _Told):
        yield found("level-untold", RISK, network=type(run.network).__name__)


def check_budget(
    train: TrainConfig, seconds: float, at_least: bool = False, ended: int | None = None
) -> Iterator[Finding]:
    """seconds: of a step. at_least: it was estimated from below. ended: at which step it has."""
    steps = planned_steps(train)
    pace = 1 / seconds
    if ended is not None:
        reached = ended
    elif steps is not None and (train.seconds is None or steps * seconds < train.seconds):
        took = steps * seconds
        if took > DAY:
            severity = WRONG if took > 7 * DAY else RISK
            days = {"days": took / DAY, "steps": steps, "pace": pace}
            yield found("budget-long-least" if at_least else "budget-long", severity, **days)
        reached = steps
    else:
        assert train.seconds is not None
        reached = int(train.seconds / seconds)
    if reached < FEW_STEPS:
        severity = WRONG if reached < FEW_STEPS / 6 else RISK
        seen = {"steps": reached, "enough": FEW_STEPS, "pace": pace}
        yield found("budget-few-steps" if ended is None else "few-steps", severity, **seen)


def planned_steps(train: TrainConfig) -> int | None:
    """What a budget other than time comes to; None where there is only time."""
    images = [train.images, train.epochs and train.epochs * train.epoch_images]
    counts = [train.steps, *(few and int(few / train.batch) for few in images)]
    return min((count for count in counts if count), default=None)


def check_memory(
    weights: int, steps: int, batch: int, images: int, values: int
) -> Iterator[Finding]:
    """Images that will be learned by heart. values: numbers of an image.

    Passes over the images times weights for a number of theirs: by judgement, from the recipes
    (up to 150) and from reports of copies (140 images, 700,000 steps: above a million).
    """
    passes = steps * batch / images
    if passes * weights / (images * values) > BY_HEART and passes > 50:
        yield found("by-heart", RISK, weights=weights, images=images, passes=passes)


def share_of_first(first: int, step: int, length: float) -> float:
    """How much of the average after `step` steps is weights of the first `first`.

    The decays (1 - 1/k)^(gamma + 1) of ema.py multiply to (first / step)^(gamma + 1).
    """
    return min(1.0, (first / max(step, 1))) ** (power_of(length) + 1)


def check_average(step: int, length: float, first: int = FIRST) -> Iterator[Finding]:
    """first: steps whose weights are not worth averaging."""
    share = share_of_first(first, step, length)
    if share > STALE:
        yield found("ema-young", RISK, share=share, first=first, step=step)


def check_length(length: float) -> Iterator[Finding]:
    """The width of the average, as a share of the run."""
    half = share_of_first(1, 2, length)
    if half > 2 * STALE:
        yield found("ema-wide", RISK, share=half, length=length)
