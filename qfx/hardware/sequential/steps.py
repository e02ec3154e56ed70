"""A graph as the steps of a layer engine: what is fused into one, and what cannot be done exactly, refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from qfx.errors import UnsupportedError
from qfx.fixed.arith import Interval
from qfx.hardware.sequential import moving
from qfx.hardware.sequential.chain import Chain
from qfx.hardware.sequential.values import PIXEL, Epilogue, Layers, Step, Value
from qfx.hardware.sequential.windows import INSTEAD, Main, chosen, main_of, plain, shape3
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Info, RawArray
from qfx.operators import Add, Cast, Concat, Input, Linear, Reshape, Slice, Upsample, macs

CONTAINER = 16
"""Bits of the widest number that is multiplied."""


@dataclass(slots=True)
class _Making:
    graph: Graph
    inside: moving.Inside
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
    a value that several read. A sum of two values joins the later of them. What only moves takes none where it can do without (``moving.py``). Raises
    UnsupportedError for what no step computes.
    """
    inside = moving.inside(graph)
    making = _Making(graph, inside, moving.on_one_grid(graph, inside))
    for node in graph.nodes:
        if isinstance(node.op, Input):
            _store(making, node.name)
        elif isinstance(node.op, Reshape):
            _rename(making, node)
        elif isinstance(node.op, Concat):
            _join(making, node)
        elif isinstance(node.op, Upsample):
            _enlarge(making, node)
        elif node.name not in making.done and not _take(making, node):
            _add_step(making, node)
    inputs = tuple(making.stored[node.name] for node in graph.inputs)
    return Layers(tuple(making.steps), inputs, tuple(making.stored[name] for name in graph.outputs))


def _store(making: _Making, name: str) -> Value:
    """The value of a node takes its place in memory, which may be a part of another one's."""
    place, skip = moving.places_of(making.inside, name)
    whole, shape = making.graph.infos[place], making.graph.infos[name].shape
    whole = whole.on_one_grid() if place in making.on_one_grid else whole
    making.infos[name] = whole if place == name else moving.part(whole, skip, shape)
    channels, height, columns = shape3(shape, name)
    making.stored[name] = Value(place, channels, height, columns, whole.word.width, whole.word.signed, skip)
    return making.stored[name]


def _take(making: _Making, node: Node) -> bool:
    """A slice as a part of a place, if it is one."""
    found = moving.taken(making.graph, node, *_operand(making, node, 0)) if isinstance(node.op, Slice) else None
    if found is not None:
        making.stored[node.name], making.infos[node.name] = found
    return found is not None


def _enlarge(making: _Making, node: Node) -> None:
    """Whoever reads it sees each pixel several times; an output is written so."""
    value, info = moving.enlarged(node, *_operand(making, node, 0), making.graph.infos[node.name].shape)
    if node.name in making.graph.outputs:
        _copy(making, node, value, info, _store(making, node.name), making.infos[node.name])
    else:
        making.stored[node.name], making.infos[node.name] = value, info


def _join(making: _Making, node: Node) -> None:
    """Values side by side: those that do not lie there yet are copied; where one does not begin at a vector, all are placed by matrices."""
    graph, whole = making.graph, _store(making, node.name)
    info, before = making.infos[node.name], None
    for place, (name, offset) in enumerate(zip(node.inputs, moving.offsets(graph, node), strict=True)):
        source, known = _operand(making, node, place)
        if not moving.side_by_side(graph, node):
            last = place == len(node.inputs) - 1
            target = whole if last else replace(whole, name=f"{node.name}#{place}", skip=0)
            before = _placed(making, node, source, known, offset, before, target)
        elif making.inside.get(name) != (node.name, offset):
            target = replace(whole, channels=source.channels, skip=whole.skip + offset)
            _copy(making, node, source, known, target, moving.part(info, offset, known.shape))


def _copy(making: _Making, node: Node, source: Value, known: Info, target: Value, info: Info) -> None:
    """A value as it is, to another place and perhaps to other grids there."""
    chain = _whole(node, source, known)
    assert chain is not None  # a sum follows what is plain
    _finish(making, chain, source, target, chain.ended(node.name, None, info), (node.name,), 0)


