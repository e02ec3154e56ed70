"""The graph as a drawing: operators as boxes, casts as pills that say their type, and the type of every other value on its lines."""

from __future__ import annotations

from html import escape
from itertools import pairwise

from qfx.fixed.type import FixedType
from qfx.ir import words
from qfx.ir.graph import Graph, Node
from qfx.ir.text import describe
from qfx.operators import Cast, Input
from qfx.pages.layout import Placed, place

_CHARACTER, _SMALL = 6.6, 5.9


def short_type(type_: FixedType) -> str:
    """Without the modes, which stand at the casts: ``ap_ufixed<4,0>``."""
    return str(FixedType(type_.width, type_.int_bits, type_.signed))


def cast_type(op: Cast | Input) -> str:
    """The type and the modes, with as few characters as they need."""
    element = op.cast.element
    points = "" if len(set(op.cast.int_bits)) == 1 else f" I {min(op.cast.int_bits)}..{max(op.cast.int_bits)}"
    return f"{short_type(element)}{points} {element.q.value.removeprefix('AP_')} {element.o.value.removeprefix('AP_')}"


def drawing(graph: Graph, anchors: dict[str, str], hot: frozenset[str] = frozenset()) -> str:
    """As SVG; each node is a link to the part of the page called ``anchors[name]``. ``hot``: nodes that stand out."""
    lines = {node.name: _lines(graph, node) for node in graph.nodes}
    sizes = {name: _size(*text) for name, text in lines.items()}
    placed = place(sizes, [(source, node.name) for node in graph.nodes for source in node.inputs], 34.0)
    margin = 14
    width, height = placed.width + 2 * margin, placed.height + 2 * margin
    parts = [
        f'<svg viewBox="{-margin} {-margin} {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="group" '
        f'aria-label="The graph of {escape(graph.name)}, {len(graph.nodes)} nodes">'
    ]
    casts = {node.name for node in graph.nodes if isinstance(node.op, Cast | Input)}
    labelled: set[str] = set()
    for node in graph.nodes:
        for source in dict.fromkeys(node.inputs):
            label = "" if source in casts or source in labelled else short_type(graph.infos[source].type)
            labelled.add(source)
            parts.append(_edge(placed, source, node.name, label))
    for node in graph.nodes:
        parts.append(_box(graph, node, placed, lines[node.name], anchors[node.name], node.name in hot))
    return "".join(parts) + "</svg>"


def _lines(graph: Graph, node: Node) -> tuple[str, str]:
    """What stands in a node, large and small."""
    shape = words.sizes(graph.infos[node.name].shape)
    if isinstance(node.op, Input):
        return node.name, f"{cast_type(node.op)}  {shape}"
    if isinstance(node.op, Cast):
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
    kind = "port" if isinstance(node.op, Input) or node.name in graph.outputs else "cast" if isinstance(node.op, Cast) else ""
    kind += " hot" if hot else ""
    left, top = box.x - box.width / 2, box.y - box.height / 2
    info = graph.infos[node.name]
    told = f"{node.name}: {describe(node.op)}, {words.sizes(info.shape)}, {short_type(info.type)}"
    key = f"{node.name} {describe(node.op)} {short_type(info.type)} {words.sizes(info.shape)}".lower()
    radius = 10 if isinstance(node.op, Cast) else 5
    text = f'<text class="op mid" x="{box.x:.1f}" y="{box.y + (-3 if small else 4):.1f}">{escape(large)}</text>'
    if small:
        text += f'<text class="soft mid" x="{box.x:.1f}" y="{box.y + 12:.1f}">{escape(small)}</text>'
    return (
        f'<a href="#{anchor}" class="{kind.strip()}" data-k="{escape(key)}" aria-label="{escape(told)}"><title>{escape(told)}</title>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius}"/>{text}</a>'
    )
