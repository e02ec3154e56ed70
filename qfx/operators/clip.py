"""Numbers held between two constants."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export import bounds
from qfx.export.bounds import DOUBLE, FLOAT, Value
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design.epilogue import simple, upward
from qfx.ir import rules, words
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Node
from qfx.ir.operator import Operator, Plain, Pointwise
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.epilogue import Steps
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Clip(Plain, Pointwise):
    """min(max(x, low), high); both scalar constants (ReLU6 is Clip(0, 6))."""

    low: Const
    high: Const

    forms: ClassVar[tuple[str, ...]] = ("Clip",)

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if self.low.shape or self.high.shape:
            raise ModelFileError(f"bounds of shape {self.low.shape} and {self.high.shape}", where=name, remedy="give scalars")
        low, high = self.low.interval.hull, self.high.interval.hull
        if (high - low).lo < 0:
            raise ModelFileError(f"the low bound {self.low.values} exceeds the high bound {self.high.values}", where=name, remedy="swap them")
        info = rules.info(name, x.shape, x.interval.clip(low, high), rules.common_grid(x, self.low, self.high))
        rules.fit(name, *((x.interval | low | high,) if info.per_channel else (bound.at(info.type.frac_bits) for bound in (x.interval, low, high))))
        return info

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        low, high = (bound.raw << (out.grids - bound.grids) for bound in (self.low, self.high))
        return np.clip(rules.align(inputs[0], infos[0], out), low, high)

    def does_nothing(self, x: Info) -> bool:
        held = x.interval.hull
        return (self.low.interval.hull - held).hi <= 0 and (held - self.high.interval.hull).hi <= 0

    def words(self) -> Iterable[str]:
        low, high = (words.number(bound.interval.hull.lo, bound.grid) for bound in (self.low, self.high))
        return [f"{low}..{high}"]

    def write(self, writer: Writer, node: Node) -> Value:
        x, interval = writer.values[node.inputs[0]], writer.graph.infos[node.name].interval
        exact = all(bounds.fits(bounds.of(bound), FLOAT) for bound in (self.low, self.high))
        dtype = FLOAT if x.dtype == FLOAT and exact else DOUBLE
        if dtype == DOUBLE:
            writer.choose(node, Value(DOUBLE, Interval(0, 0, 0)), [self.low, self.high])
        edges = [writer.const(node, role, const, dtype) for role, const in (("low", self.low), ("high", self.high))]
        writer.emit(node, "Clip", [writer.as_dtype(node.inputs[0], dtype), *edges])
        return Value(dtype, bounds.symmetric(interval))

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.const(1), proto.const(2))

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        if not out.per_channel and not steps.grids.ndim:
            to, shift, grid = out.type, upward(out.type, steps.type.frac_bits), out.type.frac_bits
            low, high = self.low.interval.at(grid), self.high.interval.at(grid)
            x = Interval.of(FixedType(steps.type.width, steps.type.int_bits, steps.type.signed)).at(grid)
            scalars = tuple(d.Operand(d.Table("", (bound.lo,), "scalar")) for bound in (low, high))
            steps.add("clip", to, ((x | low | high).type(), shift), scalars)
            return
        held = source.interval | self.low.interval.hull | self.high.interval.hull
        wide = FixedType(held.width, 0, held.signed)
        steps.move(out.grids, wide)
        edges = [bound.raw << (simple(out.grids) - bound.grids) for bound in (self.low, self.high)]
        operands = tuple(d.Operand(steps.table(name, edge)) for name, edge in zip(("low", "high"), edges, strict=True))
        steps.add("clip", out.word, (wide, 0), operands)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        x = drawing.info.interval.hull
        grid = x.frac_bits + int(drawing.rng.integers(-1, 2, endpoint=True))
        least, greatest = (math.floor(math.ldexp(bound, grid - x.frac_bits)) for bound in (x.lo - 1, x.hi + 1))
        low, high = sorted(int(raw) for raw in drawing.rng.integers(least, greatest, size=2, endpoint=True))
        return cls(Const(np.array(low), grid), Const(np.array(high), grid)), (drawing.source,)
