"""Train the recipes that are too large for this machine on one fixed batch, to see the loss fall.

    python scripts/large_recipes.py --data FOLDER --codec RUN [--seconds 150] [NAME...]

Each is built as its recipe says, at its own image size, and takes its own optimizer's steps: at
most 20, or as many as fit into --seconds. Images, times and noise are the same in every step, so
the loss before and after are of the same questions, and must fall if forward pass, objective,
gradient and optimizer belong together. The numbers go into docs/recipes/NAME.json, field
"fixed_batch"; recipes_page.py puts them on the page. dit_s_2 wants an autoencoder's run, --codec.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from recipes_words import SISTERS

from sfumato.assembly import splits_of
from sfumato.codec import Pixels
from sfumato.config import Run
from sfumato.data import ImageData, fingerprint, load
from sfumato.folder import DataCard
from sfumato.latents import AutoencoderCodec
from sfumato.recipes import RECIPES
from sfumato.tasks import TASKS, Parts, Task, task_of
from sfumato.training import TrainState, losses_of, take_step

DOCS = Path(__file__).parents[1] / "docs" / "recipes"
MOST_STEPS = 20
LARGE = 64  # pixels a side from which the batch is one image; four below


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(SISTERS), metavar="NAME")
    parser.add_argument("--data", required=True, help="any folder of colour images")
    parser.add_argument("--codec", type=Path, required=True, help="a run of autoencoder_f8")
    parser.add_argument("--seconds", type=float, default=150, help="at most, for each recipe")
    args = parser.parse_args()
    for name in args.names:
        with TemporaryDirectory() as folder:
            told = fall(task_for(name, args.data, args.codec, Path(folder)), args.seconds)
        path = DOCS / f"{name}.json"
        record = json.loads(path.read_text("utf-8"))
        path.write_text(
            json.dumps({**record, "fixed_batch": told}, indent=1, ensure_ascii=False) + "\n",
            "utf-8",
        )
        print(f"{name}: {told}", flush=True)


def task_for(name: str, source: str, codec: Path, folder: Path) -> Task:
    """The recipe at its own size, settled for a few images of `source`."""
    run, shape = RECIPES[name](), SISTERS[name].shape
    assert isinstance(run, Run)
    if isinstance(run.codec, AutoencoderCodec):
        run = replace(run, codec=replace(run.codec, weights=str(codec)))
    size = shape[1:] if isinstance(run.codec, Pixels) else (128, 128)
    data = load("digits" if shape[0] == 1 else source, size, limit=32)
    run = replace(run, data=replace(run.data, held_out=0, test=0, source=source))
    run = replace(run, precision="bf16")
    run = TASKS[Run].settled(run, data)
    parts = Parts(folder, card_of(data), splits_of(run.data, data).train, None, CPU, print)
    return task_of(run, parts)


CPU = torch.device("cpu")


def card_of(data: ImageData) -> DataCard:
    return DataCard(
        data.name,
        data.source,
        fingerprint(data),
        len(data),
        data.channels,
        data.size,
        data.class_names,
    )


def fall(task: Task, seconds: float) -> dict[str, Any]:
    """Loss before and after, on the one batch that the steps between were trained on."""
    rows = 1 if task.parts.card.size[0] >= LARGE else 4  # type: ignore[attr-defined]
    batch = {key: value[:rows] for key, value in task.batches()(0).items()}
    config = replace(
        task.run.train, steps=MOST_STEPS, seconds=None, images=None, epochs=None, warmup_steps=0
    )
    state = TrainState.fresh(task.build(), config)
    before = losses_of(state.model, task.loss, batch, None).mean().item()
    begun = time.monotonic()
    while state.step < MOST_STEPS and time.monotonic() - begun < seconds:
        take_step(state, task.loss, batch, config)
    after = losses_of(state.model, task.loss, batch, None).mean().item()
    return {
        "images": rows,
        "steps": state.step,
        "before": round(before, 4),
        "after": round(after, 4),
    }


if __name__ == "__main__":
    main()
