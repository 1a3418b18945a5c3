"""Classifiers of noisy images: trained on x_t, then asked for a class while sampling.

    logits = network(x_t / hypot(alpha, sigma), log(sigma / alpha) / 4)
    loss = cross-entropy(logits, label),    x_t = alpha x0 + sigma eps

Dhariwal and Nichol (2021), section 4. The network is told the noise level only as sigma / alpha and
gets x_t at unit power, so what it learned on one process holds on every other: as with OnProcess, a
noisy image is known by its signal-to-noise ratio.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .denoiser import Cond
from .objective import Times, UniformTimes
from .prediction import Prediction
from .process import Process, match_dims

LEVEL_MAX = 2.0  # of |log(sigma / alpha) / 4|: sigma / alpha from 1/2981 to 2981


class NoisyClassifier(nn.Module):
    """A network, (x, noise_level) to logits, as a classifier of images with any process's noise.

    process: the one that it is trained on. Only the network runs in `precision`.

    forward: x_t (B, C, H, W), t () or (B,), a time of `process` unless another process is given;
    returns logits (B, K) in x_t's dtype.

    Raises: ValueError for more noise than its own process ever holds.
    """

    def __init__(
        self, network: nn.Module, process: Process, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.precision = precision

    def forward(self, x_t: Tensor, t: Tensor, process: Process | None = None) -> Tensor:
        process = process or self.process
        t = t.expand(len(x_t))
        self._check_reach(process, t)
        power = torch.hypot(process.alpha(t), process.sigma(t))
        level = (-process.log_snr(t) / 8).clamp(-LEVEL_MAX, LEVEL_MAX)
        low = self.precision in (torch.bfloat16, torch.float16)
        with torch.autocast(x_t.device.type, dtype=self.precision if low else None, enabled=low):
            return self.network(x_t / match_dims(power, x_t), level.to(x_t)).to(x_t)

    def _check_reach(self, process: Process, t: Tensor) -> None:
        wanted, largest = process.ratio(t).max().item(), self.process.largest_ratio
        if wanted > largest * (1 + 1e-4):
            raise ValueError(
                f"the classifier is asked about sigma / alpha = {wanted:.4g}, but it was trained "
                f"on {self.process}, which ends at {largest:.4g}. Guide below that only, by "
                f"Within(guided, unguided, max_ratio={largest:.4g}), or train the classifier on a "
                "process that ends in pure noise: Trigonometric()."
            )


def _check_labels(cond: Cond, classes: int) -> Tensor:
    if cond is None or isinstance(cond, dict):
        raise ValueError(
            f"a classifier was given {type(cond).__name__} for labels; it wants integers (B,). "
            "Images without classes can't train one or be guided by one."
        )
    if cond.device.type == "cpu" and len(cond) and not 0 <= cond.min() <= cond.max() < classes:
        raise ValueError(
            f"labels from {cond.min()} to {cond.max()} for a classifier of {classes} classes: use "
            f"0 to {classes - 1}; there is no label for 'no class' here, so drop none "
            "(label_dropout = 0)."
        )
    return cond


@dataclass(frozen=True)
class ClassifierLoss:
    """Cross-entropy of the label given x_t, in nats: (B,) for x0, labels, u and eps, as Objective.

    What a network that knows nothing scores is log(classes).
    """

    times: Times = UniformTimes()

    def __call__(
        self, classifier: NoisyClassifier, x0: Tensor, cond: Cond, u: Tensor, eps: Tensor
    ) -> Tensor:
        t = self.times(classifier.process, u)
        logits = classifier(classifier.process.diffuse(x0, t, eps), t)
        labels = _check_labels(cond, logits.shape[1])
        return F.cross_entropy(logits, labels, reduction="none")


def log_prob_of(classifier: NoisyClassifier) -> Callable[[Prediction, Cond], Tensor]:
    """log p(label | x_t) in nats, (B,), for guidance.ByClassifier, on a denoiser of any process."""

    def log_prob(prediction: Prediction, cond: Cond) -> Tensor:
        logits = classifier(prediction.x_t, prediction.t, prediction.process)
        labels = _check_labels(cond, logits.shape[1])
        return logits.log_softmax(1).gather(1, labels[:, None])[:, 0]

    return log_prob


@dataclass(frozen=True)
class LevelScore:
    """How well a classifier does at one noise level, over `images` images."""

    ratio: float  # sigma / alpha
    accuracy: float  # share of images, 0 to 1
    cross_entropy: float  # nats
    images: int


@torch.no_grad()
def scores_by_level(
    classifier: NoisyClassifier,
    x0: Tensor,
    labels: Tensor,
    ratios: Sequence[float],
    eps: Tensor,
    batch: int = 256,
) -> list[LevelScore]:
    """Accuracy and cross-entropy on clean images, (N, C, H, W), with noise eps at each ratio.

    The same noise at every level, so that the levels differ by nothing else.
    """
    was_training = classifier.training
    classifier.eval()
    scores = []
    for ratio in ratios:
        t = classifier.process.time_at_ratio(torch.tensor(ratio, dtype=torch.float64))
        x_t = classifier.process.diffuse(x0, t, eps)
        logits = torch.cat([classifier(part, t) for part in x_t.split(batch)])
        right = (logits.argmax(1) == labels).double().mean().item()
        nats = F.cross_entropy(logits.double(), _check_labels(labels, logits.shape[1])).item()
        scores.append(LevelScore(float(ratio), right, nats, len(x0)))
    classifier.train(was_training)
    return scores
