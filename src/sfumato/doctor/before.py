"""What other commands show of the doctor: warnings before a long run, and a verdict in a line."""

from collections.abc import Callable
from pathlib import Path

import torch

from ..config import AnyRun
from ..data import ImageData
from .checks import before_training, look_at_run
from .finding import NOTE, verdict
from .plan import planned_steps
from .words import HEALTHY, in_a_line, language

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
    lang = language(None)
    for finding in before_training(config, data, a_step, device, folder):
        warn(in_a_line(finding, lang))


def line_on_run(folder: Path) -> str:
    """The verdict on a run's folder, with what was found to be wrong or to stand out."""
    lang = language(None)
    findings = look_at_run(str(folder))
    told = [in_a_line(f, lang) for f in findings if f.severity != NOTE][:2]
    stands = [in_a_line(f, lang) for f in findings if f.severity == NOTE][:1]
    return " ".join([f"{HEALTHY[lang][verdict(findings)]}.", *told, *stands])
