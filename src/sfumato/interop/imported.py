"""What a reader of another program's files hands over: a run of ours and its weights."""

from dataclasses import dataclass

from torch import Tensor

from ..config import Run
from .fitting import check_finite


@dataclass(frozen=True)
class Imported:
    """A model that another program trained.

    weights: the state dict of `run.network.build()`; average: the same of its moving average, or
        None where there is none and the weights stand for both.
    shape: (C, H, W) of the images.
    moments: the optimizer's state by PARAMETER.KEY, as checkpoint.optimizer_tensors has it; None
        where a run that goes on starts it anew.
    notes: whole sentences on what was decided, for people.
    """

    run: Run
    weights: dict[str, Tensor]
    shape: tuple[int, int, int]
    source: str
    average: dict[str, Tensor] | None = None
    class_names: tuple[str, ...] = ()
    step: int = 0
    moments: dict[str, Tensor] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_finite(self.weights, self.source)
        check_finite(self.average or {}, f"{self.source}, its average")
