"""What this machine's matrix products and 3 x 3 convolutions reach, to hold all else against.

A training step is one part forward and two parts backward; so its ceiling is
3 / (1 / forward + 2 / backward), of the best rates found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.devices import emulates_bf16

from .options import Options, chosen, keep
from .results import Part, Row
from .rounds import Facts, Runner, in_turn, median

ROUNDS = 15
LEAST = 0.05  # seconds that a turn takes
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
WIDTHS, BATCHES, SIDE = (64, 128, 256, 512), (16, 64), 16
SQUARES = (1024, 2048)


@dataclass(frozen=True)
class Product:
    """A product to time: of x with weights w. flops: forward; backward has twice as many."""

    name: str
    x: Tensor
    w: Tensor
    product: Callable[[Tensor, Tensor], Tensor]
    flops: float


def products(case: str, quick: bool) -> list[Product]:
    widths, batches = ((32,), (4,)) if quick else (WIDTHS, BATCHES)
    make = {"matmul": matmul, "conv3x3": conv3x3}[case]
    named = [name for name in FORMATS if name == "fp32" or not emulates_bf16(torch.device("cpu"))]
    found = [make(width, batch, name) for width in widths for batch in batches for name in named]
    if case == "matmul" and not quick:
        found += [square(size, name) for size in SQUARES for name in named]
    return found


def matmul(width: int, batch: int, name: str) -> Product:
    """(batch * 256, width) by (width, 4 * width): a transformer's MLP."""
    rows = batch * SIDE**2
    x, w = torch.randn(rows, width), torch.randn(4 * width, width)
    flops = 2.0 * rows * w.numel()
    return Product(f"{name}, {width} wide, {rows} rows", *fit(x, w, name), F.linear, flops)


def square(size: int, name: str) -> Product:
    """(size, size) by (size, size), of which processors do the most."""
    x, w = torch.randn(size, size), torch.randn(size, size)
    return Product(f"{name}, {size} x {size}", *fit(x, w, name), F.linear, 2.0 * size**3)


def conv3x3(width: int, batch: int, name: str) -> Product:
    """(batch, width, 16, 16) to the same, channels_last."""
    x, w = torch.randn(batch, width, SIDE, SIDE), torch.randn(width, width, 3, 3)
    last = torch.channels_last
    x, w = (tensor.contiguous(memory_format=last) for tensor in (x, w))
    flops = 2.0 * batch * SIDE**2 * w.numel()
    return Product(f"{name}, {width} wide, batch {batch}", *fit(x, w, name), same_size, flops)


def same_size(x: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(x, w, padding=1)


def fit(x: Tensor, w: Tensor, name: str) -> tuple[Tensor, Tensor]:
    return x.to(FORMATS[name]).requires_grad_(), w.to(FORMATS[name]).requires_grad_()


def directions(product: Product) -> dict[str, tuple[Callable[[], object], float]]:
    """(what to time, its FLOPs) by direction."""
    with torch.no_grad():
        grad = torch.ones_like(product.product(product.x, product.w))
    out = product.product(product.x, product.w)
    inputs = (product.x, product.w)

    def forward() -> Tensor:
        with torch.no_grad():
            return product.product(product.x, product.w)

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, inputs, grad, retain_graph=True)

    return {
        "forward": (forward, product.flops),
        "backward": (backward, 2 * product.flops),
    }


def run(options: Options) -> None:
    for case in chosen(options, ["matmul", "conv3x3"]):
        keep("ceiling", case, options, partial(measured, case, options))


def measured(case: str, options: Options) -> tuple[Facts, list[Row], Facts]:
    rounds = options.rounds or ROUNDS
    rows = []
    for product in products(case, options.quick):  # one at a time: the large ones fill caches
        steps = directions(product)
        repeats = {name: enough(step) for name, (step, _) in steps.items()}
        runners = [Runner(n, times(step, repeats[n])) for n, (step, _) in steps.items()]
        for name, seconds in in_turn(runners, rounds, warm=1).items():
            facts = {"format": product.name[:4], "direction": name}
            flops = repeats[name] * steps[name][1]
            rows.append(
                Row(f"{product.name}, {name}", seconds, repeats[name], "calls", flops, facts)
            )
    return {"rounds": rounds}, rows, {}


def enough(step: Callable[[], object]) -> int:
    """How often to repeat so that a turn takes LEAST seconds or more."""
    step()
    seconds = median(in_turn([Runner("", step)], 3, warm=0)[""])
    return max(1, round(LEAST / max(seconds, 1e-6)))


def times(step: Callable[[], object], repeats: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(repeats):
            step()

    return repeated


def best(part: Part, number_format: str, direction: str) -> float:
    """The highest rate found, in FLOP/s."""
    wanted = {"format": number_format, "direction": direction}
    return max(row.flops_rate for row in part.rows if wanted.items() <= row.facts.items())


def of_training(part: Part, number_format: str) -> float:
    """The ceiling of a training step, in FLOP/s."""
    forward, backward = (best(part, number_format, d) for d in ("forward", "backward"))
    return 3 / (1 / forward + 2 / backward)
