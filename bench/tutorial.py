"""diffusers' own lessons, by diffusers alone, on labelled grey images of 28 x 28.

    python -m bench.tutorial DATA FOLDER STEPS LESSON TUNING    goes on where it was stopped

UNet2DModel, DDPMScheduler with the cosine table, AdamW; a Lesson has what differs. What is not the
texts': the fused optimizer, freed memory kept, bf16 autocast and channels_last where they are
faster, and from diffusers' own tutorial the clipping to 1. Its warm-up and its cosine of the rate
cost source 000 half as much again in distance after ten minutes and the course nothing
(experiments/LOG.md), so the rate is constant, as in the texts. torch.compile is not tried.
"""

import copy
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.data import generator_at, load
from sfumato.devices import emulates_bf16
from sfumato.interop.diffusers_unet import read_config, read_weights
from sfumato.memory import keep_freed

from .peers import Tuning, diffusers
from .rounds import trial

SIDE, SAVE_EVERY = 28, 60.0  # pixels, seconds
DPM_STEPS = 20
STATE = "state.pt"
TUNINGS = [Tuning(*flags, fused=True) for flags in itertools.product((False, True), repeat=2)]


@dataclass(frozen=True)
class Lesson:
    """attending: by level. pad: black pixels on each side, which images lose again.

    told: channels beside the image that tell its class; 0 is a table inside the network.
    """

    widths: tuple[int, ...]
    attending: tuple[bool, ...]
    batch: int
    lr: float
    weight_decay: float
    pad: int
    told: int


LESSONS = {
    # source 000's network halves its images three times, and 28 not evenly
    "source-000": Lesson((64, 128, 128, 256), (False, False, True, True), 16, 4e-4, 1e-2, 2, 0),
    # of diffusion-models-class, unit 2, "class-conditioned diffusion model", with Adam
    "course": Lesson((32, 64, 64), (False, True, True), 128, 1e-3, 0.0, 0, 4),
}


class Beside(nn.Module):
    """A network that is told the class by channels beside the image."""

    def __init__(self, unet: nn.Module, classes: int, channels: int) -> None:
        super().__init__()
        self.unet, self.embedding = unet, nn.Embedding(classes, channels)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor, return_dict: bool) -> Any:
        told = self.embedding(class_labels)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.unet(torch.cat([x, told.to(x)], dim=1), t, return_dict=return_dict)


def network(lesson: Lesson, classes: int) -> nn.Module:
    """The lesson's UNet2DModel for one channel, told the class."""
    kinds = [("AttnDown" if one else "Down") + "Block2D" for one in lesson.attending]
    model: nn.Module = diffusers().UNet2DModel(
        sample_size=SIDE + 2 * lesson.pad,
        in_channels=1 + lesson.told,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=lesson.widths,
        down_block_types=kinds,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(kinds)],
        num_class_embeds=None if lesson.told else classes,
    )
    return Beside(model, classes, lesson.told) if lesson.told else model


def scheduler() -> Any:
    return diffusers().DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


