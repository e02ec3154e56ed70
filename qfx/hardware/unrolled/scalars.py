"""Making a scalar program: what operators ask for when they say what they are, number by number.

Equal expressions are made once, constants are folded, and what can be had for nothing is: shifts, zeros, casts that change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qfx.errors import ExactnessError, ProjectError
from qfx.fixed.arith import Interval
from qfx.fixed.arraytype import ArrayType
from qfx.fixed.digits import csd
from qfx.fixed.reference import overflow_raw, round_raw
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.unrolled.adders import AdderGraph, Row, Solver, Term
from qfx.hardware.unrolled.program import Choice, Constant, Convert, Entry, Extreme, Less, Node, Number, Product, Source, Sum, read_by
from qfx.ir.casting import cast_interval
from qfx.ir.values import RAW_MAX, RAW_MIN, Const, Shape
from qfx.ir.windows import Windows

Numbers = npt.NDArray[np.object_]
"""Numbers in the shape of a value, without the batch."""

_MOST_SHARED, _MOST_DEAD = 3, 2
"""How many times more digits than adders, and nodes than are left at the end, there are at most: beyond, no adder graph is made first."""


class Scalars:
    """Nodes, and what is known of each: its bounds, and how many adders deep it lies. ProjectError where more than ``most`` operations are certain to
    be left of them."""

    most: int
    zero: Number
    one: Number

    def __init__(self, solver: Solver, most: int) -> None:
        self._solver, self.most = solver, most
        self._graphs: dict[tuple[tuple[Row, ...], tuple[int, ...], tuple[int, ...]], AdderGraph] = {}
        self.nodes: list[Node] = []
        self.bounds: list[tuple[int, int]] = []
        self.layers: list[str] = []
        self.depths: list[int] = []
        self.layer = ""
        """The graph's node that is made of what is asked for now."""
        self._known: dict[Node, int] = {}
        self.zero, self.one = self.constant(0, 0), self.constant(1, 0)

    # What is known

    def interval(self, x: Number) -> Interval:
        """What the number can be."""
        lo, hi = self.bounds[x.node]
        return Interval(lo, hi, -x.exponent)

    def value_of(self, x: Number) -> int | None:
        """The raw of a constant's node."""
        node = self.nodes[x.node]
        return node.raw if isinstance(node, Constant) else None

    def narrow(self, x: Number, held: Interval) -> Number:
        """The same number, known to lie within ``held`` too."""
        lo, hi = self.bounds[x.node]
        fine = held.at(max(held.frac_bits, -x.exponent))
        extra = fine.frac_bits + x.exponent
        lo, hi = max(lo, -(-fine.lo >> extra)), min(hi, fine.hi >> extra)
        if lo == hi:
            return self.constant(lo, x.exponent)
        self.bounds[x.node] = (lo, hi)
        return x

    # What can be asked for

    def source(self, port: int, place: int, held: Interval, grid: int) -> Number:
        """A number of an input, whose raws come with ``grid`` fractional bits."""
        return self._node(Source(port, place, grid - held.frac_bits), (held.lo, held.hi), -held.frac_bits)

    def constant(self, raw: int, exponent: int) -> Number:
        """raw * 2**exponent."""
        if raw == 0:
            return Number(self._place(Constant(0), (0, 0)), 0)
        low = (raw & -raw).bit_length() - 1
        return Number(self._place(Constant(raw >> low), (raw >> low, raw >> low)), exponent + low)

    def scalar(self, const: Const) -> Number:
        """That of a constant without axes."""
        return self.constant(int(const.raw), -const.grid)

    def constants(self, const: Const) -> Numbers:
        """Those of a constant tensor."""
        grids = np.broadcast_to(const.grids, const.raw.shape)
        return self.each(lambda raw, grid: self.constant(int(raw), -int(grid)), const.raw, grids)

    def beside(self, const: Const, shape: Shape) -> Numbers:
        """Those of a scalar, of one for each channel, or of one with an axis for each of ``shape``, at every place of a value of that shape."""
        made = self.constants(const)
        return np.broadcast_to(made.reshape(-1, *(1,) * (len(shape) - 1)) if made.ndim == 1 else made, shape)

    def add(self, x: Number, y: Number) -> Number:
        return self._sum(x, y, minus=False, held=self.interval(x) + self.interval(y))

    def subtract(self, x: Number, y: Number) -> Number:
        if x == y:
            return self.zero
        return self._sum(x, y, minus=True, held=self.interval(x) - self.interval(y))

    def greater(self, x: Number, y: Number) -> Number:
        return self._extreme(x, y, greater=True)

    def lesser(self, x: Number, y: Number) -> Number:
        return self._extreme(x, y, greater=False)

    def less(self, x: Number, y: Number) -> Number:
        """1 if x < y, else 0."""
        apart = self.interval(x) - self.interval(y)
        if apart.hi < 0 or apart.lo >= 0:
            return self.constant(int(apart.hi < 0), 0)
        up_x, up_y, _ = self._aligned(x, y)
        return self._node(Less(x.node, y.node, up_x, up_y), (0, 1), 0)

    def choose(self, condition: Number, x: Number, y: Number) -> Number:
        """x where the condition, which is 0 or 1, is 1, else y."""
        fixed = self.value_of(condition)
        if fixed is not None or x == y:
            return x if fixed != 0 else y
        up_x, up_y, exponent = self._aligned(x, y)
        (x_lo, x_hi), (y_lo, y_hi) = self.bounds[x.node], self.bounds[y.node]
        bounds = min(x_lo << up_x, y_lo << up_y), max(x_hi << up_x, y_hi << up_y)
        return self._node(Choice(condition.node, x.node, y.node, up_x, up_y), bounds, exponent)

    def cast(self, x: Number, to: FixedType) -> Number:
        """Rounding, then overflow."""
        x = self._unrectified(x, to)
        raw, held = self.value_of(x), self.interval(x)
        if raw is not None:
            shift = to.frac_bits + x.exponent
            return self.constant(overflow_raw(round_raw(raw << max(shift, 0), 1 << max(-shift, 0), to.q), to), -to.frac_bits)
        if held.frac_bits <= to.frac_bits:
            fine = held.at(to.frac_bits)
            if fine.lo >= to.min_raw and fine.hi <= to.max_raw:
                return x
        result = cast_interval(held, ArrayType.of(to), (1,)).at(to.frac_bits)
        if result.lo == result.hi:
            return self.constant(result.lo, -to.frac_bits)
        return self._node(Convert(x.node, -x.exponent, to), (result.lo, result.hi), -to.frac_bits)

    def clipped(self, x: Number, low: Number | None, high: Number | None) -> Number:
        """x, no less than ``low`` and no more than ``high``, two constants. What saturates at the ends of a word is a cast: the one that x comes
        from, if that saturates too."""
        to = None if low is None or high is None else self._word(x, low, high)
        if to is not None:
            cast = self.nodes[x.node]
            if isinstance(cast, Convert) and (cast.type.o, cast.type.signed) == (to.o, to.signed) and cast.type.frac_bits == to.frac_bits:
                earlier = replace(cast.type, width=to.width, int_bits=to.int_bits)
                lo, hi = (min(max(bound, to.min_raw), to.max_raw) for bound in self.bounds[x.node])
                return self.constant(lo, x.exponent) if lo == hi else self._node(Convert(cast.a, cast.frac_bits, earlier), (lo, hi), x.exponent)
            return self.cast(x, to)
        least = x if low is None else self.greater(x, low)
        return least if high is None else self.lesser(least, high)

    def _word(self, x: Number, low: Number, high: Number) -> FixedType | None:
        """The type on x's grid that saturates at these ends."""
        ends = []
        for end in (low, high):
            raw, up = self.value_of(end), end.exponent - x.exponent
            if raw is None or (up < 0 and raw):
                return None
            ends.append(raw << max(up, 0))
        least, most = ends
        if most < 1 or most & (most + 1) or least not in (0, -most, -most - 1):
            return None
        width = most.bit_length() + (least < 0)
        return FixedType(width, width + x.exponent, least < 0, QMode.TRN, OMode.SAT_SYM if least == -most else OMode.SAT)

    def entry(self, x: Number, entries: Sequence[int], exponent: int) -> Number:
        """entries[raw of x's node behind the least that it can be] * 2**exponent."""
        lo, _ = self.bounds[x.node]
        return self._node(Entry(x.node, lo, tuple(entries)), (min(entries), max(entries)), exponent)

    def times(self, x: Number, factor: Number, shift: Number) -> Number:
        """x times a constant, plus a constant."""
        raw = self.value_of(factor)
        assert raw is not None
        return self.moved(self.linear([[raw]], [x], [self.moved(shift, -factor.exponent)])[0], factor.exponent)

    def weighted(self, weight: npt.NDArray[np.int64], grids: Sequence[int], x: Sequence[Number], shift: Numbers | None) -> list[Number]:
        """weight @ x + shift, where row i of the weight (M, ...) has grids[i] fractional bits."""
        shifts = [self.zero] * len(weight) if shift is None else [self.moved(y, grid) for y, grid in zip(shift, grids, strict=True)]
        found = self.linear(weight.reshape(len(weight), -1).tolist(), x, shifts)
        return [self.moved(y, -grid) for y, grid in zip(found, grids, strict=True)]

    def pooled(self, windows: Windows, x: Numbers, join: Callable[[list[Number]], Number]) -> Numbers:
        """The numbers of each window joined; padding is left out."""
        places = np.arange(1, x.size + 1).reshape(1, *x.shape)
        met = np.stack(windows.taps(places, fill=0), axis=-1)[0]
        flat, result = x.reshape(-1), np.empty(met.shape[:-1], dtype=object)
        for position in np.ndindex(result.shape):
            result[position] = join([flat[place - 1] for place in met[position] if place])
        return result

    def moved(self, x: Number, up: int) -> Number:
        """x * 2**up."""
        return x if x.node == self.zero.node else Number(x.node, x.exponent + up)

    def multiply(self, x: Number, y: Number) -> Number:
        """The product of two numbers, whatever they are."""
        if self.value_of(x) is not None:
            x, y = y, x
        if self.value_of(y) is not None:
            return self.times(x, y, self.zero)
        (a, b), (c, d) = self.bounds[x.node], self.bounds[y.node]
        corners = (a * c, a * d, b * c, b * d)
        low = min(corners) if x.node != y.node else 0 if a <= 0 <= b else min(a * a, b * b)
        first, second = sorted((x.node, y.node))
        return self._node(Product(first, second), (low, max(corners)), x.exponent + y.exponent)

    def total(self, numbers: Iterable[Number]) -> Number:
        """The sum of all, as shallow as it can be."""
        terms = list(numbers)
        return self.linear([[1] * len(terms)], terms, [self.zero])[0]

    def reduce(self, numbers: Iterable[Number], join: Callable[[Number, Number], Number]) -> Number:
        """All joined, in a tree."""
        row = list(numbers)
        while len(row) > 1:
            row = [*(join(x, y) for x, y in zip(row[::2], row[1::2], strict=False)), *row[len(row) & ~1 :]]
        return row[0]

    def linear(self, matrix: Sequence[Sequence[int]], x: Sequence[Number], shift: Sequence[Number]) -> list[Number]:
        """matrix @ x + shift, of integers, for numbers of any grids; ``shift`` has one number for each row."""
        columns = [*x, *shift]
        rows = [{c: w for c, w in enumerate(map(int, row)) if w} | {len(x) + place: 1} for place, row in enumerate(matrix)]
        first: dict[int, int] = {}  # a node that comes several times is one column
        merged: list[Number] = []
        for number in columns:
            if number.node not in first:
                first[number.node] = len(merged)
                merged.append(number)
            elif number.exponent < merged[first[number.node]].exponent:
                merged[first[number.node]] = number
        digits: list[Row] = []
        for row in rows:
            factors: dict[int, int] = {}
            for column, weight in row.items():
                place = first[columns[column].node]
                factors[place] = factors.get(place, 0) + (weight << (columns[column].exponent - merged[place].exponent))
            digits.append(
                tuple(
                    Term(place, up + merged[place].exponent, sign < 0)
                    for place, factor in factors.items()
                    if merged[place].node != self.zero.node
                    for sign, up in csd(factor)
                )
            )
        if sum(map(len, digits)) > _MOST_SHARED * self.most:
            raise self.too_large(f"adds {sum(map(len, digits)):,} shifted numbers")
        key = (tuple(digits), tuple(self._relative_depths(merged)), tuple(self.interval(number).width for number in merged))
        if key not in self._graphs:
            self._graphs[key] = self._solver(*key)
        return self._built(self._graphs[key], [Number(number.node, 0) for number in merged])

    def each(self, function: Callable[..., Number], *arrays: npt.NDArray[np.generic] | Numbers) -> Numbers:
        """The function of the numbers at each place of arrays of one shape."""
        result: Numbers = np.empty(arrays[0].shape, dtype=object)
        for place in np.ndindex(arrays[0].shape):
            result[place] = function(*(array[place] for array in arrays))
        return result

    def too_large(self, what: str, where: str = "") -> ProjectError:
        """That there are too many operations."""
        remedy = "use --style streaming, shorter or fewer weights (prune), or smaller layers"
        return ProjectError(f"{what}; from {self.most:,} operations on no tool can be expected to finish", where=where or self.layer, remedy=remedy)

    # How they are made

    def _place(self, node: Node, bounds: tuple[int, int]) -> int:
        known = self._known.get(node)
        if known is not None:
            lo, hi = self.bounds[known]
            self.bounds[known] = (max(lo, bounds[0]), min(hi, bounds[1]))
            return known
        if bounds[0] < RAW_MIN or bounds[1] > RAW_MAX:
            what = f"needs words of {Interval(*bounds, 0).width} bits, qfx computes with 64"
            raise ExactnessError(what, where=self.layer, remedy="cast its inputs to narrower types")
        if len(self.nodes) > _MOST_DEAD * self.most:
            raise self.too_large(f"brings it to more than {len(self.nodes):,} operations")
        self._known[node] = len(self.nodes)
        self.nodes.append(node)
        self.bounds.append(bounds)
        self.layers.append(self.layer)
        return len(self.nodes) - 1

    def _node(self, node: Node, bounds: tuple[int, int], exponent: int) -> Number:
        return self.constant(bounds[0], exponent) if bounds[0] == bounds[1] else Number(self._place(node, bounds), exponent)

    def _aligned(self, x: Number, y: Number) -> tuple[int, int, int]:
        """By how much the nodes are moved up to lie on one grid, and its exponent. A zero lies on every grid."""
        if y.node == self.zero.node:
            return 0, 0, x.exponent
        if x.node == self.zero.node:
            return 0, 0, y.exponent
        exponent = min(x.exponent, y.exponent)
        return x.exponent - exponent, y.exponent - exponent, exponent

    def _sum(self, x: Number, y: Number, *, minus: bool, held: Interval) -> Number:
        """x plus or minus y, known to lie within ``held``."""
        if y.node == self.zero.node:
            return x
        if x.node == self.zero.node and not minus:
            return y
        a, b = self.value_of(x), self.value_of(y)
        up_x, up_y, exponent = self._aligned(x, y)
        if a is not None and b is not None:
            return self.constant((a << up_x) + (-(b << up_y) if minus else b << up_y), exponent)
        if b is not None and minus:  # a constant is added, whatever its sign
            y, minus = self.constant(-b, y.exponent), False
        if x.node == y.node and not minus and up_x == up_y:
            return Number(x.node, x.exponent + 1)
        if not minus and (y.node, up_y) < (x.node, up_x):
            x, y, up_x, up_y = y, x, up_y, up_x
        known = self._exactly(Sum(x.node, y.node, up_x, up_y, minus), x, y, minus)
        fine = held.at(max(held.frac_bits, -exponent))
        extra = fine.frac_bits + exponent
        bounds = (max(known[0], -(-fine.lo >> extra)), min(known[1], fine.hi >> extra))
        return self._node(Sum(x.node, y.node, up_x, up_y, minus), bounds, exponent)

    def _exactly(self, node: Sum, x: Number, y: Number, minus: bool) -> tuple[int, int]:
        (a_lo, a_hi), (b_lo, b_hi) = self.bounds[x.node], self.bounds[y.node]
        b_lo, b_hi = (-b_hi, -b_lo) if minus else (b_lo, b_hi)
        return (a_lo << node.up_a) + (b_lo << node.up_b), (a_hi << node.up_a) + (b_hi << node.up_b)

    def _extreme(self, x: Number, y: Number, *, greater: bool) -> Number:
        apart = self.interval(x) - self.interval(y)
        if apart.lo >= 0:
            return x if greater else y
        if apart.hi <= 0:
            return y if greater else x
        if (y.node, y.exponent) < (x.node, x.exponent):
            x, y = y, x
        up_x, up_y, exponent = self._aligned(x, y)
        (a_lo, a_hi), (b_lo, b_hi) = self.bounds[x.node], self.bounds[y.node]
        take = max if greater else min
        bounds = take(a_lo << up_x, b_lo << up_y), take(a_hi << up_x, b_hi << up_y)
        return self._node(Extreme(x.node, y.node, up_x, up_y, greater), bounds, exponent)

    def _unrectified(self, x: Number, to: FixedType) -> Number:
        """max(x, 0) is cast to an unsigned type that saturates: what is below 0 becomes 0 by that alone."""
        node = self.nodes[x.node]
        if isinstance(node, Extreme) and node.greater and not to.signed and to.o in (OMode.SAT, OMode.SAT_SYM):
            for zero, other, up in ((node.a, node.b, node.up_b), (node.b, node.a, node.up_a)):
                if zero == self.zero.node:
                    return Number(other, x.exponent + up)
        return x

    def _relative_depths(self, numbers: Sequence[Number]) -> list[int]:
        """How many adders later than the first of them each comes; constants are there at once."""
        depths = [self._depth(number.node) for number in numbers]
        least = min((d for n, d in zip(numbers, depths, strict=True) if self.value_of(n) is None), default=0)
        return [max(depth - least, 0) for depth in depths]

    def _depth(self, place: int) -> int:
        while len(self.depths) <= place:
            node = self.nodes[len(self.depths)]
            deepest = max((self.depths[source] for source in read_by(node)), default=0)
            self.depths.append(deepest + (not isinstance(node, Source | Constant)))
        return self.depths[place]

    def _built(self, graph: AdderGraph, columns: list[Number]) -> list[Number]:
        """The adders of a graph, each known to lie within what its coefficients allow."""
        made = list(columns)
        for place, adder in enumerate(graph.adders, start=graph.columns):
            lo = hi = 0
            for column, factor in graph.coefficients[place].items():
                a, b = (factor * bound for bound in self.bounds[columns[column].node])
                lo, hi = lo + min(a, b), hi + max(a, b)
            x, y = made[adder.a], made[adder.b]
            x, y = Number(x.node, x.exponent + adder.up_a), Number(y.node, y.exponent + adder.up_b)
            if adder.minus and x == y:
                made.append(self.zero)
            else:
                made.append(self._sum(x, y, minus=adder.minus, held=Interval(lo, hi, 0)))
        results = []
        for output in graph.outputs:
            if output is None:
                results.append(self.zero)
            else:
                number = self.moved(made[output.node], output.shift)
                results.append(self.negative(number) if output.negative else number)
        return results

    def negative(self, x: Number) -> Number:
        return self._sum(self.zero, x, minus=True, held=-self.interval(x))
