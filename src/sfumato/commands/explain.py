"""sfumato explain: one noise level of a run, recipe or process: numbers, shapes, three notations.

Every number is one that ..explaining or the process itself returns; --json prints all of them.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..arguments import Explain, UsageError
from ..assembly import fitted
from ..config import Run
from ..console import WIDTH
from ..explaining import (
    DDPM_EQUATIONS,
    TARGETS,
    VIEWS,
    conversions,
    noisier_share,
    notations_of,
    numbers_of,
    rows_of,
    share_of_signal,
    time_of,
    weight_of,
)
from ..folder import find, read_card
from ..kinds import ROLES, near, override, read_run, to_dict
from ..networks.describe import table
from ..parameterization import EDMPreconditioning
from ..process import Process
from ..recipes import RECIPES, recipe_at
from .explain_words import WORDS, Words
from .recipes import TEXT_FEATURES, images_of, latent_shape, unfilled

PROCESSES: dict[str, Any] = {cls.__name__: cls for cls in ROLES[Process]}
ASSUMED = 0.5  # the deviation of images, where nothing says theirs: EDM's sigma_data
LEVELS = (0.95, 0.6, 0.15, 0.01)  # the image's share of the variance, above which it is so plain
Shape = tuple[Any, ...]  # sizes, and letters where any will do


@dataclass(frozen=True)
class Subject:
    """What is to be explained; of an image and what the network gets, (C, H, W), where known."""

    title: str
    process: Process
    run: Run | None = None
    image: Shape | None = None
    latent: Shape | None = None
    network: Any = None  # its settings, with channels and classes filled in


def run_explain(args: Explain) -> None:
    """Find it, compute, print.

    Raises: FileNotFoundError or ValueError for what is not there or has no noise.
    """
    subject = subject_of(args.thing, args.settings)
    t = time_of(subject.process, args.time, args.step, args.ratio)
    words = WORDS[args.lang]
    told = explanation(subject, t, words)
    if args.json:
        print(json.dumps(plain(told), indent=1, ensure_ascii=False))
    else:
        show(told, words)


# --- what is meant


def subject_of(thing: str, settings: Sequence[str]) -> Subject:
    """A run, which is looked for first, a recipe, or a process by the name of its class."""
    try:
        folder = find(thing)
    except FileNotFoundError as no_run:
        if thing in PROCESSES:
            process = with_settings(PROCESSES[thing](), settings)
            return Subject(str(process), process)
        recipe = recipe_at(thing) if thing in RECIPES or ".py:" in thing else None
        if recipe is None:
            raise ValueError(
                f"{thing!r} is no run, recipe or process; "
                f"{near(thing, [*runs_there(), *RECIPES, *PROCESSES])}"
            ) from no_run
        return of_recipe(thing, with_settings(recipe(), settings))
    return of_run(folder, with_settings(read_run(folder), settings))


def runs_there(root: Path = Path("runs")) -> list[str]:
    """The names of the runs."""
    return sorted(path.parent.name for path in root.glob("*/run.json"))


def with_settings(config: Any, settings: Sequence[str]) -> Any:
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write field=value, as steps=300.")
        config = override(config, path, text, type(config).__name__)
    return config


def process_of(run: Any, title: str) -> Process:
    process = getattr(run, "process", None)
    if process is None:
        raise ValueError(f"{title} is a {type(run).__name__}: it adds no noise over time.")
    return process


def of_run(folder: Path, run: Any) -> Subject:
    process, title = process_of(run, str(folder)), f"{folder}, {type(run).__name__}"
    if type(run) is not Run:
        return Subject(title, process)
    image = read_card(folder).shape
    latent = run.codec.build(folder, torch.device("cpu")).shape(image)
    return Subject(title, process, run, image, latent, run.network)


def of_recipe(name: str, run: Any) -> Subject:
    """Shapes are those of the recipe's own images, and of latents those of its codec's recipe."""
    process, title = process_of(run, name), f"recipe {name}, {type(run).__name__}"
    if type(run) is not Run:
        return Subject(title, process)
    channels, side, classes = images_of(run.data)
    image = (channels, side, side)
    latent = latent_shape(run, image)
    context = 0
    if run.text is not None:
        classes, context = 0, getattr(run.network, "context", 0) or TEXT_FEATURES
    outputs = latent[0] * (2 if run.learned_variance else 1)
    network = fitted(run.network, latent[0], outputs, classes, context)
    return Subject(title, process, run, image, latent, network)


# --- what is told


def explanation(subject: Subject, t: float, words: Words) -> dict[str, Any]:
    """All of it as plain values; numbers may be infinite, or NaN where there is none."""
    process, run = subject.process, subject.run
    own = None if run is None else run.parameterization
    measured = getattr(own, "sigma_data", 0.0)
    deviation = measured or ASSUMED
    if own is not None and measured == 0 and type(own) is EDMPreconditioning:
        own = replace(own, sigma_data=deviation)
    told: dict[str, Any] = {
        "thing": subject.title,
        "process": to_dict(process),
        "deviation": deviation,
        "deviation_is_assumed": not measured,
        "numbers": {
            **numbers_of(process, t),
            "share": share_of_signal(process, t, deviation),
            **loss_numbers(process, t, run, own),
        },
        "parameterizations": [
            {**asdict(row), "own": row.name == type(own).__name__}
            for row in rows_of(process, t, own, deviation)
        ],
        "conversions": nested(conversions(process, t)),
        "notations": [asdict(n) for n in notations_of(process, t, deviation)],
    }
    told["sentences"] = sentences(told["numbers"], process, deviation, words)
    return {**told, **flow_of(subject, words)}


def loss_numbers(process: Process, t: float, run: Run | None, own: Any) -> dict[str, float]:
    """Of a run: its loss's weight, where it is a weighted error of x0, and how often it is so."""
    if run is None:
        return {}
    weight = getattr(run.objective, "weight", None)
    found = {} if weight is None else {"weight": weight_of(process, t, own, weight)}
    return {**found, "noisier": noisier_share(process, t, run.objective.times)}


