"""The matrix-vector product."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export import bounds
from qfx.export.bounds import Value
from qfx.fixed.type import FixedType
from qfx.hardware.design import matrix
from qfx.hardware.design.epilogue import Frame
from qfx.hardware.design.memory import tiled
from qfx.hardware.design.streams import MAX_WORD_BITS
from qfx.hardware.folding import ragged
from qfx.ir import channels, rules, sums
from qfx.ir.channels import Carried, Mask, Summed
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Operator
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Linear(Operator):
    """y = weight @ x + bias for a value of shape (in_features,)."""

    weight: Const  # (out_features, in_features)
    bias: Const | None  # (out_features,)

    reads: ClassVar[int | None] = 1
    forms: ClassVar[tuple[str, ...]] = ("Gemm",)
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = True
    fuses: ClassVar[bool] = True
    takes_beside: ClassVar[bool] = True
    renames: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if len(self.weight.shape) != 2 or x.shape != self.weight.shape[1:]:
            raise ModelFileError(
                f"the weight is {self.weight.shape} for a value of shape {x.shape}", where=name, remedy="flatten the value, give (out, in)"
            )
        return sums.weighted_info(name, self.weight.shape[:1], self.weight, self.bias, rules.one_grid(name, x).interval.at(x.type.frac_bits))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        x = infos[0].on_one_grid()
        raw = sums.matvec(self.weight, rules.align(inputs[0], infos[0], x), x.interval.at(x.type.frac_bits))
        return sums.with_bias(raw, x.grids + np.array(self.weight.rows(len(self.weight.raw))), self.bias, out)

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        bias = None if self.bias is None else scalars.constants(self.bias)
        outputs = len(self.weight.raw)
        result: Numbers = np.empty(outputs, dtype=object)
        result[:] = scalars.weighted(self.weight.raw, self.weight.rows(outputs), list(inputs[0]), bias)
        return result

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return Summed(channels.meets(self.weight))

    def narrowed(self, made: Mask, read: tuple[Mask, ...]) -> Operator:
        return Linear(channels.weight_of(self.weight, made, read[0]), None if self.bias is None else channels.rows(self.bias, made))

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        return []

    def constants(self) -> Mapping[str, Const]:
        return {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias}

    def accumulator(self, x: Info) -> FixedType:
        return sums.word(sums.weighted(self.weight, self.bias, x.interval.at(x.type.frac_bits))[1])

    def macs(self, out: Info) -> int:
        return out.size * self.weight.shape[1]

    def write(self, writer: Writer, node: Node) -> Value:
        value = writer.choose(node, bounds.weighted(writer.values[node.inputs[0]], self.weight, self.bias), [self.weight, self.bias])
        inputs = [writer.as_dtype(node.inputs[0], value.dtype), writer.const(node, "weight", self.weight, value.dtype)]
        if self.bias is not None:
            inputs.append(writer.const(node, "bias", self.bias, value.dtype))
        writer.emit(node, "Gemm", inputs, {"transB": 1})
        return value

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.const(1), proto.maybe_const(2))

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """A matrix-vector unit whose weight columns follow the order in which the input travels."""
        source, info = builder.graph.infos[node.inputs[0]], builder.graph.infos[node.name]
        outputs, inputs = self.weight.shape
        folding = builder.schedule.folding(node.name)
        if folding.weights == "ddr":
            self._build_tiles(builder, node, chain)
            return
        ragged.check("PE", folding.pe, outputs, "outputs", node.name)
        ragged.check("SIMD", folding.simd, inputs, "inputs", node.name)
        frame = Frame.of(info.shape)
        pixels = matrix.check_pixels(node, folding.pixels, frame)
        value = builder.take_on_one_grid(node.inputs[0])
        stream = value.stream
        if inputs % folding.simd:
            most = MAX_WORD_BITS // stream.type.width
            stream = builder.rewidth(
                node.inputs[0], stream, ragged.source_channels(inputs, 1, inputs, folding.simd, ragged.words(outputs, folding.pe), most)
            )
        if folding.simd == inputs:
            stream = builder.rewidth(node.inputs[0], stream, inputs * pixels)
        else:
            stream = builder.filled(node.inputs[0], stream, inputs, folding.simd)
        unit = matrix.Unit(
            node, chain, stream, frame, False, 1, folding.pe, folding.simd, self.weight, self.bias,
            lambda weight, bias: replace(self, weight=weight, bias=bias).accumulator(source),
        )  # fmt: skip
        matrix.add_unit(builder, unit, self.weight.raw[:, value.frame.order])

    def _build_tiles(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """With the weights in the board's memory."""
        source, folding = builder.graph.infos[node.inputs[0]], builder.schedule.folding(node.name)
        tiled.refuse(node, self.weight, depthwise=False, stretched=False, folding=folding)
        value = builder.take_on_one_grid(node.inputs[0])
        unit = matrix.Unit(
            node, chain, value.stream, Frame.of(builder.graph.infos[node.name].shape), False, 1, folding.pe, folding.simd, self.weight, self.bias,
            lambda weight, bias: replace(self, weight=weight, bias=bias).accumulator(source),
        )  # fmt: skip
        sums = matrix.sums_of(builder, unit, self.weight.raw[:, value.frame.order])
        tiled.add_tiles(builder, unit, sums, tiled.linear_plane(), tiled.tile_rows(node, folding.rows, 1))

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        outputs = int(drawing.rng.integers(1, 4, endpoint=True))
        weight = drawing.const((outputs, *drawing.shape))
        return cls(weight, drawing.maybe(drawing.const((outputs,), bits=8))), (drawing.source,)
