"""The definition of Cast against numbers worked by hand, and the numpy casts against the definition."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from fixed_strategies import MODES, fixed_types
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qfx.errors import DataError, ExactnessError
from qfx.fixed.array import cast_float_array, cast_raw_array, to_float
from qfx.fixed.reference import cast_float, cast_fraction, cast_raw, overflow_raw, round_raw
from qfx.fixed.type import FixedType, OMode, QMode

INT64 = np.iinfo(np.int64)

# Quarters from -2 to 2, rounded to integers.
ROUNDED = {
    QMode.RND: [-2, -2, -1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2],
    QMode.RND_ZERO: [-2, -2, -1, -1, -1, -1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2],
    QMode.RND_MIN_INF: [-2, -2, -2, -1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2],
    QMode.RND_INF: [-2, -2, -2, -1, -1, -1, -1, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2],
    QMode.RND_CONV: [-2, -2, -2, -1, -1, -1, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2],
    QMode.TRN: [-2, -2, -2, -2, -1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 1, 2],
    QMode.TRN_ZERO: [-2, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2],
}

# The integers from -12 to 11 brought into 3 bits.
OVERFLOWED = {
    (OMode.SAT, 0): [-4] * 9 + [-3, -2, -1, 0, 1, 2, 3] + [3] * 8,
    (OMode.SAT_SYM, 0): [-3] * 9 + [-3, -2, -1, 0, 1, 2, 3] + [3] * 8,
    (OMode.SAT_ZERO, 0): [0] * 8 + [-4, -3, -2, -1, 0, 1, 2, 3] + [0] * 8,
    (OMode.WRAP, 0): [-4, -3, -2, -1, 0, 1, 2, 3] * 3,
    (OMode.WRAP, 1): [-4, -3, -2, -1, -4, -3, -2, -1, -4, -3, -2, -1, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3],
    (OMode.WRAP, 2): [-4, -3, -4, -3, -4, -3, -4, -3, -4, -3, -2, -1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3],
    (OMode.WRAP, 3): [-4] * 9 + [-3, -2, -1, 0, 1, 2, 3] + [3] * 8,
    (OMode.WRAP_SM, 0): [3, 2, 1, 0, -1, -2, -3, -4, -4, -3, -2, -1, 0, 1, 2, 3, 3, 2, 1, 0, -1, -2, -3, -4],  # no jump anywhere
    (OMode.WRAP_SM, 1): [-4, -3, -2, -1, -1, -2, -3, -4, -4, -3, -2, -1, 0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3],
}


@pytest.mark.parametrize("q", QMode)
def test_rounding_by_hand(q: QMode) -> None:
    assert [round_raw(quarters, 4, q) for quarters in range(-8, 9)] == ROUNDED[q]


@pytest.mark.parametrize(("o", "n"), list(OVERFLOWED))
def test_overflow_by_hand(o: OMode, n: int) -> None:
    assert [overflow_raw(raw, FixedType(3, 3, o=o, n=n)) for raw in range(-12, 12)] == OVERFLOWED[o, n]


def test_rounding_can_carry_into_overflow() -> None:
    for o, raw in ((OMode.WRAP, -128), (OMode.SAT, 127), (OMode.SAT_ZERO, 0)):
        assert cast_fraction(Fraction("7.99"), FixedType(8, 4, q=QMode.RND, o=o)) == raw


def test_wrap_sm_takes_its_lost_bit_before_rounding() -> None:
    """15.5 rounds to 16, whose five bits are 10000: the lost bit of 16 is 1, that of 15.5 is 0, and the headers look at the latter."""
    to = FixedType(4, 4, q=QMode.RND_INF, o=OMode.WRAP_SM)
    assert cast_fraction(Fraction("15.5"), to) == overflow_raw(16, to, floor_raw=15) == 0
    assert cast_raw(16, 0, to) == overflow_raw(16, to) == -1


def test_unsigned_saturated_bits_are_ones_for_either_bound() -> None:
    to = FixedType(4, 4, signed=False, n=2)
    assert [overflow_raw(raw, to) for raw in (-1, -3, 16, 17)] == [15, 13, 12, 13]


@given(fixed_types(max_width=200), st.integers(), st.integers(-300, 300))
def test_every_entrance_leads_to_the_same_cast(to: FixedType, raw: int, frac_bits: int) -> None:
    expected = cast_raw(raw, frac_bits, to)
    assert cast_fraction(raw / Fraction(2) ** frac_bits, to) == expected
    assert cast_raw(raw << 7, frac_bits + 7, to) == expected  # the value decides, not how it was written
    assert to.min_raw <= expected <= to.max_raw
    assert cast_raw(expected, to.frac_bits, to) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(DataError, match=str(value)):
        cast_float(value, FixedType(8, 4))
    with pytest.raises(DataError, match=f"element 4 .* is {value}"):
        cast_float_array(np.array([[0.0, 1.0, 2.0], [3.0, value, math.nan]]), FixedType(8, 4))


@st.composite
def raws_and_casts(draw: st.DrawFn, mode: tuple[QMode, OMode]) -> tuple[list[int], int, FixedType]:
    """Raws that matter for the cast: ties, bounds and their neighbours, beside any int64."""
    to = draw(fixed_types(max_width=63, mode=mode))
    drop = draw(st.one_of(st.integers(-4, 6), st.integers(-130, 130)))
    near_bounds = st.sampled_from([to.min_raw, to.max_raw, 0, 2 * to.max_raw, 2 * to.min_raw]).flatmap(
        lambda raw: st.integers(2 * raw - 4, 2 * raw + 4)
    )
    special = near_bounds.map(lambda halves: halves << (drop - 1) if drop > 0 else halves >> (1 - drop))
    neighbours = st.builds(int.__add__, special, st.integers(-1, 1)).filter(lambda raw: INT64.min <= raw <= INT64.max)
    extremes = st.sampled_from([INT64.min, INT64.min + 1, INT64.max, 1 << 62, -(1 << 62), 0, 1, -1])
    raws = draw(st.lists(st.one_of(neighbours, extremes, st.integers(-20, 20), st.integers(INT64.min, INT64.max)), min_size=1, max_size=20))
    return raws, to.frac_bits + drop, to


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode[0].name}-{mode[1].name}")
@settings(max_examples=50)  # for each of 35 mode pairs
@given(data=st.data())
def test_cast_raw_array_is_the_definition(mode: tuple[QMode, OMode], data: st.DataObject) -> None:
    raws, frac_bits, to = data.draw(raws_and_casts(mode))
    expected = [cast_raw(raw, frac_bits, to) for raw in raws]
    given_raw = np.array(raws, dtype=np.int64)
    assert cast_raw_array(given_raw, frac_bits, to).tolist() == expected
    assert given_raw.tolist() == raws


@st.composite
def floats_for(draw: st.DrawFn, to: FixedType) -> float:
    """Any finite float, or a tie or a bound of the type, or a neighbour of one."""
    halves = draw(st.sampled_from([to.min_raw, to.max_raw, 0, 2 * to.max_raw])) * 2 + draw(st.integers(-4, 4))
    special = float(Fraction(halves, 2) * to.lsb)
    beside = draw(st.sampled_from([special, math.nextafter(special, math.inf), math.nextafter(special, -math.inf)]))
    return draw(st.one_of(st.just(beside), st.floats(allow_nan=False, allow_infinity=False)))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode[0].name}-{mode[1].name}")
@settings(max_examples=50)  # for each of 35 mode pairs
@given(data=st.data())
def test_cast_float_array_is_the_definition(mode: tuple[QMode, OMode], data: st.DataObject) -> None:
    to = data.draw(fixed_types(max_width=63, mode=mode))
    values = [0.0, -0.0, 5e-324, -2.2e-308, 1e300, -1e300, 0.49999999999999994, *data.draw(st.lists(floats_for(to), max_size=12))]
    assert cast_float_array(np.array(values), to).tolist() == [cast_float(value, to) for value in values]
    with np.errstate(over="ignore"):
        single = np.array(values, dtype=np.float64).astype(np.float32)
    single = single[np.isfinite(single)]
    assert cast_float_array(single, to).tolist() == [cast_float(float(value), to) for value in single]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adding_a_half_and_flooring_would_be_wrong(dtype: type) -> None:
    below_half = np.nextafter(dtype(0.5), dtype(0))
    odd = dtype(2 ** np.finfo(dtype).nmant + 1)
    to = FixedType(60, 60, q=QMode.RND)
    assert np.floor(odd + dtype(0.5)) != odd  # the trap
    assert cast_float_array(np.array([below_half, odd, -odd]), to).tolist() == [0, int(odd), -int(odd)]


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 4)])
def test_shapes_are_kept(shape: tuple[int, ...]) -> None:
    to = FixedType(8, 4, q=QMode.RND_CONV, o=OMode.WRAP_SM)
    raw = np.full(shape, 77, dtype=np.int64)
    for result in (cast_raw_array(raw, 6, to), cast_raw_array(raw, 2, to), cast_float_array(np.full(shape, 1.25), to), to_float(raw, 3)):
        assert isinstance(result, np.ndarray)
        assert result.shape == shape


def test_strided_arrays_are_read_in_place() -> None:
    raw = np.arange(24, dtype=np.int64).reshape(4, 6)[::2, ::-1].T
    assert cast_raw_array(raw, 1, FixedType(8, 8)).tolist() == (raw >> 1).tolist()


def test_what_an_array_cannot_hold_is_refused() -> None:
    with pytest.raises(ExactnessError, match="wider than 63 bits"):
        cast_raw_array(np.zeros(1, dtype=np.int64), 0, FixedType(64, 64))
    with pytest.raises(ExactnessError, match="wider than 63 bits"):
        cast_float_array(np.zeros(1), FixedType(64, 64))
    for call in (lambda: cast_raw_array(np.zeros(1, dtype=np.int32), 0, FixedType(8, 8)), lambda: to_float(np.zeros(1), 0)):  # type: ignore[arg-type]
        with pytest.raises(DataError, match="dtype"):
            call()
    with pytest.raises(DataError, match="dtype float16"):
        cast_float_array(np.zeros(1, dtype=np.float16), FixedType(8, 8))


@given(st.integers(INT64.min, INT64.max), st.integers(-1200, 1200))
@example(INT64.min, 0)
@example(-(1 << 53), 1000)
@example((1 << 53) + 1, 0)
@example((1 << 53) + 2, 0)
@example(INT64.max, 0)
@example(1, 1022)
@example(1, 1023)
@example(1, -1023)
@example(1, -1024)
@example(0, 5000)
def test_to_float_is_exact_or_refuses(raw: int, frac_bits: int) -> None:
    exact = raw / Fraction(2) ** frac_bits
    try:
        nearest = float(exact)
    except OverflowError:
        nearest = math.inf
    normal = raw == 0 or (math.isfinite(nearest) and abs(nearest) >= np.finfo(np.float64).tiny)
    holds = normal and Fraction(nearest) == exact
    given_raw = np.array([3 << frac_bits if 0 <= frac_bits < 60 else 0, raw], dtype=np.int64)
    if holds:
        assert to_float(given_raw, frac_bits)[1] == nearest
    else:
        with pytest.raises(ExactnessError, match=f"raw {raw} at element 1"):
            to_float(given_raw, frac_bits)
