"""Brevitas' layers for the same networks: fixed point, 8 bits per tensor, every power-of-two scale a learned parameter.

Brevitas has no fixed-point BatchNorm: it stays in float there, which is less work than qfx does. Casts stand where qfx's recipe puts them.

Its scales of activations are not learned from the start: through 300 steps of training (``collect_stats_steps``) each cast takes a percentile of its
input, which costs more than the cast; the step after makes a parameter of what was collected. What is timed must be past that: ``settle``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("BREVITAS_JIT", "0")

import brevitas.nn as qnn  # type: ignore[import-untyped, unused-ignore]
import torch
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


STEPS = 300
"""Of collecting: Brevitas' default."""


class BrevitasLayers(Layers):
    """Casts for weights, biases, activations, the input and the output; those of activations collect statistics for ``steps`` steps."""

    def __init__(self, steps: int = STEPS) -> None:
        self.signed, self.unsigned = (q.let(collect_stats_steps=steps) for q in (Int8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPoint))

    def conv(self, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        return qnn.QuantConv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False, weight_quant=LearnedWeight)  # type: ignore[no-any-return]

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        return qnn.QuantLinear(inputs, outputs, bias=True, weight_quant=LearnedWeight, bias_quant=LearnedBias)  # type: ignore[no-any-return]

    def relu(self) -> nn.Module:
        return qnn.QuantReLU(act_quant=self.unsigned)  # type: ignore[no-any-return]

    def entry(self) -> nn.Module:
        return qnn.QuantIdentity(act_quant=self.signed)  # type: ignore[no-any-return]

    def exit(self) -> nn.Module:
        return qnn.QuantIdentity(act_quant=self.signed, bit_width=16)  # type: ignore[no-any-return]

    def average(self) -> nn.Module:
        return qnn.QuantIdentity(act_quant=self.unsigned)  # type: ignore[no-any-return]


def collecting(model: nn.Module) -> int:
    """How many casts still collect statistics, or have yet to make a parameter of them."""
    casts: list[Any] = [module for module in model.modules() if hasattr(module, "collect_stats_steps")]
    return sum(cast.counter <= cast.collect_stats_steps for cast in casts)


def settle(model: nn.Module, step: Callable[[], object], steps: int = STEPS) -> None:
    """Train until no cast collects statistics any more; on one thread, for batches are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(steps + 1):
        step()
    torch.set_num_threads(threads)
    if collecting(model):
        raise RuntimeError(f"{collecting(model)} casts of Brevitas still collect statistics after {steps + 1} steps")
