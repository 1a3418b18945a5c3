"""Where a run that was named lies, and whether what was named can be there at all.

Nothing here imports torch, so that a mistyped name is answered at once.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .data.places import KNOWN, in_utf8, neighbours, spelt
from .data.places import find as find_data
from .typed import check_grid
from .vocabulary import RECIPE_NAMES


def find(run: str, root: Path = Path("runs")) -> Path:
    """The folder of a run given as a path, as a name in `root`, or as "last" (newest there).

    Raises: FileNotFoundError that lists what is there.
    """
    known = sorted(root.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if run == "last" and known:
        return known[-1].parent
    for path in (Path(run), root / run):
        if (path / "run.json").is_file():
            return path
    there = ", ".join(str(path.parent) for path in known[-8:]) or "none yet"
    raise FileNotFoundError(
        f"{run!r} is no run: no run.json is in it. Runs in {root}/: {there}. "
        "Give one of them, or 'last' for the newest."
    )


def is_data(name: str) -> bool:
    """Whether a path of this name is there, or a data set is called so, be it there or not."""
    return Path(name).expanduser().exists() or spelt(name) in ("digits", *KNOWN)


def near_things(name: str, root: Path = Path("runs")) -> list[tuple[str, str]]:
    """At most three things that are called nearly so, as (kind, what to type), the nearest first.

    kind: "recipe", "run", "data" for the name of a data set, or "path".
    """
    known = {known: ("data", known) for known in ("digits", *KNOWN)}
    known |= {path: ("path", path) for path in neighbours(Path(name))}
    for path in root.glob("*/run.json"):
        run = str(path.parent)
        known |= {run: ("run", run), path.parent.name: ("run", run)}
    known |= {recipe: ("recipe", recipe) for recipe in RECIPE_NAMES}
    found = [known[near] for near in get_close_matches(name[:100].rstrip("/"), known, n=3)]
    return list(dict.fromkeys(found))


def check_names(command: Any) -> None:
    """Raise what the command would, where the run, recipe or data set it names is not there.

    Or ValueError where a run's folder can't be called as --out says.

    Only what needs no import of torch to be known; the command looks again for itself.
    """
    values = vars(command)
    if values.get("run"):
        find(command.run)
    for name in values.get("runs") or ():
        find(name)
    if values.get("grid"):
        check_grid(command.grid)
    if values.get("source") and not values.get("config"):
        _check_source(command.source)
    if values.get("data"):
        _check_data(command.data)
    if values.get("out"):
        in_utf8(command.out)


def _check_source(source: str) -> None:
    """Of `sfumato train`: a recipe, one in a file of the user's, the last run or images."""
    if source not in RECIPE_NAMES and source != "last" and ".py:" not in source:
        _check_data(source)


def _check_data(source: str) -> None:
    if spelt(source) != "digits":
        find_data(source, RECIPE_NAMES)
