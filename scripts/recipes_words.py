"""The words of docs/recipes.md: from the recipes' records to the page. See recipes_page.py."""

import inspect
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.console import duration, short
from sfumato.folder import DataCard
from sfumato.recipes import RECIPES

DATA = {  # images and exact words, for the sets that recipes were trained on here
    "digits": (5_000, "MNIST digits that come with sfumato"),
    "twemoji": (1_903, "named Twemoji (graphics: Twitter, Inc and other contributors, CC BY 4.0)"),
    "mnist": (60_000, "images of MNIST"),
    "fashion-mnist": (60_000, "images of Fashion-MNIST"),
    "cifar10-jpeg-train": (
        50_000,
        "training images of CIFAR-10 (JPEG), saved again with loss: not comparable with CIFAR-10",
    ),
    "flowers5": (4_311, "flowers, of which our copy was enlarged from 32 to 128 pixels"),
    "anime64": (8_560, "drawn faces"),
    "catsdogs128-train": (2_000, "photographs of cats and dogs"),
}
TEXTS = {
    "Karras": "The first run: EDM, which the demo trains",
    "000": "000: diffusers' UNet2DModel on MNIST",
    "001": "001: a U-Net written by hand",
    "002": "002: MNIST with T = 300",
    "003": "003: a survey, from DDPM to DiT",
    "004": "004: a report, from a library to high resolution",
}
HEAD = """# Recipes

What every recipe is, and what came of it when it was trained here, on two cores of a CPU unless
another device is named. Samples are the run's last grid, from the averaged weights; nothing is
picked. Losses are of held-out images, and not comparable between recipes: their processes and
noise levels differ. What the five texts say, and what is true: [sources.md](sources.md).

Made by `scripts/recipes_page.py` from the runs' folders; the numbers lie in [recipes/](recipes).
"""


@dataclass(frozen=True)
class Sister:
    """Why a recipe was not trained here, and the smaller one that shows that its kind learns."""

    shape: tuple[int, int, int]  # of what the network sees
    name: str
    needs: str = "a GPU"


SISTERS = {
    "unet2d_mnist": Sister((1, 28, 28), "unet2d_small"),
    "handmade_cifar10": Sister((3, 32, 32), "handmade_small"),
    "sd_unet": Sister((3, 64, 64), "sd_unet_small", "a GPU, and CelebA's faces"),
    "dit_s_2": Sister((16, 16, 16), "latent_dit"),
    "lucid_cifar10": Sister((3, 32, 32), "lucid_small"),
    "optimised_cifar10": Sister((3, 32, 32), "optimised_small"),
    "stl10": Sister((3, 96, 96), "high_resolution_small", "a GPU, and STL-10"),
    "celeba64": Sister((3, 64, 64), "high_resolution_small", "a GPU, and CelebA's faces"),
    "celebahq128": Sister((3, 128, 128), "high_resolution_small", "a GPU, and such faces"),
    "celebahq256": Sister((3, 256, 256), "high_resolution_small", "a GPU, and such faces"),
}


EARLY = {  # what the pictures do not say by themselves
    "latent_unet": "Early: colours and textures of photographs, no animals yet.",
    "latent_dit": "Early: colours, textures and some outlines of photographs, no animals yet.",
    "lucid_small": "Early: colours and edges. On a GPU such networks train for days.",
    "optimised_small": "Early: colours, and what lies where, by class.",
    "handmade_small": "Early: colours and large shapes.",
    "high_resolution_small": "Early: colours and soft shapes, without the noise that stays where "
    "noise is predicted through 32 channels at this size (experiments/LOG.md).",
    "four_conv_mnist": "As it should be: who sees 9 x 9 pixels draws strokes.",
}


def data_words(card: DataCard) -> str:
    """The images as a caption may call them, with how many there are and how large."""
    most, words = DATA.get(card.name, (card.images, f"images of {card.name}"))
    few = f"{card.images:,} of the " if card.images < most else ""
    return f"{few}{most:,} {words}; {card.size[0]} x {card.size[1]} pixels"


