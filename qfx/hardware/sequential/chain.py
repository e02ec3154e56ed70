"""The epilogue of a step as it grows: one pointwise operator of the graph after the other, each exactly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qfx.errors import UnsupportedError
from qfx.fixed.arith import Interval
from qfx.fixed.reference import round_raw
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.sequential.values import Epilogue, Integers, Overflow, Value, integers
from qfx.hardware.sequential.windows import INSTEAD, Main
from qfx.ir import casting
from qfx.ir.operator import Operator
from qfx.ir.values import Const, Info
from qfx.operators import Add, Affine, Cast, Clip, LeakyRelu, PRelu, Relu

_FACTOR, _BESIDE, _LEAK, _BOUNDS = range(4)
"""How far an epilogue is: what may still come."""


@dataclass(frozen=True, eq=False, slots=True)
class Chain:
    """``sum * factor + added + (beside << beside_up)``, shifted by ``leak`` where it is not negative, times ``slope`` where it is, within ``low`` and
    ``high``: raws on ``grid``.
    All arrays are for each channel; ``low`` and ``high`` hold None where nothing bounds. ``met``: what lies beside."""

    main: Main
    grid: Integers
    factor: Integers
    added: Integers
    beside: Value | None
    beside_up: Integers
    met: tuple[Interval, ...]
    leak: int
    slope: int
    low: Integers
    high: Integers
    stage: int

    @classmethod
    def of(cls, main: Main) -> Chain:
        """The sums as they are, with the bias."""
        count = main.shape[0]
        none: Integers = np.full(count, None, dtype=object)
        zeros = integers(0, count)
        made = cls(main, main.grid, integers(1, count), zeros, None, zeros, (), 0, 1, none, none, _FACTOR)
        return made if main.bias is None else made.shifted(main.bias)

    @classmethod
    def nothing(cls, main: Main) -> Chain:
        """The sums times 0: what counts lies beside."""
        low_bits = Interval(-(1 << 16), (1 << 16) - 1, 0)  # all that a container holds, read as a number
        made = cls.of(replace(main, bounds=(low_bits,) * main.shape[0], partial=(low_bits,) * main.shape[0]))
        return replace(made, factor=integers(0, made.channels))

    @property
    def leaky(self) -> bool:
        """Whether what is below 0 becomes something else than what is not."""
        return self.leak != 0 or self.slope != 1

    @property
    def channels(self) -> int:
        return self.main.shape[0]

    def on(self, grid: Integers) -> Chain:
        """The same on finer grids, channel by channel."""
        more = grid - self.grid
        if not any(more):
            return self
        up = np.array([1 << step for step in more], dtype=object)
        bounds = [np.array([None if b is None else b * u for b, u in zip(own, up, strict=True)], dtype=object) for own in (self.low, self.high)]
        beside_up = self.beside_up + more
        return replace(self, grid=grid, factor=self.factor * up, added=self.added * up, beside_up=beside_up, low=bounds[0], high=bounds[1])

    def shifted(self, shift: Const) -> Chain:
        """A constant added."""
        raw, grids = _spread(shift, self.channels)
        fine = self.on(np.maximum(self.grid, grids))
        moved = np.array([r << int(g) for r, g in zip(raw, fine.grid - grids, strict=True)], dtype=object)
        return replace(fine, added=fine.added + moved)

    def then(self, op: Operator, other: tuple[Value, Info] | None) -> Chain | None:
        """With the operator; ``other``: the second value of one of two, if it lies in memory. None: it cannot follow."""
        if isinstance(op, Affine) and self.stage == _FACTOR and all(const.shape in ((), (self.channels,)) for const in op.constants().values()):
            scaled = self
            if op.scale is not None:
                raw, grids = _spread(op.scale, self.channels)
                scaled = replace(self, factor=self.factor * raw, added=self.added * raw, grid=self.grid + grids)
            return scaled if op.shift is None else scaled.shifted(op.shift)
        if isinstance(op, Add) and self.stage == _FACTOR and other is not None:
            value, info = other
            grids = _grids(info, self.channels)
            fine = self.on(np.maximum(self.grid, grids))
            met = info.stored.spread(self.channels)
            return replace(fine, beside=value, beside_up=fine.grid - grids, met=met, stage=_BESIDE)
        if isinstance(op, LeakyRelu) and self.stage <= _BESIDE:
            return replace(self, grid=self.grid - op.log2_slope, leak=-op.log2_slope, stage=_LEAK)
        if isinstance(op, PRelu) and self.stage <= _BESIDE and op.slope.raw.size == 1 and int(op.slope.raw.item()) >= 0 and op.slope.grid >= 0:
            return replace(self, grid=self.grid + op.slope.grid, leak=op.slope.grid, slope=int(op.slope.raw.item()), stage=_LEAK)
        if isinstance(op, Relu):
            return self._bounded(Const(np.array(0), 0), None)
        if isinstance(op, Clip) and all(bound is None or bound.shape[:1] in ((), (bound.raw.size,)) for bound in (op.low, op.high)):
            return self._bounded(op.low, op.high)
        return None

    def _bounded(self, low: Const | None, high: Const | None) -> Chain | None:
        fine, held = self, [None if bound is None else _spread(bound, self.channels) for bound in (low, high)]
        for pair in held:
            if pair is not None:
                finer = np.maximum(fine.grid, pair[1])
                if self.leaky and any(finer - fine.grid):
                    return None  # the two sides of a leaky rectifier would not move alike
                fine = fine.on(finer)
        low_edges, high_edges = (
            [None] * self.channels if pair is None else [int(raw) << int(up) for raw, up in zip(pair[0], fine.grid - pair[1], strict=True)]
            for pair in held
        )
        lows = [_most(max, own, edge) for own, edge in zip(fine.low, low_edges, strict=True)]
        highs = [None if own is None else _most(max, own, edge) for own, edge in zip(fine.high, low_edges, strict=True)]
        lows = [None if own is None else _most(min, own, edge) for own, edge in zip(lows, high_edges, strict=True)]
        highs = [_most(min, own, edge) for own, edge in zip(highs, high_edges, strict=True)]
        return replace(fine, low=np.array(lows, dtype=object), high=np.array(highs, dtype=object), stage=_BOUNDS)

    # What comes of it

    def ended(self, name: str, cast: Cast | None, out: Info) -> Epilogue:
        """The epilogue that gives ``out``, with a cast at its end or as it is. Raises UnsupportedError, naming the node."""
        types = _types(name, cast, out, self.channels)
        targets = _grids(out, self.channels) if cast is None else integers([type_.frac_bits for type_ in types], self.channels)
        fine = self if self.leaky else self.on(np.maximum(self.grid, targets))
        if any(fine.grid < targets):
            what = "casts what a leaky rectifier gives to a finer grid"
            raise UnsupportedError(what, where=name, remedy="let the cast have fewer fractional bits, or use --style streaming")
        down = fine.grid - targets
        if cast is None:
            least, greatest = (
                np.array([None if bound is None else bound >> int(fall) for bound, fall in zip(bounds, down, strict=True)], dtype=object)
                for bounds in (fine.low, fine.high)
            )
            return fine._made(name, down, QMode.TRN, least, greatest, Overflow.CLAMP, out.word, integers(0, self.channels))
        element = cast.cast.element
        rounded = [
            [None if b is None else round_raw(int(b), 1 << int(f), element.q) for b, f in zip(bounds, down, strict=True)]
            for bounds in (fine.low, fine.high)
        ]
        overflow, lows, highs = fine._overflow(name, element, down, rounded[0], rounded[1])
        up = integers([out.type.frac_bits - int(target) for target in targets], self.channels)
        return fine._made(name, down, element.q, np.array(lows, dtype=object), np.array(highs, dtype=object), overflow, element, up)

    def _overflow(
        self, name: str, to: FixedType, down: Integers, lows: Sequence[int | None], highs: Sequence[int | None]
    ) -> tuple[Overflow, list[int | None], list[int | None]]:
        """What numbers beyond the type become, and the bounds that come first."""
        fits = True
        for channel, interval in enumerate(self._intervals()):
            lo, hi = (round_raw(end, 1 << int(down[channel]), to.q) for end in (interval.lo, interval.hi))
            low, high = lows[channel], highs[channel]
            lo, hi = lo if low is None else max(lo, low), hi if high is None else min(hi, high)
            fits = fits and to.min_raw <= lo and hi <= to.max_raw
        least: list[int | None] = [_clamped(low, to, to.min_raw) for low in lows]
        greatest: list[int | None] = [_clamped(high, to, to.max_raw) for high in highs]
        if fits or to.o in (OMode.SAT, OMode.SAT_SYM):
            return Overflow.CLAMP, least, greatest
        if to.o is OMode.WRAP and to.n == 0:
            return Overflow.WRAP, list(lows), list(highs)
        if to.o is OMode.SAT_ZERO and all(low in (None, 0) for low in lows) and all(high is None for high in highs):
            return Overflow.ZERO, least, greatest
        what = f"casts with {to.o.value}" + (f" and N = {to.n}" if to.n else "") + " what can overflow"
        raise UnsupportedError(what, where=name, remedy="use AP_SAT, AP_SAT_SYM or AP_WRAP, or --style streaming")

    def _made(
        self, name: str, down: Integers, q: QMode, least: Integers, greatest: Integers, overflow: Overflow, to: FixedType, up: Integers
    ) -> Epilogue:
        bits = self._value_bits(down, to, up)
        if bits > 64 or max(map(int, (*down, *self.beside_up))) > 63 or max(abs(int(f)) for f in self.factor) >= 1 << 31:
            what = f"its epilogue takes words of {bits} bits, and factors of {_width(self.factor)}"
            raise UnsupportedError(what, where=name, remedy=f"use binary points that lie closer together, or {INSTEAD}")
        open_low, open_high = -(1 << bits - 1), (1 << bits - 1) - 1
        lows = integers([open_low if bound is None else bound for bound in least], self.channels)
        highs = integers([open_high if bound is None else bound for bound in greatest], self.channels)
        return Epilogue(self.factor, self.added, self.beside_up, self.leak, self.slope, down, q, lows, highs, overflow, to.width, to.signed, up, bits)

    def _intervals(self) -> list[Interval]:
        """The numbers in front of bounds and cast, raws on ``grid`` (the fractional bits of these intervals say nothing)."""
        return [Interval(self._leaked(one.lo), self._leaked(one.hi), 0) for one in self._sums()[-1]]

    def _leaked(self, number: int) -> int:
        return number * self.slope if number < 0 else number << self.leak

    def _sums(self) -> list[list[Interval]]:
        """What there is on the way to the rectifier, for each channel: products, with what is added, with what lies beside."""
        products = [Interval(int(f), int(f), 0) * Interval(b.lo, b.hi, 0) for f, b in zip(self.factor, self.main.bounds, strict=True)]
        sums = [one + Interval(int(a), int(a), 0) for one, a in zip(products, self.added, strict=True)]
        if not self.met:
            return [products, sums]
        beside = [Interval(b.lo << int(u), b.hi << int(u), 0) for b, u in zip(self.met, self.beside_up, strict=True)]
        return [products, sums, beside, [one + other for one, other in zip(sums, beside, strict=True)]]

    def _value_bits(self, down: Integers, to: FixedType, up: Integers) -> int:
        """Bits of a signed word that holds every number on the way, the constants among them."""
        sums = [interval.with_zero() for intervals in self._sums() for interval in intervals]
        own = [Interval(min(int(a), 0), max(int(a), 0), 0) for a in self.added]
        rounding = Interval(0, max(1 << int(fall) for fall in down), 0)
        last = [interval + rounding for interval in self._intervals()]
        widest = max(interval.with_zero().width + (not interval.with_zero().signed) for interval in (*sums, *own, *last, rounding))
        return max(widest, to.width + 2 + max(map(int, up)), max(interval.width + 1 for interval in self.main.bounds))


def _most(of: Callable[[int, int], int], own: int | None, edge: int | None) -> int | None:
    """The greater or the lesser of two bounds; None is none."""
    return edge if own is None else own if edge is None else of(own, edge)


def _width(numbers: Integers) -> int:
    return max(abs(int(number)) for number in numbers).bit_length() + 1


def _clamped(bound: int | None, to: FixedType, end: int) -> int:
    return end if bound is None else min(max(bound, to.min_raw), to.max_raw)


def _grids(info: Info, count: int) -> Integers:
    """The fractional bits of the raws of each channel."""
    return integers(info.grids.reshape(-1), count)


def _spread(const: Const, count: int) -> tuple[Integers, Integers]:
    """Raws and grids of a constant for each channel."""
    return integers(const.raw, count), integers(const.frac_bits, count)


def _types(name: str, cast: Cast | None, out: Info, count: int) -> list[FixedType]:
    """The type of each channel. Raises UnsupportedError where a channel has several."""
    if cast is None:
        return []
    found = casting.types_of_channels(cast.cast, out.shape)
    if any(len(types) != 1 for types in found):
        raise UnsupportedError("casts with binary points per element", where=name, remedy=f"use one per channel, or {INSTEAD}")
    return [types[0] for types in found]
