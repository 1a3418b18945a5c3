"""Time training steps of latent diffusion against the same on pixels, in turn: the ratio.

    python scripts/latent_cost.py --data FOLDER --codec RUN [--rounds 15]

latent_unet on the latents of the autoencoder in RUN, the same network on the pixels themselves,
and high_resolution_small, the recipe that makes pixels at that size cheap by looking at them in
fours. All at the images' own size, in batches of 8, fp32 and bf16, one step of each in turn, so
that a busy machine slows all alike. Writes docs/measured/latent_cost.json, for recipes_page.py.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from large_recipes import CPU, DOCS, card_of

from sfumato.assembly import splits_of
from sfumato.codec import Pixels
from sfumato.config import Run
from sfumato.data import load
from sfumato.latents import AutoencoderCodec
from sfumato.recipes import RECIPES
from sfumato.tasks import TASKS, Parts, task_of
from sfumato.training import TrainState, take_step

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder of images, as 128 x 128")
    parser.add_argument("--codec", type=Path, required=True, help="a run of autoencoder_f4")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    latent, pixels = RECIPES["latent_unet"](), RECIPES["high_resolution_small"]()
    assert isinstance(latent, Run)
    assert isinstance(pixels, Run)
    runs = {
        "latents": replace(latent, codec=AutoencoderCodec(weights=str(args.codec))),
        "pixels": replace(latent, codec=Pixels()),
        "pixels in fours": pixels,
    }
    told = {
        precision: times(runs, args.data, precision, args.rounds) for precision in ("fp32", "bf16")
    }
    text = json.dumps({"threads": torch.get_num_threads(), "batch": BATCH, **told}, indent=1)
    (DOCS.parent / "measured" / "latent_cost.json").write_text(text + "\n", "utf-8")
    print(text)


def times(runs: dict[str, Run], source: str, precision: str, rounds: int) -> dict[str, float]:
    """The median seconds of a step of each, and of how many latent steps it takes as long."""
    with TemporaryDirectory() as folder:
        steps = {
            name: stepper(replace(run, precision=precision), source, Path(folder, name))
            for name, run in runs.items()
        }
        for step in steps.values():
            step()
        seconds = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                begun = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - begun)
    told = {f"{name}, s": round(statistics.median(found), 4) for name, found in seconds.items()}
    for name in ("pixels", "pixels in fours"):
        ratios = [a / b for a, b in zip(seconds[name], seconds["latents"])]
        told[f"{name} / latents"] = round(statistics.median(ratios), 2)
    return told


def stepper(run: Run, source: str, folder: Path) -> Callable[[], None]:
    """A training step of the run, settled for the images, as the loop takes it."""
    data = load(source, limit=64)
    folder.mkdir()
    run = replace(run, data=replace(run.data, held_out=0, source=source, size=None))
    run = replace(run, train=replace(run.train, batch=BATCH, micro_batch=None))
    run = TASKS[Run].settled(run, data)
    parts = Parts(folder, card_of(data), splits_of(run.data, data).train, None, CPU, print)
    task = task_of(run, parts)
    state, batch_at = TrainState.fresh(task.build(), run.train), task.batches()

    def step() -> None:
        take_step(state, task.loss, batch_at(state.step), run.train)

    return step


if __name__ == "__main__":
    main()
