"""Graph -> the layers that hls4ml builds, and the type of everything in them.

Every operator of a graph is a layer of its own whose result has the operator's exact type; a cast is a linear activation, which is an assignment to
``ap_fixed`` and so has all of its modes. hls4ml has channels last: the numbers of a value may lie in another order than in qfx, and what reads them
follows (``Layer.order``). What it has no layer for and others of its layers compute is taken apart first (``spread``). Its tables are those of two
functions, which it works out itself: a table of the graph goes where every entry is what hls4ml puts there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir import rules
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Const, Info, Shape
from qfx.ir.windows import Windows

Order = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
_REMEDY = "leave it out, or take qfx's own back end"
_LARGEST = 1 << 14
"""The most entries of a table."""
_FUNCTIONS: Mapping[str, tuple[int, Callable[[Reals], Reals]]] = {"sigmoid": (16, lambda x: 1 / (1 + np.exp(-x))), "tanh": (8, np.tanh)}
"""hls4ml's functions by table, and how wide the range is that a table is for (nnet_activation.h)."""
_ROUNDED: Mapping[QMode, Callable[[Reals], Reals]] = {QMode.RND: lambda x: np.floor(x + 0.5), QMode.TRN: np.floor}
_BIT = FixedType(2, 2)
"""Of a bias that is not there: hls4ml always adds one."""


@dataclass(frozen=True, slots=True)
class Layer:
    """``settings``: as hls4ml's parsers give them. ``types``: by hls4ml's words for them. ``order``: where, in qfx's row-major order, each number of
    the result lies, in hls4ml's order. ``table_size``: of a table."""

    settings: Mapping[str, Any]
    types: Mapping[str, FixedType]
    order: Order
    table_size: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """All layers, by the names of their nodes, in order; ``names`` are hls4ml's."""

    layers: Mapping[str, Layer]
    names: Mapping[str, str]


def layers_of(graph: Graph) -> Made:
    """The layers of a graph of one input and one output. Raises UnsupportedError naming the layer that hls4ml cannot express exactly, and
    ModelFileError for several inputs or outputs."""
    _ = graph.input, graph.output
    graph = spread(graph)
    names: dict[str, str] = {}
    for node in graph.nodes:
        stem = re.sub(r"\W", "_", node.name)
        names[node.name] = f"q_{stem}" if f"q_{stem}" not in names.values() else f"q_{stem}_{len(names)}"
    layers: dict[str, Layer] = {}
    for node in graph.nodes:
        make = _MAKERS.get(type(node.op))
        if make is None:
            raise UnsupportedError(f"{type(node.op).__name__} has no layer in hls4ml", where=node.name, remedy=_REMEDY)
        infos = tuple(graph.infos[name] for name in node.inputs)
        made = make(node, node.op, infos, graph.infos[node.name], tuple(layers[name].order for name in node.inputs))
        for role, type_ in made.types.items():
            if type_.width > 64 or type_.o is OMode.WRAP_SM:
                raise UnsupportedError(f"its {role} would be {type_}, which hls4ml has not", where=node.name, remedy=_REMEDY)
        settings = {"name": names[node.name], "inputs": [names[name] for name in node.inputs], "outputs": [names[node.name]], **made.settings}
        layers[node.name] = Layer(settings, made.types, made.order, made.table_size)
    return Made(layers, names)


