"""Casts of whole tensors: exact ranges, and raws on the grid that stores them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from qfx.errors import ModelFileError
from qfx.fixed.arith import Interval, hull
from qfx.fixed.array import cast_float_array, cast_raw_array
from qfx.fixed.reference import overflow_raw, round_raw
from qfx.fixed.type import FixedType, OMode
from qfx.ir.values import ArrayType, RawArray, Shape

_T = TypeVar("_T", RawArray, npt.NDArray[np.floating])
_MONOTONE = (OMode.SAT, OMode.SAT_SYM)


def check_broadcast(name: str, cast: ArrayType, shape: Shape) -> None:
    """Raises ModelFileError naming the node unless the binary points broadcast to a value of ``shape``."""
    try:
        fits = np.broadcast_shapes(cast.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ModelFileError(
            f"binary points of shape {cast.shape} for a value of shape {shape}",
            where=name,
            remedy="give one per tensor, channel (C, 1, 1) or element",
        )


def full_interval(cast: ArrayType) -> Interval:
    """Everything that a cast into the types can give, on the grid that stores it."""
    return hull(Interval.of(type_) for type_ in cast.distinct).at(cast.hull.frac_bits)


def cast_interval(x: Interval, cast: ArrayType) -> Interval:
    """What a cast of ``x`` can give, on the grid that stores it: tight, except that a wrap that can overflow gives its type's whole range."""
    return hull(_cast_interval(x, type_) for type_ in cast.distinct).at(cast.hull.frac_bits)


def _cast_interval(x: Interval, to: FixedType) -> Interval:
    lo, hi = _round(x.lo, x.frac_bits, to), _round(x.hi, x.frac_bits, to)
    in_range = to.min_raw <= lo and hi <= to.max_raw
    if in_range or to.o in _MONOTONE:
        return Interval(overflow_raw(lo, to), overflow_raw(hi, to), to.frac_bits)
    if to.o is OMode.SAT_ZERO:  # what overflows is 0, the rest (if there is any) stays
        kept_lo, kept_hi = max(lo, to.min_raw), min(hi, to.max_raw)
        return Interval(kept_lo, kept_hi, to.frac_bits).with_zero() if kept_lo <= kept_hi else Interval(0, 0, to.frac_bits)
    return Interval.of(to)


def _round(raw: int, frac_bits: int, to: FixedType) -> int:
    shift = to.frac_bits - frac_bits
    return round_raw(raw << max(shift, 0), 1 << max(-shift, 0), to.q)


def cast_raws(x_raw: RawArray, frac_bits: int, cast: ArrayType) -> RawArray:
    """(N, *shape) raws of any grid, cast: raws on the grid of ``cast.hull``."""
    return _per_type(x_raw, cast, lambda part, type_: cast_raw_array(part, frac_bits, type_))


def cast_floats(x: npt.NDArray[np.floating], cast: ArrayType) -> RawArray:
    """(N, *shape) float32 or float64 numbers, cast: raws on the grid of ``cast.hull``. Raises DataError for NaN and infinity."""
    return _per_type(x, cast, cast_float_array)


def _per_type(x: _T, cast: ArrayType, convert: Callable[[_T, FixedType], RawArray]) -> RawArray:
    grid = cast.hull.frac_bits
    if len(cast.distinct) == 1:
        return convert(x, cast.element)
    frac_bits = np.broadcast_to(cast.frac_bits, x.shape[1:])
    out_raw = np.empty(x.shape, dtype=np.int64)
    for type_ in cast.distinct:
        where = frac_bits == type_.frac_bits
        out_raw[:, where] = convert(x[:, where], type_) << (grid - type_.frac_bits)
    return out_raw
