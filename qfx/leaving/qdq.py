"""Graph -> ONNX with QuantizeLinear and DequantizeLinear: scales that are powers of two, zero points of 0.

DequantizeLinear has no zero point, which is 0 then: with one, ONNX Runtime (1.31) joins two quantizers that follow each other into one that rounds
otherwise, takes the bias of a Gemm for one on the grid of the products whatever its scale is, and does not load a file with int8 in front of a
Reshape.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from qfx.errors import UnsupportedError
from qfx.fixed.arraytype import ArrayType
from qfx.fixed.type import OMode, QMode
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Const, RawArray, Shape
from qfx.leaving.plain import Plain, one_axis, to_model, word_of
from qfx.operators import Cast, Conv, Input, Linear

_ACTIVATIONS = {8: (TensorProto.INT8, TensorProto.UINT8), 16: (TensorProto.INT16, TensorProto.UINT16)}
"""Signed and unsigned, by length. int4 is left to weights: ONNX Runtime (1.31) takes away the Relu in front of an int4 quantizer."""
_WEIGHTS = {4: TensorProto.INT4, 8: TensorProto.INT8, 16: TensorProto.INT16, 32: TensorProto.INT32}
_LONGEST = max(_ACTIVATIONS)


class Qdq(Plain):
    dialect = "QDQ"
    modes: Collection[QMode] = (QMode.RND_CONV,)
    float_modes: Collection[QMode] = (QMode.RND_CONV,)

    def holds(self, node: Node, cast: ArrayType) -> bool:
        element = cast.element
        if element.width > _LONGEST:
            what = f"QuantizeLinear has no words of {element.width} bits"
            raise UnsupportedError(what, where=node.name, remedy=f"use at most {_LONGEST} bits, or `qfx convert --to integer`")
        return element.width in _ACTIVATIONS and (element.o is not OMode.SAT_SYM or not element.signed)

    def quantizer(self, node: Node, x: str, cast: ArrayType, mode: QMode) -> None:
        rank = len(self.graph.infos[node.name].shape)
        points = cast.frac_bits
        axis = one_axis(points, rank)
        if axis is None:
            what = "has a binary point for each element, a scale of QuantizeLinear differs along one axis"
            raise UnsupportedError(what, where=node.name, remedy="use one for each tensor or channel")
        element = cast.element
        kind = next(kinds for width, kinds in _ACTIVATIONS.items() if element.width <= width)[not element.signed]
        scale = self.tensor(f"{node.name}#lsb", lsb(points.reshape(-1) if axis else points.reshape(-1)[:1].reshape(())))
        zero = f"{node.name}#zero"
        self.initializers.append(helper.make_tensor(zero, kind, [points.size] if axis else [], [0] * (points.size if axis else 1)))
        along: dict[str, Any] = {"axis": axis} if axis else {}
        quantized = f"{node.name}#quantized"
        self.nodes.append(helper.make_node("QuantizeLinear", [x, scale, zero], [quantized], name=quantized, **along))
        self.emit(node, "DequantizeLinear", [quantized, scale], along)

    def constant(self, node: Node, name: str, const: Const, shape: Shape) -> None:
        if name.endswith("#bias"):
            const = self._as_sum(node, const)
        width, signed = word_of(const)
        least = 32 if name.endswith("#bias") else width + (not signed)
        kind = next(kind for length, kind in _WEIGHTS.items() if least <= length)
        raw = self._integers(f"{name}.raw", kind, const.raw.reshape(shape))
        scale = self.tensor(f"{name}.scale", lsb(np.array(const.frac_bits)))
        along: dict[str, Any] = {"axis": 0} if isinstance(const.frac_bits, tuple) else {}
        self.nodes.append(helper.make_node("DequantizeLinear", [raw, scale], [name], name=name, **along))

    def _as_sum(self, node: Node, bias: Const) -> Const:
        """The bias on the grid of the products that it is added to, as runtimes that compute in integers want it, where it can be there."""
        source = self.graph.node(node.inputs[0]).op
        if not isinstance(node.op, Conv | Linear) or not isinstance(source, Input | Cast) or len(set(source.cast.int_bits)) > 1:
            return bias
        count = len(bias.raw)
        grids = np.array(node.op.weight.rows(count)) + source.cast.element.frac_bits
        up = grids - np.array(bias.rows(count))
        if (up < 0).any() or any(int(raw).bit_length() + int(by) > 31 for raw, by in zip(bias.raw, up, strict=True)):
            return bias
        return Const(bias.raw << up, tuple(grids.tolist()))

    def _integers(self, name: str, kind: int, raw: RawArray) -> str:
        self.initializers.append(helper.make_tensor(name, kind, raw.shape, raw.reshape(-1).tolist()))
        return name


def lsb(frac_bits: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The values of a least significant bit."""
    return np.ldexp(np.float32(1), -frac_bits).astype(np.float32)


def to_qdq(graph: Graph, *, batch: int | None, producer_version: str) -> onnx.ModelProto:
    """The graph in QDQ form. Raises UnsupportedError naming the layer that has none."""
    return to_model(Qdq(graph), graph, {}, batch=batch, producer_version=producer_version)
