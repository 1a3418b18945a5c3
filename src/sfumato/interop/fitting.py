"""Whether a file's tensors are those of a network: names, shapes, kinds of numbers, and no NaN.

The network is made on the meta device, without numbers: what a file says of its size is compared
before any memory is taken for it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .limits import shown

NAMED = 4  # names in a message; the count tells of the rest
UNMAKEABLE = (  # what making a network of impossible settings raises, beside ValueError
    *(TypeError, ArithmeticError, RuntimeError, IndexError, KeyError, AttributeError),
    *(AssertionError, NotImplementedError, MemoryError),
)


def skeleton(build: Callable[[], nn.Module], where: object) -> dict[str, Tensor]:
    """The state dict of what build() makes, shapes and dtypes alone.

    Raises: ValueError, naming the file, where it can't be made.
    """
    try:
        with torch.device("meta"), _Unfilled():
            return build().state_dict()
    except UNMAKEABLE as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{where} describes a network that can't be made ({told[:300]})."
        ) from error


class _Unfilled(TorchFunctionMode):
    """Leaves normally distributed weights undrawn: on the meta device there are no numbers.

    PyTorch would import its compiler to find that out, which takes longer than a grid of digits.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in (nn.init.normal_, Tensor.normal_):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps `given` from being `wanted`, a tensor each: missing, left over, other numbers."""
    found = [f"{name} is missing" for name in wanted if name not in given]
    found += [f"{shown(name)[1:-1]} has no place" for name in given if name not in wanted]
    for name in wanted.keys() & given.keys():
        ours, theirs = wanted[name], given[name]
        if ours.shape != theirs.shape:
            found.append(f"{name}: {tuple(theirs.shape)}, not {tuple(ours.shape)}")
        elif ours.is_floating_point() != theirs.is_floating_point() or theirs.is_complex():
            found.append(f"{name} is {theirs.dtype}, not {ours.dtype}")
    return sorted(found)


def check_weights(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: object) -> None:
    """Raise ValueError, with a count and the first names, unless the tensors fit and are finite."""
    if wrong := differences(wanted, given):
        raise ValueError(
            f"{where}: {len(wrong)} weights do not fit the network that is described, which has "
            f"{len(wanted)}: {first_of(wrong)}. They are of another network."
        )
    check_finite(given, where)


def first_of(complaints: list[str]) -> str:
    more = ", ..." if len(complaints) > NAMED else ""
    return "; ".join(complaints[:NAMED]) + more


def sides(weights: Mapping[str, Tensor], name: str, count: int) -> tuple[int, ...]:
    """A tensor's shape. Raises: ValueError, by name, where it is missing or has another rank."""
    if name not in weights:
        raise ValueError(f"{name} is missing among the {len(weights)} tensors of this file")
    shape = tuple(weights[name].shape)
    if len(shape) != count:
        raise ValueError(f"1 weight can't be: {name}: {shape}, not ({', '.join('?' * count)})")
    return shape


def floating(value: Tensor) -> Tensor:
    """Half or double precision as float32; whole numbers stay, so that a check can tell them."""
    return value.float() if value.is_floating_point() else value


def check_finite(given: Mapping[str, Tensor], where: object) -> None:
    """Raise ValueError, with a count and the first names, where weights are NaN or infinite."""
    broken = [name for name, value in given.items() if not _finite(value)]
    if broken:
        names = ", ".join(shown(name)[1:-1] for name in broken[:NAMED])
        raise ValueError(
            f"{where}: {len(broken)} of {len(given)} tensors hold NaN or infinity, as {names}: the "
            "training that wrote them had failed. Take an earlier checkpoint of it."
        )


def _finite(value: Tensor) -> bool:
    if value.is_meta or not value.is_floating_point():
        return True
    wide = value if value.element_size() > 1 else value.float()  # float8 has no isfinite
    return bool(torch.isfinite(wide).all())
