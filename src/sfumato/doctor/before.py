"""What training shows of the doctor before it begins: warnings, where it will take a while."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..config import AnyRun
from ..data import ImageData
from ..wrapping import wrapped
from .checks import before_training
from .naming import Names, names_of_run
from .plan import planned_steps
from .words import in_a_line, language

AFTER = "warning: "  # which warn puts before it
LONG = 60.0  # seconds: a shorter run tells more by itself


def seconds_planned(config: AnyRun, a_step: float) -> float:
    """How long the budget will take, where a step takes `a_step` seconds."""
    steps, limit = planned_steps(config.train), config.train.seconds
    by_steps = float("inf") if steps is None else steps * a_step
    return min(by_steps, float("inf") if limit is None else limit)


def warn_before(
    config: AnyRun,
    data: ImageData,
    a_step: float,
    device: torch.device,
    folder: Path,
    warn: Callable[[str], None],
) -> None:
    """Tell what the quick checks find on a settled run, if it will take over a minute."""
    if seconds_planned(config, a_step) < LONG:
        return
    lang, names = language(None), replace(names_of_run(folder, config), train=Names.train)
    for finding in before_training(config, data, a_step, device, folder):
        warn(wrapped(in_a_line(finding, lang, names), first=AFTER, rest="  ").removeprefix(AFTER))
