"""Operations that are small graphs of other families' layers: the square and the magnitude of each number."""

from __future__ import annotations

import operator

import torch
from torch import fx

from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.layers.arithmetic import QAdd, QMul, QSub
from qfx.nn.layers.relu import QReLU
from qfx.nn.layers.tables.lookup import QLookup
from qfx.nn.layers.tables.rules import exponential, power


def _square(call: Call) -> list[Part]:
    """x * x, which is never negative: the ReLU tells its bounds so, and the Cast that follows needs no sign."""
    product = Part(QMul(), (0, 0), "_product")
    return [product, Part(QReLU(), (product,))]


def _pow(call: Call) -> Layers:
    """The square is a product; other powers, and exponentials, are functions by table."""
    base, exponent = call.arguments.get("input"), call.arguments.get("exponent")
    if isinstance(base, fx.Node) and isinstance(exponent, int | float):
        return _square(call) if exponent == 2 else [] if exponent == 1 else [power(float(exponent))]
    if isinstance(base, int | float) and isinstance(exponent, fx.Node) and base > 0:
        return [exponential(float(base))]
    remedy = "where the base is positive, torch.exp(torch.log(a) * b) is the same"
    raise call.refuse("a power of two values, or of a base that is not positive, has no fixed-point form in qfx", remedy)


def _abs(call: Call) -> list[Part]:
    """|x| = relu(x) + relu(-x), exact; relu(x) - x is never negative, which the ReLU behind it tells its bounds, and so the Cast that follows."""
    positive = Part(QReLU(), (0,), "_positive")
    below = Part(QSub(), (positive, 0), "_below")
    negative = Part(QReLU(), (below,), "_negative")
    return [positive, below, negative, Part(QAdd(), (positive, negative))]


FAMILY = Family(
    layers=(QAdd, QLookup, QMul, QReLU, QSub),
    functions={
        torch.square: ("input", _square),
        operator.pow: ("input exponent", _pow),
        torch.pow: ("input exponent", _pow),
        operator.abs: ("input", _abs),
        torch.abs: ("input", _abs),
        torch.absolute: ("input", _abs),
    },
    methods={
        **dict.fromkeys(("square", "square_"), ("input", _square)),
        **dict.fromkeys(("pow", "pow_"), ("input exponent", _pow)),
        **dict.fromkeys(("abs", "abs_", "absolute"), ("input", _abs)),
    },
    elementwise=True,
)
