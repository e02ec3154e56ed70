"""What flows through a graph and what is constant in it: ``Const``, ``ArrayType`` and ``Info``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError, ExactnessError
from qfx.fixed.arith import FLOAT64_BITS, Bounds, Channels, Interval, channelwise
from qfx.fixed.array import to_float
from qfx.fixed.arraytype import ArrayType as ArrayType  # part of this module's vocabulary
from qfx.fixed.type import FixedType

RawArray = npt.NDArray[np.int64]

Pads = tuple[tuple[int, int], ...]
"""(before, after) for each axis that is padded."""

Shape = tuple[int, ...]

RAW_MIN, RAW_MAX = -(1 << 63), (1 << 63) - 1
"""Raws are int64 everywhere in qfx; the type rules refuse a graph in which one could leave these bounds."""


_SHOWN = 16
"""The most numbers of a constant that its repr shows."""

_PIECE = 1 << 18  # numbers of a constant that are looked at together: a hundred million weights need not lie in memory many times over


@dataclass(frozen=True, eq=False)
class Const:
    """A constant tensor: ``raw * 2**-frac_bits``.

    ``frac_bits`` is one grid for all, or one for each index of axis 0 (a tuple; one grid if they are all equal). ``raw`` becomes a contiguous,
    read-only int64 array of its own; other integer dtypes are taken, floats are not. Two constants are equal when shape, raws and frac_bits are. The
    grid is kept as given; ``Const.of`` finds the coarsest.

    >>> Const.of([0.5, -3.0, 0.0])
    Const(raw=array([ 1, -6,  0]), frac_bits=1)

    Raises DataError for an empty constant, for one that is not integer or leaves int64, and for grids that do not match axis 0.
    """

    raw: RawArray
    frac_bits: int | tuple[int, ...]

    def __repr__(self) -> str:
        numbers = f"raw={self.raw!r}" if self.raw.size <= _SHOWN else f"{'x'.join(map(str, self.raw.shape))} numbers"
        return f"Const({numbers}, frac_bits={self.frac_bits})"

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
        object.__setattr__(self, "frac_bits", _grids(self.frac_bits, raw.shape))

    @classmethod
    def of(cls, values: npt.ArrayLike, frac_bits: tuple[int, ...] | None = None) -> Const:
        """The constant with these real values on the coarsest grid that holds them all (all zeros: frac_bits is 0), or on the grids that are given,
        one for each index of axis 0, where these differ.

        Raises DataError for NaN, infinity, an empty or non-real array, for values whose spread needs more than 63 bits and for a value off its grid.
        """
        given = np.asarray(values)
        if frac_bits is not None and len(set(frac_bits)) > 1:
            return cls(_on_grids(given, frac_bits), frac_bits)
        if given.dtype.kind not in "fiu" or given.dtype.itemsize > 8:
            raise DataError(f"constant values are {given.dtype}", remedy="give float32, float64 or integers")
        if given.dtype.kind in "iu":
            return _coarsest(cls(given, 0))
        if not np.isfinite(given).all():
            raise DataError("a constant holds NaN or infinity", remedy="repair the weights of the model")
        flat = given.reshape(-1)
        pieces = [slice(start, start + _PIECE) for start in range(0, flat.size, _PIECE)]
        spans = [span for piece in pieces if (span := _span(flat[piece].astype(np.float64))) is not None]
        raw = np.zeros(given.shape, dtype=np.int64)
        if not spans:
            return cls(raw, 0)
        grid = -min(lowest for lowest, _ in spans)
        bits = max(highest for _, highest in spans) + grid
        if bits > 63:
            raise DataError(f"the values of a constant need {bits} bits and a sign on one grid", remedy="quantize the constant first")
        for piece in pieces:
            raw.reshape(-1)[piece] = np.ldexp(flat[piece].astype(np.float64), grid).astype(np.int64)
        return cls(raw, grid)

    @property
    def shape(self) -> Shape:
        return self.raw.shape

    @property
    def grid(self) -> int:
        """The fractional bits of all raws. Raises DataError where they lie on several grids."""
        if isinstance(self.frac_bits, tuple):
            raise DataError(f"lies on {len(set(self.frac_bits))} grids", remedy="this is a defect in qfx; please report it")
        return self.frac_bits

    @property
    def grids(self) -> npt.NDArray[np.int64]:
        """The fractional bits of the raws, shaped so that they broadcast against them."""
        return _broadcast(self.frac_bits, self.raw.ndim)

    def rows(self, count: int) -> tuple[int, ...]:
        """The fractional bits of each of the ``count`` indices of axis 0."""
        return (self.frac_bits,) * count if isinstance(self.frac_bits, int) else self.frac_bits

    def on_one_grid(self) -> Const:
        """The same values on the finest of the grids. Raises DataError if that takes more than 63 bits and a sign."""
        if isinstance(self.frac_bits, int):
            return self
        finest = max(self.frac_bits)
        hull = self.interval.hull
        if hull.lo < RAW_MIN or hull.hi > RAW_MAX:
            raise DataError(f"the values of a constant need {hull.width} bits on one grid", remedy="use binary points that lie closer together")
        return Const(self.raw << (finest - self.grids), finest)

    @cached_property
    def interval(self) -> Bounds:
        """The hull of the values, for each grid."""
        if isinstance(self.frac_bits, int):
            return Interval(int(self.raw.min()), int(self.raw.max()), self.frac_bits)
        rows = self.raw.reshape(len(self.frac_bits), -1)
        bounds = zip(rows.min(1).tolist(), rows.max(1).tolist(), self.frac_bits, strict=True)
        return channelwise(Interval(lo, hi, frac_bits) for lo, hi, frac_bits in bounds)

    @cached_property
    def values(self) -> npt.NDArray[np.float64]:
        """The values as float64, read-only. Raises ExactnessError where float64 would round one."""
        values = to_float(self.raw, self.grids)
        values.setflags(write=False)
        return values

    @cached_property
    def channel_sums(self) -> tuple[tuple[int, int], ...]:
        """For each index of axis 0: the sum of the negative raws and the sum of the positive ones, on its grid (exact)."""
        rows = self.raw.reshape(self.raw.shape[0], -1)
        largest = max(-int(self.raw.min()), int(self.raw.max()))
        exact = rows if largest * rows.shape[1] <= RAW_MAX else rows.astype(object)
        negative, positive = np.minimum(exact, 0).sum(axis=1), np.maximum(exact, 0).sum(axis=1)
        return tuple((int(n), int(p)) for n, p in zip(negative, positive, strict=True))

    @cached_property
    def entries(self) -> tuple[Interval, ...]:
        """What is known of each value, in row-major order."""
        grids = np.broadcast_to(self.grids, self.raw.shape).reshape(-1)
        return tuple(Interval(raw, raw, bits) for raw, bits in zip(self.raw.reshape(-1).tolist(), grids.tolist(), strict=True))

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
    """A constant that hardware may get other raws for while it runs: any of ``type``, which is signed, on the same grid (one for all).

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

    def __hash__(self) -> int:
        return super().__hash__()


