"""Several runs side by side: what differs, what came of it, and what may be compared.

Losses stand beside one another only where objective, process, data and codec are one; measures of
drawn images only where everything but the run is one. Where they may not, the page says why, and
beside bits that were measured in unlike ways it says what of them compares.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from sys import maxsize
from typing import Any

from ..data.held import held_back
from .measured import estimates, verdict_of
from .parts import number, paragraph, picture, section, table, with_error
from .reading import newest, read_object, read_rows
from .trained import facts_of, flat

LOSS_NEEDS = ("objective", "process", "codec", "parameterization")
HELD_BY = ("held_out", "test")  # settings of the data that choose which images are held out
BOUND = "variational_bits"  # in evaluation.json: a bound, which more steps make smaller
MEASURED_BY = ("steps", "seed")  # numbers beside a mean, in which two of a name may be unlike
OF_RUNS = ("run", "step", "version")  # in which the records of two runs may differ
LOSSES = ("held-out loss, EMA", "held-out loss, raw", "training loss, last batch")
PICTURES = (
    ("samples.png", "Samples"),
    ("loss.png", "Losses"),
    ("sweep.png", "Samplers"),
    ("spectra.png", "Spectra"),
)


def names_of(folders: Sequence[Path]) -> list[str]:
    """The runs' names, with their folder where two are called the same."""
    names = [str(read_object(f / "run.json").get("name") or f.name) for f in folders]
    return [n if names.count(n) == 1 else f"{n} ({f})" for n, f in zip(names, folders)]


def body(folders: Sequence[Path]) -> list[str]:
    """The sections of a comparison."""
    names = names_of(folders)
    runs = [read_object(folder / "run.json") for folder in folders]
    why = loss_differs(folders, runs)
    apart = f"These do not compare: the runs differ in {why}." if why else noise_of(runs)
    return [
        numbers(folders, names, runs),
        measures(folders, names),
        *[
            side_by_side(folders, names, file, title, apart if title == "Losses" else "")
            for file, title in PICTURES
        ],
        differences(names, runs),
    ]


# --- numbers


def numbers(
    folders: Sequence[Path], names: Sequence[str], runs: Sequence[Mapping[str, Any]]
) -> str:
    """A row a fact, a column a run."""
    columns = [_facts(folder) for folder in folders]
    why = loss_differs(folders, runs)
    known = list(dict.fromkeys(name for column in columns for name in column))
    shown = [name for name in known if not (why and name in LOSSES)]
    rows = [(name, *(column.get(name, "") for column in columns)) for name in shown]
    verdicts = [verdict_of(folder) for folder in folders]
    note = _note(f"Losses are left out: these runs differ in {why}." if why else noise_of(runs))
    told = "".join(
        f"<p>{escape(name)}{verdict}</p>" for name, verdict in zip(names, verdicts) if verdict
    )
    grid = table(("", *names), rows, tuple(range(1, len(names) + 1)))
    return section("Numbers", grid, note, told)


def _note(text: str) -> str:
    """A paragraph, where there is something to say."""
    return paragraph(text) if text else ""


def _facts(folder: Path) -> dict[str, str]:
    path = folder / "metrics.jsonl"
    rows = read_rows(path)[0] if path.is_file() else []
    return {name: value for value, name in facts_of(rows)}


def loss_differs(folders: Sequence[Path], runs: Sequence[Mapping[str, Any]]) -> str:
    """What differs, of all that losses depend on; nothing where they compare."""
    prints = {str(read_object(f / "data.json").get("fingerprint")) for f in folders}
    differing = [
        part for part in LOSS_NEEDS if any(run.get(part) != runs[0].get(part) for run in runs)
    ]
    if len({_held_back(folder, run) for folder, run in zip(folders, runs)}) > 1:
        differing.append("the images held out")
    return ", ".join([*differing, *(["data"] if len(prints) > 1 else [])])


def _held_back(folder: Path, run: Mapping[str, Any]) -> tuple[int, int]:
    """How many images are, of those that were asked for; what run.json does not say is as usual."""
    asked = {name: int(n) for name, n in run.get("data", {}).items() if name in HELD_BY}
    count = read_object(folder / "data.json").get("images")
    return held_back(maxsize if count is None else int(count), **asked)


def noise_of(runs: Sequence[Mapping[str, Any]]) -> str:
    """What losses that compare differ by all the same; nothing where the seed is one."""
    if len({run.get("train", {}).get("seed") for run in runs}) == 1:
        return ""
    return (
        "The seeds differ: held-out losses are of the same images with other noise, so that a "
        "small difference may be the noise's."
    )


