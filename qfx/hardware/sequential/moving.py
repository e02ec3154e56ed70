"""Operators that move numbers and need no step of their own: values that are joined lie side by side in one place, some channels of a value are a
part of its place, and what is enlarged is read several times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from qfx.fixed.arith import Channels
from qfx.fixed.type import FixedType
from qfx.hardware.sequential.values import CHANNELS, Value
from qfx.hardware.sequential.windows import pair
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Info
from qfx.operators import Concat, Conv, Input, Linear, Pad, Reshape, Slice, Upsample

Inside = Mapping[str, tuple[str, int]]
"""The values that lie within a joined one: its node, and the channels in front of them."""


def offsets(graph: Graph, node: Node) -> list[int]:
    """The channels in front of each value that is joined."""
    found, channels = [], 0
    for name in node.inputs:
        found.append(channels)
        channels += graph.infos[name].shape[0]
    return found


def side_by_side(graph: Graph, node: Node) -> bool:
    """Whether what is joined may lie in one place, part by part: all of them begin at a vector."""
    return all(offset % CHANNELS == 0 for offset in offsets(graph, node))


def inside(graph: Graph) -> Inside:
    """Each value that whoever makes it writes into the place of what it is joined to: the result of a step, or of joining, and of no other use that
    asks for a place of its own."""
    found: dict[str, tuple[str, int]] = {}
    for node in graph.nodes:
        if isinstance(node.op, Concat) and side_by_side(graph, node):
            for name, offset in zip(node.inputs, offsets(graph, node), strict=True):
                if name not in found and _may_lie_inside(graph, name):
                    found[name] = node.name, offset
    return found


def _may_lie_inside(graph: Graph, name: str) -> bool:
    op = graph.node(name).op
    made = not isinstance(op, Input | Reshape | Upsample | Slice)
    return made and name not in graph.outputs and not any(isinstance(node.op, Reshape) for node in graph.consumers(name))


def on_one_grid(graph: Graph, within: Inside) -> frozenset[str]:
    """The outputs, what is multiplied by a matrix, and what either of them is under another name, or lies in one place with."""
    found = set(graph.outputs)
    for node in graph.nodes:
        if isinstance(node.op, Conv | Linear | Slice | Pad) or (isinstance(node.op, Concat) and not side_by_side(graph, node)):
            found.update(node.inputs)
    before = 0
    while len(found) > before:
        before = len(found)
        for node in reversed(graph.nodes):
            if isinstance(node.op, Reshape | Upsample) and node.name in found:
                found.add(node.inputs[0])
        for part, (whole, _) in within.items():
            if part in found or whole in found:
                found |= {part, whole}
    return frozenset(found)


def part(whole: Info, first: int, shape: tuple[int, ...]) -> Info:
    """What is known of the channels of a value from the first on, as they lie in its place."""
    channels = Channels(whole.interval.spread(whole.shape[0])[first : first + shape[0]])
    grids = {interval.frac_bits for interval in channels.channels}
    if not whole.per_channel or len(grids) > 1:
        return Info(shape, whole.type, channels, whole.per_channel)
    width = whole.word.width
    return Info(shape, FixedType(width, width - grids.pop(), whole.word.signed), channels)


def taken(graph: Graph, node: Node, value: Value, info: Info) -> tuple[Value, Info] | None:
    """A slice that is some whole vectors of a value; None of any other."""
    op, shape = node.op, graph.infos[node.name].shape
    if not isinstance(op, Slice) or op.steps[0] != 1 or op.starts[0] % CHANNELS or shape[1:] != info.shape[1:]:
        return None
    if node.name in graph.outputs or any(isinstance(other.op, Reshape) for other in graph.consumers(node.name)):
        return None
    return replace(value, channels=shape[0], skip=value.skip + op.starts[0]), part(info, op.starts[0], shape)


def enlarged(node: Node, value: Value, info: Info, shape: tuple[int, ...]) -> tuple[Value, Info]:
    """A value each of whose rows and columns is seen several times."""
    op = node.op
    assert isinstance(op, Upsample)
    down, across = pair(op.factors, 1)
    zoom = value.zoom[0] * down, value.zoom[1] * across
    return replace(value, height=value.height * down, columns=value.columns * across, zoom=zoom), replace(info, shape=shape)


def places_of(within: Inside, name: str) -> tuple[str, int]:
    """The place where a value lies, and the channels in front of it there."""
    skip = 0
    for whole, first in _outwards(within, name):
        name, skip = whole, skip + first
    return name, skip


def _outwards(within: Inside, name: str) -> Iterator[tuple[str, int]]:
    while name in within:
        yield within[name]
        name = within[name][0]
