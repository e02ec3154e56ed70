"""A graph as the steps of a layer engine: what is fused into one, and what cannot be done exactly, refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from qfx.errors import UnsupportedError
from qfx.fixed.arith import Interval
from qfx.hardware.sequential.chain import Chain
from qfx.hardware.sequential.values import Layers, Step, Value
from qfx.hardware.sequential.windows import INSTEAD, Main, main_of, plain, shape3
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Info
from qfx.operators import Add, Cast, Conv, Input, Linear, Pad, Reshape, Slice, macs

CONTAINER = 16
"""Bits of the widest number that is multiplied."""


@dataclass(slots=True)
class _Making:
    graph: Graph
    on_one_grid: frozenset[str]
    """The values whose channels lie on one grid in memory."""
    stored: dict[str, Value] = field(default_factory=dict)
    infos: dict[str, Info] = field(default_factory=dict)
    """What is known of the raws in memory."""
    steps: list[Step] = field(default_factory=list)
    done: set[str] = field(default_factory=set)


def layers(graph: Graph) -> Layers:
    """The steps of the graph, in an order in which every value is in memory before it is read.

    Each step takes a convolution, a matrix-vector product, a pool or a whole value, and the pointwise operators behind it up to the first cast or to
    a value that several read. A sum of two values joins the later of them. Raises UnsupportedError for what no step computes.
    """
    making = _Making(graph, _on_one_grid(graph))
    for node in graph.nodes:
        if isinstance(node.op, Input):
            _store(making, node.name)
        elif isinstance(node.op, Reshape):
            _rename(making, node)
        elif node.name not in making.done:
            _add_step(making, node)
    inputs = tuple(making.stored[node.name] for node in graph.inputs)
    return Layers(tuple(making.steps), inputs, tuple(making.stored[name] for name in graph.outputs))


def _on_one_grid(graph: Graph) -> frozenset[str]:
    """The outputs, what is multiplied by a matrix, and what either of them is under another shape."""
    found = set(graph.outputs)
    for node in reversed(graph.nodes):
        if isinstance(node.op, Conv | Linear | Slice | Pad) or (isinstance(node.op, Reshape) and node.name in found):
            found.add(node.inputs[0])
    return frozenset(found)


def _store(making: _Making, name: str) -> Value:
    """The value of a node takes its place in memory."""
    info = making.graph.infos[name]
    making.infos[name] = info.on_one_grid() if name in making.on_one_grid else info
    held = making.infos[name].word
    channels, height, columns = shape3(info.shape, name)
    making.stored[name] = Value(name, channels, height, columns, held.width, held.signed)
    return making.stored[name]


def _rename(making: _Making, node: Node) -> None:
    """A value under another shape: the same in memory."""
    before, after = making.infos[node.inputs[0]], making.graph.infos[node.name]
    after = after.on_one_grid() if node.name in making.on_one_grid else after
    held = making.stored[node.inputs[0]]
    same = after.shape[0] == before.shape[0] and held.pixels == 1
    if (len(after.shape) > 1 and not same) or after.word.width != held.width or before.per_channel != after.per_channel:
        what = f"{before.shape} under the shape {after.shape}"
        raise UnsupportedError(what, where=node.name, remedy=f"a layer engine flattens values, and nothing else; {INSTEAD}")
    making.stored[node.name], making.infos[node.name] = held, after


def _add_step(making: _Making, node: Node) -> None:
    graph = making.graph
    chain, source = _begun(making, node)
    current, names = node, [node.name]
    cast = node.op if isinstance(node.op, Cast) else None
    while cast is None:
        followers = graph.consumers(current.name)
        if current.name in graph.outputs or len(followers) != 1 or followers[0].inputs.count(current.name) != 1:
            break
        (follower,) = followers
        if isinstance(follower.op, Cast):
            cast = follower.op
        else:
            grown = chain.then(follower.op, _beside(making, follower, current.name, chain))
            if grown is None:
                break
            chain = grown
        current = follower
        names.append(current.name)
    target = _store(making, current.name)
    epilogue = chain.ended(current.name, cast, making.infos[current.name])
    main = chain.main
    work = macs(node.op, graph.infos[node.name])
    making.steps.append(Step(main.kind, source, target, main.window, main.weight, epilogue, chain.beside, _signed_width(main), tuple(names), work))
    making.done |= set(names)


def _signed_width(main: Main) -> int:
    """Bits of a signed word that holds every sum on the way."""
    return max(interval.width + (not interval.signed) for interval in (one.with_zero() for one in main.partial))


def _begun(making: _Making, node: Node) -> tuple[Chain, Value]:
    """The windows of a node, or a whole value with the node as the first of its epilogue; and what is read. Raises UnsupportedError, naming it."""
    graph = making.graph
    source, info = _operand(making, node, 0)
    main = main_of(node, source, info, graph.infos[node.name])
    if main is not None:
        return Chain.of(_multiplied(main, source, node.name)), source
    held = [_operand(making, node, place) for place in range(len(node.inputs))]
    if len(held) == 2 and held[0][0].width > held[1][0].width:
        held.reverse()  # what is multiplied is narrow
    source, info = held[0]
    wide = source.width > CONTAINER
    main = plain(source, info)
    chain: Chain | None = Chain.of(main)
    if wide and len(held) == 1:  # all of it beside sums that are multiplied by 0
        chain = Chain.nothing(main).then(Add(), (source, info))
    elif wide:
        raise UnsupportedError(f"both values have more than {CONTAINER} bits", where=node.name, remedy="cast one of them")
    if chain is not None and not isinstance(node.op, Cast):
        chain = chain.then(node.op, held[1] if len(held) == 2 else None)
    if chain is None:
        what = f"a layer engine has no {type(node.op).__name__}" + (" here" if node.op.pointwise else "")
        raise UnsupportedError(what, where=node.name, remedy=INSTEAD)
    return chain, source


def _operand(making: _Making, node: Node, place: int) -> tuple[Value, Info]:
    """What a node reads, and what the graph knows of it."""
    name = node.inputs[place]
    value, info = making.stored[name], making.infos[name]
    if info.shape[0] != value.channels and not isinstance(node.op, Linear):
        what = f"reads a value of {value.channels} channels under the shape {info.shape}"
        raise UnsupportedError(what, where=node.name, remedy=f"only a matrix-vector product reads what was flattened; {INSTEAD}")
    return value, info


def _beside(making: _Making, node: Node, joined: str, chain: Chain) -> tuple[Value, Info] | None:
    """The other operand of a sum, if it is in memory and of the same shape."""
    others = [name for name in node.inputs if name != joined]
    if len(others) != 1 or others[0] not in making.stored:
        return None
    value, info = making.stored[others[0]], making.infos[others[0]]
    alike = (value.channels, value.height, value.columns) == chain.main.shape and info.shape[0] == value.channels
    return (value, info) if alike else None


def _multiplied(main: Main, source: Value, name: str) -> Main:
    """Checked: what is multiplied fits a container."""
    weight = 0 if main.weight is None else Interval(int(main.weight.min()), int(main.weight.max()), 0).with_zero()
    bits = 0 if isinstance(weight, int) else weight.width + (not weight.signed)
    if source.width > CONTAINER or bits > CONTAINER:
        what = f"multiplies {source.width} bits by {bits}" if source.width > CONTAINER or bits else ""
        raise UnsupportedError(what, where=name, remedy=f"cast what it reads, and its weights, to {CONTAINER} bits at most")
    return main
