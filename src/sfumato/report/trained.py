"""The sections of a run's page that training leaves: pictures, numbers, settings, commands."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..console import count, duration
from .embedding import FILM_BYTES, embedded
from .parts import command, facts, group, paragraph, picture, section
from .reading import draws, newest, read_object, read_rows, step_grids, versions_of

MOST_GRIDS = 60  # of those through training, so that a long run's page still opens on a phone
GRIDS_BYTES = 4_000_000  # of all of these together
FILM_TEXT = "The noisy x_t on the left; on the right what the network then takes the image to be."
LOSS_TEXT = (
    "Held-out images get the same noise each time: where a line is flat, learning has stopped. "
    "Raw weights are dashed, their average (EMA), which draws, is whole."
)
SAMPLES_TEXT = {
    True: "Drawn by the trained network.",
    False: "What the trained network makes of images that it was not trained on.",
}


def samples(folder: Path, run: Mapping[str, Any]) -> str:
    return first_picture(folder, ["samples.png"], "Samples", SAMPLES_TEXT[draws(run)])


def film(folder: Path) -> str:
    """The run's own, else the newest that sfumato sample drew."""
    drawn = newest(folder, "drawn*/film.webp")
    names = ["film.webp", "film.gif", *([] if drawn is None else [str(drawn.relative_to(folder))])]
    return first_picture(folder, names, "From noise to images", FILM_TEXT, most=FILM_BYTES)


def losses(folder: Path) -> str:
    return first_picture(folder, ["loss.png"], "Losses", LOSS_TEXT, "wide plot")


def first_picture(
    folder: Path, names: Sequence[str], title: str, text: str, style: str = "", **most: int
) -> str:
    """A section with the first of the files that is there; nothing if none is."""
    for name in names:
        if (folder / name).is_file():
            return section(title, paragraph(text), picture(folder / name, title, style, **most))
    return ""


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]


def through_training(folder: Path) -> str:
    """The grids with a slider; without script they stand in a row."""
    grids = step_grids(folder)
    shown = spread(grids, MOST_GRIDS)
    if not shown:
        return ""
    note = "The same seeds each time."
    if len(shown) < len(grids):
        note += f" {len(shown)} of {len(grids)} grids, evenly spaced; all are in {folder.name}/."
    slider = f'<input type="range" min="0" max="{len(shown) - 1}" aria-label="step of training">'
    control = f'<div class="control" hidden><button>Play</button>{slider}</div>'
    figures = [
        f"<figure><figcaption>step {count(step)}</figcaption>"
        f"{embedded(file, f'samples at step {step}', GRIDS_BYTES // len(shown))}</figure>"
        for step, file in shown
    ]
    row = f'<div class="shots">{"".join(figures)}</div>'
    return section("Through training", paragraph(note), control, row, name="steps")


# --- numbers


def facts_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(value, what it is) of the last rows of training and of held-out evaluation."""
    last = {row.get("kind"): row for row in rows}
    train, held_out = last.get("train", {}), last.get("held_out", {})
    newest = {**held_out, **train} if train else held_out
    formats = (
        (newest, "step", "steps", lambda value: count(int(value))),
        (newest, "images", "images seen", lambda value: count(int(value))),
        (newest, "seconds", "training time", duration),
        (train, "loss", "training loss, last batch", "{:.4f}".format),
        (held_out, "ema", "held-out loss, EMA", "{:.4f}".format),
        (held_out, "raw", "held-out loss, raw", "{:.4f}".format),
        (train, "images_per_s", "images/s", "{:,.0f}".format),
        (train, "memory_gb", "GB of memory", "{:.2f}".format),
    )
    for row, key, name, form in formats:
        if row.get(key) is not None:
            yield form(row[key]), name


def numbers(path: Path) -> str:
    if not path.is_file():
        return ""
    rows, broken = read_rows(path)
    lines = "1 line" if broken == 1 else f"{broken} lines"
    note = paragraph(f"{lines} of {path.name} could not be read.") if broken else ""
    return section("Last numbers", facts(list(facts_of(rows))), note)


# --- what it was made of


def data(folder: Path) -> str:
    """The card of the data set, and some of its images as the network saw them."""
    card, parts = read_object(folder / "data.json"), []
    if card:
        size = " x ".join(str(side) for side in card.get("size", ()))
        names = card.get("class_names", ())
        known = (
            ("name", card.get("name")),
            ("from", card.get("source")),
            ("images", f"{card.get('images', 0):,} of {size}, {card.get('channels')} channels"),
            ("classes", ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")),
            ("fingerprint", str(card.get("fingerprint", ""))[:16]),
        )
        parts.append(group("data", [(name, str(value)) for name, value in known if value]))
    if (folder / "data-preview.png").is_file():
        parts.append(paragraph("Training images, as the network saw them."))
        parts.append(picture(folder / "data-preview.png", "What the network saw"))
    return section("Data", *parts) if parts else ""


def flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """(dotted name, value) of every leaf; the kind of an object stands at the object's own name."""
    if not isinstance(value, Mapping):
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return
    for key, inner in value.items():
        path = name if key == "kind" and name else f"{name}.{key}" if name else str(key)
        yield from flat(inner, path)


def settings(folder: Path, run: Mapping[str, Any]) -> str:
    """A card for each part of the run, and one for what is of no part."""
    parts = {key: part for key, part in run.items() if isinstance(part, Mapping)}
    loose = {key: value for key, value in run.items() if key not in parts and key != "kind"}
    groups = [group("run", list(flat(loose, "")))] if loose else []
    for key, part in parts.items():
        kind = f": {part['kind']}" if "kind" in part else ""
        inner = {name: value for name, value in part.items() if name != "kind"}
        groups.append(group(f"{key}{kind}", list(flat(inner, ""))))
    if not groups:
        return ""
    trained = versions_of(folder)
    by = paragraph(f"Trained by {trained}.") if trained else ""
    return section("Settings", by, f'<div class="groups">{"".join(groups)}</div>')


# --- commands


def commands_for(folder: str, run: Mapping[str, Any]) -> list[str]:
    """What to type to make the run again, to go on with it, and to learn more of it."""
    quoted = shlex.quote(folder)
    name = shlex.quote(f"{run.get('name') or Path(folder).name}-again")
    again = [f"sfumato train --config {shlex.quote(f'{folder}/run.json')} --name {name}"]
    verbs = ["evaluate", "doctor", "info", "report"]
    if draws(run):
        verbs = ["sample", "evaluate", "sweep", "doctor", "spectra", "info", "report"]
    return [*again, *(f"sfumato {verb} {quoted}" for verb in verbs)]


def commands(lines: Sequence[str]) -> str:
    text = "The first makes this run again, with the same seed; the others look further."
    made = "".join(command(line) for line in lines)
    return section("Commands", paragraph(text), made, name="commands") if lines else ""


def heading(title: str, run: Mapping[str, Any], verdict: str) -> str:
    """verdict: the doctor's, in HTML, or nothing."""
    recipe = run.get("recipe")
    told = f"A run of sfumato{f', recipe {recipe}' if recipe else ''}"
    return f"<h1>{escape(title)}</h1>\n<p>{escape(told)}{verdict}</p>"
