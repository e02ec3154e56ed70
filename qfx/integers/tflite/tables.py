"""Functions of one number: a table of 256 entries, computed as TFLite's kernels compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qfx import operators as ops
from qfx.errors import ExactnessError, UnsupportedError
from qfx.integers.steps import Ints
from qfx.integers.tflite import gates
from qfx.integers.tflite.arithmetic import beside
from qfx.integers.tflite.file import Op
from qfx.integers.tflite.network import Network
from qfx.integers.tflite.rounding import Rounding, Scaling, divided
from qfx.ir.values import Const

_NUMBERS = np.arange(-128, 128, dtype=np.int64)
_HIGHEST = (1 << 15) - 1
_DOUBT = 1e-4
"""How near to a half, in steps of the result, a float function decides by the last bits of the C library's exp."""


def leaky_relu(network: Network, op: Op) -> None:
    (_, zero), (_, shift) = network.quantized(op.inputs[0]), network.quantized(op.outputs[0])
    x, y = op.inputs[0], op.outputs[0]
    factors = network.ratio(x, under=y), network.ratio(x, under=y, factor=op.options["Alpha"])
    if network.width(x) != 8:
        _by_sign(network, op, _below(network, op), factors)
        return
    above, below = network.functions(factors, Rounding.DOUBLE)
    numbers = _NUMBERS - zero
    _table(network, op, np.where(numbers >= 0, above(numbers), below(numbers)) + shift)


def prelu(network: Network, op: Op) -> None:
    """As LEAKY_RELU, with a constant for each channel or each number, of the value's type."""
    (x, slope), y = op.inputs, op.outputs[0]
    network.constant(slope, "slope", op)
    sloped = network.emit(f"{network.name(y)}.sloped", ops.Affine(beside(network, op, slope, x), None), _below(network, op))
    _by_sign(network, op, sloped, (network.ratio(x, under=y), network.ratio(x, slope, under=y)))


def _below(network: Network, op: Op) -> str:
    """The part below 0."""
    return network.emit(f"{network.name(op.outputs[0])}.below", ops.Clip(None, Const(np.array(0), 0)), network.centered(op.inputs[0]))


def _by_sign(network: Network, op: Op, below: str, factors: tuple[float, float]) -> None:
    """What is above 0, scaled, plus ``below``, scaled: one of them is 0 each time."""
    result = network.result(op.outputs[0], op)
    part = replace(result, zero=0, ends=result.centered, width=result.width + 1)
    above = network.emit(f"{result.name}.above", ops.Relu(), network.centered(op.inputs[0]))
    parts = [
        network.stepped(replace(part, name=f"{result.name}.{side}"), sums, [scaling.function])
        for side, sums, scaling in zip(("upper", "lower"), (above, below), network.functions(factors, Rounding.DOUBLE), strict=True)
    ]
    total = network.emit(f"{result.name}.sum", ops.Add(), *parts)
    network.hold(op.outputs[0], network.finish(result, network.plus(f"{result.name}.shifted", total, result.zero)))


def logistic(network: Network, op: Op) -> None:
    if network.width(op.inputs[0]) == 16:
        gates.logistic(network, op)
        return
    _float(network, op, lambda x: 1 / (1 + np.exp(-x)))


def tanh(network: Network, op: Op) -> None:
    if network.width(op.inputs[0]) == 16:
        gates.tanh(network, op)
        return
    _float(network, op, np.tanh)


def hard_swish(network: Network, op: Op) -> None:
    """x * relu6(x + 3) / 6 in words of 16 bits, step by step as the kernel has it (reference/hard_swish.h of TFLite)."""
    (scale, zero), (out, shift) = network.quantized(op.inputs[0]), network.quantized(op.outputs[0])
    to_out, to_share = (Scaling.of(factor, Rounding.DOUBLE) for factor in (scale / 128 / out, scale / 128 / (3 / 32768)))
    numbers = (_NUMBERS - zero) << 7
    before = _high(numbers, _short(to_out.multiplier))
    share = _held(numbers << max(to_share.exponent - 1, 0))
    share = _high(share, _short(to_share.multiplier))
    if to_share.exponent > 0:
        share = _held(share << 1)
    share = divided(share, max(-to_share.exponent, 0))
    product = ((share + (1 << 15)) >> 1) * before
    product = np.sign(product) * (np.abs(product) >> 15)
    if to_out.exponent > 0:
        raise UnsupportedError("its result has a finer scale than its input", where=network.where(op), remedy="give it a coarser one, as TFLite does")
    _table(network, op, divided(product, -to_out.exponent) + shift)


def _short(multiplier: int) -> int:
    """The first 16 of 31 bits, rounded."""
    return min((multiplier + (1 << 15)) >> 16, _HIGHEST)


def _high(numbers: Ints, multiplier: int) -> Ints:
    """The high 16 bits of twice the products, rounded."""
    return (numbers * multiplier + (1 << 14)) >> 15


def _held(numbers: Ints) -> Ints:
    held: Ints = np.clip(numbers, -_HIGHEST - 1, _HIGHEST)
    return held


def _float(network: Network, op: Op, function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> None:
    """As a kernel in float32 would find it, whatever its last bits. ExactnessError where they would decide."""
    _require_bytes(network, op)
    (scale, zero), (out, shift) = network.quantized(op.inputs[0]), network.quantized(op.outputs[0])
    exact = function((_NUMBERS - zero).astype(np.float64) * scale) / out
    doubtful = np.abs(exact - np.floor(exact) - 0.5) < _DOUBT
    if doubtful.any():
        what = f"the entry for {int(_NUMBERS[doubtful][0])} lies within {_DOUBT} of a half"
        raise ExactnessError(what, where=network.where(op), remedy="kernels differ there; give its result another scale")
    _table(network, op, np.floor(exact + 0.5).astype(np.int64) + shift)


def _require_bytes(network: Network, op: Op) -> None:
    if network.width(op.inputs[0]) != 8 or network.width(op.outputs[0]) != 8:
        why = (
            "is a function of int16, which LiteRT has no kernel for"
            if op.kind == "HARD_SWISH"
            else "has words of other lengths; qfx reads it in int8 only"
        )
        raise UnsupportedError(why, where=network.where(op), remedy="give it int8, input and result")


def _table(network: Network, op: Op, entries: Ints) -> None:
    x, y = op.inputs[0], op.outputs[0]
    _require_bytes(network, op)
    node = network.emit(network.name(y), ops.Lookup(Const(np.clip(entries, -128, 127), 0), -128, 0), network.held(x))
    network.hold(y, node)
