"""Names of nodes inside a node: of the body of a Scan, where the whole model is one list of names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qfx.ir.graph import Graph, Node

MARK = "::"
"""Stands between the name of a node and the names inside its body."""


def inside(node: str, name: str) -> str:
    """The name in the whole model of what is called ``name`` in the body of ``node``."""
    return f"{node}{MARK}{name}"


def renamed(body: Graph, node: str) -> Graph:
    """The body of ``node`` with the names that it has in the whole model."""
    nodes = (replace(part, name=inside(node, part.name), inputs=tuple(inside(node, name) for name in part.inputs)) for part in body.nodes)
    return Graph(inside(node, body.name), tuple(nodes), tuple(inside(node, name) for name in body.outputs))


def restored(graph: Graph, node: str) -> Graph:
    """The inverse of ``renamed``. Names that do not begin so stay as they are."""
    start = inside(node, "")
    nodes = (
        replace(part, name=part.name.removeprefix(start), inputs=tuple(name.removeprefix(start) for name in part.inputs)) for part in graph.nodes
    )
    return Graph(graph.name.removeprefix(start), tuple(nodes), tuple(name.removeprefix(start) for name in graph.outputs))


def everything(graph: Graph) -> Iterator[tuple[str, Node]]:
    """The nodes of the whole model by name: those of the graph itself, then those of its bodies in the same order."""
    yield from ((node.name, node) for node in graph.nodes)
    for node in graph.nodes:
        if (body := node.op.inner()) is not None:
            yield from ((inside(node.name, name), part) for name, part in everything(body))


def places(graph: Graph) -> dict[str, int]:
    """The place of every node of the whole model among them all."""
    return {name: place for place, (name, _) in enumerate(everything(graph))}
