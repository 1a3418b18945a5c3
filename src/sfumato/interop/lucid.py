"""Files of denoising-diffusion-pytorch's Trainer, model-N.pt: read as runs of ours, and written.

    {"step", "model": Unet and tables, "opt": Adam, "ema": weights and average, "scaler", "version"}

The file does not say which schedule, which prediction or which size of images it was trained with.
The first two follow from its tables, which are compared with ours to float32; the size is guessed.
Its images are in [0, 1] outside and in [-1, 1] inside, as ours are. Versions 1.9 to 2.3.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bound import Hybrid
from ..config import DataConfig, Run, SamplingConfig
from ..denoiser import NetworkDenoiser
from ..discrete import CosineBetas, DiscreteVP, LinearBetas
from ..grids import UniformGrid
from ..networks.lucid import LucidUNetConfig
from ..noising import SigmoidSignal
from ..objective import Denoising, DiscreteTimes, MinSNR, Objective, OutputMSE, Weight
from ..parameterization import Parameterization, PredictData, PredictNoise, PredictV
from ..schedules import Constant
from ..solvers import Ancestral
from ..training import TrainConfig
from .imported import Imported
from .lucid_shapes import config_of
from .reading import naming
from .torch_files import Tree, read_tensors

EMA_STEPS = 2000  # their average forgets over so many: decay 0.995, applied every 10th step
TRAIN_STEPS = 100_000  # the Trainer's usual budget
VLB_WEIGHT = 0.001  # of LearnedGaussianDiffusion; theirs counts one term, ours all of them
PREFIX = "network."  # what the denoiser calls the network whose moments these are


def read(path: Path, size: int | None = None) -> Imported | None:
    """The run in a model-N.pt, or None where the file is of another program.

    size: side of the images; None guesses 8 pixels on the coarsest level.

    Raises: ValueError where the file is no torch file, unsafe, or of settings that have no equal
    here; see torch_files.
    """
    return None if path.is_dir() else of_tree(read_tensors(path), str(path), size)


def of_tree(tree: Tree, source: str, size: int | None = None) -> Imported | None:
    """The same of what read_tensors returned. A state dict of GaussianDiffusion alone will do."""
    with naming(source):
        return _of_tree(tree, source, size)


def _of_tree(tree: Tree, source: str, size: int | None) -> Imported | None:
    model = tree.get("model", tree)
    if not isinstance(model, dict) or not {"betas", "model.init_conv.weight"} <= set(model):
        return None
    tensors = _tensors(model)
    weights = _below(tensors, "model.")
    network = config_of(weights)
    process = process_of(tensors["betas"])
    predicts, weight = training_of(process, tensors["loss_weight"])
    step = _step(tree)
    side = size or 8 * 2 ** (len(network.multipliers) - 1)
    learned = network.out_channels == 2 * network.in_channels
    run = Run(
        name=Path(source).stem,
        data=DataConfig(source="", size=side, channels=network.in_channels, labels=False),
        process=process,
        parameterization=predicts,
        objective=_objective(process.steps, weight, learned),
        network=network,
        train=train_config(tree, step),
        sampling=SamplingConfig(
            Ancestral(None if learned else 0.0), UniformGrid(), process.steps, clipped=True
        ),
        learned_variance=learned,
        precision="fp32",
    )
    average = _average(tree)
    moments = moments_of(tree, weights)
    notes = tuple(_notes(tree, run, size, average is not None, moments is not None))
    shape = (network.in_channels, side, side)
    return Imported(run, weights, shape, source, average, (), step, moments, notes)


def _tensors(values: Any) -> dict[str, Tensor]:
    return {str(key): value for key, value in values.items() if isinstance(value, Tensor)}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What stands below a prefix, without it."""
    return {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}


def _step(tree: Tree) -> int:
    step = tree.get("step", 0)
    return step if isinstance(step, int) else 0


# What was trained


def _schedules(steps: int) -> Iterator[DiscreteVP]:
    """Their schedules by their own names, the usual ones first."""
    yield SigmoidSignal(steps)
    yield CosineBetas(steps)
    if steps > 20:  # below, their betas are above 1
        yield LinearBetas(steps)
    for tau in (0.3, 0.5, 0.7, 0.9, 1.0, 1.1):  # those of Chen (2023), table 2 (from memory)
        for start in (-3.0, 0.0):
            yield SigmoidSignal(steps, start, 3.0, tau)


def process_of(betas: Tensor) -> DiscreteVP:
    """The process whose betas are these, (T,) float32, as their three schedules make them.

    Raises: ValueError where it is none of them.
    """
    theirs = _signal(betas.double())
    for process in _schedules(len(betas)):
        # Their sigmoid is off by 1e-8 of the signal: it takes two of its constants in float32.
        if (_signal(process.betas()) - theirs).abs().max() < 2e-6:
            return process
    raise ValueError(
        f"the table of {len(betas)} betas, {betas[0]:.4g} to {betas[-1]:.4g}, is none of the "
        "linear, cosine and sigmoid schedules of denoising-diffusion-pytorch; it can't be imported."
    )


