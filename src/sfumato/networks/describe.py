"""What a network costs: parameters and FLOPs, in all and stage by stage.

FLOPs are those of one image going forward once, a multiply-add counted as 2; only matrix products
and convolutions count (norms, activations and sums are left out). Training costs about three times
as much: the backward pass repeats each product twice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

TOKENS = 16  # of a caption, where nobody says how many


@dataclass(frozen=True)
class Row:
    """A stage of a network: its name, what it returns for one image, and what it costs."""

    block: str
    shape: tuple[int, ...]  # of one image's output, without the batch; of the last if it has many
    parameters: int
    flops: int  # forward, one image, a multiply-add is 2


def parameter_count(network: nn.Module) -> int:
    """How many numbers training may change; a shared tensor counts once."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def flops(
    network: nn.Module,
    shape: tuple[int, ...],
    classes: int = 0,
    context: int = 0,
    tokens: int = TOKENS,
) -> int:
    """Forward FLOPs of one image of `shape` (C, H, W); a multiply-add is 2.

    classes: more than 0 gives the network a label, as a conditional one gets it in training;
    context: more than 0 gives it a caption of so many tokens of that many features.
    Nothing is computed, so that a large network answers at once.
    """
    return counted_call(network, shape, asked(classes, context, tokens)).get_total_flops()


def table(
    network: nn.Module,
    shape: tuple[int, ...],
    classes: int = 0,
    context: int = 0,
    tokens: int = TOKENS,
) -> tuple[Row, ...]:
    """A Row for each stage, in the order in which an image of `shape` (C, H, W) meets them.

    classes, context, tokens: see flops.
    A stage is a child of the network, or a member of a child that is only a list. Together they
    hold all parameters and FLOPs of a network that has none outside its children.
    """
    met: dict[str, tuple[int, ...]] = {}
    near = {name: module for name, module in network.named_modules() if name.count(".") < 2}
    del near[""]
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, name=name: met.update({name: shape_of(output)})
        )
        for name, module in near.items()
    ]
    try:
        counts = counted_call(network, shape, asked(classes, context, tokens)).get_flop_counts()
    finally:
        for hook in hooks:
            hook.remove()
    cost = {name: sum(counts.get(f"{type(network).__name__}.{name}", {}).values()) for name in met}
    return tuple(
        Row(name, out, parameter_count(near[name]), cost[name])
        for name, out in met.items()
        if name.rpartition(".")[0] not in met
    )


def shape_of(output: Tensor | list[Tensor]) -> tuple[int, ...]:
    """Without the batch; a stage that returns several tensors hands the last one on."""
    last = output if torch.is_tensor(output) else output[-1]
    return tuple(last.shape[1:])


def asked(classes: int, context: int, tokens: int = TOKENS) -> Tensor | dict[str, Tensor] | None:
    """A condition without numbers: tokens where there is a context, else a label, else none."""
    if context:
        return {
            "tokens": torch.empty(1, tokens, context, device="meta"),
            "mask": torch.empty(1, tokens, dtype=torch.bool, device="meta"),
        }
    return torch.empty(1, device="meta", dtype=torch.long) if classes else None


def counted_call(
    network: nn.Module, shape: tuple[int, ...], cond: Any, with_level: bool = True
) -> FlopCounterMode:
    """A counter of network(x, noise level, cond), or without with_level network(x, cond).

    It has seen one forward pass, on the meta device: shapes without numbers.
    """
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    meta = {name: value.detach().to("meta") for name, value in state.items()}
    dtype = next((value.dtype for value in meta.values() if value.is_floating_point()), None)
    x = torch.empty(1, *shape, device="meta", dtype=dtype)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        level = (torch.empty(1, device="meta"),) if with_level else ()
        functional_call(network, meta, (x, *level, cond))
    return counter
