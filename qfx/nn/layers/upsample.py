"""Interpolation: the nearest pixel here, between pixels by ``resampling.linear``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from qfx import operators as ops
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.moving.take import QTake
from qfx.nn.layers.resampling.linear import QInterpolate, QInterpolateFurther, interpolated
from qfx.nn.qtensor import QTensor


class QUpsample(FixedLayer):
    """Every pixel repeated ``factors`` times along each spatial axis (nearest neighbour); exact."""

    traits: ClassVar[Traits] = Traits(moves_only=True, keeps_grid=True, reads_uncast=False)

    def __init__(self, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: QTensor) -> QTensor:
        value = x.tensor()
        batch, channels, *size = value.shape
        split = [part for n in size for part in (n, 1)]
        repeated = [part for n, factor in zip(size, self.factors, strict=True) for part in (n, factor)]
        joined = [n * factor for n, factor in zip(size, self.factors, strict=True)]
        value = value.reshape(batch, channels, *split).expand(batch, channels, *repeated).reshape(batch, channels, *joined)
        return QTensor(value, x.interval)

    def operators(self) -> Steps:
        return [("", ops.Upsample(self.factors))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0]

    def scales_channels(self, channels: int) -> bool:
        return True


_NEAREST = ("nearest", "nearest-exact")


def _upsample(call: Call) -> Layers:
    mode = call.get("mode", "nearest")
    if mode not in _NEAREST:
        return interpolated(call)
    size, result = call.in_shape[1:], call.out_shape[1:]
    # PyTorch finds the source of a pixel in float arithmetic, and each axis by itself: what it finds in the numbers of the pixels is the answer.
    numbers = torch.arange(math.prod(size), dtype=torch.float32 if math.prod(size) < 1 << 24 else torch.float64).reshape(1, 1, *size)
    found = F.interpolate(numbers, call.get("size"), call.get("scale_factor"), mode, recompute_scale_factor=call.get("recompute_scale_factor"))
    orders = []
    for axis, count in enumerate(size):
        line = found[0, 0].movedim(axis, 0).reshape(result[axis], -1)[:, 0].long()
        orders.append((line // math.prod(size[axis + 1 :]) % count).tolist())
    return repeated(size, orders)


def repeated(size: tuple[int, ...], orders: Sequence[Sequence[int]]) -> list[FixedLayer]:
    """The layers that take the pixels of ``orders`` along each spatial axis of a value of ``size``; each repeated equally often is upsampling."""
    factors = tuple(len(order) // n for n, order in zip(size, orders, strict=True))
    evenly = ([index for index in range(n) for _ in range(factor)] for n, factor in zip(size, factors, strict=True))
    if all(list(order) == even for order, even in zip(orders, evenly, strict=True)):
        return [] if set(factors) == {1} else [QUpsample(factors)]
    return [QTake(axis, tuple(order)) for axis, (n, order) in enumerate(zip(size, orders, strict=True), start=1) if list(order) != [*range(n)]]


FAMILY = Family(
    layers=(QUpsample, QTake, QInterpolate, QInterpolateFurther),
    modules=dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), _upsample),
    functions={F.interpolate: ("input size scale_factor mode align_corners recompute_scale_factor antialias", _upsample)},
    moving=lambda arguments: arguments.get("mode", "nearest") in _NEAREST,
)
