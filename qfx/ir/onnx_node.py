"""A node of an ONNX file, as the operators read themselves from it. Nothing in it is ever evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from qfx.errors import ModelFileError, TypeSyntaxError
from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph
from qfx.ir.values import ArrayType, Const, Pads, Shape

REMEDY = "export the model again with qfx.export_onnx"


@dataclass(frozen=True)
class OnnxNode:
    """``proto`` in its file, whose float inputs are ``sources``, by name, with the initializers and the constants that were passed before it."""

    proto: onnx.NodeProto
    sources: Mapping[str, onnx.ValueInfoProto]
    tensors: Mapping[str, onnx.TensorProto]
    consts: Mapping[str, Const]
    read_body: Callable[[onnx.GraphProto, str], tuple[Graph, tuple[int, ...]]]

    @property
    def form(self) -> str:
        """As in ``Operator.forms``: the domain where there is one, and the kind up to a ``_``."""
        return f"{self.proto.domain}.{self.proto.op_type.split('_')[0]}" if self.proto.domain else str(self.proto.op_type)

    def input(self, index: int) -> str:
        if not 0 <= index < len(self.proto.input):
            raise ModelFileError(f"{self.proto.op_type} has {len(self.proto.input)} inputs", where=self.proto.name, remedy=REMEDY)
        return str(self.proto.input[index])

    @property
    def reads_source(self) -> bool:
        """Whether its first input is one of the model's."""
        return self.input(0) in self.sources

    def source_shape(self) -> Shape:
        """The shape of the model's input that it reads, without the batch."""
        sizes = self.sources[self.input(0)].type.tensor_type.shape.dim[1:]
        if not all(size.HasField("dim_value") for size in sizes):
            raise ModelFileError("only the batch may have no fixed size", where=self.input(0), remedy=REMEDY)
        return tuple(size.dim_value for size in sizes)

    def tensor(self, index: int) -> onnx.TensorProto:
        name = self.input(index)
        if name not in self.tensors:
            raise ModelFileError(f"reads {name!r}, which the file does not hold", where=self.proto.name, remedy=REMEDY)
        return self.tensors[name]

    def held(self, index: int) -> tuple[int, ...]:
        """The integers of an initializer."""
        return tuple(int(value) for value in numpy_helper.to_array(self.tensor(index)).reshape(-1))

    def const(self, index: int) -> Const:
        name = self.input(index)
        if name not in self.consts:
            raise ModelFileError(f"reads {name!r}, which is not a constant", where=self.proto.name, remedy=REMEDY)
        return self.consts[name]

    def flat_const(self, index: int) -> Const:
        """A constant per channel, or for all, without the axes of length 1 that let it broadcast."""
        const = self.const(index)
        return Const(const.raw.reshape(-1), const.frac_bits) if const.shape else const

    def broadcast_const(self, index: int) -> Const:
        """As ``flat_const``, but one that differs along other axes than the channels as it is."""
        const = self.const(index)
        return const if any(size > 1 for size in const.shape[1:]) else self.flat_const(index)

    def maybe_const(self, index: int) -> Const | None:
        """The constant, if there is such an input."""
        return self.const(index) if len(self.proto.input) > index else None

    def ints(self, name: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self._attribute(name, onnx.AttributeProto.INTS).ints)

    def pads(self, name: str) -> Pads:
        return _pads(self.ints(name))

    def held_pads(self, index: int) -> Pads:
        """The pads in an initializer."""
        return _pads(self.held(index))

    def integer(self, name: str) -> int:
        return int(self._attribute(name, onnx.AttributeProto.INT).i)

    def real(self, name: str) -> float:
        return float(self._attribute(name, onnx.AttributeProto.FLOAT).f)

    def grids(self) -> int | tuple[int, ...]:
        """The grid of a constant, or one for each index of its axis 0."""
        several = any(attribute.name == "frac_bits" and attribute.type == onnx.AttributeProto.INTS for attribute in self.proto.attribute)
        return self.ints("frac_bits") if several else self.integer("frac_bits")

    def cast(self) -> ArrayType:
        text = self._attribute("type", onnx.AttributeProto.STRING).s.decode("utf-8", "replace")
        try:
            return ArrayType(FixedType.parse(text), self.ints("int_bits"), self.ints("shape"))
        except TypeSyntaxError as error:
            raise ModelFileError(error.what, where=self.proto.name, remedy=REMEDY) from error

    def body(self, name: str) -> tuple[Graph, tuple[int, ...]]:
        """The graph inside the node, and which of its outputs are carried to the next step."""
        return self.read_body(self._attribute(name, onnx.AttributeProto.GRAPH).g, str(self.proto.name))

    def _attribute(self, name: str, kind: int) -> onnx.AttributeProto:
        attribute: onnx.AttributeProto
        for attribute in self.proto.attribute:
            if attribute.name == name and attribute.type == kind:
                return attribute
        raise ModelFileError(f"{self.proto.op_type} lacks the attribute {name!r}", where=self.proto.name, remedy=REMEDY)


def _pads(values: tuple[int, ...]) -> Pads:
    """ONNX lists what comes before each axis, then what comes after each."""
    half = len(values) // 2
    return tuple(zip(values[:half], values[half:], strict=True))
