"""sfumato info: what a run, a data set or a picture is."""

import json
from pathlib import Path

from ..arguments import Info
from ..pictures import read_settings

PICTURES = (".png", ".webp", ".gif")


def run_info(args: Info) -> None:
    """Tell what the thing is, by what is at its path.

    Raises: FileNotFoundError where nothing is known by this name.
    """
    path = Path(args.thing)
    if path.suffix.lower() in PICTURES and path.is_file():
        print_picture(path)
    elif path.exists() and not (path / "run.json").is_file():
        print_data(args.thing)
    else:
        print_known(args.thing)


def print_picture(path: Path) -> None:
    settings = read_settings(path)
    if settings is None:
        print(f"{path} was not made by sfumato, or its settings were stripped: it has none.")
        return
    for name, value in settings.items():
        print(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")


def print_known(name: str) -> None:
    """A run by its name, or a data set by its name."""
    from ..folder import find

    try:
        find(name)
    except FileNotFoundError as no_run:
        try:
            print_data(name)
        except ValueError as no_data:
            raise ValueError(f"{no_run} Nor is it a data set: {no_data}") from no_data
    else:
        print_run(name)


def print_run(name: str) -> None:
    """The run's facts, its last numbers and what to type next."""
    from ..config import loads
    from ..console import duration, facts_block
    from ..folder import find, read_card, read_metrics

    folder = find(name)
    run, card = loads((folder / "run.json").read_text("utf-8")), read_card(folder)
    rows = read_metrics(folder)
    facts = {
        "data": f"{card.name}: {card.images:,} images of {card.size}, from {card.source}",
        "process": str(run.process),
        "predicts by": str(run.parameterization),
        "objective": str(run.objective),
        "network": str(run.network),
        "sampling": str(run.sampling),
    }
    if rows:
        facts["trained"] = f"{rows[-1]['step']:,} steps in {duration(rows[-1]['seconds'])}"
    held = [row for row in rows if row["kind"] == "held_out"]
    if held:
        facts["held-out loss"] = f"{held[-1]['raw']:.4f}, averaged weights {held[-1]['ema']:.4f}"
    print(facts_block(str(folder), facts))
    print(f"Next: sfumato sample {folder}   or train longer: sfumato train {folder} --time 1h")


def print_data(source: str) -> None:
    from ..console import reading
    from ..data import load

    data = load(source, progress=reading(print))
    print(data.describe())
    for path, reason in data.skipped[:20]:
        print(f"  left out: {path} ({reason})")
