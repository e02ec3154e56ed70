"""Arithmetic between two values, and of values and constants: sums, differences, products, and quotients by constants."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from qfx import operators as ops
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Own, Steps, Traits
from qfx.nn.layers.elementwise.constant import QAddConstant, QMulConstant, QScaleBy
from qfx.nn.layers.elementwise.expand import QExpand
from qfx.nn.layers.elementwise.expression import Expression, Operand
from qfx.nn.layers.elementwise.held import Held
from qfx.nn.qtensor import QTensor, dtype_of


class QAdd(FixedLayer):
    """a + b, exact: operands are aligned to the finer grid."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True, aligns=True)

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

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True, aligns=True)

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

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=False)

    def forward(self, a: QTensor, b: QTensor) -> QTensor:
        interval = a.interval * b.interval
        dtype = dtype_of(interval, torch.promote_types(a.value.dtype, b.value.dtype), where=self.name)
        return QTensor(a.tensor().to(dtype) * b.tensor().to(dtype), interval)

    def multiplied(self, bits: Sequence[Tensor], own: Own) -> Tensor:
        return bits[0] * bits[1]

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


def _add(call: Call) -> Layers:
    """input + alpha * other."""
    e = Expression(call)
    return e.parts(e.sum(e["input"], _times_alpha(e, e["other"]), QAdd))


def _sub(call: Call) -> Layers:
    """input - alpha * other."""
    e = Expression(call)
    return e.parts(e.sum(e["input"], _times_alpha(e, e["other"]), QSub, minus=True))


def _rsub(call: Call) -> Layers:
    """other - alpha * input."""
    e = Expression(call)
    return e.parts(e.sum(e["other"], _times_alpha(e, e["input"]), QSub, minus=True))


def _mul(call: Call) -> Layers:
    e = Expression(call)
    return e.parts(e.product(e["input"], e["other"], QMul))


def _div(call: Call) -> Layers:
    """By a constant: a product with its reciprocal, which is computed in float64 and then cast."""
    if call.get("rounding_mode") is not None:
        raise call.refuse(f"division with rounding_mode={call.get('rounding_mode')!r}", "leave the quotient unrounded: a Cast rounds it")
    e = Expression(call)
    return e.parts(e.product(e["input"], _reciprocal(call, e["other"]), QMul))


def _reciprocal(call: Call, operand: Operand) -> Held:
    if not isinstance(operand, Held):
        raise call.refuse("division by a value", "divide by a constant, or multiply by a reciprocal that is computed as a function of the value")
    if bool((operand.now() == 0).any()):
        raise call.refuse("division by a constant that holds 0", "divide by numbers other than 0")
    return operand.inverse()


def _times_alpha(e: Expression, operand: Operand) -> Operand:
    return e.product(Held(float(e.call.get("alpha", 1))), operand, QMul)


def _addcmul(call: Call) -> Layers:
    """input + value * tensor1 * tensor2."""
    e = Expression(call)
    factor = e.product(Held(float(call.get("value", 1))), e["tensor1"], QMul)
    return e.parts(e.sum(e["input"], e.product(factor, e["tensor2"], QMul), QAdd))


def _addcdiv(call: Call) -> Layers:
    """input + value * tensor1 / tensor2."""
    e = Expression(call)
    factor = e.product(Held(float(call.get("value", 1))), _reciprocal(call, e["tensor2"]), QMul)
    return e.parts(e.sum(e["input"], e.product(e["tensor1"], factor, QMul), QAdd))


def _lerp(call: Call) -> Layers:
    """input + weight * (end - input)."""
    e = Expression(call)
    start = e["input"]
    return e.parts(e.sum(start, e.product(e["weight"], e.sum(e["end"], start, QSub, minus=True), QMul), QAdd))


_DIV = ("input other rounding_mode", _div)

FAMILY = Family(
    layers=(QAdd, QSub, QMul, QAddConstant, QMulConstant, QScaleBy, QExpand),
    functions={
        operator.add: ("input other", _add),
        operator.iadd: ("input other", _add),
        torch.add: ("input other alpha", _add),
        operator.sub: ("input other", _sub),
        operator.isub: ("input other", _sub),
        torch.sub: ("input other alpha", _sub),
        torch.subtract: ("input other alpha", _sub),
        torch.rsub: ("input other alpha", _rsub),
        operator.mul: ("input other", _mul),
        operator.imul: ("input other", _mul),
        torch.mul: ("input other", _mul),
        torch.multiply: ("input other", _mul),
        operator.truediv: ("input other", _div),
        operator.itruediv: ("input other", _div),
        torch.div: _DIV,
        torch.divide: _DIV,
        torch.true_divide: ("input other", _div),
        torch.addcmul: ("input tensor1 tensor2 value", _addcmul),
        torch.addcdiv: ("input tensor1 tensor2 value", _addcdiv),
        torch.lerp: ("input end weight", _lerp),
    },
    methods={
        **dict.fromkeys(("add", "add_"), ("input other alpha", _add)),
        **dict.fromkeys(("sub", "sub_", "subtract", "subtract_"), ("input other alpha", _sub)),
        **dict.fromkeys(("mul", "mul_", "multiply", "multiply_"), ("input other", _mul)),
        **dict.fromkeys(("div", "div_", "divide", "divide_"), _DIV),
        **dict.fromkeys(("true_divide", "true_divide_"), ("input other", _div)),
        **dict.fromkeys(("addcmul", "addcmul_"), ("input tensor1 tensor2 value", _addcmul)),
        **dict.fromkeys(("addcdiv", "addcdiv_"), ("input tensor1 tensor2 value", _addcdiv)),
        **dict.fromkeys(("lerp", "lerp_"), ("input end weight", _lerp)),
    },
    takes_constants=True,
    elementwise=True,
)
