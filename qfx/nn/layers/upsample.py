"""Nearest-neighbour upsampling by whole factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from qfx import operators as ops
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.qtensor import QTensor


class QUpsample(FixedLayer):
    """Every pixel repeated ``factors`` times along each spatial axis (nearest neighbour); exact."""

    traits = Traits(moves_only=True, keeps_grid=True, reads_uncast=False)

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


def _upsample(call: Call) -> Layers:
    mode = call.get("mode", "nearest")
    if mode not in ("nearest", "nearest-exact"):
        raise call.refuse(f"upsampling by mode={mode!r}", "use mode='nearest', or a ConvTranspose, which learns what to put between the pixels")
    size, result = call.in_shape[1:], call.out_shape[1:]
    factors = tuple(out // n for n, out in zip(size, result, strict=True))
    # PyTorch finds the source of a pixel in float arithmetic; what it finds here must be the pixel divided by the factor.
    sources = torch.arange(math.prod(size), dtype=torch.float32).reshape(1, 1, *size)
    found = F.interpolate(sources, call.get("size"), call.get("scale_factor"), mode, recompute_scale_factor=call.get("recompute_scale_factor"))
    if min(factors) >= 1:
        for axis, factor in enumerate(factors, start=2):
            sources = sources.repeat_interleave(factor, axis)
    if not torch.equal(sources, found):
        raise call.refuse(f"upsampling from {size} to {result} pixels", "scale every axis by a whole number (a large one with mode='nearest-exact')")
    return [] if set(factors) == {1} else [QUpsample(factors)]


FAMILY = Family(
    layers=(QUpsample,),
    modules={nn.Upsample: _upsample, nn.UpsamplingNearest2d: _upsample},
    functions={F.interpolate: ("input size scale_factor mode align_corners recompute_scale_factor", _upsample)},
)
