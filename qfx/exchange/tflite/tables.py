"""Functions of one number: a table of 256 entries, computed as TFLite's kernels compute it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qfx import operators as ops
from qfx.errors import ExactnessError
from qfx.exchange.steps import Ints
from qfx.exchange.tflite.file import Op
from qfx.exchange.tflite.network import Network
from qfx.exchange.tflite.rounding import Rounding
from qfx.ir.values import Const

_NUMBERS = np.arange(-128, 128, dtype=np.int64)
_DOUBT = 1e-4
"""How near to a half, in steps of the result, a float function decides by the last bits of the C library's exp."""


def leaky_relu(network: Network, op: Op) -> None:
    (scale, zero), (out, shift) = network.quantized(op.inputs[0]), network.quantized(op.outputs[0])
    alpha = float(np.float32(op.options["Alpha"]))
    above, below = network.scalings([scale / out, scale * alpha / out], Rounding.DOUBLE)
    numbers = _NUMBERS - zero
    _table(network, op, np.where(numbers >= 0, above(numbers), below(numbers)) + shift)


def logistic(network: Network, op: Op) -> None:
    _float(network, op, lambda x: 1 / (1 + np.exp(-x)))


def tanh(network: Network, op: Op) -> None:
    _float(network, op, np.tanh)


def _float(network: Network, op: Op, function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> None:
    """As a kernel in float32 would find it, whatever its last bits. ExactnessError where they would decide."""
    (scale, zero), (out, shift) = network.quantized(op.inputs[0]), network.quantized(op.outputs[0])
    exact = function((_NUMBERS - zero).astype(np.float64) * scale) / out
    doubtful = np.abs(exact - np.floor(exact) - 0.5) < _DOUBT
    if doubtful.any():
        what = f"the entry for {int(_NUMBERS[doubtful][0])} lies within {_DOUBT} of a half"
        raise ExactnessError(what, where=network.where(op), remedy="kernels differ there; give its result another scale")
    _table(network, op, np.floor(exact + 0.5).astype(np.int64) + shift)


def _table(network: Network, op: Op, entries: Ints) -> None:
    x, y = op.inputs[0], op.outputs[0]
    node = network.emit(network.name(y), ops.Lookup(Const(np.clip(entries, -128, 127), 0), -128, 0), network.held(x))
    network.hold(y, node)
