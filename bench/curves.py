"""Whether our precision learns as fp32 does: loss curves from the same seed, and a yardstick.

The yardstick is fp32 from another seed: what chance alone does to the curve. Where "auto" would be
fp32 because bf16 is done in software, ours is bf16 all the same, with its products as in `Rounded`.
Curves that are done stay in --runs and are not done again.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from sfumato.data import ImageData, load
from sfumato.devices import emulates_bf16

from .cases import Case, cases
from .keeping import kept
from .machine import ROOT, cpu_model
from .options import Options, chosen, keep, say
from .ours import ours
from .results import Row
from .rounds import Facts

STEPS = 500
ATEN = torch.ops.aten
PRODUCTS = {
    op.default
    for op in (
        ATEN.convolution,
        ATEN.convolution_backward,
        ATEN.mm,
        ATEN.addmm,
        ATEN.bmm,
        ATEN.baddbmm,
    )
}
CIFAR = ROOT.parent / "shared" / "data" / "cifar10-jpeg-train.tar.gz"
CURVES = (("ours", "auto", 0), ("ours, fp32", "fp32", 0), ("ours, fp32, another seed", "fp32", 1))
SIMULATED = "bf16; its products in float32, then rounded, since this processor has none of its own"


class Rounded(TorchDispatchMode):
    """Products of bfloat16 as processors that have it make them, at the speed of float32.

    A product of two bfloat16 is exact in float32, in which such processors add them up.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        low = any(isinstance(one, Tensor) and one.dtype == torch.bfloat16 for one in args)
        if func not in PRODUCTS or not low:
            return func(*args, **(kwargs or {}))
        made = func(*tree_map_only(Tensor, Tensor.float, args), **(kwargs or {}))
        return tree_map_only(Tensor, Tensor.bfloat16, made)


def run(options: Options) -> None:
    there = cases(options.quick)
    for name in chosen(options, list(there)):
        keep("loss", name, options, partial(measured, there[name], options))


def measured(case: Case, options: Options) -> tuple[Facts, list[Row], Facts]:
    steps = options.rounds or STEPS
    data, words = images(case, options.quick)
    asked = {"steps": steps, "data": words, "network": str(case.network), "cpu": cpu_model()}
    losses: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    for name, precision, seed in CURVES:
        path = options.runs / f"loss-{case.name}-{precision}-{seed}.json"
        told = kept(path, asked, partial(curve, case, precision, seed, data, steps))
        losses[name], reasons[name] = told["losses"], told["reason"]
        say(f"  {name}: {losses[name][0]:.4f} to {last(losses[name]):.4f} ({reasons[name]})")
    settings = {"words": case.words, "steps": steps, "data": words, "batch": case.batch}
    return settings, [], {"losses": losses, "reasons": reasons, **compared(losses)}


def curve(case: Case, precision: str, seed: int, data: ImageData, steps: int) -> Facts:
    """The loss of each step, and why its precision is what it is."""
    rounded = precision == "auto" and emulates_bf16(torch.device("cpu"))
    step = ours(
        case.network, case.batch, case.shape, "bf16" if rounded else precision, data, seed=seed
    )
    with Rounded() if rounded else nullcontext():
        found = [round(step(), 6) for _ in range(steps)]
    return {"losses": found, "reason": SIMULATED if rounded else step.reason}


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
