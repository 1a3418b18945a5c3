"""Source 000's training loop by diffusers alone, on labelled grey images of 28 x 28.

    python -m bench.tutorial DATA FOLDER STEPS BATCH TUNING    goes on where it was stopped

UNet2DModel 64-128-128-256 with num_class_embeds, DDPMScheduler with the cosine table, AdamW at
4e-4. What is not the text's, all in the peer's favour: the fused optimizer, freed memory kept, bf16
autocast and channels_last where they are faster, and from diffusers' own tutorial the cosine of the
rate, the clipping to 1 and its warm-up, of 100 steps where it has 500. torch.compile is not tried.
The network halves its input three times, so that images get 2 black pixels on each side, and lose
them again.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
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

SIDE, PAD, WARM_UP, SAVE_EVERY = 32, 2, 100, 60.0  # pixels, pixels, steps, seconds
DPM_STEPS = 20
STATE = "state.pt"
TUNINGS = [Tuning(*flags, fused=True) for flags in itertools.product((False, True), repeat=2)]


def network(classes: int) -> nn.Module:
    """The text's UNet2DModel for one channel, told the class."""
    down, attending = ("DownBlock2D",) * 2, ("AttnDownBlock2D",) * 2
    model: nn.Module = diffusers().UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(64, 128, 128, 256),
        down_block_types=(*down, *attending),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    )
    return model


def scheduler() -> Any:
    return diffusers().DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


class Tutorial:
    """A training that has begun; each call is one step and returns its loss.

    images: uint8 (N, 1, 28, 28); labels: (N,). steps: that the rate's cosine falls over.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        steps: int,
        batch: int,
        tuning: Tuning,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.tuning = tuning
        self.images, self.labels, self.batch, self.seed = images, labels, batch, seed
        self.model = laid_out(network(int(labels.max()) + 1), tuning)
        self.scheduler, self.step = scheduler(), 0
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=4e-4, fused=tuning.fused)
        optimization = diffusers().optimization
        self.rate = optimization.get_cosine_schedule_with_warmup(self.optimizer, WARM_UP, steps)

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
        self.rate.step()
        self.step += 1
        return loss.item()

    def batch_at(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(clean in [-1, 1] (B, 1, 32, 32), labels, noise, times): of the seed and step alone."""
        dice = generator_at(self.seed, "tutorial", step)
        rows = torch.randint(len(self.images), (self.batch,), generator=dice)
        clean = F.pad(self.images[rows].float() / 127.5 - 1, (PAD,) * 4, value=-1.0)
        noise = torch.randn(clean.shape, generator=dice)
        times = torch.randint(0, 1000, (self.batch,), generator=dice)
        return clean, self.labels[rows], noise, times

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"model": self.model, "optimizer": self.optimizer, "rate": self.rate}
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"step": self.step, "tuning": str(self.tuning)}
        torch.save(state, folder / "new.pt")
        os.replace(folder / "new.pt", folder / STATE)

    def restore(self, folder: Path) -> None:
        """Go on from what `save` left there; nothing where it left nothing."""
        if not (folder / STATE).exists():
            return
        state = torch.load(folder / STATE, weights_only=True)
        if state["tuning"] != str(self.tuning):
            raise ValueError(f"{folder} was begun by {state['tuning']}, not by {self.tuning}.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.step = state["step"]

    @staticmethod
    def saved(folder: Path) -> tuple[nn.Module, Tuning]:
        """The trained network, and how it was run."""
        state = torch.load(folder / STATE, weights_only=True)
        weights, tuning = state["model"], Tuning.named(state["tuning"])
        model = network(len(weights["class_embedding.weight"]))
        model.load_state_dict(weights)
        return laid_out(model, tuning).eval(), tuning


def laid_out(model: nn.Module, tuning: Tuning) -> nn.Module:
    layout = torch.channels_last if tuning.channels_last else torch.contiguous_format
    return model.to(memory_format=layout)  # type: ignore[call-overload,no-any-return]


def mirrored(model: nn.Module) -> Callable[..., list[Tensor]]:
    """diffusers' network computed by our UNet2D, with its weights, as it is called itself.

    The same function but for rounding, in two thirds of the time: 5,000 images are drawn so.
    """
    config = read_config(dict(model.config))  # type: ignore[call-overload]
    ours = config.build().eval()
    ours.load_state_dict(read_weights(config, model.state_dict()))

    def called(x: Tensor, t: Tensor, class_labels: Tensor, return_dict: bool) -> list[Tensor]:
        return [ours(x, t.to(x).expand(len(x)), class_labels)]

    return called


def fastest(images: Tensor, labels: Tensor, batch: int) -> Tuning:
    """Of TUNINGS the one whose training step takes the least time here."""
    worth = [t for t in TUNINGS if not (t.bf16 and emulates_bf16(torch.device("cpu")))]
    taken = {t: trial(Tutorial(images, labels, 1_000_000, batch, t), 1, 2) for t in worth}
    return min(taken, key=lambda tuning: taken[tuning])


def drawer(
    model: Callable[..., Any], steps: int, tuning: Tuning
) -> Callable[[Sequence[int], Sequence[int]], Tensor]:
    """(seeds, labels) to uint8 (N, 1, 28, 28) by diffusers' SDE variant of DPM-Solver++.

    Of its samplers of up to 100 steps the one whose images came nearest to the test images after
    ten minutes of training (experiments/LOG.md). lambda_min_clipped: what its documentation asks
    for with the cosine table.
    """
    kind = diffusers().DPMSolverMultistepScheduler
    settings = {"lambda_min_clipped": -5.1, "algorithm_type": "sde-dpmsolver++"}
    solver = kind.from_config(scheduler().config, **settings)

    @torch.inference_mode()
    def drawn(seeds: Sequence[int], labels: Sequence[int]) -> Tensor:
        dice = [generator_at(seed, "image") for seed in seeds]  # an image's noise is its own

        def noise() -> Tensor:
            return torch.cat([torch.randn((1, 1, SIDE, SIDE), generator=one) for one in dice])

        x = noise()
        asked = torch.tensor(labels)
        solver.set_timesteps(steps)
        for t in solver.timesteps:
            with torch.autocast("cpu", torch.bfloat16, enabled=tuning.bf16):
                predicted = model(x, t, class_labels=asked, return_dict=False)[0]
            told = {"variance_noise": noise(), "return_dict": False}
            x = solver.step(predicted.float(), t, x, **told)[0]
        inside = x[:, :, PAD:-PAD, PAD:-PAD]
        return ((inside.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    return drawn


def main() -> None:
    data, folder, steps, batch, words = sys.argv[1:]
    keep_freed()
    loaded = load(data)
    assert loaded.labels is not None
    tuning = Tuning.named(words)
    training = Tutorial(loaded.images, loaded.labels, int(steps), int(batch), tuning)
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
