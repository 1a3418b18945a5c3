"""Pieces of the page that its sections share."""

from collections.abc import Sequence

from .results import Part, Row


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def again(*parts: Part) -> str:
    """The commands that measure the parts again."""
    return "\n```bash\n" + "".join(f"{part.command}\n" for part in parts) + "```\n"


def brackets(row: Row, digits: int = 3) -> str:
    low, high = row.quartiles
    return f"{row.median:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def processor(part: Part) -> str:
    """What it was measured on, and the widest instructions that PyTorch used there."""
    return f"{part.machine['cpu']}, {part.machine['cpu_capability']}"
