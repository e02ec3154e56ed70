"""The reference for errors: the same graph with casts so fine and wide that hardly anything is lost in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from qfx.errors import QfxError
from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph, Node
from qfx.ir.values import ArrayType, Info
from qfx.ir.within import everything, inside
from qfx.operators import Cast, Input, MinifloatCast, Scan

ROOMS = ((12, 8), (8, 6), (6, 4), (4, 2))
"""Bits more at the lower and at the upper end of every cast, tried in this order: exact sums and products of the widest may leave 64 bits."""


@dataclass(frozen=True, slots=True)
class Finer:
    """``graph``: the same nodes, the casts but those ``kept`` (names in the whole model) with ``below`` more fractional and ``above`` more integer
    bits. What is cast to a minifloat is cast to fixed point there."""

    graph: Graph
    below: int
    above: int
    kept: tuple[str, ...]


def finer(graph: Graph) -> Finer | None:
    """Of such graphs that can be computed the one that keeps the fewest casts, and of several the finest; None where none can.

    A cast stays as it is where an operator behind it takes no other type: a table has an entry for each number, exact sums have 64 bits. The casts
    inside the body of a loop become finer as all others do.
    """
    found = [(kept, room) for room in ROOMS if (kept := _kept(graph, *room)) is not None]
    if not found:
        return None
    kept, (below, above) = min(found, key=lambda one: len(one[0]))  # the first of several
    return Finer(_Widening(below, above, kept).graph(graph), below, above, tuple(name for name, _ in everything(graph) if name in kept))


def _kept(graph: Graph, below: int, above: int) -> set[str] | None:
    """The casts that have to stay; None where that does not help."""
    kept: set[str] = set()
    every = {name for name, node in everything(graph) if isinstance(node.op, Cast | Input | MinifloatCast)}
    while kept < every:
        try:
            _Widening(below, above, kept).graph(graph)
        except _RefusedError as refused:
            if refused.casts <= kept:
                return None
            kept |= refused.casts
        else:
            return kept
    return None


class _RefusedError(Exception):
    """An operator does not take what it is given; ``casts``: those that its numbers come from."""

    def __init__(self, casts: Iterable[str]) -> None:
        super().__init__()
        self.casts = set(casts)


@dataclass(frozen=True, slots=True)
class _Widening:
    below: int
    above: int
    kept: set[str]

    def graph(self, graph: Graph, start: str = "") -> Graph:
        """The graph whose names begin with ``start`` in the whole model. Raises _RefusedError."""
        infos: dict[str, Info] = {}
        nodes = []
        for node in graph.nodes:
            made = self._node(node, start)
            try:
                infos[node.name] = made.op.infer(node.name, tuple(infos[source] for source in node.inputs))
            except QfxError:
                raise _RefusedError(self._before(graph, node, start)) from None
            nodes.append(made)
        return graph.with_nodes(tuple(nodes))

    def _node(self, node: Node, start: str) -> Node:
        op = node.op
        if isinstance(op, Scan):
            return replace(node, op=replace(op, body=self.graph(op.body, inside(start + node.name, ""))))
        if start + node.name in self.kept:
            return node
        if isinstance(op, Cast | Input):
            return replace(node, op=replace(op, cast=self._cast(op.cast)))
        return replace(node, op=Cast(self._cast(ArrayType.of(op.type)))) if isinstance(op, MinifloatCast) else node

    def _cast(self, cast: ArrayType) -> ArrayType:
        return ArrayType(self._type(cast.element), tuple(bits + self.above for bits in cast.int_bits), cast.shape)

    def _type(self, type_: FixedType) -> FixedType:
        return replace(type_, width=type_.width + self.below + self.above, int_bits=type_.int_bits + self.above)

    def _before(self, graph: Graph, node: Node, start: str) -> Iterator[str]:
        """What has to stay so that ``node`` may take it: the casts that its numbers come from, and of a loop those that go round in it."""
        yield from (start + name for name in _casts_before(graph, node))
        if isinstance(node.op, Scan):
            body, within = node.op.body, inside(start + node.name, "")
            yield from (within + one.name for one in body.inputs)
            for _, following in node.op.states:
                yield from (within + name for name in _casts_before(body, body.node(following)))


def _casts_before(graph: Graph, node: Node) -> Iterator[str]:
    """The casts that the numbers of the node come from, without another in between; its own if it is one."""
    if isinstance(node.op, Cast | Input | MinifloatCast):
        yield node.name
    waiting, seen = list(node.inputs), set(node.inputs)
    nodes = {one.name: one for one in graph.nodes}
    while waiting:
        found = nodes[waiting.pop()]
        if isinstance(found.op, Cast | Input | MinifloatCast):
            yield found.name
            continue
        if isinstance(found.op, Scan):  # its result comes from its own casts
            yield from (inside(found.name, name) for name in _casts_before(found.op.body, found.op.body.node(found.op.result)))
            continue
        waiting += [name for name in found.inputs if name not in seen]
        seen.update(found.inputs)
