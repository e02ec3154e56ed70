"""Signed digits: exact, canonical and as few as there can be."""

from __future__ import annotations

from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfx.fixed.digits import csd, csd_arrays, digit_count, k_hot, value_of

INTEGERS = range(-5000, 5001)


def is_canonical(digits: tuple[tuple[int, int], ...]) -> bool:
    """Signs of one, shifts that fall by two or more."""
    shifts = [shift for _, shift in digits]
    return all(sign in (-1, 1) for sign, _ in digits) and all(a - b >= 2 for a, b in pairwise(shifts))


def test_every_integer_of_a_range_is_given_back() -> None:
    for value in INTEGERS:
        assert value_of(csd(value)) == value
        assert value_of(k_hot(value)) == value
        assert is_canonical(csd(value))


@given(st.integers())
def test_any_integer_is_given_back(value: int) -> None:
    assert value_of(csd(value)) == value_of(k_hot(value)) == value
    assert is_canonical(csd(value))
    assert len(csd(value)) <= len(k_hot(value))


def test_the_checks_see_wrong_digits() -> None:
    assert not is_canonical(((1, 1), (1, 0)))
    assert not is_canonical(((2, 3),))
    assert value_of(((1, 3), (1, 0))) != 7


def test_no_form_has_fewer_digits() -> None:
    """All sums of up to three signed powers of two, the least number of terms for each: brute force."""
    least = {0: 0}
    for count in (1, 2, 3):
        for shifts in combinations(range(10), count):
            for signs in product((-1, 1), repeat=count):
                least.setdefault(sum(sign << shift for sign, shift in zip(signs, shifts, strict=True)), count)
    for value in range(-128, 129):
        assert len(csd(value)) == least.get(value, 4)


def test_k_hot_counts_the_ones_and_keeps_the_sign() -> None:
    for value in INTEGERS:
        digits = k_hot(value)
        assert len(digits) == bin(value).count("1")
        assert {sign for sign, _ in digits} <= {1 if value > 0 else -1}


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4)])
def test_arrays_hold_the_digits_of_their_numbers(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).integers(-(2**20), 2**20, shape)
    signs, shifts = csd_arrays(values)
    assert signs.shape == shifts.shape == (*shape, max(len(csd(v)) for v in values.reshape(-1).tolist()))
    assert np.array_equal((signs << shifts).sum(axis=-1), values)
    assert np.array_equal(digit_count(values), np.abs(signs).sum(axis=-1))
    assert [len(csd(v)) for v in values.reshape(-1).tolist()] == digit_count(values).reshape(-1).tolist()


def test_arrays_of_extremes() -> None:
    values = np.array([-(2**63), 2**63 - 1, 0, -1])
    assert digit_count(values).tolist() == [1, 2, 0, 1]
    assert csd(2**63 - 1) == ((1, 63), (-1, 0))
    assert csd_arrays(np.zeros((2, 3), dtype=np.int64))[0].shape == (2, 3, 0)
    assert csd_arrays(np.zeros(0, dtype=np.int64))[0].shape == (0, 0)
