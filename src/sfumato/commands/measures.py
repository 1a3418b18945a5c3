"""What each kind of run is measured by on images that it was not trained on: sfumato evaluate.

Every number is a mean over images with the standard deviation of that mean, and comes with the
words that say what it is of: images, steps, weights, seeds, and what it bounds.
"""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import Evaluate
from ..assembly import (
    Examples,
    LatentExamples,
    PixelExamples,
    conditions_of,
    held_out_batch,
    level_log_snr,
    loss_of,
)
from ..classification import LevelScore, scores_by_level
from ..codec import Pixels
from ..conditions import Captions, Conditions, Nothing, cond_of, rows_of
from ..config import AutoencoderRun, ClassifierRun, Run
from ..console import reading
from ..data import ImageData, generator_at
from ..denoiser import Clipped, Cond, Denoiser
from ..discrete import DiscreteVP
from ..evaluation import FlowBits, VariationalBits, as_chain, flow_bits, variational_bits
from ..latents import measure
from ..loading import Loaded, load_run, load_weights
from ..measuring import Estimate
from ..objective import draws
from ..pictures import grid, save_png
from ..plots import bars_figure, bound_figure
from ..process import Process
from ..reconstruction import held_out_batch as whole_batch
from ..reconstruction import loss_of as reconstruction_loss_of
from ..reconstruction import psnr, reconstruct
from ..session import LEVELS
from ..tasks.classifying import build_classifier, reached
from ..text import load_table, prompts_of
from ..training import losses_of
from .subject import Report, Settings, Subject, pair

STEPS = 250  # of the bound, where the process has none of its own
FLOW_STEPS = 100
BATCH = 64
SHOWN = 8  # images beside their reconstructions
SEED = 0  # image i's noise is of SEED + i
BY_NOISE = "log-SNR:  noisy to clean"

Level = dict[str, float]  # log_snr, and the mean, error and number of images there


# --- losses by noise level


