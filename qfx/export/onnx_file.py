"""``Graph`` -> ONNX: a file that a plain ONNX Runtime executes with exactly the numbers of the graph.

Tensors hold values, not raws. An operator is a standard ONNX operator in float32 if float32 holds every partial sum in any order, in float64 if
that does and ONNX Runtime has the kernel, else a function of ``ai.qfx`` (see ``opset.py``). Nodes and values bear the names of the graph; helpers of
a node have its name, a ``#`` (which no name of a graph holds) and their role. Constants are stored as integer raws.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from qfx.errors import ExactnessError, ModelFileError, UnsupportedError
from qfx.export import opset
from qfx.export.opset import DOUBLE, FLOAT
from qfx.export.split import plan_split
from qfx.files import check_target, writing
from qfx.fixed.arith import FLOAT32_BITS, FLOAT64_BITS, Bounds, Channels, Interval, channelwise
from qfx.fixed.type import OMode
from qfx.ir import ops
from qfx.ir.graph import Graph, Node
from qfx.ir.ops import Affine, Clip, Conv, LeakyRelu, Linear, MaxPool, SumPool
from qfx.ir.values import ArrayType, Const, Pads

PRODUCER = "qfx"
VERSION_KEY, OPSET_KEY, DIGEST_KEY = "qfx.version", "qfx.opset", "qfx.sha256"
"""The metadata that the writer adds to the graph's own; the digest is that of ``digest``."""

_MAX_FILE_BYTES = (1 << 31) - 1
_MAX_EXPONENT = 400  # binary points further away would leave float64 in a cast; no network has them
_NUMPY = {FLOAT: np.float32, DOUBLE: np.float64}
_Attributes = Mapping[str, int | float | str | list[int]]


def to_model(graph: Graph, *, producer_version: str | None = None, opset_version: int = opset.VERSION) -> onnx.ModelProto:
    """The graph as an ONNX model: input float32 of shape ("N", *shape) in PyTorch's layout, output float32 where that is exact, else float64.

    Exact on ONNX Runtime's CPU provider at every optimization level; TF32 on a GPU (``use_tf32``) is not. The same graph gives the same bytes.
    ``producer_version`` is recorded; it is qfx's own if left out. ``opset_version`` is one of ``opset.READABLE``.
    ``qfx.ir.from_onnx.from_model`` is the inverse.

    Raises ExactnessError, naming the node, if a value needs more than float64's 53 bits; UnsupportedError for metadata under a key that
    the writer needs and for a model too large for one file (2 GiB).
    """
    version = _own_version() if producer_version is None else producer_version
    taken = sorted(set(written_keys(opset_version)) & set(graph.metadata))
    if taken:
        raise UnsupportedError(f"the metadata has an entry {taken[0]!r}", where=graph.name, remedy="use another key; qfx writes this one itself")
    writer = _Writer(graph, hulls=opset_version < opset.CHANNELS_FROM)
    for node in graph.nodes:
        writer.write(node)
    source = graph.nodes[0].name
    body = helper.make_graph(
        writer.nodes,
        graph.name,
        [helper.make_tensor_value_info(f"{source}#float", FLOAT, ["N", *graph.infos[source].shape])],
        [writer.value_info(graph.output)],
        writer.initializers,
        value_info=[writer.value_info(node.name) for node in graph.nodes if node.name != graph.output],
    )
    model = helper.make_model(
        body,
        functions=[opset.function(name) for name in sorted(writer.functions)],
        opset_imports=[helper.make_opsetid("", opset.ONNX_OPSET), helper.make_opsetid(opset.DOMAIN, opset_version)],
        ir_version=opset.IR_VERSION,
        producer_name=PRODUCER,
        producer_version=version,
    )
    ours = (version, f"{opset.DOMAIN} {opset_version}", digest(model))
    for key, text in {**dict(zip(written_keys(opset_version), ours, strict=False)), **graph.metadata}.items():
        model.metadata_props.add(key=key, value=text)
    if model.ByteSize() > _MAX_FILE_BYTES:
        raise UnsupportedError("the model takes more than 2 GiB", where=graph.name, remedy="split it; ONNX files end there")
    return model


def written_keys(opset_version: int) -> tuple[str, ...]:
    """The keys of the metadata that the writer adds, in order."""
    return (VERSION_KEY, OPSET_KEY, DIGEST_KEY) if opset_version >= opset.DIGESTS_FROM else (VERSION_KEY, OPSET_KEY)


