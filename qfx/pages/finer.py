"""The reference for errors: the same graph with casts so fine and wide that hardly anything is lost in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from qfx.errors import QfxError
from qfx.ir.graph import Graph, Node
from qfx.ir.values import ArrayType, Info
from qfx.operators import Cast, Input

ROOMS = ((12, 8), (8, 6), (6, 4), (4, 2))
"""Bits more at the lower and at the upper end of every cast, tried in this order: exact sums and products of the widest may leave 64 bits."""


@dataclass(frozen=True, slots=True)
class Finer:
    """``graph``: the same nodes, the casts but those ``kept`` with ``below`` more fractional and ``above`` more integer bits."""

    graph: Graph
    below: int
    above: int
    kept: tuple[str, ...]


def finer(graph: Graph) -> Finer | None:
    """Of such graphs that can be computed the one that keeps the fewest casts, and of several the finest; None where none can.

    A cast stays as it is where an operator behind it takes no other type: a table has an entry for each number, exact sums have 64 bits. So do casts
    inside the body of a loop.
    """
    found = [(kept, room) for room in ROOMS if (kept := _kept(graph, *room)) is not None]
    if not found:
        return None
    kept, (below, above) = min(found, key=lambda one: len(one[0]))  # the first of several
    nodes = tuple(_wider(node, below, above) if node.name not in kept else node for node in graph.nodes)
    return Finer(graph.with_nodes(nodes), below, above, tuple(node.name for node in graph.nodes if node.name in kept))


def _kept(graph: Graph, below: int, above: int) -> set[str] | None:
    """The casts that have to stay; None where that does not help."""
    kept: set[str] = set()
    while True:
        failed = _first_refusal(graph, below, above, kept)
        if failed is None:
            return kept
        more = set(_casts_before(graph, failed)) - kept
        if not more:
            return None
        kept |= more
        if kept >= {node.name for node in graph.nodes if isinstance(node.op, Cast | Input)}:
            return None


def _first_refusal(graph: Graph, below: int, above: int, kept: set[str]) -> Node | None:
    infos: dict[str, Info] = {}
    for node in graph.nodes:
        op = node.op if node.name in kept else _wider(node, below, above).op
        try:
            infos[node.name] = op.infer(node.name, tuple(infos[source] for source in node.inputs))
        except QfxError:
            return node
    return None


def _casts_before(graph: Graph, node: Node) -> Iterator[str]:
    """The casts that the numbers of the node come from, without another in between; its own if it is one."""
    if isinstance(node.op, Cast | Input):
        yield node.name
    waiting, seen = list(node.inputs), set(node.inputs)
    nodes = {one.name: one for one in graph.nodes}
    while waiting:
        found = nodes[waiting.pop()]
        if isinstance(found.op, Cast | Input):
            yield found.name
            continue
        waiting += [name for name in found.inputs if name not in seen]
        seen.update(found.inputs)


def _wider(node: Node, below: int, above: int) -> Node:
    return replace(node, op=replace(node.op, cast=_cast(node.op.cast, below, above))) if isinstance(node.op, Cast | Input) else node


def _cast(cast: ArrayType, below: int, above: int) -> ArrayType:
    element = replace(cast.element, width=cast.element.width + below + above, int_bits=cast.element.int_bits + above)
    return ArrayType(element, tuple(bits + above for bits in cast.int_bits), cast.shape)
