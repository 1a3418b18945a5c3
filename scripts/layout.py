"""Print the README's table of the package: a line a file, from each file's first line.

python scripts/layout.py            print it
python scripts/layout.py --write    put it into README.md between its two markers
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- layout -->", "<!-- /layout -->"


def rows() -> list[str]:
    """A Markdown row a source file that says something of itself."""
    found = []
    for path in sorted((ROOT / "src" / "sfumato").rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        if text:
            name = path.relative_to(ROOT / "src" / "sfumato").as_posix()
            first = text.partition("\n")[0].replace("|", "\\|").rstrip(".")
            found.append(f"| `{name}` | {first} |")
    return found


def table() -> str:
    return "\n".join(["| file in src/sfumato | what it is |", "|---|---|", *rows()])


def replaced(readme: str) -> str:
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        path = ROOT / "README.md"
        path.write_text(replaced(path.read_text("utf-8")), "utf-8")
    else:
        print(table())
