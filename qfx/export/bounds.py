"""Which dtype of ONNX holds a tensor exactly: bounds on its numbers and on every partial sum behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qfx.fixed.arith import FLOAT32_BITS, FLOAT64_BITS, Bounds, Channels, Interval, channelwise
from qfx.ir.values import Const, Pads

FLOAT, DOUBLE = 1, 11
"""float32 and float64 as onnx.TensorProto numbers them."""

Attributes = Mapping[str, int | float | str | list[int]]
"""Those of an ONNX node."""

MAX_EXPONENT = 400
"""Binary points further away would leave float64 in a cast; no network has them."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in the file: its dtype, and a symmetric bound on every element, and on every partial sum behind it up to the last cast. Partial sums
    count because a runtime may fuse a convolution with the affine map that follows it.
    """

    dtype: int
    bound: Bounds

    @property
    def mag(self) -> int:
        """The greatest magnitude of a raw, on the grid ``frac`` that all channels share."""
        return self.bound.hull.hi

    @property
    def frac(self) -> int:
        return self.bound.hull.frac_bits


def fits(bound: Bounds, dtype: int) -> bool:
    """Whether a float of the dtype holds all numbers of every channel of a symmetric bound, as normal numbers with room to spare."""
    bits = FLOAT32_BITS if dtype == FLOAT else FLOAT64_BITS
    lowest, highest = (-100, 120) if dtype == FLOAT else (-MAX_EXPONENT - 100, MAX_EXPONENT + 100)
    intervals = bound.channels if isinstance(bound, Channels) else (bound,)
    return all(interval.hi <= 1 << bits and lowest <= interval.frac_bits <= highest for interval in intervals)


def symmetric(bounds: Bounds) -> Bounds:
    """The least bound on magnitudes."""
    intervals = bounds.channels if isinstance(bounds, Channels) else (bounds,)
    magnitudes = [(max(-interval.lo, interval.hi), interval.frac_bits) for interval in intervals]
    return channelwise(Interval(-mag, mag, frac_bits) for mag, frac_bits in magnitudes)


def of(const: Const) -> Bounds:
    return symmetric(const.interval)


def plus(bound: Bounds, const: Const | None) -> Bounds:
    return bound if const is None else bound + of(const)


def weighted(x: Value, weight: Const, bias: Const | None) -> Value:
    """The bound of the sum of |weight * x| over each output (the greatest, where they lie on one grid), and |bias|."""
    sums = [(positive - negative) * x.mag for negative, positive in weight.channel_sums]
    rows = channelwise(Interval(-total, total, row + x.frac) for total, row in zip(sums, weight.rows(len(sums)), strict=True))
    return Value(x.dtype, plus(rows, bias))


def onnx_pads(pads: Pads) -> list[int]:
    """ONNX lists what comes before each axis, then what comes after each."""
    return [before for before, _ in pads] + [after for _, after in pads]
