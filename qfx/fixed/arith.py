"""Exact result types: which numbers an operation can give, and how many bits they need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qfx.errors import ExactnessError
from qfx.fixed.type import FixedType

FLOAT32_BITS = 24
FLOAT64_BITS = 53


@dataclass(frozen=True, slots=True)
class Interval:
    """The numbers ``raw * 2**-frac_bits`` with ``lo <= raw <= hi``: a bound on what a tensor can hold.

    Every operator below is exact: the result bounds every possible result, on the coarsest grid that holds them all. ``+ - *`` are those of
    ``ap_fixed`` (UG1399) except that the bounds follow the values, not only the widths.

    >>> a = Interval(-8, 7, 2) * Interval(0, 15, 4)
    >>> a, str(a.type())
    (Interval(lo=-120, hi=105, frac_bits=6), 'ap_fixed<8,2>')
    """

    lo: int
    hi: int
    frac_bits: int

    def __post_init__(self) -> None:
        if self.lo > self.hi:
            raise ExactnessError(f"empty interval [{self.lo}, {self.hi}]", remedy="this is a defect in qfx; please report it")

    @classmethod
    def of(cls, type_: FixedType) -> Interval:
        """Everything that a cast into the type can give."""
        return cls(type_.min_raw, type_.max_raw, type_.frac_bits)

    @property
    def signed(self) -> bool:
        return self.lo < 0

    @property
    def width(self) -> int:
        """The least word length that holds every raw (at least 1), with a sign bit only if needed."""
        if self.signed:
            return max((-self.lo - 1).bit_length(), self.hi.bit_length() if self.hi > 0 else 0) + 1
        return max(self.hi.bit_length(), 1)

    @property
    def magnitude_bits(self) -> int:
        """The significand bits that a float needs to hold every raw exactly (2**k needs k bits, not k + 1)."""
        largest = max(abs(self.lo), abs(self.hi))
        return max((largest - 1).bit_length(), 1) if largest else 0

    def type(self) -> FixedType:
        """The smallest FixedType that holds the interval (modes AP_TRN, AP_WRAP: nothing is ever rounded into it)."""
        return FixedType(self.width, self.width - self.frac_bits, self.signed)

    def at(self, frac_bits: int) -> Interval:
        """The same bounds on a finer grid. Raises ExactnessError if the grid were coarser."""
        shift = frac_bits - self.frac_bits
        if shift < 0:
            raise ExactnessError(f"{self.frac_bits} fractional bits do not fit into {frac_bits}", remedy="cast first")
        return Interval(self.lo << shift, self.hi << shift, frac_bits)

    def __add__(self, other: Interval) -> Interval:
        a, b = align(self, other)
        return Interval(a.lo + b.lo, a.hi + b.hi, a.frac_bits)

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo, self.frac_bits)

    def __sub__(self, other: Interval) -> Interval:
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        corners = (self.lo * other.lo, self.lo * other.hi, self.hi * other.lo, self.hi * other.hi)
        return Interval(min(corners), max(corners), self.frac_bits + other.frac_bits)

    def __or__(self, other: Interval) -> Interval:
        """The hull: the smallest interval on one grid that holds both."""
        a, b = align(self, other)
        return Interval(min(a.lo, b.lo), max(a.hi, b.hi), a.frac_bits)

    def times(self, count: int) -> Interval:
        """The sum of ``count`` >= 1 numbers of this interval."""
        return Interval(self.lo * count, self.hi * count, self.frac_bits)

    def shifted(self, amount: int) -> Interval:
        """Multiplied by 2**amount: the raws stay, the binary point moves."""
        return Interval(self.lo, self.hi, self.frac_bits - amount)

    def with_zero(self) -> Interval:
        """Widened to contain 0 (padding, an accumulator's start)."""
        return Interval(min(self.lo, 0), max(self.hi, 0), self.frac_bits)

    def relu(self) -> Interval:
        return Interval(max(self.lo, 0), max(self.hi, 0), self.frac_bits)

    def leaky_relu(self, log2_slope: int) -> Interval:
        """x for x >= 0, else x * 2**log2_slope, with log2_slope <= 0."""
        fine = self.at(self.frac_bits - log2_slope)
        lo = self.lo if self.lo < 0 else fine.lo
        hi = fine.hi if self.hi >= 0 else self.hi
        return Interval(lo, hi, fine.frac_bits)

    def clip(self, low: Interval, high: Interval) -> Interval:
        """min(max(x, low), high) for two constants (intervals of one point each) with low <= high."""
        grid = max(self.frac_bits, low.frac_bits, high.frac_bits)
        x, a, b = self.at(grid), low.at(grid).lo, high.at(grid).lo
        return Interval(min(max(x.lo, a), b), min(max(x.hi, a), b), grid)

    def fits_float32(self) -> bool:
        """Whether float32 holds every number of the grid within the bounds exactly, as a normal number."""
        return self.magnitude_bits <= FLOAT32_BITS and -100 <= self.frac_bits <= 120

    def fits_float64(self) -> bool:
        """Likewise for float64."""
        return self.magnitude_bits <= FLOAT64_BITS and -900 <= self.frac_bits <= 1000


def align(a: Interval, b: Interval) -> tuple[Interval, Interval]:
    """Both on the finer of the two grids."""
    grid = max(a.frac_bits, b.frac_bits)
    return a.at(grid), b.at(grid)


def hull(intervals: Iterable[Interval]) -> Interval:
    """The smallest interval on one grid that holds all of one or more intervals."""
    first, *rest = intervals
    for interval in rest:
        first = first | interval
    return first
