"""Hypothesis strategies for fixed-point types and numbers."""

from __future__ import annotations

from hypothesis import strategies as st

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType, OMode, QMode

MODES = [(q, o) for q in QMode for o in OMode]


@st.composite
def fixed_types(draw: st.DrawFn, max_width: int = 1024, max_abs_int_bits: int = 512, mode: tuple[QMode, OMode] | None = None) -> FixedType:
    """Any type, or any with the given modes; small words and binary points within the word come up often."""
    width = draw(st.one_of(st.integers(1, 4), st.integers(1, min(max_width, 16)), st.integers(1, max_width)))
    near = st.integers(max(-4, -max_abs_int_bits), min(width + 4, max_abs_int_bits))
    int_bits = draw(st.one_of(near, st.integers(-max_abs_int_bits, max_abs_int_bits)))
    q, o = draw(st.sampled_from(MODES)) if mode is None else mode
    signed = o is OMode.WRAP_SM or draw(st.booleans())
    n = draw(st.one_of(st.integers(0, min(3, width)), st.integers(0, width))) if o in (OMode.WRAP, OMode.WRAP_SM) else 0
    return FixedType(width, int_bits, signed, q, o, n)


@st.composite
def intervals(draw: st.DrawFn, max_bits: int = 12) -> Interval:
    bound = 1 << max_bits
    lo, hi = sorted((draw(st.integers(-bound, bound)), draw(st.integers(-bound, bound))))
    return Interval(lo, hi, draw(st.integers(-6, 6)))
