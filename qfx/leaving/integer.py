"""Graph -> ONNX of integers alone: inputs, outputs and all between them are raws, and nothing is ever rounded but where a Cast says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.ir import rules
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Const, Info, Shape
from qfx.leaving.integers import Integers, TooNarrowError, shape_of
from qfx.leaving.plain import finished

_WORDS = {
    (8, True): TensorProto.INT8, (8, False): TensorProto.UINT8, (16, True): TensorProto.INT16, (16, False): TensorProto.UINT16,
    (32, True): TensorProto.INT32, (32, False): TensorProto.UINT32, (64, True): TensorProto.INT64, (64, False): TensorProto.UINT64,
}  # fmt: skip


def to_integer(graph: Graph, *, batch: int | None, producer_version: str) -> onnx.ModelProto:
    """The graph in integer operators: int32 throughout where every number on the way fits, else int64.

    An input called ``x`` is ``x#raw``, in the least type that holds its raws: those that ``qfx.ir.interpret.quantize_inputs`` gives. Outputs are raws
    of their types. Raises UnsupportedError naming the layer that has no such form.
    """
    try:
        writer = _written(graph, 32)
    except TooNarrowError:
        writer = _written(graph, 64)
    first: str | int = "N" if batch is None else batch

    def info(name: str, kind: int, shape: Shape) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [first, *shape])

    kind = TensorProto.INT32 if writer.bits == 32 else TensorProto.INT64
    body = helper.make_graph(
        writer.nodes,
        graph.name,
        [info(f"{node.name}#raw", raw_kind(graph.infos[node.name].type), graph.infos[node.name].shape) for node in graph.inputs],
        [info(name, kind, graph.infos[name].shape) for name in graph.outputs],
        writer.initializers,
        value_info=[info(node.name, kind, graph.infos[node.name].shape) for node in graph.nodes if node.name not in graph.outputs],
    )
    model = finished(body, graph, {}, producer_version)
    for role, names in (("input", [node.name for node in graph.inputs]), ("output", graph.outputs)):
        for name in names:
            model.metadata_props.add(key=f"{role} {name}", value=str(graph.infos[name].type))
    return model


def raw_kind(type_: FixedType) -> int:
    """The least integer type of ONNX that holds the raws of the type."""
    return next(kind for (width, signed), kind in _WORDS.items() if type_.width <= width and type_.signed == signed)


def _written(graph: Graph, bits: int) -> Integers:
    writer = Integers(graph, bits)
    for node in graph.nodes:
        held = writer.stored(node.name)
        writer.need(node, held.lo, held.hi)
        write = _FORMS.get(type(node.op))
        if write is None:
            what = f"{type(node.op).__name__} has no form in integer operators"
            raise UnsupportedError(what, where=node.name, remedy="keep qfx's own file, or use `qfx convert --to qdq` or `--to qonnx`")
        infos = tuple(graph.infos[name] for name in node.inputs)
        write(writer, node, node.op, infos, graph.infos[node.name])
    for name in graph.outputs:
        if graph.infos[name].per_channel:
            rules.one_grid(name, graph.infos[name])
            raise UnsupportedError("its channels lie on grids of their own", where=name, remedy="cast the output")
    return writer


def _input(w: Integers, node: Node, op: ops.Input, infos: rules.Infos, out: Info) -> None:
    w.as_word(node, f"{node.name}#raw")


def _cast(w: Integers, node: Node, op: ops.Cast, infos: rules.Infos, out: Info) -> None:
    w.cast(node, op.cast)


def _linear(w: Integers, node: Node, op: ops.Linear | ops.Conv, infos: rules.Infos, out: Info) -> None:
    x = rules.one_grid(node.name, infos[0])
    _need_type(w, node, op.accumulator(x))
    held = x.interval.at(x.type.frac_bits)
    windows, groups = (op.windows(node.name, x.shape), op.groups) if isinstance(op, ops.Conv) else (None, 1)
    padded = held.with_zero() if windows is not None and any(map(any, windows.pads)) else held
    made = w.weighted(node, w.aligned(node, 0, x), padded, op.weight.raw, windows, groups)
    rows = np.array(op.weight.rows(len(op.weight.raw))).reshape(-1, *(1,) * (len(out.shape) - 1))
    _with_bias(w, node, made, x.type.frac_bits + rows, op.bias, out)


def _with_bias(w: Integers, node: Node, x: str, grids: Any, bias: Const | None, out: Info) -> None:
    """Raws on ``grids`` taken to those of the result, plus the bias."""
    x = w.moved(node, x, np.asarray(out.grids - grids))
    if bias is None:
        w.op(node, "Identity", [x])
        return
    raw, own = w.beside(bias, len(out.shape))
    w.op(node, "Add", [x, w.held(node, "bias", rules.move(raw, np.asarray(out.grids - own)))])


def _affine(w: Integers, node: Node, op: ops.Affine, infos: rules.Infos, out: Info) -> None:
    (x,) = infos
    narrow = x.narrow() if out.per_channel or op.grid(x) is None else x
    _need_type(w, node, op.accumulator(x))
    name, grids = w.aligned(node, 0, narrow), narrow.grids
    if op.scale is not None:
        raw, own = w.beside(op.scale, len(x.shape))
        held = narrow.stored.hull if not narrow.per_channel else out.interval.hull
        _need(w, node, held * Interval(int(raw.min()), int(raw.max()), 0))
        name, grids = w.op(node, "Mul", [name, w.held(node, "scale", raw)], "scaled"), grids + own
    _with_bias(w, node, name, grids, op.shift, out)


def _two(op_type: str) -> Callable[[Integers, Node, Any, rules.Infos, Info], None]:
    """Both operands on the grids of the result."""

    def write(w: Integers, node: Node, op: Any, infos: rules.Infos, out: Info) -> None:
        for info in infos:
            _need(w, node, info.interval.hull.at(max(out.type.frac_bits, info.interval.hull.frac_bits)))
        parts = [w.aligned(node, 0, out), w.aligned(node, 1, out)]
        if op_type in ("Add", "Sub"):
            w.op(node, op_type, parts)
        else:
            w.extreme(node, op_type, *parts)

    return write


def _mul(w: Integers, node: Node, op: ops.Mul, infos: rules.Infos, out: Info) -> None:
    several = out.per_channel or rules.common_grid(*infos) is None
    a, b = (info.narrow() for info in infos) if several else infos
    made = w.op(node, "Mul", [w.aligned(node, 0, a), w.aligned(node, 1, b)], "product")
    w.op(node, "Identity", [w.moved(node, made, np.asarray(out.grids - a.grids - b.grids))])


def _relu(w: Integers, node: Node, op: ops.Relu, infos: rules.Infos, out: Info) -> None:
    w.extreme(node, "Max", w.aligned(node, 0, out), w.held(node, "zero", 0))


def _leaky(w: Integers, node: Node, op: ops.LeakyRelu, infos: rules.Infos, out: Info) -> None:
    """On the grid of the part below 0, where the other is a multiple."""
    _need(w, node, infos[0].interval.hull.at(max(infos[0].interval.hull.frac_bits, out.interval.hull.frac_bits)))
    whole = w.moved(node, node.inputs[0], np.asarray(out.grids - infos[0].grids), "whole")
    small = w.moved(node, node.inputs[0], np.asarray(out.grids + op.log2_slope - infos[0].grids), "small")
    w.extreme(node, "Max", whole, small)


def _prelu(w: Integers, node: Node, op: ops.PRelu, infos: rules.Infos, out: Info) -> None:
    """What is above 0 and what is below, each moved for itself, and their sum."""
    (x,) = infos
    narrow = x.narrow() if out.per_channel or rules.common_grid(x, op.slope) is None else x
    slope, grids = w.beside(op.slope, len(x.shape))
    held = narrow.stored.hull.with_zero() if not narrow.per_channel else (out.interval.hull | x.interval.hull).with_zero()
    _need(w, node, held * Interval(min(int(slope.min()), 0), max(int(slope.max()), 0), 0))
    name, zero = w.aligned(node, 0, narrow), w.held(node, "zero", 0)
    below = w.op(node, "Mul", [w.extreme(node, "Min", name, zero, "below"), w.held(node, "slope", slope)], "sloped")
    below = w.moved(node, below, np.asarray(out.grids - narrow.grids - grids))
    above = w.moved(node, w.extreme(node, "Max", name, zero, "above"), np.asarray(out.grids - narrow.grids))
    w.op(node, "Add", [below, above])


def _lookup(w: Integers, node: Node, op: ops.Lookup, infos: rules.Infos, out: Info) -> None:
    hull = infos[0].interval.hull
    _need(w, node, hull.at(max(op.frac_bits, hull.frac_bits)) + Interval(-op.first, -op.first, max(op.frac_bits, hull.frac_bits)))
    name = w.moved(node, node.inputs[0], np.asarray(op.frac_bits - infos[0].grids))
    place = w.op(node, "Sub", [name, w.held(node, "first", op.first)], "place")
    w.op(node, "Gather", [w.held(node, "entries", op.entries.raw), place], axis=0)


def _clip(w: Integers, node: Node, op: ops.Clip, infos: rules.Infos, out: Info) -> None:
    name = w.aligned(node, 0, out)
    _need(w, node, infos[0].interval.hull.at(max(out.type.frac_bits, infos[0].interval.hull.frac_bits)))
    ends = [(end, op_type) for end, op_type in ((op.low, "Max"), (op.high, "Min")) if end is not None]
    for i, (end, op_type) in enumerate(ends, start=1):
        raw = rules.move(end.raw, np.asarray(out.grids - end.grids))
        name = w.extreme(node, op_type, name, w.held(node, "end", raw), "" if i == len(ends) else "above")


def _max_pool(w: Integers, node: Node, op: ops.MaxPool, infos: rules.Infos, out: Info) -> None:
    x = infos[0]
    taps = w.taps(node, w.aligned(node, 0, x), op.windows(node.name, x.shape), w.stored(node.inputs[0]).lo)
    w.op(node, "Identity", [w.joined(node, "Max", taps)])


def _sum_pool(w: Integers, node: Node, op: ops.SumPool, infos: rules.Infos, out: Info) -> None:
    _need_type(w, node, op.accumulator(infos[0]))
    taps = w.taps(node, w.aligned(node, 0, infos[0]), op.windows(node.name, infos[0].shape), 0)
    w.op(node, "Identity", [w.joined(node, "Add", taps)])


def _concat(w: Integers, node: Node, op: ops.Concat, infos: rules.Infos, out: Info) -> None:
    as_they_are = out.per_channel or any(info.per_channel for info in infos)
    parts = list(node.inputs) if as_they_are else [w.aligned(node, i, out) for i in range(len(infos))]
    w.op(node, "Concat", parts, axis=1)


def _renamed(w: Integers, node: Node, op: ops.Reshape | ops.Transpose, infos: rules.Infos, out: Info) -> None:
    name = node.inputs[0] if op.keeps_channels(infos[0]) else w.aligned(node, 0, out)
    if isinstance(op, ops.Reshape):
        w.op(node, "Reshape", [name, w.ints(node, "shape", shape_of(op.shape))])
    else:
        w.op(node, "Transpose", [name], perm=[0, *(axis + 1 for axis in op.perm)])


def _pad(w: Integers, node: Node, op: ops.Pad, infos: rules.Infos, out: Info) -> None:
    pads = [0, *(before for before, _ in op.pads), 0, *(after for _, after in op.pads)]
    w.op(node, "Pad", [node.inputs[0], w.ints(node, "pads", pads), w.held(node, "fill", 0)], mode="constant")


def _slice(w: Integers, node: Node, op: ops.Slice, infos: rules.Infos, out: Info) -> None:
    parts = {"starts": op.starts, "ends": op.stops, "axes": range(1, len(op.starts) + 1), "steps": op.steps}
    w.op(node, "Slice", [node.inputs[0], *(w.ints(node, role, [*values]) for role, values in parts.items())])


def _take(w: Integers, node: Node, op: ops.Take, infos: rules.Infos, out: Info) -> None:
    w.op(node, "Gather", [node.inputs[0], w.ints(node, "indices", op.indices)], axis=op.axis + 1)


def _expand(w: Integers, node: Node, op: ops.Expand, infos: rules.Infos, out: Info) -> None:
    w.op(node, "Expand", [node.inputs[0], w.ints(node, "shape", [1, *op.shape])])


def _upsample(w: Integers, node: Node, op: ops.Upsample, infos: rules.Infos, out: Info) -> None:
    name = node.inputs[0]
    for axis, (size, factor) in enumerate(zip(infos[0].shape[1:], op.factors, strict=True), start=2):
        places = np.repeat(np.arange(size), factor).tolist()
        name = w.op(node, "Gather", [name, w.ints(node, "repeated", places)], "" if axis == len(infos[0].shape) else "along", axis=axis)


def _stretch(w: Integers, node: Node, op: ops.Stretch, infos: rules.Infos, out: Info) -> None:
    """Every axis gets one of length 1 beside it, which zeros fill; the two are joined, and the zeros at the end fall away."""
    (x,) = infos
    pairs = list(zip(x.shape[1:], op.factors, strict=True))
    apart = w.ints(node, "apart", [0, x.shape[0], *(part for size, _ in pairs for part in (size, 1))])
    name = w.op(node, "Reshape", [node.inputs[0], apart], "split")
    behind = [0] * (2 + 2 * len(pairs)) + [0, 0, *(part for _, factor in pairs for part in (0, factor - 1))]
    name = w.op(node, "Pad", [name, w.ints(node, "behind", behind), w.held(node, "fill", 0)], "filled", mode="constant")
    name = w.op(node, "Reshape", [name, w.ints(node, "joined", [0, x.shape[0], *(size * factor for size, factor in pairs)])], "longer")
    axes = range(2, 2 + len(pairs))
    w.op(node, "Slice", [name, w.ints(node, "starts", [0] * len(pairs)), w.ints(node, "ends", out.shape[1:]), w.ints(node, "axes", axes)])


def _reduce(w: Integers, node: Node, op: Any, infos: rules.Infos, out: Info) -> None:
    x = rules.one_grid(node.name, infos[0]) if 0 in op.axes else infos[0]
    held = op.accumulator(infos[0])
    if held is not None:
        _need_type(w, node, held)
    name = w.aligned(node, 0, x)
    made = w.op(node, type(op).__name__, [name, w.ints(node, "axes", [axis + 1 for axis in op.axes])], "reduced", keepdims=1)
    w.op(node, "Identity", [w.moved(node, made, np.asarray(out.grids - x.grids))])


def _matmul(w: Integers, node: Node, op: ops.MatMul, infos: rules.Infos, out: Info) -> None:
    a, b = (rules.one_grid(node.name, info) for info in infos)
    sums = (a.interval.at(a.type.frac_bits) * b.interval.at(b.type.frac_bits)).with_zero().times(a.shape[-1])
    _need(w, node, sums)
    made = w.op(node, "MatMul", [w.aligned(node, 0, a), w.aligned(node, 1, b)], "products")
    w.op(node, "Identity", [w.moved(node, made, np.asarray(out.grids - a.type.frac_bits - b.type.frac_bits))])


def _need(w: Integers, node: Node, held: Interval) -> None:
    w.need(node, held.lo, held.hi)


def _need_type(w: Integers, node: Node, held: FixedType) -> None:
    w.need(node, held.min_raw, held.max_raw)


_FORMS: dict[type[ops.Operator], Callable[[Integers, Node, Any, rules.Infos, Info], None]] = {
    ops.Input: _input, ops.Cast: _cast, ops.Linear: _linear, ops.Conv: _linear, ops.Affine: _affine, ops.Mul: _mul,
    ops.Add: _two("Add"), ops.Sub: _two("Sub"), ops.Max: _two("Max"), ops.Min: _two("Min"),
    ops.Lookup: _lookup, ops.PRelu: _prelu, ops.Relu: _relu, ops.LeakyRelu: _leaky, ops.Clip: _clip, ops.MaxPool: _max_pool, ops.SumPool: _sum_pool,
    ops.Concat: _concat, ops.Reshape: _renamed, ops.Transpose: _renamed, ops.Pad: _pad, ops.Slice: _slice, ops.Take: _take,
    ops.Expand: _expand, ops.Upsample: _upsample, ops.Stretch: _stretch,
    ops.ReduceSum: _reduce, ops.ReduceMax: _reduce, ops.ReduceMin: _reduce, ops.MatMul: _matmul,
}  # fmt: skip
