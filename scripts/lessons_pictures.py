"""Draw the pictures of docs/lessons out of what their own blocks compute.

python scripts/lessons_pictures.py    writes docs/pictures/lesson-*.webp
"""

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image

import sfumato as sf

ROOT = Path(__file__).resolve().parents[1]
Names = dict[str, Any]
BLUE, RED, GREY = "#1f77b4", "#d62728", "#9aa0a6"


def run_page(name: str) -> Names:
    """The names that a page's blocks make."""
    text = (ROOT / "docs" / "lessons" / f"{name}.md").read_text("utf-8")
    torch.manual_seed(0)
    names: Names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    return names


def digits_in_time(names: Names) -> Image.Image:
    labels = [f"t = {t:g}" for t in names["times"].tolist()]
    return sf.grid(sf.Pixels().decode(names["row"]), columns=7, column_labels=labels)


def two_schedules(names: Names) -> Image.Image:
    """The same digit and noise at seven equal times of both."""
    x0 = sf.Pixels().encode(sf.load("digits").images[:1]).double()
    eps = torch.randn(x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(0, 1, 7, dtype=torch.float64)
    rows = [names[name].diffuse(x0, t, eps) for name in ("linear", "cosine") for t in times]
    labels = [f"t = {t:.2g}" for t in times.tolist()]
    images = sf.Pixels().decode(torch.cat(rows))
    return sf.grid(images, columns=7, row_labels=["linear", "cosine"], column_labels=labels)


def guided_classes(names: Names) -> Image.Image:
    """The samples at each scale, over circles of two deviations around each class's mean."""
    figure = Figure(figsize=(11, 3), dpi=90, layout="constrained")
    for axes, (scale, points) in zip(figure.subplots(1, 4), names["drawn"].items()):
        for mean, colour in zip(names["means"].tolist(), ("#d62728", "#9aa0a6", "#9aa0a6")):
            circle = torch.linspace(0, 6.2832, 100)
            axes.plot(mean[0] + 0.9 * circle.cos(), mean[1] + 0.9 * circle.sin(), color=colour)
        axes.plot(*points.T.tolist(), ".", color="#1f77b4", markersize=2, alpha=0.5)
        axes.set(xlim=(-2.6, 2.6), ylim=(-2.2, 4.2), aspect="equal", title=f"scale {scale:g}")
        axes.tick_params(labelsize=8)
    return as_image(figure)


def panels(count: int, height: float = 2.8) -> tuple[Figure, Any]:
    figure = Figure(figsize=(3.2 * count, height), dpi=90, layout="constrained")
    found = figure.subplots(1, count, squeeze=False)[0]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, found


def as_image(figure: Figure) -> Image.Image:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def densities(drawn: dict[str, Any], mean: float, std: float, wide: float) -> Image.Image:
    """A histogram for each title, with its deviation, under the normal density of the data."""
    figure, found = panels(len(drawn))
    x = torch.linspace(mean - wide, mean + wide, 200)
    density = torch.exp(-(((x - mean) / std) ** 2) / 2) / (std * (2 * torch.pi) ** 0.5)
    for axes, (title, values) in zip(found, drawn.items()):
        bins = torch.linspace(mean - wide, mean + wide, 41).tolist()
        axes.hist(values.flatten().tolist(), bins, density=True, color=BLUE, alpha=0.6)
        axes.plot(x, density, color=RED, label=f"the data: {std:.2f}")
        axes.set(
            title=f"{title}: {values.std():.2f}", yticks=[], ylim=(0, 1.6 * density.max().item())
        )
        axes.title.set_fontsize(10)
    found[0].legend(fontsize=8, frameon=False)
    return as_image(figure)


def clamped_or_not(names: Names) -> Image.Image:
    drawn = {
        "as it is": names["right"],
        "x_t clamped at each step": names["wrong"],
        "the estimate of x0 clipped": names["kept"],
    }
    return densities(drawn, 0.0, 0.4, 1.4)


def mean_and_noise(names: Names) -> Image.Image:
    drawn = {
        "DDPM's mean, no noise": names["mean_only"],
        "DDPM": names["drawn"],
        "DDIM": names["ddim"],
    }
    return densities(drawn, 0.0, 1.0, 3.5)


def weights(names: Names) -> Image.Image:
    """The weight of x0's squared error in three plain losses, by log-SNR."""
    figure, (axes,) = panels(1)
    figure.set_size_inches(6, 3)
    log_snr = torch.linspace(-8, 8, 100)
    snr = log_snr.exp()
    axes.plot(log_snr, snr, color=BLUE, label="of eps: SNR")
    axes.plot(log_snr, snr + 1, color=RED, label="of v: SNR + 1")
    axes.plot(log_snr, torch.ones(100), color=GREY, label="of x0: 1")
    at, errors = names["snr"].log(), names["error"]
    for name, colour in (("eps", BLUE), ("v", RED)):
        axes.plot(at, errors[name] / names["d"] ** 2, "o", color=colour)
    axes.set(yscale="log", xlabel="log-SNR: noisy to clean", ylabel="weight of the error of x0")
    axes.legend(fontsize=8, frameon=False, title="plain loss", title_fontsize=8)
    return as_image(figure)


def bits_by_steps(names: Names) -> Image.Image:
    figure, (axes,) = panels(1)
    figure.set_size_inches(6, 2.8)
    steps, bits = list(names["bits"]), [value.item() for value in names["bits"].values()]
    axes.plot(steps, bits, "o-", color=BLUE, label="the bound of an exact denoiser")
    for n, value in zip(steps, bits):
        axes.annotate(f"{value:.2f}", (n, value), (6, 5), textcoords="offset points", fontsize=8)
    axes.axhline(names["entropy"], color=RED, linestyle="--", label="what the data have")
    axes.set(xscale="log", xlabel="steps", ylabel="bits a pixel", ylim=(1.8, None), xlim=(8.5, 320))
    axes.set_xticks(steps, [str(n) for n in steps])
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=8, frameon=False)
    return as_image(figure)


