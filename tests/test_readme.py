"""What the READMEs say is true: the example runs, the files are there, the table is the tree."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README.zh-CN.md")


def python_blocks(readme: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("readme", READMES)
def test_the_python_example_runs(readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    recipe, block = python_blocks(readme)
    made: dict[str, object] = {}
    exec(recipe, made)
    assert made["calm"]().train.lr == 1e-3  # type: ignore[operator]
    names: dict[str, object] = {}
    exec(block.replace("range(30)", "range(3)"), names)  # the example is ours
    assert (tmp_path / "drawn.png").stat().st_size > 1000


def test_both_examples_are_the_same_program():
    plain = [
        [line.partition("#")[0].rstrip() for line in python_blocks(readme)[1].splitlines()]
        for readme in READMES
    ]
    assert plain[0] == plain[1]


def test_the_table_of_files_is_the_tree():
    layout = runpy.run_path(str(ROOT / "scripts" / "layout.py"))
    readme = (ROOT / "README.md").read_text("utf-8")
    assert layout["replaced"](readme) == readme, "run: python scripts/layout.py --write"


def test_the_chinese_table_names_every_module():
    text = (ROOT / "README.zh-CN.md").read_text("utf-8")
    for path in (ROOT / "src" / "sfumato").glob("*.py"):
        if path.name != "__init__.py":
            assert f"{path.name}`" in text, path.name


@pytest.mark.parametrize("readme", READMES)
def test_every_link_leads_to_a_file(readme):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / readme).read_text("utf-8")):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("readme", READMES)
def test_every_flag_that_is_shown_exists(readme):
    from sfumato.parsing import parse

    shown = re.findall(
        r"^sfumato ((?:train|sample|info|compare|distill|tune|sweep|spectra|doctor|explain|import"
        r"|export) .*?)(?:\s+#.*)?$",
        (ROOT / readme).read_text("utf-8"),
        re.M,
    )
    assert len(shown) == 21
    for command in shown:
        parse(shlex.split(command))
