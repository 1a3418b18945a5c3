"""What pages are made of: sections, tables, cards, commands. Text comes in plain and is escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .embedding import PICTURE_BYTES, embedded


def section(title: str, *parts: str, name: str = "") -> str:
    """parts: HTML. name: what links to it say; the title's own letters unless given."""
    anchor = name or "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())
    return "\n".join(
        [f'<section id="{anchor}">', f"<h2>{escape(title)}</h2>", *parts, "</section>"]
    )


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def advice(text: str) -> str:
    """A paragraph in which `...` are commands."""
    parts = escape(text).split("`")
    marked = [f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)]
    return f"<p>{''.join(marked)}</p>"


def picture(path: Path, alt: str, style: str = "", most: int = PICTURE_BYTES) -> str:
    """The picture in a box of this style: "wide" scrolls, "plot" is dimmed in the dark."""
    return f'<div class="{style}">{embedded(path, alt, most)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """numbers: the columns that are set to the right."""

    def cells(row: Sequence[str], tag: str) -> str:
        made = [
            f"<{tag}{' class=number' if i in numbers else ''}>{escape(text)}</{tag}>"
            for i, text in enumerate(row)
        ]
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(cells(row, "td") for row in rows)
    return (
        f'<div class="wide"><table><thead>{cells(head, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Cards of (value, what it is)."""
    cards = [f"<div><b>{escape(v)}</b><span>{escape(n)}</span></div>" for v, n in pairs]
    return f'<div class="facts">{"".join(cards)}</div>'


def group(title: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A card of (name, value)."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f'<div class="group"><h3>{escape(title)}</h3><dl>{lines}</dl></div>'


def command(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def links(sections: Sequence[str]) -> str:
    """A line of links to the sections that there are."""
    found = []
    for made in sections:
        head = made.partition('<section id="')[2]
        anchor, _, rest = head.partition('"')
        title = rest.partition("<h2>")[2].partition("</h2>")[0]
        if anchor:
            found.append(f'<a href="#{anchor}">{title}</a>')
    return f"<nav>{''.join(found)}</nav>" if len(found) > 1 else ""


def number(value: Any) -> str:
    """A number of a JSON file as people read it; other values as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.1e}"


def with_error(found: Mapping[str, Any], value: str = "mean") -> str:
    """ "0.123 ± 0.004" of a mapping with an error."""
    error = found.get("error")
    return number(found[value]) + ("" if error is None else f" ± {error:.2g}")
