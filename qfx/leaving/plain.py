"""Graphs as float32 and standard operators, which is what other tools read; how casts and constants are written is the dialect's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from qfx.errors import UnsupportedError
from qfx.export import bounds, opset
from qfx.export.bounds import DOUBLE, FLOAT, Attributes, Value, fits, symmetric
from qfx.export.writer import Writer
from qfx.fixed.arith import FLOAT32_BITS, Bounds
from qfx.fixed.arraytype import ArrayType
from qfx.fixed.type import QMode
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Const, Info, Shape
from qfx.leaving.rounding import Front, front, magnitude_of

_WIDER = "use shorter words for its inputs or weights; `qfx convert --to integer` has no such limit"
_QUANTIZED = ("weight", "bias", "scale", "shift", "slope", "ones")
"""The constants that numbers are multiplied with or added to; others are bounds, tables and the like."""

Array = npt.NDArray[np.generic]


class Plain(Writer):
    """Writes nodes of standard operators whose tensors are values: float32 where that is exact in any order of sums, and float64 between the casts
    where it is not (a BatchNorm behind a convolution mostly needs it). A convolution that float32 would round is refused by name.

    A cast of float64, or one that float32 cannot prepare, is carried out as qfx's own files do it, and the quantizer behind it only says the type.
    A dialect says what it is called and how its quantizer rounds (``modes``; ``float_modes`` of any float32), and writes quantizers and constants.
    """

    dialect: str
    modes: Collection[QMode]
    float_modes: Collection[QMode]

    # What a dialect answers

    @abstractmethod
    def holds(self, node: Node, cast: ArrayType) -> bool:
        """Whether the quantizer saturates where the type does. UnsupportedError for a type that it has no words for."""

    @abstractmethod
    def quantizer(self, node: Node, x: str, cast: ArrayType, mode: QMode) -> None:
        """Write the quantizer of the tensor ``x``, whose result is the node's."""

    @abstractmethod
    def constant(self, node: Node, name: str, const: Const, shape: Shape) -> None:
        """Write a constant of ``shape`` as the float32 tensor ``name``."""

    # What the operators ask of a writer

    def const(self, node: Node, role: str, const: Const, dtype: int, shape: tuple[int, ...] | None = None) -> str:
        name, shape = f"{node.name}#{role}", const.shape if shape is None else shape
        if role not in _QUANTIZED:
            return self.tensor(name, const.values.reshape(shape).astype(np.float64 if dtype == DOUBLE else np.float32))
        if not fits(bounds.of(const), FLOAT):
            raise self._too_wide(node, const.interval)
        self.constant(node, name, const, shape)
        return self._part(node, "Cast", [name], f"{role}.double", to=DOUBLE) if dtype == DOUBLE else name

    def scan(self, node: Node, graph: Graph, carried: tuple[int, ...]) -> Value:
        raise UnsupportedError(f"a loop over the steps of a sequence has no form in {self.dialect}", where=node.name, remedy="keep qfx's own file")

    def split(self, node: Node, weight: Const, x: Value, bias: Const | None) -> tuple[list[str], list[str]]:
        raise self._too_wide(node, bounds.weighted(x, weight, bias).bound)

    def _too_wide(self, node: Node, bound: Bounds) -> UnsupportedError:
        what = f"its numbers need {bound.magnitude_bits} bits and a sign, the float32 of {self.dialect} holds {FLOAT32_BITS}"
        return UnsupportedError(what, where=node.name, remedy=_WIDER)

    def call(self, node: Node, function: str, inputs: list[str], attributes: Attributes = MappingProxyType({})) -> None:
        """The body of the function, its constants as initializers."""
        if function == "SumPool":
            window = attributes["window"]
            assert isinstance(window, list)
            ones = self.const(node, "ones", Const(np.ones(window, dtype=np.int64), 0), FLOAT)
            rest = {key: value for key, value in attributes.items() if key != "window"}
            self.emit(node, "Conv", [*inputs, ones], {"dilations": [1] * (len(window) - 2), "kernel_shape": window[2:], **rest, "group": window[0]})
            return
        result = f"{node.name}#exact" if function.startswith("Cast_") else node.name
        body = opset.function(function)
        names = {"": "", **dict(zip(body.input, inputs, strict=False))}
        for output in (name for part in body.node for name in part.output):
            names[output] = result if output == body.output[0] else f"{node.name}#{output}"
        for part in body.node:
            given = [_resolved(attribute, attributes) for attribute in part.attribute]
            if part.op_type == "Constant":
                self.tensor(names[part.output[0]], _held(given[0]))
                continue
            outputs = [names[name] for name in part.output]
            made = helper.make_node(part.op_type, [names[name] for name in part.input], outputs, name=outputs[0], domain=part.domain)
            made.attribute.extend(given)
            self.nodes.append(made)

    # Casts

    def cast(self, node: Node, x: str, cast: ArrayType) -> Value:
        info = self.graph.infos[node.name]
        bound = symmetric(info.interval)
        if not fits(bound, FLOAT) or np.abs(cast.frac_bits).max() > 100:
            raise self._too_wide(node, bound)
        source = self.graph.infos[node.inputs[0]] if node.inputs else None
        modes = self.float_modes if source is None else self.modes
        made = front(node.name, self.dialect, cast, info.shape, source, modes, self.holds(node, cast))
        if made is None or not self._is_exact(node, made, cast, source):
            super().cast(node, x, cast)
            self.quantizer(node, f"{node.name}#exact", cast, QMode.RND_CONV)
        else:
            self.quantizer(node, self._fronted(node, x, made, len(info.shape)), cast, made.mode)
        return Value(FLOAT, bound)

    def _is_exact(self, node: Node, made: Front, cast: ArrayType, source: Info | None) -> bool:
        """Whether float32 holds the number that is cast, and what is added to it in front of its rounding, there or in the quantizer."""
        info = self.graph.infos[node.name]
        if source is not None and self.values[node.inputs[0]].dtype != FLOAT:
            return False
        halves = made.mode in (QMode.RND_INF, QMode.RND_ZERO)
        moved = np.ldexp(0.5, -cast.frac_bits) if halves else made.moved
        if moved is None:
            return True
        bound = symmetric(info.interval).hull if source is None else self.values[node.inputs[0]].bound
        rows = moved.reshape(len(moved), -1) if moved.ndim == len(info.shape) and len(moved) > 1 else moved.reshape(1, -1)
        channels = enumerate(bound.spread(info.shape[0]))
        return all(fits(magnitude_of(channel, by), FLOAT) for number, channel in channels for by in set(rows[number % len(rows)].tolist()))

    def _fronted(self, node: Node, x: str, made: Front, rank: int) -> str:
        """The nodes in front of the quantizer; the tensor that it reads."""
        if made.bounds is not None:
            low, high = (self._reals(node, role, end, rank) for role, end in zip(("low", "high"), made.bounds, strict=True))
            if made.bounds[0].ndim and made.bounds[0].size > 1:
                x = self._part(node, "Min", [self._part(node, "Max", [x, low], "above"), high], "within")
            else:
                x = self._part(node, "Clip", [x, low, high], "within")
        sign = x
        if made.magnitude:
            sign, x = self._part(node, "Sign", [x], "sign"), self._part(node, "Abs", [x], "magnitude")
        if made.stepped is not None:
            op, grid = made.stepped
            x = self._part(node, "Mul", [x, self._reals(node, "up", np.ldexp(1.0, grid), rank)], "steps")
            x = self._part(node, op, [x], "stepped")
            x = self._part(node, "Mul", [x, self._reals(node, "down", np.ldexp(1.0, -grid), rank)], "on_grid")
        if made.moved is not None:
            x = self._part(node, "Add", [x, self._reals(node, "ties", made.moved, rank)], "moved")
        return self._part(node, "Mul", [x, sign], "signed") if made.magnitude else x

    def _part(self, node: Node, op_type: str, inputs: list[str], role: str, **attributes: Any) -> str:
        name = f"{node.name}#{role}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def _reals(self, node: Node, role: str, values: npt.NDArray[np.float64], rank: int) -> str:
        """float32 values that are exact there, shaped for a tensor of ``rank`` axes behind the batch."""
        shaped = values.reshape(1, *(1,) * (rank - values.ndim), *values.shape) if values.size > 1 else values.reshape(())
        return self.tensor(f"{node.name}#{role}", shaped.astype(np.float32))


