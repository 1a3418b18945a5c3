"""Training a classifier of noised images: the task behind ClassifierRun."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..assembly import batches, held_out_batch, level_log_snr, splits_of
from ..classification import LevelScore, NoisyClassifier, scores_by_level
from ..codec import Pixels
from ..conditions import cond_of
from ..config import ClassifierRun
from ..console import count
from ..data import ImageData, generator_at
from ..devices import DTYPES
from ..folder import append_once
from ..networks.describe import counted_call
from ..objective import draws
from ..process import Process
from ..training import Batch, TrainState
from .task import Parts, Shown, cost

RATIOS = (0.01, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)  # sigma / alpha


def reached(process: Process) -> tuple[float, ...]:
    """Those of RATIOS that there are in the process."""
    return tuple(ratio for ratio in RATIOS if ratio <= process.largest_ratio)


COLUMNS = 8
MOST_SCORED = 512  # images whose classes are asked for at every noise level


def build_classifier(run: ClassifierRun, device: torch.device) -> NoisyClassifier:
    """The run's classifier with fresh weights, which depend on train.seed alone."""
    torch.manual_seed(generator_at(run.train.seed, "weights").initial_seed())
    precision = DTYPES[run.precision if run.precision in DTYPES else "fp32"]
    return NoisyClassifier(run.network.build().to(device), run.process, precision)


@dataclass(frozen=True)
class Classifying:
    """A classifier to train; see the protocol Task."""

    run: ClassifierRun
    parts: Parts

    @staticmethod
    def settled(run: ClassifierRun, data: ImageData) -> ClassifierRun:
        if data.labels is None or len(data.class_names) < 2:
            raise ValueError(
                f"{data.name} has {len(data.class_names)} classes: a classifier wants two or more, "
                "a sub-folder each."
            )
        classes = len(data.class_names)
        network = replace(run.network, in_channels=data.channels, classes=classes)
        train = replace(run.train, epoch_images=len(splits_of(run.data, data).train))
        kept = replace(run.data, label_dropout=0.0)  # a classifier has no "no class"
        return replace(run, network=network, data=kept, train=train)

    @staticmethod
    def facts(run: ClassifierRun, data: ImageData) -> dict[str, str]:
        network = run.network.build()
        level = torch.empty(1, device="meta")
        counter = counted_call(network, (data.channels, *data.size), level, with_level=False)
        forward = counter.get_total_flops()
        return {
            "process": str(run.process),
            "network": f"classifier, {cost(network, forward)}; log(classes) is "
            f"{torch.tensor(run.network.classes).log():.2f}",
        }

    @classmethod
    def of(cls, run: ClassifierRun, parts: Parts) -> "Classifying":
        return cls(run, parts)

    def build(self) -> nn.Module:
        return build_classifier(self.run, self.parts.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x0 = Pixels().encode(batch["images"])
        return self.run.objective(model, x0, cond_of(batch), batch["u"], batch["eps"])  # type: ignore[arg-type]

    def batches(self) -> Callable[[int], Batch]:
        return batches(self.run, self.parts.train, self.parts.device)

    def held_out_batch(self) -> Batch | None:
        held = self.parts.held_out
        return None if held is None else held_out_batch(self.run, held, self.parts.device)

    def levels(self, count: int) -> list[float]:
        return level_log_snr(self.run, count)

    def remember(self, model: nn.Module, batch: Batch, losses: Tensor) -> None:
        """Nothing to remember."""

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        level = torch.linspace(-1, 1, len(batch["eps"]), device=batch["eps"].device)
        return model.network(batch["eps"], level).float()  # type: ignore[operator]

    def _held(self) -> tuple[Tensor, Tensor, Tensor]:
        """(x0, labels, eps) of the held-out images, or else of those that it is trained on."""
        data = self.parts.held_out or self.parts.train
        assert data.labels is not None
        images, device = data.images[:MOST_SCORED], self.parts.device
        _, eps = draws(images, generator_at(self.run.train.seed, "accuracy"))
        x0 = Pixels().encode(images)
        return x0.to(device), data.labels[:MOST_SCORED].to(device), eps.to(device)

    def _which(self) -> str:
        """What the scored images are: of those trained on, scores say nothing of others."""
        held = self.parts.held_out
        some = min(MOST_SCORED, len(held or self.parts.train))
        if held is None:
            return f"{count(some)} of the images that it was trained on, none being held out"
        part = count(some) if some == len(held) else f"{count(some)} of {count(len(held))}"
        return f"{part} held-out images"

    def _scores(
        self, model: nn.Module, x0: Tensor, labels: Tensor, eps: Tensor
    ) -> list[LevelScore]:
        ratios = reached(self.run.process)
        return scores_by_level(model, x0, labels, ratios, eps)  # type: ignore[arg-type]

    def show(self, model: nn.Module, quick: bool) -> Shown | None:
        """Images as the classifier sees them, a noise level a row, with its accuracy there."""
        x0, labels, eps = self._held()
        scores = self._scores(model, x0, labels, eps)
        few = torch.linspace(0, len(x0) - 1, COLUMNS).long()
        seen = []
        for score in scores:
            noisy = x0[few] + score.ratio * eps[few]
            seen.append(Pixels().decode(noisy / (1 + score.ratio**2) ** 0.5))
        names = [f"noise {score.ratio:g}: {score.accuracy:.0%} right" for score in scores]
        facts = {
            "accuracy": {str(score.ratio): score.accuracy for score in scores},
            "accuracy_of": self._which(),
        }
        return Shown(torch.cat(seen).cpu(), COLUMNS, names, facts)

    def finish(self, state: TrainState) -> list[str]:
        scores = self._scores(state.average, *self._held())
        rows = [{"ratio": s.ratio, "accuracy": s.accuracy, "nats": s.cross_entropy} for s in scores]
        row = {"kind": "accuracy", "step": state.step, "of": self._which(), "levels": rows}
        append_once(self.parts.folder, row)
        words = ", ".join(f"{s.accuracy:.1%} at {s.ratio:g}" for s in scores)
        return [
            f"right on {self._which()}, by sigma / alpha: {words}",
            f"Next: sfumato sample RUN --classifier {self.parts.folder} --classifier-scale 2",
        ]
