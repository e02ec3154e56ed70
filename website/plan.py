"""``make house``: the rooms of qfx and which ask which, drawn from the sources into docs/images/house.svg."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from website import house

FILE = Path(__file__).resolve().parent.parent / "docs" / "images" / "house.svg"
_BOX, _GAP, _LINE, _ROW, _EDGE = 196, 22, 15, 128, 20
_MOST = 6
_WITH, _WITHOUT = ("#eff6ff", "#2563eb"), ("#f0fdf4", "#15803d")


def picture() -> str:
    """Each room above those that it imports, arrows only where no longer way leads there; blue where torch is imported, green where it is not."""
    tree = house.modules()
    below = downward(house.between({name: house.imports(tree, name) for name in tree}))
    height = house.levels(below)
    levels = [[name for name in below if height[name] == level] for level in range(max(height.values()), -1, -1)]
    rows = [row[at : at + _MOST] for row in levels for at in range(0, len(row), _MOST)]
    most = max(map(len, rows))
    width = 2 * _EDGE + most * _BOX + (most - 1) * _GAP
    place = _placed(rows, width)
    parts = []
    for name, targets in below.items():
        (x, y), bend = place[name], _ROW / 3
        for target in sorted(direct(below, name)):
            to_x, to_y = place[target]
            start, end = (x + _BOX / 2, y + _ROW - 44.0), (to_x + _BOX / 2, to_y - 1.0)
            curve = f"M{start[0]:g} {start[1]:g}C{start[0]:g} {start[1] + bend:.0f} {end[0]:g} {end[1] - bend:.0f} {end[0]:g} {end[1]:g}"
            told = f"{name} imports {target}{' and what it imports' if targets & below[target] else ''}"
            parts.append(f'<path d="{curve}" fill="none" stroke="#64748b" opacity=".6" marker-end="url(#tip)"><title>{told}</title></path>')
    parts += [_box(name, place[name], tree) for name in place]
    legend = [("rooms with torch", _WITH), ("rooms without", _WITHOUT)]
    tall = _EDGE + 30 + len(rows) * _ROW - 30
    for number, (told, (fill, line)) in enumerate(legend):
        x = _EDGE + 190 * number
        parts.append(f'<rect x="{x}" y="14" width="14" height="14" rx="3" fill="{fill}" stroke="{line}"/><text x="{x + 20}" y="25.5">{told}</text>')
    tip = '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 10 5 0 10z" '
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {tall}" width="{width}" height="{tall}" font-size="11.5" fill="#334155" '
    head += 'font-family="Helvetica, Arial, sans-serif" role="img" aria-label="The rooms of qfx, each above those that it imports">'
    paper = f'<rect width="{width}" height="{tall}" rx="12" fill="#fff"/>'
    return "\n".join([head, f'{tip}fill="#64748b"/></marker></defs>', paper, *parts, "</svg>\n"])


def downward(counts: Mapping[tuple[str, str], int]) -> dict[str, frozenset[str]]:
    """What each room imports of those behind it in the order in which least is imported against it; old names and ``qfx`` itself are left out."""
    order = [name for name in house.ordered(counts) if name not in ("qfx", "qfx/codegen")]
    return {name: frozenset(other for other in order[at + 1 :] if (name, other) in counts) for at, name in enumerate(order)}


def direct(below: Mapping[str, frozenset[str]], name: str) -> frozenset[str]:
    """The targets to which no other target leads."""

    def reached(start: str) -> frozenset[str]:
        return below[start].union(*(reached(target) for target in below[start]))

    return below[name] - frozenset().union(*(reached(target) for target in below[name]))


def with_torch(room: str, tree: Mapping[str, ast.Module]) -> bool:
    """Whether a file of the room imports torch when it is imported."""
    return any(house.names_torch(module) for name, module in tree.items() if house.room(name) == room)


def _placed(rows: Sequence[Sequence[str]], width: int) -> dict[str, tuple[float, float]]:
    place = {}
    for number, row in enumerate(rows):
        left = (width - len(row) * _BOX - (len(row) - 1) * _GAP) / 2
        for at, name in enumerate(row):
            place[name] = (left + at * (_BOX + _GAP), _EDGE + 24.0 + number * _ROW)
    return place


def _box(name: str, place: tuple[float, float], tree: Mapping[str, ast.Module]) -> str:
    fill, line = _WITH if with_torch(name, tree) else _WITHOUT
    told = " ".join((ast.get_docstring(tree[name.replace("/", ".")]) or "").split("\n\n")[0].replace("``", "").split())
    first = re.split(r"[.;](?:\s|$)", told)[0]
    x, y = place
    words = textwrap.shorten(first, 90, placeholder=" ...")
    lines = "".join(
        f'<text x="{x + 10:g}" y="{y + 35 + _LINE * number:g}">{escape(one)}</text>' for number, one in enumerate(textwrap.wrap(words, 31))
    )
    box = f'<rect x="{x:g}" y="{y:g}" width="{_BOX}" height="{_ROW - 44}" rx="8" fill="{fill}" stroke="{line}" stroke-width="1.4"/>'
    title = f'<text x="{x + 10:g}" y="{y + 18:g}" font-size="13.5" font-weight="bold" fill="#0f172a">{name.removeprefix("qfx/")}/</text>'
    return f"<g><title>{escape(told)}</title>{box}{title}{lines}</g>"


if __name__ == "__main__":
    FILE.write_text(picture(), encoding="utf-8")
