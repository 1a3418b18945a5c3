"""The sections of a run's page that other commands leave: evaluate, sweep, tune, spectra, doctor.

What is damaged is named on the page in the section's place: a page is for finding that out too.
"""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .. import sweep_words
from ..typed import guidance_flags, guidance_words
from .parts import advice, command, number, paragraph, picture, section, table, with_error
from .reading import newest, read_object

EVALUATION_TEXT = "± is one standard error; twice that is about a 95 % interval."
SPECTRA_TEXT = (
    "The share of the data's power that samples have, by spatial frequency: through training, and "
    "along a sampling run. As sfumato spectra measured it."
)
NEAREST_TEXT = (
    "Drawn images from the nearest to its training image to the farthest; below each the training "
    "image that is nearest by features, and by pixels, or its mirror image where these were "
    "trained on too. Copies would show here."
)
SPECTRUM_TEXT = "Power by frequency of drawn images beside that of real ones."
DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError)
VERDICTS = {"healthy": "healthy", "risk": "at risk", "wrong": "something is wrong"}
SEVERITIES = ("wrong", "risk", "note")


def tolerant(title: str, path: Path, make: Callable[[], str]) -> str:
    """The section; where the file is not what its command writes, one that says so."""
    try:
        return make()
    except DAMAGED as error:
        return section(title, paragraph(f"{path.name} could not be read: {error!r}."))


# --- the doctor


def verdict_of(folder: Path) -> str:
    """The doctor's verdict in a few words of HTML; nothing where it was not asked."""
    try:
        told = str(read_object(folder / "doctor.json").get("verdict", ""))
    except ValueError:  # its section says so
        return ""
    if told not in VERDICTS:
        return ""
    return f'. The doctor: <b class="{told}">{VERDICTS[told]}</b>'


def doctor(folder: Path) -> str:
    path = folder / "doctor.json"
    return tolerant("Doctor", path, lambda: _doctor(read_object(path))) if path.is_file() else ""


def _doctor(told: Mapping[str, Any]) -> str:
    ranked = sorted(told["findings"], key=lambda f: SEVERITIES.index(f["severity"]))
    cards = [
        f'<div class="group {finding["severity"]}"><h3>{escape(str(finding["seen"]))}</h3>'
        f"{paragraph(str(finding['why']))}{advice('To do: ' + str(finding['do']))}</div>"
        for finding in ranked
    ]
    verdict = VERDICTS.get(told["verdict"], str(told["verdict"]))
    return section("Doctor", paragraph(f"Verdict: {verdict}."), *cards)


# --- evaluate


def evaluation(folder: Path) -> str:
    """Every mean with its error, of the newest evaluation, and its pictures."""
    path = newest(folder, "evaluation*/evaluation.json")
    where = path or newest(folder, "evaluation*/evaluation.png")
    if where is None:
        return ""
    parts = [] if path is None else [_evaluated(path)]
    for name, text, style in (
        ("evaluation.png", "", "wide plot"),
        ("nearest.png", NEAREST_TEXT, "wide"),
        ("spectrum.png", SPECTRUM_TEXT, "plot"),
    ):
        if (where.parent / name).is_file():
            parts.append(paragraph(text) if text else "")
            parts.append(picture(where.parent / name, name, style))
    return section("Measured", *parts)


def _evaluated(path: Path) -> str:
    try:
        return _evaluation(json.loads(path.read_text(encoding="utf-8")))
    except DAMAGED as error:
        return paragraph(f"{path.name} could not be read: {error!r}.")


def _evaluation(found: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in found.items() if key != "drawn"}
    rows = [(name, with_error(value)) for name, value in estimates(plain, "")]
    told = f"On {found.get('images')}; {found.get('weights')} weights of step {found.get('step')}."
    parts = [paragraph(f"{told} {EVALUATION_TEXT}"), table(("measure", "value"), rows, (1,))]
    return "".join([*parts, _drawn(found["drawn"]) if "drawn" in found else ""])


