"""What flows through a graph and what is constant in it: ``Const``, ``ArrayType`` and ``Info``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError
from qfx.fixed.arith import FLOAT64_BITS, Interval
from qfx.fixed.array import to_float
from qfx.fixed.arraytype import ArrayType as ArrayType  # part of this module's vocabulary
from qfx.fixed.type import FixedType

RawArray = npt.NDArray[np.int64]

Pads = tuple[tuple[int, int], ...]
"""(before, after) for each axis that is padded."""

Shape = tuple[int, ...]

RAW_MIN, RAW_MAX = -(1 << 63), (1 << 63) - 1
"""Raws are int64 everywhere in qfx; the type rules refuse a graph in which one could leave these bounds."""


@dataclass(frozen=True, eq=False)
class Const:
    """A constant tensor: ``raw * 2**-frac_bits``.

    ``raw`` becomes a contiguous, read-only int64 array of its own; other integer dtypes are taken, floats are not. Two constants are equal when
    shape, raws and frac_bits are. The grid is kept as given; ``Const.of`` finds the coarsest.

    >>> Const.of([0.5, -3.0, 0.0])
    Const(raw=array([ 1, -6,  0]), frac_bits=1)

    Raises DataError for an empty constant and for one that is not integer or leaves int64.
    """

    raw: RawArray
    frac_bits: int

    def __post_init__(self) -> None:
        given = np.asarray(self.raw)
        if given.dtype.kind not in "iu":
            raise DataError(f"the raws of a constant are {given.dtype}", remedy="give integers, or use Const.of for real values")
        if given.size == 0:
            raise DataError(f"a constant of shape {given.shape} holds nothing", remedy="leave the constant out")
        if given.dtype == np.uint64 and int(given.max()) > RAW_MAX:
            raise DataError(f"the raw {int(given.max())} does not fit int64", remedy="use fewer bits")
        raw = np.array(given, dtype=np.int64, order="C")
        raw.setflags(write=False)
        object.__setattr__(self, "raw", raw)
        object.__setattr__(self, "frac_bits", int(self.frac_bits))

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Const:
        """The constant with these real values on the coarsest grid that holds them all (all zeros: frac_bits is 0).

        Raises DataError for NaN, infinity, an empty or non-real array, and for values whose spread needs more than 63 bits.
        """
        given = np.asarray(values)
        if given.dtype.kind not in "fiu" or given.dtype.itemsize > 8:
            raise DataError(f"constant values are {given.dtype}", remedy="give float32, float64 or integers")
        if given.dtype.kind in "iu":
            return _coarsest(cls(given, 0))
        real = given.astype(np.float64)
        if not np.isfinite(real).all():
            raise DataError("a constant holds NaN or infinity", remedy="repair the weights of the model")
        mantissa, exponent = np.frexp(real)
        odd = np.ldexp(mantissa, FLOAT64_BITS).astype(np.int64)  # value = odd * 2**(exponent - 53)
        held = odd != 0
        if not held.any():
            return cls(np.zeros(real.shape, dtype=np.int64), 0)
        lowest = exponent[held] - FLOAT64_BITS + _trailing_zeros(odd[held])
        frac_bits = -int(lowest.min())
        bits = int(exponent[held].max()) + frac_bits
        if bits > 63:
            raise DataError(f"the values of a constant need {bits} bits and a sign on one grid", remedy="quantize the constant first")
        return cls(np.ldexp(real, frac_bits).astype(np.int64), frac_bits)

    @property
    def shape(self) -> Shape:
        return self.raw.shape

    @cached_property
    def interval(self) -> Interval:
        """The hull of the values."""
        return Interval(int(self.raw.min()), int(self.raw.max()), self.frac_bits)

    @cached_property
    def values(self) -> npt.NDArray[np.float64]:
        """The values as float64, read-only. Raises ExactnessError where float64 would round one."""
        values = to_float(self.raw, self.frac_bits)
        values.setflags(write=False)
        return values

    @cached_property
    def channel_sums(self) -> tuple[tuple[int, int], ...]:
        """For each index of axis 0: the sum of the negative raws and the sum of the positive ones (exact)."""
        rows = self.raw.reshape(self.raw.shape[0], -1)
        largest = max(abs(self.interval.lo), abs(self.interval.hi))
        exact = rows if largest * rows.shape[1] <= RAW_MAX else rows.astype(object)
        negative, positive = np.minimum(exact, 0).sum(axis=1), np.maximum(exact, 0).sum(axis=1)
        return tuple((int(n), int(p)) for n, p in zip(negative, positive, strict=True))

    @cached_property
    def entries(self) -> tuple[Interval, ...]:
        """What is known of each value, in row-major order."""
        return tuple(Interval(raw, raw, self.frac_bits) for raw in self.raw.reshape(-1).tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Const):
            return NotImplemented
        return type(self) is type(other) and self.frac_bits == other.frac_bits and np.array_equal(self.raw, other.raw)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.raw.shape, self.raw.tobytes(), self.frac_bits))


@dataclass(frozen=True, eq=False)
class LoadableConst(Const):
    """A constant that hardware may get other raws for while it runs: any of ``type``, which is signed, on the same grid.

    ``raw`` are the raws at hand: what the interpreter computes with. Every range and every type that follows holds for all others too.
    Raises DataError if ``type`` does not hold the raws at hand.
    """

    type: FixedType

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.type.signed or self.type.frac_bits != self.frac_bits:
            raise DataError(f"{self.type} is not signed on the grid of 2**-{self.frac_bits}", remedy="give the type of the raws")
        if int(self.raw.min()) < self.type.min_raw or int(self.raw.max()) > self.type.max_raw:
            raise DataError(f"raws of {self.raw.min()} to {self.raw.max()} are not held by {self.type}", remedy="give a wider type")

    @cached_property
    def interval(self) -> Interval:
        """All that the type holds."""
        return Interval.of(self.type)

    @cached_property
    def entries(self) -> tuple[Interval, ...]:
        return (self.interval,) * self.raw.size

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and isinstance(other, LoadableConst) and self.type == other.type

    __hash__ = Const.__hash__


def _trailing_zeros(raw: RawArray) -> npt.NDArray[np.int64]:
    """The number of trailing zero bits of non-zero integers."""
    lowest_bit = (raw & -raw).astype(np.float64)  # a power of two: exact
    return np.frexp(np.abs(lowest_bit))[1].astype(np.int64) - 1


def _coarsest(const: Const) -> Const:
    held = const.raw[const.raw != 0]
    shift = int(_trailing_zeros(held).min()) if held.size else 0
    return Const(const.raw >> shift, const.frac_bits - shift if held.size else 0)


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of a value before it is computed.

    ``shape`` leaves the batch out and follows PyTorch's layout: (features,), (channels, length) or (channels, height, width). ``type`` is the
    type that stores it: the declared one after a cast, else the smallest that holds ``interval``. Both have the same frac_bits.
    """

    shape: Shape
    type: FixedType
    interval: Interval

    @property
    def size(self) -> int:
        """Elements per sample."""
        return math.prod(self.shape)
