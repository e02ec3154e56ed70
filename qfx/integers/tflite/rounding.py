"""How TFLite scales sums: by which integers, and how it rounds. gemmlowp's fixed-point multiplication rounds twice; other kernels round once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from qfx.integers.growing import Function
from qfx.integers.steps import Ints, Line

_MOST = 22
"""By how many bits numbers are shifted up at the most."""
_INT32_MAX = (1 << 31) - 1


class Rounding(Enum):
    """How a kernel scales a sum.

    DOUBLE: SaturatingRoundingDoublingHighMul, then RoundingDivideByPOT, as gemmlowp has them and TFLite's specification of quantization assumes.
    SINGLE: the same multiplier, one rounding (TFLite built with TFLITE_SINGLE_ROUNDING). NEAREST: the real factor in double precision, ties upwards.
    """

    DOUBLE = "double"
    SINGLE = "single"
    NEAREST = "nearest"


@dataclass(frozen=True, slots=True)
class Scaling:
    """A function of int32 sums."""

    multiplier: int
    exponent: int  # the factor is multiplier * 2**(exponent - 31)
    factor: float
    rounding: Rounding

    @classmethod
    def of(cls, factor: float, rounding: Rounding) -> Scaling:
        """The integers that TFLite finds for a factor: 31 bits and an exponent. ValueError for one that takes numbers of 8 bits out of int32."""
        if not factor < 1 << _MOST:
            raise ValueError(f"its numbers would be scaled by {factor:.3g}")
        mantissa, exponent = math.frexp(factor)
        multiplier = math.floor(mantissa * (1 << 31) + 0.5)
        if multiplier == 1 << 31:
            multiplier, exponent = multiplier // 2, exponent + 1
        if exponent < -31:
            multiplier, exponent = 0, 0
        return cls(multiplier, exponent, factor, rounding)

    def over(self, count: int) -> Scaling:
        """That of a mean of ``count`` numbers: the count divides the multiplier, which is as long as before (tensorflow/lite/kernels/reduce.cc)."""
        shift = min(count.bit_length() - 1, 32, 31 + self.exponent)
        return Scaling((self.multiplier << shift) // count, self.exponent - shift, self.factor / count, self.rounding)

    @property
    def function(self) -> Function:
        return Function(self, (self.bits,) if self.bits else (), reach=_INT32_MAX >> max(self.exponent, 0))

    @property
    def bits(self) -> int:
        return max(-self.exponent, 0) if self.rounding is Rounding.DOUBLE else 0

    def __call__(self, sums: Ints) -> Ints:
        """The scaled sums, which fit int32 as they are."""
        if self.rounding is Rounding.NEAREST:
            nearest: Ints = np.floor(sums.astype(np.float64) * self.factor + 0.5).astype(np.int64)
            return nearest
        if self.rounding is Rounding.SINGLE:
            shift = 31 - self.exponent
            return (sums * self.multiplier + (1 << (shift - 1))) >> shift
        high = ((sums << max(self.exponent, 0)) * self.multiplier + (1 << 30)) >> 31
        return divided(high, self.bits)


@dataclass(frozen=True, slots=True)
class Short:
    """A function of sums in 64 bits, as kernels of 16-bit activations have them: the multiplier is rounded to 15 bits, the product once, ties upwards
    (``MultiplyByQuantizedMultiplier`` of an int64, tensorflow/lite/kernels/internal/common.h)."""

    line: Line
    reach: int
    """Up to which size of a sum the result is one of int32, which the kernel takes it for."""

    @classmethod
    def of(cls, factor: float) -> Short:
        whole = Scaling.of(factor, Rounding.DOUBLE)
        shift = 15 - whole.exponent
        multiplier = min((whole.multiplier + (1 << 15)) >> 16, (1 << 15) - 1)
        return cls(Line(multiplier, 1 << (shift - 1), shift), (_INT32_MAX << shift) // max(multiplier, 1))

    @property
    def function(self) -> Function:
        return Function(self.line, known=self.line, reach=self.reach)


def divided(numbers: Ints, bits: int) -> Ints:
    """By 2**bits, to the nearest integer, ties away from zero.

    >>> divided(np.array([-6, -5, -2, 2, 5, 6]), 2)
    array([-2, -1, -1,  1,  1,  2])
    """
    if bits == 0:
        return numbers
    nearest: Ints = np.sign(numbers) * ((np.abs(numbers) + (1 << (bits - 1))) >> bits)
    return nearest


def nearest_quotient(count: int) -> Callable[[Ints], Ints]:
    """Sums over ``count``, to the nearest integer, ties away from zero, as pooling kernels compute them."""

    def function(sums: Ints) -> Ints:
        quotient: Ints = np.sign(sums) * ((np.abs(sums) + count // 2) // count)
        return quotient

    return function
