"""The scalar program: every number of every value of a network a node of its own, with its own exact bounds.

A node is an integer. A ``Number`` is a node times a power of two, so that shifts, binary points and scales by powers of two are no nodes at all.
Every kind is exact but ``Convert``, which is the cast of one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType, OMode, QMode


@dataclass(frozen=True, slots=True)
class Number:
    """The value ``node * 2**exponent``."""

    node: int
    exponent: int


@dataclass(frozen=True, slots=True)
class Source:
    """Number ``place`` (row-major) of a frame of input ``port``: its raw without the ``down`` lowest bits, which are zeros."""

    port: int
    place: int
    down: int


@dataclass(frozen=True, slots=True)
class Constant:
    raw: int


@dataclass(frozen=True, slots=True)
class Sum:
    """(a << up_a) + (b << up_b), or the difference; one of the shifts is 0."""

    a: int
    b: int
    up_a: int
    up_b: int
    minus: bool


@dataclass(frozen=True, slots=True)
class Product:
    """a * b, of two numbers neither of which is constant."""

    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Extreme:
    """The greater (or the lesser) of a << up_a and b << up_b."""

    a: int
    b: int
    up_a: int
    up_b: int
    greater: bool


@dataclass(frozen=True, slots=True)
class Less:
    """1 if (a << up_a) < (b << up_b), else 0."""

    a: int
    b: int
    up_a: int
    up_b: int


@dataclass(frozen=True, slots=True)
class Choice:
    """a << up_a if the node ``condition``, which is 0 or 1, is 1, else b << up_b."""

    condition: int
    a: int
    b: int
    up_a: int
    up_b: int


@dataclass(frozen=True, slots=True)
class Convert:
    """The raw of a * 2**-frac_bits, cast to ``type``."""

    a: int
    frac_bits: int
    type: FixedType


@dataclass(frozen=True, slots=True)
class Entry:
    """entries[a - first]."""

    a: int
    first: int
    entries: tuple[int, ...]


Node = Source | Constant | Sum | Product | Extreme | Less | Choice | Convert | Entry


def read_by(node: Node) -> tuple[int, ...]:
    """The nodes that it reads."""
    if isinstance(node, Sum | Product | Extreme | Less):
        return node.a, node.b
    if isinstance(node, Choice):
        return node.condition, node.a, node.b
    return (node.a,) if isinstance(node, Convert | Entry) else ()


@dataclass(frozen=True, slots=True)
class Result:
    """A number of an output: its raw is node << up."""

    node: int
    up: int


@dataclass(frozen=True, slots=True)
class Program:
    """Nodes in the order in which they can be computed, none that nothing reads; ``bounds``: the least and the greatest integer of each.

    ``layers`` names the graph's node that each works for. ``outputs``: the numbers of each output, row-major, as raws of its type. ``needs``: how
    many of a node's lowest bits anything looks at, or None for all; a sum that wraps afterwards needs no more than what is left of it.
    """

    nodes: tuple[Node, ...]
    bounds: tuple[tuple[int, int], ...]
    layers: tuple[str, ...]
    outputs: tuple[tuple[Result, ...], ...]
    needs: tuple[int | None, ...]

    def type(self, place: int) -> FixedType:
        """The smallest integer type that holds the node, or the bits of it that are needed."""
        full, needed = type_of(self.bounds[place]), self.needs[place]
        return full if needed is None or needed >= full.width else FixedType(needed, needed, False)

    @property
    def operations(self) -> int:
        """The nodes that compute something."""
        return sum(not isinstance(node, Source | Constant) for node in self.nodes)


def type_of(bounds: tuple[int, int]) -> FixedType:
    """The smallest integer type that holds the bounds."""
    return Interval(*bounds, 0).type()


def both(program: Program, node: Extreme | Less) -> FixedType:
    """The type that holds both numbers that are compared."""
    (a_lo, a_hi), (b_lo, b_hi) = program.bounds[node.a], program.bounds[node.b]
    return type_of((min(a_lo << node.up_a, b_lo << node.up_b), max(a_hi << node.up_a, b_hi << node.up_b)))


def pruned(nodes: Sequence[Node], bounds: Sequence[tuple[int, int]], layers: Sequence[str], outputs: Sequence[Sequence[Result]]) -> Program:
    """The program without what no output needs."""
    needed = [False] * len(nodes)
    for result in (result for port in outputs for result in port):
        needed[result.node] = True
    for place in reversed(range(len(nodes))):
        if needed[place]:
            for source in read_by(nodes[place]):
                needed[source] = True
    new: dict[int, int] = {}
    for place, wanted in enumerate(needed):
        if wanted:
            new[place] = len(new)
    kept = tuple(moved(nodes[place], new) for place in new)
    results = tuple(tuple(Result(new[result.node], result.up) for result in port) for port in outputs)
    return Program(kept, tuple(bounds[place] for place in new), tuple(layers[place] for place in new), results, _needs(kept, results))


_OF_LOW_BITS = (QMode.TRN, QMode.RND, QMode.RND_CONV, QMode.RND_MIN_INF)
"""Modes of rounding that look at no bit above those that stay."""


def _needs(nodes: Sequence[Node], outputs: Sequence[Sequence[Result]]) -> tuple[int | None, ...]:
    """How many of the lowest bits of each node are looked at: all at the outputs, by comparisons, tables and saturation; by a cast that wraps those
    that stay and those that are rounded; by a sum or a product as many of its operands as of itself."""
    needs: list[int | None] = [1] * len(nodes)
    for result in (result for port in outputs for result in port):
        needs[result.node] = None
    for place in reversed(range(len(nodes))):
        node, own = nodes[place], needs[place]
        for source, up in _looks(node):
            wanted: int | None = None
            if isinstance(node, Sum | Product | Choice) and up is not None:
                wanted = None if own is None else own - up
            elif isinstance(node, Convert) and node.type.o is OMode.WRAP and not node.type.n and node.type.q in _OF_LOW_BITS:
                wanted = node.type.width + node.frac_bits - node.type.frac_bits
            before = needs[source]
            needs[source] = None if wanted is None or before is None else max(before, wanted)
    return tuple(needs)


def _looks(node: Node) -> Sequence[tuple[int, int | None]]:
    """What a node reads, and how far it is moved up where the result has its bits."""
    if isinstance(node, Sum):
        return (node.a, node.up_a), (node.b, node.up_b)
    if isinstance(node, Product):
        return (node.a, 0), (node.b, 0)
    if isinstance(node, Choice):
        return (node.a, node.up_a), (node.b, node.up_b), (node.condition, None)
    return tuple((source, None) for source in read_by(node))


def moved(node: Node, new: dict[int, int]) -> Node:
    """The node with what it reads under new numbers."""
    if isinstance(node, Sum):
        return Sum(new[node.a], new[node.b], node.up_a, node.up_b, node.minus)
    if isinstance(node, Product):
        return Product(new[node.a], new[node.b])
    if isinstance(node, Extreme):
        return Extreme(new[node.a], new[node.b], node.up_a, node.up_b, node.greater)
    if isinstance(node, Less):
        return Less(new[node.a], new[node.b], node.up_a, node.up_b)
    if isinstance(node, Choice):
        return Choice(new[node.condition], new[node.a], new[node.b], node.up_a, node.up_b)
    if isinstance(node, Convert):
        return Convert(new[node.a], node.frac_bits, node.type)
    if isinstance(node, Entry):
        return Entry(new[node.a], node.first, node.entries)
    return node