def estimates(value: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, mapping) of everything with a mean and an error, wherever it is."""
    if not isinstance(value, Mapping):
        return
    if {"mean", "error"} <= value.keys():
        yield name.replace("_", " "), value
    for key, inner in value.items():
        yield from estimates(inner, f"{name}, {key}" if name else str(key))


def _drawn(found: Mapping[str, Any]) -> str:
    by, of = found["record"]["yardstick"], found["record"]["drawing"]
    rows = [
        (
            str(result["name"]),
            with_error(result, "value"),
            "unknown" if result["floor"] is None else number(result["floor"]),
            "the same" if result["better"] == "floor" else str(result["better"]),
        )
        for result in found["results"]
    ]
    recipe = (
        f"{number(by['images'])} images, seeds {of['seeds']}, {of['weights']} weights of step "
        f"{number(of['step'])}, {of['sampler']}, {of['steps']} steps, guidance {of['guidance']:g}, "
        f"of {of['asked']}, beside {number(by['reference_images'])} {by['reference']}; "
        f"{by['features']} features {by['digest']}; by sfumato {of['version']}. "
        "Real: as many other real images, the floor."
    )
    head = ("drawn images", "value", "real", "better is")
    return "".join(["<h3>Drawn images</h3>", paragraph(recipe), table(head, rows, (1, 2))])


# --- samplers


def sweep(folder: Path) -> str:
    path = folder / "sweep.json"
    if not path.is_file():
        return ""
    return tolerant("Samplers", path, lambda: _sweep(folder, read_object(path)))


def _sweep(folder: Path, record: Mapping[str, Any]) -> str:
    head = ("calls", "guidance", "nearest", "grid", "steps", "distance", "s/image")
    best = list(best_of(record))
    rows = [
        (
            str(row["calls"]),
            f"{row['guidance']:g}",
            row["sampler"],
            sweep_words.grid_words(row["grid"]).replace(" ", "\xa0"),
            str(row["steps"]),
            with_error(row, "distance"),
            number(row["seconds_an_image"]),
        )
        for row in best
    ]
    text = (
        f"Distance is the {record['measure']}; {record['images']} images. It is the error of the "
        "solver alone, and says nothing of how good the network is. Samplers that add noise are "
        "judged by what they draw."
    )
    parts = [paragraph(text), table(head, rows, (0, 1, 4, 5, 6))]
    drawn = sweep_words.best_drawn(record["rows"])
    if (folder / "sweep.png").is_file():
        panels = len(sweep_words.scales(record)) + bool(drawn)
        style = "wide plot" if panels > 1 else "plot"
        parts.append(picture(folder / "sweep.png", "distance by network calls", style))
    if drawn:
        parts.append(_qualities(record, drawn))
    typed = [f"{row['command']}  # {row['calls']} calls" for row in best if row["command"]]
    return section("Samplers", *parts, command("\n".join(typed)) if typed else "")


def best_of(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The nearest sampler of each number of calls at each guidance."""
    for calls in sweep_words.counts(record):
        for scale in sweep_words.scales(record):
            yield from sweep_words.nearest(
                sweep_words.of(record["rows"], calls=calls, guidance=scale)
            )[:1]


def _qualities(record: Mapping[str, Any], drawn: Sequence[Mapping[str, Any]]) -> str:
    judge = record["quality"]
    rows = [
        (
            str(row["calls"]),
            row["sampler"],
            f"{row['guidance']:g}",
            with_error(row["quality"], "value"),
            number(row["seconds_an_image"]),
        )
        for row in sorted(drawn, key=lambda row: (row["calls"], row["quality"]["value"]))
    ]
    floor = "unknown" if judge["floor"] is None else number(judge["floor"])
    text = f"{judge['measure']} of {judge['images']} images; as many other real ones: {floor}."
    head = ("calls", "sampler", "guidance", "distance", "s/image")
    return "".join([paragraph(text), table(head, rows, (0, 2, 3, 4))])


def tuned(folder: Path) -> str:
    paths = sorted((folder / "tuned").glob("nfe-*.json"))
    if not paths:
        return ""
    return tolerant("Tuned samplers", paths[0], lambda: _tuned(folder, paths))


def guidance_of(sampling: Mapping[str, Any]) -> tuple[float, float, float]:
    """Its scale, and the interval of noise that it acts in."""
    low, high = sampling.get("guidance_from", 0.0), sampling.get("guidance_to", "inf")
    return sampling["guidance"], low, float(high)


def _tuned(folder: Path, paths: Sequence[Path]) -> str:
    found = [(path, read_object(path)) for path in paths]
    found.sort(key=lambda item: (item[1]["sampling"]["steps"], item[1]["sampling"]["guidance"]))
    rows, pictures, commands = [], [], []
    for path, record in found:
        best = min(record["fixed"], key=lambda row: row["distance"])
        calls, guidance = record["sampling"]["steps"], guidance_of(record["sampling"])
        commands.append(f"{calls} {guidance_flags(*guidance)}")
        words = guidance_words(*guidance).removeprefix("guidance ")
        times = best["distance"] / record["tuned"]
        cells = (number(record["tuned"]), f"{best['name']}, {number(best['distance'])}")
        rows.append((str(calls), words, *cells, f"{times:.2f}"))
        if path.with_suffix(".png").is_file():
            pictures.append(picture(path.with_suffix(".png"), f"{calls} calls", most=200_000))
    head = ("calls", "guidance", "tuned", "best fixed", "times nearer")
    text = "Distance to the images of a teacher of many calls, from the same noise."
    return section(
        "Tuned samplers",
        paragraph(text),
        table(head, rows, (0, 1, 2, 4)),
        *pictures,
        command(
            "\n".join(
                f"sfumato sample {shlex.quote(str(folder))} --nfe {asked}" for asked in commands
            )
        ),
    )


def spectra(folder: Path) -> str:
    path = folder / "spectra.png"
    if not path.is_file():
        return ""
    return section("Spectra", paragraph(SPECTRA_TEXT), picture(path, "Spectra", "wide plot"))
