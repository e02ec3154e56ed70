"""Numbers held between two constants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
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
from qfx.ir import channels, rules, words
from qfx.ir.channels import Carried, Mask
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Node
from qfx.ir.operator import Operator, Plain, Pointwise
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, RawArray, Shape

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.epilogue import Steps
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Clip(Plain, Pointwise):
    """min(max(x, low), high); one of the two may be missing (ReLU6 is Clip(0, 6)).

    Both are scalars (shape ()), or, where they differ, have an axis for each of x's, of its length or of 1, and neither is missing: words of several
    lengths behind one Cast (``qfx.nn.casts.word_length``). A channel that both hold at 0 is 0.
    """

    low: Const | None
    high: Const | None

    forms: ClassVar[tuple[str, ...]] = ("Clip", "ai.qfx.Between")
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "Between": """Between (x, low, high) => (y) {
    above = Max(x, low)
    y = Min(above, high)
}""",
    })  # fmt: skip

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        bounds_ = [bound for bound in (self.low, self.high) if bound is not None]
        if not bounds_:
            raise ModelFileError("has no bounds", where=name, remedy="give one of them, or leave the operator out")
        if any(bound.shape for bound in bounds_) and not self._fits(x.shape):
            remedy = f"give two scalars, or two with an axis for each of {x.shape}, of its length or of 1"
            raise ModelFileError(f"bounds of shape {[bound.shape for bound in bounds_]}", where=name, remedy=remedy)
        low, high = self._ends()
        if self.low is not None and self.high is not None and any((b - a).lo < 0 for a, b in zip(self.low.entries, self.high.entries, strict=True)):
            raise ModelFileError(f"the low bound {self.low} exceeds the high bound {self.high}", where=name, remedy="swap them")
        info = rules.info(name, x.shape, arith.clipped(x.interval, low, high), self._grid(x))
        ends = [end for end in (low, high) if end is not None]
        held: Bounds = x.interval
        for end in ends:
            held = held | end
        rules.fit(name, *((held,) if info.per_channel else (bound.at(info.type.frac_bits) for bound in (x.interval, *ends))))
        return info

    def _fits(self, shape: Shape) -> bool:
        low, high = self.low, self.high
        if low is None or high is None or low.shape != high.shape or len(low.shape) != len(shape):
            return False
        return all(size in (1, own) for size, own in zip(low.shape, shape, strict=True))

    def _ends(self) -> tuple[Bounds | None, Bounds | None]:
        """The bounds as intervals: of one number each, or of those of each channel."""
        low, high = (None if bound is None else bound.interval for bound in (self.low, self.high))
        return low, high

    def _grid(self, x: Info) -> int | None:
        """The grid of the result where x has one."""
        grids = (int(bound.grids.max()) for bound in (self.low, self.high) if bound is not None)
        return None if x.per_channel else max(x.type.frac_bits, *grids)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        low, high = (None if bound is None else rules.move(bound.raw, out.grids - bound.grids) for bound in (self.low, self.high))
        clipped: RawArray = np.clip(rules.align(inputs[0], infos[0], out), low, high)
        return clipped

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        (x,) = inputs
        low, high = (np.full(x.shape, None) if bound is None else scalars.beside(bound, x.shape) for bound in (self.low, self.high))
        return scalars.each(scalars.clipped, x, low, high)

    def carries(self, inputs: Infos, out: Info) -> Carried:
        """Bounds that meet hold a channel at numbers of their own."""
        if self.low is None or self.high is None:
            return channels.alone(inputs, out)
        low, high = (rules.move(end.raw, out.grids - end.grids) for end in (self.low, self.high))
        apart = np.broadcast_to(low != high, out.shape).reshape(out.shape[0], -1)
        return channels.alone(inputs, out, fixed=np.asarray(~apart.any(1), dtype=np.bool_))

    def narrowed(self, made: Mask, read: tuple[Mask, ...]) -> Operator:
        return Clip(*(None if end is None else channels.rows(end, made) for end in (self.low, self.high)))

    def does_nothing(self, x: Info) -> bool:
        held, (low, high) = x.interval, self._ends()
        channels = x.shape[0]
        above = low is None or all((a - b).hi <= 0 for a, b in zip(low.spread(channels), held.spread(channels), strict=True))
        return above and (high is None or all((a - b).hi <= 0 for a, b in zip(held.spread(channels), high.spread(channels), strict=True)))

    def words(self) -> Iterable[str]:
        low, high = (None if end is None else end.hull for end in self._ends())
        text = "" if low is None else words.number(low.lo, low.frac_bits), "" if high is None else words.number(high.hi, high.frac_bits)
        several = self.low.shape if self.low is not None else ()
        return ["..".join(text), f"over {several}" if several else ""]

    def write(self, writer: Writer, node: Node) -> Value:
        x, interval = writer.values[node.inputs[0]], writer.graph.infos[node.name].interval
        given = [bound for bound in (self.low, self.high) if bound is not None]
        exact = all(bounds.fits(bounds.of(bound), FLOAT) for bound in given)
        dtype = FLOAT if x.dtype == FLOAT and exact else DOUBLE
        if dtype == DOUBLE:
            writer.choose(node, Value(DOUBLE, Interval(0, 0, 0)), [self.low, self.high])
        edges = ["" if const is None else writer.const(node, role, const, dtype) for role, const in (("low", self.low), ("high", self.high))]
        if self.low is not None and self.low.shape:
            writer.call(node, "Between", [writer.as_dtype(node.inputs[0], dtype), *edges])
            return Value(dtype, bounds.symmetric(interval))
        writer.emit(node, "Clip", [writer.as_dtype(node.inputs[0], dtype), *(edges if edges[1] else edges[:1])])
        return Value(dtype, bounds.symmetric(interval))

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.const(1) if proto.input(1) else None, proto.maybe_const(2))

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        low, high = self._ends()
        if self.low is not None and self.high is not None and self.low.shape:
            self._between(steps, source, out, self.low, self.high)
            return
        # What holds all that comes stands for a bound that is missing.
        least, greatest = (low or _end(source.interval.hull, False)).hull, (high or _end(source.interval.hull, True)).hull
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
        edges = [np.array(none) if end is None else end.hull.lo << (grids - end.hull.frac_bits) for end, none in zip((low, high), all_, strict=True)]
        operands = tuple(d.Operand(steps.table(name, edge)) for name, edge in zip(("low", "high"), edges, strict=True))
        steps.add("clip", out.word, (wide, 0), operands)

    @staticmethod
    def _between(steps: Steps, source: Info, out: Info, low: Const, high: Const) -> None:
        """Bounds that differ, from tables on the grids of the result."""
        held = source.interval | low.interval | high.interval
        width = held.width if out.per_channel else held.at(out.type.frac_bits).width
        wide = FixedType(width, 0, held.signed)
        steps.move(out.grids, wide)
        tables = (steps.table(name, rules.move(end.raw, out.grids - end.grids)) for name, end in (("low", low), ("high", high)))
        steps.add("clip", out.word, (wide, 0), tuple(d.Operand(table) for table in tables))

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        if drawing.rng.random() < 0.3:
            return cls(*_several(drawing)), (drawing.source,)
        x = drawing.info.interval.hull
        grid = x.frac_bits + int(drawing.rng.integers(-1, 2, endpoint=True))
        least, greatest = (math.floor(math.ldexp(bound, grid - x.frac_bits)) for bound in (x.lo - 1, x.hi + 1))
        low, high = sorted(int(raw) for raw in drawing.rng.integers(least, greatest, size=2, endpoint=True))
        sides = drawing.rng.choice(3, p=(0.6, 0.2, 0.2))
        bounds_ = Const(np.array(low), grid) if sides != 1 else None, Const(np.array(high), grid) if sides != 2 else None
        return cls(*bounds_), (drawing.source,)


def _several(drawing: Drawing) -> tuple[Const, Const]:
    """Words of their own for each channel or element; some of none."""
    rng, shape = drawing.rng, drawing.shape
    sizes = shape if rng.random() < 0.4 else (shape[0], *(1,) * (len(shape) - 1))
    x = drawing.info.interval.hull
    grids = x.frac_bits + rng.integers(-3, 2, size=shape[0], endpoint=True)
    length = rng.integers(0, max(x.width - 2, 1), size=sizes, endpoint=True)
    low = np.where(length > 0, -(np.int64(1) << length), 0) if x.signed else np.zeros(sizes, dtype=np.int64)
    high = np.where(length > 0, (np.int64(1) << length) - 1, 0)
    frac_bits = tuple(int(grid) for grid in grids)
    return Const(low, frac_bits), Const(high, frac_bits)


def _end(x: Interval, greatest: bool) -> Interval:
    end = x.hi if greatest else x.lo
    return Interval(end, end, x.frac_bits)
