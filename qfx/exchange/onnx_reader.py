"""Walks through a quantized ONNX graph: QONNX's operators and pairs of QuantizeLinear and DequantizeLinear become explicit fake-quantizations, all
else what it becomes of a float file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor
from torch.nn.utils import parametrize

from qfx.capture.assemble import Value
from qfx.capture.from_onnx import _Reader
from qfx.capture.onnx.node import Array, Node
from qfx.errors import UnsupportedError
from qfx.exchange.affine import Affine, AffineCast, Float
from qfx.exchange.grid import Grid, along, bipolar, grid, narrowest
from qfx.exchange.thresholds import Thresholds, channels_second, exactly, of_integers
from qfx.nn.layers.given import FakeQuant, SignOf

QONNX_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
_LINEAR_DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Where QuantizeLinear and DequantizeLinear come from."""
"""Of QONNX' operators, by age."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_MOVES = ("Transpose", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


@dataclass
class Tables:
    """What is known of the constants of the module that is read, by the names of their quantizers: their types, and what the file makes of them."""

    constants: dict[str, Grid | Affine] = field(default_factory=dict)
    numbers: dict[str, Tensor] = field(default_factory=dict)

    def grids(self) -> dict[str, Grid]:
        return {name: made for name, made in self.constants.items() if isinstance(made, Grid)}


@dataclass(frozen=True, eq=False)
class _Constant:
    """A constant that the file casts: what it is cast from, to, and how."""

    source: Array
    numbers: Array
    grid: Grid | Affine


@dataclass(frozen=True, eq=False)
class _Stored:
    """Between QuantizeLinear and DequantizeLinear: what is cast, and the integers that it may become."""

    value: Value | Array
    scale: Array
    zero_point: Array
    low: int
    high: int
    axis: int


class QuantReader(_Reader):
    """Reads a quantized graph. ``tables``: where what is known of constants is written. ``affine``: quantizers keep their scales and zero points,
    whatever they are (``AffineCast``, ``Affine`` in the tables), for those who want their integers. ``integers``: whether FINN has made
    thresholds of quantizers, so that whole numbers are what is cast."""

    tables: Tables
    nearest: bool
    affine: bool
    integers: bool

    def __init__(
        self,
        model: onnx.ModelProto,
        feeds: Mapping[str, Tensor],
        name: str,
        tables: Tables,
        *,
        nearest: bool,
        literal: bool = False,
        affine: bool = False,
    ) -> None:
        super().__init__(model, feeds, name, literal=literal)
        self.tables, self.nearest, self.affine = tables, nearest, affine
        self.cast: dict[str, _Constant] = {}
        self.stored: dict[str, _Stored] = {}
        self.integers = not affine and any(node.op_type in ("MultiThreshold", "XnorPopcountMatMul") for node in model.graph.node)
        self.limited: dict[str, tuple[Value, float, float]] = {}  # what a Clip of floats gives: what it reads, and its bounds

    def _node(self, proto: onnx.NodeProto) -> None:
        where = proto.name or f"{proto.op_type} that gives {proto.output[0]!r}"
        self._by_kind(proto, where)
        self._check_declared(proto, where)

    def _by_kind(self, proto: onnx.NodeProto, where: str) -> None:
        stored = [name for name in proto.input if name in self.stored]
        if proto.domain in QONNX_DOMAINS or proto.op_type in _QUANTIZING:
            handler = _QUANTIZING.get(proto.op_type)
            homes = _LINEAR_DOMAINS if proto.op_type in ("QuantizeLinear", "DequantizeLinear") else QONNX_DOMAINS
            if handler is None or proto.domain not in homes:
                remedy = f"use {', '.join(_QUANTIZING)}; FINN's hardware operators come after the file that is meant"
                raise UnsupportedError(f"the operator {proto.domain}.{proto.op_type} is none that is read here", where=where, remedy=remedy)
            handler(self, proto, where)
        elif proto.domain not in ("", "ai.onnx"):
            remedy = "export it with the channels first" if proto.domain.endswith("channels_last") else "leave it out"
            raise UnsupportedError(f"the operator {proto.op_type} is of the unknown domain {proto.domain!r}", where=where, remedy=remedy)
        elif stored:
            if proto.op_type != "Clip":
                what = f"{proto.op_type} works on integers between QuantizeLinear and DequantizeLinear"
                raise UnsupportedError(what, where=where, remedy="put DequantizeLinear in front of it, and QuantizeLinear behind")
            self._clip(proto, where)
        elif proto.op_type in _MOVES and proto.input[0] in self.cast:
            self._moved(proto, where)
        elif proto.op_type in _WEIGHTED:
            self._weighted(proto)
        elif proto.op_type == "Add" and self._bias(proto):
            return
        else:
            for name in proto.input:  # constants stay where the file has them: weights that took them in would be on another grid
                value = self.values.get(name)
                if isinstance(value, Value) and value.layer is not None:
                    self.values[name] = replace(value, layer=None)
            super()._node(proto)
            if proto.op_type == "Clip":
                self._limit(proto, where)

    def _limit(self, proto: onnx.NodeProto, where: str) -> None:
        """Note what a Clip of floats does: a quantizer behind it whose grid has the bounds limits its integers instead."""
        node = self._view(proto, where)
        value, bounds = node.arguments[0], [node.constant(place, name) for place, name in ((1, "min"), (2, "max"))]
        if isinstance(value, Value) and all(bound is None or bound.size == 1 for bound in bounds):
            low, high = (default if bound is None else float(np.ravel(bound)[0]) for bound, default in zip(bounds, (-np.inf, np.inf), strict=True))
            self.limited[proto.output[0]] = replace(value, layer=None), low, high

    def _view(self, proto: onnx.NodeProto, where: str) -> Node:
        arguments = [self.values.get(name) if name else None for name in proto.input]
        return Node(self.assembly, proto, where, arguments, self.uses, self.opset)

    def _check_declared(self, proto: onnx.NodeProto, where: str) -> None:
        """Refuse a file that says that a result has another shape; the batch may be another."""
        for name in proto.output:
            value, declared = self.values.get(name), self.declared.get(name)
            if isinstance(value, Value) and declared is not None:
                shape = tuple(value.data.shape)
                if len(declared) != len(shape) or any(size not in (None, have) for size, have in zip(declared[1:], shape[1:], strict=True)):
                    told = " x ".join("?" if size is None else str(size) for size in declared)
                    what = f"the file says that {name!r} has the shape {told}; it has {' x '.join(map(str, shape))}"
                    raise UnsupportedError(what, where=where, remedy="export the file again")

    @property
    def declared(self) -> dict[str, tuple[int | None, ...]]:
        """The shapes that the file tells of its values."""
        if self._declared is None:
            self._declared = {}
            for value in (*self.graph.value_info, *self.graph.output):
                if value.type.tensor_type.HasField("shape"):
                    dims = value.type.tensor_type.shape.dim
                    self._declared[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)
        return self._declared

    _declared: dict[str, tuple[int | None, ...]] | None = None

    # Casts

    def _becomes(self, proto: onnx.NodeProto, value: Any, made: Grid | Affine, numbers: Callable[[], Array], cast: FakeQuant | None = None) -> None:
        """Let the node be a cast to the grid: of a constant ``numbers``, of anything else a layer. ``value``: what it casts."""
        if isinstance(value, Value):
            name = self._view(proto, "").name
            kind = AffineCast if isinstance(made, Affine) else FakeQuant
            result = self.assembly.layer(name, cast or kind(made, f"{name}.output"), value)  # type: ignore[arg-type]
            self.values[proto.output[0]] = result
            return
        found = numbers()
        self.values[proto.output[0]] = found
        self.cast[proto.output[0]] = _Constant(np.asarray(value, dtype=np.float32), found, made)

    def quant(self, proto: onnx.NodeProto, where: str) -> None:
        node = self._view(proto, where)
        scale, zero_point, width = (self._number(node, place) for place in (1, 2, 3))
        signed = bool(node.integer("signed", 1))
        if self.affine:
            self._affine(proto, node, scale, zero_point, width, where)
            return
        if signed and np.unique(width).tolist() == [1.0] and not np.any(zero_point):  # as qonnx computes it
            made = bipolar(scale, where=where, nearest=self.nearest, rank=_rank(node.arguments[0]))
        else:
            narrow, rounding = bool(node.integer("narrow", 0)), node.text("rounding_mode", "ROUND")
            settings: dict[str, Any] = {"where": where, "nearest": self.nearest, "rank": _rank(node.arguments[0])}
            made = grid(scale, zero_point, width, signed=signed, narrow=narrow, rounding=rounding, **settings)
        value = node.arguments[0]
        self._becomes(proto, value, made, lambda: _applied(made, value))

    def _affine(self, proto: onnx.NodeProto, node: Node, scale: Array, zero_point: Array, width: Array, where: str) -> None:
        """As qonnx computes it: division, the zero point, limits, and rounding, ties to the even integer."""
        signed, narrow = bool(node.integer("signed", 1)), bool(node.integer("narrow", 0))
        value = node.arguments[0]
        if node.text("rounding_mode", "ROUND") not in ("ROUND", "HALF_EVEN"):
            raise node.refuse(f"rounding by {node.text('rounding_mode', 'ROUND')}", "round to the nearest integer, ties to the even one")
        if np.size(width) != 1 or np.unique(zero_point).size != 1 or not float(np.ravel(width)[0]).is_integer():
            raise node.refuse("several word lengths or zero points", "give one of each for the tensor")
        bits = int(np.ravel(width)[0])
        low, high = (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1 - narrow)
        if signed and bits == 1:
            if isinstance(value, Value):
                raise node.refuse("the sign of what is computed", "its integers are no quantizer's: read the file with scales that are powers of two")
            low, high = -1, 1
        scales = np.asarray(scale, dtype=np.float32)
        long = [axis for axis, size in enumerate(scales.shape) if size > 1]
        if len(long) > 1:
            raise node.refuse(f"scales of shape {scales.shape}", "give one for the tensor, or one for each channel")
        axis = long[0] + (_rank(value) or scales.ndim) - scales.ndim if long else None
        zero = int(np.ravel(zero_point)[0])
        told = tuple(float(one) for one in scales.ravel())
        made = Affine(told, (zero,) * len(told), low, high, axis, Float.DIVIDED).checked(where)

        def numbers() -> Array:
            if bits == 1 and signed:
                return np.where(np.asarray(value) >= 0, scales, -scales).astype(np.float32)
            with torch.no_grad():
                result: Tensor = AffineCast(made, "")(torch.from_numpy(np.array(value, dtype=np.float32)))
            return result.numpy()

        self._becomes(proto, value, made, numbers)

    def bipolar(self, proto: onnx.NodeProto, where: str) -> None:
        node = self._view(proto, where)
        value = node.arguments[0]
        if self.affine:
            raise node.refuse("a sign", "its integers are no quantizer's: read the file with scales that are powers of two")
        made = bipolar(self._number(node, 1), where=where, nearest=self.nearest, rank=_rank(value))
        self._becomes(proto, value, made, lambda: _applied(made, value))

    def trunc(self, proto: onnx.NodeProto, where: str) -> None:
        """Integers of a grid on a coarser one. (In the first version without a limit, and the result counted in steps of the first grid.)"""
        node = self._view(proto, where)
        first = len(proto.input) == 5
        if not first and len(proto.input) != 6:
            raise node.refuse(f"{len(proto.input)} inputs", "export it with version 1 or 2 of QONNX' operators")
        scale, zero_point, wide = (self._number(node, place) for place in (1, 2, 3))
        width = self._number(node, 4 if first else 5)
        result = scale * 2.0 ** (wide - width) if first else self._number(node, 4)
        rounding, signed = node.text("rounding_mode", "FLOOR"), first or bool(node.integer("signed", 1))
        settings: dict[str, Any] = {"narrow": bool(node.integer("narrow", 0)), "rounding": rounding, "where": where}
        source = grid(scale, zero_point, wide, signed=signed, **settings)
        made = grid(result, zero_point, width + first, signed=signed, **settings)
        if made.axis is not None or source.axis is not None:
            raise node.refuse("a scale for each channel", "use one scale for the tensor")
        cast = FakeQuant(made, f"{node.name}.output")
        cast.reads, cast.holds_all = source.frac_bits[0], first
        value = node.arguments[0]
        if not isinstance(value, Value):
            raise node.refuse("a constant", "truncate what is computed of the input")
        self._becomes(proto, value, made, lambda: np.zeros(0), cast)
        if first:
            shift = made.frac_bits[0] - source.frac_bits[0]
            self.values[proto.output[0]] = self.assembly.call(f"{node.name}_scaled", torch.mul, self.values[proto.output[0]], 2.0**shift)

    def thresholds(self, proto: onnx.NodeProto, where: str) -> None:
        """How many thresholds each number has reached, times out_scale, plus out_bias."""
        node = self._view(proto, where)
        value, steps = node.arguments[0], self._number(node, 1)
        scale, shift, layout = node.number("out_scale", 1.0), node.number("out_bias", 0.0), node.text("data_layout", "")
        if not isinstance(value, Value):
            raise node.refuse("a constant", "threshold what is computed of the input")
        if self.affine or steps.ndim != 2 or not steps.size or np.isnan(steps).any():
            what = "integers of any scales" if self.affine else f"thresholds of shape {steps.shape}, or that are no numbers"
            raise node.refuse(what, "read it without --integers" if self.affine else "give (channels, thresholds)")
        order = channels_second(layout, value.data.dim())
        if order is None:
            raise node.refuse(f"data_layout {layout!r} of {value.data.dim()} axes", "export it again")
        axis = order[1]
        if len(steps) not in (1, value.data.shape[axis]):
            what = f"thresholds for {len(steps)} channels, of which it reads {value.data.shape[axis]}"
            raise node.refuse(what, "give each channel its own, or all of them the same")
        moved = axis != 1 and len(steps) > 1
        if moved:
            value = self.assembly.call(f"{node.name}_first", torch.permute, value, order)
        along = exactly(scale, shift, steps.shape[1]) if math.isfinite(scale) and math.isfinite(shift) else None
        value = self.assembly.layer(node.name, Thresholds(steps, f"{node.name}.output", along), value)
        if moved:
            value = self.assembly.call(f"{node.name}_back", torch.permute, value, tuple(int(place) for place in np.argsort(order)))
        if along is None:
            value = self.assembly.call(f"{node.name}_scaled", torch.mul, value, scale)
            value = self.assembly.call(f"{node.name}_shifted", torch.add, value, shift)
        self.values[proto.output[0]] = value

    def popcount(self, proto: onnx.NodeProto, where: str) -> None:
        """How many bits of zeros and ones agree with those of a weight: sums with weights of -1 and 1, and a constant for each."""
        node = self._view(proto, where)
        bits = node.constant(1)
        if bits is None or bits.ndim != 2 or not np.isin(bits, (0, 1)).all() or self.affine:
            raise node.refuse("a second operand that is no constant of zeros and ones", "give the file with MatMul in its place")
        weight, shift, total = (f"{proto.output[0]}.{part}" for part in ("weight", "shift", "total"))
        self.values[weight] = (2 * bits - 1).astype(np.float32)
        self.values[shift] = (len(bits) - bits.sum(0)).astype(np.float32)
        self.uses[total] = 1
        self._weighted(helper.make_node("MatMul", [proto.input[0], weight], [total], name=proto.name))
        agreeing = helper.make_node("Add", [total, shift], [proto.output[0]], name=f"{node.name}_agreeing")
        if not self._bias(agreeing):
            super()._node(agreeing)

    def quantize(self, proto: onnx.NodeProto, where: str) -> None:
        node = self._view(proto, where)
        kind = self.kinds.get(proto.input[2]) if len(proto.input) > 2 and proto.input[2] else None
        kind = kind or helper.tensor_dtype_to_np_dtype(node.integer("output_dtype", 0) or onnx.TensorProto.UINT8).name
        low, high = _range(kind, where)
        scale, zero_point = self._number(node, 1), self._number(node, 2, 0.0)
        if node.integer("block_size", 0):
            raise node.refuse("blocks of scales", "use one scale for the tensor, or one for each channel")
        value = node.arguments[0]
        if value is None:
            raise node.refuse("no input", "export it again")
        front = self.limited.get(proto.input[0])
        if front is not None and scale.size == zero_point.size == 1:
            ends = [bound / float(scale.ravel()[0]) + float(zero_point.ravel()[0]) for bound in front[1:]]
            if all(not np.isfinite(end) or end.is_integer() for end in ends) and ends[0] < ends[1]:
                value, low, high = front[0], int(max(low, ends[0])), int(min(high, ends[1]))
        self.stored[proto.output[0]] = _Stored(value, scale, zero_point, low, high, node.integer("axis", 1))

    @property
    def kinds(self) -> dict[str, str]:
        """The types of the file's constants."""
        return {tensor.name: helper.tensor_dtype_to_np_dtype(tensor.data_type).name for tensor in self.graph.initializer} | {
            name: value.dtype.name for name, value in self.values.items() if isinstance(value, np.ndarray)
        }

    def _clip(self, proto: onnx.NodeProto, where: str) -> None:
        node, found = self._view(proto, where), self.stored[proto.input[0]]
        bounds = [node.constant(place, name) for place, name in ((1, "min"), (2, "max"))]
        low, high = (own if bound is None else int(np.ravel(bound)[0]) for own, bound in zip((found.low, found.high), bounds, strict=True))
        self.stored[proto.output[0]] = replace(found, low=max(found.low, low), high=min(found.high, high))

    def dequantize(self, proto: onnx.NodeProto, where: str) -> None:
        node = self._view(proto, where)
        scale, zero_point, axis = self._number(node, 1), self._number(node, 2, 0.0), node.integer("axis", 1)
        found = self.stored.get(proto.input[0])
        if found is None:
            array = node.arguments[0]
            if not isinstance(array, np.ndarray):
                raise node.refuse("integers that no QuantizeLinear gives", "quantize in the file, or feed floats")
            low, high = self.clipped.get(proto.input[0]) or _range(array.dtype.name, where)
            found = _Stored(array, scale, zero_point, low, high, axis)
        elif not (np.array_equal(scale, found.scale) and np.array_equal(zero_point, found.zero_point)):
            raise node.refuse("another scale or zero point than QuantizeLinear has", "give both the same")
        shift = float(np.ravel(zero_point)[0]) if np.size(zero_point) else 0.0
        if np.unique(zero_point).size > 1:
            raise node.refuse("a zero point for each channel", "quantize symmetrically")
        width, signed, narrow = narrowest(int(found.low - shift), int(found.high - shift), where)
        made = grid(scale, 0, width, signed=signed, narrow=narrow, rounding="ROUND", where=where, nearest=self.nearest, axis_of=axis)
        value = found.value
        if isinstance(value, np.ndarray) and "int" in value.dtype.name:
            value = ((value.astype(np.float64) - shift) * along(scale, value, made.axis)).astype(np.float32)
        self._becomes(proto, value, made, lambda: _applied(made, value))

    @property
    def clipped(self) -> dict[str, tuple[int, int]]:
        """The bounds of constants that a Clip of integers gives."""
        found = {}
        for node in self.graph.node:
            if node.op_type == "Clip" and isinstance(self.values.get(node.output[0]), np.ndarray) and len(node.input) == 3:
                low, high = (self.values.get(name) for name in node.input[1:])
                if isinstance(low, np.ndarray) and isinstance(high, np.ndarray):
                    found[node.output[0]] = int(np.ravel(low)[0]), int(np.ravel(high)[0])
        return found

    def _number(self, node: Node, place: int, default: float | None = None) -> Array:
        """An argument that is a constant, in float64."""
        found = node.constant(place) if place < len(node.arguments) else None
        if found is None and default is None:
            raise node.refuse(f"no argument {place}", "export it again")
        return np.asarray(default if found is None else found, dtype=np.float64)

    # Constants that are cast

    def _moved(self, proto: onnx.NodeProto, where: str) -> None:
        """A cast constant with its axes elsewhere."""
        found, results = self.cast[proto.input[0]], []
        for array in (found.source, found.numbers):
            self.values[proto.input[0]] = array
            super()._node(proto)
            results.append(self.values[proto.output[0]])
        self.values[proto.input[0]] = found.numbers
        made = found.grid
        if made.axis is not None:
            if proto.op_type not in ("Transpose", "Identity"):
                what = f"{proto.op_type} of a constant with a scale for each channel"
                raise UnsupportedError(what, where=where, remedy="cast it behind")
            rank = found.source.ndim
            order = self._view(proto, where).ints("perm", tuple(reversed(range(rank)))) if proto.op_type == "Transpose" else tuple(range(rank))
            made = replace(made, axis=order.index(made.axis))
        self.cast[proto.output[0]] = _Constant(np.asarray(results[0]), np.asarray(results[1]), made)

    def _weighted(self, proto: onnx.NodeProto) -> None:
        """A layer with weights: it keeps what is cast, and its quantizers cast. (Where FINN has made thresholds, integers are what is cast.)"""
        array = self.values.get(proto.input[1]) if self.integers and proto.input[1] not in self.cast else None
        if isinstance(array, np.ndarray) and (made := of_integers(array)) is not None:
            self.cast[proto.input[1]] = _Constant(array.astype(np.float32), array.astype(np.float32), made)
        names = [name for place, name in enumerate(proto.input) if place and name in self.cast]
        plain = {name: self.values[name] for name in names}
        computes = len(proto.input) > 1 and not isinstance(self.values.get(proto.input[1]), Value)
        try:
            for name in names if computes else []:
                self.values[name] = self.cast[name].source
            super()._node(proto)
        finally:
            self.values.update(plain)
        result = self.values[proto.output[0]]
        if not isinstance(result, Value) or result.node.op != "call_module" or not computes:
            return
        self._check_declared(proto, proto.name)
        path = str(result.node.target)
        turned = proto.op_type == "MatMul" or (proto.op_type == "Gemm" and not self._view(proto, "").integer("transB", 0))
        for role, place in (("weight", 1), ("bias", 2)):
            found = self.cast.get(proto.input[place]) if place < len(proto.input) else None
            if found is not None:
                if isinstance(found.grid, Grid) and found.grid.bipolar:
                    layer = self.assembly.root.get_submodule(path)
                    made = replace(found.grid, axis=1 - found.grid.axis) if turned and found.grid.axis is not None else found.grid
                    parametrize.register_parametrization(layer, role, SignOf(made, getattr(layer, role)))
                self._keep(f"{path}.{role}", found, turned=turned and role == "weight", outputs=1 if proto.op_type == "ConvTranspose" else 0)

    def _keep(self, name: str, found: _Constant, *, turned: bool = False, outputs: int = 0) -> None:
        made, numbers = found.grid, torch.from_numpy(np.array(found.numbers, dtype=np.float32))
        if turned:
            made = made if made.axis is None else replace(made, axis=1 - made.axis)
            numbers = numbers.T
        if name.endswith("bias"):
            made, numbers = replace(made, axis=None if made.axis is None else 0), numbers.reshape(-1)
        elif made.axis == outputs:
            made = replace(made, axis=0)
        self.tables.constants[name], self.tables.numbers[name] = made, numbers

    def _bias(self, proto: onnx.NodeProto) -> bool:
        """Whether the sum is that of a layer without a bias and a constant, which then is its bias."""
        for place in (0, 1):
            value, other = self.values.get(proto.input[place]), proto.input[1 - place]
            if (
                not isinstance(value, Value)
                or value.layer is None
                or getattr(value.layer, "bias", 0) is not None
                or self.uses[proto.input[place]] > 1
            ):
                continue
            constant = self.values.get(other)
            if not isinstance(constant, np.ndarray) or f"{value.node.target}.weight" not in self.tables.constants:
                continue
            found = self.cast.get(other)
            shift = torch.from_numpy(np.array(constant if found is None else found.source, dtype=np.float32))
            result = self.assembly.absorbed(value, None, shift)
            if result is None:
                continue
            self.values[proto.output[0]] = result
            if found is not None:
                path = str(value.node.target)
                numbers = np.broadcast_to(found.numbers.reshape(-1), result.data.shape[1:2]) if found.numbers.size == 1 else found.numbers
                self._keep(f"{path}.bias", _Constant(found.source, numbers, found.grid))
            return True
        return False