class Tutorial:
    """A training that has begun; each call is one step and returns its loss.

    images: uint8 (N, 1, 28, 28); labels: (N,). lesson: a name in LESSONS.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        lesson: str,
        tuning: Tuning,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.tuning, self.name, self.lesson = tuning, lesson, LESSONS[lesson]
        self.images, self.labels, self.seed = images, labels, seed
        self.model = laid_out(network(self.lesson, int(labels.max()) + 1), tuning)
        self.scheduler, self.step = scheduler(), 0
        told = {"lr": self.lesson.lr, "weight_decay": self.lesson.weight_decay}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **told, fused=tuning.fused)

    def __call__(self) -> float:
        clean, labels, noise, times = self.batch_at(self.step)
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.tuning.bf16):
            noisy = self.scheduler.add_noise(clean, noise, times)
            predicted = self.model(noisy, times, class_labels=labels, return_dict=False)[0]
            loss = F.mse_loss(predicted.float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def batch_at(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(clean in [-1, 1] (B, 1, S, S), labels, noise, times): of the seed and step alone."""
        dice, batch = generator_at(self.seed, "tutorial", step), self.lesson.batch
        rows = torch.randint(len(self.images), (batch,), generator=dice)
        clean = F.pad(self.images[rows].float() / 127.5 - 1, (self.lesson.pad,) * 4, value=-1.0)
        noise = torch.randn(clean.shape, generator=dice)
        times = torch.randint(0, 1000, (batch,), generator=dice)
        return clean, self.labels[rows], noise, times

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"model": self.model, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"step": self.step, "tuning": str(self.tuning), "lesson": self.name}
        torch.save(state, folder / "new.pt")
        os.replace(folder / "new.pt", folder / STATE)

    def restore(self, folder: Path) -> None:
        """Go on from what `save` left there; nothing where it left nothing."""
        if not (folder / STATE).exists():
            return
        state = torch.load(folder / STATE, weights_only=True)
        was, now = (state["lesson"], state["tuning"]), (self.name, str(self.tuning))
        if was != now:
            raise ValueError(f"{folder} was begun by {', '.join(was)}, not by {', '.join(now)}.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    @staticmethod
    def saved(folder: Path) -> tuple[nn.Module, str, Tuning]:
        """The trained network, its lesson, and how it was run."""
        state = torch.load(folder / STATE, weights_only=True)
        weights, tuning = state["model"], Tuning.named(state["tuning"])
        (classes,) = {len(w) for name, w in weights.items() if name.endswith("embedding.weight")}
        model = network(LESSONS[state["lesson"]], classes)
        model.load_state_dict(weights)
        return laid_out(model, tuning).eval(), state["lesson"], tuning


def laid_out(model: nn.Module, tuning: Tuning) -> nn.Module:
    layout = torch.channels_last if tuning.channels_last else torch.contiguous_format
    return model.to(memory_format=layout)  # type: ignore[call-overload,no-any-return]


class Mirror(nn.Module):
    """diffusers' UNet2DModel computed by our UNet2D, with its weights, as it is called itself.

    The same function but for rounding, in half of the time, and in a quarter where bf16 is quick:
    5,000 images are drawn so.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        config = read_config(dict(model.config))  # type: ignore[arg-type]
        self.ours = config.build().eval()
        self.ours.load_state_dict(read_weights(config, model.state_dict()))

    def forward(
        self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, return_dict: bool = False
    ) -> list[Tensor]:
        return [self.ours(x, t.to(x).expand(len(x)), class_labels)]


def mirrored(model: nn.Module) -> nn.Module:
    """A lesson's network with our UNet2D in it."""
    if not isinstance(model, Beside):
        return Mirror(model)
    found = copy.copy(model)
    found._modules = {**model._modules, "unet": Mirror(model.unet)}
    return found


def fastest(images: Tensor, labels: Tensor, lesson: str) -> Tuning:
    """Of TUNINGS the one whose training step takes the least time here."""
    worth = [t for t in TUNINGS if not (t.bf16 and emulates_bf16(torch.device("cpu")))]
    taken = {t: trial(Tutorial(images, labels, lesson, t), 1, 2) for t in worth}
    return min(taken, key=lambda tuning: taken[tuning])


def drawer(
    model: Callable[..., Any], lesson: str, steps: int, tuning: Tuning, clipped: bool = True
) -> Callable[[Sequence[int], Sequence[int]], Tensor]:
    """(seeds, labels) to uint8 (N, 1, 28, 28) by diffusers' SDE variant of DPM-Solver++.

    Of its samplers of up to 100 steps the one whose images came nearest to the test images after
    30 minutes of training at a constant rate, and DDPM's 1,000 are no nearer (experiments/LOG.md).
    lambda_min_clipped: what its documentation asks for with the cosine table. clipped, by
    thresholding to 1: x0 is kept in [-1, 1], as DDPMScheduler keeps it.
    """
    kind = diffusers().DPMSolverMultistepScheduler
    settings = {"lambda_min_clipped": -5.1, "algorithm_type": "sde-dpmsolver++"}
    settings |= {"thresholding": clipped, "sample_max_value": 1.0}
    solver, pad = kind.from_config(scheduler().config, **settings), LESSONS[lesson].pad
    side = SIDE + 2 * pad

    @torch.inference_mode()
    def drawn(seeds: Sequence[int], labels: Sequence[int]) -> Tensor:
        dice = [generator_at(seed, "image") for seed in seeds]  # an image's noise is its own

        def noise() -> Tensor:
            return torch.cat([torch.randn((1, 1, side, side), generator=one) for one in dice])

        x = noise()
        asked = torch.tensor(labels)
        solver.set_timesteps(steps)
        for t in solver.timesteps:
            with torch.autocast("cpu", torch.bfloat16, enabled=tuning.bf16):
                predicted = model(x, t, class_labels=asked, return_dict=False)[0]
            told = {"variance_noise": noise(), "return_dict": False}
            x = solver.step(predicted.float(), t, x, **told)[0]
        inside = x[:, :, pad : side - pad, pad : side - pad]
        return ((inside.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    return drawn


def main() -> None:
    data, folder, steps, lesson, words = sys.argv[1:]
    keep_freed()
    loaded = load(data)
    assert loaded.labels is not None
    tuning = Tuning.named(words)
    training = Tutorial(loaded.images, loaded.labels, lesson, tuning)
    training.restore(Path(folder))
    saved = time.monotonic()
    while training.step < int(steps):
        training()
        if time.monotonic() - saved > SAVE_EVERY:
            training.save(Path(folder))
            saved = time.monotonic()
    training.save(Path(folder))


if __name__ == "__main__":
    main()
