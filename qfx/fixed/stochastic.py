"""Stochastic rounding, seeded: a number goes up with the probability of how far up it lies. Definition, numpy and torch give the same bits.

raw = floor(value * 2**F + r / 2**24), r an integer of 24 random bits: what hardware does that adds random bits below the last place and cuts. r of
the number at place ``index`` is made of a seed and the place alone, by SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
Generators", 2014): r = mix(seed + (index + 1) * 0x9E3779B97F4A7C15) >> 40. Then overflow, as the type says.

Source of its use in training: Gupta et al., "Deep Learning with Limited Numerical Precision", 2015. What it does in expectation: nothing is lost,
where rounding to nearest loses every step that is smaller than half a last place.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError
from qfx.fixed import reference
from qfx.fixed.type import FixedType

RANDOM_BITS = 24
_MASK = (1 << 64) - 1
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def random_bits(seed: int, index: int) -> int:
    """r: RANDOM_BITS bits.

    >>> random_bits(0, 0), random_bits(0, 1), random_bits(1, 0)
    (14819496, 7239838, 9505325)
    """
    z = (seed + (index + 1) * _GOLDEN) & _MASK
    z = ((z ^ z >> 30) * _FIRST) & _MASK
    z = ((z ^ z >> 27) * _SECOND) & _MASK
    return (z ^ z >> 31) >> 64 - RANDOM_BITS


def cast_word(value: Fraction | float | int, kind: FixedType, seed: int, index: int) -> int:
    """The raw of ``value``, rounded stochastically, then overflow as in ``kind``. The definition; ``kind.q`` does not matter.

    >>> [cast_word(0.25, FixedType.parse("ap_fixed<8,8,AP_TRN,AP_SAT>"), 0, index) for index in range(8)]
    [1, 0, 0, 1, 0, 0, 0, 1]
    """
    scaled = Fraction(value) * Fraction(2) ** kind.frac_bits + Fraction(random_bits(seed, index), 1 << RANDOM_BITS)
    return reference.overflow_raw(scaled.numerator // scaled.denominator, kind)


def random_array(seed: int, count: int) -> npt.NDArray[np.int64]:
    """``random_bits`` of the places 0 to ``count`` - 1."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed & _MASK) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        z = (z ^ z >> np.uint64(30)) * np.uint64(_FIRST)
        z = (z ^ z >> np.uint64(27)) * np.uint64(_SECOND)
    return ((z ^ z >> np.uint64(31)) >> np.uint64(64 - RANDOM_BITS)).astype(np.int64)


def round_array(values: npt.ArrayLike, frac_bits: int | npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """The integers that float64 ``values`` on the grid of 2**-``frac_bits`` become, not yet cast to a width; places in row-major order. Exact for
    every number below 2**62 in magnitude; DataError for others, NaN among them."""
    scaled = np.ldexp(np.asarray(values, dtype=np.float64), frac_bits)
    if not (np.abs(scaled) < 2.0**62).all():
        raise DataError("NaN, infinity, or a number beyond 62 bits", where="stochastic rounding", remedy="check the data, or use a coarser grid")
    random = random_array(seed, scaled.size).reshape(scaled.shape)
    whole = np.trunc(scaled)
    rest = np.abs(scaled - whole) * 2.0**RANDOM_BITS  # exact: what is behind the point, times a power of two
    up = np.where(scaled < 0, np.where(rest > random, -1, 0), rest >= 2.0**RANDOM_BITS - random)
    return np.asarray(whole.astype(np.int64) + up.astype(np.int64))  # of a single number numpy makes a scalar
