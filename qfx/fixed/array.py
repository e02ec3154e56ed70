"""Cast on numpy arrays: equal to ``reference.py`` on every input, fast enough to run whole models.

The words here are bit patterns in int64. A right shift keeps the round bit (the first dropped bit) and the sticky bit (whether any other dropped bit
is set); a left shift drops high bits and finds overflow by comparing the raw with the shifted bounds, so that nothing needs more than 64 bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import DataError, ExactnessError
from .type import FixedType, OMode, QMode

MAX_ARRAY_WIDTH = 63
"""The widest target: every raw, signed or not, is an int64."""

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Shift = Int64Array
"""How far to shift, never negative: one amount for all (shape ()), or one per element."""

_SIGNIFICAND_BITS = 53


def cast_raw_array(raw: npt.NDArray[np.int64], frac_bits: int | npt.NDArray[np.int64], to: FixedType) -> Int64Array:
    """The raws, in ``to``, of the numbers ``raw * 2**-frac_bits``; any shape, which is kept, and a new array.

    ``raw`` is int64, ``frac_bits`` any integer, or integers that broadcast against it. Equal to ``reference.cast_raw`` element by element. Raises
    ExactnessError if ``to`` is wider than 63 bits and DataError if ``raw`` is not int64.

    >>> cast_raw_array(np.array([-6, -5, 5, 6, 799]), 2, FixedType(8, 8, o=OMode.SAT, q=QMode.RND_CONV)).tolist()
    [-2, -1, 1, 2, 127]
    """
    _check_target(to)
    _check_raws(raw, "cast_raw_array")
    flat = raw.reshape(-1)
    if isinstance(frac_bits, np.ndarray) and frac_bits.ndim:
        shift = np.broadcast_to(frac_bits - to.frac_bits, raw.shape).reshape(-1)
        right = shift > 0
        cast = np.empty_like(flat)
        cast[right] = _cast_right(flat[right], shift[right], to)
        cast[~right] = _cast_left(flat[~right], -shift[~right], to)
        return cast.reshape(raw.shape)
    by = int(frac_bits) - to.frac_bits
    amount = np.asarray(abs(by), dtype=np.int64)
    return (_cast_right(flat, amount, to) if by > 0 else _cast_left(flat, amount, to)).reshape(raw.shape)


def cast_float_array(value: npt.NDArray[np.floating], to: FixedType) -> Int64Array:
    """The raws, in ``to``, of float32 or float64 numbers, each taken as the exact number that it is; any shape, which is kept.

    Equal to ``reference.cast_float`` element by element, subnormals and 1e300 included. Raises DataError for NaN or infinity (it names the flat index
    of the first) and for another dtype, ExactnessError if ``to`` is wider than 63 bits.

    >>> cast_float_array(np.array([0.49999999999999994, 0.5, -0.5]), FixedType(8, 8, q=QMode.RND)).tolist()
    [0, 1, 0]
    """
    _check_target(to)
    if value.dtype not in (np.float32, np.float64):
        raise DataError(f"values have dtype {value.dtype}", where="cast_float_array", remedy="convert the data to float32 or float64 first")
    flat = value.reshape(-1).astype(np.float64)  # exact for float32
    finite = np.isfinite(flat)
    if not finite.all():
        index = int(np.argmin(finite))
        raise DataError(f"element {index} (row-major) is {flat[index]}", remedy="remove NaN and infinity from the data")
    fraction, exponent = np.frexp(flat)
    significand = np.ldexp(fraction, _SIGNIFICAND_BITS).astype(np.int64)  # an integer: value == significand * 2**(exponent - 53)
    shift = _SIGNIFICAND_BITS - exponent.astype(np.int64) - to.frac_bits
    right = shift > 0
    if right.all():
        return _cast_right(significand, shift, to).reshape(value.shape)
    cast = np.empty_like(significand)
    cast[right] = _cast_right(significand[right], shift[right], to)
    left = ~right
    cast[left] = _cast_left(significand[left], -shift[left], to)
    return cast.reshape(value.shape)


def to_float(raw: npt.NDArray[np.int64], frac_bits: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The values ``raw * 2**-frac_bits`` as float64, exact; any shape, which is kept. ``frac_bits`` broadcasts against it.

    ``raw`` is int64. Raises ExactnessError, naming the first offender, if a raw needs more than 53 significant bits (trailing zeros are free) or a
    value leaves the range of normal float64 numbers; DataError if ``raw`` is not int64.

    >>> to_float(np.array([-3, 1 << 60]), 1).tolist()
    [-1.5, 5.764607523034235e+17]
    """
    _check_raws(raw, "to_float")
    magnitude = np.abs(raw.reshape(-1)).view(np.uint64)  # 2**63 for -2**63
    lowest_bit = np.maximum(magnitude & (~magnitude + np.uint64(1)), np.uint64(1))
    _refuse_inexact(magnitude // lowest_bit >> np.uint64(_SIGNIFICAND_BITS) != 0, raw, "needs more than 53 bits")
    whole = np.asarray(raw.astype(np.float64))
    with np.errstate(over="ignore", under="ignore"):
        value: npt.NDArray[np.float64] = np.asarray(np.ldexp(whole, -np.asarray(frac_bits)))
    normal = np.isfinite(value) & (np.abs(value) >= np.finfo(np.float64).tiny)
    _refuse_inexact((whole != 0) & ~normal, raw, "times its power of two leaves the range of float64")
    return value


def _refuse_inexact(bad: BoolArray, raw: npt.NDArray[np.int64], complaint: str) -> None:
    if bad.any():
        index = int(np.argmax(bad))
        raise ExactnessError(f"raw {raw.reshape(-1)[index]} at element {index} {complaint}", remedy="keep it as an integer, or cast to fewer bits")


def _check_raws(raw: npt.NDArray[np.int64], where: str) -> None:
    if raw.dtype != np.int64:
        raise DataError(f"raws have dtype {raw.dtype}", where=where, remedy="raws are int64 arrays")


def _check_target(to: FixedType) -> None:
    if to.width > MAX_ARRAY_WIDTH:
        raise ExactnessError(f"{to} is wider than {MAX_ARRAY_WIDTH} bits", remedy="use qfx.fixed.reference for words that int64 cannot hold")


def _cast_right(raw: Int64Array, shift: Shift, to: FixedType) -> Int64Array:
    """The cast of ``raw * 2**-shift`` measured in the target's least significant bits; shift >= 1."""
    floor: Int64Array = raw >> np.minimum(shift, 63)  # 63 sign bits are as good as more
    rounded = floor if to.q is QMode.TRN else floor + _increment(raw, floor, shift, to.q)
    if to.o in (OMode.SAT, OMode.SAT_SYM):
        return np.clip(rounded, to.min_raw, to.max_raw)
    over, under = rounded > to.max_raw, rounded < to.min_raw
    lost_bit = floor >> to.width & 1  # unrounded: see overflow_raw in reference.py
    return _overflow(rounded, over, under, lost_bit, to)


def _increment(raw: Int64Array, floor: Int64Array, shift: Shift, q: QMode) -> Int64Array:
    """What rounding adds to the floor: 0 or 1."""
    below: Int64Array = np.minimum(shift, 65) - 1  # how many bits lie below the round bit; 64 are as good as more
    round_bit: Int64Array = raw >> np.minimum(below, 63) & 1
    if q is QMode.RND:
        return round_bit
    below_mask = np.where(below > 63, np.int64(-1), ~(np.int64(-1) << np.minimum(below, 63)))
    sticky = ((raw & below_mask) != 0).astype(np.int64)
    negative = (raw < 0).astype(np.int64)
    increment: Int64Array
    if q is QMode.RND_ZERO:
        increment = round_bit & (sticky | negative)
    elif q is QMode.RND_MIN_INF:
        increment = round_bit & sticky
    elif q is QMode.RND_INF:
        increment = round_bit & (sticky | ~negative)
    elif q is QMode.RND_CONV:
        increment = round_bit & (sticky | floor)
    else:  # TRN_ZERO
        increment = negative & (round_bit | sticky)
    return increment


def _cast_left(raw: Int64Array, shift: Shift, to: FixedType) -> Int64Array:
    """The cast of ``raw * 2**shift`` measured in the target's least significant bits; shift >= 0. Nothing is rounded; high bits may be lost."""
    near: Int64Array = np.minimum(shift, 63)
    kept: Int64Array = raw << near  # modulo 2**64; by 63 or by more, the target's bits (63 at most) are all 0
    over = raw > np.int64(to.max_raw) >> near
    under = raw < -(np.int64(-to.min_raw) >> near)
    # Bit number `width` of raw << shift is bit number `width - shift` of raw.
    lost_bit = np.where(shift > to.width, np.int64(0), raw >> np.maximum(to.width - shift, 0) & 1)
    return _overflow(kept, over, under, lost_bit, to)


def _overflow(word: Int64Array, over: BoolArray, under: BoolArray, lost_bit: Int64Array, to: FixedType) -> Int64Array:
    """``word`` (right modulo 2**64) brought into the target's range; ``over`` and ``under`` say which elements lie above and below it."""
    if to.o in (OMode.SAT, OMode.SAT_SYM):
        return np.where(over, np.int64(to.max_raw), np.where(under, np.int64(to.min_raw), word))
    if to.o is OMode.SAT_ZERO:
        return np.where(over | under, np.int64(0), word)
    top = to.width - 1
    bits = word
    if to.o is OMode.WRAP and to.n > 0:
        bits = np.where(over | under, _saturate_bits(bits, under, to), bits)
    elif to.o is OMode.WRAP_SM:
        sign = lost_bit != 0 if to.n == 0 else under
        # The bit that decides is the top one that wraps; it should equal the sign, or differ from it when it lies below saturated bits.
        deciding = (bits >> (to.width - max(to.n, 1)) & 1) != 0
        fold = deciding != sign if to.n <= 1 else deciding == sign
        folded = np.where(fold, ~bits, bits)
        bits = np.where(over | under, folded if to.n == 0 else _saturate_bits(folded, under, to), bits)
    if to.signed:
        return (bits << (63 - top)) >> (63 - top)
    return bits & to.max_raw


def _saturate_bits(bits: Int64Array, under: BoolArray, to: FixedType) -> Int64Array:
    """The N high bits of each word set to those of the bound that was passed; unsigned words take ones whichever it was, as the headers do."""
    high = ((1 << to.n) - 1) << (to.width - to.n)
    if not to.signed:
        return bits | high
    sign = 1 << (to.width - 1)
    return bits & ~high | np.where(under, np.int64(sign), np.int64(high ^ sign))
