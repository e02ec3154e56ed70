"""The greater and the lesser of two values, and values held between bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from qfx import operators as ops
from qfx.fixed import arith
from qfx.ir.values import Const
from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.elementwise.constant import WithConstant
from qfx.nn.layers.elementwise.expand import QExpand
from qfx.nn.layers.elementwise.expression import Expression, Operand, Term
from qfx.nn.layers.elementwise.held import rounded
from qfx.nn.layers.relu import QReLU, QReLU6
from qfx.nn.qtensor import QTensor, check_float64, dtype_of

FINEST = 40
"""Fractional bits of a bound that is rounded: the result lies on its grid, and what float64 holds has to reach to the greatest value."""


class _Extreme(FixedLayer, abstract=True):
    """Of two values of one shape, number by number; exact. The gradient goes to the one that wins, and half to each of equals."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True, ends_chain=True, aligns=True)

    def scales_channels(self, channels: int) -> bool:
        return False


class QMax(_Extreme):
    """The greater of two values."""

    def forward(self, a: QTensor, b: QTensor) -> QTensor:
        interval = check_float64(arith.greater(a.interval, b.interval), self.name)
        return QTensor(torch.maximum(*_alike(a, b, self.name)), interval)

    def operators(self) -> Steps:
        return [("", ops.Max())]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        a, b = sources
        return a if a is b else _extreme(a, b)


class QMin(_Extreme):
    """The lesser of two values."""

    def forward(self, a: QTensor, b: QTensor) -> QTensor:
        interval = check_float64(arith.lesser(a.interval, b.interval), self.name)
        return QTensor(torch.minimum(*_alike(a, b, self.name)), interval)

    def operators(self) -> Steps:
        return [("", ops.Min())]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        a, b = sources
        return a if a is b else _negated(_extreme(_negated(a), _negated(b)))