def short_and_fitting(names: Names) -> Image.Image:
    """The image's share by step, and the draws of both, over the density of the data."""
    figure, (left, right) = panels(2)
    figure.set_size_inches(8.5, 2.9)
    t = torch.linspace(0, 1, 100, dtype=torch.float64)
    both = (("short", "betas of 1000", RED, "veiled"), ("fitting", "betas that fit", BLUE, "drawn"))
    bins = torch.linspace(-2.6, 1.4, 41).tolist()
    for name, label, colour, drawn in both:
        left.plot(300 * t, names[name].alpha(t), color=colour, label=label)
        values = names[drawn].flatten().tolist()
        right.hist(values, bins, density=True, color=colour, alpha=0.45, label=label)
        right.axvline(names[drawn].mean().item(), color=colour, linewidth=1.5)
    left.set(xlabel="step", ylabel="share of the image", ylim=(0, 1.02))
    left.annotate("22 % is left", (300, names["short"].signal_left), (236, 0.14), fontsize=8)
    left.legend(fontsize=8, frameon=False)
    right.set(title="grey values drawn, and their means", yticks=[])
    right.title.set_fontsize(10)
    return as_image(figure)


def wandering(names: Names) -> Image.Image:
    figure, (axes,) = panels(1)
    figure.set_size_inches(7, 2.6)
    w, average = zip(*names["path"][:600])
    axes.plot(w, color=GREY, linewidth=0.8, label="the weight")
    axes.plot(average, color=BLUE, linewidth=2, label="its average, decay 0.99")
    axes.axhline(0, color=RED, linestyle="--", linewidth=1, label="the best place")
    axes.set(xlabel="step", ylim=(-0.95, 0.75))
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower right")
    return as_image(figure)


def work_by_patch(names: Names) -> Image.Image:
    """GFLOPs of the page's DiT on its latent of 32 x 32, with three sizes of patch."""
    figure, (axes,) = panels(1)
    figure.set_size_inches(6, 2.4)
    for row, patch in enumerate((4, 2, 1)):
        network = names["replace"](names["small"], patch=patch).build()
        work = sf.flops(network, (4, 32, 32), classes=10) / 1e9
        axes.barh(row, work, color=BLUE)
        axes.text(work, row, f"  {work:.2f}", va="center", fontsize=8)
    labels = [f"{p} x {p}, {(32 // p) ** 2:,} tokens" for p in (4, 2, 1)]
    axes.set_yticks(range(3), labels)
    axes.set(xlabel="GFLOPs an image", title="patches of a 32 x 32 latent")
    axes.title.set_fontsize(10)
    axes.margins(x=0.15)
    return as_image(figure)


PICTURES: dict[str, Callable[[Names], Image.Image]] = {
    "01-forward": digits_in_time,
    "02-clamping": clamped_or_not,
    "03-noise": mean_and_noise,
    "04-one-thing": weights,
    "05-bound": bits_by_steps,
    "06-cosine": two_schedules,
    "07-guidance": guided_classes,
    "08-three-hundred-steps": short_and_fitting,
    "09-ema": wandering,
    "10-latents": work_by_patch,
}


if __name__ == "__main__":
    for page, picture in PICTURES.items():
        path = ROOT / "docs" / "pictures" / f"lesson-{page[:2]}.webp"
        picture(run_page(page)).save(path, quality=70, method=6)
        print(path.name, path.stat().st_size)
