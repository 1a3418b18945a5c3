"""index.html of a run: one file with everything in it, for a browser without a network.

Reads the run folder and nothing else: run.json, metrics.jsonl, samples.png, samples/step-*.png,
film.webp or film.gif, loss.png, the newest evaluation*/evaluation.png, spectra.png,
data-preview.png. What is not there is not on the page.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from .console import count, duration
from .pictures import replacing

MOST_GRIDS = 60  # of those through training, so that a long run's page still opens on a phone
MIME = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif"}
FILM_TEXT = "The noisy x_t on the left; on the right what the network then takes the image to be."
LOSS_TEXT = (
    "Held-out images get the same noise each time: where a line is flat, learning has stopped."
)

SAMPLES_TEXT = {
    True: "Drawn by the trained network.",
    False: "What the trained network makes of images that it was not trained on.",
}
EVALUATION_TEXT = "As sfumato evaluate measured it; the numbers are in evaluation.json beside it."
SPECTRA_TEXT = (
    "The share of the data's power that samples have, by spatial frequency: through training, and "
    "along a sampling run. As sfumato spectra measured it."
)

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #23211e; --soft: #6b665f;
  --line: #e2ded8; --card: #ffffff; --accent: #1b7837; }
@media (prefers-color-scheme: dark) { :root { --paper: #191817; --ink: #e9e6e1; --soft: #a39d94;
  --line: #37342f; --card: #22201e; --accent: #7bc98f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.9rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .35rem; overflow-wrap: anywhere; }
p, figcaption { color: var(--soft); margin: .25rem 0 .75rem; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
figure { margin: 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .6rem; }
.facts div, .group { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem .8rem; }
.facts b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: .85rem; }
.groups { columns: 18rem; column-gap: .8rem; }
.group { break-inside: avoid; margin-bottom: .8rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; margin: 0;
  font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; text-align: right; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: .5rem 0;
  padding: .7rem .9rem; overflow-x: auto; }
.wide { overflow-x: auto; }
.wide img { min-width: 46rem; }
.control { display: flex; gap: .8rem; align-items: center; margin: .5rem 0; }
.control[hidden], figure[hidden] { display: none; }
.control input { flex: 1; min-width: 0; accent-color: var(--accent); }
button { font: inherit; padding: .3rem .9rem; border-radius: 6px; border: 1px solid var(--line);
  background: var(--card); color: inherit; cursor: pointer; }
"""

SCRIPT = """
const shots = [...document.querySelectorAll('#steps figure')];
if (shots.length > 1) {
  const control = document.querySelector('#steps .control');
  const slider = control.querySelector('input'), play = control.querySelector('button');
  let timer = 0;
  const show = k => {
    slider.value = k;
    shots.forEach((shot, i) => { shot.hidden = i !== k; });
    slider.setAttribute('aria-valuetext', shots[k].innerText.trim());
  };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = 'Play'; };
  slider.addEventListener('input', () => { stop(); show(+slider.value); });
  play.addEventListener('click', () => {
    if (timer) { stop(); return; }
    let k = +slider.value === shots.length - 1 ? -1 : +slider.value;
    play.textContent = 'Stop';
    timer = setInterval(() => { show(++k); if (k === shots.length - 1) stop(); }, 350);
  });
  control.hidden = false;
  show(shots.length - 1);
}
"""

# the policy holds the page to its promise: the browser itself refuses anything from outside
FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""


# --- what is read


def read_rows(path: str | Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a metrics.jsonl, and how many of its lines are no rows.

    A run that was killed leaves half a line at most; more than one says that the file is damaged.
    """
    rows: list[dict[str, Any]] = []
    broken = 0
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(dict(json.loads(line)))
        except (TypeError, ValueError):
            broken += 1
    return rows, broken


def _step_grids(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the sample grids through training, in order."""
    found = [(re.fullmatch(r"step-(\d+)\.png", file.name), file) for file in folder.glob("*.png")]
    return sorted((int(match[1]), file) for match, file in found if match)


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]


# --- parts of the page


def _image(path: Path, alt: str) -> str:
    """An <img> that holds its file, with its size so that the page does not jump."""
    with Image.open(path) as image:
        width, height = image.size
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    source = f"data:{MIME[path.suffix]};base64,{data}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'


def _section(title: str, *parts: str, name: str = "") -> str:
    attribute = f' id="{name}"' if name else ""
    return "\n".join([f"<section{attribute}>", f"<h2>{escape(title)}</h2>", *parts, "</section>"])


def _picture(folder: Path, names: Sequence[str], title: str, text: str, style: str = "") -> str:
    """A section with the first of the files that is there; nothing if none is."""
    for name in names:
        if (folder / name).is_file():
            picture = f'<div class="{style}">{_image(folder / name, title)}</div>'
            return _section(title, f"<p>{escape(text)}</p>", picture)
    return ""


