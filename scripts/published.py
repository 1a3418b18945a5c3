"""Put a comparison or measured spectra on the page of recipes: their figure, and their numbers.

    python scripts/published.py compare FOLDER      of sfumato compare
    python scripts/published.py spectra RUN         of sfumato spectra

docs/pictures/NAME.webp and docs/measured/NAME.json; then `python scripts/recipes_page.py`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from recipes_page import DOCS, opened, save

KEPT = {  # of a contestant: what the page tells
    *("name", "parameters", "flops", "steps", "images", "seconds", "loss", "verdict"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("compare", "spectra"))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    found = json.loads((args.folder / f"{args.name}.json").read_text("utf-8"))
    told = compared(found) if args.name == "compare" else measured(found)
    save(opened(args.folder / f"{args.name}.png"), DOCS / "pictures" / f"{args.name}.webp")
    path = DOCS / "measured" / f"{args.name}.json"
    path.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """What the page tells of a comparison."""
    rest = ("data", "images", "device", "torch", "budget", "batch", "seed", "judge", "floor")
    rows = [{k: v for k, v in row.items() if k in KEPT} for row in found["contestants"]]
    return {**{name: found[name] for name in rest}, "contestants": rows}


def measured(found: dict[str, Any]) -> dict[str, Any]:
    """What the page tells of spectra."""
    rest = ("run", "step", "data", "images", "share", "settled")
    orders = {
        way: {name: found[way][name] for name in ("reached", "settled")}
        for way in ("in_training", "in_sampling")
    }
    return {**{name: found[name] for name in rest}, **orders}


if __name__ == "__main__":
    main()
