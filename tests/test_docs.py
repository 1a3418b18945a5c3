"""The pages of docs/: what they name exists, and both languages say it of the same lines."""

import ast
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from sfumato.recipes import RECIPES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
SOURCES = ["sources.md", "sources.zh-CN.md"]


def claims(page: str) -> list[list[str]]:
    """The cells of every row of three or four below the heads; a bar in a formula stays."""
    lines = (DOCS / page).read_text("utf-8").splitlines()
    below = [
        line
        for line, after in pairwise([*lines, ""])
        if line.startswith("|") and not after.startswith("|-")
    ]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in below]
    return [[cell.strip() for cell in row] for row in rows if set(row[0]) - {"-"} and len(row) < 5]


@pytest.mark.parametrize("page", SOURCES)
def test_every_test_that_is_named_exists(page):
    text = (DOCS / page).read_text("utf-8")
    found = re.findall(r"\[(test_\w+)\]\(\.\./tests/(\w+)\.py\): ([\w ]+)", text)
    named = [(file, f"test_{words.strip().replace(' ', '_')}") for _, file, words in found]
    missing = {f"{file}::{name}" for file, name in named if name not in functions_of(file)}
    assert all(told == file for told, file, _ in found)
    assert len(named) > 100
    assert not missing


@cache
def functions_of(file: str) -> set[str]:
    """The functions of a file of tests; none where it is not there."""
    path = ROOT / "tests" / f"{file}.py"
    tree = ast.parse(path.read_text("utf-8") if path.is_file() else "")
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", SOURCES)
def test_every_claim_is_held_by_a_test(page):
    found = claims(page)
    assert len(found) > 90
    assert [row for row in found if "](../tests/test_" not in row[-1]] == []


def test_both_languages_have_the_same_rows():
    english, chinese = (claims(page) for page in SOURCES)
    assert [row[-1] for row in english] == [row[-1] for row in chinese]
    lines = [(row[0], other[0]) for row, other in zip(english, chinese) if row[0][0].isdigit()]
    assert len(lines) > 80
    assert [pair for pair in lines if pair[0] != pair[1]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_leads_to_a_file(page):
    text = page.read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+?)\)", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", SOURCES)
def test_every_recipe_that_is_named_exists(page):
    lines = (DOCS / page).read_text("utf-8").splitlines()
    told = [line for line in lines if re.match("“.*`", line)]
    named = [name for line in told for name in re.findall(r"`(\w+)`", line)]
    assert len(told) == 5
    assert set(named) <= set(RECIPES)
