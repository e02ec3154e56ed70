"""What a quantization makes of exact numbers, and how many sums float32 may decide otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np
import torch

from qfx.exchange.affine import Affine, AffineCast, Float
from qfx.exchange.integers.values import UNIT, Doubles, Sums
from qfx.integers.growing import Function, Range
from qfx.integers.onnx.products import FRACTIONS
from qfx.integers.steps import Ints

_FAR = 1 << 40


def ends(cast: AffineCast, clamp: tuple[Fraction | None, Fraction | None]) -> Range:
    """The least and the greatest stored integer behind a clamp, as the source finds those of its bounds."""
    low, high = (None if end is None else int(cast.integers(torch.tensor(float(end)))) for end in clamp)
    return cast.affine.low if low is None else low, cast.affine.high if high is None else high


def function(affine: Affine, factor: Fraction, offset: Fraction) -> Function:
    """Sums times ``factor`` (at least 0) plus ``offset``, over the scale, to the nearest integer, ties to the even one: of the stored integer where
    the source adds the zero point first, else of that less the zero point. In exact arithmetic."""
    scale, zero = Fraction(affine.scales[0]), affine.zeros[0]
    slope, shift = factor / scale, offset / scale
    added = zero % 2 if affine.float_ is not Float.THEN_ZERO else 0
    whole = lcm(slope.denominator, shift.denominator)
    a, b = int(slope * whole), int(shift * whole)

    def call(sums: Ints) -> Ints:
        numbers = sums.astype(object) * a + b
        found = (2 * numbers + whole) // (2 * whole)
        ties = (2 * numbers + whole) % (2 * whole) == 0
        odd = found % 2 != added
        result = np.where((ties & odd).astype(bool), found - 1, found)
        return np.clip(result, -_FAR, _FAR).astype(np.int64)  # a clamp follows

    bits = whole.bit_length() - 1
    exact = (bits,) if whole == 1 << bits and 0 < bits < 40 else ()
    return Function(call, () if added else (*exact, *FRACTIONS), even=True)


def doubtful(affine: Affine, sums: Sums) -> int:
    """At how many sums of all channels the source's float32 may give another integer than exact arithmetic: where the number lies as near to a half
    as its error may be."""
    scale, zero = float(affine.scales[0]), affine.zeros[0]
    power = np.frexp(np.float32(scale))[0] == 0.5
    count = 0
    halves = np.arange(affine.low - zero, affine.high - zero, dtype=np.float64) + 0.5
    own = 0.0 if power else 3 * UNIT
    added = UNIT if zero and affine.float_ is not Float.THEN_ZERO and not power else 0.0
    bands = own * np.abs(halves) + added * (np.abs(halves) + abs(zero))
    for factor, offset, range_, error in zip(sums.factors, sums.offsets, sums.ranges, sums.error, strict=True):
        band = bands + error / scale
        if factor == 0 or not band.any():
            continue
        count += _within(halves, band, float(abs(factor)) / scale, float(offset) / scale, _turned(range_, factor), sums.clamp, scale)
    return count


def _turned(range_: Range, factor: Fraction) -> Range:
    return range_ if factor > 0 else (-range_[1], -range_[0])


def _within(halves: Doubles, band: Doubles, slope: float, shift: float, range_: Range, clamp: Sequence[Fraction | None], scale: float) -> int:
    """How many sums lie in the bands about the halves."""
    low, high = clamp
    kept = np.ones(len(halves), dtype=bool)
    if low is not None:  # halves that no number gets past
        kept &= halves + band >= float(low) / scale
    if high is not None:
        kept &= halves - band <= float(high) / scale
    first = np.ceil((halves - band * (1 + 1e-9) - shift) / slope - 1e-9)
    last = np.floor((halves + band * (1 + 1e-9) - shift) / slope + 1e-9)
    first, last = np.maximum(first, range_[0]), np.minimum(last, range_[1])
    return int(np.maximum(last - first + 1, 0)[kept].sum())