def nested(pairs: dict[tuple[str, str], Any]) -> dict[str, dict[str, Any]]:
    return {a: {b: pairs[a, b] for b in VIEWS} for a in VIEWS}


def sentences(
    numbers: dict[str, float], process: Process, deviation: float, words: Words
) -> dict[str, str]:
    """What each number is at this time."""
    level = sum(numbers["share"] <= edge for edge in LEVELS)
    values = {
        **numbers,
        "done": numbers["t"] / process.t_max,
        "t_max": process.t_max,
        "who": words[who_wins(numbers["log_snr"])],
        "index": numbers.get("step", 0) - 1,
        "deviation": deviation,
        "level": words[f"level {level}"],
    }
    return {name: words[name].format(**values) for name in numbers if name != "steps"}


def who_wins(log_snr: float) -> str:
    if abs(log_snr) < 1e-9:
        return "both alike"
    return "image wins" if log_snr > 0 else "noise wins"


def flow_of(subject: Subject, words: Words) -> dict[str, Any]:
    """The shapes through codec and network, and the network stage by stage; of a process none."""
    if subject.run is None or subject.image is None or subject.latent is None:
        return {"shapes": [], "stages": []}
    run, network = subject.run, subject.network
    target = TARGETS[type(run.parameterization).__name__]
    outputs = (network.out_channels or subject.latent[0], *subject.latent[1:])
    given = "output, variance" if run.learned_variance else "output"
    shapes = [
        ("images", ("B", *subject.image), words["uint8"]),
        ("x0", ("B", *subject.latent), words["x0"]),
        ("x_t", ("B", *subject.latent), words["x_t"]),
        ("noise_level", ("B",), words["level"]),
        condition(network, run, words),
        ("network", ("B", *outputs), words[given].format(target=target)),
        ("decoded", ("B", *subject.image), words["decoded"]),
    ]
    caption = replace(run, network=network).caption
    rows = table(unfilled(network), subject.latent, network.classes, *caption)
    stages = [{"block": r.block, "shape": r.shape, "parameters": r.parameters} for r in rows]
    return {
        "shapes": [{"name": name, "shape": s, "meaning": m} for name, s, m in shapes],
        "stages": stages,
    }


def condition(network: Any, run: Run, words: Words) -> tuple[str, Shape, str]:
    """What the network is told beside the noise level."""
    if run.text is not None:
        return "cond", ("B", "L", network.context), words["tokens"].format(context=network.context)
    if network.classes:
        return "cond", ("B",), words["labels"].format(classes=network.classes)
    return "cond", (), words["nothing"]


