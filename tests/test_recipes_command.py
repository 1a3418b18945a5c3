"""sfumato recipes: what docstrings promise is so; costs are those of the networks themselves."""

import inspect
import re
import shlex
from dataclasses import replace

import pytest
import torch

from sfumato.arguments import Train
from sfumato.assembly import build
from sfumato.commands.recipes import (
    NOT_TRAINED,
    cost_of,
    group_of,
    line_of,
    status_of,
    what_of,
)
from sfumato.config import Run
from sfumato.data import load
from sfumato.networks.describe import flops, parameter_count
from sfumato.parsing import parse
from sfumato.planning import fields_of
from sfumato.recipes import RECIPES
from sfumato.tasks import TASKS
from sfumato.text import TextConfig

DIGITS = [name for name, recipe in RECIPES.items() if recipe().data.source == "digits"]
UNITS = {"": 1, " k": 1e3, " M": 1e6}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is_from_and_what_to_type(name):
    recipe = RECIPES[name]
    assert recipe().name == recipe().recipe == recipe.__name__ == name
    assert what_of(recipe).endswith((".", "!"))
    assert line_of(recipe, "Source")
    assert line_of(recipe, "Command")


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_of_a_recipe_can_be_typed(name):
    parsed = []
    for command in re.split(r"; then\s", line_of(RECIPES[name], "Command")):
        program, *words = shlex.split(command)
        assert program == "sfumato"
        parsed.append(parse(words))
    trains = [args.source for args in parsed if isinstance(args, Train)]
    assert trains == [name] or name.startswith("compare_")


def claims_of(name):
    return re.findall(r"([\d.,]*\d)( [kM])? weights", inspect.getdoc(RECIPES[name]) or "")


@pytest.mark.parametrize("name", [*filter(claims_of, RECIPES)])
def test_the_weights_that_a_docstring_claims_are_counted(name):
    """To the digits that it gives: 18.5 M is 18.45 to 18.55 million."""
    counted = cost_of(RECIPES[name]()).parameters
    for number, unit in claims_of(name):
        digits = number.replace(",", "")
        zeros = len(digits) - len(digits.rstrip("0")) if "." not in digits else 0
        last = 10.0 ** (zeros - len(digits.partition(".")[2]))  # what the last digit is worth
        assert abs(float(digits) - counted / UNITS[unit]) <= last / 2, f"{counted:,} are counted"


@pytest.mark.parametrize("name", DIGITS)
def test_costs_without_the_images_are_those_with_them(name):
    data = load("digits", limit=60, labels=RECIPES[name]().data.labels)
    run = RECIPES[name]()
    settled = TASKS[type(run)].settled(run, data)
    network = settled.network.build()
    cost = cost_of(run)
    assert cost.parameters == parameter_count(network)
    if isinstance(run, Run):
        assert cost.parameters == parameter_count(build(settled, torch.device("cpu")))
        assert cost.flops == flops(network, (1, 28, 28), settled.network.classes)


def test_a_caption_counts_as_long_as_the_run_reads_it():
    """Three lengths, evenly apart, cost as much more each; a run without captions reads none."""
    run = RECIPES["emoji_text"]()
    lengths = [cost_of(replace(run, text=TextConfig(max_tokens=n))).flops for n in (8, 16, 24)]
    assert lengths[0] < lengths[1] == cost_of(run).flops
    assert lengths[2] - lengths[1] == lengths[1] - lengths[0]
    assert replace(run, network=replace(run.network, context=8)).caption == (8, 16)
    assert RECIPES["digits"]().caption == (0, 0)


def test_all_recipes_are_listed_in_80_columns_by_their_source(sfumato):
    printed = sfumato("recipes")
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if line.split() and line.split()[0] in RECIPES]
    assert sorted(names) == sorted(RECIPES)
    titles = {group_of(recipe) for recipe in RECIPES.values()}
    assert all(title[:79] in printed for title in titles)
    cost = r" +18\.5 M +3\.27 G +diffusers' UNet2DModel"
    assert re.search("unet2d_mnist" + cost, printed)


def test_one_recipe_is_told_whole(sfumato):
    printed = sfumato("recipes", "noisy_classifier")
    assert inspect.getdoc(RECIPES["noisy_classifier"]) in printed
    run = RECIPES["noisy_classifier"]()
    assert all(f"  {path}={value}\n" in printed for path, value in fields_of(run).items())
    assert f"{cost_of(run).parameters:,} weights" in printed


def test_a_recipe_of_ones_own_is_told_too_and_an_unknown_one_has_near_names(sfumato, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from sfumato.recipes import RECIPES\ndef small():\n    return RECIPES['digits']()\n"
    )
    assert "It has no docstring." in sfumato("recipes", "mine.py:small")
    with pytest.raises(SystemExit, match="no recipe 'digit'; did you mean digits"):
        sfumato("recipes", "digit")


def documented(text):
    def recipe():
        raise AssertionError("a docstring is read, not run")

    recipe.__doc__ = text
    return recipe


def test_a_line_of_a_docstring_goes_on_where_it_is_indented():
    recipe = documented(
        """What it is.

        Source: 003, its
            second part
        Command: sfumato train x; then
            sfumato sample x
        Trained: 15 min on two cores, 8,000 steps; docs/recipes.md

        Something else.
        """
    )
    assert line_of(recipe, "Source") == "003, its second part"
    assert line_of(recipe, "Command") == "sfumato train x; then sfumato sample x"
    assert status_of(recipe) == "trained: 15 min on two cores, 8,000 steps; docs/recipes.md"
    assert group_of(recipe).startswith("Source 003: ")


def test_without_such_a_line_it_was_not_trained():
    assert status_of(documented("What it is.")) == NOT_TRAINED
    assert group_of(documented("What it is.")) == "Of our own"
    assert group_of(documented("It.\n\nSource: Ho et al. (2020)")) == "Ho et al. (2020)"
