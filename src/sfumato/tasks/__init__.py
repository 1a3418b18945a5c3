"""Tasks: what each kind of run does with the one training loop."""

from typing import Any

from ..config import AutoencoderRun, ClassifierRun, Run
from .autoencoding import Autoencoding
from .classifying import Classifying
from .diffusion import Diffusion
from .task import Parts, Shown, Task, settle_precision

TASKS: dict[type, Any] = {
    Run: Diffusion,
    AutoencoderRun: Autoencoding,
    ClassifierRun: Classifying,
}

__all__ = ["TASKS", "Parts", "Shown", "Task", "settle_precision", "task_of"]


def task_of(run: Any, parts: Parts) -> Task:
    """The run with its parts, ready to train."""
    return TASKS[type(run)].of(run, parts)
