"""What the tests of operators share: constants, values and nodes of a few words."""

from __future__ import annotations

import numpy as np

from qfx import operators as ops
from qfx.fixed.arith import Interval
from qfx.ir.values import Info
from qfx.operators import Const


def const(values: object, frac_bits: int = 0) -> Const:
    return Const(np.array(values, dtype=np.int64), frac_bits)


def info(shape: tuple[int, ...], lo: int = -8, hi: int = 7, frac_bits: int = 0) -> Info:
    interval = Interval(lo, hi, frac_bits)
    return Info(shape, interval.type(), interval)


def evaluate(op: ops.Operator, raw: np.ndarray, x: Info) -> np.ndarray:
    return op.evaluate((raw,), (x,), op.infer("node", (x,)))


CONV = ops.Conv(const(np.ones((4, 1, 3, 3))), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 2)
