"""The pass that lets convolutions and pools pad for themselves."""

from __future__ import annotations

from dataclasses import replace

from qfx.ir.graph import Graph, Node
from qfx.ir.passes import rewrite
from qfx.ir.values import Pads
from qfx.operators import Conv, MaxPool, Pad, SumPool


def fold_pad(graph: Graph) -> Graph:
    """Conv and SumPool pad with the zeros that Pad writes, so pads add: op(pad(x, p), q) = op(x, p + q).

    Made where the Pad leaves the channels alone. MaxPool's padding never wins, while a zero of Pad may: its pads add where no number is below zero
    and every window has one of them.
    """
    return rewrite.everywhere(graph, _fold)


def _fold(graph: Graph, node: Node) -> Graph | None:
    if not isinstance(node.op, Conv | SumPool | MaxPool):
        return None
    source = graph.node(node.inputs[0])
    if not isinstance(source.op, Pad) or source.op.pads[0] != (0, 0):
        return None
    op = replace(node.op, pads=_sum(node.op.pads, source.op.pads[1:]))
    x = graph.infos[source.inputs[0]]
    if isinstance(op, MaxPool) and (x.interval.hull.lo < 0 or op.windows(node.name, x.shape).real_taps()[0] == 0):
        return None
    return rewrite.swap(graph, {node.name: Node(node.name, op, source.inputs)})


def _sum(a: Pads, b: Pads) -> Pads:
    return tuple((p[0] + q[0], p[1] + q[1]) for p, q in zip(a, b, strict=True))
