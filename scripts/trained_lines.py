"""Write the line Trained of every recipe's docstring, from docs/recipes/*.json.

    python scripts/trained_lines.py

`sfumato recipes` shows it; tests/test_recipes_page.py holds that it is what the records say.
"""

import ast
import textwrap
from pathlib import Path

from recipes_page import DOCS, read_all
from recipes_words import trained_words

from sfumato.recipes import RECIPES

FOLDER = Path(__file__).parents[1] / "src" / "sfumato" / "recipes"


def main() -> None:
    words = {name: trained_words(record) for name, record in read_all(DOCS / "recipes").items()}
    for path in sorted(FOLDER.glob("*.py")):
        text = path.read_text("utf-8")
        lines = text.splitlines()
        for node in reversed(ast.parse(text).body):
            if isinstance(node, ast.FunctionDef) and node.name in RECIPES:
                rewrite(lines, node, words.get(node.name, ""))
        path.write_text("\n".join(lines) + "\n", "utf-8")


def rewrite(lines: list[str], node: ast.FunctionDef, words: str) -> None:
    """Replace the line Trained of the docstring, or add one at its end; none without words."""
    first = node.body[0]
    assert isinstance(first, ast.Expr)
    assert first.end_lineno is not None
    end = first.end_lineno - 1  # the line of the closing quotes
    start = next((i for i in range(first.lineno - 1, end) if lines[i].startswith(MARK)), end)
    told = textwrap.wrap(words, 96 - len(MARK), initial_indent=MARK, subsequent_indent=" " * 8)
    lines[start:end] = told if words else []


MARK = "    Trained: "


if __name__ == "__main__":
    main()
