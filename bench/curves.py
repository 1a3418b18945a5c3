"""Whether our precision learns as fp32 does: loss curves from the same seed, and a yardstick.

The yardstick is fp32 from another seed: what chance alone does to the curve.
"""

from functools import partial

from sfumato.data import ImageData, load

from .cases import Case, cases
from .machine import ROOT
from .options import Options, chosen, keep, say
from .ours import ours
from .results import Row
from .rounds import Facts

STEPS = 500
CIFAR = ROOT.parent / "shared" / "data" / "cifar10-jpeg-train.tar.gz"
CURVES = (("ours", "auto", 0), ("ours, fp32", "fp32", 0), ("ours, fp32, another seed", "fp32", 1))


def run(options: Options) -> None:
    there = cases(options.quick)
    for name in chosen(options, list(there)):
        keep("loss", name, options, partial(measured, there[name], options))


def measured(case: Case, options: Options) -> tuple[Facts, list[Row], Facts]:
    steps = options.rounds or STEPS
    data, words = images(case, options.quick)
    losses: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    for name, precision, seed in CURVES:
        step = ours(case.network, case.batch, case.shape, precision, data, seed=seed)
        losses[name] = [round(step(), 6) for _ in range(steps)]
        reasons[name] = step.reason
        say(f"  {name}: {losses[name][0]:.4f} to {last(losses[name]):.4f} ({step.reason})")
    settings = {"words": case.words, "steps": steps, "data": words, "batch": case.batch}
    return settings, [], {"losses": losses, "reasons": reasons, **compared(losses)}


def last(losses: list[float]) -> float:
    """The mean of the last fifth."""
    tail = losses[-max(1, len(losses) // 5) :]
    return sum(tail) / len(tail)


def compared(losses: dict[str, list[float]]) -> Facts:
    """How far the last fifth's means are from fp32's, as shares of it."""
    own, exact, other = (last(losses[name]) for name, _, _ in CURVES)
    return {"from_fp32": own / exact - 1, "seed_from_seed": other / exact - 1}


def images(case: Case, quick: bool) -> tuple[ImageData, str]:
    """(images, what they are): CIFAR-10 (JPEG) where it is to be had and fits, else the digits."""
    if case.shape != (3, 32, 32) or not CIFAR.exists() or quick:
        return case.data(5000), "the built-in digits in the network's shape"
    say(f"  reading {CIFAR.name}")
    data = load(CIFAR, limit=10_000, labels=bool(case.network.classes))
    return data, "10,000 images of CIFAR-10 (JPEG)"
