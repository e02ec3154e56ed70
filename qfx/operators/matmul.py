"""The matrix product of two values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError, ProjectError
from qfx.export.bounds import Value
from qfx.fixed.arith import FLOAT64_BITS, Interval
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design import matrix
from qfx.hardware.design.arithmetic import check_product
from qfx.hardware.design.epilogue import Frame, Steps
from qfx.ir import rules
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Operator, Plain
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class MatMul(Plain):
    """a @ b for values of shapes (..., M, K) and (..., K, N), as torch.matmul, with equal axes in front."""

    reads: ClassVar[int | None] = 2
    forms: ClassVar[tuple[str, ...]] = ("MatMul",)
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = True
    fuses: ClassVar[bool] = True
    renames: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        a, b = rules.arity(name, inputs, 2)
        if len(a.shape) < 2 or a.shape[:-2] != b.shape[:-2] or len(b.shape) != len(a.shape) or a.shape[-1] != b.shape[-2]:
            raise ModelFileError(
                f"multiplies matrices of shapes {a.shape} and {b.shape}", where=name, remedy="give (..., M, K) and (..., K, N), equal in front"
            )
        a, b = rules.one_grid(name, a), rules.one_grid(name, b)
        full, partial = _sums(a, b)
        rules.fit(name, partial)
        return rules.info(name, (*a.shape[:-1], b.shape[-1]), full)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        a, b = (info.on_one_grid() for info in infos)
        bits = max(_sums(a, b)[1].magnitude_bits, *(info.interval.at(info.type.frac_bits).magnitude_bits for info in (a, b)))
        dtype = np.float64 if bits <= FLOAT64_BITS else np.int64
        factors = (rules.align(raw, info, one).astype(dtype) for raw, info, one in zip(inputs, infos, (a, b), strict=True))
        raw: RawArray = np.matmul(*factors).astype(np.int64, copy=False)
        return raw

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        a, b = inputs
        result: Numbers = np.empty((*a.shape[:-1], b.shape[-1]), dtype=object)
        for place in np.ndindex(result.shape):
            *front, row, column = place
            pairs = zip(a[(*front, row)], b[(*front, slice(None), column)], strict=True)
            result[place] = scalars.total(scalars.multiply(x, y) for x, y in pairs)
        return result

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        return []

    def write(self, writer: Writer, node: Node) -> Value:
        a, b = (writer.values[name] for name in node.inputs)
        terms = writer.graph.infos[node.inputs[0]].shape[-1]
        return writer.plain(node, "MatMul", Value(a.dtype, (a.bound.hull * b.bound.hull).times(terms)))

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls()

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """One process. The rows of ``a`` pass through it; of ``b`` it keeps a matrix at a time, which comes column by column."""
        info = builder.graph.infos[node.name]
        sources = [rules.one_grid(node.name, source) for source in builder.sources(node)]
        *_, inputs, outputs = sources[1].shape
        folding = builder.schedule.folding(node.name)
        matrix.check(node, "PE", folding.pe, outputs, "columns")
        matrix.check(node, "SIMD", folding.simd, inputs, "terms of a sum")
        check_product(folding.arithmetic, where=node.name)
        if folding.pixels > 1:
            what = f"pixels={folding.pixels}: it multiplies two values, and only constant weights are the same for several pixels"
            raise ProjectError(what, where=node.name, remedy="use pixels=1")
        orders = (np.arange(sources[0].size), np.arange(sources[1].size).reshape(sources[1].shape).swapaxes(-1, -2).reshape(-1))
        a, b = (
            builder.rewidth(name, builder.take_in_order(name, source, order), folding.simd)
            for name, source, order in zip(node.inputs, sources, orders, strict=True)
        )
        frame = Frame(info.shape, info.size // outputs, outputs, np.arange(info.size))
        partial = _sums(*sources)[1]
        acc = FixedType(partial.width, partial.width - partial.frac_bits, partial.signed)
        steps = Steps(builder.names, node.name, (acc,), frame)
        steps.fit(info.type)
        epilogue, out, name = builder.finish(node, chain, steps, frame, folding.pe)
        rows = info.shape[-2]
        shape = d.ProductShape(frame.pixels // rows, rows, outputs, inputs)
        builder.add(d.MatMul(builder.names.new(node.name, "matmul"), (a, b), out, shape, acc, epilogue, folding.arithmetic))
        builder.give_stream(name, out, frame)

    def travelling(self, out: Info) -> int:
        return out.shape[-1]

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        inputs, outputs = graph.infos[node.inputs[1]].shape[-2:]
        return outputs, inputs

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        infos, shape = drawing.graph.infos, drawing.shape
        fits = [name for name in infos if len(infos[name].shape) == len(shape) >= 2 and infos[name].shape[:-2] == shape[:-2]]
        pairs = [(drawing.source, name) for name in fits if infos[name].shape[-2] == shape[-1]]
        pairs += [(name, drawing.source) for name in fits if infos[name].shape[-1] == shape[-2]]
        if not pairs:
            raise ModelFileError("no value fits", where=drawing.source, remedy="draw another operator")
        return cls(), pairs[int(drawing.rng.integers(len(pairs)))]


def _sums(a: Info, b: Info) -> tuple[Interval, Interval]:
    """The interval of a sum of products, and that of the sum of any of its terms, for values on one grid each."""
    product = a.interval.at(a.type.frac_bits) * b.interval.at(b.type.frac_bits)
    return product.times(a.shape[-1]), product.with_zero().times(a.shape[-1])
