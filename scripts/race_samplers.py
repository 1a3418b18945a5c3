"""Which of diffusers' samplers draws nearest what a lesson of diffusers learned in the benchmark.

    python scripts/race_samplers.py FOLDER DATA COUNT WAY [WAY ...]

FOLDER: as `python -m bench quality` leaves it in --runs, with state.pt. DATA: digits, measured to
all of them, or another, to its test images. A WAY is KIND-STEPS, or KIND-STEPS-clipped: sde and dpm
are DPMSolverMultistepScheduler's, beside ddim and ddpm. All draw from the same seed. A line each:
the squared Frechet distance of COUNT images, and twice the jackknife's error.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor

from bench.peers import Tuning
from bench.quality import Yard
from bench.tutorial import LESSONS, SIDE, Tutorial, diffusers, mirrored, scheduler
from sfumato.data import load
from sfumato.features import features_of
from sfumato.measuring import Estimate, Moments, frechet_estimate

SEED, CLASSES = 3, 10


def sampler_of(way: str) -> Any:
    kind, steps, *rest = way.split("-")
    clipped, config = rest == ["clipped"], scheduler().config
    if kind in ("sde", "dpm"):
        name = "sde-dpmsolver++" if kind == "sde" else "dpmsolver++"
        settings = {"lambda_min_clipped": -5.1, "algorithm_type": name}
        settings |= {"thresholding": clipped, "sample_max_value": 1.0}
        made = diffusers().DPMSolverMultistepScheduler.from_config(config, **settings)
    else:
        scheduled = {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler"}[kind]
        made = getattr(diffusers(), scheduled).from_config(config, clip_sample=clipped)
    made.set_timesteps(int(steps))
    return made


@torch.inference_mode()
def drawn(model: Any, lesson: str, tuning: Tuning, way: str, count: int) -> Tensor:
    """uint8 (count, 1, 28, 28), image k of class k % 10."""
    solver, dice, pad = sampler_of(way), torch.Generator().manual_seed(SEED), LESSONS[lesson].pad
    side, labels = SIDE + 2 * pad, torch.arange(count) % CLASSES
    x = torch.randn(count, 1, side, side, generator=dice)
    for t in solver.timesteps:
        with torch.autocast("cpu", torch.bfloat16, enabled=tuning.bf16):
            predicted = model(x, t, class_labels=labels, return_dict=False)[0].float()
        noise = {"variance_noise": torch.randn(x.shape, generator=dice)}
        told = noise if way.startswith("sde") else {"generator": dice} if "ddpm" in way else {}
        x = solver.step(predicted, t, x, return_dict=False, **told)[0]
    inside = x[:, :, pad : side - pad, pad : side - pad]
    return ((inside.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def distance(data: str, images: Tensor) -> Estimate:
    if data != "digits":
        return Yard.of(data, "fashion", 500).distance(images)
    network = features_of("mnist")
    return frechet_estimate(network(images), Moments.of(network(load(data).images)))


def main() -> None:
    folder, data, count, *ways = sys.argv[1:]
    model, lesson, tuning = Tutorial.saved(Path(folder))
    for way in ways:
        found = distance(data, drawn(mirrored(model), lesson, tuning, way, int(count)))
        print(f"{way}: {found.mean:.1f} ± {2 * found.error:.1f}", flush=True)


if __name__ == "__main__":
    main()