def plain(value: Any) -> Any:
    """As JSON has it: infinity as "inf", NaN as null."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


# --- printing


def show(told: dict[str, Any], words: Words) -> None:
    """Tables, as wide as the terminal, or WIDTH where there is none."""
    from rich.console import Console
    from rich.text import Text

    width = None if sys.stdout.isatty() else WIDTH
    console = Console(file=sys.stdout, highlight=False, width=width)

    def head(text: str, note: str = "") -> None:
        console.print(Text(f"\n{text}", style="bold"))
        if note:
            console.print(Text(note, style="dim"))

    console.print(Text(told["thing"], style="bold"))
    head(words["numbers"])
    console.print(numbers_table(told, words))
    if told["deviation_is_assumed"]:
        console.print(Text(words["assumed"].format(deviation=told["deviation"]), style="dim"))
    head(words["notations"])
    console.print(notations_table(told["notations"], words))
    head(words["ways"])
    console.print(ways_table(told["parameterizations"], words))
    if any(row["own"] for row in told["parameterizations"]):
        console.print(Text(words["own"], style="dim"))
    head(words["one thing"], words["definitions"])
    console.print(conversions_table(told["conversions"], words))
    if told["shapes"]:
        head(words["shapes"])
        console.print(shapes_table(told["shapes"]))
        head(words["stages"])
        console.print(stages_table(told["stages"]))


def grid(*columns: str, gap: int = 2) -> Any:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    for number, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=number == 0)  # names stay whole
    return made


def digits(value: Any) -> str:
    """Five digits; a dash where there is no number."""
    return "-" if value is None or math.isnan(value) else f"{value + 0.0:.5g}"


def numbers_table(told: dict[str, Any], words: Words) -> Any:
    made = grid("", words["value"], words["meaning"])
    for name, sentence in told["sentences"].items():
        made.add_row(name, digits(told["numbers"][name]), sentence)
    return made


def notations_table(notations: list[dict[str, Any]], words: Words) -> Any:
    made = grid("", *(n["name"] for n in notations))
    made.add_row(
        "", *("\n".join(f"{k} = {digits(v)}" for k, v in n["numbers"].items()) for n in notations)
    )
    made.add_row(words["times x_t"], *(digits(n["scale"]) for n in notations))
    for what in DDPM_EQUATIONS:
        made.add_row(what, *(n["equations"][what] for n in notations))
    made.add_row("", *(digits(n["weight"]) for n in notations))
    return made


def ways_table(rows: list[dict[str, Any]], words: Words) -> Any:
    names = ("c_in", "c_skip", "c_out", "c_noise")
    weight = f"{words['plain weight']}\nc_out^-2"
    made = grid(f"{words['way']}\n  {words['target']}", *names, weight, gap=1)
    for row in rows:
        numbers = row["numbers"]
        cells = [digits(numbers.get(name)) for name in (*names, "weight")]
        if not numbers:
            cells[0] = words["not defined"]
        name = f"{row['name']}{' *' if row['own'] else ''}"
        made.add_row(f"{name}\n  {row['target']}", *cells)
    return made


def term(pair: Any, given: str) -> str:
    """a x_t + b given, in three digits; a dash where the given view does not tell."""
    if pair is None or not all(map(math.isfinite, pair)):
        return "-"
    parts = [(value, name) for value, name in zip(pair, ("x_t", given)) if abs(value) > 1e-12]
    text = " ".join(
        f"{'-' if value < 0 else '+'} {times(abs(value))}{name}" for value, name in parts
    )
    return text.removeprefix("+ ").replace("- ", "-", int(text.startswith("-"))) or "0"


def times(value: float) -> str:
    """The factor before a name: none where it is 1."""
    return "" if math.isclose(value, 1, rel_tol=1e-9) else f"{value:.3g} "


def conversions_table(found: dict[str, dict[str, Any]], words: Words) -> Any:
    made = grid(words["given"], *(f"{view} =" for view in VIEWS))
    for given, wanted in found.items():
        cells = [given if view == given else term(wanted[view], given) for view in VIEWS]
        made.add_row(given, *cells)
    return made


def shapes_table(shapes: list[dict[str, Any]]) -> Any:
    made = grid("", "", "")
    made.show_header = False
    for row in shapes:
        made.add_row(row["name"], f"({', '.join(map(str, row['shape']))})", row["meaning"])
    return made


def stages_table(stages: list[dict[str, Any]]) -> Any:
    made = grid("", "", "")
    made.show_header = False
    for row in stages:
        shape = " x ".join(map(str, row["shape"]))
        made.add_row(row["block"], shape, f"{row['parameters']:,}")
    return made
