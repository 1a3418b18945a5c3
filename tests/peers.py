"""What it takes to run a scheduler of diffusers beside a solver of ours."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import Listening, Raw, TableOfBetas, no_noise, with_signal_left
from sfumato.denoiser import Denoiser, NetworkDenoiser
from sfumato.discrete import (
    CosineBetas,
    DiscreteVP,
    LinearBetas,
    ScaledLinearBetas,
    SigmoidBetas,
)
from sfumato.parameterization import PredictData, PredictNoise, PredictV
from sfumato.process import Process
from sfumato.sampling import trajectory
from sfumato.solvers import RandnLike, Solver

OLD_NUMPY = [  # what NumPy 2 has deprecated of what diffusers does with tensors
    pytest.mark.filterwarnings(f"ignore:{text}:DeprecationWarning")
    for text in (
        "__array__ implementation doesn't accept a copy keyword",
        "__array_wrap__ must accept context and return_scalar",
    )
]
DDPM = {"beta_start": 0.0001, "beta_end": 0.02}  # not every scheduler's default
OURS = {
    "linear": LinearBetas(),
    "scaled": with_signal_left(ScaledLinearBetas),
    "cosine": CosineBetas(),
    "sigmoid": SigmoidBetas(),
    "zero": LinearBetas(zero_terminal_snr=True),
}
THEIRS = {
    "linear": {"beta_schedule": "linear", **DDPM},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid", **DDPM},
    "zero": {"beta_schedule": "linear", **DDPM, "rescale_betas_zero_snr": True},
}
KINDS = {
    "eps": ("epsilon", PredictNoise),
    "v": ("v_prediction", PredictV),
    "x0": ("sample", PredictData),
}


def noise() -> Tensor:
    """Two small images of it."""
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(7))


def scheduler(cls: type, schedule: str, kind: str, steps: int, **settings: Any) -> Any:
    """A scheduler of diffusers, with its timesteps set."""
    made = cls(**THEIRS[schedule], prediction_type=KINDS[kind][0], **settings)
    made.set_timesteps(steps)
    return made


def table_of(made: Any) -> DiscreteVP:
    """The process that has a scheduler's own, rounded alpha_bar."""
    alpha_bar = made.alphas_cumprod.double().clone()
    low = int((alpha_bar <= alpha_bar[-1]).nonzero()[0])
    if low < len(alpha_bar) - 1:
        # Their stand-in for 0 is above its neighbours. No process is; grids here pass these by.
        ends = alpha_bar[[low - 1, -1]].log()
        bridge = torch.linspace(*ends.tolist(), len(alpha_bar) - low + 1, dtype=torch.float64)
        alpha_bar[low:] = bridge[1:].exp()
    before = torch.cat([torch.ones(1).double(), alpha_bar[:-1]])
    return with_signal_left(lambda: TableOfBetas(tuple((1 - alpha_bar / before).tolist())))


def theirs(made: Any, raw: Raw, x: Tensor, **options: Any) -> list[Tensor]:
    """diffusers' x after every call of the model."""
    points = []
    if hasattr(made, "set_begin_index"):
        made.set_begin_index(0)  # else equal labels at the start make it skip a step
    scale = getattr(made, "scale_model_input", lambda x, label: x)  # flow matching has none
    for label in made.timesteps:
        output = raw(scale(x, label), float(label))
        x = made.step(output, label, x, **options).prev_sample
        points.append(x)
    return points


def ours(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    solver: Solver,
    randn_like: RandnLike = no_noise,
) -> list[Tensor]:
    """Our x after every step."""
    points = trajectory(denoiser, x, times, solver, randn_like=randn_like)
    return [point.x for point in points][1:]


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest of any element at any step, relative to x where x is above 1 (as on VE)."""
    assert len(ours) == len(theirs)
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(ours, theirs)
    )


def of_labels(
    raw: Raw, kind: str, process: Process, steps: int = 1000, learned_variance: bool = False
) -> NetworkDenoiser:
    """raw as our denoiser, told the label by the parameterization itself."""
    parameterization = KINDS[kind][1](time_scale=steps, time_offset=-1)
    return NetworkDenoiser(Listening(raw), process, parameterization, learned_variance)


def random_network(channels: int = 3) -> Raw:
    """A fixed convolution under tanh, which listens to the label."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(channels, 3, 3, 3, generator=generator) / 3

    def raw(x: Tensor, label: float) -> Tensor:
        phase = torch.sin(torch.tensor(label / 100))
        return torch.tanh(torch.nn.functional.conv2d(x, weight.to(x), padding=1) + phase)

    return raw