def _signal(betas: Tensor) -> Tensor:
    return (1 - betas).cumprod(0)


def training_of(process: DiscreteVP, table: Tensor) -> tuple[Parameterization, Weight]:
    """What the network predicts, and the weight of its error, from their loss_weight, (T,).

    Their loss is table mse(output). As a weight of the x0 error it is min(SNR, gamma) for each
    prediction, gamma infinite without min_snr_loss_weight; so only one prediction fits.

    Raises: ValueError where none does.
    """
    times = process.times_of(torch.arange(process.steps))
    snr = process.log_snr(times).exp()
    usual = (snr > 1e-2) & (snr < 1e4)  # beyond, float32 tables are not exact
    for kind in (PredictNoise, PredictData, PredictV):
        predicts = kind(time_scale=float(process.steps), time_offset=-1.0)
        weight = table.double() * predicts(process, times).c_out ** -2
        gamma = weight[usual].max()
        if torch.allclose(weight[usual], snr[usual].clamp(max=gamma), rtol=1e-3):
            whole = torch.isclose(gamma, snr[usual].max(), rtol=1e-3)
            return predicts, _weight(kind is PredictNoise, float("inf") if whole else gamma.item())
    raise ValueError(
        "its loss_weight is that of none of pred_noise, pred_x0 and pred_v, with or without "
        "min_snr_loss_weight; it can't be imported."
    )


def _weight(of_noise: bool, gamma: float) -> Weight:
    unclamped = gamma == float("inf")
    return OutputMSE() if of_noise and unclamped else MinSNR(round(gamma, 3))


def _objective(steps: int, weight: Weight, learned_variance: bool) -> Objective:
    if learned_variance:
        return Hybrid(steps, VLB_WEIGHT / steps)
    return Denoising(DiscreteTimes(steps), weight)


# How far it had come


def train_config(tree: Tree, step: int) -> TrainConfig:
    """Adam as it was, at a constant rate; AdamW without decay of the weights is Adam."""
    group = _group(tree)
    first, second = group.get("betas", (0.9, 0.99))
    return TrainConfig(
        steps=max(TRAIN_STEPS, 2 * step),
        batch=16,
        lr=float(group.get("lr", 1e-4)),
        warmup_steps=0,
        decay=Constant(),
        betas=(float(first), float(second)),
        weight_decay=float(group.get("weight_decay", 0.0)),
        ema_length=min(0.25, max(0.01, EMA_STEPS / max(1, step))),
    )


def _group(tree: Tree) -> dict[str, Any]:
    optimizer: Any = tree.get("opt") or {}
    groups = optimizer.get("param_groups") or [{}]
    return groups[0]


