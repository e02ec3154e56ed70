"""Exact result types: which numbers an operation can give, and how many bits they need.

``Interval`` bounds a tensor on one grid, ``Channels`` one whose channels lie on grids of their own; ``Bounds`` is either. Exactness is a property of
each channel: a tensor fits a float or an integer if each of its channels does, however far apart their grids lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat

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
        if shift == 0:
            return self
        if shift < 0:
            raise ExactnessError(f"{self.frac_bits} fractional bits do not fit into {frac_bits}", remedy="cast first")
        return Interval(self.lo << shift, self.hi << shift, frac_bits)

    @property
    def hull(self) -> Interval:
        """The interval itself; see ``Channels.hull``."""
        return self

    def spread(self, count: int) -> tuple[Interval, ...]:
        """The interval of each of ``count`` channels."""
        return (self,) * count

    def __add__(self, other: Interval) -> Interval:
        if not isinstance(other, Interval):
            return NotImplemented
        a, b = align(self, other)
        return Interval(a.lo + b.lo, a.hi + b.hi, a.frac_bits)

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo, self.frac_bits)

    def __sub__(self, other: Interval) -> Interval:
        return self + -other if isinstance(other, Interval) else NotImplemented

    def __mul__(self, other: Interval) -> Interval:
        if not isinstance(other, Interval):
            return NotImplemented
        corners = (self.lo * other.lo, self.lo * other.hi, self.hi * other.lo, self.hi * other.hi)
        return Interval(min(corners), max(corners), self.frac_bits + other.frac_bits)

    def __or__(self, other: Interval) -> Interval:
        """The hull: the smallest interval on one grid that holds both."""
        if not isinstance(other, Interval):
            return NotImplemented
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


@dataclass(frozen=True, eq=False, slots=True)
class Channels:
    """A bound on each channel of a tensor, where they do not all lie on one grid. Made by ``channelwise``.

    The operators of ``Interval`` work channel by channel; an Interval stands for all channels. ``magnitude_bits`` is what the worst channel needs.

    >>> a = channelwise([Interval(-8, 7, 2), Interval(-8, 7, 40)])
    >>> a.magnitude_bits, a.hull.magnitude_bits, (a + a).magnitude_bits
    (3, 41, 4)
    """

    channels: tuple[Interval, ...]
    _hash: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self.channels))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Channels) and self._hash == other._hash and self.channels == other.channels)

    def __hash__(self) -> int:
        return self._hash

    @property
    def hull(self) -> Interval:
        """The smallest interval on one grid that holds every channel: what an operator that mixes channels meets."""
        return _hull(self)

    def spread(self, count: int) -> tuple[Interval, ...]:
        """The interval of each of the ``count`` channels."""
        if count != len(self.channels):
            raise ExactnessError(f"{len(self.channels)} intervals for {count} channels", remedy="this is a defect in qfx; please report it")
        return self.channels

    @property
    def signed(self) -> bool:
        return any(interval.signed for interval in self.channels)

    @property
    def width(self) -> int:
        """The least word length that holds the raw of every channel on its own grid, with a sign bit if one of them needs it."""
        return _words(self)[0]

    @property
    def magnitude_bits(self) -> int:
        return _words(self)[1]

    def at(self, frac_bits: int) -> Interval:
        """The hull, on a grid no coarser than its own."""
        return self.hull.at(frac_bits)

    def __add__(self, other: Bounds) -> Bounds:
        return _each(Interval.__add__, self, other)

    __radd__ = __add__

    def __neg__(self) -> Bounds:
        return _each(Interval.__neg__, self)

    def __sub__(self, other: Bounds) -> Bounds:
        return _each(Interval.__sub__, self, other)

    def __rsub__(self, other: Interval) -> Bounds:
        return _each(Interval.__sub__, other, self)

    def __mul__(self, other: Bounds) -> Bounds:
        return _each(Interval.__mul__, self, other)

    __rmul__ = __mul__

    def __or__(self, other: Bounds) -> Bounds:
        return _each(Interval.__or__, self, other)

    __ror__ = __or__

    def times(self, count: int) -> Bounds:
        return channelwise(interval.times(count) for interval in self.channels)

    def shifted(self, amount: int) -> Bounds:
        return channelwise(interval.shifted(amount) for interval in self.channels)

    def with_zero(self) -> Bounds:
        return _each(Interval.with_zero, self)

    def relu(self) -> Bounds:
        return _each(Interval.relu, self)

    def leaky_relu(self, log2_slope: int) -> Bounds:
        return channelwise(interval.leaky_relu(log2_slope) for interval in self.channels)

    def clip(self, low: Interval, high: Interval) -> Bounds:
        return _each(Interval.clip, self, low, high)

    def fits_float32(self) -> bool:
        return _fits(self)[0]

    def fits_float64(self) -> bool:
        return _fits(self)[1]


Bounds = Interval | Channels
"""What is known of a tensor: one interval, or one for each channel."""


def channelwise(intervals: Iterable[Interval]) -> Bounds:
    """A bound for each of one or more channels: their hull if they lie on one grid, where it needs no more bits than the widest of them."""
    channels = tuple(intervals)
    grid = channels[0].frac_bits
    return hull(channels) if all(interval.frac_bits == grid for interval in channels) else Channels(channels)


@lru_cache(maxsize=1024)
def _each(operation: Callable[..., Interval], *operands: Bounds) -> Bounds:
    """The operation channel by channel. Kept, since a training step asks for the same as the one before until a binary point moves."""
    count = {len(operand.channels) for operand in operands if isinstance(operand, Channels)}
    if len(count) > 1:
        raise ExactnessError(f"values of {sorted(count)} channels", remedy="this is a defect in qfx; please report it")
    rows = (operand.channels if isinstance(operand, Channels) else repeat(operand) for operand in operands)
    return channelwise(map(operation, *rows))


@lru_cache(maxsize=1024)
def _hull(bounds: Channels) -> Interval:
    return hull(bounds.channels)


@lru_cache(maxsize=1024)
def _words(bounds: Channels) -> tuple[int, int]:
    """The word length and the magnitude bits of the worst channel."""
    signed = bounds.signed
    width = max(interval.width + (signed and not interval.signed) for interval in bounds.channels)
    return width, max(interval.magnitude_bits for interval in bounds.channels)


@lru_cache(maxsize=1024)
def _fits(bounds: Channels) -> tuple[bool, bool]:
    """Whether float32 and float64 hold every channel."""
    return all(c.fits_float32() for c in bounds.channels), all(c.fits_float64() for c in bounds.channels)


def greater(a: Bounds, b: Bounds) -> Bounds:
    """The greater of two numbers, channel by channel."""
    return _each(_greater, a, b) if isinstance(a, Channels) or isinstance(b, Channels) else _greater(a, b)


def lesser(a: Bounds, b: Bounds) -> Bounds:
    return -greater(-a, -b)


def clipped(x: Bounds, low: Bounds | None, high: Bounds | None) -> Bounds:
    """min(max(x, low), high) for two bounds, of which either may be missing."""
    least = x if low is None else greater(x, low)
    return least if high is None else lesser(least, high)


def rectified(x: Bounds, slope: Bounds) -> Bounds:
    """x for x >= 0, else x * slope, channel by channel."""
    return x.relu() | -(-x).relu() * slope  # min(x, 0) on the grid of x, which may be coarser than 1


def _greater(a: Interval, b: Interval) -> Interval:
    a, b = align(a, b)
    return Interval(max(a.lo, b.lo), max(a.hi, b.hi), a.frac_bits)


def align(a: Interval, b: Interval) -> tuple[Interval, Interval]:
    """Both on the finer of the two grids."""
    grid = max(a.frac_bits, b.frac_bits)
    return a.at(grid), b.at(grid)


def hull(intervals: Iterable[Interval]) -> Interval:
    """The smallest interval on one grid that holds all of one or more intervals."""
    found = tuple(intervals)
    grid = max(interval.frac_bits for interval in found)
    lows, highs = zip(*((interval.lo << grid - interval.frac_bits, interval.hi << grid - interval.frac_bits) for interval in found), strict=True)
    return Interval(min(lows), max(highs), grid)
