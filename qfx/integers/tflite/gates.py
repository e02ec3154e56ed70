"""LOGISTIC and TANH of 16-bit numbers: TFLite's kernels go along straight lines between 256 entries of a table (reference/integer_ops of TFLite).

A number is scaled so that an entry stands for 1/24 of the argument, rounded, and its size looked up; the result is rounded to 15 fractional bits.
Here both signs have lines of their own, 512 in all, and the two roundings are casts, so that every number gives the kernel's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.integers.growing import Function, Result
from qfx.integers.steps import Ints, Line
from qfx.integers.tflite.file import Op
from qfx.integers.tflite.network import Network
from qfx.ir.values import ArrayType, Const

_ABOVE = (
    *(4, 8, 12, 14, 15, 16, 17, 19, 20, 21, 22, 25, 27, 28, 29, 30, 31, 33, 34, 35, 37, 39, 40, 41, 43, 44, 45, 46, 49, 50, 54, 62),
    *(63, 64, 66, 82, 86, 93, 100, 103, 112, 116, 135, 255),
)
"""The entries that lie one above the nearest integer: what LiteRT 2.3 gives at each of them, by its kernel of TANH."""
_HALF = 256
"""Lines for each sign."""
_STRAIGHT = 1e-3
"""How near to a whole number the logarithm of a scale counts as one (``CheckedLog2``)."""


def entries() -> Ints:
    """The logistic function at 0, 1/24, ... 255/24, times 2**16.

    >>> entries()[[0, 24, 255]]
    array([32768, 47911, 65535])
    """
    found: Ints = np.floor(65536 / (1 + np.exp(-np.arange(_HALF) / 24)) + 0.5).astype(np.int64)
    found[list(_ABOVE)] += 1
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """``values[i] + slopes[i] * low`` for each 2**``shift`` numbers from -256 * 2**``shift`` on, with ``grid`` fractional bits, to be floored."""

    values: Ints
    slopes: Ints
    shift: int
    grid: int


def logistic(network: Network, op: Op) -> None:
    table = entries()
    slopes = np.append(np.diff(table), 0)
    top = ((1 << 15) - 1) << 10  # from the last entry on
    above = np.append(table[:-1] << 9, top) + (1 << 9)
    below = (1 << 25) + (1 << 9) - 1 - np.append(table[1:] << 9, top)
    rising = slopes.copy()
    below[-2], rising[-2] = 1 << 10, 0  # 255 entries below 0 the kernel is at its end, 1, as it is all along the line that begins there
    _gate(network, op, Lines(np.concatenate([below[::-1], above]), np.concatenate([rising[::-1], slopes]), 9, 10), 0)


def tanh(network: Network, op: Op) -> None:
    """2 * logistic(2x) - 1, from the same table."""
    table = entries()
    slopes = np.append(np.diff(table), 0)
    top = ((1 << 16) - 1) << 8
    above = np.append(table[:-1] << 8, top) - (1 << 23) + (1 << 7)
    below = (1 << 23) + (1 << 7) - 1 - np.append(table[1:] << 8, top)
    _gate(network, op, Lines(np.concatenate([below[::-1], above]), np.concatenate([slopes[::-1], slopes]), 8, 8), 1)


def _gate(network: Network, op: Op, lines: Lines, most: int) -> None:
    x, y = op.inputs[0], op.outputs[0]
    (scale, _), (out, _) = network.quantized(x), network.quantized(y)
    if network.width(x) != 16 or network.width(y) != 16:
        raise UnsupportedError("is a function of int16 and int8", where=network.where(op), remedy="give both the same type")
    if abs(math.log2(out) + 15) > _STRAIGHT:
        raise UnsupportedError(f"its result has the scale {out}", where=network.where(op), remedy="give it 1/32768, which its kernel assumes")
    multiplier, shift = scaled(scale, most)
    reach = _HALF << lines.shift
    place = Result(f"{network.name(y)}.place", network.where(op), 0, (-reach, reach - 1), width=reach.bit_length())
    line = Line(multiplier, 1 << (shift - 1) if shift else 0, shift)
    held = network.stepped(place, network.held(x), [Function(line, known=line)])
    table = ops.LookupLinear(Const(lines.values, lines.grid), Const(lines.slopes, lines.grid), -reach, 0, lines.shift)
    found = network.emit(f"{network.name(y)}.exact", table, held)
    network.hold(y, network.emit(network.name(y), ops.Cast(ArrayType.of(FixedType(16, 16, True, QMode.TRN, OMode.SAT))), found))


def scaled(scale: float, most: int) -> tuple[int, int]:
    """By which integer a number is multiplied, and by how many bits the product is shifted. ``most``: by how many bits a number is shifted up at the
    most whose scale is a power of two, 2**-12 and above."""
    logarithm = math.log2(scale)
    places = 12 + round(logarithm)
    if abs(logarithm - round(logarithm)) < _STRAIGHT and 0 <= places <= most:
        return 3 << places, 0
    multiplier, shift = scale * 4096 * 3, 0
    while multiplier <= 32767 / 2 and shift <= 30:
        multiplier, shift = multiplier * 2, shift + 1
    return int(multiplier), shift
