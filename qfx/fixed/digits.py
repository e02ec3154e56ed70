"""Integers as sums of few powers of two: what lets a constant multiply by shifts and additions alone.

Two forms. *K-hot*: the ones of the magnitude in binary, all with the sign of the number. *CSD*, the canonical signed digits: digits -1, 0, 1 of which
no two neighbours are both nonzero; every integer has exactly one such form, and no signed-digit form has fewer nonzero digits (Reitwiesner, "Binary
Arithmetic", Advances in Computers 1, 1960; signed digits in general: Avizienis, IRE Trans. EC-10, 1961). A third of the digits of a random number
are nonzero in CSD, half of them in binary.

A nonzero digit is written ``(sign, shift)`` and stands for ``sign * 2**shift``; a number's digits are listed from the greatest shift to the least.

Of numbers with at most K digits in one of the two forms ("signed", "ones") ``few_digits`` lists all that a word holds. ``nearest`` finds the one that
is nearest to a real number, ``greedy`` takes one power of two after the other. Additive powers of two (Li et al., "Additive Powers-of-Two
Quantization", 2020) are numbers of the second form.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import comb
from typing import Literal

import numpy as np
import numpy.typing as npt

DigitForm = Literal["signed", "ones"]
"""How digits are counted: the nonzero ones of the canonical signed form (CSD), or the ones of the magnitude (K-hot)."""

MOST_NUMBERS = 1 << 19
"""The most numbers that ``few_digits`` lists."""

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
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


def most_digits(width: int, signed: bool, form: DigitForm = "signed") -> int:
    """The greatest number of digits that a number of the word has.

    >>> most_digits(8, signed=True), most_digits(8, signed=False), most_digits(8, signed=True, form="ones")
    (4, 5, 7)
    """
    if form == "ones":
        return max(width - signed, 1)
    return (width + 1) // 2 if signed else width // 2 + 1


def count_bound(width: int, signed: bool, count: int, form: DigitForm = "signed") -> int:
    """No less than how many numbers ``few_digits`` lists, and at most about twice as many."""
    places = width + (not signed)
    if form == "ones":
        return sum(comb(width - signed, k) << signed for k in range(count + 1))
    return sum(comb(places - k + 1, k) << k for k in range(count + 1)) >> (not signed)


@lru_cache(maxsize=64)
def few_digits(width: int, signed: bool, count: int, form: DigitForm = "signed", symmetric: bool = False) -> IntArray:
    """The integers of a word of ``width`` bits that have at most ``count`` digits, ascending; not to be written to.

    ``symmetric``: without the least number of a signed word (AP_SAT_SYM). The caller keeps ``count_bound`` within MOST_NUMBERS.

    >>> few_digits(4, True, 1).tolist(), few_digits(3, False, 2, "ones").tolist()
    ([-8, -4, -2, -1, 0, 1, 2, 4], [0, 1, 2, 3, 4, 5, 6])
    """
    low, high = (-(1 << width - 1) + symmetric, (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    powers = np.int64(1) << np.arange(width + 1, dtype=np.int64)  # the greatest number may be a power beyond the word, less something
    if form == "signed":
        powers = np.concatenate([powers, -powers])
    found = np.zeros(1, dtype=np.int64)
    last = found
    for k in range(1, count + 1):
        # Those of exactly k digits, each made of one of k - 1 digits and a smaller power; whatever was found before has a shorter form.
        sums = np.unique((last[:, None] + powers).ravel())
        last = np.setdiff1d(sums[abs(sums) <= 1 << width], found, assume_unique=True)
        if form == "ones":
            last = last[_ones(last) == k]
        found = np.union1d(found, last)
    if form == "ones" and signed:
        found = np.union1d(found, -found)
    found = found[(found >= low) & (found <= high)]
    found.flags.writeable = False
    return found


def _ones(values: IntArray) -> IntArray:
    """How many ones each number, which is not negative, has in binary."""
    counts = np.zeros(values.shape, dtype=np.int64)
    rest = values.copy()
    while rest.any():
        counts += rest & 1
        rest >>= 1
    return counts


def nearest(values: FloatArray, numbers: IntArray) -> IntArray:
    """For each real number the nearest of ``numbers`` (ascending); the greater of two that are equally near, as AP_RND rounds. The optimal encoder.

    >>> nearest(np.array([3.0, -3.0, 90.0, 100.0]), few_digits(8, True, 1)).tolist()
    [4, -2, 64, 64]
    """
    middles = (numbers[1:] + numbers[:-1]) / 2  # exact: numbers have 37 bits at most
    return numbers[np.searchsorted(middles, values, side="right")]


def greedy(values: FloatArray, width: int, signed: bool, count: int, form: DigitForm = "signed", symmetric: bool = False) -> IntArray:
    """One power of two after the other, each the nearest to what is left (0 where that is nearer; of two the one of greater magnitude), then the end
    of the word where that was left. Of the form "ones" each but the last is no greater than what is left, and all have the number's sign.

    As near as ``nearest``, but for ties.
    """
    low, high = (-(1 << width - 1) + symmetric, (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    values = np.clip(np.asarray(values, dtype=np.float64), low, high)
    size, result = np.abs(values), np.zeros(values.shape)
    for k in range(count):
        left = size - result
        exponents = np.floor(np.log2(np.maximum(np.abs(left), 0.25)))
        power = np.exp2(exponents)
        if form == "signed" or k == count - 1:
            power = np.where(np.abs(left) >= 1.5 * power, 2 * power, power)
        power = np.where(power < 1, np.where(np.abs(left) >= 0.5, 1.0, 0.0), power)
        if form == "ones":
            power = np.where(left > 0, power, 0)
        result = result + np.sign(left) * power
    raw = (np.sign(values) * result).astype(np.int64)
    inside = few_digits(width, signed, count, form, symmetric)
    return np.where((raw < low) | (raw > high), nearest(np.clip(raw, low, high).astype(np.float64), inside), raw)
