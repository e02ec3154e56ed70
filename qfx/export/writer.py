"""Writing a graph as ONNX nodes: the pieces that the operators put their forms together from."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from qfx.errors import ExactnessError
from qfx.export import body, bounds, opset
from qfx.export.bounds import DOUBLE, FLOAT, MAX_EXPONENT, Attributes, Value, fits, plus, symmetric
from qfx.export.split import plan_split
from qfx.fixed.arith import FLOAT64_BITS, Bounds, Interval, channelwise
from qfx.fixed.type import OMode
from qfx.ir.graph import Graph, Node
from qfx.ir.values import ArrayType, Const

_NUMPY = {FLOAT: np.float32, DOUBLE: np.float64}


class Writer:
    """Collects nodes, initializers and functions while the graph's nodes are written in order.

    ``version``: of qfx's operator set, one of ``opset.READABLE``.
    """

    pads_all_axes: bool

    def __init__(self, graph: Graph, version: int = opset.VERSION) -> None:
        self.graph = graph
        self.version = version
        self.pads_all_axes = version >= opset.PADS_FROM
        self._hulls = version < opset.CHANNELS_FROM  # bounds join all channels
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.functions: set[str] = set()
        self.values: dict[str, Value] = {}
        self._doubled: set[str] = set()

    def value_info(self, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self.values[name].dtype, ["N", *self.graph.infos[name].shape])

    def write(self, node: Node) -> None:
        value = node.op.write(self, node)
        if max(abs(bound.frac_bits) for bound in value.bound.spread(self.graph.infos[node.name].shape[0])) > MAX_EXPONENT + 100:
            raise ExactnessError(f"its binary point lies {value.frac} bits right of 0", where=node.name, remedy="use less extreme binary points")
        self.values[node.name] = Value(value.dtype, self._seen(value.bound))

    def _seen(self, bound: Bounds) -> Bounds:
        return bound.hull if self._hulls else bound

    def within(self, graph: Graph) -> Writer:
        """A writer for a graph inside this one: its functions are those of the file."""
        inner = Writer(graph, self.version)
        inner.functions = self.functions
        return inner

    # Pieces of a model

    def emit(
        self, node: Node, op_type: str, inputs: list[str] | None = None, attributes: Attributes = MappingProxyType({}), *, domain: str = ""
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

    def call(self, node: Node, function: str, inputs: list[str], attributes: Attributes = MappingProxyType({})) -> None:
        self.emit(node, function, inputs, attributes, domain=opset.DOMAIN)

    def as_dtype(self, name: str, dtype: int) -> str:
        """The value in a dtype that is no narrower than its own."""
        if self.values[name].dtype == dtype:
            return name
        double = f"{name}#double"
        if name not in self._doubled:
            self._doubled.add(name)
            self.nodes.append(helper.make_node("Cast", [name], [double], name=double, to=DOUBLE))
        return double

    def tensor(self, name: str, array: npt.NDArray[np.generic]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def ints(self, node: Node, role: str, ints: list[int]) -> str:
        return self.tensor(f"{node.name}#{role}", np.array(ints, dtype=np.int64))

    def doubles(self, node: Node, role: str, values: float | npt.NDArray[np.float64]) -> str:
        return self.tensor(f"{node.name}#{role}", np.asarray(values, dtype=np.float64))

    def const(self, node: Node, role: str, const: Const, dtype: int, shape: tuple[int, ...] | None = None) -> str:
        """The constant: integers in the smallest type that holds them, and the node that scales them."""
        raw = const.raw if shape is None else const.raw.reshape(shape)
        grids = const.grids.reshape(-1, *(1,) * (raw.ndim - 1)) if const.grids.ndim else const.grids
        name = f"{node.name}#{role}"
        low, high = int(raw.min()), int(raw.max())
        integer = next(t for t in (np.int8, np.int16, np.int32, np.int64) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
        lsb = np.asarray(np.ldexp(1.0, -grids), dtype=_NUMPY[dtype])
        read = [self.tensor(f"{name}.raw", raw.astype(integer)), self.tensor(f"{name}.lsb", lsb)]
        self.functions.add("FromRaw")
        frac_bits = const.frac_bits if isinstance(const.frac_bits, int) else list(const.frac_bits)
        self.nodes.append(helper.make_node("FromRaw", read, [name], name=name, domain=opset.DOMAIN, dtype=dtype, frac_bits=frac_bits))
        return name

    def choose(self, node: Node, result: Value, consts: list[Const | None]) -> Value:
        """``result`` in float32 if its inputs, the constants and the bound allow, else in float64; ExactnessError if that rounds too."""
        parts = [self._seen(bounds.of(const)) for const in consts if const is not None]
        result = Value(result.dtype, self._seen(result.bound))
        inputs = [self.values[name] for name in node.inputs]
        if all(x.dtype == FLOAT for x in inputs) and all(fits(part, FLOAT) for part in (*parts, result.bound)):
            return Value(FLOAT, result.bound)
        for part in (*parts, result.bound):
            if not fits(part, DOUBLE):
                raise ExactnessError(
                    f"its sums need {part.magnitude_bits} bits and a sign, ONNX's double holds {FLOAT64_BITS}",
                    where=node.name,
                    remedy="use shorter words for its inputs or weights, or bring these closer together in size (normalize the inputs)",
                )
        return Value(DOUBLE, result.bound)

    def plain(self, node: Node, op_type: str, result: Value) -> Value:
        """An operator on values alone, all of them in the dtype that holds ``result``."""
        value = self.choose(node, result, [])
        self.emit(node, op_type, [self.as_dtype(name, value.dtype) for name in node.inputs])
        return value

    def cast(self, node: Node, x: str, cast: ArrayType) -> Value:
        info = self.graph.infos[node.name]
        points = cast.frac_bits
        if np.abs(points).max() > MAX_EXPONENT:
            raise ExactnessError(f"casts to {cast}, which float64 cannot reach", where=node.name, remedy="use less extreme binary points")
        bound = self._seen(symmetric(info.interval))
        # Each element is on its own grid, which may be coarser than that of the whole: either proves that the dtype holds it.
        own = [symmetric(Interval.of(type_)) for type_ in cast.distinct]
        held = {dtype: fits(bound, dtype) or all(fits(one, dtype) for one in own) for dtype in (FLOAT, DOUBLE)}
        if not held[DOUBLE]:
            raise ExactnessError(
                f"casts to {cast}, ONNX's double holds {FLOAT64_BITS} bits", where=node.name, remedy=f"use at most {FLOAT64_BITS} bits"
            )
        value = Value(FLOAT if held[FLOAT] else DOUBLE, bound)
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
        inputs = [x, self.doubles(node, "scale", np.ldexp(1.0, points))]
        inputs += [self.doubles(node, role, float(scalars[role])) for role in opset.cast_inputs(function)[1:]]
        self.call(node, function, inputs, {"type": str(type_), "int_bits": list(cast.int_bits), "shape": list(cast.shape), "dtype": value.dtype})
        return value

    def scan(self, node: Node, graph: Graph, carried: tuple[int, ...]) -> Value:
        """A Scan with this body; ``carried`` as the operator has it."""
        return body.write_scan(self, node, graph, carried)

    def split(self, node: Node, weight: Const, x: Value, bias: Const | None) -> tuple[list[str], list[str]]:
        """The initializers that say where the operands of a convolution are cut."""
        plan = plan_split(weight.raw, x.mag) if x.mag <= 1 << FLOAT64_BITS else None
        rows = weight.rows(len(weight.raw))
        grids = (*rows, x.frac, *(row + x.frac for row in rows))
        total = None if plan is None else plus(channelwise(Interval(-plan.total, plan.total, row + x.frac) for row in rows), bias)
        if plan is None or total is None or not fits(total, DOUBLE) or min(grids) < -70 or max(grids) > 120:
            raise ExactnessError(
                "ONNX Runtime convolves in float32 only, and its sums are too wide to be split into exact ones",
                where=node.name,
                remedy="cast its inputs or weights to narrower types",
            )
        roles = (("w", plan.w_cuts, weight.grids), ("x", plan.x_cuts, np.array(x.frac)))
        w_steps, x_steps = (
            [self.doubles(node, role, np.ldexp(1.0, cut - frac)) for role, cut in zip(opset.step_names(letter, len(cuts) + 1), cuts, strict=True)]
            for letter, cuts, frac in roles
        )
        return w_steps, x_steps

    @staticmethod
    def conv_name(w_pieces: int, x_pieces: int, *, bias: bool) -> str:
        """The function of a convolution that splits its operands into so many pieces."""
        return opset.conv_name(w_pieces, x_pieces, bias=bias)

    @staticmethod
    def sum_pool_name(x_pieces: int) -> str:
        """The function of a sum pool that splits its input into so many pieces."""
        return opset.sum_pool_name(x_pieces)
