"""What sfumato evaluate measures, and what it reports of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..arguments import Evaluate
from ..data import ImageData
from ..measuring import Estimate

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """What is measured, and on which images; told: these in words."""

    folder: Path
    run: Any
    data: ImageData
    told: str
    device: torch.device
    args: Evaluate
    say: Callable[[str], None]

    @property
    def weights(self) -> str:
        return "best average" if self.args.best else "average"

    def measured_on(self, step: int) -> str:
        """The end of every recipe."""
        return f"{self.told}; {self.weights} weights of step {step:,}; fp32"


@dataclass(frozen=True)
class Report:
    """What was found: numbers for the file, words for the reader, notes below, and the picture."""

    step: int
    numbers: dict[str, Any]
    words: dict[str, str]
    notes: tuple[str, ...]
    draw: Callable[[Path, Settings], None]


def pair(estimate: Estimate, digits: int = 4) -> str:
    return f"{estimate.mean:.{digits}f} ± {estimate.error:.{digits}f}"
