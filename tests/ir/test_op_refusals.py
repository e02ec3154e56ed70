"""What operators refuse, by name: shapes and numbers that do not fit them, and what int64 could not hold."""

from __future__ import annotations

import numpy as np
import pytest
from op_cases import CONV, const, info

from qfx import operators as ops
from qfx.errors import ExactnessError, ModelFileError
from qfx.fixed.type import FixedType
from qfx.ir.values import Info
from qfx.operators import ArrayType, Const

POOL = ops.MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        (ops.Input((), ArrayType.of(FixedType(8, 8))), [], r"the shape is \(\)"),
        (ops.Input((2, 0), ArrayType.of(FixedType(8, 8))), [], r"the shape is \(2, 0\)"),
        (ops.Input((2,) * 6, ArrayType.of(FixedType(8, 8))), [], "the shape is"),
        (ops.Input((2,), ArrayType(FixedType(8, 8), (8, 7, 6), (3,))), [], r"binary points of shape \(3,\)"),
        (ops.Input((1,), ArrayType(FixedType(8, 8), (8, 7, 6), (3,))), [], r"binary points of shape \(3,\)"),
        (ops.Cast(ArrayType(FixedType(8, 8), (8, 7), (2, 1))), [(2,)], "binary points of shape"),
        (CONV, [(2,)], "the weight is"),
        (CONV, [(2, 5)], "the weight is"),
        (CONV, [(3, 5, 5)], "3 channels in 2 groups"),
        (ops.Conv(CONV.weight, const([1, 2]), (1, 1), CONV.pads, (1, 1), 2), [(2, 5, 5)], r"the bias is \(2,\) for 4 outputs"),
        (ops.Conv(CONV.weight, None, (0, 1), CONV.pads, (1, 1), 2), [(2, 5, 5)], r"stride is \(0, 1\)"),
        (ops.Conv(CONV.weight, None, (1,), CONV.pads, (1, 1), 2), [(2, 5, 5)], r"stride is \(1,\) for 2 spatial axes"),
        (ops.Conv(CONV.weight, None, (1, 1), ((-1, 0), (0, 0)), (1, 1), 2), [(2, 5, 5)], "pads are"),
        (ops.Conv(CONV.weight, None, (1, 1), ((0, 0), (0, 0)), (1, 3), 2), [(2, 5, 5)], "is larger than the padded input"),
        (ops.Conv(CONV.weight, None, (1, 1), CONV.pads, (1, 1), 3), [(2, 5, 5)], "in 3 groups"),
        (ops.Conv(CONV.weight, None, (1, 1), CONV.pads, (1, 1), 0), [(2, 5, 5)], "in 0 groups"),
        (ops.Linear(const([[1, 2]]), None), [(3,)], "the weight is"),
        (ops.Linear(const([[1, 2]]), None), [(3, 2)], "the weight is"),
        (ops.Linear(const([[1, 2]]), const([1, 2])), [(2,)], "the bias is"),
        (ops.Affine(const([1, 2]), None), [(3,)], r"the scale is \(2,\)"),
        (ops.Affine(const(1), const([1, 2])), [(3, 2)], r"the shift is \(2,\)"),
        (ops.Add(), [(2,), (3,)], "differ"),
        (ops.Sub(), [(2, 1), (2, 2)], "differ"),
        (ops.Mul(), [(1,), (2,)], "does not broadcast"),
        (ops.LeakyRelu(1), [(2,)], "log2_slope is 1"),
        (ops.Clip(const([1]), const(2)), [(2,)], "bounds of shape"),
        (ops.Clip(const(3), const(2)), [(2,)], "exceeds the high bound"),
        (POOL, [(2,)], "windows over a value of shape"),
        (ops.MaxPool((2,), (2,), ((2, 0),), (1,)), [(1, 4)], "nothing but padding"),
        (ops.MaxPool((2,), (1,), ((1, 0),), (2,)), [(1, 1)], "larger than the padded input"),
        (ops.MaxPool((2,), (1,), ((1, 1),), (2,)), [(1, 1)], "nothing but padding"),
        (ops.SumPool((2,), (0,), ((0, 0),)), [(1, 4)], "stride is"),
        (ops.Concat(), [(2, 3), (2, 4)], "only the channels may differ"),
        (ops.Concat(), [(2, 3), (2,)], "only the channels may differ"),
        (ops.Reshape((5,)), [(2, 3)], "holds 6 elements"),
        (ops.Reshape((-1,)), [(2, 3)], "the shape is"),
        (ops.Transpose((0, 0)), [(2, 3)], r"perm is \(0, 0\)"),
        (ops.Transpose((0,)), [(2, 3)], "perm is"),
        (ops.Pad(((0, 1),)), [(2, 3)], "one pair per axis"),
        (ops.Pad(((0, -1), (0, 0))), [(2, 3)], "neither of them negative"),
        (ops.Slice((0,), (2,), (1,)), [(2, 3)], "one per axis"),
        (ops.Slice((0,), (4,), (1,)), [(3,)], "0 <= start < stop <= size"),
        (ops.Slice((2,), (2,), (1,)), [(3,)], "0 <= start < stop <= size"),
        (ops.Slice((2,), (0,), (-1,)), [(3,)], "0 <= start < stop <= size"),
        (ops.Slice((-1,), (2,), (1,)), [(3,)], "0 <= start < stop <= size"),
        (ops.Take(2, (0,)), [(2, 3)], "along axis 2"),
        (ops.Take(-1, (0,)), [(2, 3)], "along axis -1"),
        (ops.Take(1, (0, 3)), [(2, 3)], "takes 0,3 along an axis of 3"),
        (ops.Take(0, (-1,)), [(2, 3)], "takes -1 along"),
        (ops.Take(0, ()), [(2, 3)], "one or more numbers of 0 to 1"),
        (ops.TopValues(2, 1), [(2, 3)], "takes 1 numbers along axis 2"),
        (ops.TopValues(1, 4), [(2, 3)], "takes 4 numbers along axis 1"),
        (ops.TopPlaces(1, 0), [(2, 3)], "take no more than there are"),
        (ops.Embedding(const([1, 2])), [(3,)], r"the rows are of shape \(2,\)"),
        (ops.Embedding(Const(np.array([[1], [2]]), (0, 3))), [(3,)], "on 2 grids"),
        (ops.Upsample((2,)), [(2, 3, 4)], "one of at least 1 per axis behind the channels"),
        (ops.Upsample((2, 0)), [(2, 3, 4)], r"factors are \(2, 0\)"),
        (ops.Upsample(()), [(2,)], "factors are"),
        (ops.Stretch((2, 2)), [(2, 3)], "one of at least 1 per axis behind the channels"),
        (ops.Stretch((-1,)), [(2, 3)], "factors are"),
    ],
)
def test_what_is_wrong_is_refused_by_name(op: ops.Operator, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        op.infer("layer3.0", tuple(info(shape) for shape in shapes))
    assert caught.value.where == "layer3.0"
    assert caught.value.remedy


WIDE = info((2,), -(1 << 61), (1 << 61) - 1)


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        (ops.Mul(), (WIDE, WIDE)),
        (ops.Add(), (WIDE, info((2,), 0, 1, frac_bits=3))),
        (ops.Linear(const([[2, 3]]), None), (WIDE,)),
        (ops.Linear(const([[1, -1]]), const([1], 2)), (WIDE,)),
        (ops.Affine(const(9), None), (WIDE,)),
        (ops.Affine(const(1), const(1, 4)), (WIDE,)),
        (ops.LeakyRelu(-3), (WIDE,)),
        (ops.Clip(const(0, 4), const(1)), (WIDE,)),
        (ops.Cast(ArrayType.of(FixedType(64, 64))), (WIDE,)),
        (ops.Cast(ArrayType(FixedType(40, 40), (40, 10), (2,))), (WIDE,)),
        (ops.Affine(const(1, 400), None), (info((2,), 0, 1, frac_bits=400),)),
    ],
)
def test_what_int64_could_not_hold_is_refused_by_name(op: ops.Operator, inputs: tuple[Info, ...]) -> None:
    with pytest.raises(ExactnessError) as caught:
        op.infer("layer3.0", inputs)
    assert caught.value.where == "layer3.0"
    assert caught.value.remedy


def test_a_stretched_value_holds_zeros_and_an_upsampled_one_does_not() -> None:
    high = info((2, 3), 3, 7)
    assert ops.Upsample((3,)).infer("up", (high,)).interval == high.interval
    assert ops.Stretch((1,)).infer("same", (high,)).interval == high.interval
    assert ops.Stretch((2,)).infer("one", (info((2, 1), 3, 7),)).interval == high.interval  # there is nothing between the pixels of one
    stretched = ops.Stretch((2,)).infer("stretch", (high,))
    assert (stretched.shape, stretched.interval) == ((2, 5), high.interval.with_zero())
    raw = ops.Stretch((2,)).evaluate((np.full((1, 2, 3), 3),), (high,), stretched)
    assert raw.tolist() == [[[3, 0, 3, 0, 3]] * 2]
