"""What operators give where their paths differ, and the constants that they hold."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import const, evaluate, info

from qfx import operators as ops
from qfx.errors import DataError, ModelFileError, QfxError
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.interpret import output_raw, run_raw, trace
from qfx.operators import ArrayType, Const
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph


@pytest.mark.parametrize(("bits", "groups"), [(8, 1), (8, 2), (8, 4), (29, 1), (29, 2), (29, 4)])
def test_convolution_is_exact_on_every_path(bits: int, groups: int) -> None:
    """Small words go through BLAS, wide ones (more than 53 bits in a sum) do not, depthwise has a path of its own; Python integers are the oracle."""
    rng = np.random.default_rng(bits * 10 + groups)
    bound = 1 << bits
    weight = Const(rng.integers(-bound, bound, size=(4, 4 // groups, 2, 3)), bits)
    bias = Const(rng.integers(-bound, bound, size=4), bits)
    op = ops.Conv(weight, bias, (2, 1), ((1, 0), (0, 2)), (1, 2), groups)
    x = info((4, 3, 5), -bound, bound - 1)
    out = op.infer("conv", (x,))
    raw = rng.integers(-bound, bound, size=(3, 4, 3, 5))
    raw[0], raw[1] = -bound, bound - 1
    padded = np.pad(raw, ((0, 0), (0, 0), (1, 0), (0, 2))).astype(object)
    expected = np.zeros((3, *out.shape), dtype=object)
    for n, m, i, j in np.ndindex(expected.shape):
        first = m // (4 // groups) * (4 // groups)
        window = padded[n, first : first + 4 // groups, 2 * i : 2 * i + 2, j : j + 5 : 2]
        expected[n, m, i, j] = int((window * weight.raw[m].astype(object)).sum()) + int(bias.raw[m])
    assert (out.interval.magnitude_bits > 53) == (bits > 20)
    assert_bit_exact(evaluate(op, raw, x), expected.astype(np.int64))


@pytest.mark.parametrize("bits", [8, 29])
def test_linear_is_exact_on_every_path(bits: int) -> None:
    rng = np.random.default_rng(bits)
    bound = 1 << bits
    op = ops.Linear(Const(rng.integers(-bound, bound, size=(5, 7)), 3), Const(rng.integers(-bound, bound, size=5), 5))
    raw = rng.integers(-bound, bound, size=(4, 7))
    expected = raw.astype(object) @ op.weight.raw.T.astype(object) * 4 + op.bias.raw.astype(object)
    assert_bit_exact(evaluate(op, raw, info((7,), -bound, bound - 1)), expected.astype(np.int64))


def test_float64_would_have_lost_a_bit_where_int64_is_used() -> None:
    op = ops.Linear(const([[1 << 30, 1]]), None)
    x = info((2,), -(1 << 30), 1 << 30)
    assert evaluate(op, np.array([[1 << 30, 1]]), x).tolist() == [[(1 << 60) + 1]]


def test_the_padding_of_max_pool_never_wins() -> None:
    op = ops.MaxPool((2, 2), (1, 1), ((1, 0), (0, 1)), (1, 1))
    raw = np.full((1, 1, 2, 2), -8)
    assert (evaluate(op, raw, info((1, 2, 2))) == -8).all()


def test_a_cast_per_channel_stores_on_the_finest_grid() -> None:
    cast = ArrayType(FixedType(4, 4, q=QMode.RND, o=OMode.SAT), (4, 2), (2, 1))
    assert cast.hull == FixedType(6, 4)
    raw = np.array([[[3, 5, 100], [3, 5, 100]]])  # 0.75, 1.25, 25
    out = ops.Cast(cast).infer("cast", (info((2, 3), 0, 100, frac_bits=2),))
    assert out.type == cast.hull
    assert evaluate(ops.Cast(cast), raw, info((2, 3), 0, 100, frac_bits=2)).tolist() == [[[4, 4, 28], [3, 5, 7]]]


def test_results_do_not_alias_what_they_read() -> None:
    """A later in-place step in one operator must not change another's input; the shape operators may return views, none may write."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        graph = random_graph(rng)
        x = adversarial_inputs(graph, rng, 2)
        kept = trace(graph, x)
        assert_bit_exact(run_raw(graph, x), output_raw(graph, kept[graph.output]))


