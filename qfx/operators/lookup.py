"""Functions of one number by table: an entry for every number that can come (``Lookup``), or a line for every few of them (``LookupLinear``).

Entries are integers that whoever made the graph has computed, once; every executor reads them and none computes one again.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ExactnessError, ModelFileError, ProjectError, UnsupportedError
from qfx.export.bounds import DOUBLE, FLOAT, MAX_EXPONENT, Value, fits, symmetric
from qfx.fixed.arith import FLOAT64_BITS, Interval
from qfx.fixed.type import FixedType
from qfx.ir import channels, rules, words
from qfx.ir.channels import Carried
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Node
from qfx.ir.operator import Operator, Pointwise
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.epilogue import Steps
    from qfx.hardware.unrolled.program import Number
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode

MAX_ENTRIES = 1 << 12
"""The most entries of a table, and the most lines of one that interpolates: 32 kbit at 8 bits, two block RAMs."""

MAX_SHIFT = 20
"""The most bits of a number that move along one line."""

_FARTHEST = 1 << 31
"""Raws that lie further from 0 are not addressed: C++ works out addresses in int."""


class Table(Pointwise, abstract=True):
    """What both kinds share. ``first`` is the raw, on the grid of ``frac_bits`` bits, of the number that the first entry is for."""

    __slots__ = ()

    first: int
    frac_bits: int

    loadable: ClassVar[bool] = False

    @property
    @abstractmethod
    def span(self) -> int:
        """For how many raws, from ``first`` on, there is a result."""

    @abstractmethod
    def results(self, low: int, high: int) -> Interval:
        """What raws from ``low`` to ``high`` give."""

    @abstractmethod
    def check(self, name: str) -> None:
        """Raises ModelFileError for fields that do not go together."""

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        self.check(name)
        hull = x.interval.hull
        if hull.frac_bits > self.frac_bits:
            what = f"is addressed by {self.frac_bits} fractional bits, its input has {hull.frac_bits}"
            raise ModelFileError(what, where=name, remedy="cast the input")
        hull = hull.at(self.frac_bits)
        if hull.lo < self.first or hull.hi >= self.first + self.span:
            what = f"has entries for raws {self.first} to {self.first + self.span - 1}, its input goes from {hull.lo} to {hull.hi}"
            raise ExactnessError(what, where=name, remedy="cast the input, or give entries for all numbers")
        if max(-self.first, self.first + self.span) >= _FARTHEST:
            raise ExactnessError(f"addresses raws of {hull.width} bits", where=name, remedy="cast its input to a narrower type")
        results = self.results(hull.lo, hull.hi)
        return rules.info(name, x.shape, results, results.frac_bits)

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out)

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        return [f"from {words.number(self.first, self.frac_bits)}", f"step 2^{-self.frac_bits}"]

    def accumulator(self, x: Info) -> FixedType | None:
        return None

    def addresses(self, raw: RawArray, x: Info) -> RawArray:
        """How many raws behind the first each number of ``x`` lies."""
        return rules.move(raw, self.frac_bits - x.grids) - self.first

    def scalars(self, writer: Writer, node: Node, **more: float) -> list[str]:
        """The inputs of the ONNX function that say how a float becomes an address."""
        if abs(self.frac_bits) > MAX_EXPONENT:
            remedy = "use less extreme binary points"
            raise ExactnessError(f"is addressed by {self.frac_bits} fractional bits, which float64 cannot reach", where=node.name, remedy=remedy)
        numbers = {"scale": math.ldexp(1.0, self.frac_bits), "first": float(self.first), **more}
        return [node.inputs[0], *(writer.doubles(node, role, number) for role, number in numbers.items())]

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        """A table of its own for every number, of what it can be."""

        def entry(x: Number) -> Number:
            held = scalars.interval(x)
            if held.hi - held.lo >= MAX_ENTRIES:
                what = f"would be a table of {held.hi - held.lo + 1} entries for each number"
                raise UnsupportedError(what, where=node.name, remedy=f"cast its input to fewer bits (at most {MAX_ENTRIES} numbers)")
            raws = np.arange(held.lo, held.hi + 1)
            info = Info((1,), held.type(), held)
            return scalars.entry(x, self.evaluate((raws[:, None],), (info,), results)[:, 0].tolist(), -results.type.frac_bits)

        results = self.infer(node.name, infos)
        return scalars.each(entry, inputs[0])

    def value(self, writer: Writer, node: Node) -> Value:
        """What holds the result: whatever came before ends here, as at a cast."""
        bound = symmetric(writer.graph.infos[node.name].interval)
        if not fits(bound, DOUBLE):
            what = f"has entries of {bound.magnitude_bits} bits, ONNX's double holds {FLOAT64_BITS}"
            raise ExactnessError(what, where=node.name, remedy="cast them to fewer bits, nearer to 1")
        return Value(FLOAT if fits(bound, FLOAT) else DOUBLE, bound)

    def come(self, steps: Steps, source: Info) -> tuple[int, int]:
        """Bring all numbers onto the grid of the addresses; the least and the greatest raw that can come."""
        hull = source.interval.hull.at(self.frac_bits)
        steps.move(np.array(self.frac_bits), hull.type())
        return hull.lo, hull.hi


@dataclass(frozen=True, slots=True)
class Lookup(Table):
    """entries[raw(x) - first]: an entry for each number on the grid of ``frac_bits`` bits, from raw ``first`` on. ``entries``: shape (n,)."""

    entries: Const
    first: int
    frac_bits: int

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.Lookup",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "Lookup": """Lookup <frac_bits, offset> (x, scale, first, entries) => (y) {
    x64 = Cast <to = 11> (x)
    raw = Mul(x64, scale)
    place = Sub(raw, first)
    address = Cast <to = 7> (place)
    y = Gather(entries, address)
}""",
    })  # fmt: skip

    @property
    def span(self) -> int:
        return self.entries.raw.size

    def results(self, low: int, high: int) -> Interval:
        reached = self.entries.raw[low - self.first : high - self.first + 1]
        return Interval(int(reached.min()), int(reached.max()), self.entries.grid)

    def check(self, name: str) -> None:
        if self.entries.raw.ndim != 1 or isinstance(self.entries.frac_bits, tuple) or self.entries.raw.size > MAX_ENTRIES:
            what = f"the entries are of shape {self.entries.shape}, on {len(set(self.entries.rows(1)))} grids"
            raise ModelFileError(what, where=name, remedy=f"give a row of at most {MAX_ENTRIES}, on one grid")

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        found: RawArray = self.entries.raw[self.addresses(inputs[0], infos[0])]
        return found

    def does_nothing(self, x: Info) -> bool:
        if x.per_channel or x.type.frac_bits != self.frac_bits or self.entries.frac_bits != self.frac_bits:
            return False
        hull = x.interval.hull.at(self.frac_bits)
        reached = self.entries.raw[hull.lo - self.first : hull.hi - self.first + 1]
        return bool((reached == np.arange(hull.lo, hull.hi + 1)).all())

    def constants(self) -> Mapping[str, Const]:
        return {"entries": self.entries}

    def macs(self, out: Info) -> int:
        return 0

    def write(self, writer: Writer, node: Node) -> Value:
        value = self.value(writer, node)
        entries = writer.const(node, "entries", self.entries, value.dtype)
        writer.call(node, "Lookup", [*self.scalars(writer, node), entries], {"frac_bits": self.frac_bits, "offset": self.first})
        return value

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.flat_const(3), proto.integer("offset"), proto.integer("frac_bits"))

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        low, high = self.come(steps, source)
        reached = self.entries.raw[low - self.first : high - self.first + 1]
        steps.add("lookup", out.word, (low,), (steps.rom("entries", reached),))

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        hull, rng = _drawn(drawing, 10), drawing.rng
        low, span = hull.lo - int(rng.integers(0, 3)), hull.hi - hull.lo + 1
        bound = 1 << int(rng.integers(0, 9))
        raw = rng.integers(-bound if rng.random() < 0.7 else 0, bound, size=span + 3, endpoint=True)
        return cls(Const(raw, int(rng.integers(-2, 6))), low, hull.frac_bits), (drawing.source,)


@dataclass(frozen=True, slots=True)
class LookupLinear(Table):
    """values[i] + slopes[i] * low, where the number lies i * 2**shift + low raws behind ``first``, on the grid of ``frac_bits`` bits: a line
    for every 2**``shift`` numbers. Exact: what the slope adds lies on the grid of ``slopes``, and that of ``values`` is as coarse or coarser. Both of
    shape (n,)."""

    values: Const
    slopes: Const
    first: int
    frac_bits: int
    shift: int

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.LookupLinear",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "LookupLinear": """LookupLinear <frac_bits, offset, shift, dtype> (x, scale, first, step, values, slopes) => (y) {
    x64 = Cast <to = 11> (x)
    raw = Mul(x64, scale)
    place = Sub(raw, first)
    lines = Div(place, step)
    line = Floor(lines)
    start = Mul(line, step)
    low = Sub(place, start)
    address = Cast <to = 7> (line)
    value = Gather(values, address)
    slope = Gather(slopes, address)
    rise = Mul(slope, low)
    y64 = Add(value, rise)
    y = Cast <to: int = @dtype> (y64)
}""",
    })  # fmt: skip

    @property
    def span(self) -> int:
        return self.values.raw.size << self.shift

    def results(self, low: int, high: int) -> Interval:
        # A line is greatest and least at its ends.
        first, last = low - self.first >> self.shift, high - self.first >> self.shift
        starts = np.arange(first, last + 1) << self.shift
        ends = np.minimum(starts + (1 << self.shift) - 1, high - self.first)
        at = self.at(np.concatenate([np.maximum(starts, low - self.first), ends]))
        return Interval(int(at.min()), int(at.max()), self.slopes.grid)

    def at(self, places: RawArray) -> RawArray:
        """The results, on the grid of ``slopes``, so many raws behind the first."""
        line = places >> self.shift
        found: RawArray = (self.values.raw[line] << self.slopes.grid - self.values.grid) + self.slopes.raw[line] * (places - (line << self.shift))
        return found

    def check(self, name: str) -> None:
        values, slopes = self.values, self.slopes
        several = isinstance(values.frac_bits, tuple) or isinstance(slopes.frac_bits, tuple)
        if several or values.raw.ndim != 1 or values.shape != slopes.shape or values.raw.size > MAX_ENTRIES:
            what = f"the values are of shape {values.shape}, the slopes of {slopes.shape}"
            raise ModelFileError(what, where=name, remedy=f"give two rows of at most {MAX_ENTRIES}, each on one grid")
        if not 0 <= self.shift <= MAX_SHIFT or values.grid > slopes.grid:
            what = f"a line for 2^{self.shift} raws, from values of {values.grid} fractional bits by slopes of {slopes.grid}"
            raise ModelFileError(
                what, where=name, remedy=f"give a shift of 0 to {MAX_SHIFT}, and slopes that lie on the grid of the values or a finer one"
            )
        reach = (values.interval.at(slopes.grid) | Interval(0, 0, slopes.grid)).magnitude_bits, slopes.interval.hull.magnitude_bits + self.shift
        if max(reach) > FLOAT64_BITS - 1:
            raise ExactnessError(f"gives numbers of {max(reach) + 1} bits; float64 holds {FLOAT64_BITS}", where=name, remedy="use shorter entries")

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return self.at(self.addresses(inputs[0], infos[0]))

    def words(self) -> Iterable[str]:
        return [*Table.words(self), f"lines of 2^{self.shift}"]

    def constants(self) -> Mapping[str, Const]:
        return {"slopes": self.slopes, "values": self.values}

    def macs(self, out: Info) -> int:
        return out.size

    def write(self, writer: Writer, node: Node) -> Value:
        value = self.value(writer, node)
        consts = [writer.const(node, role, const, DOUBLE) for role, const in (("values", self.values), ("slopes", self.slopes))]
        attributes = {"frac_bits": self.frac_bits, "offset": self.first, "shift": self.shift, "dtype": value.dtype}
        writer.call(node, "LookupLinear", [*self.scalars(writer, node, step=float(1 << self.shift)), *consts], attributes)
        return value

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.flat_const(4), proto.flat_const(5), proto.integer("offset"), proto.integer("frac_bits"), proto.integer("shift"))

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        low, high = self.come(steps, source)
        first, last = low - self.first >> self.shift, high - self.first >> self.shift
        roms = (steps.rom("values", self.values.raw[first : last + 1]), steps.rom("slopes", self.slopes.raw[first : last + 1]))
        up = self.slopes.grid - self.values.grid
        steps.add("lookup_linear", out.word, (self.first + (first << self.shift), self.shift, up), roms)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        hull, rng = _drawn(drawing, 14), drawing.rng
        low, shift = hull.lo - int(rng.integers(0, 3)), int(rng.integers(0, 7))
        lines = (hull.hi - low >> shift) + int(rng.integers(1, 3))
        if lines > MAX_ENTRIES:
            raise ProjectError(f"{lines} lines are too many", where=drawing.source)
        grid = int(rng.integers(-2, 6))
        values = Const(rng.integers(-100 if rng.random() < 0.7 else 0, 100, size=lines), grid)
        slopes = Const(rng.integers(-9, 9, size=lines, endpoint=True), grid + int(rng.integers(0, 5)))
        return cls(values, slopes, low, hull.frac_bits, shift), (drawing.source,)


def _drawn(drawing: Drawing, width: int) -> Interval:
    """What comes, if it has few enough bits."""
    hull = drawing.info.interval.hull
    if hull.width > width:
        raise ProjectError(f"{hull.width} bits are too many", where=drawing.source)
    return hull
