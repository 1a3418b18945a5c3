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


def interval(error: float) -> str:
    """What stands behind a figure whose error is known: twice it, everywhere on the page."""
    return f"± {2 * error:.2f}"


def commit_of(part: Part) -> str:
    """Ten digits of the commit that it was measured at, and the mark of files that differed."""
    told: str = part.machine["commit"]
    digits = told.rstrip("+")
    return digits[:10] + told[len(digits) :]


def processor(part: Part) -> str:
    """What it was measured on, and the widest instructions that PyTorch used there."""
    return f"{part.machine['cpu']}, {part.machine['cpu_capability']}"