def _alike(a: QTensor, b: QTensor, where: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in the dtype that holds either."""
    x, y = a.tensor(), b.tensor()
    dtype = dtype_of(a.interval | b.interval, torch.promote_types(x.dtype, y.dtype), where=where)
    return x.to(dtype), y.to(dtype)


class _Beside(WithConstant, abstract=True):
    """Of a value and a constant of role ``constant``, one entry, one per channel, or one per element; exact, as the value that moves by the constant,
    a rectifier, and the move back. Gradients: as of two values."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True, ends_chain=True)

    sign: ClassVar[int]
    """1 for the greater, -1 for the lesser: x = sign * max(sign * x, sign * constant)."""

    def initialize(self, x: QTensor) -> None:
        self.constant.initialize(x.interval)

    def forward(self, x: QTensor) -> QTensor:
        constant: QTensor = self.constant()
        bound = constant.interval
        beyond = check_float64(x.interval + -bound if self.sign > 0 else bound + -x.interval, self.name).relu()
        interval = check_float64(bound + (beyond if self.sign > 0 else -beyond), self.name)
        value, other = x.tensor(), constant.value
        if other.dim() == 1:
            other = other.reshape(-1, *(1,) * (value.dim() - 2))
        dtype = dtype_of(interval | x.interval | bound, torch.promote_types(value.dtype, other.dtype), where=self.name)
        return QTensor((torch.maximum if self.sign > 0 else torch.minimum)(value.to(dtype), other.to(dtype)), interval)

    def operators(self) -> Steps:
        there, back = (self.constant.const(f"{self.name}.constant", negated=negated) for negated in (self.sign > 0, False))
        scale = None if self.sign > 0 else ops.Const.of(-1.0)
        return [(".moved", ops.Affine(scale, there)), (".beyond", ops.Relu()), ("", ops.Affine(scale, back))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        first, square = self.constant.moments()
        bound = Clipped.normal(first, (square - first.square()).clamp(min=0).sqrt())
        x = sources[0]
        if len(self.constant.form) < 2:  # each channel's own bound
            limit = torch.maximum if self.sign > 0 else torch.minimum
            return Clipped(x.mean + 0 * first, x.std + 0 * first, limit(x.low, first), limit(x.high, first))
        return _extreme(x, bound) if self.sign > 0 else _negated(_extreme(_negated(x), _negated(bound)))


class QMaxConstant(_Beside):
    """The greater of a value and a constant."""

    sign = 1


class QMinConstant(_Beside):
    """The lesser of a value and a constant."""

    sign = -1


def _negated(x: Clipped) -> Clipped:
    return Clipped(-x.mean, x.std, -x.high, -x.low)


def _extreme(a: Clipped, b: Clipped) -> Clipped:
    """The greater of two independent normal numbers (Clark, "The greatest of a finite set of random variables", 1961)."""
    (mean_a, var_a), (mean_b, var_b) = a.moments(), b.moments()
    spread = (var_a + var_b).clamp(min=1e-30).sqrt()
    alpha = (mean_a - mean_b) / spread
    density, below = torch.exp(-0.5 * alpha.square()) / math.sqrt(2 * math.pi), torch.special.ndtr(alpha)
    first = mean_a * below + mean_b * (1 - below) + spread * density
    square = (var_a + mean_a.square()) * below + (var_b + mean_b.square()) * (1 - below) + (mean_a + mean_b) * spread * density
    return replace(Clipped.normal(first, (square - first.square()).clamp(min=0).sqrt()), low=torch.maximum(a.low, b.low) + 0 * first)


class QClamp(FixedLayer):
    """min(max(x, low), high), either bound may be missing; exact, the bounds as they are given. The gradient is 1 from bound to bound, else 0."""

    low: Const | None
    high: Const | None
    ends: tuple[float | None, ...]

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True, ends_chain=True)

    def __init__(self, low: Const | None, high: Const | None) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.ends = tuple(None if bound is None else float(bound.values) for bound in (low, high))

    def forward(self, x: QTensor) -> QTensor:
        low, high = (None if bound is None else bound.interval.hull for bound in (self.low, self.high))
        interval = check_float64(arith.clipped(x.interval, low, high), self.name)
        value = x.tensor()
        return QTensor(torch.clamp(value.to(dtype_of(interval, value.dtype, where=self.name)), *self.ends), interval)

    def operators(self) -> Steps:
        return [("", ops.Clip(self.low, self.high))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        low, high = self.ends
        return sources[0].limited(-math.inf if low is None else low, math.inf if high is None else high)

    def scales_channels(self, channels: int) -> bool:
        return all(bound in (None, 0.0) for bound in self.ends)


class QFineClamp(QClamp):
    """Bounds finer than whole numbers: the result may lie on their grid, and is due for a Cast."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True, ends_chain=True)


def clamp(call: Call, low: float | None, high: float | None) -> Layers:
    """The layers that hold a value between two numbers. A bound that the word length of ``constant`` does not hold is rounded to it; a tiny one,
    such as the 1e-12 beside a norm, to fewer bits."""
    low, high = (None if bound is None or math.isinf(bound) else float(bound) for bound in (low, high))
    if low is None and high is None:
        return []
    if low is not None and high is not None and low > high:
        low = high  # as torch: all numbers become the upper bound
    if low == 0 and high is None:
        return [QReLU()]
    if (low, high) == (0.0, 6.0):
        return [QReLU6()]
    label, also = f"{call.path}.constant", f"{call.first or call.path}.constant"
    spec = call.recipe.spec(label, "constant", also)
    ends = tuple(None if bound is None else rounded(bound, spec, FINEST) for bound in (low, high))
    fine = any(end is not None and end.grid > 0 for end in ends)
    return [(QFineClamp if fine else QClamp)(*ends)]


def _two(call: Call, layer: type[QMax] | type[QMin]) -> Layers:
    e = Expression(call)
    a, b = e["input"], e["other"]
    return e.parts(_extreme_of(e, a, b, layer))


def _extreme_of(e: Expression, a: Operand, b: Operand, layer: type[QMax] | type[QMin]) -> Operand:
    """The greater or the lesser of a value and another, or a constant."""
    if isinstance(a, Term) and isinstance(b, Term):
        return e.pair(a, b, layer, "_extreme")
    x, constant = e.beside(a, b)
    number, call = constant.number, e.call
    if number is not None:
        return e.layer(lambda: _first(clamp(call, number, None) if layer is QMax else clamp(call, None, number)), x, suffix="_extreme")
    beside = QMaxConstant if layer is QMax else QMinConstant
    return Term(x.shape, make=lambda path, first: beside(constant, call.recipe, path, first), reads=(x,), suffix="_extreme")


def _first(layers: Layers) -> FixedLayer:
    (layer,) = layers
    return layer.layer if isinstance(layer, Part) else layer


def maximum(call: Call) -> Layers:
    return _two(call, QMax)


def minimum(call: Call) -> Layers:
    return _two(call, QMin)


def _between(call: Call, low: str, high: str) -> Layers:
    """min(max(x, low), high): the bounds are numbers, constants or values; "" for one that there is none of."""
    e = Expression(call)
    found = [None if not name or call.arguments.get(name) is None else e.of(call.arguments[name]) for name in (low, high)]
    numbers = [None if bound is None or isinstance(bound, Term) else bound.number for bound in found]
    if all(bound is None or number is not None for bound, number in zip(found, numbers, strict=True)) and call.in_shape == call.out_shape:
        return clamp(call, *numbers)
    result: Operand = e["input"]
    layers: tuple[type[QMax] | type[QMin], ...] = (QMax, QMin)
    for bound, layer in zip(found, layers, strict=True):
        if bound is not None:
            result = _extreme_of(e, result, bound, layer)
    return e.parts(result)


def _clamp(call: Call) -> Layers:
    return _between(call, "min", "max")


def _clamp_min(call: Call) -> Layers:
    return _between(call, "min", "")


def _clamp_max(call: Call) -> Layers:
    return _between(call, "", "max")


def _hardtanh(call: Call) -> Layers:
    return clamp(call, float(call.get("min_val", -1.0)), float(call.get("max_val", 1.0)))


_CLAMP: tuple[str, Any] = ("input min max", _clamp)
_MAXIMUM, _MINIMUM = ("input other", maximum), ("input other", minimum)

FAMILY = Family(
    layers=(QMax, QMin, QMaxConstant, QMinConstant, QClamp, QFineClamp, QReLU, QReLU6, QExpand),
    modules={nn.Hardtanh: _hardtanh},
    functions={
        torch.maximum: _MAXIMUM,
        torch.minimum: _MINIMUM,
        torch.fmax: _MAXIMUM,
        torch.fmin: _MINIMUM,
        torch.clamp: _CLAMP,
        torch.clip: _CLAMP,
        torch.clamp_: _CLAMP,
        torch.clip_: _CLAMP,
        torch.clamp_min: ("input min", _clamp_min),
        torch.clamp_max: ("input max", _clamp_max),
        F.hardtanh: ("input min_val max_val inplace", _hardtanh),
        F.hardtanh_: ("input min_val max_val", _hardtanh),
    },
    methods={
        **dict.fromkeys(("maximum", "fmax"), _MAXIMUM),
        **dict.fromkeys(("minimum", "fmin"), _MINIMUM),
        **dict.fromkeys(("clamp", "clamp_", "clip", "clip_"), _CLAMP),
        **dict.fromkeys(("clamp_min", "clamp_min_"), ("input min", _clamp_min)),
        **dict.fromkeys(("clamp_max", "clamp_max_"), ("input max", _clamp_max)),
    },
    takes_constants=True,
    elementwise=True,
)
