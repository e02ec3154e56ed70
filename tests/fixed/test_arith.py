"""Interval: every result interval holds every result, and no more than it must."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from fixed_strategies import fixed_types, intervals
from hypothesis import given
from hypothesis import strategies as st

from qfx.errors import ExactnessError
from qfx.fixed.arith import Bounds, Channels, Interval, align, channelwise, hull
from qfx.fixed.reference import cast_fraction
from qfx.fixed.type import FixedType


def value(raw: int, interval: Interval) -> Fraction:
    return raw / Fraction(2) ** interval.frac_bits


def holds(interval: Interval, number: Fraction) -> bool:
    """Whether the number lies on the grid and within the bounds."""
    raw = number * Fraction(2) ** interval.frac_bits
    return raw.denominator == 1 and interval.lo <= raw <= interval.hi


def ends(interval: Interval) -> set[Fraction]:
    return {value(interval.lo, interval), value(interval.hi, interval)}


def members(interval: Interval) -> st.SearchStrategy[Fraction]:
    return st.one_of(st.sampled_from([interval.lo, interval.hi]), st.integers(interval.lo, interval.hi)).map(lambda raw: value(raw, interval))


@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul])
@given(st.data())
def test_binary_operators_hold_every_result_tightly(op: Callable[..., object], data: st.DataObject) -> None:
    a, b = data.draw(intervals()), data.draw(intervals())
    x, y = data.draw(members(a)), data.draw(members(b))
    result = op(a, b)
    assert isinstance(result, Interval)
    assert holds(result, op(x, y))
    assert ends(result) <= {op(p, q) for p in ends(a) for q in ends(b)}  # both bounds are reached


@given(st.data())
def test_hull_holds_both_tightly(data: st.DataObject) -> None:
    a, b = data.draw(intervals()), data.draw(intervals())
    assert holds(a | b, data.draw(members(a)))
    assert holds(a | b, data.draw(members(b)))
    assert ends(a | b) <= ends(a) | ends(b)
    assert (a | b).frac_bits == max(a.frac_bits, b.frac_bits)
    assert hull([a, b, a]) == a | b
    assert hull([a]) == a


@given(st.data())
def test_unary_operators_hold_every_result_tightly(data: st.DataObject) -> None:
    a = data.draw(intervals())
    x = data.draw(members(a))
    slope = data.draw(st.integers(-5, 0))
    shift = data.draw(st.integers(-5, 5))

    def leaky(number: Fraction) -> Fraction:
        return number if number >= 0 else number * Fraction(2) ** slope

    for result, function in (
        (-a, operator.neg),
        (a.relu(), lambda number: max(number, Fraction(0))),
        (a.leaky_relu(slope), leaky),
        (a.shifted(shift), lambda number: number * Fraction(2) ** shift),
        (a.at(a.frac_bits + 3), lambda number: number),
    ):
        assert holds(result, function(x))
        assert ends(result) == {function(end) for end in ends(a)}  # all of these are monotonic
    assert holds(a.with_zero(), x)
    assert holds(a.with_zero(), Fraction(0))
    assert ends(a.with_zero()) <= ends(a) | {Fraction(0)}


@given(st.data())
def test_clip_holds_every_result_tightly(data: st.DataObject) -> None:
    a, b, c = (data.draw(intervals()) for _ in range(3))
    low, high = sorted(((b.lo, b.frac_bits), (c.lo, c.frac_bits)), key=lambda pair: value(pair[0], Interval(0, 0, pair[1])))
    bounds = [Interval(raw, raw, frac_bits) for raw, frac_bits in (low, high)]
    x = data.draw(members(a))

    def clip(number: Fraction) -> Fraction:
        return min(max(number, *ends(bounds[0])), *ends(bounds[1]))

    result = a.clip(*bounds)
    assert holds(result, clip(x))
    assert ends(result) == {clip(end) for end in ends(a)}


@given(intervals(), st.integers(1, 9), st.data())
def test_times_is_a_sum(a: Interval, count: int, data: st.DataObject) -> None:
    assert holds(a.times(count), sum((data.draw(members(a)) for _ in range(count)), Fraction(0)))
    assert a.times(count) == sum((a for _ in range(count - 1)), a)


@given(intervals())
def test_width_is_the_least_that_holds_the_bounds(a: Interval) -> None:
    type_ = a.type()
    assert type_.width == a.width
    assert type_.frac_bits == a.frac_bits
    assert type_.signed == (a.lo < 0)
    assert type_.min_raw <= a.lo
    assert a.hi <= type_.max_raw
    for number in ends(a):
        assert cast_fraction(number, type_) * type_.lsb == number
    if a.width > 1:
        smaller = FixedType(a.width - 1, a.width - 1 - a.frac_bits, a.signed)
        assert a.lo < smaller.min_raw or smaller.max_raw < a.hi


@given(fixed_types(max_width=300))
def test_the_interval_of_a_type_needs_that_type(type_: FixedType) -> None:
    interval = Interval.of(type_)
    assert (interval.width, interval.signed, interval.frac_bits) == (type_.width, type_.signed, type_.frac_bits)


def test_magnitude_bits_is_the_least_significand() -> None:
    def significant(raw: int) -> int:
        return (abs(raw) // (raw & -raw)).bit_length() if raw else 0

    for hi in range(70):
        assert Interval(0, hi, 0).magnitude_bits == max(significant(raw) for raw in range(hi + 1))
        assert Interval(-hi, 0, 0).magnitude_bits == Interval(0, hi, 0).magnitude_bits


@pytest.mark.parametrize(("bits", "fits"), [(24, (True, True)), (25, (False, True)), (53, (False, True)), (54, (False, False))])
def test_floats_hold_as_many_bits_as_they_have(bits: int, fits: tuple[bool, bool]) -> None:
    for interval in (Interval(0, 1 << bits, 3), Interval(-(1 << bits), 0, 3), Interval((1 << bits) - 1, (1 << bits) - 1, 3)):
        assert (interval.fits_float32(), interval.fits_float64()) == fits
    below = Interval(0, (1 << (bits - 1)) + 1, 3)
    assert (below.fits_float32(), below.fits_float64()) == fits


@given(st.integers(-130, 130), st.integers(0, 1 << 24), st.booleans())
def test_a_number_that_fits_float32_is_normal_in_it(frac_bits: int, raw: int, negative: bool) -> None:
    interval = Interval(-raw, 0, frac_bits) if negative else Interval(0, raw, frac_bits)
    if interval.fits_float32() and raw:
        single = np.ldexp(np.float32(raw), -frac_bits)
        assert single.dtype == np.float32
        assert Fraction(float(single)) == value(raw, interval)
        assert abs(single) >= np.finfo(np.float32).tiny


def test_align_takes_the_finer_grid() -> None:
    assert align(Interval(-1, 2, 0), Interval(3, 3, 2)) == (Interval(-4, 8, 2), Interval(3, 3, 2))


def test_a_coarser_grid_is_refused() -> None:
    with pytest.raises(ExactnessError, match="3 fractional bits do not fit into 2"):
        Interval(0, 7, 3).at(2)
    with pytest.raises(ExactnessError):
        Interval(-1, 7, 3).leaky_relu(1)


def test_an_empty_interval_is_refused() -> None:
    with pytest.raises(ExactnessError, match="empty interval"):
        Interval(1, 0, 0)


# --- channels -------------------------------------------------------------------------------------------------------------------------


def bounds(count: int) -> st.SearchStrategy[Bounds]:
    """One interval, or one for each of ``count`` channels."""
    return st.one_of(intervals(), st.lists(intervals(), min_size=count, max_size=count).map(channelwise))


@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul, operator.or_])
@given(st.data())
def test_channels_are_computed_one_by_one(op: Callable[[Bounds, Bounds], Bounds], data: st.DataObject) -> None:
    a, b = data.draw(bounds(3)), data.draw(bounds(3))
    expected = [op(x, y) for x, y in zip(a.spread(3), b.spread(3), strict=True)]
    found = op(a, b)
    assert found == channelwise(expected)
    assert found.hull == hull(expected)
    assert found.fits_float64() == all(interval.fits_float64() for interval in expected) or isinstance(found, Interval)


@given(st.lists(intervals(), min_size=2, max_size=5))
def test_channels_need_what_the_worst_of_them_needs(channels: list[Interval]) -> None:
    made = channelwise(channels)
    if isinstance(made, Interval):
        assert len({interval.frac_bits for interval in channels}) == 1
        return
    assert made.magnitude_bits == max(interval.magnitude_bits for interval in channels)
    assert made.signed == any(interval.signed for interval in channels)
    signed = int(made.signed)
    for interval in channels:
        assert interval.lo >= -signed << (made.width - 1)
        assert interval.hi < 1 << (made.width - signed)
    for name, arguments in (("with_zero", ()), ("relu", ()), ("times", (3,)), ("shifted", (2,)), ("leaky_relu", (-2,)), ("__neg__", ())):
        assert getattr(made, name)(*arguments) == channelwise(getattr(interval, name)(*arguments) for interval in channels), name


def test_channels_on_one_grid_are_one_interval() -> None:
    assert channelwise([Interval(0, 3, 2), Interval(-5, 1, 2)]) == Interval(-5, 3, 2)
    far = channelwise([Interval(0, 7, 0), Interval(-8, 7, 60)])
    assert isinstance(far, Channels)
    assert far.fits_float32()  # each of them does, their hull does not
    assert not far.hull.fits_float64()
    with pytest.raises(ExactnessError, match="2 intervals for 3 channels"):
        far.spread(3)
