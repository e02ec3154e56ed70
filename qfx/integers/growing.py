"""A graph as it grows out of a file, and the steps of integer models that all front ends share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qfx import operators as ops
from qfx.errors import ExactnessError
from qfx.fixed.arith import FLOAT64_BITS, Interval
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.integers.plane import Plane
from qfx.integers.steps import Ints, Line, Steps, line, nearest_away, nearest_even
from qfx.ir.graph import Node
from qfx.ir.operator import Operator
from qfx.ir.values import ArrayType, Const, Info

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
_WIDE = 1 << 47


def nearest(q: QMode, width: int = 8) -> FixedType:
    """Rounds to whole numbers; holds the difference of any two numbers of ``width`` bits."""
    return FixedType(width + 1, width + 1, True, q, OMode.SAT)


Range = tuple[int, int]
"""The least and the greatest of some integers."""


@dataclass(frozen=True, eq=False)
class Function:
    """What a kernel makes of sums, which never falls.

    Where one rounding does not give it, a second one may, of so many fractional bits as one of ``fractions`` says: to the nearest integer, ties away
    from zero or, with ``even``, to the even one. ``points``: the only sums that can come, rising; None: all. ``near``: a function that is as good,
    and has a line, for users who accept it. ``known``: the kernel is this line itself, of sums in 64 bits. ``reach``: up to which size of a sum the
    kernel's own integers hold it, scaled; None: all.
    """

    call: Callable[[Ints], Ints]
    fractions: tuple[int, ...] = ()
    even: bool = False
    points: Ints | None = None
    near: Function | None = None
    known: Line | None = None
    reach: int | None = None

    def drawn(self, range_: Range, ends: Range) -> tuple[Line, int] | None:
        """The line over the sums in ``range_``, clamped to ``ends``, and how many fractional bits its results have; None if there is none."""
        if self.known is not None:
            return self.known, 0
        steps = Steps.of(_clipped(self.call, ends), *range_, *ends, points=self.points)
        for bits in (0, *self.fractions):
            found = line(steps, (nearest_even if self.even else nearest_away)(bits))
            if found is not None:
                return found, bits
        return None


@dataclass(frozen=True, slots=True)
class Result:
    """What integers a kernel gives: ``name`` of the value, ``where`` it is told of, ``zero`` point, clamped to ``ends``; of ``width`` bits."""

    name: str
    where: str
    zero: int
    ends: Range
    signed: bool = True
    width: int = 8

    @property
    def type(self) -> FixedType:
        return FixedType(self.width, self.width, self.signed, QMode.TRN, OMode.SAT)

    @property
    def centered(self) -> Range:
        """The ends, less the zero point."""
        return self.ends[0] - self.zero, self.ends[1] - self.zero


class Growing:
    """Nodes in order, each with what is known of its value."""

    def __init__(self, *, nearest: bool = False) -> None:
        """``nearest``: where a kernel has no line, one that is as good may stand for it; ``differing`` then tells how often they differ."""
        self._nearest = nearest
        self.differing: dict[str, int] = {}
        self.nodes: list[Node] = []
        self.infos: dict[str, Info] = {}

    def emit(self, name: str, op: Operator, *inputs: str) -> str:
        self.infos[name] = op.infer(name, tuple(self.infos[source] for source in inputs))
        self.nodes.append(Node(name, op, inputs))
        return name

    def op(self, node: str) -> Operator:
        return next(one.op for one in self.nodes if one.name == node)

    def plus(self, name: str, source: str, by: int) -> str:
        """``source`` plus a whole number."""
        return self.emit(name, ops.Affine(None, Const(np.array(by), 0)), source) if by else source

    def stepped(self, result: Result, sums: str, functions: Sequence[Function], ranges: Sequence[Range] | None = None) -> str:
        """What ``functions`` (one, or one a channel) make of ``sums``, plus the zero point, clamped: as lines, which are proven equal for every sum.

        ``ranges``: between which the sums of each function lie, where more is known than the node tells. The node that holds it.

        Raises ExactnessError where a sum can leave int32 (the 48 bits that kernels with sums in 64 bits allow for), scaled or not.
        """
        hull = self.infos[sums].interval.hull
        ranges = [(hull.lo, hull.hi)] * len(functions) if ranges is None else ranges
        lowest, highest = (-_WIDE, _WIDE - 1) if all(one.known is not None for one in functions) else (INT32_MIN, INT32_MAX)
        if hull.frac_bits or min(low for low, _ in ranges) < lowest or max(high for _, high in ranges) > highest:
            remedy = "the other tool would wrap them; use fewer inputs or smaller weights"
            raise ExactnessError(f"its sums can leave int{highest.bit_length() + 1}", where=result.where, remedy=remedy)
        if any(one.reach is not None and max(-low, high) > one.reach for one, (low, high) in zip(functions, ranges, strict=True)):
            remedy = "the other tool would wrap them; give its result a coarser scale, or biases within reach"
            raise ExactnessError("its scaled sums can leave int32", where=result.where, remedy=remedy)
        drawn = [self._drawn(one, range_, result) for one, range_ in zip(functions, ranges, strict=True)]
        found = [one for one in drawn if one is not None]
        if len(found) < len(drawn):
            remedy = "its halves are decided by the last bits of floats: give it other scales, or accept the nearest integers of exact products"
            raise ExactnessError("no fixed-point line takes the steps of its kernel", where=result.where, remedy=remedy)
        bits = [fraction for _, fraction in found]
        if not any(bits):
            drawn_line = self._line(f"{result.name}.line", sums, [one.plus(result.zero << one.shift) for one, _ in found], bits)
            return self.finish(result, drawn_line)
        self._floored(f"{result.name}.fraction", self._line(f"{result.name}.line", sums, [one for one, _ in found], bits), bits)
        return self.rounded(result, f"{result.name}.fraction", QMode.RND_CONV if functions[0].even else QMode.RND_INF)

    def _drawn(self, function: Function, range_: Range, result: Result) -> tuple[Line, int] | None:
        found = function.drawn(range_, result.centered)
        if found is not None or function.near is None or not self._nearest:
            return found
        firsts = [
            Steps.of(_clipped(one.call, result.centered), *range_, *result.centered, points=function.points).firsts
            for one in (function, function.near)
        ]
        count = int(np.abs(firsts[0] - firsts[1]).sum()) if firsts[0].shape == firsts[1].shape else range_[1] - range_[0] + 1
        self.differing[result.where] = self.differing.get(result.where, 0) + count
        return function.near.drawn(range_, result.centered)

    def rounded(self, result: Result, source: str, q: QMode) -> str:
        """``source``, rounded by ``q``, plus the zero point, clamped. The node that holds it."""
        whole = self.emit(f"{result.name}.nearest", ops.Cast(ArrayType.of(nearest(q, result.width))), source)
        return self.finish(result, self.plus(f"{result.name}.shifted", whole, result.zero))

    def on_plane(self, result: Result, found: Plane, a: str, b: str | Const) -> str:
        """``found`` of two values of whole numbers, or of one and a constant, plus the zero point, clamped. The node that holds it."""
        name, grid, (one, two) = result.name, found.shift, (Const(np.array(factor), found.shift) for factor in found.factors)
        floored = found.q is QMode.TRN
        offset = found.offset + (result.zero << grid if floored else 0)
        if isinstance(b, Const):
            total = self.emit(f"{name}.sum", ops.Affine(one, Const(b.raw * two.raw + offset, grid)), a)
        else:
            first = self.emit(f"{name}.one", ops.Affine(one, None), a)
            second = self.emit(f"{name}.two", ops.Affine(two, Const(np.array(offset), grid) if offset else None), b)
            total = self.emit(f"{name}.sum", ops.Add(), first, second)
        return self.finish(result, total) if floored else self.rounded(result, total, found.q)

    def finish(self, result: Result, source: str) -> str:
        """``source``, floored to whole numbers and clamped. The node that holds it."""
        type_ = result.type
        whole = result.ends == (type_.min_raw, type_.max_raw)
        node = self.emit(result.name if whole else f"{result.name}.whole", ops.Cast(ArrayType.of(type_)), source)
        return node if whole else self.emit(result.name, ops.Clip(*(Const(np.array(end), 0) for end in result.ends)), node)

    def _line(self, name: str, sums: str, found: Sequence[Line], bits: Sequence[int]) -> str:
        """The values of lines whose results have so many fractional bits.

        On one grid where float64 holds them there, else each channel on its own: a channel of hardly any weight has a grid far below the others'.
        """
        grids = [one.shift + fraction for one, fraction in zip(found, bits, strict=True)]
        more = [max(grids) - grid for grid in grids]
        width = self.infos[sums].interval.hull.width
        if len(found) == 1 and width + found[0].multiplier.bit_length() >= FLOAT64_BITS and grids[0] >= width // 2:
            return self._in_halves(name, sums, found[0], grids[0])
        if all(width + one.multiplier.bit_length() + up < FLOAT64_BITS for one, up in zip(found, more, strict=True)):
            found, grids = [one.at(one.shift + up) for one, up in zip(found, more, strict=True)], [max(grids)] * len(grids)
        multipliers, offsets = (np.array([getattr(one, field) for one in found]) for field in ("multiplier", "offset"))
        frac_bits = tuple(grids) if len(set(grids)) > 1 else grids[0]
        if len(found) == 1:
            multipliers, offsets = multipliers[0], offsets[0]
        return self.emit(name, ops.Affine(Const(multipliers, frac_bits), Const(offsets, frac_bits) if offsets.any() else None), sums)

    def _in_halves(self, name: str, sums: str, found: Line, grid: int) -> str:
        """A line of a long multiplier and long sums: the low places of a sum times it are floored before those of the rest come to them, which no
        floor behind it sees, so that no number is longer than double holds."""
        hull = self.infos[sums].interval.hull
        low = hull.width // 2
        factor = Const(np.array(found.multiplier), grid)
        upper = self.emit(f"{name}.upper", ops.Cast(ArrayType.of(FixedType(hull.width + 1 - low, hull.width + 1, True, QMode.TRN, OMode.WRAP))), sums)
        lower = self.emit(f"{name}.lower", ops.Cast(ArrayType.of(FixedType(low, low, False, QMode.TRN, OMode.WRAP))), sums)
        high = self.emit(f"{name}.high", ops.Affine(factor, None), upper)
        product = self.emit(f"{name}.low", ops.Affine(factor, Const(np.array(found.offset), grid) if found.offset else None), lower)
        floor = _floor(self.infos[product].interval.hull, grid - low).with_zero().type()
        floored = self.emit(f"{name}.floored", ops.Cast(ArrayType.of(replace(floor, q=QMode.TRN, o=OMode.WRAP))), product)
        return self.emit(name, ops.Add(), high, floored)

    def _floored(self, name: str, source: str, bits: Sequence[int]) -> None:
        """``source`` with so many fractional bits, for each channel where they differ, in words that hold all."""
        intervals = self.infos[source].interval.spread(self.infos[source].shape[0])
        each = bits if len(bits) > 1 else list(bits) * len(intervals)
        width = max(_floor(one, fraction).width + (not one.signed) for one, fraction in zip(intervals, each, strict=True))
        int_bits = tuple(width - fraction for fraction in (bits if len(set(bits)) > 1 else bits[:1]))
        shape = (len(int_bits), *(1,) * (len(self.infos[source].shape) - 1)) if len(int_bits) > 1 else ()
        self.emit(name, ops.Cast(ArrayType(FixedType(width, max(int_bits), True), int_bits, shape)), source)


@dataclass(frozen=True, eq=False)
class Weighted:
    """Sums of products with a constant kernel, and between which numbers those of each output lie.

    ``weight`` and ``bias`` are 0 where a result is the same for every input, so that a channel without weights of note, whose bias can be as large as
    2**30, asks for no wide sums.
    """

    weight: Const
    bias: Const | None
    functions: tuple[Function, ...]
    ranges: tuple[Range, ...]

    @classmethod
    def of(cls, kernel: Ints, bias: Ints | None, held: Interval, functions: Sequence[Function], ends: Range) -> Weighted:
        """``kernel``: (outputs, ...); ``held``: what is multiplied; ``functions``: one, or one an output; ``ends`` are less the zero point."""
        outputs, held = kernel.shape[0], held.with_zero()
        offsets = np.zeros(outputs, dtype=np.int64) if bias is None else bias
        rows = kernel.reshape(outputs, -1)
        above, below = np.maximum(rows, 0).sum(1), np.minimum(rows, 0).sum(1)
        least, greatest = above * held.lo + below * held.hi + offsets, above * held.hi + below * held.lo + offsets
        each = tuple(functions) * (outputs if len(functions) == 1 else 1)
        ranges = tuple(zip(least.tolist(), greatest.tolist(), strict=True))
        results = np.array([one.call(np.array(range_, dtype=np.int64)) for one, range_ in zip(each, ranges, strict=True)])
        same = np.ptp(np.clip(results, *ends), axis=1) == 0
        if not same.all():
            kernel, offsets = np.where(same.reshape(-1, *(1,) * (kernel.ndim - 1)), 0, kernel), np.where(same, 0, offsets)
        return cls(Const(kernel, 0), Const(offsets, 0) if offsets.any() else None, each, ranges)


def _clipped(function: Callable[[Ints], Ints], ends: Range) -> Callable[[Ints], Ints]:
    return lambda sums: np.clip(function(sums), *ends)


def _floor(interval: Interval, bits: int) -> Interval:
    shift = interval.frac_bits - bits
    return Interval(interval.lo >> shift, interval.hi >> shift, bits) if shift > 0 else interval.at(bits)
