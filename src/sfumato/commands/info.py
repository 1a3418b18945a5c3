"""sfumato info: what a run, a data set or a picture is."""

import json
from pathlib import Path
from typing import Any

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


FIELDS = {  # what a fact is called: the run's field that holds it, where it has one
    "process": "process",
    "predicts by": "parameterization",
    "objective": "objective",
    "network": "network",
    "codec": "codec",
    "text": "text",
    "sampling": "sampling",
}
NEXT = {  # by the kind of run; {0} is its folder
    "Run": "sfumato sample {0}   or measure it: sfumato evaluate {0}",
    "AutoencoderRun": "sfumato train latent_unet --data FOLDER codec.weights={0}   or measure it: "
    "sfumato evaluate {0}",
    "ClassifierRun": "sfumato sample RUN --classifier {0}   or measure it: sfumato evaluate {0}",
}


def print_run(name: str) -> None:
    """The run's facts, its last numbers and what to type next."""
    from ..console import facts_block
    from ..folder import find, read_card, read_metrics
    from ..kinds import read_run

    folder = find(name)
    run, card = read_run(folder), read_card(folder)
    shape = f"images of {card.size}, from {card.source}"
    facts = {"data": f"{card.name}: {card.images:,} {shape}" if card.images else f"none; {shape}"}
    fields = {label: getattr(run, field, None) for label, field in FIELDS.items()}
    facts |= {label: str(value) for label, value in fields.items() if value is not None}
    facts |= codec_facts(folder) | caption_facts(folder) | metric_facts(read_metrics(folder))
    print(facts_block(f"{folder}, {type(run).__name__}", facts))
    print(f"Next: {NEXT[type(run).__name__].format(folder)}")
    print(f"or train longer: sfumato train {folder} --time 1h")


def codec_facts(folder: Path) -> dict[str, str]:
    """What the run's autoencoder, its own or the one that it copied, says of itself."""
    from ..interop.reading import json_of
    from ..latents import CODEC, IN_RUN

    path = folder / IN_RUN / CODEC
    if not path.exists():
        return {}
    codec = json_of(path.read_bytes(), path)
    told = [
        f"{codec['network']['kind']}, f = {codec['f']}",
        "means " + _rounded(codec["means"]),
        "deviations " + _rounded(codec["stds"]),
        *(f"{key} {_plainly(value)}" for key, value in codec["facts"].items()),
    ]
    return {"latents": "; ".join(told)}


def _rounded(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _plainly(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def caption_facts(folder: Path) -> dict[str, str]:
    """How many captions the run was trained on; the first of its table is the empty one."""
    from ..text import CARD

    if not (folder / CARD).exists():
        return {}
    card = json.loads((folder / CARD).read_text("utf-8"))
    return {"captions": f"{len(card['captions']) - 1:,} different ones, read by {card['encoder']}"}


def metric_facts(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The last numbers of metrics.jsonl, of each kind that there is."""
    from ..console import duration

    last = {row["kind"]: row for row in rows}
    facts = {}
    if timed := last.get("train") or last.get("held_out"):
        facts["trained"] = f"{timed['step']:,} steps in {duration(timed['seconds'])}"
    if held := last.get("held_out"):
        facts["held-out loss"] = f"{held['raw']:.4f}, averaged weights {held['ema']:.4f}"
    if test := last.get("test"):
        facts["test loss"] = f"{test['ema']:.4f}, averaged weights, at step {test['step']:,}"
    if scores := last.get("accuracy"):
        shares = (f"{score['accuracy']:.1%} at {score['ratio']:g}" for score in scores["levels"])
        of = f", of {scores['of']}" if "of" in scores else ""  # which runs of before did not tell
        facts["right by sigma / alpha"] = ", ".join(shares) + of
    return facts


def print_data(source: str) -> None:
    from ..console import reading
    from ..data import Tolerance, load

    data = load(source, progress=reading(print), tolerance=Tolerance(most=1.0))
    print(data.describe())
    for path, reason in data.skipped[:20]:
        print(f"  left out: {path} ({reason})")
