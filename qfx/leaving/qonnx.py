"""Graph -> QONNX (Pappalardo et al., "QONNX", 2022, arXiv:2206.07527): a ``Quant`` for each cast and each weight.

Scales are powers of two, zero points are 0. How ``Quant`` computes is what the package qonnx says (``qonnx.custom_op.general.intquant``): division
by the scale, clamping at the bounds, rounding, and back, in the dtype of its input. HALF_UP and HALF_DOWN add and subtract a half there, from
magnitudes.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper

from qfx.fixed.arraytype import ArrayType
from qfx.fixed.type import OMode, QMode
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Const, Shape
from qfx.leaving.plain import Plain, to_model, word_of

DOMAIN = "qonnx.custom_op.general"
DOMAIN_VERSION = 1

_MODES = {
    QMode.RND_CONV: "ROUND",
    QMode.TRN: "FLOOR",
    QMode.TRN_ZERO: "DOWN",
    QMode.RND_INF: "HALF_UP",
    QMode.RND_ZERO: "HALF_DOWN",
}


class Qonnx(Plain):
    dialect = "QONNX"
    modes: Collection[QMode] = tuple(_MODES)
    float_modes: Collection[QMode] = (QMode.RND_CONV, QMode.TRN, QMode.TRN_ZERO)  # a half added to any float32 may round

    def holds(self, node: Node, cast: ArrayType) -> bool:
        return cast.element.width > 1 or not cast.element.signed  # one bit with a sign is -1 and 1 there

    def quantizer(self, node: Node, x: str, cast: ArrayType, mode: QMode) -> None:
        element, points = cast.element, cast.frac_bits
        rank = len(self.graph.infos[node.name].shape)
        scale = points.reshape(1, *(1,) * (rank - points.ndim), *points.shape) if points.size > 1 else points.reshape(-1)[0]
        narrow = element.o is OMode.SAT_SYM and element.signed and element.width > 1
        read, attributes = self._quant(node.name, np.asarray(scale), element.width, element.signed, narrow, _MODES[mode])
        self.emit(node, "Quant", [x, *read])
        self.nodes[-1].domain = DOMAIN
        self.nodes[-1].attribute.extend(attributes)

    def constant(self, node: Node, name: str, const: Const, shape: Shape) -> None:
        width, signed = word_of(const)
        grids = const.grids.reshape(-1, *(1,) * (len(shape) - 1)) if const.grids.ndim else const.grids
        read, attributes = self._quant(name, grids, width, signed, False, "ROUND")
        values = self.tensor(f"{name}.value", const.values.reshape(shape).astype(np.float32))
        self.nodes.append(helper.make_node("Quant", [values, *read], [name], name=name, domain=DOMAIN))
        self.nodes[-1].attribute.extend(attributes)

    def _quant(
        self, name: str, points: np.ndarray[tuple[int, ...], np.dtype[np.int64]], width: int, signed: bool, narrow: bool, mode: str
    ) -> tuple[list[str], list[onnx.AttributeProto]]:
        """The inputs behind the first, and the attributes."""
        mark = "." if "#" in name else "#"
        width = max(width, 1 + signed)
        given = {"lsb": np.ldexp(np.float32(1), -points), "zero": np.float32(0), "bits": np.float32(width)}
        read = [self.tensor(f"{name}{mark}{role}", np.asarray(value, dtype=np.float32)) for role, value in given.items()]
        attributes = {"narrow": int(narrow), "rounding_mode": mode, "signed": int(signed)}
        return read, [helper.make_attribute(key, value) for key, value in attributes.items()]


def to_qonnx(graph: Graph, *, batch: int | None, producer_version: str) -> onnx.ModelProto:
    """The graph as QONNX. Raises UnsupportedError naming the layer that has no such form."""
    return to_model(Qonnx(graph), graph, {DOMAIN: DOMAIN_VERSION}, batch=batch, producer_version=producer_version)