def _grids(frac_bits: int | tuple[int, ...], shape: Shape) -> int | tuple[int, ...]:
    if not isinstance(frac_bits, tuple):
        return int(frac_bits)
    grids = tuple(map(int, frac_bits))
    if shape[:1] != (len(grids),):
        raise DataError(f"{len(grids)} grids for a constant of shape {shape}", remedy="give one, or one for each index of axis 0")
    return grids[0] if len(set(grids)) == 1 else grids


def _broadcast(frac_bits: int | tuple[int, ...], rank: int) -> npt.NDArray[np.int64]:
    grids = np.array(frac_bits, dtype=np.int64)
    return grids.reshape(-1, *(1,) * (rank - 1)) if grids.ndim else grids


def _on_grids(values: npt.NDArray[np.generic], frac_bits: tuple[int, ...]) -> RawArray:
    """The raws of values, each on the grid of its index of axis 0."""
    real = values.astype(np.float64)
    if not np.isfinite(real).all():
        raise DataError("a constant holds NaN or infinity", remedy="repair the weights of the model")
    if real.ndim == 0 or len(frac_bits) != len(real):
        raise DataError(f"{len(frac_bits)} grids for a constant of shape {real.shape}", remedy="give one for each index of axis 0")
    scaled = np.ldexp(real, _broadcast(frac_bits, real.ndim))
    if (scaled != np.rint(scaled)).any() or (np.abs(scaled) >= 2.0**63).any():
        raise DataError("a value of a constant is not on its grid", remedy="quantize the constant first")
    return scaled.astype(np.int64)