def one_axis(array: npt.NDArray[np.int64], rank: int) -> int | None:
    """The only axis, counted behind the batch from 1, along which the array differs; 0: it is all the same. None: there are several."""
    if (array == array.reshape(-1)[0]).all():
        return 0
    axes = [axis for axis, size in enumerate((1,) * (rank - array.ndim) + array.shape, start=1) if size > 1]
    return axes[0] if len(axes) == 1 else None


def word_of(const: Const) -> tuple[int, bool]:
    """The least word length, and whether it has a sign, that holds the raws of every row."""
    return const.interval.width, const.interval.signed


def to_model(writer: Plain, graph: Graph, domains: dict[str, int], *, batch: int | None, producer_version: str) -> onnx.ModelProto:
    """The model of the nodes that ``writer`` writes; its inputs and outputs are called as in the file that qfx writes."""
    for node in graph.nodes:
        writer.write(node)
    first: str | int = "N" if batch is None else batch

    def info(name: str, source: str) -> onnx.ValueInfoProto:
        dtype = FLOAT if name not in writer.values else writer.values[name].dtype
        return helper.make_tensor_value_info(name, dtype, [first, *graph.infos[source].shape])

    body = helper.make_graph(
        writer.nodes,
        graph.name,
        [info(f"{node.name}#float", node.name) for node in graph.inputs],
        [info(name, name) for name in graph.outputs],
        writer.initializers,
        value_info=[info(node.name, node.name) for node in graph.nodes if node.name not in graph.outputs],
    )
    return finished(body, graph, domains, producer_version)


def finished(body: onnx.GraphProto, graph: Graph, domains: dict[str, int], producer_version: str) -> onnx.ModelProto:
    """The model around a graph; it keeps the metadata."""
    imports = [helper.make_opsetid("", opset.ONNX_OPSET), *(helper.make_opsetid(*entry) for entry in domains.items())]
    model = helper.make_model(body, opset_imports=imports, ir_version=opset.IR_VERSION, producer_name="qfx", producer_version=producer_version)
    for key, text in graph.metadata.items():
        model.metadata_props.add(key=key, value=text)
    return model


def _resolved(attribute: onnx.AttributeProto, given: Attributes) -> onnx.AttributeProto:
    if not attribute.ref_attr_name:
        return attribute
    value = given[attribute.ref_attr_name]
    return helper.make_attribute(attribute.name, value, attr_type=onnx.AttributeProto.INTS if isinstance(value, list) else None)


def _held(attribute: onnx.AttributeProto) -> Array:
    """What a Constant holds."""
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    return np.array(value, dtype=np.float32 if "float" in attribute.name else np.int64)
