"""Casts of whole tensors: exact ranges, and raws on the grid that stores them."""

from __future__ import annotations

import numpy as np

from qfx.errors import ModelFileError
from qfx.fixed.arith import Bounds, Interval, channelwise, hull
from qfx.fixed.arraytype import ArrayType
from qfx.fixed.arraytype import cast_floats as cast_floats
from qfx.fixed.arraytype import cast_raws as cast_raws
from qfx.fixed.reference import overflow_raw, round_raw
from qfx.fixed.type import FixedType, OMode
from qfx.ir.values import Shape

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


def full_interval(cast: ArrayType, shape: Shape) -> Bounds:
    """Everything that a cast of a value of ``shape`` into the types can give."""
    return channelwise(hull(map(Interval.of, types)) for types in types_of_channels(cast, shape))


def cast_interval(x: Bounds, cast: ArrayType, shape: Shape) -> Bounds:
    """What a cast of ``x`` (of ``shape``) can give: tight, except that a wrap that can overflow gives its type's whole range."""
    if isinstance(x, Interval) and not _differs(cast, shape):
        return hull(_cast_interval(x, type_) for type_ in cast.distinct)
    pairs = zip(x.spread(shape[0]), types_of_channels(cast, shape), strict=True)
    return channelwise(hull(_cast_interval(channel, type_) for type_ in types) for channel, types in pairs)


def types_of_channels(cast: ArrayType, shape: Shape) -> list[tuple[FixedType, ...]]:
    """The different types of each channel of a value of ``shape``, by rising int_bits."""
    if not _differs(cast, shape):
        return [cast.distinct] * shape[0]
    return [tuple(cast.with_int_bits(bits) for bits in sorted(set(row))) for row in np.reshape(cast.int_bits, (cast.shape[0], -1)).tolist()]


def _differs(cast: ArrayType, shape: Shape) -> bool:
    """Whether the binary points may differ from channel to channel."""
    return len(cast.shape) == len(shape) and cast.shape[0] > 1 and len(cast.distinct) > 1


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