@pytest.mark.parametrize(
    ("given_", "raw", "frac_bits"),
    [
        ([0.5, -3.0, 0.0], [1, -6, 0], 1),
        ([8.0, 24.0], [1, 3], -3),
        ([0.0, -0.0], [0, 0], 0),
        (2.0**-1074, 1, 1074),
        (np.float32(0.1), 13421773, 27),
        ([1.0, 2.0**-62], [1 << 62, 1], 62),
        ([4, 6], [2, 3], -1),
        ([-(2.0**62), 2.0**62], [-1, 1], -62),
        (np.array([-(1 << 63)]), [-1], -63),
        (np.array([(1 << 60) + 1]), [(1 << 60) + 1], 0),
    ],
)
def test_const_of_finds_the_coarsest_grid(given_: object, raw: object, frac_bits: int) -> None:
    const_ = Const.of(given_)
    assert (const_.raw.tolist(), const_.frac_bits) == (raw, frac_bits)


@settings(deadline=None)
@given(st.lists(st.floats(width=32, min_value=-1000, max_value=1000).filter(lambda x: x == 0 or abs(x) > 1e-4), min_size=1, max_size=5))
def test_const_of_is_exact(given_: list[float]) -> None:
    const_ = Const.of(given_)
    lsb = Fraction(2) ** -const_.frac_bits
    assert [raw * lsb for raw in const_.raw.tolist()] == [Fraction(x) for x in given_]
    assert not const_.raw.any() or (const_.raw % 2).any(), "a coarser grid would do"
    assert const_.values.tolist() == given_


@pytest.mark.parametrize(
    ("given_", "message"),
    [([np.nan], "NaN"), ([np.inf], "NaN"), ([], "holds nothing"), (["a"], "are <U1"), ([1.0, 2.0**-64], "need 65 bits"), ([1j], "complex")],
)
def test_const_of_refuses(given_: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Const.of(given_)


def test_const_is_a_value() -> None:
    raw = np.array([[1, 2], [3, 4]], dtype=np.int32)
    a, b = Const(raw, 3), Const(raw.astype(np.int64), 3)
    raw[0, 0] = 9
    assert a == b
    assert hash(a) == hash(b)
    assert a != Const(b.raw, 2)
    assert a != Const(b.raw.reshape(4), 3)
    assert a != "a"
    assert a.raw.dtype == np.int64
    assert not a.raw.flags.writeable
    assert a.interval == Interval(1, 4, 3)
    assert a.values.tolist() == [[0.125, 0.25], [0.375, 0.5]]
    with pytest.raises(DataError, match="float64"):
        Const(np.array([1.0]), 0)
    with pytest.raises(DataError, match="does not fit int64"):
        Const(np.array([1 << 63], dtype=np.uint64), 0)
    with pytest.raises(QfxError):
        Const(np.array([(1 << 60) + 1]), 0).values  # noqa: B018


def test_channel_sums_do_not_overflow() -> None:
    big = (1 << 63) - 1
    assert const([[big, big, -5], [0, -1, 1]]).channel_sums == ((-5, 2 * big), (-1, 1))


def test_array_types() -> None:
    element = FixedType(8, 3, q=QMode.RND, o=OMode.SAT)
    assert ArrayType.of(element).hull == element
    assert ArrayType(element, (3, 3), (2,)).hull == element
    mixed = ArrayType(element, (3, -1), (2, 1))
    assert mixed.hull == FixedType(12, 3)
    assert mixed.types == (element, FixedType(8, -1, q=QMode.RND, o=OMode.SAT))
    assert mixed.frac_bits.tolist() == [[5], [9]]
    assert str(mixed) == "ap_fixed<8,3,AP_RND,AP_SAT> with int_bits -1..3 over (2, 1)"
    with pytest.raises(ModelFileError, match="2 binary points for the shape"):
        ArrayType(element, (3, 3), (3,))
    with pytest.raises(ModelFileError, match="the greatest int_bits is 2"):
        ArrayType(element, (2,))
    with pytest.raises(ModelFileError, match="0 binary points"):
        ArrayType(element, (), (0,))
