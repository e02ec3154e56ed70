"""Tables for notebooks: HTML that brings no style but what it needs, so that it follows the notebook's own, light or dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_CELL = "padding:.15em .6em;white-space:nowrap"


def notebook_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = (), note: str = "") -> str:
    """``rows`` of plain text below ``head``; the columns ``numbers`` stand right. ``note``: a line below it."""
    side = ["right" if column in numbers else "left" for column in range(len(head))]
    top = "".join(f'<th scope="col" style="text-align:{at};{_CELL}">{escape(text)}</th>' for text, at in zip(head, side, strict=True))
    lines = []
    for row in rows:
        cells = "".join(f'<td style="text-align:{at};{_CELL}">{escape(text)}</td>' for text, at in zip(row, side, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    below = f"<div>{escape(note)}</div>" if note else ""
    return (
        f'<div style="overflow-x:auto"><table><caption style="text-align:left;caption-side:top">{escape(title)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>{below}</div>"
    )


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """The same for terminals, without a title; columns that are empty throughout are left out."""
    shown = [column for column in range(len(head)) if any(row[column] for row in rows)]
    widths = {column: max(len(line[column]) for line in (head, *rows)) for column in shown}
    lines = ["  ".join(line[c].rjust(widths[c]) if c in numbers else line[c].ljust(widths[c]) for c in shown).rstrip() for line in (head, *rows)]
    return "\n".join(lines) + "\n"
