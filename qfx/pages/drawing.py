"""The graph as a drawing: operators as boxes, casts as pills that say their type, and the type of every other value on its lines."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import pairwise

from qfx.fixed.type import FixedType
from qfx.ir import words
from qfx.ir.graph import Graph, Node
from qfx.ir.text import describe
from qfx.ir.within import inside
from qfx.operators import Cast, Input, MinifloatCast
from qfx.pages.layout import Placed, place

_CHARACTER, _SMALL = 6.6, 5.9
_FRAME, _TITLE = 16.0, 20.0


def short_type(type_: FixedType) -> str:
    """Without the modes, which stand at the casts: ``ap_ufixed<4,0>``."""
    return str(FixedType(type_.width, type_.int_bits, type_.signed))


def cast_type(op: Cast | Input | MinifloatCast) -> str:
    """The type and the modes, or the format and the unit of its smallest number, with as few characters as they need."""
    if isinstance(op, MinifloatCast):
        return f"{op.kind} x 2^{op.kind.frac_bits - op.frac_bits}" if op.frac_bits != op.kind.frac_bits else str(op.kind)
    element = op.cast.element
    points = "" if len(set(op.cast.int_bits)) == 1 else f" I {min(op.cast.int_bits)}..{max(op.cast.int_bits)}"
    return f"{short_type(element)}{points} {element.q.value.removeprefix('AP_')} {element.o.value.removeprefix('AP_')}"


def drawing(graph: Graph, anchors: dict[str, str], hot: frozenset[str] = frozenset()) -> str:
    """As SVG; each node is a link to the part of the page called ``anchors[name]``, by its name in the whole model. What a loop does at each step
    stands below the graph, in a frame of its own. ``hot``: nodes that stand out."""
    margin, top = 14, 0.0
    blocks: list[tuple[float, str]] = []
    for start, title, shown in _graphs(graph):
        lines = {node.name: _lines(shown, node) for node in shown.nodes}
        placed = place(
            {name: _size(*text) for name, text in lines.items()}, [(source, node.name) for node in shown.nodes for source in node.inputs], 34.0
        )
        inset, above = (_FRAME, _FRAME + _TITLE) if title else (0.0, 0.0)
        made = _nodes(shown, placed, lines, start, anchors, hot)
        across, down = max(placed.width, len(title) * _CHARACTER) + 2 * inset, placed.height + above + inset
        if title:
            top += 2 * _FRAME
            left = (across - placed.width) / 2
            made = (
                f'<path class="frame" d="M0 {top:.1f}h{across:.1f}v{down:.1f}h{-across:.1f}z"/><text class="op" x="{inset:g}" y="{top + _TITLE:.1f}">'
                f'{escape(title)}</text><g transform="translate({left:.1f} {top + above:.1f})">{made}</g>'
            )
        blocks.append((across, made))
        top += down
    width = max(across for across, _ in blocks)
    parts = [made if across == width else f'<g transform="translate({(width - across) / 2:.1f} 0)">{made}</g>' for across, made in blocks]
    wide, tall = width + 2 * margin, top + 2 * margin
    return (
        f'<svg viewBox="{-margin} {-margin} {wide:.0f} {tall:.0f}" width="{wide:.0f}" height="{tall:.0f}" role="group" '
        f'aria-label="The graph of {escape(graph.name)}, {len(anchors)} nodes">{"".join(parts)}</svg>'
    )


def _graphs(graph: Graph, start: str = "", title: str = "") -> Iterator[tuple[str, str, Graph]]:
    """The graph and those of its loops, each with what names in it begin with, and what it is called ("" of the outermost)."""
    yield start, title, graph
    for node in graph.nodes:
        if (body := node.op.inner()) is not None:
            yield from _graphs(body, inside(start + node.name, ""), f"each step of {start}{node.name}")


def _nodes(graph: Graph, placed: Placed, lines: dict[str, tuple[str, str]], start: str, anchors: dict[str, str], hot: frozenset[str]) -> str:
    parts = []
    casts = {node.name for node in graph.nodes if isinstance(node.op, Cast | Input | MinifloatCast)}
    labelled: set[str] = set()
    for node in graph.nodes:
        for source in dict.fromkeys(node.inputs):
            label = "" if source in casts or source in labelled else short_type(graph.infos[source].type)
            labelled.add(source)
            parts.append(_edge(placed, source, node.name, label))
    for node in graph.nodes:
        parts.append(_box(graph, node, placed, lines[node.name], anchors[start + node.name], start + node.name in hot))
    return "".join(parts)


def _lines(graph: Graph, node: Node) -> tuple[str, str]:
    """What stands in a node, large and small."""
    shape = words.sizes(graph.infos[node.name].shape)
    if isinstance(node.op, Input):
        return node.name, f"{cast_type(node.op)}  {shape}"
    if isinstance(node.op, Cast | MinifloatCast):
        return cast_type(node.op), ""
    return describe(node.op), f"{_fitting(node.name)}  {shape}"


def _fitting(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _size(large: str, small: str) -> tuple[float, float]:
    width = max(len(large) * _CHARACTER, len(small) * _SMALL) + 20
    return (width, 36.0) if small else (width + 4, 20.0)


def _edge(placed: Placed, source: str, target: str, label: str) -> str:
    points = placed.lines[source, target]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path += (
            f"V{y1 - 4 if (x1, y1) == points[-1] else y1:.1f}"
            if abs(x1 - x0) < 0.5
            else f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
        )
    x, y = points[-1]
    made = f'<path d="{path}"/><path class="head" d="M{x - 3.5:.1f} {y - 6:.1f}h7l-3.5 6z"/>'
    if label:
        made += f'<text class="edge" x="{points[0][0] + 5:.1f}" y="{points[0][1] + 12:.1f}">{escape(label)}</text>'
    return made


def _box(graph: Graph, node: Node, placed: Placed, lines: tuple[str, str], anchor: str, hot: bool) -> str:
    box, (large, small) = placed.boxes[node.name], lines
    kind = "port" if isinstance(node.op, Input) or node.name in graph.outputs else "cast" if isinstance(node.op, Cast | MinifloatCast) else ""
    kind += " hot" if hot else ""
    left, top = box.x - box.width / 2, box.y - box.height / 2
    info = graph.infos[node.name]
    told = f"{node.name}: {describe(node.op)}, {words.sizes(info.shape)}, {short_type(info.type)}"
    key = f"{node.name} {describe(node.op)} {short_type(info.type)} {words.sizes(info.shape)}".lower()
    radius = 10 if isinstance(node.op, Cast | MinifloatCast) else 5
    text = f'<text class="op mid" x="{box.x:.1f}" y="{box.y + (-3 if small else 4):.1f}">{escape(large)}</text>'
    if small:
        text += f'<text class="soft mid" x="{box.x:.1f}" y="{box.y + 12:.1f}">{escape(small)}</text>'
    return (
        f'<a href="#{anchor}" class="{kind.strip()}" data-k="{escape(key)}" aria-label="{escape(told)}"><title>{escape(told)}</title>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius}"/>{text}</a>'
    )