def _placed(making: _Making, node: Node, source: Value, known: Info, first: int, before: Value | None, target: Value) -> Value:
    """A value's channels at their place among zeros, added to what was placed before."""
    info = making.infos[node.name]
    main = chosen(node, source, known, info, PIXEL, {first + channel: channel for channel in range(source.channels)})
    chain: Chain | None = Chain.of(_multiplied(main, source, node.name))
    if chain is not None and before is not None:
        chain = chain.then(Add(), (before, info))
    assert chain is not None  # a sum follows a product
    _finish(making, chain, source, target, chain.ended(node.name, None, info), (node.name,), 0)
    return target


def _rename(making: _Making, node: Node) -> None:
    """A value under another shape: the same in memory."""
    before, after = making.infos[node.inputs[0]], making.graph.infos[node.name]
    after = after.on_one_grid() if node.name in making.on_one_grid else after
    held = making.stored[node.inputs[0]]
    same = after.shape[0] == before.shape[0] and held.pixels == 1
    moved = after.word.width != held.width or before.per_channel != after.per_channel or after.type.frac_bits != before.type.frac_bits
    if (len(after.shape) > 1 and not same) or moved:
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
    _finish(making, chain, source, target, epilogue, tuple(names), macs(node.op, graph.infos[node.name]))
    making.done |= set(names)


def _finish(making: _Making, chain: Chain, source: Value, target: Value, epilogue: Epilogue, names: tuple[str, ...], work: int) -> None:
    main = chain.main
    bits = _weight_bits(main.weight)
    making.steps.append(Step(main.kind, source, target, main.window, main.weight, epilogue, chain.beside, _signed_width(main), names, work, bits))


def _weight_bits(weight: RawArray | None) -> int:
    """Bits of a signed word."""
    if weight is None:
        return 1
    lo, hi = int(weight.min()), int(weight.max())
    return max((-lo - 1).bit_length() if lo < 0 else 0, hi.bit_length() if hi > 0 else 0) + 1


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
    held.sort(key=lambda one: (one[0].zoom == (1, 1), one[0].width))  # what is multiplied is narrow, and it alone may be seen enlarged
    source, info = held[0]
    if held[-1][0].zoom != (1, 1) and len(held) == 2:
        raise UnsupportedError("adds two enlarged values", where=node.name, remedy=f"enlarge their sum, or {INSTEAD}")
    if source.width > CONTAINER and len(held) == 2 and source.zoom == (1, 1):
        raise UnsupportedError(f"both values have more than {CONTAINER} bits", where=node.name, remedy="cast one of them")
    chain = _whole(node, source, info)
    if chain is not None and not isinstance(node.op, Cast):
        chain = chain.then(node.op, held[1] if len(held) == 2 else None)
    if chain is None:
        what = f"a layer engine has no {type(node.op).__name__}" + (" here" if node.op.pointwise else "")
        raise UnsupportedError(what, where=node.name, remedy=INSTEAD)
    return chain, source


def _whole(node: Node, source: Value, info: Info) -> Chain | None:
    """All of a value; of one that is wide beside sums that are multiplied by 0."""
    main = plain(source, info)
    if source.width > CONTAINER and source.zoom != (1, 1):
        what = f"enlarged numbers of {source.width} bits"
        raise UnsupportedError(what, where=node.name, remedy=f"cast them to {CONTAINER} bits at most before they are enlarged")
    return Chain.of(main) if source.width <= CONTAINER else Chain.nothing(main).then(Add(), (source, info))


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
    alike = (value.channels, value.height, value.columns) == chain.main.shape and info.shape[0] == value.channels and value.zoom == (1, 1)
    return (value, info) if alike else None


def _multiplied(main: Main, source: Value, name: str) -> Main:
    """Checked: what is multiplied fits a container."""
    weight = 0 if main.weight is None else Interval(int(main.weight.min()), int(main.weight.max()), 0).with_zero()
    bits = 0 if isinstance(weight, int) else weight.width + (not weight.signed)
    if source.width > CONTAINER or bits > CONTAINER:
        what = f"multiplies {source.width} bits by {bits}" if source.width > CONTAINER or bits else ""
        raise UnsupportedError(what, where=name, remedy=f"cast what it reads, and its weights, to {CONTAINER} bits at most")
    return main