def spread(graph: Graph) -> Graph:
    """The graph with limits as rectifiers between sums, and joins of several values as joins of two. Nodes keep their names; those in front of them
    have longer ones."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, ops.Clip):
            steps = _limits(node, node.op)
            names = [f"{node.name}::limit{i}" for i in range(len(steps) - 1)] + [node.name]
            sources = [node.inputs[0], *names[:-1]]
            nodes += [Node(name, step, (source,)) for name, step, source in zip(names, steps, sources, strict=True)]
        elif isinstance(node.op, ops.Concat) and len(node.inputs) > 2:
            names = [f"{node.name}::join{i}" for i in range(len(node.inputs) - 2)] + [node.name]
            firsts = [node.inputs[0], *names[:-1]]
            nodes += [Node(name, ops.Concat(), pair) for name, pair in zip(names, zip(firsts, node.inputs[1:], strict=True), strict=True)]
        else:
            nodes.append(node)
    return Graph(graph.name, tuple(nodes), graph.outputs, graph.metadata)


def _limits(node: Node, op: ops.Clip) -> list[ops.Operator]:
    """``low + max(x - low, 0)``, and ``high - max(high - x, 0)``: exact, as all sums are."""
    ends = [end for end in (op.low, op.high) if end is not None]
    if any(len(end.shape) > 1 or not isinstance(end.frac_bits, int) for end in ends):
        raise UnsupportedError("its limits differ along other axes than the channels", where=node.name, remedy=_REMEDY)
    grid = max(int(end.frac_bits) for end in ends if isinstance(end.frac_bits, int))
    low, high = (None if end is None else rules.move(end.raw, np.asarray(grid - end.grids)) for end in (op.low, op.high))
    turn, steps = Const(np.array(-1), 0), list[ops.Operator]()
    if low is not None:
        steps = [ops.Affine(None, Const(-low, grid)), ops.Relu(), ops.Affine(None, Const(low, grid))]
        if not low.any():
            steps = [ops.Relu()]
    if high is not None:
        back = ops.Affine(turn, Const(high, grid))
        steps += [back, ops.Relu(), back]
    return steps


def channels_last(shape: Shape) -> Order:
    """Where each number of a value of ``shape``, channels first, lies if they come last."""
    return np.moveaxis(np.arange(int(np.prod(shape))).reshape(shape), 0, -1).reshape(-1)


def _last(shape: Shape) -> list[int]:
    return [*shape[1:], shape[0]]


def _in_place(node: Node, info: Info, order: Order) -> None:
    """Raise UnsupportedError unless the numbers lie as a layer over pixels takes them."""
    if not np.array_equal(order, channels_last(info.shape)):
        raise UnsupportedError("hls4ml would read its input in another order", where=node.name, remedy="flatten only in front of linear layers")


def _input(node: Node, op: ops.Input, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    _one_type(node, op.cast.int_bits)
    if len(op.shape) > 3:
        raise UnsupportedError("hls4ml has no values of three spatial axes", where=node.name, remedy=_REMEDY)
    return Layer({"class_name": "InputLayer", "input_shape": _last(op.shape)}, {"result": op.cast.element}, channels_last(op.shape))


def _one_type(node: Node, int_bits: tuple[int, ...]) -> None:
    if len(set(int_bits)) > 1:
        raise UnsupportedError("has several binary points, a type of hls4ml has one", where=node.name, remedy="use one for each tensor")


def _cast(node: Node, op: ops.Cast, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    _one_type(node, op.cast.int_bits)
    return _activation("linear", out, orders, op.cast.element)


def _activation(kind: str, out: Info, orders: tuple[Order, ...], result: FixedType) -> Layer:
    settings = {"class_name": "Activation", "activation": kind, "n_in": out.size}
    return Layer(settings, {"result": result}, orders[0])


def _relu(node: Node, op: ops.Relu, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    return _activation("relu", out, orders, out.type)


def _leaky(node: Node, op: ops.LeakyRelu, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    slope = FixedType(2, 2 + op.log2_slope, False)
    settings = {"class_name": "LeakyReLU", "activation": "LeakyReLU", "activ_param": 2.0**op.log2_slope, "n_in": out.size}
    return Layer(settings, {"result": out.type, "param": slope}, orders[0])


def _const(const: Const) -> FixedType:
    """The least type that holds all numbers of a constant."""
    return _at_least(const.interval.hull.type())


def _at_least(type_: FixedType) -> FixedType:
    """A type of one bit is another thing in hls4ml."""
    return type_ if type_.width > 1 else FixedType(2, 2 - type_.frac_bits, type_.signed)


def _weights(weight: npt.NDArray[np.float64], bias: Const | None, outputs: int) -> dict[str, Any]:
    return {"weight_data": weight, "bias_data": np.zeros(outputs) if bias is None else bias.values}


def _weighted_types(op: ops.Linear | ops.Conv, x: Info, out: Info) -> dict[str, FixedType]:
    return {
        "weight": _const(op.weight),
        "bias": _BIT if op.bias is None else _const(op.bias),
        "accum": _at_least(op.accumulator(x)),
        "result": out.type,
    }


def _lookup(node: Node, op: ops.Lookup, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    """hls4ml has a table of sigmoid for -8 to 8 and one of tanh for -4 to 4; what lies outside gets the entries at the ends."""
    hull = infos[0].interval.hull.at(op.frac_bits)
    raws = np.arange(hull.lo, hull.hi + 1)
    entries = op.entries.raw[raws - op.first]
    kind = _at_least(Interval(int(entries.min()), int(entries.max()), out.type.frac_bits).type())
    for name, (span, function) in _FUNCTIONS.items():
        size = span << max(op.frac_bits, 0)
        if op.frac_bits < 0 or size > _LARGEST:
            continue
        places = np.clip(raws, -size // 2, size // 2 - 1)
        exact = np.ldexp(function(np.ldexp(places.astype(np.float64), -op.frac_bits)), out.type.frac_bits)
        for q, rounded in _ROUNDED.items():
            if np.array_equal(np.clip(rounded(exact), kind.min_raw, kind.max_raw), entries):
                table = replace(kind, q=q, o=OMode.SAT)
                settings = {"class_name": "Activation", "activation": name, "n_in": out.size}
                return Layer(settings, {"table": table, "result": out.type}, orders[0], size)
    what = "its table is not what hls4ml makes of sigmoid (for -8 to 8) or tanh (for -4 to 4), rounded or cut off"
    raise UnsupportedError(what, where=node.name, remedy="cast what it reads and its result to fewer bits, or take qfx's own back end")


def _concat(node: Node, op: ops.Concat, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    rank = len(out.shape)
    settings = {"class_name": "Concatenate", "op": f"concatenate{rank}d", "axis": rank}
    if rank == 1:
        return Layer(settings, {"result": out.type}, np.concatenate([orders[0], orders[1] + infos[0].size]))
    for info, order in zip(infos, orders, strict=True):
        _in_place(node, info, order)
    return Layer(settings, {"result": out.type}, channels_last(out.shape))


def _linear(node: Node, op: ops.Linear, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    outputs, inputs = op.weight.shape
    weight = op.weight.values[:, orders[0]].T
    settings = {"class_name": "Dense", "n_in": inputs, "n_out": outputs, **_weights(weight, op.bias, outputs)}
    return Layer(settings, _weighted_types(op, infos[0], out), np.arange(outputs))


def _conv(node: Node, op: ops.Conv, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    (x,) = infos
    _in_place(node, x, orders[0])
    outputs = len(op.weight.raw)
    depthwise = op.groups > 1 and op.groups == x.shape[0] == outputs
    if op.groups > 1 and not depthwise:
        raise UnsupportedError("hls4ml has no convolution in groups but depthwise ones", where=node.name, remedy=_REMEDY)
    weight = np.moveaxis(op.weight.values, (0, 1), (-1, -2))  # taps, inputs, outputs
    data = _weights(weight, op.bias, outputs)
    if depthwise:
        data = {"depthwise_data": np.swapaxes(weight, -1, -2), "depth_multiplier": 1, **data}
    kind = f"{'Depthwise' if depthwise else ''}Conv{len(op.stride)}D"
    geometry = _geometry(node, op.windows(node.name, x.shape), "filt")
    settings = {"class_name": kind, **geometry, "n_chan": x.shape[0], "n_filt": outputs, "data_format": "channels_last", **data}
    return Layer(settings, _weighted_types(op, x, out), channels_last(out.shape))


def _geometry(node: Node, windows: Windows, kernel: str) -> dict[str, int]:
    if set(windows.dilation) != {1} or len(windows.size) > 2:
        raise UnsupportedError("hls4ml has no dilated windows, and none over three axes", where=node.name, remedy=_REMEDY)
    made: dict[str, int] = {}
    axes = ("width",) if len(windows.size) == 1 else ("height", "width")
    sides = (("left", "right"),) if len(windows.size) == 1 else (("top", "bottom"), ("left", "right"))
    for i, (axis, (before, after)) in enumerate(zip(axes, sides, strict=True)):
        made |= {f"in_{axis}": windows.size[i], f"out_{axis}": windows.out[i], f"{kernel}_{axis}": windows.kernel[i]}
        made |= {f"stride_{axis}": windows.stride[i], f"pad_{before}": windows.pads[i][0], f"pad_{after}": windows.pads[i][1]}
    return made


def _max_pool(node: Node, op: ops.MaxPool, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    (x,) = infos
    _in_place(node, x, orders[0])
    if any(map(any, op.pads)) and not x.type.signed:
        what = "hls4ml fills the padding of unsigned numbers with the one whose first bit alone is set, which wins"
        raise UnsupportedError(what, where=node.name, remedy="pool without padding, or in front of the rectifier")
    windows = op.windows(node.name, x.shape)
    geometry = _geometry(node, windows, "pool")
    if len(op.kernel) == 1:
        geometry |= {"n_in": geometry.pop("in_width"), "n_out": geometry.pop("out_width")}
    settings = {"class_name": f"MaxPooling{len(op.kernel)}D", **geometry, "n_filt": x.shape[0], "data_format": "channels_last"}
    return Layer(settings, {"accum": x.type, "result": out.type}, channels_last(out.shape))


def _sum_pool(node: Node, op: ops.SumPool, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    """A depthwise convolution by ones: hls4ml's average divides, and rounds."""
    channels = infos[0].shape[0]
    ones = Const(np.ones((channels, 1, *op.kernel), dtype=np.int64), 0)
    return _conv(node, ops.Conv(ones, None, op.stride, op.pads, (1,) * len(op.kernel), channels), infos, out, orders)


