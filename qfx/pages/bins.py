"""Where a histogram counts: bins on the grid of a fixed-point type, or on the numbers of a minifloat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qfx.fixed.type import FixedType
from qfx.operators import MinifloatCast

BINS = 64
"""Of a histogram, about."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """``count`` bins, drawn as wide as each other; what lies beyond is counted at the ends.

    On a grid they are ``step`` wide, from ``low`` on, and each holds as many codes as every other: one, or a power of two (``codes``). On the numbers
    of a format called ``format`` they hold what is nearest to one of them, or to ``codes`` neighbours, between ``edges`` that lie closer together
    near 0; a bin at either end for what lies further out than the greatest number, where anything does.
    """

    low: float
    step: float
    codes: int
    count: int
    format: str = ""
    numbers: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()

    @classmethod
    def on_grid(cls, frac_bits: int, low: float, high: float, held: tuple[float, float] | None) -> Bins:
        """For numbers from ``low`` to ``high``. Of a cast, whose type holds ``held``: all of the type, and up to one range more at either side."""
        lsb = float(FixedType(1, 1 - frac_bits).lsb)
        if held is not None:
            room = held[1] - held[0] + lsb
            low, high = max(min(held[0], low), held[0] - room), min(max(held[1], high), held[1] + room)
        codes = 1 << max(0, math.ceil(math.log2(max((high - low) / lsb + 1, 1) / BINS)))
        step = lsb * codes
        first = math.floor(low / step)
        return cls(first * step, step, codes, max(1, math.floor(high / step) - first + 1))

    @classmethod
    def of_format(cls, op: MinifloatCast, low: float, high: float) -> Bins:
        """For numbers from ``low`` to ``high`` that come to a cast to a minifloat."""
        units = sorted({raw for code in range(1 << op.kind.bits) if isinstance(raw := op.kind.raw(code), int)})
        numbers = [math.ldexp(unit, -op.frac_bits) for unit in units]
        codes = 1 << max(0, math.ceil(math.log2(len(numbers) / BINS)))
        end = numbers[-1] + (numbers[-1] - numbers[-2]) / 2  # rounding takes back what lies no further out, and a tie to an even mantissa
        further = math.nextafter(end, math.inf)
        first, last = (-end, further) if units[-1] // (units[-1] - units[-2]) % 2 == 0 else (math.nextafter(-end, 0.0), end)
        inner = [(numbers[i - 1] + numbers[i]) / 2 for i in range(codes, len(numbers), codes)]
        edges = [first, *inner, last]
        edges = [*([-math.inf] if low < edges[0] else []), *edges, *([math.inf] if high > edges[-1] else [])]
        return cls(numbers[0], 0.0, codes, len(edges) - 1, str(op.kind), tuple(numbers), tuple(edges))

    @cached_property
    def high(self) -> float:
        """Where the last bin ends; of a format its greatest number."""
        return self.numbers[-1] if self.numbers else self.low + self.step * self.count

    def places(self, values: Floats) -> npt.NDArray[np.int64]:
        """The bin of every number."""
        if self.edges:
            found = np.searchsorted(np.array(self.edges), values, side="right") - 1
        else:
            half = self.step / self.codes / 2
            found = np.floor((values + half - self.low) / self.step)
        return found.clip(0, self.count - 1).astype(np.int64)

    def count_into(self, values: Floats, into: npt.NDArray[np.int64]) -> None:
        """Add how many of the numbers lie in each bin."""
        into += np.bincount(self.places(values.reshape(-1)), minlength=self.count)

    def within(self, place: int, bounds: tuple[float, float]) -> bool:
        """Whether the bin has numbers between the ``bounds``."""
        low, high = self.edges[place : place + 2] if self.edges else (self.low + place * self.step, self.low + (place + 1) * self.step)
        return high > bounds[0] and low <= bounds[1]

    def at(self, bound: float) -> float | None:
        """Where a bound lies, in bins from the left; None outside. In the middle of its bin where that is of one code."""
        if self.edges:
            place = int(self.places(np.array([bound]))[0])
            return place + 0.5 if self.codes == 1 else float(place + (bound > 0))
        if not self.low <= bound <= self.high:
            return None
        return (bound - self.low) / self.step + (0.5 if self.codes == 1 else 0.0)
