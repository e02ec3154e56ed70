"""What all pages are made of: the frame with style sheet and script, sections, tables, tiles, bars, and numbers in words.

A page is one file. It loads nothing: its policy forbids it, and tests look for it. The same content gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_LIVE = "; connect-src 'self'"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page. ``name``: its anchor, letters and ``-``; ``body`` is HTML; ``short``: its title in the list of contents."""

    name: str
    title: str
    body: str
    short: str = ""


def page(title: str, heading: str, subtitle: str, tiles: str, sections: Iterable[Section], *, live: bool = False) -> str:
    """A whole page. ``title`` and ``heading`` are plain text, ``subtitle`` and ``tiles`` HTML. ``live``: it asks where it comes from for
    itself, again and again."""
    shown = [section for section in sections if section.body]
    contents = "".join(f'<li><a href="#{section.name}">{escape(section.short or section.title)}</a></li>' for section in shown)
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en" class="nojs"{" data-live" if live else ""}><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}{_LIVE if live else ""}">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_text('style.css')}</style></head><body>",
        '<a class="skip" href="#content">Skip to the content</a>',
        f'<div class="frame"><header class="top"><div><h1>{escape(heading)}</h1><p class="soft">{subtitle}</p></div>',
        '<button id="theme" type="button">Light or dark</button></header>',
        f'<div class="columns"><nav class="toc" aria-label="Contents"><ul>{contents}</ul></nav><main id="content">',
        tiles,
        *((f'<section class="card" id="{s.name}" aria-labelledby="{s.name}-title"><h2 id="{s.name}-title">{escape(s.title)}</h2>'
            f'{s.body}</section>') for s in shown),
        f"</main></div></div><script>\n{_text('page.js')}</script></body></html>",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part) + "\n"


@cache
def _text(name: str) -> str:
    return (files("qfx.pages") / name).read_text(encoding="utf-8")


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """(number, what it is, class: "", "good" or "bad") side by side."""
    made = "".join(f'<div class="tile {kind}"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small, kind in entries)
    return f'<div class="tiles">{made}</div>' if entries else ""


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    label: str = "",
    name: str = "",
    sorts: bool = False,
    tall: bool = False,
    narrow: bool = False,
) -> str:
    """``rows``: cells as HTML (``cell``), or a row ready made as the only one. ``heads`` that end in a space stand over numbers. ``label`` says
    what it is to those who do not see it."""
    top = "".join(f'<th scope="col" class="n">{escape(h.strip())}</th>' if h.endswith(" ") else f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join(row[0] if len(row) == 1 and row[0].startswith("<tr") else f"<tr>{''.join(row)}</tr>" for row in rows)
    classes = " ".join(name for name, there in (("sorts", sorts), ("narrow", narrow)) if there)
    kind = f' class="{classes}"' if classes else ""
    called = f' id="{name}"' if name else ""
    told = f' role="region" aria-label="{escape(label)}" tabindex="0"' if label else ""
    return f'<div class="wide{" tall" if tall else ""}"{told}><table{called}{kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def cell(text: str, kind: str = "", *, value: float | None = None) -> str:
    """A cell of plain text; ``kind`` is its class, "name" makes a heading of the row; ``value`` is what it is sorted by."""
    return raw_cell(escape(text), kind, value=value)


def raw_cell(text: str, kind: str = "", *, value: float | None = None) -> str:
    """The same of HTML."""
    sort = "" if value is None else f' data-v="{_sorted(value)}"'
    tag = 'th scope="row"' if kind == "name" else "td"
    return f"<{tag}{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}{sort}>{text}</{tag[:2]}>"


def _sorted(value: float) -> str:
    return {math.inf: "1e300", -math.inf: "-1e300"}.get(value, f"{value:.10g}")


def bars(entries: Sequence[tuple[str, tuple[float, ...]]], label: Callable[[float], str], *, marked: Iterable[str] = ()) -> str:
    """Horizontal bars, one or two for each name; inf is as long as the longest, names that are ``marked`` stand out."""
    finite = [value for _, values in entries for value in values if math.isfinite(value)]
    longest, hot = max([*finite, 1e-12]) * 1.02, set(marked)
    lines = []
    for name, values in entries:
        tracks = ""
        for index, value in enumerate(values):
            size = 100 * min(max(value / longest, 0.004), 1.0)
            kind = "c" if name in hot and index == 0 else "b" if index else ""
            tracks += f'<span class="track"><i class="{kind}" style="width:{size:.2f}%"></i></span>'
        told = " / ".join(label(value) for value in values)
        called = f'<span class="name mono" title="{escape(name)}">{escape(name)}</span>'
        lines.append(f'<li>{called}<span>{tracks}</span><span class="value">{escape(told)}</span></li>')
    return f'<ul class="bars">{"".join(lines)}</ul>'


def command(text: str) -> str:
    """A line for the terminal."""
    return f"<pre>{escape(text)}</pre>"


def number(value: float) -> str:
    return f"{value + 0.0:.4g}"  # without the sign of -0


def count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def decibel(value: float | None) -> str:
    """Empty for None, what was not measured."""
    return "" if value is None else "exact" if value == math.inf else "no signal" if value == -math.inf else f"{value:.2f} dB"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def share(share: float) -> str:
    """Of a count: 0 only where there is none."""
    return "0" if not share else "< 0.01 %" if share < 1e-4 else percent(share)
