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
from qfx.fixed import arith
from qfx.fixed.arith import Bounds, Interval
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
    from qfx.hardware.unrolled.program import Number
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Clip(Plain, Pointwise):
    """min(max(x, low), high); scalar constants, of which one may be missing (ReLU6 is Clip(0, 6))."""

    low: Const | None
    high: Const | None

    forms: ClassVar[tuple[str, ...]] = ("Clip",)

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        bounds_ = [bound for bound in (self.low, self.high) if bound is not None]
        if not bounds_:
            raise ModelFileError("has no bounds", where=name, remedy="give one of them, or leave the operator out")
        if any(bound.shape for bound in bounds_):
            raise ModelFileError(f"bounds of shape {[bound.shape for bound in bounds_]}", where=name, remedy="give scalars")
        low, high = self._ends()
        if low is not None and high is not None and (high - low).lo < 0:
            raise ModelFileError(f"the low bound {self.low} exceeds the high bound {self.high}", where=name, remedy="swap them")
        info = rules.info(name, x.shape, arith.clipped(x.interval, low, high), rules.common_grid(x, self.low, self.high))
        ends = [end for end in (low, high) if end is not None]
        held: Bounds = x.interval
        for end in ends:
            held = held | end
        rules.fit(name, *((held,) if info.per_channel else (bound.at(info.type.frac_bits) for bound in (x.interval, *ends))))
        return info

    def _ends(self) -> tuple[Interval | None, Interval | None]:
        """The bounds as intervals of one number each."""
        low, high = (None if bound is None else bound.interval.hull for bound in (self.low, self.high))
        return low, high

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        low, high = (None if bound is None else bound.raw << (out.grids - bound.grids) for bound in (self.low, self.high))
        clipped: RawArray = np.clip(rules.align(inputs[0], infos[0], out), low, high)
        return clipped

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        low, high = (None if bound is None else scalars.scalar(bound) for bound in (self.low, self.high))

        def clipped(x: Number) -> Number:
            least = x if low is None else scalars.greater(x, low)
            return least if high is None else scalars.lesser(least, high)

        return scalars.each(clipped, inputs[0])

    def does_nothing(self, x: Info) -> bool:
        held, (low, high) = x.interval.hull, self._ends()
        return (low is None or (low - held).hi <= 0) and (high is None or (held - high).hi <= 0)

    def words(self) -> Iterable[str]:
        low, high = ("" if end is None else words.number(end.lo, end.frac_bits) for end in self._ends())
        return [f"{low}..{high}"]

    def write(self, writer: Writer, node: Node) -> Value:
        x, interval = writer.values[node.inputs[0]], writer.graph.infos[node.name].interval
        given = [bound for bound in (self.low, self.high) if bound is not None]
        exact = all(bounds.fits(bounds.of(bound), FLOAT) for bound in given)
        dtype = FLOAT if x.dtype == FLOAT and exact else DOUBLE
        if dtype == DOUBLE:
            writer.choose(node, Value(DOUBLE, Interval(0, 0, 0)), [self.low, self.high])
        edges = ["" if const is None else writer.const(node, role, const, dtype) for role, const in (("low", self.low), ("high", self.high))]
        writer.emit(node, "Clip", [writer.as_dtype(node.inputs[0], dtype), *(edges if edges[1] else edges[:1])])
        return Value(dtype, bounds.symmetric(interval))

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.const(1) if proto.input(1) else None, proto.maybe_const(2))

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        low, high = self._ends()
        # What holds all that comes stands for a bound that is missing.
        least, greatest = low or _end(source.interval.hull, False), high or _end(source.interval.hull, True)
        if not out.per_channel and not steps.grids.ndim:
            to, shift, grid = out.type, upward(out.type, steps.type.frac_bits), out.type.frac_bits
            low_end, high_end = least.at(grid), greatest.at(grid)
            x = Interval.of(FixedType(steps.type.width, steps.type.int_bits, steps.type.signed)).at(grid)
            scalars = tuple(d.Operand(d.Table("", (bound.lo,), "scalar")) for bound in (low_end, high_end))
            steps.add("clip", to, ((x | low_end | high_end).type(), shift), scalars)
            return
        held = source.interval
        for end in (low, high):
            held = held if end is None else held | end
        wide = FixedType(held.width, 0, held.signed)
        steps.move(out.grids, wide)
        grids, all_ = simple(out.grids), (wide.min_raw, wide.max_raw)
        edges = [np.array(none) if end is None else end.lo << (grids - end.frac_bits) for end, none in zip((low, high), all_, strict=True)]
        operands = tuple(d.Operand(steps.table(name, edge)) for name, edge in zip(("low", "high"), edges, strict=True))
        steps.add("clip", out.word, (wide, 0), operands)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        x = drawing.info.interval.hull
        grid = x.frac_bits + int(drawing.rng.integers(-1, 2, endpoint=True))
        least, greatest = (math.floor(math.ldexp(bound, grid - x.frac_bits)) for bound in (x.lo - 1, x.hi + 1))
        low, high = sorted(int(raw) for raw in drawing.rng.integers(least, greatest, size=2, endpoint=True))
        sides = drawing.rng.choice(3, p=(0.6, 0.2, 0.2))
        bounds_ = Const(np.array(low), grid) if sides != 1 else None, Const(np.array(high), grid) if sides != 2 else None
        return cls(*bounds_), (drawing.source,)


def _end(x: Interval, greatest: bool) -> Interval:
    end = x.hi if greatest else x.lo
    return Interval(end, end, x.frac_bits)
