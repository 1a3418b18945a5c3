"""How exact a network's own convolutions are in bfloat16: each of their shapes, beside float32."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .convolving import pointwise
from .winograd import TILES, convolve, tiles_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Error:
    """By how much of its size a result is wrong at worst: of y, or of a gradient. words: where."""

    share: float
    words: str


def worst_convolution(model: nn.Module, forward: Callable[[], object]) -> Error | None:
    """The largest error of the convolutions that `forward` runs in model; None where it has none.

    Every distinct shape is tried once in bfloat16 and once in float32, on the same numbers, and of
    as few images as a whole batch's algorithm takes.
    """
    errors = [error_of(layer, (few(shape), *shape[1:])) for layer, shape in met(model, forward)]
    return max(errors, key=lambda error: error.share, default=None)


def few(shape: Shape) -> int:
    """Images of (B, C, H, W) that have TILES tiles between them, where there are so many."""
    return min(shape[0], -(-TILES // tiles_of((1, *shape[1:]))))


def met(model: nn.Module, forward: Callable[[], object]) -> Iterator[tuple[nn.Conv2d, Shape]]:
    """The convolutions that differ in kernel or in the input (B, C, H, W) that they are given.

    None is computed: PyTorch compiles a convolution for every new shape, which takes longer.
    """
    found: dict[str, tuple[nn.Conv2d, Shape]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        shape = tuple(inputs[0].shape)
        found[f"{layer} {shape}"] = (layer, shape)

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad(), Uncomputed():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return iter(found.values())


class Uncomputed(TorchFunctionMode):
    """Every convolution gives zeros, of the right shape."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is not F.conv2d:
            return function(*args, **(kwargs or {}))
        x, weight, _, *told, _ = args
        return x.new_zeros((len(x), len(weight), *out_size(x.shape[2:], weight.shape[2:], *told)))


def error_of(layer: nn.Conv2d, shape: Shape) -> Error:
    """Of y, of dx and of dw: the worst, each by the norm of its difference from float32.

    The layer's own weights may be zeros; new ones are drawn, and torch's generator stays as it was.
    """
    own, device = copy.deepcopy(layer).float().requires_grad_(), layer.weight.device
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        own.to("cpu").reset_parameters()
        x = torch.randn(shape).to(device)
        upward = torch.randn(len(x), own.out_channels, *size_of(own, x)).to(device)
        own.to(device)
        exact, rough = (results(own, x, upward, reduced) for reduced in (False, True))
    shares = (((b - a).norm() / a.norm()).item() for a, b in zip(exact, rough, strict=True))
    share = max(s if isfinite(s) else inf for s in shares)  # max passes over what is no number
    side, size = (" x ".join(map(str, sizes)) for sizes in (layer.kernel_size, shape[2:]))
    words = f"{side}, {layer.in_channels} to {layer.out_channels} channels at {size}"
    return Error(share, words)


def results(layer: nn.Conv2d, x: Tensor, upward: Tensor, reduced: bool) -> tuple[Tensor, ...]:
    """(y, dx, dw) in float32; reduced: computed in bfloat16, as the networks do."""
    layer.zero_grad()
    x = x.clone(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=reduced):
        y = in_place_of(layer)(layer, x) if reduced else defined(layer, x)
    (y.float() * upward).sum().backward()  # of no scalar it would import sympy first
    assert x.grad is not None
    assert layer.weight.grad is not None
    return y.detach().float(), x.grad.float(), layer.weight.grad.float()


def in_place_of(layer: nn.Conv2d) -> Callable[[nn.Module, Tensor], Tensor]:
    """What the networks call for such a layer."""
    return pointwise if layer.kernel_size == (1, 1) else convolve


def defined(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """layer(x) by one product of matrices, for which nothing has to be compiled."""
    if layer.groups != 1 or layer.padding_mode != "zeros":
        return layer(x)
    told = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    columns = F.unfold(x, *told)  # type: ignore[arg-type]
    y = layer.weight.flatten(1) @ columns
    if layer.bias is not None:
        y = y + layer.bias[:, None]
    return y.unflatten(2, size_of(layer, x))


def size_of(layer: nn.Conv2d, x: Tensor) -> Shape:
    told = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return out_size(x.shape[2:], *told)  # type: ignore[arg-type]


def out_size(size: Shape, kernel: Shape, step: Shape, border: Shape, apart: Shape) -> Shape:
    """Height and width of a convolution's result."""
    told = zip(size, kernel, step, border, apart, strict=True)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in told)
