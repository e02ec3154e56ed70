"""Which file imports which, read from the sources and drawn: the rooms side by side, and the files of each room."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "qfx"
_CELL, _LABEL = 22, 92
_BOX, _ROW, _GAP, _WIDE = 22, 58, 10, 1000.0


def page() -> str:
    """The rooms as a matrix, then a drawing for every folder whose files import each other."""
    tree = modules()
    graph = {name: imports(tree, name) for name in tree}
    parts = [
        "# The house, drawn from the code\n",
        "Made from the import statements when this site was built; [the architecture](architecture.md) says what each room hides, and why. "
        "Only what is imported together with a module counts, not what a function imports when it is called. No file is imported, directly or "
        "not, by one that it imports (`tests/test_house.py`).\n",
        "## Rooms\n",
        "A row imports what its columns name; the number says how many pairs of files. Rooms stand in such an order that most lies above the "
        "diagonal: below it are the places where one room asks another back, by other files.\n",
        matrix(graph),
        "",
    ]
    for folder, files in sorted(folders(tree).items()):
        inside = {name: graph[name] & files for name in files}
        if not any(inside.values()):
            continue
        parts += [f"## {folder}\n", f"{len(files)} files; an arrow points to what is imported.\n", drawing(folder, inside, tree), ""]
    return "\n".join(parts)


def modules() -> dict[str, ast.Module]:
    """Every module of qfx by its name."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        name = ".".join(("qfx", *path.relative_to(SOURCES).with_suffix("").parts)).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: Mapping[str, ast.Module], name: str) -> frozenset[str]:
    """The modules of qfx that are imported when this one is."""
    found: set[str] = set()
    for node in _run_at_import(tree[name]):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder_of(name).split("/")[: 1 - node.level or None] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            whole = [f"{base}.{alias.name}" for alias in node.names]
            found.update(target if target in tree else base for target in whole)
    return frozenset(target for target in found if target in tree and target != name)


def names_torch(module: ast.Module) -> bool:
    """Whether torch is imported when the module is."""
    for node in _run_at_import(module):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        if any(name.split(".")[0] == "torch" for name in names):
            return True
    return False


def _run_at_import(module: ast.Module) -> Iterator[ast.stmt]:
    waiting: list[ast.stmt] = list(module.body)
    while waiting:
        node = waiting.pop()
        typing = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def folders(tree: Iterable[str]) -> dict[str, frozenset[str]]:
    """The modules of every folder."""
    found = defaultdict(set)
    for name in tree:
        found[folder_of(name)].add(name)
    return {folder: frozenset(names) for folder, names in found.items()}


def folder_of(name: str) -> str:
    place = SOURCES.joinpath(*name.split(".")[1:])
    return name.replace(".", "/") if place.is_dir() else name.rpartition(".")[0].replace(".", "/")


def room(name: str) -> str:
    """The folder directly in qfx/ that a module lies in, else ``qfx`` itself."""
    return "/".join(folder_of(name).split("/")[:2])


def between(graph: Mapping[str, Iterable[str]]) -> Counter[tuple[str, str]]:
    """How many pairs of files of two rooms there are of which the first imports the second."""
    return Counter((room(name), room(target)) for name, targets in graph.items() for target in targets if room(name) != room(target))


def ordered(counts: Mapping[tuple[str, str], int]) -> list[str]:
    """Rooms so that few import one before them: each in turn is put where that is least, until none moves."""
    found = sorted({name for pair in counts for name in pair})

    def back(order: Sequence[str]) -> int:
        place = {name: number for number, name in enumerate(order)}
        return sum(count for (a, b), count in counts.items() if place[b] < place[a])

    moved = True
    while moved:
        moved = False
        for name in sorted(found):
            others = [other for other in found if other != name]
            best = min(([*others[:at], name, *others[at:]] for at in range(len(found))), key=back)
            if back(best) < back(found):
                found, moved = best, True
    return found


