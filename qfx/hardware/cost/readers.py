"""Whose hardware depends on the word length of a cast."""

from __future__ import annotations

from collections.abc import Sequence

from qfx.ir.graph import Graph, graph_name


def readers(graph: Graph, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each cast the nodes with processes that read it, and the part of their cost that is the cast's: nodes with two inputs share it."""
    wanted = {graph_name(name): name for name in names}
    sources: dict[str, list[str]] = {}  # of each node: the casts that it works on, or that its inputs do
    result: dict[str, dict[str, float]] = {name: {} for name in names}
    for node in graph.nodes:
        direct = [wanted[source] for source in node.inputs if source in wanted]
        casts = list(dict.fromkeys(direct or [cast for source in node.inputs for cast in sources.get(source, [])]))
        sources[node.name] = casts
        for cast in casts:
            if node.name != graph_name(cast):
                result[cast][node.name] = 1.0 / len(casts)
    return result