def digest(model: onnx.ModelProto) -> str:
    """The SHA-256 of the model's graph: of its constants and of all that its nodes say. One changed bit of a weight gives a consistent
    file, and another digest."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def save(graph: Graph, path: str | os.PathLike[str], *, force: bool = False, producer_version: str | None = None) -> None:
    """Write ``to_model(graph)`` to ``path``, whole or not at all: a reader never sees half a file.

    Raises what ``to_model`` raises, and ModelFileError if the file exists (unless ``force``) or cannot be written.
    """
    remedy = "pass force=True to replace it, or choose another name"
    check_target(path, force=force, error=ModelFileError, remedy=remedy)
    content = to_model(graph, producer_version=producer_version).SerializeToString(deterministic=True)
    with writing(path, force=force, error=ModelFileError, remedy=remedy) as staged:
        staged.write_bytes(content)


def _own_version() -> str:
    try:
        return importlib.metadata.version("qfx")
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return "unknown"


@dataclass(frozen=True, slots=True)
class _Value:
    """A tensor in the file: its dtype, and a symmetric bound on every element, and on every partial sum behind it up to the last cast. Partial sums
    count because a runtime may fuse a convolution with the affine map that follows it.
    """

    dtype: int
    bound: Bounds

    @property
    def mag(self) -> int:
        """The greatest magnitude of a raw, on the grid ``frac`` that all channels share."""
        return self.bound.hull.hi

    @property
    def frac(self) -> int:
        return self.bound.hull.frac_bits


class _Writer:
    """Collects nodes, initializers and functions while the graph's nodes are written in order. ``hulls``: bounds join all channels (version 1)."""

    def __init__(self, graph: Graph, *, hulls: bool = False) -> None:
        self.graph, self.hulls = graph, hulls
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.functions: set[str] = set()
        self.values: dict[str, _Value] = {}
        self._doubled: set[str] = set()

    def value_info(self, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self.values[name].dtype, ["N", *self.graph.infos[name].shape])

    def write(self, node: Node) -> None:
        value = self._write(node)
        if max(abs(bound.frac_bits) for bound in value.bound.spread(self.graph.infos[node.name].shape[0])) > _MAX_EXPONENT + 100:
            raise ExactnessError(f"its binary point lies {value.frac} bits right of 0", where=node.name, remedy="use less extreme binary points")
        self.values[node.name] = _Value(value.dtype, self._seen(value.bound))

    def _seen(self, bound: Bounds) -> Bounds:
        return bound.hull if self.hulls else bound

    def _write(self, node: Node) -> _Value:
        op = node.op
        match op:
            case ops.Input():
                return self._cast(node, f"{node.name}#float", op.cast)
            case ops.Cast():
                return self._cast(node, node.inputs[0], op.cast)
            case Conv():
                return self._conv(node, op)
            case Linear():
                return self._linear(node, op)
            case Affine():
                return self._affine(node, op)
            case ops.Add() | ops.Sub() | ops.Mul():
                return self._binary(node)
            case Clip():
                return self._clip(node, op)
            case LeakyRelu():
                return self._leaky_relu(node, op)
            case SumPool():
                return self._sum_pool(node, op)
            case ops.Concat():
                return self._concat(node)
        # The others move or select numbers and change none of them.
        x, source = self.values[node.inputs[0]], self.graph.infos[node.inputs[0]]
        if isinstance(op, ops.Slice):
            x = _Value(x.dtype, channelwise(x.bound.spread(source.shape[0])[op.starts[0] : op.stops[0] : op.steps[0]]))
        elif isinstance(op, ops.Pad) or (isinstance(op, ops.Reshape | ops.Transpose) and not op.keeps_channels(source)):
            x = _Value(x.dtype, x.bound.hull)
        match op:
            case ops.Relu():
                self._emit(node, "Relu")
            case MaxPool():
                self._max_pool(node, op)
            case ops.Reshape():
                self._emit(node, "Reshape", [node.inputs[0], self._ints(node, "shape", [0, *op.shape])])
            case ops.Transpose():
                self._emit(node, "Transpose", attributes={"perm": [0, *(axis + 1 for axis in op.perm)]})
            case ops.Pad():
                # ONNX Runtime fuses a Pad without axes into a MaxPool behind it, whose padding never wins, and so turns zeros into minus infinities.
                pads, axes = self._ints(node, "pads", _onnx_pads(op.pads)), self._ints(node, "axes", [*range(1, len(op.pads) + 1)])
                self._emit(node, "Pad", [node.inputs[0], pads, "", axes], {"mode": "constant"})
            case ops.Slice():
                bounds = {"starts": op.starts, "ends": op.stops, "axes": range(1, len(op.starts) + 1), "steps": op.steps}
                self._emit(node, "Slice", [node.inputs[0], *(self._ints(node, role, [*ints]) for role, ints in bounds.items())])
            case ops.Upsample():
                self._upsample(node, op)
            case ops.Stretch():
                self._stretch(node, op)
            case _:  # pragma: no cover
                raise UnsupportedError(f"{type(op).__name__} has no ONNX form", where=node.name, remedy="this is a defect in qfx; please report it")
        return x

    # Pieces of a model

    def _emit(
        self, node: Node, op_type: str, inputs: list[str] | None = None, attributes: _Attributes = MappingProxyType({}), *, domain: str = ""
    ) -> None:
        """The ONNX node that stands for ``node``; its documentation is the type of the result."""
        read = list(node.inputs) if inputs is None else inputs
        doc = f"{self.graph.infos[node.name].type}"
        proto = helper.make_node(op_type, read, [node.name], name=node.name, doc_string=doc, domain=domain)
        for key in sorted(attributes):
            value = attributes[key]
            kind = onnx.AttributeProto.INTS if isinstance(value, list) else None  # an empty list does not tell its type
            proto.attribute.append(helper.make_attribute(key, value, attr_type=kind))
        if domain:
            self.functions.add(op_type)
        self.nodes.append(proto)

    def _call(self, node: Node, function: str, inputs: list[str], attributes: _Attributes = MappingProxyType({})) -> None:
        self._emit(node, function, inputs, attributes, domain=opset.DOMAIN)

    def _as(self, name: str, dtype: int) -> str:
        """The value in a dtype that is no narrower than its own."""
        if self.values[name].dtype == dtype:
            return name
        double = f"{name}#double"
        if name not in self._doubled:
            self._doubled.add(name)
            self.nodes.append(helper.make_node("Cast", [name], [double], name=double, to=DOUBLE))
        return double

    def _tensor(self, name: str, array: npt.NDArray[np.generic]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def _ints(self, node: Node, role: str, ints: list[int]) -> str:
        return self._tensor(f"{node.name}#{role}", np.array(ints, dtype=np.int64))

    def _doubles(self, node: Node, role: str, values: float | npt.NDArray[np.float64]) -> str:
        return self._tensor(f"{node.name}#{role}", np.asarray(values, dtype=np.float64))

    def _const(self, node: Node, role: str, const: Const, dtype: int, shape: tuple[int, ...] | None = None) -> str:
        """The constant: integers in the smallest type that holds them, and the node that scales them."""
        raw = const.raw if shape is None else const.raw.reshape(shape)
        grids = const.grids.reshape(-1, *(1,) * (raw.ndim - 1)) if const.grids.ndim else const.grids
        name = f"{node.name}#{role}"
        low, high = int(raw.min()), int(raw.max())
        integer = next(t for t in (np.int8, np.int16, np.int32, np.int64) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
        lsb = np.asarray(np.ldexp(1.0, -grids), dtype=_NUMPY[dtype])
        read = [self._tensor(f"{name}.raw", raw.astype(integer)), self._tensor(f"{name}.lsb", lsb)]
        self.functions.add("FromRaw")
        frac_bits = const.frac_bits if isinstance(const.frac_bits, int) else list(const.frac_bits)
        self.nodes.append(helper.make_node("FromRaw", read, [name], name=name, domain=opset.DOMAIN, dtype=dtype, frac_bits=frac_bits))
        return name

    def _choose(self, node: Node, result: _Value, consts: list[Const | None]) -> _Value:
        """``result`` in float32 if its inputs, the constants and the bound allow, else in float64; ExactnessError if that rounds too."""
        parts = [self._seen(_bound(const)) for const in consts if const is not None]
        result = _Value(result.dtype, self._seen(result.bound))
        inputs = [self.values[name] for name in node.inputs]
        if all(x.dtype == FLOAT for x in inputs) and all(_fits(part, FLOAT32_BITS) for part in (*parts, result.bound)):
            return _Value(FLOAT, result.bound)
        for part in (*parts, result.bound):
            if not _fits(part, FLOAT64_BITS):
                raise ExactnessError(
                    f"its sums need {part.magnitude_bits} bits and a sign, ONNX's double holds {FLOAT64_BITS}",
                    where=node.name,
                    remedy="use shorter words for its inputs or weights, or bring these closer together in size (normalize the inputs)",
                )
        return _Value(DOUBLE, result.bound)

    # Operators

    def _cast(self, node: Node, x: str, cast: ArrayType) -> _Value:
        info = self.graph.infos[node.name]
        points = cast.frac_bits
        if np.abs(points).max() > _MAX_EXPONENT:
            raise ExactnessError(f"casts to {cast}, which float64 cannot reach", where=node.name, remedy="use less extreme binary points")
        bound = self._seen(_symmetric(info.interval))
        # Each element is on its own grid, which may be coarser than that of the whole: either proves that the dtype holds it.
        own = [_symmetric(Interval.of(type_)) for type_ in cast.distinct]
        fits = {dtype: _fits(bound, bits) or all(_fits(one, bits) for one in own) for dtype, bits in ((FLOAT, FLOAT32_BITS), (DOUBLE, FLOAT64_BITS))}
        if not fits[DOUBLE]:
            raise ExactnessError(
                f"casts to {cast}, ONNX's double holds {FLOAT64_BITS} bits", where=node.name, remedy=f"use at most {FLOAT64_BITS} bits"
            )
        value = _Value(FLOAT if fits[FLOAT] else DOUBLE, bound)
        function, type_ = opset.cast_name(cast.element), cast.element
        top = type_.width - (1 if type_.signed else 0)
        wrapping = 0 if type_.o is OMode.WRAP_SM and type_.n == 1 else type_.n
        scalars = {
            "min": type_.min_raw,
            "max": type_.max_raw,
            "modulus": 1 << (type_.width - wrapping),
            "base_under": -(1 << top) if type_.signed else (1 << top) - (1 << (top - type_.n)),
            "base_over": (1 << top) - (1 << (type_.width - type_.n)),
        }
        inputs = [x, self._doubles(node, "scale", np.ldexp(1.0, points))]
        inputs += [self._doubles(node, role, float(scalars[role])) for role in opset.cast_inputs(function)[1:]]
        self._call(node, function, inputs, {"type": str(type_), "int_bits": list(cast.int_bits), "shape": list(cast.shape), "dtype": value.dtype})
        return value

    def _conv(self, node: Node, op: Conv) -> _Value:
        x = self.values[node.inputs[0]]
        value = self._choose(node, _weighted(x, op.weight, op.bias), [op.weight, op.bias])
        geometry: _Attributes = {
            "dilations": list(op.dilation), "group": op.groups, "pads": _onnx_pads(op.pads), "strides": list(op.stride),
        }  # fmt: skip
        weight = self._const(node, "weight", op.weight, value.dtype)
        if value.dtype == FLOAT:
            bias = [] if op.bias is None else [self._const(node, "bias", op.bias, FLOAT)]
            self._emit(node, "Conv", [node.inputs[0], weight, *bias], {"kernel_shape": list(op.weight.shape[2:]), **geometry})
            return value
        w_steps, x_steps = self._split(node, op.weight, x, op.bias)
        inputs = [node.inputs[0], weight, *w_steps, *x_steps]
        if op.bias is not None:
            inputs.append(self._const(node, "bias", op.bias, DOUBLE, (-1, *(1 for _ in op.stride))))
        name = opset.conv_name(len(w_steps) + 1, len(x_steps) + 1, bias=op.bias is not None)
        self._call(node, name, inputs, geometry)
        return value

    def _split(self, node: Node, weight: Const, x: _Value, bias: Const | None) -> tuple[list[str], list[str]]:
        """The initializers that say where the operands of a convolution are cut."""
        plan = plan_split(weight.raw, x.mag) if x.mag <= 1 << FLOAT64_BITS else None
        rows = weight.rows(len(weight.raw))
        grids = (*rows, x.frac, *(row + x.frac for row in rows))
        total = None if plan is None else _plus(channelwise(Interval(-plan.total, plan.total, row + x.frac) for row in rows), bias)
        if plan is None or total is None or not _fits(total, FLOAT64_BITS) or min(grids) < -70 or max(grids) > 120:
            raise ExactnessError(
                "ONNX Runtime convolves in float32 only, and its sums are too wide to be split into exact ones",
                where=node.name,
                remedy="cast its inputs or weights to narrower types",
            )
        roles = (("w", plan.w_cuts, weight.grids), ("x", plan.x_cuts, np.array(x.frac)))
        w_steps, x_steps = (
            [self._doubles(node, role, np.ldexp(1.0, cut - frac)) for role, cut in zip(opset.step_names(letter, len(cuts) + 1), cuts, strict=True)]
            for letter, cuts, frac in roles
        )
        return w_steps, x_steps

    def _linear(self, node: Node, op: Linear) -> _Value:
        value = self._choose(node, _weighted(self.values[node.inputs[0]], op.weight, op.bias), [op.weight, op.bias])
        inputs = [self._as(node.inputs[0], value.dtype), self._const(node, "weight", op.weight, value.dtype)]
        if op.bias is not None:
            inputs.append(self._const(node, "bias", op.bias, value.dtype))
        self._emit(node, "Gemm", inputs, {"transB": 1})
        return value

    def _affine(self, node: Node, op: Affine) -> _Value:
        x, scale = self.values[node.inputs[0]], _bound(op.scale)
        result = _Value(x.dtype, _plus(x.bound * scale, op.shift))
        value = self._choose(node, result, [op.scale, op.shift])
        ones = (1,) * (len(self.graph.infos[node.name].shape) - 1)
        inputs = [self._as(node.inputs[0], value.dtype)]
        for role, const in (("scale", op.scale), ("shift", op.shift)):
            if const is not None:
                inputs.append(self._const(node, role, const, value.dtype, (*const.shape, *ones) if const.shape else ()))
        self._call(node, "Scale" if op.shift is None else "Affine", inputs)
        return value

    def _binary(self, node: Node) -> _Value:
        a, b = (self.values[name] for name in node.inputs)
        result = _Value(a.dtype, a.bound * b.bound if isinstance(node.op, ops.Mul) else a.bound + b.bound)
        value = self._choose(node, result, [])
        self._emit(node, type(node.op).__name__, [self._as(name, value.dtype) for name in node.inputs])
        return value

    def _clip(self, node: Node, op: Clip) -> _Value:
        x, interval = self.values[node.inputs[0]], self.graph.infos[node.name].interval
        exact = all(_fits(bound, FLOAT32_BITS) for bound in map(_bound, (op.low, op.high)))
        dtype = FLOAT if x.dtype == FLOAT and exact else DOUBLE
        value = _Value(dtype, _symmetric(interval))
        if dtype == DOUBLE:
            self._choose(node, _Value(DOUBLE, Interval(0, 0, 0)), [op.low, op.high])
        bounds = [self._const(node, role, const, dtype) for role, const in (("low", op.low), ("high", op.high))]
        self._emit(node, "Clip", [self._as(node.inputs[0], dtype), *bounds])
        return value

    def _leaky_relu(self, node: Node, op: LeakyRelu) -> _Value:
        # A power of two scales a float exactly, however wide the common grid of both halves is.
        x, slope = self.values[node.inputs[0]], math.ldexp(1.0, op.log2_slope)
        fine = x.frac - op.log2_slope
        dtype = FLOAT if x.dtype == FLOAT and fine <= 120 else DOUBLE
        if dtype == FLOAT:
            self._emit(node, "LeakyRelu", attributes={"alpha": slope})
        else:
            self._call(node, "LeakyRelu", [self._as(node.inputs[0], DOUBLE)], {"alpha": slope})
        return _Value(dtype, x.bound.times(1 << -op.log2_slope).shifted(op.log2_slope))

    def _max_pool(self, node: Node, op: MaxPool) -> None:
        attributes: _Attributes = {
            "dilations": list(op.dilation), "kernel_shape": list(op.kernel), "pads": _onnx_pads(op.pads), "strides": list(op.stride),
        }  # fmt: skip
        if all(max(pad) < size for pad, size in zip(op.pads, op.kernel, strict=True)):
            self._emit(node, "MaxPool", attributes=attributes)
            return
        x = self.values[node.inputs[0]]
        if x.mag.bit_length() - x.frac > 127:
            raise ExactnessError("its padding is float32's lowest number, which would win", where=node.name, remedy="use less extreme binary points")
        self._call(node, "PaddedMaxPool", [node.inputs[0]], {"axes": [*range(2, len(op.pads) + 2)], **attributes})

    def _upsample(self, node: Node, op: ops.Upsample) -> None:
        x = self.graph.infos[node.inputs[0]].shape
        if self.values[node.inputs[0]].dtype == FLOAT:
            factors = self._tensor(f"{node.name}#factors", np.array([1, 1, *op.factors], dtype=np.float32))
            modes: _Attributes = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
            self._emit(node, "Resize", [node.inputs[0], "", factors], modes)
            return
        pairs = list(zip(x[1:], op.factors, strict=True))
        self._call(node, "Upsample", list(node.inputs), {
            "factors": list(op.factors),
            "split": [0, x[0], *(part for size, _ in pairs for part in (size, 1))],
            "repeats": [1, 1, *(part for _, factor in pairs for part in (1, factor))],
            "joined": [0, x[0], *(size * factor for size, factor in pairs)],
        })  # fmt: skip

    def _stretch(self, node: Node, op: ops.Stretch) -> None:
        x, out = self.graph.infos[node.inputs[0]].shape, self.graph.infos[node.name].shape
        pairs = list(zip(x[1:], op.factors, strict=True))
        self._call(node, "Stretch", list(node.inputs), {
            "factors": list(op.factors),
            "split": [0, x[0], *(part for size, _ in pairs for part in (size, 1))],
            "pads": [0] * (2 + 2 * len(pairs)) + [0, 0, *(part for _, factor in pairs for part in (0, factor - 1))],
            "joined": [0, x[0], *(size * factor for size, factor in pairs)],
            "starts": [0] * len(pairs),
            "ends": list(out[1:]),
            "axes": [*range(2, len(pairs) + 2)],
        })  # fmt: skip

    def _sum_pool(self, node: Node, op: SumPool) -> _Value:
        x = self.values[node.inputs[0]]
        channels = self.graph.infos[node.name].shape[0]
        ones = Const(np.ones((1, 1, *op.kernel), dtype=np.int64), 0)
        value = self._choose(node, _Value(x.dtype, x.bound.times(math.prod(op.kernel))), [])
        attributes: _Attributes = {
            "group": channels, "pads": _onnx_pads(op.pads), "strides": list(op.stride), "window": [channels, 1, *op.kernel],
        }  # fmt: skip
        if value.dtype == FLOAT:
            self._call(node, "SumPool", [node.inputs[0]], attributes)
        else:
            _, x_steps = self._split(node, ones, x, None)
            self._call(node, opset.sum_pool_name(len(x_steps) + 1), [node.inputs[0], *x_steps], attributes)
        return value

    def _concat(self, node: Node) -> _Value:
        inputs = [self.values[name] for name in node.inputs]
        dtype = DOUBLE if any(x.dtype == DOUBLE for x in inputs) else FLOAT
        self._emit(node, "Concat", [self._as(name, dtype) for name in node.inputs], {"axis": 1})
        counts = [self.graph.infos[name].shape[0] for name in node.inputs]
        return _Value(dtype, channelwise(bound for x, count in zip(inputs, counts, strict=True) for bound in x.bound.spread(count)))


def _fits(bound: Bounds, bits: int) -> bool:
    """Whether a float of so many significand bits holds all numbers of every channel of a symmetric bound, as normal numbers with room to spare."""
    lowest, highest = (-100, 120) if bits == FLOAT32_BITS else (-_MAX_EXPONENT - 100, _MAX_EXPONENT + 100)
    intervals = bound.channels if isinstance(bound, Channels) else (bound,)
    return all(interval.hi <= 1 << bits and lowest <= interval.frac_bits <= highest for interval in intervals)


def _symmetric(bounds: Bounds) -> Bounds:
    """The least bound on magnitudes."""
    intervals = bounds.channels if isinstance(bounds, Channels) else (bounds,)
    magnitudes = [(max(-interval.lo, interval.hi), interval.frac_bits) for interval in intervals]
    return channelwise(Interval(-mag, mag, frac_bits) for mag, frac_bits in magnitudes)


def _bound(const: Const) -> Bounds:
    return _symmetric(const.interval)


def _plus(bound: Bounds, const: Const | None) -> Bounds:
    return bound if const is None else bound + _bound(const)


def _weighted(x: _Value, weight: Const, bias: Const | None) -> _Value:
    """The bound of the sum of |weight * x| over each output (the greatest, where they lie on one grid), and |bias|."""
    sums = [(positive - negative) * x.mag for negative, positive in weight.channel_sums]
    rows = channelwise(Interval(-total, total, row + x.frac) for total, row in zip(sums, weight.rows(len(sums)), strict=True))
    return _Value(x.dtype, _plus(rows, bias))


def _onnx_pads(pads: Pads) -> list[int]:
    """ONNX lists what comes before each axis, then what comes after each."""
    return [before for before, _ in pads] + [after for _, after in pads]
