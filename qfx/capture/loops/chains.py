"""Calls of recurrent cells as they are recorded, and those of one cell that hand a state on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

CALL = "qfx_cell_call"
"""At the node of the h that a cell gives: the ``CellCall``."""


@dataclass(frozen=True, eq=False)
class CellCall:
    """One call of a cell, by the nodes that it was taken apart into.

    ``kind``: as ``recurrent`` names it; ``product``: W x + b; ``results``: h, and of an LSTM c. Of what is computed from the model's input:
    ``hidden``, U h + v, and ``kept``, f * c, where the cell had such states. ``constants``: its states that are not, nor zeros, by their place.
    ``sizes``: the weights, which calls with states from zeros do not read all: U and v."""

    kind: str
    product: fx.Node
    results: tuple[fx.Node, ...]
    hidden: fx.Node | None = None
    kept: fx.Node | None = None
    constants: Mapping[int, fx.Node] = field(default_factory=dict)
    weights: tuple[fx.Node | None, ...] = ()

    @property
    def input(self) -> fx.Node:
        return _source(self.product, 0)

    @property
    def states(self) -> tuple[fx.Node | None, ...]:
        """The states that it reads, None for zeros."""
        found = [None if self.hidden is None else _source(self.hidden, 0), None if self.kept is None else _source(self.kept, 1)]
        return tuple(self.constants.get(place, found[place]) for place in range(len(self.results)))


def _source(node: fx.Node, place: int) -> fx.Node:
    found = node.args[place]
    if not isinstance(found, fx.Node):
        raise TypeError("a step of a cell reads no node")
    return found


def chains(graph: fx.Graph) -> list[list[CellCall]]:
    """The calls of one cell each of which reads the states that the one before gives, and whose inputs none of them computes: two at least, or three
    where the cell goes on, on inputs that are computed of what it gave step by step, as an encoder that decodes does."""
    calls = [node.meta[CALL] for node in graph.nodes if CALL in node.meta]
    found = []
    for linked in _linked(calls):
        first, *rest = _apart(linked)
        if len(first) > (2 if rest else 1) and all(len(part) == 1 for part in rest):
            found.append(first)
    return found


def _linked(calls: Sequence[CellCall]) -> list[list[CellCall]]:
    last: dict[fx.Node, list[CellCall]] = {}
    found: list[list[CellCall]] = []
    for call in calls:
        before = last.get(call.states[0]) if call.states[0] is not None else None
        if before is not None and before[-1].results == call.states and (before[-1].kind, before[-1].weights) == (call.kind, call.weights):
            before.append(call)
            del last[before[-2].results[0]]  # another call that goes on from there begins a chain
        else:
            before = [call]
            found.append(before)
        last[call.results[0]] = before
    return found


def is_entangled(calls: Sequence[CellCall]) -> bool:
    """Whether what a chain reads is computed of what it gives, as the graph is now: by other chains, whose steps are one operation."""
    given, free = {result for call in calls for result in call.results}, set[fx.Node]()
    read = [call.input for call in calls] + [state for state in calls[0].states if state is not None]
    return any(_reads(node, given, free) for node in read)


def _apart(calls: Sequence[CellCall]) -> Iterator[list[CellCall]]:
    """Cut where an input is computed of what the calls before give."""
    chain: list[CellCall] = []
    free = set[fx.Node]()
    for call in calls:
        given = {result for before in chain for result in before.results}
        if chain and _reads(call.input, given, free):
            yield chain
            chain, free = [], set()
        chain.append(call)
    yield chain


def _reads(node: fx.Node, given: Iterable[fx.Node], free: set[fx.Node]) -> bool:
    """Whether a node is computed of ``given``. ``free``: those that are known not to be, to which it adds."""
    left, seen, given = [node], set[fx.Node](), set(given)
    while left:
        now = left.pop()
        if now in given:
            return True
        if now not in free and now not in seen:
            seen.add(now)
            left += now.all_input_nodes
    free |= seen
    return False
