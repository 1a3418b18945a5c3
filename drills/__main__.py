"""python -m drills [NAME ...] [--short] [--json FILE]: carry them out, a table at the end.

NAME is a drill (K3) or a kind of drill (K). The exit code is 1 if anything was lost.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from . import DRILLS
from .drill import Outcome, carried_out


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m drills", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a drill or a kind; all of them")
    parser.add_argument("--short", action="store_true", help="seconds each, as in the tests")
    parser.add_argument(
        "--json", type=Path, help="put the outcomes there, beside those of other drills"
    )
    parser.add_argument("--list", action="store_true", help="only say which there are")
    args = parser.parse_args()
    names = chosen(args.names)
    if args.list:
        for name in names:
            print(f"{name:4} {(DRILLS[name].__doc__ or '').partition(chr(10))[0]}")
        return 0
    outcomes = []
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name} ...", flush=True)
        outcomes.append(carried_out(name, DRILLS[name], args.short))
    Console(width=None if sys.stdout.isatty() else 140).print(table_of(outcomes))
    if args.json is not None:
        args.json.write_text(json.dumps(merged(args.json, outcomes), indent=1) + "\n", "utf-8")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def chosen(wanted: Sequence[str]) -> list[str]:
    """Names of drills; exits with those that there are where one is unknown."""
    found = [
        name for name in DRILLS if not wanted or any(word in (name, name[0]) for word in wanted)
    ]
    unknown = [word for word in wanted if not any(word in (name, name[0]) for name in DRILLS)]
    if unknown:
        sys.exit(f"no drill {', '.join(unknown)}; there are {', '.join(DRILLS)}")
    return found


def table_of(outcomes: Sequence[Outcome]) -> Table:
    table = Table("drill", "what", "tried", "held", "s", "note")
    for outcome in outcomes:
        counts = (f"{outcome.tried:,}", f"{outcome.held:,}", f"{outcome.seconds:,.1f}")
        style = None if outcome.passed else "bold red"
        table.add_row(outcome.name, outcome.what, *counts, outcome.note, style=style)
    return table


def merged(path: Path, outcomes: Sequence[Outcome]) -> dict[str, dict[str, object]]:
    """The outcomes by name, with those of other drills that the file already has."""
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    where = {"python": platform.python_version(), "torch": torch.__version__}
    where["threads"] = str(torch.get_num_threads())
    now = {outcome.name: {**asdict(outcome), **where} for outcome in outcomes}
    found = {**before, **now}
    return {name: found[name] for name in DRILLS if name in found}


if __name__ == "__main__":
    sys.exit(main())