def _affine(node: Node, op: ops.Affine, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    """A batch normalization: a factor and a summand for each channel, or for each number of a flat value."""
    (x,) = infos
    channels = x.shape[0]
    if any(len(const.shape) > 1 for const in op.constants().values()):
        raise UnsupportedError("its factors differ along other axes than the channels", where=node.name, remedy=_REMEDY)
    scale = Const(np.ones(channels, dtype=np.int64), 0) if op.scale is None else op.scale
    shift = Const(np.zeros(channels, dtype=np.int64), 0) if op.shift is None else op.shift
    each = [np.broadcast_to(const.values, (channels,)) for const in (scale, shift)]
    if len(x.shape) == 1:
        each = [values[orders[0]] for values in each]
    else:
        _in_place(node, x, orders[0])
    settings = {"class_name": "BatchNormalization", "n_in": x.size, "n_filt": channels, "scale_data": each[0], "bias_data": each[1]}
    return Layer(settings, {"scale": _const(scale), "bias": _const(shift), "result": out.type}, orders[0])


def _merge(word: str) -> Callable[..., Layer]:
    def make(node: Node, op: ops.Operator, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
        if not np.array_equal(orders[0], orders[1]):
            raise UnsupportedError("its operands lie in different orders in hls4ml", where=node.name, remedy="flatten only in front of linear layers")
        return Layer({"class_name": "Merge", "op": word}, {"result": out.type}, orders[0])

    return make


def _reshape(node: Node, op: ops.Reshape, infos: tuple[Info, ...], out: Info, orders: tuple[Order, ...]) -> Layer:
    """The numbers stay where they are."""
    return Layer({"class_name": "Reshape", "target_shape": _last(op.shape)}, {"result": out.type}, orders[0])


_MAKERS: Mapping[type[ops.Operator], Callable[..., Layer]] = {
    ops.Input: _input, ops.Cast: _cast, ops.Relu: _relu, ops.LeakyRelu: _leaky, ops.Linear: _linear, ops.Conv: _conv, ops.MaxPool: _max_pool,
    ops.SumPool: _sum_pool, ops.Affine: _affine, ops.Add: _merge("add"), ops.Sub: _merge("subtract"), ops.Mul: _merge("multiply"),
    ops.Max: _merge("maximum"), ops.Min: _merge("minimum"), ops.Reshape: _reshape,
    ops.Concat: _concat, ops.Lookup: _lookup,
}  # fmt: skip
