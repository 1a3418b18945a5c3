"""What denoising-diffusion-pytorch computes, for tests/test_lucid.py to compare with.

    python scripts/record_lucid.py ACTION PATH

    record FILE     numbers of small networks and of GaussianDiffusion, as JSON (tests/lucid.json)
    train FOLDER    30 steps of its own Trainer; writes FOLDER/model-1.pt and FOLDER/probe.pt

Runs in an environment of its own, with denoising-diffusion-pytorch 2.3.4, einops, ema-pytorch,
accelerate and scipy. torchvision, which it imports at the top, does not load beside a CPU build of
torch; a few lines stand in for it.
"""

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"dim_mults": (1, 2)},
    "three levels": {"dim_mults": (1, 2, 3), "full_attn": (False, True, False)},
    "one channel": {"dim_mults": (1, 2), "channels": 1, "init_dim": 12, "out_dim": 2},
    "heads": {"dim_mults": (1, 2), "attn_heads": (2, 3), "attn_dim_head": (4, 6)},
    "fourier": {"dim_mults": (1, 2), "learned_sinusoidal_cond": True, "learned_sinusoidal_dim": 6},
    "self-condition": {"dim_mults": (1, 2), "self_condition": True},
}
SCHEDULES = ("linear", "cosine", "sigmoid")
OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")


def pattern(shape: tuple[int, ...], phase: float) -> Tensor:
    """Numbers that any program can make again: sin(0.7 i^1.1 + phase) for i = 1, 2, ..."""
    i = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(0.7 * i**1.1 + phase).reshape(shape)


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """The module in eval mode, its parameters made of patterns: near 1 for a gain."""
    for index, (name, parameter) in enumerate(module.named_parameters()):
        wide = pattern(tuple(parameter.shape), float(index))
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1.0
        gain = name.endswith((".g", "norm.weight"))
        parameter.data.copy_(1 + 0.3 * wide if gain else scale * wide)
    return module.eval()


def stand_in_for_torchvision() -> None:
    class Compose:
        def __init__(self, steps: list[Any]) -> None:
            self.steps = steps

        def __call__(self, x: Any) -> Any:
            for step in self.steps:
                x = step(x)
            return x

    def to_tensor(image: Image.Image) -> Tensor:
        pixels = np.asarray(image, dtype=np.float32) / 255
        return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)

    transforms = types.ModuleType("torchvision.transforms")
    same = lambda *_: lambda x: x  # noqa: E731
    members = {"Resize": same, "CenterCrop": same, "Lambda": lambda function: function}
    members |= {"Compose": Compose, "ToTensor": lambda: to_tensor, "RandomHorizontalFlip": same}
    vars(transforms).update(members)
    utils = types.ModuleType("torchvision.utils")
    utils.save_image = lambda *_, **__: None  # type: ignore[attr-defined]
    package = types.ModuleType("torchvision")
    package.transforms, package.utils = transforms, utils  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": package, "torchvision.transforms": transforms}
    sys.modules |= {"torchvision.utils": utils}


def of_networks(peer: Any) -> dict[str, Any]:
    """Each small network's output for one image, and the keys and shapes of the usual large one."""
    outputs = {}
    for name, settings in SETTINGS.items():
        network = filled(peer.Unet(8, **settings))
        x = pattern((2, network.channels, 8, 12), 0.1).float()
        level = torch.tensor([3.0, 0.25] if "learned_sinusoidal_cond" in settings else [3.0, 417.0])
        more = [pattern(tuple(x.shape), 0.2).float()] if network.self_condition else []
        with torch.no_grad():
            outputs[name] = network(x, level, *more).double().flatten()[::7].tolist()
    large = peer.Unet(64, dim_mults=(1, 2, 4, 8))
    shapes = {key: list(value.shape) for key, value in large.state_dict().items()}
    return {"outputs": outputs, "shapes": shapes}


def of_processes(peer: Any) -> dict[str, Any]:
    """For each schedule and objective: alpha_bar, and the loss of eight images, one by one."""
    found: dict[str, Any] = {}
    images, eps = pattern((8, 3, 8, 8), 0.3), pattern((8, 3, 8, 8), 0.4)
    times = torch.tensor([0, 1, 2, 10, 25, 40, 48, 49])
    for schedule in SCHEDULES:
        for objective in OBJECTIVES:
            for min_snr in (False, True):
                network = filled(peer.Unet(8, dim_mults=(1, 2)))
                diffusion = peer.GaussianDiffusion(
                    network,
                    image_size=8,
                    timesteps=50,
                    objective=objective,
                    beta_schedule=schedule,
                    min_snr_loss_weight=min_snr,
                )
                with torch.no_grad():
                    losses = diffusion.p_losses(
                        images.float(), times, noise=eps.float(), loss_reduction="none"
                    )
                key = f"{schedule} {objective}{' min-snr' if min_snr else ''}"
                found[key] = losses.double().tolist()
        found[f"{schedule} alpha_bar"] = diffusion.alphas_cumprod.double().tolist()
    return found


def record(peer: Any, target: Path) -> None:
    text = json.dumps({**of_networks(peer), "losses": of_processes(peer)}, indent=None)
    target.write_text(text.replace("], ", "],\n").replace("]}, ", "]},\n") + "\n")


def train(peer: Any, folder: Path) -> None:
    """30 steps of the Trainer on noise, then its loss of a fixed batch at fixed times and noise."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(0)
    for index in range(100):
        pixels = dice.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
    torch.manual_seed(0)
    diffusion = peer.GaussianDiffusion(
        peer.Unet(8, dim_mults=(1, 2)), image_size=8, timesteps=20, sampling_timesteps=2
    )
    trainer = peer.Trainer(
        diffusion,
        str(images),
        train_lr=1e-3,
        train_num_steps=30,
        save_and_sample_every=30,
        num_samples=1,
        calculate_fid=False,
        results_folder=str(folder),
    )
    trainer.train()
    batch = pattern((4, 3, 8, 8), 0.5).float()
    eps = pattern((4, 3, 8, 8), 0.6).float()
    times = torch.tensor([0, 5, 12, 19])
    probe = {"batch": batch, "eps": eps, "times": times}
    with torch.no_grad():
        for name, model in (("weights", diffusion), ("average", trainer.ema.ema_model)):
            model.eval()
            probe[name] = model.p_losses(batch, times, noise=eps, loss_reduction="none")
    torch.save(probe, folder / "probe.pt")


def main() -> None:
    stand_in_for_torchvision()
    import denoising_diffusion_pytorch.denoising_diffusion_pytorch as peer

    action = {"record": record, "train": train}[sys.argv[1]]
    action(peer, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
