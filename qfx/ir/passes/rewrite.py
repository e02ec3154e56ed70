"""How a pass changes a graph: nodes are replaced or their readers pointed elsewhere, and only if the output keeps its type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from qfx.ir.graph import Graph, Node
from qfx.ir.verify import living
from qfx.ir.within import renamed, restored
from qfx.operators import Scan

Rule = Callable[[Graph, Node], Graph | None]
"""What becomes of one node: the rewritten graph, or None where the rule does not apply."""


def everywhere(graph: Graph, rule: Rule) -> Graph:
    """The rule applied at every node until it applies nowhere. A rewrite that would change the type of the output is not made.

    The rule must shrink the graph's work each time, so that this ends.
    """
    position = 0
    while position < len(graph.nodes):
        changed = rule(graph, graph.nodes[position])
        if changed is not None and keeps_output(graph, changed):
            graph, position = drop_dead(changed), 0
        else:
            position += 1
    return graph


def bypass(graph: Graph, name: str, by: str) -> Graph | None:
    """Every reader of ``name`` (and the output) reads ``by`` instead; the node itself stays. None where both are outputs, which stay two."""
    if name in graph.outputs and by in graph.outputs:
        return None
    nodes = tuple(replace(node, inputs=tuple(by if source == name else source for source in node.inputs)) for node in graph.nodes)
    return graph.with_nodes(nodes, output=tuple(by if output == name else output for output in graph.outputs))


def swap(graph: Graph, new: Mapping[str, Node]) -> Graph:
    """The nodes of those names replaced, in place."""
    return graph.with_nodes(tuple(new.get(node.name, node) for node in graph.nodes))


def drop_dead(graph: Graph) -> Graph:
    """A node that no output depends on cannot change one. The inputs stay."""
    alive = living(graph)
    return graph if len(alive) == len(graph.nodes) else graph.with_nodes(tuple(node for node in graph.nodes if node.name in alive))


def inside(graph: Graph, pass_: Callable[[Graph], Graph], *, named: bool = False) -> Graph:
    """The pass on what nodes do at each step of a sequence. ``named``: it sees the names of the whole model."""
    return graph.with_nodes(tuple(_inside(node, pass_, named) for node in graph.nodes))


def _inside(node: Node, pass_: Callable[[Graph], Graph], named: bool) -> Node:
    if not isinstance(node.op, Scan):
        return node
    body = restored(pass_(renamed(node.op.body, node.name)), node.name) if named else pass_(node.op.body)
    return replace(node, op=replace(node.op, body=body))


def keeps_output(before: Graph, after: Graph) -> bool:
    """Whether every output has the shape and the type that it had."""
    pairs = ((before.infos[a], after.infos[b]) for a, b in zip(before.outputs, after.outputs, strict=True))
    return all((old.shape, old.type, old.per_channel) == (new.shape, new.type, new.per_channel) for old, new in pairs)
