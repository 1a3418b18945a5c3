"""Tuned samplers beside the run that they were fitted to.

RUN/tuned/nfe-6-guidance-2.json    the settings to sample with, a step that they were fitted at, and
                                   what was measured; .png beside it shows the images
RUN/tuned/nfe-6-guidance-2.json.before           the one that it took the place of
RUN/tuned/nfe-6-guidance-2-from-0.3-to-4.json    the same, for guidance inside an interval of noise
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .config import SamplingConfig
from .consistency import MultistepConsistency
from .interop.limits import shown
from .interop.reading import json_of
from .kinds import from_dict, to_dict
from .storage import make_folders, write_file
from .tuning import Table
from .typed import UsageError, guidance_flags, guidance_words

# What the network is asked with, beside times: a table is for this and nothing else.
MOST_CALLS = 20
ASKED_WITH = ("guidance", "guidance_from", "guidance_to", "clipped")


@dataclass(frozen=True)
class Tuned:
    """A file of RUN/tuned, read back."""

    path: Path
    sampling: SamplingConfig
    step: int  # of the checkpoint that it was fitted to
    weights: str  # "average", "raw" or "best average"
    better: bool  # than every fixed solver, on noise that was used for nothing else
    seconds: float | None  # that fitting it took; None where its file does not say


def path_of(folder: Path, calls: int, sampling: SamplingConfig) -> Path:
    """Where the sampler of so many calls for this guidance is kept."""
    return folder / "tuned" / f"nfe-{calls}-{guided(sampling).replace(' ', '-')}.json"


def guided(sampling: SamplingConfig) -> str:
    """Its guidance in words."""
    return guidance_words(sampling.guidance, sampling.guidance_from, sampling.guidance_to)


def check_calls(calls: int) -> None:
    """Raise UsageError where no sampler of so many calls can be tuned."""
    if not 2 <= calls <= MOST_CALLS:
        raise UsageError(f"--nfe {calls}; 2 to {MOST_CALLS} network calls can be tuned.")


def with_table(sampling: SamplingConfig, table: Table) -> SamplingConfig:
    """The sampling settings with this table for solver, grid and steps."""
    steps = table.grid.steps
    return replace(sampling, solver=table.solver, grid=table.grid, steps=steps, keep_eps=False)


def save_tuned(
    path: Path, sampling: SamplingConfig, step: int, weights: str, facts: Mapping[str, Any]
) -> Path | None:
    """Write the file, and say where one of the same name is kept now, of which only the last is.

    facts: plain JSON values, "better" too.
    """
    record = {"made_by": "sfumato tune", "step": step, "weights": weights, **facts}
    make_folders(path.parent)
    before = path.with_suffix(".json.before") if path.exists() else None
    if before:
        write_file(before, path.read_bytes())
    write_file(path, json.dumps({**record, "sampling": to_dict(sampling)}, indent=1).encode())
    return before


def read_tuned(path: Path) -> Tuned:
    """Undo save_tuned. Raises: ValueError, naming the file, where it is none."""
    record = json_of(path.read_bytes(), path)
    sampling = from_dict(record.get("sampling"), f"{path}: sampling")
    kinds = {"step": int, "weights": str, "better": bool}
    wrong = [name for name, kind in kinds.items() if type(record.get(name)) is not kind]
    if wrong or type(sampling) is not SamplingConfig:
        raise ValueError(
            f"{path}: {', '.join(wrong) or 'sampling'} is not what sfumato tune writes. Tune again."
        )
    told = (record["step"], record["weights"], record["better"], record.get("seconds"))
    return Tuned(path, sampling, *told)


def find_tuned(folder: Path, calls: int, wanted: SamplingConfig) -> Tuned:
    """The sampler of so many calls that was tuned for what `wanted` asks of the network.

    Raises: FileNotFoundError where there is none, with those that there are; ValueError where it
    was tuned for something else; UsageError for a number of calls that none is tuned for.
    """
    check_calls(calls)
    path = path_of(folder, calls, wanted)
    flags = guidance_flags(wanted.guidance, wanted.guidance_from, wanted.guidance_to)
    command = f"sfumato tune {folder} --nfe {calls} {flags}"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("nfe-*.json"))) or "none yet"
        raise FileNotFoundError(
            f"{folder} has no sampler of {calls} calls tuned for {guided(wanted)}; "
            f"there is {there}. A sampler is tuned for one guidance only: {command}"
        )
    tuned = read_tuned(path)
    for name in ASKED_WITH:
        had, asked = getattr(tuned.sampling, name), getattr(wanted, name)
        if had != asked:
            raise ValueError(
                f"{path} was tuned for {name} = {shown(had)}, and {shown(asked)} is asked for; "
                f"tune again: {command} --{name.replace('_', '-')} {asked}"
            )
    check_plain(wanted)
    return tuned


def check_plain(sampling: SamplingConfig) -> None:
    """Raise ValueError where there is no trajectory of one network for solvers to follow.

    A classifier's gradient has no gradient here, and a table is not that of another network's.
    """
    if type(sampling.solver) is MultistepConsistency:
        raise ValueError(
            "the run was distilled: its network jumps to the image at once, and has no trajectory "
            "that solvers could follow. Use the run that it was made of."
        )
    if sampling.worse:
        raise ValueError(
            f"autoguidance leads away from {sampling.worse}, and samplers are tuned and swept "
            "without: leave --worse out, or empty sampling.worse in a copy of the run's run.json."
        )
    if sampling.classifier:
        raise ValueError(
            f"the classifier {sampling.classifier} guides, and samplers are tuned without one: use "
            "--guidance, or a fixed solver."
        )


def notes_on(tuned: Tuned, step: int, weights: str) -> list[str]:
    """What is worth knowing of this sampler before it is used on these weights."""
    notes = []
    if tuned.step != step:
        notes.append(
            f"{tuned.path.name} was tuned at step {tuned.step:,}, and this is step {step:,}: tune "
            "again for the best of it."
        )
    if tuned.weights != weights:
        notes.append(f"{tuned.path.name} was tuned on the {tuned.weights} weights, not these.")
    if not tuned.better:
        notes.append(f"{tuned.path.name} was no better than the best fixed solver when tuned.")
    return notes
