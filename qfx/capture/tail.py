"""The last operation before an output, left out on request: who reads the numbers can compute a softmax, or needs only which is greatest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx, nn

from qfx.capture.trace import capture
from qfx.capture.traced import OPENED, TAKEN_APART, Traced, called, place_of
from qfx.recipe import Recipe

TAILS = ("softmax", "log_softmax", "sigmoid")
"""What may be left out, as torch's functions are called."""


def captured(model: nn.Module, example: Any, recipe: Recipe) -> Traced:
    """``capture``, without what the recipe leaves out at the end."""
    traced = capture(model, example)
    return without_tail(traced) if recipe.tail == "drop" and traced.stopped is None else traced


def without_tail(traced: Traced) -> Traced:
    """The trace without a softmax, log-softmax or sigmoid that is the last operation before an output and that nothing else reads. ``left_out`` tells
    of them. The graph is changed in place."""
    graph = traced.module.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    told: dict[fx.Node, str] = {}

    def behind(node: fx.Node) -> fx.Node:
        found = _tail(node)
        if found is None or node not in traced.shapes or set(node.users) != {output}:
            return node
        name, source = found
        told[node] = f"{name} at {_place(node, name)!r}"
        return source

    results = fx.map_arg(output.args[0], behind)
    if not told:
        return traced
    output.args = (results,)
    gone = set()
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("output", "placeholder"):
            gone.add(node)
            graph.erase_node(node)
    traced.module.recompile()
    refused = {node: error for node, error in traced.refused.items() if node not in gone}
    return replace(traced, refused=refused, tainted=traced.tainted - gone, several=traced.several - gone, left_out=tuple(told.values()))


def _tail(node: fx.Node) -> tuple[str, fx.Node] | None:
    """What the node is the result of, and what that reads."""
    if TAKEN_APART in node.meta:
        name, source = node.meta[TAKEN_APART]
        return (name, source) if name in TAILS else None
    name = called(node).lower().rstrip("_")
    name = {"logsoftmax": "log_softmax", "softmax2d": "softmax"}.get(name, name)
    return (name, node.all_input_nodes[0]) if name in TAILS and node.all_input_nodes else None


def _place(node: fx.Node, name: str) -> str:
    if node.meta.get(OPENED):
        return str(node.meta[OPENED])
    return f"{place_of(node).rpartition('.')[0]}.{name}".lstrip(".") if TAKEN_APART in node.meta else place_of(node)
