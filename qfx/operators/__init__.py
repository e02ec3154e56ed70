"""The operators, a file each (a small family shares one): all that any part of qfx asks of one stands there.

A new operator is a new file and a line here. ``qfx.ir.operator.Operator`` says what it needs; what lacks a piece cannot be imported.
"""

from __future__ import annotations

from qfx.fixed.type import FixedType
from qfx.ir.operator import Operator
from qfx.ir.values import ArrayType, Const, Info, Pads, RawArray
from qfx.operators.affine import Affine
from qfx.operators.binary import Add, Mul, Sub
from qfx.operators.cast import Cast, Input
from qfx.operators.clip import Clip
from qfx.operators.concat import Concat
from qfx.operators.conv import Conv
from qfx.operators.linear import Linear
from qfx.operators.pad import Pad
from qfx.operators.pool import MaxPool, SumPool
from qfx.operators.relu import LeakyRelu, Relu
from qfx.operators.reshape import Reshape, Transpose
from qfx.operators.scale import Stretch, Upsample
from qfx.operators.slice import Slice

OPERATORS: tuple[type[Operator], ...] = (
    Input, Cast, Conv, Linear, Affine, Add, Sub, Mul, Relu, LeakyRelu, Clip, MaxPool, SumPool, Concat, Reshape, Transpose, Pad, Slice,
    Upsample, Stretch,
)  # fmt: skip
"""The whole set: what files are read with, what random graphs are made of, and what tests go over."""

__all__ = [
    "OPERATORS", "Add", "Affine", "ArrayType", "Cast", "Clip", "Concat", "Const", "Conv", "Info", "Input", "LeakyRelu", "Linear", "MaxPool", "Mul",
    "Operator", "Pad", "Pads", "RawArray", "Relu", "Reshape", "Slice", "Stretch", "Sub", "SumPool", "Transpose", "Upsample",
    "accumulator", "macs",
]  # fmt: skip


def accumulator(op: Operator, x: Info) -> FixedType:
    """``op.accumulator(x)``. TypeError for an operator that does not accumulate."""
    found = op.accumulator(x)
    if found is None:
        raise TypeError(f"{type(op).__name__} does not accumulate")
    return found


def macs(op: Operator, out: Info) -> int:
    """``op.macs(out)``: multiply-accumulates per sample."""
    return op.macs(out)
