"""The definition of Cast, in Python integers of any size: slow, obvious, and what every other executor must equal.

A cast is two steps, in this order: ``round_raw`` takes the exact value to an integer multiple of the target's least significant bit, then
``overflow_raw`` takes that integer into the target's range. Source: AMD UG1399, "Quantization Modes" and "Overflow Modes"; where the guide is
silent the assignment operator of the vendor's simulation headers decides (``tests/fixed/test_vendor.py`` compares with it). The result depends on
the value alone, never on the type that the value was declared with.
"""

from __future__ import annotations

import math
from fractions import Fraction

from qfx.errors import DataError
from qfx.fixed.type import FixedType, OMode, QMode


def cast_raw(raw: int, frac_bits: int, to: FixedType) -> int:
    """The raw, in ``to``, of the number ``raw * 2**-frac_bits``.

    >>> cast_raw(799, 2, FixedType(8, 4, q=QMode.RND, o=OMode.SAT))  # 199.75 is too much for [-8, 8)
    127
    """
    shift = to.frac_bits - frac_bits
    return _cast_ratio(raw << max(shift, 0), 1 << max(-shift, 0), to)


def cast_fraction(value: Fraction, to: FixedType) -> int:
    """The raw, in ``to``, of any rational number.

    >>> cast_fraction(Fraction(799, 100), FixedType(8, 4, q=QMode.RND))  # 7.99 rounds to 8, which wraps
    -128
    """
    scaled = value / to.lsb
    return _cast_ratio(scaled.numerator, scaled.denominator, to)


def cast_float(value: float, to: FixedType) -> int:
    """The raw, in ``to``, of a float, taken as the exact number that it is. Raises DataError for NaN and infinity."""
    if not math.isfinite(value):
        raise DataError(f"{value} has no fixed-point value", remedy="remove NaN and infinity from the data")
    return cast_fraction(Fraction(value), to)


def _cast_ratio(numerator: int, denominator: int, to: FixedType) -> int:
    rounded_raw = round_raw(numerator, denominator, to.q)
    return overflow_raw(rounded_raw, to, floor_raw=numerator // denominator)


def round_raw(numerator: int, denominator: int, q: QMode) -> int:
    """The integer that ``numerator / denominator`` (denominator > 0) rounds to.

    >>> [round_raw(-5, 2, q) for q in (QMode.RND, QMode.RND_INF, QMode.RND_CONV, QMode.TRN, QMode.TRN_ZERO)]  # -2.5
    [-2, -3, -2, -3, -2]
    """
    floor, rest = divmod(numerator, denominator)
    if rest == 0:
        return floor
    negative = numerator < 0
    if q is QMode.TRN:
        return floor
    if q is QMode.TRN_ZERO:
        return floor + 1 if negative else floor
    if 2 * rest != denominator:
        return floor + 1 if 2 * rest > denominator else floor
    up_on_tie = {
        QMode.RND: True,
        QMode.RND_ZERO: negative,
        QMode.RND_MIN_INF: False,
        QMode.RND_INF: not negative,
        QMode.RND_CONV: floor % 2 == 1,
    }
    return floor + 1 if up_on_tie[q] else floor


def overflow_raw(rounded_raw: int, to: FixedType, *, floor_raw: int | None = None) -> int:
    """``rounded_raw`` brought into the range of ``to``; numbers in range stay.

    ``floor_raw`` (``rounded_raw`` if left out) is the number before rounding, floored. AP_WRAP_SM with N = 0 alone looks at it: the vendor's headers
    take the "lost bit", the least significant of the deleted bits, from the unrounded source.

    >>> [overflow_raw(9, FixedType(4, 4, o=o)) for o in (OMode.SAT, OMode.SAT_ZERO, OMode.WRAP, OMode.WRAP_SM)]  # range -8 .. 7
    [7, 0, -7, 6]
    """
    if to.min_raw <= rounded_raw <= to.max_raw:
        return rounded_raw
    if to.o in (OMode.SAT, OMode.SAT_SYM):
        return to.max_raw if rounded_raw > 0 else to.min_raw
    if to.o is OMode.SAT_ZERO:
        return 0
    bits = rounded_raw % (1 << to.width)  # the bit pattern that is kept
    if to.o is OMode.WRAP:
        bits = _wrap(bits, rounded_raw < 0, to)
    else:
        lost_bit = ((rounded_raw if floor_raw is None else floor_raw) >> to.width) % 2 == 1
        bits = _wrap_sign_magnitude(bits, rounded_raw < 0, lost_bit, to)
    return bits - (1 << to.width) if to.signed and bits >> (to.width - 1) else bits


def _wrap(bits: int, negative: bool, to: FixedType) -> int:
    """AP_WRAP: with N > 0 the N high bits become those of the bound that was passed, the others wrap."""
    if to.n == 0:
        return bits
    if not to.signed:
        return _saturate_high(bits, to.width, to.n, True)  # the headers set ones whichever bound was passed
    bits = _saturate_high(bits, to.width - 1, to.n - 1, not negative)
    return _put_bit(bits, to.width - 1, negative)


def _wrap_sign_magnitude(bits: int, negative: bool, lost_bit: bool, to: FixedType) -> int:
    """AP_WRAP_SM: the kept bits are inverted where the sign would otherwise be wrong, so that the number folds back instead of jumping."""
    top = to.width - 1
    inverted = bits ^ ((1 << to.width) - 1)
    if to.n == 0:
        return bits if _bit(bits, top) == lost_bit else inverted
    if to.n == 1:
        bits = bits if _bit(bits, top) == negative else inverted
    else:
        bits = inverted if _bit(bits, to.width - to.n) == negative else bits
        bits = _saturate_high(bits, top, to.n - 1, not negative)
    return _put_bit(bits, top, negative)


def _bit(bits: int, index: int) -> bool:
    return bits >> index & 1 == 1


def _put_bit(bits: int, index: int, value: bool) -> int:
    return bits & ~(1 << index) | value << index


def _saturate_high(bits: int, end: int, count: int, value: bool) -> int:
    """Bits ``end - count`` to ``end - 1`` all set to ``value``."""
    for index in range(end - count, end):
        bits = _put_bit(bits, index, value)
    return bits
