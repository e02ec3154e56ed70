"""The range and the accumulator of every result are those that are reached, and no more."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import CONV, const, info

from qfx import operators as ops
from qfx.fixed.arith import Channels, Interval
from qfx.fixed.reference import cast_raw
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.casting import cast_interval
from qfx.operators import ArrayType, Const, accumulator, macs
from qfx.testing import random_type


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_range_of_weighted_sums_is_reached(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = Const(rng.integers(-5, 6, size=(2, 3)), int(rng.integers(-2, 3)))
    bias = Const(rng.integers(-9, 10, size=2), int(rng.integers(-2, 5))) if rng.random() < 0.7 else None
    lo, hi = sorted(int(bound) for bound in rng.integers(-6, 7, size=2))
    x = info((3,), lo, hi, frac_bits=int(rng.integers(-1, 3)))
    op = ops.Linear(weight, bias)
    out = op.infer("linear", (x,))
    corners = np.array(list(itertools.product([lo, hi], repeat=3)))
    raw = op.evaluate((corners,), (x,), out)
    assert (raw.min(), raw.max()) == (out.interval.lo, out.interval.hi)
    image = ops.Conv(Const(weight.raw.reshape(2, 3, 1), weight.frac_bits), bias, (1,), ((0, 0),), (1,), 1)
    assert image.infer("conv", (info((3, 4), lo, hi, x.type.frac_bits),)).interval == out.interval


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_accumulator_holds_every_partial_sum_and_no_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(-5, 6, size=(2, 3))
    bias = rng.integers(-20, 21, size=2)
    lo, hi = sorted(int(bound) for bound in rng.integers(-6, 7, size=2))
    held = accumulator(ops.Linear(const(raw), const(bias)), info((3,), lo, hi))
    seen = [
        int(bias[row]) + sum(int(raw[row, at]) * xs[at] for at in order[:count])
        for row in range(2)
        for xs in itertools.product([lo, hi], repeat=3)
        for order in itertools.permutations(range(3))
        for count in range(4)
    ]
    assert held == Interval(min(seen), max(seen), 0).type()


def test_padding_counts_as_zero_in_the_range() -> None:
    x = info((1, 3), 5, 7)
    bare = ops.Conv(const([[[2, 3]]]), None, (1,), ((0, 0),), (1,), 1)
    padded = ops.Conv(const([[[2, 3]]]), None, (1,), ((1, 0),), (1,), 1)
    assert bare.infer("conv", (x,)).interval == Interval(25, 35, 0)
    assert padded.infer("conv", (x,)).interval == Interval(0, 35, 0)
    assert accumulator(bare, x) == FixedType(6, 6, signed=False)
    assert ops.SumPool((2,), (2,), ((0, 0),)).infer("sum", (info((1, 4), 5, 7),)).interval == Interval(10, 14, 0)
    assert ops.SumPool((2,), (2,), ((1, 0),)).infer("sum", (x,)).interval == Interval(5, 14, 0)
    assert ops.SumPool((1,), (1,), ((1, 0),)).infer("sum", (x,)).interval == Interval(0, 7, 0)
    assert accumulator(ops.SumPool((2,), (2,), ((1, 0),)), info((1, 3), -7, -5)) == FixedType(5, 5)


def test_the_accumulator_of_affine_holds_product_and_sum() -> None:
    op = ops.Affine(const([3, -2]), const([-30, 1], 1))
    assert op.infer("affine", (info((2,), 0, 5),)).interval == Interval(-30, 1, 1)
    assert accumulator(op, info((2,), 0, 5)) == FixedType(6, 5)  # -30 .. 30 halves
    with pytest.raises(TypeError, match="Relu does not accumulate"):
        accumulator(ops.Relu(), info((2,)))


def test_macs() -> None:
    out = CONV.infer("conv", (info((2, 5, 5)),))
    assert macs(CONV, out) == 4 * 25 * 9
    assert macs(ops.Linear(const([[1, 2]]), None), info((1,))) == 2
    assert macs(ops.Affine(const(1), None), info((3, 2))) == 6
    assert macs(ops.Relu(), info((3, 2))) == 0


@settings(deadline=None, max_examples=400)
@given(st.integers(0, 2**32 - 1))
def test_the_range_of_a_cast_is_what_it_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    to = random_type(rng, max_width=6)
    lo, hi = sorted(int(bound) for bound in rng.integers(-70, 71, size=2))
    frac_bits = to.frac_bits + int(rng.integers(-3, 4))
    given_ = cast_interval(Interval(lo, hi, frac_bits), ArrayType.of(to), (3,))
    seen = [cast_raw(raw, frac_bits, to) for raw in range(lo, hi + 1)]
    assert given_.frac_bits == to.frac_bits
    assert given_.lo <= min(seen)
    assert max(seen) <= given_.hi
    if to.o in (OMode.SAT, OMode.SAT_SYM):
        assert (given_.lo, given_.hi) == (min(seen), max(seen))
    if frac_bits >= to.frac_bits and to.o is OMode.SAT_ZERO:  # no multiple is skipped: tight here too
        assert (given_.lo, given_.hi) == (min(seen), max(seen))
    assert to.min_raw <= given_.lo
    assert given_.hi <= to.max_raw


def test_a_wrap_that_cannot_overflow_has_a_tight_range() -> None:
    wrap = ArrayType.of(FixedType(8, 8, q=QMode.RND))
    assert cast_interval(Interval(-3, 5, 1), wrap, (3,)) == Interval(-1, 3, 0)
    assert cast_interval(Interval(-3, 255, 1), wrap, (3,)) == Interval(-128, 127, 0)
    per_channel = ArrayType(FixedType(4, 4, o=OMode.SAT), (4, 2), (2,))
    assert cast_interval(Interval(-1, 5, 0), per_channel, (3, 2)) == Interval(-4, 20, 2)
    assert cast_interval(Interval(-1, 5, 0), per_channel, (2,)) == Channels((Interval(-1, 5, 0), Interval(-4, 7, 2)))
