"""ONNX operators on single numbers: arithmetic, comparisons, activations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor
from torch.nn import functional

from qfx.capture.assemble import Value
from qfx.capture.onnx import recognized
from qfx.capture.onnx.node import Handler, Node


def _plain(function: Callable[..., Any], **defaults: float) -> Handler:
    """Of one argument; ``defaults``: attributes of numbers, given on by name."""
    return lambda node: node.call(function, node.x(), **{key: node.number(key, value) for key, value in defaults.items()})


def _first(*ways: Callable[[Node], Value | None], then: Handler) -> Handler:
    """What the first of these ways recognizes; else as the operator stands."""

    def handle(node: Node) -> Value | list[Value]:
        found = next((result for way in ways if (result := way(node)) is not None), None)
        return then(node) if found is None else found

    return handle


def _binary(
    function: Callable[..., Any], absorb: Callable[[Tensor, bool], tuple[Tensor | None, Tensor | None] | None] | None = None
) -> Callable[[Node], Value]:
    """Of two arguments. A constant beside the result of a layer joins its weights: by the (scale, shift) that ``absorb`` makes of it, told whether
    the constant comes first."""

    def handle(node: Node) -> Value:
        at = 0 if isinstance(node.arguments[0], Value) else 1
        first, other = node.arguments[at], node.arguments[1 - at]
        if absorb is not None and isinstance(first, Value) and isinstance(other, np.ndarray) and first.layer is not None and node.alone(at):
            pair = absorb(torch.from_numpy(np.array(other, dtype=np.float32)), at == 1)
            taken = None if pair is None else node.make.absorbed(first, *pair)
            if taken is not None:
                return taken
        left, right = node.operand(0), node.operand(1)
        if function in _LEFT_IS_A_TENSOR and not isinstance(left, Value):
            left = node.x(0)
        return node.call(function, left, right)

    return handle


def _div(node: Node) -> Value:
    whole = all(not np.issubdtype(_dtype(argument), np.floating) for argument in node.arguments)
    if whole:
        return node.call(torch.div, node.x(0), node.operand(1), rounding_mode="trunc")
    return recognized.variance(node) or _DIV(node)


def _dtype(argument: Any) -> Any:
    return argument.data.numpy().dtype if isinstance(argument, Value) else argument.dtype


def _many(mean: bool) -> Handler:
    """Of any number of arguments, one after the other."""

    def handle(node: Node) -> Value:
        parts = [node.operand(index) for index in range(len(node.arguments))]
        parts.sort(key=lambda part: not isinstance(part, Value))
        result: Value = functools.reduce(lambda a, b: node.call(torch.add, a, b), parts)
        return node.call(torch.mul, result, 1 / len(parts)) if mean else result

    return handle


def _extreme(function: Callable[..., Any]) -> Handler:
    """Of any number of arguments; a number among them is a bound."""
    bound = "min" if function is torch.maximum else "max"

    def handle(node: Node) -> Value:
        parts = [node.operand(index) for index in range(len(node.arguments))]
        values, numbers = ([part for part in parts if isinstance(part, Value) is kind] for kind in (True, False))
        result: Value = functools.reduce(lambda a, b: node.call(function, a, b), values)
        for number in numbers:
            result = node.call(torch.clamp, result, **{bound: number})
        return result

    return handle


def _sum(node: Node) -> Value | list[Value]:
    return _ADD(node) if len(node.arguments) == 2 else _many(mean=False)(node)


def _pow(node: Node) -> Value:
    exponent = node.operand(1)
    if exponent == 2:
        return node.call(torch.square, node.x())
    if isinstance(exponent, float | int) and float(exponent).is_integer():
        exponent = int(exponent)
    return node.call(torch.pow, node.operand(0), exponent)


def _clip(node: Node) -> Value:
    low, high = (None if bound is None else float(np.ravel(bound)[0]) for bound in (node.constant(1, "min"), node.constant(2, "max")))
    low, high = None if low is not None and low < -1e30 else low, None if high is not None and high > 1e30 else high
    if (low, high) == (0.0, None):
        return node.call(functional.relu, node.x())
    if (low, high) == (0.0, 6.0):
        return node.call(functional.relu6, node.x())
    return node.x() if low is None and high is None else node.call(torch.clamp, node.x(), low, high)


def _prelu(node: Node) -> Value:
    x, slope = node.x(), node.tensor(1)
    if slope is None:
        raise node.refuse("no slope", "export it again")
    channels = x.data.shape[1]
    aligned = slope.reshape((1,) * (x.data.dim() - slope.dim()) + tuple(slope.shape))
    if slope.numel() == 1 or tuple(aligned.shape) == (1, channels, *(1,) * x.rank):
        module = torch.nn.PReLU(slope.numel())
        with torch.no_grad():
            module.weight.copy_(slope.reshape(-1))
        return node.layer(module)
    held = node.make.constant(f"{node.name}_slope", slope)
    return node.call(torch.where, node.call(torch.ge, x, 0), x, node.call(torch.mul, x, held))


def _hard_sigmoid(node: Node) -> Value:
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    if (np.float32(alpha), beta) == (np.float32(1 / 6), 0.5):
        return node.call(functional.hardsigmoid, node.x())
    return node.call(torch.clamp, node.call(torch.add, node.call(torch.mul, node.x(), alpha), beta), 0.0, 1.0)


def _selu(node: Node) -> Value:
    alpha, gamma = node.number("alpha", 1.67326319217681884765625), node.number("gamma", 1.05070102214813232421875)
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.050701) < 1e-6:
        return node.call(functional.selu, node.x())
    return node.call(torch.mul, node.call(functional.elu, node.x(), alpha), gamma)


def _swish(node: Node) -> Value:
    alpha = node.number("alpha", 1.0)
    if alpha == 1.0:
        return node.call(functional.silu, node.x())
    return node.call(torch.mul, node.x(), node.call(torch.sigmoid, node.call(torch.mul, node.x(), alpha)))


def _where(node: Node) -> Value:
    condition, rest = node.arguments[0], node.arguments[2]
    if isinstance(condition, Value) and isinstance(rest, Value) and condition.node.target is torch.isnan and condition.node.args[0] is rest.node:
        return rest  # what would be NaN has no fixed-point form: PyTorch exports so what attention hides as a whole
    if isinstance(condition, np.ndarray) and condition.size == 1:  # decided when it was exported
        taken, other = (node.x(place).data.shape for place in ((1, 2) if bool(np.ravel(condition)[0]) else (2, 1)))
        if tuple(taken) == np.broadcast_shapes(taken, other, condition.shape):
            return node.x(1 if bool(np.ravel(condition)[0]) else 2)
    return node.call(torch.where, node.x(0), node.operand(1), node.operand(2))


def _is_nan(node: Node) -> Value:
    return node.call(torch.isnan, node.x())


def _cast(node: Node) -> Value:
    to, x = node.integer("to", onnx.TensorProto.FLOAT), node.x()
    if node.proto.op_type == "CastLike":
        to = helper.np_dtype_to_tensor_dtype(_dtype(node.arguments[1]))
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    if x.data.is_floating_point() and to in floats:
        return x  # the numbers' formats are the quantizers' affair
    if to in floats:
        return node.call(torch.Tensor.float, x)
    dtype = torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(to))).dtype
    return x if x.data.dtype == dtype else node.call(torch.Tensor.to, x, dtype)


def _same(node: Node) -> Value:
    return node.x()


_ADD = _binary(torch.add, lambda c, _: (None, c))
_LEFT_IS_A_TENSOR = (torch.eq, torch.gt, torch.ge, torch.lt, torch.le, torch.logical_and, torch.logical_or)
_DIV = _binary(torch.div, lambda c, first: None if first else (1 / c, None))

HANDLERS: dict[str, Handler] = {
    "Add": _ADD,
    "Sub": _binary(torch.sub, lambda c, first: (torch.tensor(-1.0), c) if first else (None, -c)),
    "Mul": _first(recognized.product, recognized.scaled_length, then=_binary(torch.mul, lambda c, _: (c, None))),
    "Div": _div,
    "Sum": _sum,
    "Mean": _many(mean=True),
    "Max": _extreme(torch.maximum),
    "Min": _extreme(torch.minimum),
    "Pow": _pow,
    "Abs": _plain(torch.abs),
    "Neg": _plain(torch.neg),
    "Sign": _plain(torch.sign),
    "Sqrt": _plain(torch.sqrt),
    "Reciprocal": _first(recognized.reciprocal, then=_plain(torch.reciprocal)),
    "Exp": _plain(torch.exp),
    "Log": _first(recognized.logarithm, then=_plain(torch.log)),
    "Erf": _plain(torch.erf),
    "Sin": _plain(torch.sin),
    "Cos": _plain(torch.cos),
    "Atan": _plain(torch.atan),
    "Floor": _plain(torch.floor),
    "Ceil": _plain(torch.ceil),
    "Round": _plain(torch.round),
    "Relu": _plain(functional.relu),
    "Sigmoid": _plain(torch.sigmoid),
    "Tanh": _plain(torch.tanh),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "Elu": _plain(functional.elu, alpha=1.0),
    "Celu": _plain(functional.celu, alpha=1.0),
    "Selu": _selu,
    "Softplus": _plain(functional.softplus),
    "Softsign": _plain(functional.softsign),
    "Mish": _plain(functional.mish),
    "Gelu": lambda node: node.call(functional.gelu, node.x(), approximate=node.text("approximate", "none")),
    "Swish": _swish,
    "PRelu": _prelu,
    "LeakyRelu": lambda node: node.call(functional.leaky_relu, node.x(), node.number("alpha", 0.01)),
    "ThresholdedRelu": lambda node: node.call(functional.threshold, node.x(), node.number("alpha", 1.0), 0.0),
    "Clip": _clip,
    "Equal": _binary(torch.eq),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Not": _plain(torch.logical_not),
    "Where": _first(recognized.softplus, then=_where),
    "IsNaN": _is_nan,
    "Cast": _cast,
    "CastLike": _cast,
    "Identity": _same,
    "Dropout": _same,
}
