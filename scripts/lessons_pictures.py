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
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


PICTURES: dict[str, Callable[[Names], Image.Image]] = {
    "01-forward": digits_in_time,
    "06-cosine": two_schedules,
    "07-guidance": guided_classes,
}


if __name__ == "__main__":
    for page, picture in PICTURES.items():
        path = ROOT / "docs" / "pictures" / f"lesson-{page[:2]}.webp"
        picture(run_page(page)).save(path, quality=70, method=6)
        print(path.name, path.stat().st_size)