def _rank(value: Value | Array | None) -> int | None:
    return value.data.dim() if isinstance(value, Value) else np.ndim(value) if value is not None else None


def _applied(made: Grid, value: Any) -> Array:
    """What a cast makes of a constant."""
    with torch.no_grad():
        result: Tensor = FakeQuant(made, "")(torch.from_numpy(np.array(value, dtype=np.float32)))
    return result.numpy()


def _range(kind: str, where: str) -> tuple[int, int]:
    """The integers of a type by its name."""
    digits = kind.removeprefix("u").removeprefix("int")
    if not digits.isdigit() or "int" not in kind:
        raise UnsupportedError(f"quantizes to {kind}", where=where, remedy="quantize to integers")
    bits = int(digits)
    return (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_QUANTIZING: dict[str, Callable[[QuantReader, onnx.NodeProto, str], None]] = {
    "Quant": QuantReader.quant,
    "IntQuant": QuantReader.quant,
    "BipolarQuant": QuantReader.bipolar,
    "Trunc": QuantReader.trunc,
    "MultiThreshold": QuantReader.thresholds,
    "XnorPopcountMatMul": QuantReader.popcount,
    "QuantizeLinear": QuantReader.quantize,
    "DequantizeLinear": QuantReader.dequantize,
}
"""What each operator of a cast becomes."""