def levels_of(subject: Subject, losses: Tensor) -> list[Level]:
    """The means of losses that are sorted by time, (N,), over equal shares of two or more images.

    At most LEVELS shares, as in training.
    """
    shares = min(LEVELS, len(losses) // 2)
    return [
        {"log_snr": log_snr, **asdict(Estimate.in_order(part)), "images": len(part)}
        for log_snr, part in zip(level_log_snr(subject.run, shares), losses.tensor_split(shares))
    ]


def loss_numbers(
    subject: Subject, step: int, losses: Tensor, levels: list[Level]
) -> dict[str, Any]:
    recipe = (
        f"{subject.run.objective} of each image once, with the fixed noise and the evenly spread "
        f"times of training's held-out loss, the error at these times; {subject.measured_on(step)}"
    )
    return {"recipe": recipe, **asdict(Estimate.in_order(losses)), "levels": levels}


def level_words(levels: list[Level]) -> str:
    return ", ".join(f"{level['log_snr']:.1f}: {level['mean']:.4f}" for level in levels)


def bars_of(levels: list[Level]) -> list[dict[str, float]]:
    return [{**level, "x": level["log_snr"]} for level in levels]


def draw_levels(levels: list[Level], path: Path, settings: Settings) -> None:
    bars_figure({"Loss by noise level": (BY_NOISE, bars_of(levels))}, path, settings)


# --- a denoiser


def measure_diffusion(subject: Subject) -> Report:
    """Held-out loss by noise level; of pixels also bits per dimension, where they are wanted."""
    data, device = subject.data, subject.device
    loaded = load_run(str(subject.folder), device, precision="fp32", best=subject.args.best)
    told = conditions_told(loaded, data)
    batch = held_out_batch(loaded.run, data, device, examples_of(loaded, data), told)
    losses = losses_of(loaded.denoiser, no_grad(loss_of(loaded.run)), batch, BATCH)
    levels = levels_of(subject, losses)
    numbers = {"loss": loss_numbers(subject, loaded.step, losses, levels)}
    words = {"loss": pair(Estimate.in_order(losses)), "by log-SNR": level_words(levels)}
    if not isinstance(loaded.run.codec, Pixels):
        note = (
            "Bits per dimension are for models of pixels only: here they would be bits of latents, "
            "which no decoder turns back into the images without loss."
        )
        return Report(loaded.step, numbers, words, (note,), partial(draw_levels, levels))
    if not wants_bits(subject.args):
        note = f"Bits per dimension were left out; they take minutes: {with_bits(subject)}"
        return Report(loaded.step, numbers, words, (note,), partial(draw_levels, levels))
    everyone = torch.arange(len(data))
    rows = cond_of(told.rows(everyone, torch.zeros(len(data), dtype=torch.bool)))
    cond = rows_of(rows, slice(None), device)
    bits, recipe = bound_of(subject, loaded, cond)
    numbers["variational_bits"] = {"recipe": recipe, **asdict(bits)}
    words |= bound_words(bits)
    notes = [recipe]
    if subject.args.flow:
        flow, of_flow = flow_of(subject, loaded, cond)
        numbers["flow_bits"] = {"recipe": of_flow, **asdict(flow)}
        words["flow bits"] = f"{pair(flow.total)} a dimension"
        notes.append(of_flow)
    return Report(loaded.step, numbers, words, tuple(notes), partial(draw_bits, bits, levels))


def wants_bits(args: Evaluate) -> bool:
    """Whoever asks for drawn images alone is not made to wait for the bound of others."""
    return args.samples is None or args.bits or args.flow or args.steps is not None


def with_bits(subject: Subject) -> str:
    """The command that measures them alone."""
    return f"`sfumato evaluate {shlex.quote(str(subject.folder))}`"


def no_grad(loss: Any) -> Any:
    """The loss without the graph that training needs."""
    return torch.no_grad()(loss)


def conditions_told(loaded: Loaded, data: ImageData) -> Conditions:
    """What these images tell the model: their captions, their classes, or nothing.

    Raises: ValueError where it was trained on captions and they have none.
    """
    text = loaded.run.text
    if text is None:
        return conditions_of(data, loaded.device) if loaded.run.network.classes else Nothing()
    if data.captions is None:
        raise ValueError(
            f"{data.name} has no captions, but {loaded.folder} was trained on captions: measure it "
            "on images that have some."
        )
    table = prompts_of(load_table(loaded.folder), data.captions, text.build)
    return Captions(table, text, table.index)


def examples_of(loaded: Loaded, data: ImageData) -> Examples:
    """As in training, but nothing is kept on the disk."""
    if isinstance(loaded.run.codec, Pixels):
        return PixelExamples(data, loaded.device)
    return LatentExamples(loaded.codec.encode(data.images).cpu(), loaded.device)


def chain_steps(process: Process) -> int:
    """As many as it has betas, or STEPS."""
    return process.steps if isinstance(process, DiscreteVP) else STEPS


def bound_of(subject: Subject, loaded: Loaded, cond: Cond) -> tuple[VariationalBits, str]:
    """(the bound, its recipe)."""
    denoiser = Clipped(loaded.denoiser)
    steps = subject.args.steps or chain_steps(denoiser.process)
    subject.say(
        f"bits per dimension of {len(subject.data)} images in {steps:,} steps; fewer images, by "
        "--limit, are faster and have a larger error"
    )
    bits = variational_bits(
        denoiser,
        subject.data.images.to(subject.device),
        steps,
        cond,
        loaded.codec,
        SEED,
        BATCH,
        reading(subject.say, "network calls of the bound", every=10.0),
    )
    variances = "as learned" if loaded.run.learned_variance else "those of the posterior"
    return bits, (
        "Variational bits: an upper bound on the bits per dimension of a lossless code, Ho et al. "
        f"(2020), eq. 5, by a chain of {chain_told(denoiser, steps)}; x0 "
        f"clipped to [-1, 1]; variances {variances}; one draw of noise a step, {seeds(subject)}; "
        f"no guidance; {subject.measured_on(loaded.step)}."
    )


def chain_told(denoiser: Denoiser, steps: int) -> str:
    """The chain in the terms of the run's own process.

    Where that ends in more noise than N(0, I), the bound is computed of x_t divided by its own
    deviation at unit data, sqrt(alpha^2 + sigma^2). KL divergences do not change with the scale of
    x, so it is the bound of the run's own process at these noise levels, from a wider normal.
    """
    process, chain = denoiser.process, as_chain(denoiser).process
    if chain is process:
        return f"{steps:,} equal steps on {process}"
    first, last = (chain.ratio(torch.tensor(t, dtype=torch.float64)) for t in (1.0, 1 / steps))
    return (
        f"{steps:,} steps on {process}, from x = N(0, 1 + {first:.4g}^2) at sigma / alpha = "
        f"{first:.4g} to {last:.3g} and 0; between, log(1 + (sigma / alpha)^2) is quadratic in the "
        "step"
    )


def flow_of(subject: Subject, loaded: Loaded, cond: Cond) -> tuple[FlowBits, str]:
    """(the ODE's bits, their recipe)."""
    flow = flow_bits(
        loaded.denoiser,
        subject.data.images.to(subject.device),
        FLOW_STEPS,
        cond,
        loaded.codec,
        SEED,
        BATCH,
        progress=reading(subject.say, "batches of the ODE", every=10.0),
    )
    return flow, (
        "Flow bits: an upper bound, by Jensen's inequality, on the bits per dimension of 8-bit "
        "images under the density of the probability-flow ODE, whose own discretization error "
        f"with {FLOW_STEPS} Heun steps is not in it; dequantized uniformly; one probe of +-1 an "
        f"image, {seeds(subject)}; x0 not clipped; no guidance; "
        f"{subject.measured_on(loaded.step)}."
    )


def seeds(subject: Subject) -> str:
    return f"seeds {SEED} to {SEED + len(subject.data) - 1}"


def bound_words(bits: VariationalBits) -> dict[str, str]:
    return {
        "variational bits": f"{pair(bits.total)} a dimension; no model at all: 8",
        "- prior": pair(bits.prior),
        "- divergences": pair(bits.divergences),
        "- decoder": pair(bits.decoder),
    }


def draw_bits(bits: VariationalBits, levels: list[Level], path: Path, settings: Settings) -> None:
    bound_figure(bits.log_snr, bits.terms, bits.prior.mean, bars_of(levels), path, settings)


# --- an autoencoder


def measure_autoencoder(subject: Subject) -> Report:
    """Loss, PSNR and KL of whole images, and the moments of their latents' channels."""
    run, images = subject.run, subject.data.images.to(subject.device)
    step, tensors = load_weights(subject.folder, False, subject.args.best)
    model = run.network.build().to(subject.device).eval()
    model.load_state_dict(tensors)
    batch = whole_batch(images, run.network.latent_shape, run.train.seed)
    losses = losses_of(model, no_grad(reconstruction_loss_of(run.objective)), batch, BATCH)
    decoded, nats = reconstruct(model, images)
    decibels, kl = psnr(images, decoded).cpu(), Estimate.of(nats.cpu())
    worth, worst = Estimate.of(decibels), int(decibels.argmin())
    means, stds = measure(model, images)
    spread = decibels.std().item()
    numbers = {
        "loss": {"recipe": str(run.objective), **asdict(Estimate.of(losses))},
        "psnr_db": {
            "recipe": f"10 log10(255^2 / mean squared error) of each whole image, decoded from the "
            f"mean of its latent; {subject.measured_on(step)}",
            **asdict(worth),
            "sd": spread,
            "worst": decibels[worst].item(),
            "worst_image": worst,
        },
        "kl_nats_an_image": asdict(kl),
        "latents": {"means": means, "stds": stds},
    }
    words = {
        "loss": pair(Estimate.of(losses)),
        "PSNR": f"{pair(worth, 2)} dB; sd {spread:.2f}, worst {decibels[worst]:.2f}",
        "KL": f"{kl.mean:,.0f} ± {kl.error:,.0f} nats an image",
        "latents' means": ", ".join(f"{mean:.3g}" for mean in means),
        "latents' sds": ", ".join(f"{std:.3g}" for std in stds),
    }
    return Report(
        step, numbers, words, (), partial(draw_pairs, images.cpu(), decoded.cpu(), decibels)
    )


def draw_pairs(
    images: Tensor, decoded: Tensor, decibels: Tensor, path: Path, settings: Settings
) -> None:
    """From the worst image to the best, evenly spread, and below each what it was decoded to."""
    order = decibels.argsort()
    shown = order[torch.linspace(0, len(order) - 1, min(SHOWN, len(order))).long()]
    picture = grid(
        torch.cat([images[shown], decoded[shown]]),
        columns=len(shown),
        row_labels=["original", "decoded"],
        column_labels=[f"{worth:.1f} dB" for worth in decibels[shown].tolist()],
    )
    save_png(picture, path, settings)


# --- a classifier


def measure_classifier(subject: Subject) -> Report:
    """Accuracy and cross-entropy at fixed noise levels, and the loss by those of training."""
    run, data, device = subject.run, subject.data, subject.device
    step, tensors = load_weights(subject.folder, False, subject.args.best)
    model = build_classifier(run, device).eval()
    model.precision = torch.float32  # as a denoiser's loss is measured
    model.load_state_dict(tensors)
    batch = held_out_batch(run, data, device)

    def loss(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        x0 = Pixels().encode(batch["images"])
        return run.objective(model, x0, cond_of(batch), batch["u"], batch["eps"])

    losses = losses_of(model, no_grad(loss), batch, BATCH)
    levels, scores = levels_of(subject, losses), scores_of(subject, model)
    recipe = (
        "share of images whose class has the largest logit, and cross-entropy in nats, at each "
        f"sigma / alpha, with the same noise at all of them; {subject.measured_on(step)}"
    )
    rows = [{**asdict(score), "accuracy_error": accuracy_error(score)} for score in scores]
    numbers = {
        "loss": loss_numbers(subject, step, losses, levels),
        "by_ratio": {"recipe": recipe, "levels": rows},
    }
    chance = log(run.network.classes)
    words = {
        "loss": f"{pair(Estimate.in_order(losses))} nats; who knows nothing has {chance:.4f}",
        "by log-SNR": level_words(levels),
        "right": ", ".join(f"{s.accuracy:.1%} at {s.ratio:g}" for s in scores)
        + " times as much noise as signal",
        "nats": ", ".join(f"{s.cross_entropy:.4f} at {s.ratio:g}" for s in scores),
    }
    return Report(step, numbers, words, (), partial(draw_scores, scores, levels))


def scores_of(subject: Subject, model: Any) -> list[LevelScore]:
    """At those of RATIOS that the process reaches; the noise is that of training's own report."""
    labels, seed = subject.data.labels, subject.run.train.seed
    assert labels is not None
    _, eps = draws(subject.data.images, generator_at(seed, "accuracy"))
    x0 = Pixels().encode(subject.data.images)
    on, ratios = subject.device, reached(subject.run.process)
    return scores_by_level(model, x0.to(on), labels.to(on), ratios, eps.to(on))


def accuracy_error(score: LevelScore) -> float:
    """That of a share of so many images: all of them right is not right without a doubt."""
    right = torch.arange(score.images) < round(score.accuracy * score.images)
    return Estimate.share(right).error


def draw_scores(
    scores: list[LevelScore], levels: list[Level], path: Path, settings: Settings
) -> None:
    right = [
        {"x": -2 * log(score.ratio), "mean": score.accuracy, "error": accuracy_error(score)}
        for score in scores
    ]
    panels = {
        "Share of images classified right": (BY_NOISE, right),
        "Cross-entropy in nats": (BY_NOISE, bars_of(levels)),
    }
    bars_figure(panels, path, settings)


MEASURES: dict[type, Callable[[Subject], Report]] = {
    Run: measure_diffusion,
    AutoencoderRun: measure_autoencoder,
    ClassifierRun: measure_classifier,
}
