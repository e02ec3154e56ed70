"""Rounding that costs nothing: half a unit joins a constant that is added anyhow, and what rounded cuts off.

A cast that rounds half up (AP_RND) to F fractional bits cuts off x + 2**-(F + 1). Behind a layer with a bias that half is part of the bias.
Rectifiers and maxima between the two leave it as it is: they are monotone, and so is the cut, which takes half a unit to 0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qfx.errors import QfxError
from qfx.fixed.type import QMode
from qfx.ir.graph import Graph, Node
from qfx.ir.values import ArrayType, Const, Info, RawArray
from qfx.operators import Affine, Cast, Conv, Linear, MaxPool, Relu


def absorb_rounding(graph: Graph) -> Graph:
    """The graph with the half of every cast in the bias or shift before it, where there is one to itself. It computes the same outputs."""
    nodes = {node.name: node for node in graph.nodes}
    readers: dict[str, int] = dict.fromkeys(graph.outputs, 1)
    for source in (source for node in graph.nodes for source in node.inputs):
        readers[source] = readers.get(source, 0) + 1
    for node in graph.nodes:
        op = node.op
        if not isinstance(op, Cast) or op.cast.element.q is not QMode.RND:
            continue
        first = nodes[node.inputs[0]]
        while isinstance(first.op, Relu | MaxPool) and readers[first.name] == 1:
            first = nodes[first.inputs[0]]
        if readers[first.name] == 1:
            made = _with_half(first, graph.infos[first.name], op.cast)
            if made is not None:
                nodes[first.name] = made
                nodes[node.name] = replace(node, op=Cast(replace(op.cast, element=replace(op.cast.element, q=QMode.TRN))))
    try:
        return graph.with_nodes(tuple(nodes[node.name] for node in graph.nodes))
    except QfxError:  # the half needs a bit more than there is
        return graph


def _with_half(node: Node, info: Info, cast: ArrayType) -> Node | None:
    """The layer with the half of each channel in its constant; None where it has no constant for a channel."""
    op, channels = node.op, info.shape[0]
    if len(cast.distinct) > 1 and cast.shape != (channels, *(1,) * (len(info.shape) - 1)):
        return None
    grids = np.broadcast_to(cast.frac_bits.reshape(-1), (channels,))
    rounds = [interval.frac_bits > grid for interval, grid in zip(info.interval.spread(channels), grids.tolist(), strict=True)]
    if not any(rounds):
        return None
    if isinstance(op, Linear | Conv):
        return replace(node, op=replace(op, bias=_plus(op.bias, channels, grids, rounds)))
    if isinstance(op, Affine) and (op.shift is None or len(op.shift.shape) < 2):
        return replace(node, op=replace(op, shift=_plus(op.shift, channels, grids, rounds)))
    return None


def _plus(const: Const | None, channels: int, grids: RawArray, rounds: list[bool]) -> Const:
    """The constant of each channel plus half a unit of the channel's grid, where it rounds."""
    raws = [0] * channels if const is None else np.broadcast_to(const.raw, (channels,)).tolist()
    own = [0] * channels if const is None else (const.rows(channels) if const.shape else (const.grid,) * channels)
    found = []
    for raw, bits, grid, wanted in zip(raws, own, grids.tolist(), rounds, strict=True):
        fine = max(bits, grid + 1) if wanted else bits
        found.append(((raw << (fine - bits)) + (1 << (fine - grid - 1) if wanted else 0), fine))
    return Const(np.array([raw for raw, _ in found], dtype=np.int64), tuple(fine for _, fine in found))
