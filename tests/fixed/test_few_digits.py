"""Numbers of few digits: listed, counted, and found, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from qfx.fixed.digits import MOST_NUMBERS, DigitForm, count_bound, csd, few_digits, greedy, k_hot, most_digits, nearest
from qfx.fixed.type import FixedType

FORMS: tuple[DigitForm, ...] = ("signed", "ones")
WORDS = [(width, signed, form) for width in range(1, 11) for signed in (True, False) for form in FORMS]


def word(width: int, signed: bool) -> range:
    type_ = FixedType(width, width, signed)
    return range(type_.min_raw, type_.max_raw + 1)


@pytest.mark.parametrize(("width", "signed", "form"), WORDS)
def test_every_number_of_few_digits_is_listed(width: int, signed: bool, form: DigitForm) -> None:
    digits = csd if form == "signed" else k_hot
    counts = {value: len(digits(value)) for value in word(width, signed)}
    assert max(counts.values()) == most_digits(width, signed, form)
    for count in range(1, most_digits(width, signed, form) + 1):
        expected = [value for value in counts if counts[value] <= count]
        assert few_digits(width, signed, count, form).tolist() == expected
        assert len(expected) <= count_bound(width, signed, count, form) <= 2 * len(expected) + 2
        symmetric = [value for value in expected if not signed or value != -(1 << width - 1)]
        assert few_digits(width, signed, count, form, symmetric=True).tolist() == symmetric


@pytest.mark.parametrize(("width", "signed", "form"), WORDS)
def test_the_encoders_find_the_nearest(width: int, signed: bool, form: DigitForm) -> None:
    """On every eighth of a unit, ends and what lies beyond them included. The greedy one may only differ in which of two it takes."""
    inside = word(width, signed)
    values = np.arange(8 * inside.start - 20, 8 * inside.stop + 12) / 8
    for count in range(1, most_digits(width, signed, form) + 1):
        numbers = few_digits(width, signed, count, form)
        errors = np.abs(values[:, None] - numbers)
        least = errors.min(axis=1)
        greater = numbers[numbers.size - 1 - errors[:, ::-1].argmin(axis=1)]
        assert np.array_equal(nearest(values, numbers), greater)
        simple = greedy(values, width, signed, count, form)
        assert np.isin(simple, numbers).all()
        assert np.array_equal(np.abs(simple - values), least)


def test_all_digits_are_the_whole_word() -> None:
    for width, signed, form in WORDS:
        assert few_digits(width, signed, most_digits(width, signed, form), form).tolist() == list(word(width, signed))


@pytest.mark.parametrize(("width", "signed", "count", "form"), [(32, True, 3, "signed"), (32, False, 4, "ones"), (16, True, 2, "signed")])
def test_long_words(width: int, signed: bool, count: int, form: DigitForm) -> None:
    numbers = few_digits(width, signed, count, form)
    assert len(numbers) <= count_bound(width, signed, count, form) < MOST_NUMBERS
    digits = csd if form == "signed" else k_hot
    assert all(len(digits(value)) <= count for value in numbers[::97].tolist())
    values = np.random.default_rng(0).uniform(numbers[0] - 9, numbers[-1] + 9, size=2000)
    found = nearest(values, numbers)
    assert np.array_equal(np.abs(found - values), np.abs(greedy(values, width, signed, count, form) - values))


def test_the_list_is_not_to_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        few_digits(8, True, 2)[0] = 1
