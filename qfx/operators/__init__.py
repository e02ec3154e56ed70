"""The operators, a file each (a small family shares one): all that any part of qfx asks of one stands there.

A new operator is a new file and a line here. ``qfx.ir.operator.Operator`` says what it needs; what lacks a piece cannot be imported.
"""

from __future__ import annotations

from qfx.fixed.type import FixedType
from qfx.ir.operator import Operator as Operator
from qfx.ir.values import ArrayType as ArrayType
from qfx.ir.values import Const as Const
from qfx.ir.values import Info as Info
from qfx.ir.values import Pads as Pads
from qfx.ir.values import RawArray as RawArray
from qfx.operators.affine import Affine as Affine
from qfx.operators.binary import Add as Add
from qfx.operators.binary import Max as Max
from qfx.operators.binary import Min as Min
from qfx.operators.binary import Mul as Mul
from qfx.operators.binary import Sub as Sub
from qfx.operators.cast import Cast as Cast
from qfx.operators.cast import Input as Input
from qfx.operators.clip import Clip as Clip
from qfx.operators.compare import Compare as Compare
from qfx.operators.concat import Concat as Concat
from qfx.operators.conv import Conv as Conv
from qfx.operators.expand import Expand as Expand
from qfx.operators.formats.minifloat import MinifloatCast as MinifloatCast
from qfx.operators.linear import Linear as Linear
from qfx.operators.lookup import Lookup as Lookup
from qfx.operators.lookup import LookupLinear as LookupLinear
from qfx.operators.matmul import MatMul as MatMul
from qfx.operators.pad import Pad as Pad
from qfx.operators.pool import MaxPool as MaxPool
from qfx.operators.pool import SumPool as SumPool
from qfx.operators.reduce import ReduceMax as ReduceMax
from qfx.operators.reduce import ReduceMin as ReduceMin
from qfx.operators.reduce import ReduceSum as ReduceSum
from qfx.operators.relu import LeakyRelu as LeakyRelu
from qfx.operators.relu import PRelu as PRelu
from qfx.operators.relu import Relu as Relu
from qfx.operators.reshape import Reshape as Reshape
from qfx.operators.reshape import Transpose as Transpose
from qfx.operators.scale import Stretch as Stretch
from qfx.operators.scale import Upsample as Upsample
from qfx.operators.selecting import Embedding as Embedding
from qfx.operators.selecting import TopPlaces as TopPlaces
from qfx.operators.selecting import TopValues as TopValues
from qfx.operators.sequences.scan import Scan as Scan
from qfx.operators.slice import Slice as Slice
from qfx.operators.take import Take as Take

OPERATORS: tuple[type[Operator], ...] = (
    Input, Cast, Conv, Linear, Affine, Add, Sub, Mul, Relu, LeakyRelu, Clip, MaxPool, SumPool, Concat, Reshape, Transpose, Pad, Slice,
    Upsample, Stretch, Lookup, LookupLinear,
    Compare, PRelu, Expand, Max, Min, ReduceSum, ReduceMax, ReduceMin,
    MatMul,
    Take,
    MinifloatCast,
    Embedding, TopValues, TopPlaces,
    Scan,
)  # fmt: skip
"""The whole set: what files are read with, what random graphs are made of, and what tests go over."""


def accumulator(op: Operator, x: Info) -> FixedType:
    """``op.accumulator(x)``. TypeError for an operator that does not accumulate."""
    found = op.accumulator(x)
    if found is None:
        raise TypeError(f"{type(op).__name__} does not accumulate")
    return found


def macs(op: Operator, out: Info) -> int:
    """``op.macs(out)``: multiply-accumulates per sample."""
    return op.macs(out)
