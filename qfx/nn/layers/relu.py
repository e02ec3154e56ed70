"""Activations: ReLU, ReLU6, and LeakyReLU by a shift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from qfx import operators as ops
from qfx.fixed.arith import Bounds, Interval
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.qtensor import QTensor, check_float64


class QReLU(FixedLayer):
    """max(x, 0); exact, and absorbed by the Cast that follows."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True, ends_chain=True)

    _known: tuple[Bounds, Bounds] | None = None
    """An interval, and what is left of it: the same objects from step to step, until a binary point moves."""

    def forward(self, x: QTensor) -> QTensor:
        known = self._known
        if known is None or known[0] is not x.interval:
            known = self._known = x.interval, check_float64(x.interval.relu(), self.name)
        return x.rectified(known[1])

    def operators(self) -> Steps:
        return [("", ops.Relu())]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0].limited(0.0, math.inf)

    def scales_channels(self, channels: int) -> bool:
        return True


class QLeakyReLU(FixedLayer):
    """x for x >= 0, else x * 2**log2_slope: a shift, so the result is exact on a finer grid."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True, ends_chain=True)

    def __init__(self, log2_slope: int) -> None:
        super().__init__()
        self.log2_slope = log2_slope

    def forward(self, x: QTensor) -> QTensor:
        return x.relu(2.0**self.log2_slope, x.interval.leaky_relu(self.log2_slope), where=self.name)

    def operators(self) -> Steps:
        return [("", ops.LeakyRelu(self.log2_slope))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        slope = 2.0**self.log2_slope
        (up, up_var), (down, down_var) = sources[0].limited(0.0, math.inf).moments(), sources[0].limited(-math.inf, 0.0).moments()
        variance = up_var + slope**2 * down_var - 2 * slope * up * down  # the two are never nonzero at once
        return Clipped.normal(up + slope * down, variance.clamp(min=0).sqrt())

    def scales_channels(self, channels: int) -> bool:
        return True


class QReLU6(FixedLayer):
    """min(max(x, 0), 6); exact."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True, ends_chain=True)

    def forward(self, x: QTensor) -> QTensor:
        return x.clipped_relu(6.0, x.interval.clip(Interval(0, 0, 0), Interval(6, 6, 0)), where=self.name)

    def operators(self) -> Steps:
        return [("", ops.Clip(ops.Const.of(0.0), ops.Const.of(6.0)))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0].limited(0.0, 6.0)

    def scales_channels(self, channels: int) -> bool:
        return False


def _relu(call: Call) -> Layers:
    return [QReLU()]


def _relu6(call: Call) -> Layers:
    return [QReLU6()]


FAMILY = Family(
    layers=(QReLU, QLeakyReLU, QReLU6),
    modules={nn.ReLU: _relu, nn.ReLU6: _relu6},
    functions={
        F.relu: ("input inplace", _relu),
        torch.relu: ("input", _relu),
        torch.relu_: ("input", _relu),
        F.relu6: ("input inplace", _relu6),
    },
    methods={"relu": ("input", _relu), "relu_": ("input", _relu)},
    elementwise=True,
)
