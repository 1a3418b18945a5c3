"""index.html of a run: one file with everything in it, for a browser without a network.

Reads the run folder and nothing else: run.json, data.json, metrics.jsonl, log.txt, doctor.json,
samples.png, samples/step-*.png, film.webp or film.gif, loss.png, the newest evaluation*/,
sweep.json, tuned/, spectra.png, data-preview.png. What is not there is not on the page.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from .console import versions
from .pictures import replacing
from .report import measured, several, trained
from .report.frame import framed
from .report.parts import links
from .report.reading import read_object
from .report.reading import read_rows as read_rows
from .report.trained import MOST_GRIDS as MOST_GRIDS


def write_page(run_folder: str | Path, commands: Sequence[str] | None = None) -> Path:
    """Writes index.html into the run folder and returns its path.

    Args:
        run_folder: any of the files it may hold may be missing.
        commands: what to type next; unless given, how to make it again, sample from and measure it.

    Raises:
        ValueError: there is no such folder, or run.json is damaged.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of a run")
    run = read_object(folder / "run.json")
    title = str(run.get("name") or folder.resolve().name)
    if commands is None:
        commands = trained.commands_for(str(run_folder), run)
    sections = [
        trained.samples(folder, run),
        trained.numbers(folder / "metrics.jsonl"),
        measured.doctor(folder),
        trained.through_training(folder / "samples"),
        trained.film(folder),
        trained.losses(folder),
        measured.evaluation(folder),
        measured.sweep(folder),
        measured.tuned(folder),
        measured.spectra(folder),
        trained.data(folder),
        trained.settings(folder, run),
        trained.commands(commands),
    ]
    head = trained.heading(title, run, measured.verdict_of(folder))
    return _written(folder / "index.html", title, head, sections)


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Writes a page of several runs side by side, and returns its path.

    Raises:
        ValueError: one of them is no folder, or its run.json is damaged.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder of a run")
    title = " and ".join(several.names_of(folders))
    head = f"<h1>{escape(title)}</h1>\n<p>{len(folders)} runs of sfumato, compared</p>"
    return _written(path, title, head, several.body(folders))


def _written(path: Path, title: str, head: str, sections: Sequence[str]) -> Path:
    present = [section for section in sections if section]
    body = "\n".join([head, links(present), *present])
    page = framed(title, body, f"Made by {versions()}")
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path
