"""A measured number with all that it depends on; two numbers of unlike recipes are not compared.

    Result = name, value +- error, floor, Record;    Record = Yardstick + Drawing

The yardstick is what was measured by: features, n, reference. The drawing is what was measured: the
run, its weights, the sampler, the seeds. Two results compare where the yardsticks agree in full and
the drawings in all but what the comparison is about, which has to be said.
"""

import dataclasses
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import __version__
from .features import UNKNOWN
from .kinds import near

RUNS = ("run", "step", "version")  # what two runs, measured alike, differ in


@dataclass(frozen=True)
class Yardstick:
    """What a result was measured by.

    features, digest, resize: of the network; see features.py. images: n, those drawn. reference:
    which real images, in words; reference_images: how many; reference_digest: their fingerprint.
    """

    features: str
    digest: str
    resize: str
    images: int
    reference: str
    reference_images: int
    reference_digest: str


@dataclass(frozen=True)
class Drawing:
    """What was measured: which weights drew the images, and how.

    weights: "average", the moving average at the end, "best average" or "raw". asked: how classes
    or captions were chosen. sampler: solver and grid, in words; seeds: "0 to 4999".
    version: of this program, with its commit where it is known.
    """

    run: str
    step: int
    weights: str
    sampler: str
    steps: int
    guidance: float
    asked: str
    seeds: str
    precision: str
    version: str


@dataclass(frozen=True)
class Record:
    """The recipe of a result."""

    yardstick: Yardstick
    drawing: Drawing


@dataclass(frozen=True)
class Result:
    """A number and its recipe.

    error: standard deviation over other draws of as many images, or None where it is not known: of
    the drawn ones alone for Frechet distances and shares of them, of both sets for the others.
    floor: the same measure of as many real images instead, or None where there were not enough.
    better: "lower", "higher", or "floor" where either side of the floor is worse.
    """

    name: str
    value: float
    error: float | None
    floor: float | None
    better: str
    record: Record


def version() -> str:
    """This program's version, and the commit that its source tree is at where it is in one."""
    tree = Path(__file__).parents[2]
    if not (tree / ".git").exists():
        return __version__
    try:
        told = subprocess.run(
            ["git", "-C", str(tree), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):  # no git here, or none that trusts the folder
        return f"{__version__} (commit unknown)"
    return f"{__version__} ({told.stdout.strip()})"


# --- comparing


def check_alike(first: Result, second: Result, varied: Iterable[str] = RUNS) -> None:
    """Raises ValueError, naming the first differing field, unless the results may be compared.

    varied: the fields of the drawing that the comparison is about, and that may differ.
    """
    names = {field.name for field in dataclasses.fields(Drawing)}
    for name in varied:
        if name not in names:
            raise ValueError(f"{name!r} is no field of a drawing; {near(name, names)}")
    if first.name != second.name:
        raise ValueError(f"{first.name} and {second.name} are different measures.")
    one, two = first.record, second.record
    if UNKNOWN in (one.yardstick.digest, two.yardstick.digest):
        raise ValueError(
            f"the {one.yardstick.features} features came without a digest, so whether both results "
            "are of the same network is not known: give features_of a digest."
        )
    _check_fields(one.yardstick, two.yardstick, (), "Measure both by the same.")
    remedy = "Measure both alike, or name it in varied where it is what you compare."
    _check_fields(one.drawing, two.drawing, tuple(varied), remedy)


def _check_fields(first: Any, second: Any, varied: tuple[str, ...], remedy: str) -> None:
    for field in dataclasses.fields(first):
        one, two = getattr(first, field.name), getattr(second, field.name)
        if field.name not in varied and one != two:
            raise ValueError(
                f"results of different {field.name} don't compare: {one!r} and {two!r}. {remedy}"
            )


def difference(first: Result, second: Result, varied: Iterable[str] = RUNS) -> tuple[float, float]:
    """(second - first, its standard deviation) of results that may be compared.

    Raises: ValueError where they may not; see check_alike.
    """
    check_alike(first, second, varied)
    errors = [
        result.error if result.error is not None else float("nan") for result in (first, second)
    ]
    return second.value - first.value, (errors[0] ** 2 + errors[1] ** 2) ** 0.5


# --- JSON


def to_json(results: Sequence[Result]) -> dict[str, Any]:
    """Results of one record as plain JSON values: the record once, then a row each.

    Raises: ValueError where they are of several records, or there are none.
    """
    records = {result.record for result in results}
    if len(records) != 1:
        raise ValueError(f"results of {len(records)} records; write those of each apart.")
    rows = [{k: v for k, v in asdict(result).items() if k != "record"} for result in results]
    return {"record": asdict(records.pop()), "results": rows}


def from_json(value: Any) -> list[Result]:
    """Undo to_json.

    Raises: ValueError where it is nothing that to_json made.
    """
    try:
        record = value["record"]
        parts = Record(Yardstick(**record["yardstick"]), Drawing(**record["drawing"]))
        return [Result(**row, record=parts) for row in value["results"]]
    except (TypeError, KeyError) as error:
        raise ValueError(f"these are no results as sfumato writes them: {error}") from error