def matrix(graph: Mapping[str, Iterable[str]]) -> str:
    """Rooms by rooms as SVG."""
    counts = between(graph)
    names = ordered(counts)
    most = max(counts.values())
    side = _LABEL + _CELL * len(names)
    parts = []
    for row, name in enumerate(names):
        short = escape(name.removeprefix("qfx/"))
        y, x = _LABEL + row * _CELL, _LABEL + row * _CELL
        parts.append(f'<text x="{_LABEL - 6}" y="{y + 15}" text-anchor="end">{short}</text>')
        parts.append(f'<text transform="translate({x + 15} {_LABEL - 6}) rotate(-90)">{short}</text>')
        parts.append(f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" opacity=".25"/>')
        for column, other in enumerate(names):
            count = counts[name, other]
            if count:
                at, shade = _LABEL + column * _CELL, 0.25 + 0.75 * (count / most) ** 0.5
                color = "#2f6fb0" if column > row else "#c96a12"
                parts.append(f'<rect x="{at}" y="{y}" width="{_CELL}" height="{_CELL}" fill="{color}" opacity="{shade:.2f}"/>')
                told = f"{name} imports {other}: {count}"
                parts.append(f'<text x="{at + _CELL / 2:g}" y="{y + 15}" text-anchor="middle" font-size="9"><title>{told}</title>{count}</text>')
    return _svg(side + 4, side + 4, "How many files of each room import files of each other room", parts, wide="44rem")


def levels(graph: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """How many files stand below each, one importing the other. The graph has no circles."""
    found: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in found:
            found[name] = max((of(target) + 1 for target in graph[name]), default=0)
        return found[name]

    for name in sorted(graph):
        of(name)
    return found


def drawing(folder: str, graph: Mapping[str, Iterable[str]], tree: Mapping[str, ast.Module]) -> str:
    """The files of a folder, each above those that it imports."""
    level = levels(graph)
    rows: list[list[str]] = []
    for height in range(max(level.values()), -1, -1):
        rows += _broken(sorted(name for name in graph if level[name] == height))
    place, parts, width = {}, [], 0.0
    for number, row in enumerate(rows):
        x = 4.0
        for name in row:
            place[name] = (x, number * _ROW + 4.0, _width(name))
            x += _width(name) + _GAP
        width = max(width, x)
    for name, targets in sorted(graph.items()):
        x, y, wide = place[name]
        for target in sorted(targets):
            to_x, to_y, to_wide = place[target]
            start, end = (x + wide / 2, y + _BOX), (to_x + to_wide / 2, to_y)
            bend = (end[1] - start[1]) / 2
            path = f"M{start[0]:.1f} {start[1]:g}C{start[0]:.1f} {start[1] + bend:g} {end[0]:.1f} {end[1] - bend:g} {end[0]:.1f} {end[1]:g}"
            parts.append(f'<path d="{path}" fill="none" stroke="#2f6fb0" opacity=".45"><title>{_short(name)} imports {_short(target)}</title></path>')
    for name, (x, y, wide) in sorted(place.items()):
        told = (ast.get_docstring(tree[name]) or _short(name)).split("\n\n")[0].replace("\n", " ").replace("``", "")
        box = f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{_BOX}" rx="4" fill="var(--md-default-bg-color, #fff)" stroke="currentColor"/>'
        parts.append(f'<g><title>{escape(told)}</title>{box}<text x="{x + wide / 2:g}" y="{y + 15:g}" text-anchor="middle">{_short(name)}</text></g>')
    return _svg(width, len(rows) * _ROW - 28, f"The files of {folder}, and which imports which", parts)


def _broken(names: Sequence[str]) -> list[list[str]]:
    """Names in rows that are not wider than the drawing."""
    rows: list[list[str]] = [[]]
    x = 0.0
    for name in names:
        x += _width(name) + _GAP
        if x > _WIDE and rows[-1]:
            rows.append([])
            x = _width(name) + _GAP
        rows[-1].append(name)
    return rows


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _width(name: str) -> float:
    return 6.6 * len(_short(name)) + 14


def _svg(width: float, height: float, told: str, parts: Iterable[str], wide: str = "") -> str:
    style = f"max-width:{wide or f'{width:g}px'}"
    box = f'viewBox="0 0 {width:g} {height:g}" width="100%" style="{style}"'
    return f'<svg {box} role="img" aria-label="{escape(told)}" font-size="11" fill="currentColor">{"".join(parts)}</svg>'
