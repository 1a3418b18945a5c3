"""The lessons: every page is a program whose facts hold, the same one in both languages."""

import re
from pathlib import Path

import pytest
import torch

LESSONS = Path(__file__).parents[1] / "docs" / "lessons"
PAGES = sorted(path.stem for path in LESSONS.glob("[0-9]*.md") if ".zh" not in path.name)
FILES = sorted(path.name for path in LESSONS.glob("*.md"))


def text_of(name: str) -> str:
    return (LESSONS / name).read_text("utf-8")


def blocks_of(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text_of(name), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_a_program_whose_facts_hold(page):
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in blocks_of(f"{page}.md"):
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_states_facts_and_both_languages_the_same(page):
    blocks = blocks_of(f"{page}.md")
    assert blocks == blocks_of(f"{page}.zh-CN.md")
    assert sum(len(re.findall(r"\bassert(?:_close)?\b", block)) for block in blocks) >= 4
    other = [re.findall(r"\]\((\.\./pictures[^)]+)\)", text_of(f"{page}{end}")) for end in ENDS]
    assert other[0] == other[1]


ENDS = (".md", ".zh-CN.md")


@pytest.mark.parametrize("name", FILES)
def test_every_link_leads_to_a_file(name):
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(name)):
        assert (LESSONS / target).exists(), target


@pytest.mark.parametrize("end", ENDS)
def test_the_way_through_names_every_page(end):
    readme = text_of(f"README{end}")
    assert [page for page in PAGES if f"]({page}{end})" not in readme] == []
    assert len(PAGES) == 10


def test_the_recipes_it_sends_to_are_there():
    from sfumato.vocabulary import RECIPE_NAMES

    for end in ENDS:
        named = re.findall(r"`sfumato (?:train|explain) (\w+)", text_of(f"README{end}"))
        assert len(named) == 6
        assert set(named) <= set(RECIPE_NAMES)
