"""The cast to a minifloat: the nearest number of a format, once, from any fixed-point number. Its result is fixed point of a wide word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self, get_args

import numpy as np

from qfx.errors import ModelFileError, ProjectError
from qfx.export import bounds
from qfx.export.bounds import DOUBLE, FLOAT, Value
from qfx.fixed.arith import Interval
from qfx.fixed.minifloat import Minifloat, Specials
from qfx.fixed.type import MAX_WIDTH, FixedType
from qfx.ir import channels, rules
from qfx.ir.channels import Carried
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Node
from qfx.ir.operator import Operator, Plain, Pointwise
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.epilogue import Steps
    from qfx.hardware.unrolled.program import Number
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode

_SPECIALS: tuple[Specials, ...] = get_args(Specials)
"""How they are numbered in files: never reorder."""

_INT64_BITS = 62
"""Of numbers that are worked with as int64, with room for a carry."""

MOST_BITS = 40
"""Of the fixed-point word of a result."""


@dataclass(frozen=True, slots=True)
class MinifloatCast(Plain, Pointwise):
    """The nearest finite number of ``kind``, of two that with an even mantissa, the greatest beyond it (``Minifloat.code``), in units of
    2**-``frac_bits`` for its smallest: the format's numbers times 2**(kind.frac_bits - frac_bits)."""

    kind: Minifloat
    frac_bits: int

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.Minifloat",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "Minifloat": """Minifloat <exponent_bits, mantissa_bits, specials, bias, frac_bits, dtype> (x, scale, bounds, steps, largest) => (y) {
    x64 = Cast <to = 11> (x)
    u = Mul(x64, scale)
    size = Abs(u)
    last = Constant <value_ints: ints = [-1]> ()
    row = Unsqueeze(size, last)
    passed = GreaterOrEqual(row, bounds)
    counted = Cast <to = 11> (passed)
    more = Mul(counted, steps)
    total = ReduceSum <keepdims = 0> (more, last)
    one = Constant <value = double {1.0}> ()
    step = Add(total, one)
    ratio = Div(u, step)
    near = Round(ratio)
    r = Mul(near, step)
    least = Neg(largest)
    c = Clip(r, least, largest)
    y64 = Div(c, scale)
    y = Cast <to: int = @dtype> (y64)
}""",
    })  # fmt: skip

    @property
    def type(self) -> FixedType:
        """The fixed-point type of the result."""
        width = self.kind.fixed_type.width
        return replace(self.kind.fixed_type, int_bits=width - self.frac_bits)

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if self.type.width > MOST_BITS:
            told = f"the numbers of {self.kind} take {self.type.width} bits in fixed point"
            raise ModelFileError(told, where=name, remedy=f"use a format of at most {MOST_BITS}: fewer bits of exponent")
        hull = x.interval.hull
        low, high = (int(self._nearest(np.array([end], dtype=object), hull.frac_bits)[0]) for end in (hull.lo, hull.hi))
        return Info(x.shape, self.type, Interval(low, high, self.frac_bits))

    def _nearest(self, raw: RawArray, grids: int | RawArray) -> RawArray:
        """Raws on ``grids`` as raws of ``type``; int64, or Python's integers in an array of objects."""
        down = np.asarray(grids) - self.frac_bits
        up = np.clip(-down, 0, 62)  # of a coarser grid every number but 0 is beyond the greatest: so far is enough
        size = np.abs(raw)
        if bool((up > 0).any()):  # of channels on such grids no more than lies beyond the greatest, or the shift would leave the word
            size = np.where(up > 0, np.minimum(size, (self.kind.largest >> up) + 1), size) << up
        found, _ = self._placed(size, np.maximum(down, 0))
        signed: RawArray = np.sign(raw) * np.minimum(found, self.kind.largest)
        return signed

    def rounded(self, raw: RawArray, grids: int | RawArray) -> tuple[RawArray, RawArray]:
        """The magnitudes of raws on ``grids`` in units of the result, rounded and not bounded, and whether rounding changed them."""
        down = np.asarray(grids) - self.frac_bits
        size, up = np.abs(raw), np.maximum(-down, 0)
        if size.size and int(size.max()).bit_length() + int(up.max()) > _INT64_BITS:
            size, up = size.astype(object), up.astype(object)
        return self._placed(size << up, np.maximum(down, 0))

    def _placed(self, size: RawArray, down: RawArray) -> tuple[RawArray, RawArray]:
        """Magnitudes in units of 2**-down of the result's, at places of the format; and whether that changed them."""
        drop = np.broadcast_to(down, size.shape).astype(np.int64)
        for k in range(1, self._binades + 1):
            drop = np.where(size >= _power(self.kind.mantissa_bits + k + down, size), down + k, drop)
        low = size >> drop
        rest, half = size - (low << drop), _power(np.maximum(drop, 1) - 1, size)
        tie = (rest == half) & (low % 2 == 1)
        return (low + ((drop > 0) & ((rest > half) | tie))) << (drop - down), rest != 0

    @property
    def _binades(self) -> int:
        """How many times the last place of numbers doubles."""
        return max(self.kind.largest.bit_length() - self.kind.mantissa_bits - 1, 1)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return self._nearest(inputs[0], infos[0].grids).astype(np.int64)

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        return scalars.each(lambda x: self._unrolled(scalars, x), inputs[0])

    def _unrolled(self, scalars: Scalars, x: Number) -> Number:
        """A cast for each size of the last place, of which the magnitude takes one; what lies beyond the greatest is that before."""
        end = self.kind.largest
        x = scalars.lesser(scalars.greater(x, scalars.constant(-end, -self.frac_bits)), scalars.constant(end, -self.frac_bits))
        found = x
        for k in range(self._binades + 1):
            step = replace(self.type, width=self.type.width + 2 - k, int_bits=self.type.int_bits + 2)
            rounded = scalars.cast(x, step)
            if not k:
                found = rounded
                continue
            bound, below = (scalars.constant(sign << self.kind.mantissa_bits + k, -self.frac_bits) for sign in (1, -1))
            inner = scalars.choose(scalars.less(below, x), found, rounded)
            found = scalars.choose(scalars.less(x, bound), inner, rounded)
        return scalars.narrow(found, Interval(-end, end, self.frac_bits))

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out)

    def does_nothing(self, x: Info) -> bool:
        return not x.per_channel and x.interval.hull.lo == x.interval.hull.hi == 0

    def words(self) -> Iterable[str]:
        return [str(self.kind), f"F={self.frac_bits}"]

    def write(self, writer: Writer, node: Node) -> Value:
        bound = bounds.symmetric(writer.graph.infos[node.name].interval)
        value = Value(FLOAT if bounds.fits(bound, FLOAT) else DOUBLE, bound)
        steps = np.arange(1, self._binades + 1)
        inputs = [
            node.inputs[0],
            writer.doubles(node, "scale", np.ldexp(1.0, self.frac_bits)),
            writer.doubles(node, "bounds", np.ldexp(1.0, steps + self.kind.mantissa_bits)),
            writer.doubles(node, "steps", np.ldexp(1.0, steps - 1)),
            writer.doubles(node, "largest", float(self.kind.largest)),
        ]
        attributes = {"exponent_bits": self.kind.exponent_bits, "mantissa_bits": self.kind.mantissa_bits, "bias": self.kind.offset}
        attributes |= {"specials": _SPECIALS.index(self.kind.specials), "frac_bits": self.frac_bits, "dtype": value.dtype}
        writer.call(node, "Minifloat", inputs, attributes)
        return value

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        e, m, bias, specials = (proto.integer(name) for name in ("exponent_bits", "mantissa_bits", "bias", "specials"))
        if specials not in range(len(_SPECIALS)):
            raise ModelFileError(f"specials are {specials}", where=proto.proto.name, remedy="export the model again")
        usual = e >= 1 and bias == (1 << e - 1) - 1
        return cls(Minifloat(e, m, _SPECIALS[specials], None if usual else bias), proto.integer("frac_bits"))

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        if steps.grids.ndim:
            finest = np.array(int(steps.grids.max()))
            width = steps.type.width + int((finest - steps.grids).max())
            steps.move(finest, FixedType(width, width - int(finest), steps.type.signed))
        down = int(steps.grids) - self.frac_bits
        width = steps.type.width + max(-down, 0)
        size = max(width, self.kind.largest.bit_length()) + 2
        if size > MAX_WIDTH:
            raise ProjectError(f"needs {size} bits", where=steps.stem, remedy="use binary points that lie closer together")
        down = min(down, steps.type.width + 1)  # all is less than half of the smallest
        binades = max(min(self._binades, width - self.kind.mantissa_bits - max(down, 0)), 0)
        steps.add("minifloat", out.word, (size, down, self.kind.mantissa_bits, binades, self.kind.largest, site))

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        x, rng = drawing.info.interval.hull, drawing.rng
        e, m = int(rng.integers(1, 4, endpoint=True)), int(rng.integers(0, 3, endpoint=True))
        return cls(Minifloat(e, m), x.frac_bits + int(rng.integers(-4, 3))), (drawing.source,)


def _power(exponents: RawArray, like: RawArray) -> RawArray:
    """2**exponents; beyond 2**62 that, which no number reaches."""
    if like.dtype == object:
        return np.array([1 << int(exponent) for exponent in np.ravel(exponents)], dtype=object).reshape(np.shape(exponents))
    return np.int64(1) << np.minimum(exponents, 62).astype(np.int64)
