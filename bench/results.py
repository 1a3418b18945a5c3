"""What was measured, as JSON: one file a benchmark, one part a command that was run.

    results/NAME.json = {"schema": 1, "bench": NAME, "parts": {CASE: part}}

Every part carries the machine that it was measured on and all its rounds, so that medians and
ratios are made from the file alone.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .rounds import median, quartiles, speedup

SCHEMA = 1
DOCUMENTED, BEST = "peer, as documented", "peer, at its best"  # names of rows
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One contestant: its seconds in each round, each for `amount` of `unit`.

    flops: of the model, in a round's amount; 0 where that means nothing. facts: whatever else.
    """

    name: str
    seconds: tuple[float, ...]
    amount: float = 1.0
    unit: str = "runs"
    flops: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        return quartiles(self.seconds)

    @property
    def rate(self) -> float:
        """Of `unit`, a second."""
        return self.amount / self.median

    @property
    def flops_rate(self) -> float:
        """FLOP a second."""
        return self.flops / self.median

    def speedup_over(self, base: "Row") -> float:
        """How many times the rate of `base`: the median of the rounds' own ratios."""
        return speedup(self.seconds, base.seconds) * self.amount / base.amount


@dataclass(frozen=True)
class Part:
    """A case, measured by one command: rows that took turns, and what else was found."""

    case: str
    command: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    more: dict[str, Any] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """Raises: KeyError where there is none of the name."""
        return {row.name: row for row in self.rows}[name]


def to_json(bench: str, parts: Mapping[str, Part]) -> str:
    plain = {"schema": SCHEMA, "bench": bench, "parts": {k: asdict(p) for k, p in parts.items()}}
    return json.dumps(plain, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> dict[str, Part]:
    """Raises: ValueError where the file is of another schema."""
    raw = json.loads(text)
    if raw.get("schema") != SCHEMA:
        raise ValueError(
            f"schema {raw.get('schema')!r}; {SCHEMA} is read here: measure again (python -m bench)."
        )
    return {case: part_of(part) for case, part in raw["parts"].items()}


def part_of(raw: dict[str, Any]) -> Part:
    rows = (Row(**{**row, "seconds": tuple(row["seconds"])}) for row in raw["rows"])
    return Part(**{**raw, "rows": tuple(rows)})


def read(bench: str, folder: Path = RESULTS) -> dict[str, Part]:
    """The parts of a benchmark by case; none where nothing was measured."""
    path = folder / f"{bench}.json"
    return from_json(path.read_text("utf-8")) if path.exists() else {}


def put(bench: str, part: Part, folder: Path = RESULTS) -> Path:
    """Write the part into the benchmark's file, in the place of an older one of its case."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{bench}.json"
    path.write_text(to_json(bench, {**read(bench, folder), part.case: part}), "utf-8")
    return path