def _span(values: npt.NDArray[np.float64]) -> tuple[int, int] | None:
    """The exponents of the lowest bit and of what is above the highest one; None of zeros alone."""
    mantissa, exponent = np.frexp(values)
    odd = np.ldexp(mantissa, FLOAT64_BITS).astype(np.int64)  # value = odd * 2**(exponent - 53)
    held = odd != 0
    if not held.any():
        return None
    lowest = exponent[held] - FLOAT64_BITS + _trailing_zeros(odd[held])
    return int(lowest.min()), int(exponent[held].max())


def _trailing_zeros(raw: RawArray) -> npt.NDArray[np.int64]:
    """The number of trailing zero bits of non-zero integers."""
    lowest_bit = (raw & -raw).astype(np.float64)  # a power of two: exact
    return np.frexp(np.abs(lowest_bit))[1].astype(np.int64) - 1


def _coarsest(const: Const) -> Const:
    held = const.raw[const.raw != 0]
    shift = int(_trailing_zeros(held).min()) if held.size else 0
    return Const(const.raw >> shift, const.grid - shift if held.size else 0)


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of a value before it is computed.

    ``shape`` leaves the batch out and follows PyTorch's layout: (features,), (channels, length) or (channels, height, width). ``type`` is the one
    type that stores it: the declared one after a cast, else the smallest that holds ``interval``. Both have the same (finest) frac_bits.

    Raws lie on the grid of ``type``, or, if ``per_channel``, each channel's on the grid of its own interval: then ``word`` holds them where no type
    of 64 bits could hold the value.
    """

    shape: Shape
    type: FixedType
    interval: Bounds
    per_channel: bool = False

    @property
    def size(self) -> int:
        """Elements per sample."""
        return math.prod(self.shape)

    @property
    def word(self) -> FixedType:
        """The type whose raws the raws are, whatever their grid: ``type``, or the smallest that holds the raw of every channel."""
        if not self.per_channel:
            return self.type
        width = self.interval.width
        return FixedType(width, width - self.type.frac_bits, self.interval.signed)

    @property
    def grids(self) -> npt.NDArray[np.int64]:
        """The fractional bits of the raws, shaped so that they broadcast against (batch, *shape)."""
        if self.per_channel and isinstance(self.interval, Channels):
            return _broadcast(tuple(interval.frac_bits for interval in self.interval.channels), len(self.shape))
        return np.array(self.type.frac_bits, dtype=np.int64)

    @property
    def stored(self) -> Bounds:
        """``interval`` on the grids of the raws: one interval unless ``per_channel``."""
        return self.interval if self.per_channel else self.interval.at(self.type.frac_bits)

    def narrow(self) -> Info:
        """The same value with its raws on the grid of each channel, where these are known."""
        return Info(self.shape, self.type, self.interval, True) if isinstance(self.interval, Channels) else self

    def on_one_grid(self) -> Info:
        """The same value with its raws on the grid of ``type``. Raises ExactnessError if that leaves int64."""
        if not self.per_channel:
            return self
        hull = self.interval.hull
        if hull.lo < RAW_MIN or hull.hi > RAW_MAX:
            raise ExactnessError(
                f"the channels that it mixes need {hull.width} bits on one grid, qfx computes with 64",
                remedy="cast its input first, or use binary points that lie closer together",
            )
        return Info(self.shape, self.type, self.interval)
