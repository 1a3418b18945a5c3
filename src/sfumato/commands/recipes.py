"""sfumato recipes: which there are, what each costs and whether it was trained; or all about one.

A recipe's docstring is what this prints: its first line says what it trains, and the lines

    Source: what it is from          Command: what to type          Trained: how long, where to look

the rest; a line goes on in the next ones, indented further.
"""

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..arguments import Recipes, UsageError
from ..assembly import fitted
from ..codec import Pixels
from ..config import AnyRun, AutoencoderRun, ClassifierRun, DataConfig, Run
from ..console import facts_block, short
from ..kinds import near
from ..networks.describe import counted_call, flops, parameter_count
from ..planning import fields_of
from ..recipes import RECIPES, Recipe, recipe_at

TITLES = {  # of the five texts that the recipes follow; docs/sources.md goes through them
    "000": "a tutorial on diffusers' U-Net, with MNIST",
    "001": "a tutorial on a U-Net written by hand, with CIFAR-10",
    "002": "a tutorial on 300 steps, with MNIST",
    "003": "a survey, from DDPM to DiT",
    "004": "a report on CIFAR-10 and on high resolution",
}
ONE_BATCH = "on one batch alone"  # how the line of a recipe begins that was only tried
NOT_TRAINED = "not trained here; smoke-tested"
KNOWN = {"digits": (1, 28, 10), "cifar10": (3, 32, 10), "stl10": (3, 96, 10)}
OTHERS = (3, 128, 0)  # images of one's own: RGB, the side that the latent recipes are for, no class
TEXT_FEATURES = 384  # of MiniLM's tokens; to ask it would mean to load it


@dataclass(frozen=True)
class Cost:
    """Of a recipe's network, at the recipe's own size of images."""

    parameters: int
    flops: int  # forward, one image, a multiply-add is 2


def run_recipes(args: Recipes) -> None:
    """Print the table, or one recipe's docstring, cost and settings."""
    if not args.name:
        print_table()
        return
    recipe = recipe_at(args.name)
    if recipe is None:
        raise UsageError(f"there is no recipe {args.name!r}; {near(args.name, RECIPES)}")
    print_recipe(args.name, recipe)


# --- what a docstring says


def what_of(recipe: Recipe) -> str:
    """Its first line."""
    return (inspect.getdoc(recipe) or "").partition("\n")[0].strip()


