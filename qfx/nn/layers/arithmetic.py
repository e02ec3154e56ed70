"""Arithmetic between two values of one shape: addition, subtraction and the product of their elements."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qfx import operators as ops
from qfx.capture.refusals import limits, remedies
from qfx.nn.call import Call, Family, Layers, Rule, name_of, origin
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.qtensor import QTensor, dtype_of


class QAdd(FixedLayer):
    """a + b, exact: operands are aligned to the finer grid."""

    traits = Traits(moves_only=False, keeps_grid=False, reads_uncast=True, aligns=True)

    def forward(self, a: QTensor, b: QTensor) -> QTensor:
        return a.add(b, where=self.name)

    def operators(self) -> Steps:
        return [("", ops.Add())]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        (mean_a, var_a), (mean_b, var_b) = _moments(sources)
        if sources[0] is sources[1]:
            return Clipped.normal(2.0 * mean_a, 2.0 * var_a.sqrt())
        return Clipped(mean_a + mean_b, (var_a + var_b).sqrt(), sources[0].low + sources[1].low, sources[0].high + sources[1].high)

    def scales_channels(self, channels: int) -> bool:
        return False


class QSub(FixedLayer):
    """a - b, exact."""

    traits = Traits(moves_only=False, keeps_grid=False, reads_uncast=True, aligns=True)

    def forward(self, a: QTensor, b: QTensor) -> QTensor:
        return a.add(b.negated(), where=self.name)

    def operators(self) -> Steps:
        return [("", ops.Sub())]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        (mean_a, var_a), (mean_b, var_b) = _moments(sources)
        if sources[0] is sources[1]:
            return Clipped.normal(0.0 * mean_a, 0.0 * var_a.sqrt())
        return Clipped(mean_a - mean_b, (var_a + var_b).sqrt(), sources[0].low - sources[1].high, sources[0].high - sources[1].low)

    def scales_channels(self, channels: int) -> bool:
        return False


class QMul(FixedLayer):
    """a * b elementwise, exact."""

    traits = Traits(moves_only=False, keeps_grid=False, reads_uncast=False)

    def forward(self, a: QTensor, b: QTensor) -> QTensor:
        interval = a.interval * b.interval
        dtype = dtype_of(interval, torch.promote_types(a.value.dtype, b.value.dtype), where=self.name)
        return QTensor(a.tensor().to(dtype) * b.tensor().to(dtype), interval)

    def operators(self) -> Steps:
        return [("", ops.Mul())]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        (mean_a, var_a), (mean_b, var_b) = _moments(sources)
        if sources[0] is sources[1]:
            return Clipped.normal(mean_a.square() + var_a, (2 * var_a.square() + 4 * var_a * mean_a.square()).sqrt())
        variance = var_a * var_b + var_a * mean_b.square() + var_b * mean_a.square()
        return Clipped.normal(mean_a * mean_b, variance.sqrt())

    def scales_channels(self, channels: int) -> bool:
        return False


def _moments(sources: Sequence[Clipped]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    a, b = sources
    return a.moments(), b.moments()


def _arithmetic(layer: type[FixedLayer], kind: str) -> Rule:
    """The rule of an operation of two values; ``kind``: what ``remedies.with_constant`` calls it."""

    def rule(call: Call) -> Layers:
        a, b = call.arguments.get("input"), call.arguments.get("other")
        values = [side for side in (a, b) if isinstance(side, fx.Node) and side in call.traced.shapes]
        if len(values) < 2:
            return _with_constant(call, kind, values[0], b if values[0] is a else a)
        if call.get("alpha", 1) != 1:
            raise call.refuse(f"alpha={call.get('alpha')}", "leave alpha at 1")
        left, right = (call.traced.shapes[side] for side in values)
        if left != right:
            raise call.refuse(f"operands of shapes {left} and {right}", limits.one_shape(left, right, call.out_shape))
        return [layer()]

    return rule


def _with_constant(call: Call, kind: str, value: fx.Node, constant: Any) -> Layers:
    if kind == "add" and isinstance(constant, int | float) and constant == 0:  # sum([a, b]) starts so
        return []
    fixed = call.traced.fixed.get(constant) if isinstance(constant, fx.Node) else constant
    shape = call.traced.shapes[value]
    if call.get("alpha", 1) != 1 or not isinstance(fixed, int | float | torch.Tensor):
        raise call.refuse("arithmetic with a constant", "fold it into a neighbouring layer's weights (BatchNorm scales and shifts)")
    if kind == "sub" and value is call.arguments.get("other"):
        kind = "rsub"
    what = f"arithmetic with a constant: {call.name} with {fixed}"
    if isinstance(constant, fx.Node):
        what = f"reads {name_of(constant)!r}, which is not computed from the input"
    raise call.refuse(what, remedies.with_constant(kind, fixed, shape, origin(value, call.traced, call.absorbing)))


_ADD, _SUB, _MUL = _arithmetic(QAdd, "add"), _arithmetic(QSub, "sub"), _arithmetic(QMul, "mul")

FAMILY = Family(
    layers=(QAdd, QSub, QMul),
    functions={
        operator.add: ("input other", _ADD),
        operator.iadd: ("input other", _ADD),
        torch.add: ("input other alpha", _ADD),
        operator.sub: ("input other", _SUB),
        operator.isub: ("input other", _SUB),
        torch.sub: ("input other alpha", _SUB),
        operator.mul: ("input other", _MUL),
        operator.imul: ("input other", _MUL),
        torch.mul: ("input other", _MUL),
        torch.multiply: ("input other", _MUL),
    },
    methods={
        "add": ("input other alpha", _ADD),
        "add_": ("input other alpha", _ADD),
        "sub": ("input other alpha", _SUB),
        "sub_": ("input other alpha", _SUB),
        "mul": ("input other", _MUL),
        "mul_": ("input other", _MUL),
    },
    takes_constants=True,
)
