"""Constants that hardware gets while it runs: weights and biases of convolutions and linear layers, scales and shifts per channel. Those of a loop
over the steps of a sequence too: they come before a frame, and hold for all its steps.

Run ``make_loadable`` before the other passes: what they may leave out depends on the ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from qfx.errors import DataError, ExactnessError
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph, Node
from qfx.ir.passes import rewrite
from qfx.ir.values import Const, LoadableConst
from qfx.ir.within import everything

_BYTE = 8

Types = tuple[FixedType | None, FixedType | None]
"""Those of a node's weight (or scale) and of its bias (or shift); None where it has none, or one that cannot be loaded. Nodes inside a loop go by
their names in the whole model."""


def make_loadable(graph: Graph, types: Mapping[str, Types] | None = None) -> Graph:
    """The graph with loadable constants, their raws unchanged.

    A weight may become any raw of the smallest signed type that holds those of its layer; a bias, or a scale or shift that has an entry per channel,
    any of the smallest such type of whole bytes. The nodes in ``types`` get those types instead. Exact: ranges and types grow, no value changes.

    Raises ExactnessError, naming the node, where 64 bits would not hold what is then possible, and DataError for raws that a type does not hold.
    """

    def loadable(node: Node, which: int, const: Const) -> Const:
        if isinstance(const, LoadableConst) or not const.shape or (node.op.pointwise and len(const.shape) > 1):
            return const  # what differs by the place in the frame stays
        try:
            const = const.on_one_grid()  # its design is for any constant of the type, wherever the binary points of its channels lie
        except DataError as error:
            raise ExactnessError(f"its {_name(node, which)}: {error.what}", where=node.name, remedy=error.remedy) from None
        given = (types or {}).get(node.name, (None, None))[which]
        hull = const.interval.hull
        least = Interval(min(hull.lo, -1), hull.hi, const.grid).width
        step = 1 if which == 0 and not node.op.pointwise else _BYTE
        width = -(-least // step) * step
        try:
            return LoadableConst(const.raw, const.frac_bits, given or FixedType(width, width - const.grid))
        except DataError as error:
            raise DataError(f"its {_name(node, which)}: {error.what}", where=node.name, remedy=error.remedy) from error

    made = _mapped(graph, loadable)
    for output in graph.outputs:
        if made.infos[output].type.frac_bits != graph.infos[output].type.frac_bits:
            raise ExactnessError("would lie on another grid", where=output, remedy="end the model with a cast")
    return made


def make_constant(graph: Graph) -> Graph:
    """The graph with the raws at hand for good: what ``make_loadable`` was given."""
    return _mapped(graph, lambda _, __, const: Const(const.raw, const.frac_bits) if isinstance(const, LoadableConst) else const)


def loadable_types(graph: Graph) -> dict[str, Types]:
    """The types of all loadable constants by the name of their node; nothing for a graph without any."""
    found = {}
    for name, node in everything(graph):
        first, second = (const.type if isinstance(const, LoadableConst) else None for const in _constants(node))
        if first or second:
            found[name] = (first, second)
    return found


def _mapped(graph: Graph, change: Callable[[Node, int, Const], Const]) -> Graph:
    made = graph.with_nodes(tuple(_changed(node, change) for node in graph.nodes))
    return rewrite.inside(made, lambda body: _mapped(body, change), named=True)


def _changed(node: Node, change: Callable[[Node, int, Const], Const]) -> Node:
    if not node.op.loadable:  # its constants are no fields, or never others
        return node
    changed: dict[str, Any] = {field: change(node, which, const) for which, (field, const) in enumerate(node.op.constants().items())}
    return Node(node.name, replace(node.op, **changed), node.inputs) if changed else node  # type: ignore[type-var]


def _name(node: Node, which: int) -> str:
    return list(node.op.constants())[which]


def _constants(node: Node) -> tuple[Const | None, Const | None]:
    own = list(node.op.constants().values()) if node.op.inner() is None else []
    first, second, *_ = (*own, None, None)
    return first, second