def measures(folders: Sequence[Path], names: Sequence[str]) -> str:
    """What evaluate measured of each, where there is anything."""
    found = [newest(folder, "evaluation*/evaluation.json") for folder in folders]
    records = [{} if path is None else read_object(path) for path in found]
    if not any(records):
        return ""
    parts = [*_means(records, names), *_drawn(records, names)]
    return section("Measured", *parts)


def _means(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Bits, decibels and the like, on the same images only."""
    prints = {record.get("fingerprint") for record in records if record}
    if len(prints) > 1:
        return [paragraph("The runs were measured on different images: no means are compared.")]
    columns = [
        dict(estimates({k: v for k, v in record.items() if k not in ("drawn", "loss")}, ""))
        for record in records
    ]
    rows = _rows(columns, names, "mean")
    return [_note(unlike(records)), *rows] if rows else []


def unlike(records: Sequence[Mapping[str, Any]]) -> str:
    """In what the means were measured unlike one another, in words; nothing where they were not."""
    found = [
        f"{name.replace('_', ' ')} in {by} ({', '.join(map(str, values))})"
        for name in dict.fromkeys(name for record in records for name in record)
        for by in MEASURED_BY
        if len(values := _values(records, name, by)) > 1
    ]
    weights = list(dict.fromkeys(record["weights"] for record in records if "weights" in record))
    found += [f"the weights ({', '.join(map(str, weights))})"] if len(weights) > 1 else []
    if not found:
        return ""
    told = (
        f"These do not compare as they are, being unlike: {'; '.join(found)}. sfumato evaluate "
        "each of the runs in the same way."
    )
    if len(_values(records, BOUND, "steps")) < 2:
        return told
    return f"{told} More steps alone make a bound smaller, and parts of two bounds do not compare."


def _values(records: Sequence[Mapping[str, Any]], name: str, by: str) -> list[Any]:
    """The different values of `by` beside the mean of this name."""
    means = [record[name] for record in records if isinstance(record.get(name), Mapping)]
    return list(dict.fromkeys(mean[by] for mean in means if by in mean))


def _drawn(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    drawn = [record.get("drawn") for record in records]
    made = [item["record"] for item in drawn if item]
    if not made:
        return []
    if any(_recipe(record) != _recipe(made[0]) for record in made):
        text = "The drawn images were measured by different recipes, so they are not compared: "
        return [paragraph(text + "sfumato evaluate each of the runs in the same way.")]
    columns = [{r["name"]: r for r in item["results"]} if item else {} for item in drawn]
    return _rows(columns, names, "value")


def _recipe(record: Mapping[str, Any]) -> tuple[Any, Any]:
    drawing = {k: v for k, v in record["drawing"].items() if k not in OF_RUNS}
    return record["yardstick"], drawing


def _rows(columns: Sequence[Mapping[str, Any]], names: Sequence[str], value: str) -> list[str]:
    known = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        (name, *(with_error(c[name], value) if name in c else "not measured" for c in columns))
        for name in known
    ]
    floors = {name: c[name].get("floor") for c in columns for name in c}
    if any(floor is not None for floor in floors.values()):
        rows = [(*r, "" if floors[r[0]] is None else number(floors[r[0]])) for r in rows]
        names = [*names, "real images"]
    return [table(("", *names), rows, tuple(range(1, len(names) + 1)))] if rows else []


# --- pictures and settings


def side_by_side(
    folders: Sequence[Path], names: Sequence[str], file: str, title: str, note: str = ""
) -> str:
    """The picture of this name of each run that has it, below the note."""
    style = "" if file == "samples.png" else "plot"
    cards = [
        f"<figure><h3>{escape(name)}</h3>"
        f"{picture(folder / file, f'{title} of {name}', style, 500_000)}</figure>"
        for folder, name in zip(folders, names)
        if (folder / file).is_file()
    ]
    sides = f'<div class="sides">{"".join(cards)}</div>'
    return section(title, _note(note), sides) if cards else ""


def differences(names: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> str:
    """The settings that all of the runs have, and in which they differ."""
    columns = [dict(flat(run, "")) for run in runs]
    shared = [name for name in columns[0] if all(name in column for column in columns)]
    rows = [
        (name, *(column[name] for column in columns))
        for name in shared
        if len({column[name] for column in columns}) > 1
    ]
    if not rows:
        return section("Settings", paragraph("The runs have the same settings."))
    return section("Settings that differ", table(("", *names), rows))
