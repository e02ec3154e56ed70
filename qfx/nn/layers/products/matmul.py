"""The matrix product of two values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from qfx import operators as ops
from qfx.fixed.arith import Interval
from qfx.nn.backends import refuse_inexact
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Own, Steps, Traits
from qfx.nn.qtensor import QTensor, check_float64


class QMatMul(FixedLayer):
    """a @ b, exact: (batch, ..., M, K) by (batch, ..., K, N), with equal axes in front. In float32 if no partial sum can need more than 24 bits, else
    in float64. ``terms``: K. The gradient is torch.matmul's."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=False)

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.terms = terms

    def forward(self, a: QTensor, b: QTensor) -> QTensor:
        refuse_inexact(a.value, self.name)
        left, right = a.tensor(), b.tensor()
        full, partial = _sums(a.interval.hull, b.interval.hull, self.terms)
        if left.dtype == right.dtype == torch.float32 and partial.fits_float32():
            return QTensor(torch.matmul(left, right), full)
        check_float64(partial, self.name)
        return QTensor(torch.matmul(left.double(), right.double()), full)

    def multiplied(self, bits: Sequence[Tensor], own: Own) -> Tensor:
        return torch.matmul(*bits)

    def operators(self) -> Steps:
        return [("", ops.MatMul())]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """All factors taken as independent and alike: the sums mix their channels."""
        (mean_a, var_a), (mean_b, var_b) = (source.pooled().moments() for source in sources)
        variance = var_a * var_b + var_a * mean_b.square() + var_b * mean_a.square()
        return Clipped.normal(self.terms * mean_a * mean_b, (self.terms * variance).sqrt())

    def scales_channels(self, channels: int) -> bool:
        return False


def _sums(a: Interval, b: Interval, terms: int) -> tuple[Interval, Interval]:
    """The interval of a sum of products, and that of the sum of any of its terms."""
    product = a * b
    return product.times(terms), product.with_zero().times(terms)