def told(name: str) -> tuple[str, str, str]:
    """(source, first sentence, command) of a recipe's docstring."""
    lines = inspect.cleandoc(RECIPES[name].__doc__ or "").splitlines()
    source = next((line.split()[1] for line in lines if line.startswith("Source:")), "")
    found = [line for line in lines if line.startswith(("Command:", "sfumato train"))]
    after = lines[lines.index(found[0]) + 1 :] if found else []
    after = list(itertools.takewhile(lambda line: line.startswith(" "), after))
    text = " ".join([*found[:1], *(line.strip() for line in after)])
    command = text.removeprefix("Command:").strip().replace("; then ", "\n")
    return source, lines[0], command or f"sfumato train {name}"


def page(records: dict[str, dict[str, Any]], measured: dict[str, dict[str, Any]]) -> str:
    """The whole page, from the records by recipe, and what else was measured, by its name."""
    if "latent_cost" in measured and "latent_unet" in records:
        records["latent_unet"]["cost"] = cost_words(measured["latent_cost"])
    trained = {name: record for name, record in records.items() if "steps" in record}
    parts = [HEAD, overview(trained)]
    for source, title in TEXTS.items():
        names = [name for name in RECIPES if told(name)[0] == source and name in trained]
        if names:
            parts += [f"## {title}\n", *(section(name, trained[name]) for name in names)]
    for name, words in (("compare", comparison), ("guidance", guidance), ("spectra", spectra)):
        parts += [words(measured[name])] if name in measured else []
    missing = [name for name in RECIPES if name not in trained]
    large = [name for name in missing if name in SISTERS]
    parts += [not_trained(large, records)] if large else []
    compared = {row["name"] for row in measured.get("compare", {}).get("contestants", ())}
    waiting = [f"`{name}`" for name in missing if name not in SISTERS and name not in compared]
    parts += [f"## Still to be trained\n\n{', '.join(waiting)}\n"] if waiting else []
    return "\n".join(parts)