def line_of(recipe: Recipe, name: str) -> str:
    """What the line `name:` of its docstring says, in one line; "" where there is none."""
    found = re.search(rf"^{name}:(.*(?:\n[ \t]+\S.*)*)", inspect.getdoc(recipe) or "", re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def status_of(recipe: Recipe) -> str:
    trained = line_of(recipe, "Trained")
    if trained.startswith(ONE_BATCH):
        return f"too large for here; {trained}"
    return f"trained: {trained}" if trained else NOT_TRAINED


def group_of(recipe: Recipe) -> str:
    """The text that it follows: the number in its line Source, with its title."""
    source = line_of(recipe, "Source")
    number = source[:3]
    return f"Source {number}: {TITLES[number]}" if number in TITLES else source or "Of our own"


# --- what a network costs


def images_of(data: DataConfig) -> tuple[int, int, int]:
    """(channels, side, classes) of a recipe's images, as far as they are known without them."""
    channels, side, classes = KNOWN.get(data.source, OTHERS)
    return data.channels or channels, data.size or side, classes if data.labels else 0


def unfilled(config: Any) -> torch.nn.Module:
    """The network on the meta device: shapes without numbers, so 380 M weights take no time."""
    with torch.device("meta"):
        return config.build()


def cost_of(run: AnyRun) -> Cost:
    """Of the recipe's network; nothing is computed."""
    return COSTS[type(run)](run)


def diffusion_cost(run: Run) -> Cost:
    channels, side, classes = images_of(run.data)
    shape = latent_shape(run, (channels, side, side))
    outputs = shape[0] * (2 if run.learned_variance else 1)
    context = 0
    if run.text is not None:
        classes, context = 0, getattr(run.network, "context", 0) or TEXT_FEATURES
    config = fitted(run.network, shape[0], outputs, classes, context)
    network = unfilled(config)
    caption = replace(run, network=config).caption
    return Cost(parameter_count(network), flops(network, shape, classes, *caption))


def latent_shape(run: Run, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(c, h, w) of what the diffusion runs on: images, or what the recipe of its codec makes."""
    if isinstance(run.codec, Pixels):
        return shape
    recipe = Path(getattr(run.codec, "weights", "")).name
    return RECIPES[recipe]().network.latent_shape(*shape[1:])  # type: ignore[union-attr]


def autoencoder_cost(run: AutoencoderRun) -> Cost:
    channels, side, _ = images_of(run.data)
    network = unfilled(replace(run.network, in_channels=channels))
    eps = torch.empty(1, *run.network.latent_shape(side, side), device="meta")
    counter = counted_call(network, (channels, side, side), eps, with_level=False)
    return Cost(parameter_count(network), counter.get_total_flops())


def classifier_cost(run: ClassifierRun) -> Cost:
    channels, side, classes = images_of(run.data)
    network = unfilled(replace(run.network, in_channels=channels, classes=classes))
    level = torch.empty(1, device="meta")
    counter = counted_call(network, (channels, side, side), level, with_level=False)
    return Cost(parameter_count(network), counter.get_total_flops())


COSTS: dict[type, Callable[[Any], Cost]] = {
    Run: diffusion_cost,
    AutoencoderRun: autoencoder_cost,
    ClassifierRun: classifier_cost,
}


# --- printing


def print_table() -> None:
    """All recipes, by their sources; as wide as the terminal, or 80 columns where there is none."""
    from rich.console import Console
    from rich.text import Text

    groups: dict[str, list[str]] = {}
    for name, recipe in RECIPES.items():
        groups.setdefault(group_of(recipe), []).append(name)
    console = Console(file=sys.stdout, highlight=False)
    for title in sorted(groups):
        console.print(Text(f"\n{title}", style="bold"))
        console.print(table_of(groups[title]))
    console.print(
        "\nFLOP: forward, for one image; training takes about three times as many. Sizes are at "
        "each recipe's own images.\nAll about one: sfumato recipes NAME. Train it: sfumato train "
        "NAME",
        markup=False,
    )


def table_of(names: list[str]) -> Any:
    """A row each: name, weights, FLOPs; what it trains, and below that whether it was trained."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("recipe", no_wrap=True, min_width=max(map(len, RECIPES)))
    table.add_column("weights", justify="right", no_wrap=True, min_width=7)
    table.add_column("FLOP", justify="right", no_wrap=True, min_width=6)
    table.add_column("what it trains; status")
    for name in names:
        recipe = RECIPES[name]
        cost = cost_of(recipe())
        told = Text(what_of(recipe)).append(f"\n{status_of(recipe)}", style="dim")
        table.add_row(name, short(cost.parameters), short(cost.flops), told)
    return table


def print_recipe(name: str, recipe: Recipe) -> None:
    """Everything about one: its docstring, cost, status and every field as --set takes it."""
    run = recipe()
    cost = cost_of(run)
    _, side, _ = images_of(run.data)
    facts = {
        "cost": f"{cost.parameters:,} weights, {short(cost.flops, 'FLOP')} forward for an image of "
        f"{side} x {side}, about {short(3 * cost.flops, 'FLOP')} in training",
        "status": status_of(recipe),
        "command": line_of(recipe, "Command") or f"sfumato train {name}",
    }
    print(f"{name}\n\n{inspect.getdoc(recipe) or 'It has no docstring.'}\n")
    print(facts_block("In short:", facts))
    print("\nSettings, any of which --set changes; what only the images can say is filled in then:")
    for path, value in fields_of(run).items():
        print(f"  {path}={value}")
