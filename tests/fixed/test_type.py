"""FixedType: reading, writing, bounds, and every refusal."""

from __future__ import annotations

from fractions import Fraction

import pytest
from fixed_strategies import fixed_types
from hypothesis import given
from hypothesis import strategies as st

from qfx.errors import TypeSyntaxError
from qfx.fixed import FixedType, OMode, QMode


@given(fixed_types())
def test_parse_reads_what_str_writes(type_: FixedType) -> None:
    assert FixedType.parse(str(type_)) == type_


@given(fixed_types(), st.lists(st.sampled_from(["", " ", "\t", "  "]), min_size=16, max_size=16))
def test_whitespace_is_free(type_: FixedType, spaces: list[str]) -> None:
    space = iter(spaces)
    head, arguments = str(type_)[:-1].split("<")
    padded = ",".join(next(space) + argument + next(space) for argument in arguments.split(","))
    assert FixedType.parse(f"{next(space)}{head}{next(space)}<{padded}>{next(space)}") == type_


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("ap_fixed<16,6>", FixedType(16, 6)),
        ("ap_ufixed<8,-3>", FixedType(8, -3, signed=False)),
        ("ap_fixed<8,+12,AP_RND>", FixedType(8, 12, q=QMode.RND)),
        ("ap_fixed<8,4,AP_TRN,AP_SAT_SYM>", FixedType(8, 4, o=OMode.SAT_SYM)),
        ("ap_fixed<8,4,AP_RND_CONV,AP_WRAP_SM,3>", FixedType(8, 4, True, QMode.RND_CONV, OMode.WRAP_SM, 3)),
        ("ap_fixed<8,4,AP_TRN,AP_WRAP,0>", FixedType(8, 4)),
    ],
)
def test_parse_knows_the_vendors_defaults(text: str, type_: FixedType) -> None:
    assert FixedType.parse(text) == type_


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (FixedType(16, 6), "ap_fixed<16,6>"),
        (FixedType(16, 6, q=QMode.RND), "ap_fixed<16,6,AP_RND>"),
        (FixedType(16, 6, o=OMode.SAT), "ap_fixed<16,6,AP_TRN,AP_SAT>"),
        (FixedType(16, 6, False, n=2), "ap_ufixed<16,6,AP_TRN,AP_WRAP,2>"),
    ],
)
def test_str_says_no_more_than_it_must(type_: FixedType, text: str) -> None:
    assert str(type_) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot read the type ''"),
        ("fixed<16,6>", "cannot read the type 'fixed<16,6>'"),
        ("ap_fixed<16,6", "cannot read"),
        ("ap_fixed<16,6>>", "cannot read"),
        ("ap_fixed<16,6> x", "cannot read"),
        ("ap_fixed<>", "1 arguments"),
        ("ap_fixed<16>", "1 arguments"),
        ("ap_fixed<16,6,AP_TRN,AP_WRAP,0,0>", "6 arguments"),
        ("ap_fixed<w,6>", "'w' in"),
        ("ap_fixed<16,6.5>", "'6.5' in"),
        ("ap_fixed<16,6,AP_TRN,AP_WRAP,>", "'' in"),
        ("ap_fixed<\u0661\u0666,6>", "is not an integer"),  # digits, but not the compiler's
        (f"ap_fixed<{'9' * 5000},6>", "is not an integer"),
        ("ap_fixed<16,6,AP_ROUND>", "'AP_ROUND' in 'ap_fixed<16,6,AP_ROUND>' is not a mode"),
        ("ap_fixed<16,6,AP_SAT,AP_RND>", "'AP_SAT' in"),
        ("ap_fixed<16,6,AP_RND,SAT>", "'SAT' in"),
        ("ap_fixed<0,0>", "width is 0"),
        ("ap_fixed<1025,6>", "width is 1025"),
        ("ap_fixed<16,513>", "int_bits is 513"),
        ("ap_fixed<16,-513>", "int_bits is -513"),
        ("ap_ufixed<16,6,AP_TRN,AP_WRAP_SM>", "AP_WRAP_SM on an unsigned type"),
        ("ap_fixed<16,6,AP_TRN,AP_SAT,1>", "N is 1 with AP_SAT"),
        ("ap_fixed<4,4,AP_TRN,AP_WRAP,5>", "N is 5 for a width of 4"),
        ("ap_fixed<4,4,AP_TRN,AP_WRAP,-1>", "N is -1 for a width of 4"),
    ],
)
def test_parse_refuses_and_quotes(text: str, complaint: str) -> None:
    with pytest.raises(TypeSyntaxError) as caught:
        FixedType.parse(text)
    assert complaint in caught.value.what
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"width": 8.0, "int_bits": 4}, "width must be an integer, got 8.0"),
        ({"width": True, "int_bits": 1}, "width must be an integer, got True"),
        ({"width": 8, "int_bits": "4"}, "int_bits must be an integer, got '4'"),
        ({"width": 8, "int_bits": 4, "n": None}, "n must be an integer, got None"),
        ({"width": 8, "int_bits": 4, "signed": 1}, "signed must be a bool, got 1"),
        ({"width": 8, "int_bits": 4, "q": "AP_RND"}, "q must be a QMode, got 'AP_RND'"),
        ({"width": 8, "int_bits": 4, "o": QMode.RND}, "o must be a OMode"),
    ],
)
def test_construction_refuses_the_wrong_kind(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(TypeSyntaxError) as caught:
        FixedType(**arguments)  # type: ignore[arg-type]
    assert complaint in caught.value.what


@pytest.mark.parametrize(
    ("text", "low", "high", "lsb"),
    [
        ("ap_fixed<8,3>", -128, 127, Fraction(1, 32)),
        ("ap_ufixed<8,3,AP_TRN,AP_SAT>", 0, 255, Fraction(1, 32)),
        ("ap_fixed<8,10,AP_TRN,AP_SAT_SYM>", -127, 127, Fraction(4)),
        ("ap_ufixed<3,3,AP_TRN,AP_SAT_SYM>", 0, 7, Fraction(1)),
        ("ap_fixed<1,-2>", -1, 0, Fraction(1, 8)),
        ("ap_fixed<1,1,AP_TRN,AP_SAT_SYM>", -1, 0, Fraction(1)),
        ("ap_ufixed<1,1>", 0, 1, Fraction(1)),
    ],
)
def test_bounds(text: str, low: int, high: int, lsb: Fraction) -> None:
    type_ = FixedType.parse(text)
    assert (type_.min_raw, type_.max_raw, type_.lsb) == (low, high, lsb)


@given(fixed_types(max_width=64, max_abs_int_bits=80), st.integers(-100, 100))
def test_moving_the_binary_point_changes_nothing_else(type_: FixedType, frac_bits: int) -> None:
    moved = type_.with_frac_bits(frac_bits)
    assert moved.frac_bits == frac_bits
    assert (moved.width, moved.signed, moved.q, moved.o, moved.n) == (type_.width, type_.signed, type_.q, type_.o, type_.n)
    assert moved.with_frac_bits(type_.frac_bits) == type_
