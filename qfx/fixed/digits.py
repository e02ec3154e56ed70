"""Integers as sums of few powers of two: what lets a constant multiply by shifts and additions alone.

Two forms. *K-hot*: the ones of the magnitude in binary, all with the sign of the number. *CSD*, the canonical signed digits: digits -1, 0, 1 of which
no two neighbours are both nonzero; every integer has exactly one such form, and no signed-digit form has fewer nonzero digits (Reitwiesner, "Binary
Arithmetic", Advances in Computers 1, 1960; signed digits in general: Avizienis, IRE Trans. EC-10, 1961). A third of the digits of a random number
are nonzero in CSD, half of them in binary.

A nonzero digit is written ``(sign, shift)`` and stands for ``sign * 2**shift``; a number's digits are listed from the greatest shift to the least.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Digit = tuple[int, int]
"""(sign, shift) with sign -1 or 1 and shift >= 0."""


def csd(value: int) -> tuple[Digit, ...]:
    """The canonical signed digits of any integer; zero has none.

    >>> csd(7), csd(-6), csd(0)
    (((1, 3), (-1, 0)), ((-1, 3), (1, 1)), ())
    """
    digits: list[Digit] = []
    shift = 0
    while value:
        if value & 1:
            sign = 2 - (value & 3)  # 1 if the number ends in 01, -1 if it ends in 11: what is left is a multiple of 4
            digits.append((sign, shift))
            value -= sign
        value >>= 1
        shift += 1
    return tuple(reversed(digits))


def k_hot(value: int) -> tuple[Digit, ...]:
    """The ones of the magnitude in binary, with the sign of the number; zero has none.

    >>> k_hot(6), k_hot(-1)
    (((1, 2), (1, 1)), ((-1, 0),))
    """
    sign, magnitude = (-1, -value) if value < 0 else (1, value)
    return tuple((sign, shift) for shift in reversed(range(magnitude.bit_length())) if magnitude >> shift & 1)


def value_of(digits: Iterable[Digit]) -> int:
    """The integer that the digits stand for: the inverse of ``csd`` and ``k_hot``.

    >>> value_of(csd(-1234567))
    -1234567
    """
    return sum(sign << shift for sign, shift in digits)


def csd_arrays(values: IntArray) -> tuple[IntArray, IntArray]:
    """(signs, shifts) of the canonical signed digits of int64 numbers, each of shape (*values.shape, K).

    K is the greatest number of digits that one of them has. Shifts fall along the last axis; a number with fewer digits ends in signs of 0 (and
    shifts of 0).

    >>> signs, shifts = csd_arrays(np.array([7, -4]))
    >>> signs.tolist(), shifts.tolist()
    ([[1, -1], [-1, 0]], [[3, 0], [2, 0]])
    """
    distinct, place = np.unique(np.asarray(values, dtype=np.int64), return_inverse=True)
    forms = [csd(value) for value in distinct.tolist()]
    count = max(map(len, forms), default=0)
    signs, shifts = np.zeros((2, len(forms), count), dtype=np.int64)
    for i, form in enumerate(forms):
        for k, (sign, shift) in enumerate(form):
            signs[i, k], shifts[i, k] = sign, shift
    shape = (*np.shape(values), count)
    return signs[place].reshape(shape), shifts[place].reshape(shape)


def digit_count(values: IntArray) -> IntArray:
    """The number of nonzero canonical signed digits of each int64 number: the shifts that its multiplication needs.

    >>> digit_count(np.array([0, 64, 7, 85])).tolist()
    [0, 1, 2, 4]
    """
    signs, _ = csd_arrays(values)
    counts: IntArray = np.asarray(np.count_nonzero(signs, axis=-1), dtype=np.int64)
    return counts
