"""Brevitas' layers for the same networks: fixed point, 8 bits per tensor, every power-of-two scale a learned parameter.

Brevitas has no fixed-point BatchNorm: it stays in float there, which is less work than qfx does. Casts stand where qfx's recipe puts them.
"""

from __future__ import annotations

import os

os.environ.setdefault("BREVITAS_JIT", "0")

import brevitas.nn as qnn  # type: ignore[import-untyped, unused-ignore]
from brevitas.inject.enum import ScalingImplType  # type: ignore[import-untyped, unused-ignore]
from brevitas.quant import (  # type: ignore[import-untyped, unused-ignore]
    Int8ActPerTensorFixedPoint,
    Int8BiasPerTensorFixedPointInternalScaling,
    Int8WeightPerTensorFixedPoint,
    Uint8ActPerTensorFixedPoint,
)
from torch import nn

from benchmarks.models import Layers


class LearnedWeight(Int8WeightPerTensorFixedPoint):  # type: ignore[misc]
    """As its base, with the scale a parameter that starts from the weights."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS


class LearnedBias(Int8BiasPerTensorFixedPointInternalScaling):  # type: ignore[misc]
    """As its base, with 16 bits and the scale a parameter that starts from the biases."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    bit_width = 16


class BrevitasLayers(Layers):
    """Casts for weights, biases, activations, the input and the output."""

    def conv(self, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        return qnn.QuantConv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False, weight_quant=LearnedWeight)  # type: ignore[no-any-return]

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return qnn.QuantLinear(inputs, outputs, bias=True, weight_quant=LearnedWeight, bias_quant=LearnedBias)  # type: ignore[no-any-return]

    def relu(self) -> nn.Module:
        return qnn.QuantReLU(act_quant=Uint8ActPerTensorFixedPoint)  # type: ignore[no-any-return]

    def entry(self) -> nn.Module:
        return qnn.QuantIdentity(act_quant=Int8ActPerTensorFixedPoint)  # type: ignore[no-any-return]

    def exit(self) -> nn.Module:
        return qnn.QuantIdentity(act_quant=Int8ActPerTensorFixedPoint, bit_width=16)  # type: ignore[no-any-return]

    def average(self) -> nn.Module:
        return qnn.QuantIdentity(act_quant=Uint8ActPerTensorFixedPoint)  # type: ignore[no-any-return]