def _through_training(folder: Path) -> str:
    grids = _step_grids(folder)
    shown = _spread(grids, MOST_GRIDS)
    if not shown:
        return ""
    note = "The same seeds each time."
    if len(shown) < len(grids):
        note += f" {len(shown)} of {len(grids)} grids, evenly spaced; all are in {folder.name}/."
    slider = f'<input type="range" min="0" max="{len(shown) - 1}" aria-label="step of training">'
    control = f'<div class="control" hidden><button>Play</button>{slider}</div>'
    figures = [
        f"<figure><figcaption>step {count(step)}</figcaption>"
        f"{_image(file, f'samples at step {step}')}</figure>"
        for step, file in shown
    ]
    return _section("Through training", f"<p>{escape(note)}</p>", control, *figures, name="steps")


def _facts(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
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


def _numbers(path: Path) -> str:
    if not path.is_file():
        return ""
    rows, broken = read_rows(path)
    cards = [f"<div><b>{escape(v)}</b><span>{escape(n)}</span></div>" for v, n in _facts(rows)]
    lines = "1 line" if broken == 1 else f"{broken} lines"
    note = f"<p>{lines} of {path.name} could not be read.</p>" if broken else ""
    return _section("Last numbers", f'<div class="facts">{"".join(cards)}</div>', note)


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """(dotted name, value) of every leaf; the kind of an object stands at the object's own name."""
    if not isinstance(value, Mapping):
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return
    for key, inner in value.items():
        path = name if key == "kind" and name else f"{name}.{key}" if name else str(key)
        yield from _flat(inner, path)


def _group(title: str, pairs: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f'<div class="group"><h3>{escape(title)}</h3><dl>{lines}</dl></div>'


def _settings(run: Mapping[str, Any]) -> str:
    """A card for each part of the run, and one for what is of no part."""
    parts = {key: part for key, part in run.items() if isinstance(part, Mapping)}
    loose = {key: value for key, value in run.items() if key not in parts and key != "kind"}
    groups = [_group("run", list(_flat(loose, "")))] if loose else []
    for key, part in parts.items():
        kind = f": {part['kind']}" if "kind" in part else ""
        inner = {name: value for name, value in part.items() if name != "kind"}
        groups.append(_group(f"{key}{kind}", list(_flat(inner, ""))))
    return _section("Settings", f'<div class="groups">{"".join(groups)}</div>') if groups else ""


def _read_run(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the JSON object that a run writes: {error}") from error


def draws(run: Mapping[str, Any]) -> bool:
    """Whether sfumato sample can draw from a run of this record: autoencoders draw nothing."""
    return run.get("kind", "Run") == "Run"


def evaluations(folder: Path) -> list[str]:
    """The newest evaluation.png of the folder, as its name there; none, if there is none."""
    found = folder.glob("evaluation*/evaluation.png")
    newest = sorted(found, key=lambda path: path.stat().st_mtime_ns)[-1:]
    return [str(path.relative_to(folder)) for path in newest]


def _commands(commands: Sequence[str]) -> str:
    lines = "".join(f"<pre>{escape(command)}</pre>" for command in commands)
    return _section("Go on", lines) if commands else ""


def write_page(run_folder: str | Path, commands: Sequence[str] | None = None) -> Path:
    """Writes index.html into the run folder and returns its path.

    Args:
        run_folder: any of the files it may hold may be missing.
        commands: what to type next; unless given, how to sample from, measure and look at it.

    Raises:
        ValueError: there is no such folder, or run.json is damaged.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of a run")
    run = _read_run(folder / "run.json")
    title = str(run.get("name") or folder.resolve().name)
    if commands is None:
        verbs = ("sample", "evaluate", "info") if draws(run) else ("evaluate", "info")
        commands = [f"sfumato {verb} {shlex.quote(str(run_folder))}" for verb in verbs]
    body = [
        f"<h1>{escape(title)}</h1>\n<p>A run of sfumato</p>",
        _picture(folder, ["samples.png"], "Samples", SAMPLES_TEXT[draws(run)]),
        _numbers(folder / "metrics.jsonl"),
        _through_training(folder / "samples"),
        _picture(folder, ["film.webp", "film.gif"], "From noise to images", FILM_TEXT),
        _picture(folder, ["loss.png"], "Losses", LOSS_TEXT, "wide"),
        _picture(folder, evaluations(folder), "Measured", EVALUATION_TEXT, "wide"),
        _picture(folder, ["spectra.png"], "Spectra", SPECTRA_TEXT, "wide"),
        _picture(folder, ["data-preview.png"], "What the network saw", "Training images."),
        _settings(run),
        _commands(commands),
    ]
    page = FRAME.format(
        title=escape(title), style=STYLE, script=SCRIPT, body="\n".join(filter(None, body))
    )
    with replacing(folder / "index.html") as draft:
        draft.write_text(page, encoding="utf-8")
    return folder / "index.html"