def overview(trained: dict[str, dict[str, Any]]) -> str:
    head = "| recipe | text | weights | FLOPs an image | images | time | steps | held-out loss |"
    rows = [head, "|---" * 8 + "|"]
    for name in RECIPES:
        if name in trained:
            record = trained[name]
            cells = (
                f"[{name}](#{name})",
                told(name)[0],
                record["weights"],
                record["flops"],
                record["size"],
                duration(record["seconds"]),
                f"{record['steps']:,}",
                loss(record["held_out"]),
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def with_budget(command: str, name: str, changed: Sequence[str]) -> str:
    """The command of the docstring, with the time or the steps that the page's run was given."""
    for change in changed:
        if found := re.fullmatch(r"train\.(seconds|steps): .* -> ([\d.]+)", change):
            budget = (
                f"--time {float(found[2]):g}s" if found[1] == "seconds" else f"--steps {found[2]}"
            )
            return re.sub(rf"(sfumato train {name}\b.*)", rf"\1 {budget}", command)
    return command


def evaluation(name: str, numbers: dict[str, str]) -> str:
    """The command that measured the bits per dimension, if any were."""
    images = re.search(r", (\d+) of", " ".join(v for k, v in numbers.items() if "bits/dim" in k))
    return f"`sfumato evaluate {name} --limit {images[1]}`" if images else ""


def section(name: str, record: dict[str, Any]) -> str:
    """A recipe: what it is, how to make it, what was measured, and how it looks."""
    _, summary, command = told(name)
    command = with_budget(command, name, record["changed"])
    facts = {
        "data": f"{record['data']}; {record['split']}",
        "network": f"{record['weights']} weights, {record['flops']} an image forward",
        "training": f"{duration(record['seconds'])}, {record['steps']:,} steps of "
        f"{record['batch']}, {record['images_per_s']:,g} images/s "
        f"({record['device']}, {record['precision']})",
        "held-out loss": f"{loss(record['held_out'])}, from {loss(record['held_out_at_start'])}",
        **record["numbers"],
        "bits by": evaluation(name, record["numbers"]),
        "cost": record.get("cost", ""),
        "not as in the recipe": ", ".join(f"`{line}`" for line in record["changed"]),
    }
    if record["held_out"] is None:
        del facts["held-out loss"]
    listed = "\n".join(f"- {key}: {value}" for key, value in facts.items() if value)
    grid = f'<img src="recipes/{name}.webp" alt="{record["shown"]}" width="420" align="top">'
    curves = f'<img src="recipes/{name}-loss.webp" alt="losses of {name}" width="420" align="top">'
    below = f"{record['shown']}; beside them the losses. {EARLY.get(name, '')}".rstrip()
    return (
        f"### {name}\n\n{summary}\n\n```\n{command}\n```\n\n{listed}\n\n"
        f"{grid} {curves}\n\n{below}\n"
    )


def cost_words(measured: dict[str, Any]) -> str:
    """How much cheaper a step on latents is, as latent_cost.py measured it."""
    pixels, fours = (
        " and ".join(f"{measured[p][f'{name} / latents']:g} ({p})" for p in ("fp32", "bf16"))
        for name in ("pixels", "pixels in fours")
    )
    return (
        f"a training step of the same network on the pixels takes {pixels} times as long, one of "
        f"[high_resolution_small](#high_resolution_small), which sees pixels in fours, {fours} "
        f"times (`scripts/latent_cost.py`: steps in turn, medians, batch {measured['batch']}, "
        f"threads {measured['threads']})"
    )


GUIDED = {
    "classes": "Classifier-free guidance by classes: `sfumato sample digits --guidance SCALE`.",
    "classifier": "A model without classes, guided by a classifier of noised images: `sfumato "
    "sample digits_unlabelled --classifier noisy_classifier --classifier-scale SCALE`.",
    "text": "Text, prompts that are nobody's caption in the set: `sfumato sample emoji_text "
    '--guidance SCALE --prompt "a green heart" ...`.',
}


def guidance(judged: dict[str, Any]) -> str:
    """The pictures of guidance_grids.py, and what a judge made of the digits."""
    rows = [
        "## Guidance at scales 1, 2 and 4\n",
        "Scale 1 is the conditional model itself, 0 the unconditional one: D = D_null + scale "
        "(D_cond - D_null). Ho and Salimans' w is scale - 1. A classifier's scale multiplies the "
        "gradient of log p(class | x_t), so there 0 is no guidance. The same seeds at every scale, "
        "from 0 on; nothing is picked (`scripts/guidance_grids.py`).\n",
        "| scale | " + " | ".join(f"{scale}" for scale in judged["free"]) + " |",
        "|---" * (1 + len(judged["free"])) + "|",
    ]
    for name, title in (("free", "classifier-free"), ("classifier", "by a classifier")):
        cells = [f"{at['asked']:.1%}, distance {at['distance']:g}" for at in judged[name].values()]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    rows.append(
        f"\nOf {judged['images']} digits, those that a judge, trained on the clean training "
        "images, takes for the class asked for, and their squared Frechet distance to the training "
        "images in the judge's own features, which counts what is no digit as well as what is not "
        f"varied enough. From scale 1 to 4 classifier-free guidance goes {_way(judged['free'])} "
        f"the data, guidance by this classifier {_way(judged['classifier'])} them.\n"
    )
    for name, words in GUIDED.items():
        rows.append(
            f'{words}\n\n<img src="pictures/guidance-{name}.webp" alt="guidance, {name}">\n'
        )
    return "\n".join(rows)


def comparison(found: dict[str, Any]) -> str:
    """What sfumato compare made of three networks, and its figure."""
    judge, floor = found["judge"], found["floor"]
    rows = [
        "## Three networks on one data set\n",
        "`sfumato compare --images 40000` trains a `UNet2D` of diffusers' layout, a Stable "
        "Diffusion U-Net and a DiT ([comparison.py](../src/sfumato/recipes/comparison.py)) on the "
        f"same {found['data']}, "
        f"{found['budget']} each in the same order with the same noise, batch {found['batch']}, "
        f"seed {found['seed']}, and gives {floor['images']} samples of each to one judge: "
        f"{judge['what']}, right on {judge['held_out_accuracy']:.1%} of the held-out ones. Images "
        "that it was not trained on are the floor. So few samples make every distance larger than "
        "of many: compare within the table only. Other programs ran beside, so that the figure's "
        "seconds say little.\n",
        "| network | weights | FLOPs an image | steps | held-out loss "
        "| distance to the data | of the class asked for |",
        "|---" * 7 + "|",
    ]
    for row in found["contestants"]:
        verdict = row["verdict"]
        cells = (
            f"`{row['name']}`",
            f"{row['parameters']:,}",
            short(row["flops"], "FLOP"),
            f"{row['steps']:,}",
            f"{row['loss']:.4f}",
            distance_of(verdict),
            f"{verdict['agreement']:.1%} ± {verdict['agreement_error']:.1%}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    rows.append(f"| real images | | | | | {distance_of(floor)} | {floor['agreement']:.1%} |\n")
    rows.append(
        "After so few images a transformer is far behind: it has to find out by itself which "
        "pixels are neighbours. [dit_pixels](#dit_pixels) and [dit_flow](#dit_flow), the same with "
        "fewer weights and twice to four times as many images, draw digits.\n"
    )
    rows.append('<img src="pictures/compare.webp" alt="three networks on one data set">\n')
    return "\n".join(rows)


def distance_of(verdict: dict[str, Any]) -> str:
    """With its error, which comparisons of before this was measured have not."""
    error = verdict.get("frechet_error")
    return f"{verdict['frechet']:.2f}" + (f" ± {error:.2f}" if error else "")


def spectra(found: dict[str, Any]) -> str:
    """What sfumato spectra measured of a run, and its figure."""
    training, sampling = found["in_training"], found["in_sampling"]
    return (
        "## Low frequencies first?\n\n"
        f"Text 003 says that a model learns low frequencies first and details later. `sfumato "
        f"spectra {found['run']}` measures it, on {found['images']:,} images of {found['data']} "
        f"and the run above to step {found['step']:,}. The rank correlation of a frequency and "
        "the moment from which it stays, 1 where low ones always come first:\n\n"
        f"| | power within a factor of {1 / found['share']:g} of the data's "
        f"| likeness to the last images over {found['settled']:g} |\n|---|---|---|\n"
        f"| in training | {training['reached']['correlation']:+.2f} "
        f"| {training['settled']['correlation']:+.2f} |\n"
        f"| in sampling | {sampling['reached']['correlation']:+.2f} "
        f"| {sampling['settled']['correlation']:+.2f} |\n\n"
        "Likeness compares images drawn from the same noise, ring by ring of the spectrum, with "
        "the last ones. So the claim holds of sampling, and of what training settles; that the "
        "amount of power is right says little, and comes early everywhere.\n\n"
        '<img src="pictures/spectra.webp" alt="spectra in training and in sampling">\n'
    )


def _way(at: dict[str, dict[str, float]]) -> str:
    first, *_, last = (scale["distance"] for scale in at.values())
    return "away from" if last > first else "towards"


def not_trained(names: list[str], records: dict[str, dict[str, Any]]) -> str:
    rows = [
        "## Not trained here\n",
        "Too large to get far on two cores. The sister is of the same structure, and its samples "
        "above show that it learns. The loss is that of one batch, its times and noise, before "
        "and after so many of the recipe's own steps on just that batch, in eval mode "
        "(`scripts/large_recipes.py`): what is wired wrongly does not fall.\n",
        "| recipe | text | weights | FLOPs an image | network's input | its budget "
        "| wants | sister | loss of a fixed batch |",
        "|---" * 9 + "|",
    ]
    for name in names:
        record, sister = records.get(name, {}), SISTERS[name]
        known = [record.get(key, "") for key in ("weights", "flops", "size", "planned")]
        link = f"[{sister.name}](#{sister.name})"
        fell = fall_words(record.get("fixed_batch"))
        cells = (f"`{name}`", told(name)[0], *known, sister.needs, link, fell)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def fall_words(fixed: dict[str, Any] | None) -> str:
    """How the loss of one batch fell when it alone was trained on."""
    if fixed is None:
        return ""
    images = "1 image" if fixed["images"] == 1 else f"{fixed['images']} images"
    steps = "1 step" if fixed["steps"] == 1 else f"{fixed['steps']} steps"
    return f"{fixed['before']:.4f} to {fixed['after']:.4f} in {steps}, {images}"


def trained_words(record: dict[str, Any]) -> str:
    """What a recipe's docstring says under Trained; empty where nothing was."""
    if "steps" in record:
        lost = "" if record["held_out"] is None else f"; held-out loss {loss(record['held_out'])}"
        cores = record["device"].partition(", ")[2].replace("1 threads", "one core")
        words = f"{duration(record['seconds'])} on {cores.replace('2 threads', 'two cores')}"
        return f"{words}, {record['steps']:,} steps{lost}"
    if "fixed_batch" in record:
        return f"on one batch alone, loss {fall_words(record['fixed_batch'])}"
    return ""