def moments_of(tree: Tree, weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Adam's moments by PARAMETER.KEY, or None where there are none that fit.

    They are numbered there in the order of the weights, which has no buffers.
    """
    optimizer: Any = tree.get("opt") or {}
    state = optimizer.get("state") or {}
    names = list(weights)
    if set(state) != set(range(len(names))):
        return None
    moments: dict[str, Tensor] = {}
    for index, entry in state.items():
        name = names[index]
        if any(entry[key].shape != weights[name].shape for key in ("exp_avg", "exp_avg_sq")):
            return None
        for key in ("step", "exp_avg", "exp_avg_sq"):
            moments[f"{PREFIX}{name}.{key}"] = torch.as_tensor(entry[key], dtype=torch.float32)
    return moments


def _average(tree: Tree) -> dict[str, Tensor] | None:
    ema = tree.get("ema")
    if not isinstance(ema, dict) or not bool(ema.get("initted", False)):
        return None
    return _below(_tensors(ema), "ema_model.model.") or None


def _notes(tree: Tree, run: Run, size: int | None, averaged: bool, moments: bool) -> Iterator[str]:
    if version := tree.get("version"):
        yield f"Written by denoising-diffusion-pytorch {version}."
    yield f"Schedule and prediction follow from its tables: {run.process}, {run.parameterization}."
    side = run.data.size
    if size is None:
        yield f"The file does not say how large its images are: {side} x {side} is a guess."
    if run.network.self_condition:  # type: ignore[attr-defined]
        yield "Its second input, its own last estimate, is zero here, as in half of its training."
    if run.learned_variance:
        yield "It learns the variance, and was taken to do so with the weight 0.001 for the bound."
    if averaged:
        yield (
            f"Their average forgets over about {EMA_STEPS:,} steps whenever; ours, from here on, "
            f"over about {run.train.ema_length:.0%} of the steps so far."
        )
    else:
        yield "It has no average of the weights yet; the last weights stand in for it."
    if not moments:
        yield "Its optimizer's moments are missing or do not fit; Adam starts anew."
    yield "Batch size, mirroring and gradient accumulation are not in the file: 16, none, none."


# The way back


def state_dict_of(model: Imported) -> dict[str, Any]:
    """What torch.save writes as a model-N.pt that their Trainer.load takes.

    Raises: ValueError where their program has no such model.
    """
    config, process, predicts = model.run.network, model.run.process, model.run.parameterization
    if not isinstance(config, LucidUNetConfig) or not isinstance(process, DiscreteVP):
        raise ValueError(
            f"{type(config).__name__} on {process} is not of denoising-diffusion-pytorch: its own "
            "U-Net and a table of betas are."
        )
    if config.classes or not isinstance(predicts, PredictNoise | PredictData | PredictV):
        raise ValueError(
            f"denoising-diffusion-pytorch has no class labels, and no {type(predicts).__name__}."
        )
    _check_told(config, process, predicts)
    tables = tables_of(process, predicts, model.run.objective)
    weights = tables | {f"model.{key}": value for key, value in model.weights.items()}
    average = model.weights if model.average is None else model.average
    averages = tables | {f"model.{key}": value for key, value in average.items()}
    ema = {"initted": torch.tensor(True), "step": torch.tensor(model.step)}
    ema |= {f"online_model.{key}": value for key, value in weights.items()}
    ema |= {f"ema_model.{key}": value for key, value in averages.items()}
    names = [name for name, _ in _named(config)]
    optimizer = {"state": _entries(model.moments, names), "param_groups": [_adam(model, names)]}
    return {
        "step": model.step,
        "model": weights,
        "opt": optimizer,
        "ema": ema,
        "scaler": None,
        "version": "2.3.4",
    }


def _check_told(
    config: LucidUNetConfig, process: DiscreteVP, predicts: PredictNoise | PredictData | PredictV
) -> None:
    """Raises: ValueError where their program would tell the network another noise level than ours.

    It tells the step, from 0, by sinusoids whose longest wave is 2 pi 10,000; norms have 8 groups.
    """
    theirs = {
        "parameterization.time_scale": (predicts.time_scale, process.steps),
        "parameterization.time_offset": (predicts.time_offset, -1),
        "network.noise_scale": (config.noise_scale, 1),
        "network.longest": (config.longest, 10_000),
        "network.groups": (config.groups, 8 if config.groups else 0),
    }
    other = [f"{name}={ours:g}, not {one:g}" for name, (ours, one) in theirs.items() if ours != one]
    if other:
        raise ValueError(
            "denoising-diffusion-pytorch would compute something else than this run: "
            f"{'; '.join(other)}. A run that has its values can be exported."
        )


def _named(config: LucidUNetConfig) -> list[tuple[str, nn.Parameter]]:
    with torch.device("meta"):
        return list(config.build().named_parameters())


def _entries(moments: dict[str, Tensor] | None, names: list[str]) -> dict[int, dict[str, Tensor]]:
    keys = ("step", "exp_avg", "exp_avg_sq")
    if moments is None:
        return {}
    return {
        index: {key: moments[f"{PREFIX}{name}.{key}"] for key in keys}
        for index, name in enumerate(names)
    }


def _adam(model: Imported, names: list[str]) -> dict[str, Any]:
    """The settings of torch.optim.Adam as it saves them."""
    parameters = [nn.Parameter(torch.empty(0)) for _ in names]
    train = model.run.train
    optimizer = torch.optim.Adam(
        parameters, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay
    )
    return optimizer.state_dict()["param_groups"][0]


def tables_of(
    process: DiscreteVP, predicts: Parameterization, objective: Objective
) -> dict[str, Tensor]:
    """The buffers of GaussianDiffusion: float32, (T,) each; Ho et al. (2020), eqs. 4 and 7."""
    betas = process.betas()
    alpha_bar = _signal(betas)
    before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    noise, noise_before = 1 - alpha_bar, 1 - before
    variance = betas * noise_before / noise
    times = process.times_of(torch.arange(process.steps))
    weight: Weight = objective.weight if isinstance(objective, Denoising) else OutputMSE()
    denoiser = NetworkDenoiser(nn.Identity(), process, predicts)
    tables = {
        "betas": betas,
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": alpha_bar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": noise.sqrt(),
        "log_one_minus_alphas_cumprod": noise.log(),
        "sqrt_recip_alphas_cumprod": alpha_bar.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / alpha_bar - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / noise,
        "posterior_mean_coef2": noise_before * (1 - betas).sqrt() / noise,
        "loss_weight": weight(denoiser, times) * predicts(process, times).c_out ** 2,
    }
    return {name: table.float() for name, table in tables.items()}
