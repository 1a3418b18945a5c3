"""One training step of each peer, as its own documentation takes it and as well as it can.

    diffusers                     the loop of its tutorial "Train a diffusion model"
    denoising-diffusion-pytorch   its Trainer's loop around GaussianDiffusion
    plain DiT                     the loop of the authors' train.py, with the loss of noise alone

Images wait in memory as floats in [-1, 1], so that no peer pays for reading; gradients are clipped
to 1 everywhere.
"""

import contextlib
import copy
import importlib
import importlib.util
import io
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from sfumato.interop.diffusers_unet import unet_settings

from .cases import Case
from .options import Missing
from .plain_dit import PlainDiT

UPDATE = "Optimizer and average"  # what the profiler shows of clipping, step and average
INSTALL = (
    "denoising-diffusion-pytorch is not installed, so its rows are left out: pip install --no-deps "
    "--target DIR denoising-diffusion-pytorch einops ema-pytorch, and then PYTHONPATH=DIR"
)


@dataclass(frozen=True)
class Tuning:
    """How a peer is run; the defaults are how its documentation runs it."""

    bf16: bool = False  # autocast
    channels_last: bool = False
    fused: bool = False  # the optimizer
    compiled: bool = False
    keeps_memory: bool = False  # what a step frees stays the program's: sfumato/memory.py

    @classmethod
    def named(cls, words: str) -> "Tuning":
        """The one whose words these are. Raises: ValueError where they are none's."""
        said = ("bf16 autocast", "channels_last", "fused optimizer", "torch.compile", "memory kept")
        meant = cls(*(part in words for part in said))
        if str(meant) != words:
            raise ValueError(f"{words!r} is no tuning of a peer; one like it is {str(meant)!r}.")
        return meant

    def __str__(self) -> str:
        chosen = [
            "bf16 autocast" if self.bf16 else "fp32",
            *(["channels_last"] if self.channels_last else []),
            *(["fused optimizer"] if self.fused else []),
            *(["torch.compile"] if self.compiled else []),
            *(["memory kept"] if self.keeps_memory else []),
        ]
        return ", ".join(chosen)


@dataclass(frozen=True)
class Made:
    """A peer's network, its loss of a batch, and its optimizer and average as documented."""

    network: nn.Module  # what is compiled and laid out
    loss: Callable[[Tensor], Tensor]
    trained: nn.Module
    optimizer: Callable[..., torch.optim.Optimizer]
    settings: dict[str, Any]
    after: Callable[[], None]  # the optimizer's step: the average, where it has one


class Peer:
    """A training that has begun; each call is one step and returns its loss."""

    def __init__(self, case: Case, tuning: Tuning = Tuning()) -> None:
        torch.manual_seed(0)
        self.made = MAKERS[case.peer](case)
        self.tuning, self.batch, self.place = tuning, case.batch, 0
        self.images = case.data().images.float() / 127.5 - 1
        if tuning.channels_last:
            self.made.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        if tuning.compiled:
            self.made.network.compile()
        fused = {"fused": True} if tuning.fused else {}
        self.parameters = list(self.made.trained.parameters())
        self.optimizer = self.made.optimizer(self.parameters, **self.made.settings, **fused)

    def __call__(self) -> float:
        self.place = (self.place + self.batch) % (len(self.images) - self.batch + 1)
        clean = self.images[self.place : self.place + self.batch]
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.tuning.bf16):
            loss = self.made.loss(clean)
        loss.backward()
        with record_function(UPDATE):
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.made.after()
        return loss.item()


def nothing() -> None:
    """What a peer without an average does after a step."""


def of_diffusers(case: Case) -> Made:
    """UNet2DModel, DDPMScheduler, AdamW at 4e-4: source 000's loop. No average, as there."""
    library = diffusers()
    model = library.UNet2DModel(**unet_settings(case.network, case.shape[1:]))  # type: ignore[arg-type]
    scheduler = library.DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")

    def loss(clean: Tensor) -> Tensor:
        noise = torch.randn(clean.shape)
        times = torch.randint(0, 1000, (len(clean),)).long()
        noisy = scheduler.add_noise(clean, noise, times)
        return F.mse_loss(model(noisy, times, return_dict=False)[0], noise)

    return Made(model, loss, model, torch.optim.AdamW, {"lr": 4e-4}, nothing)


def of_lucid(case: Case) -> Made:
    """Unet and GaussianDiffusion as its README makes them, Adam and EMA as its Trainer does."""
    module = lucid()
    network, settings = case.network, vars(case.network)
    unet = module.Unet(dim=settings["channels"], dim_mults=settings["multipliers"], flash_attn=True)
    diffusion = module.GaussianDiffusion(unet, image_size=case.shape[1], timesteps=1000)
    average = module.EMA(diffusion, beta=0.995, update_every=10)
    adam = {"lr": 8e-5, "betas": (0.9, 0.99)}

    def loss(clean: Tensor) -> Tensor:
        return diffusion((clean + 1) / 2)

    assert not network.classes
    return Made(unet, loss, diffusion, torch.optim.Adam, adam, average.update)


def of_dit(case: Case) -> Made:
    """The authors' loop: AdamW at 1e-4 without decay, an average parameter by parameter."""
    model = PlainDiT(case.network, case.shape[1])  # type: ignore[arg-type]
    average = copy.deepcopy(model).requires_grad_(False)
    scheduler = diffusers().DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    classes = case.network.classes

    def loss(clean: Tensor) -> Tensor:
        noise, times = torch.randn(clean.shape), torch.randint(0, 1000, (len(clean),))
        labels = torch.randint(0, classes, (len(clean),))
        labels = torch.where(torch.rand(len(clean)) < 0.1, classes, labels)
        return F.mse_loss(model(scheduler.add_noise(clean, noise, times), times, labels), noise)

    @torch.no_grad()
    def update() -> None:
        for old, new in zip(average.parameters(), model.parameters(), strict=True):
            old.mul_(0.9999).add_(new, alpha=1 - 0.9999)

    settings = {"lr": 1e-4, "weight_decay": 0.0}
    return Made(model, loss, model, torch.optim.AdamW, settings, update)


MAKERS: dict[str, Callable[[Case], Made]] = {
    "diffusers": of_diffusers,
    "denoising-diffusion-pytorch": of_lucid,
    "plain DiT": of_dit,
}


def diffusers() -> Any:
    """The module; imported late, since it takes seconds."""
    return importlib.import_module("diffusers")


def lucid() -> Any:
    """The module of denoising-diffusion-pytorch.

    Raises: Missing where it is not installed.
    """
    if importlib.util.find_spec("denoising_diffusion_pytorch") is None:
        raise Missing(INSTALL)
    with stand_ins(), contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Names for what it imports at the top and this benchmark never calls, where it is absent.

    torchvision and accelerate serve its Trainer and data, scipy a loss that is off by default.
    """
    wanted = {
        "torchvision": ("transforms", "utils"),
        "torchvision.transforms": (),
        "accelerate": ("Accelerator",),
        "scipy.optimize": ("linear_sum_assignment",),
        "scipy": ("optimize",),
    }
    absent = {
        name: members
        for name, members in wanted.items()
        if importlib.util.find_spec(name.partition(".")[0]) is None
    }
    for name, members in absent.items():
        module = types.ModuleType(name)
        vars(module).update(dict.fromkeys(members))
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
