"""Casts in the words of other tools: what a quantizer that rounds ties to even, or in few other ways, needs in front of it to be a cast of any mode.

A quantizer behind a clip at its own bounds saturates as AP_SAT does, in any word length: bounds lie on the grid, where no mode rounds. Ties go where
a mode wants them if the number is moved by less than its own least place; numbers between ties are further away from them than that. (A float may
have any least place: it goes to the grid of half the quantizer's step first, towards the side where the mode's ties go.)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfx.errors import UnsupportedError
from qfx.fixed.arith import Bounds, Channels, Interval
from qfx.fixed.arraytype import ArrayType
from qfx.fixed.reference import round_raw
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.casting import types_of_channels
from qfx.ir.values import Info, Shape

Reals = npt.NDArray[np.float64]

_SATURATING = (OMode.SAT, OMode.SAT_SYM)
_OF_MAGNITUDE = {QMode.RND_INF: QMode.RND, QMode.RND_ZERO: QMode.RND_MIN_INF, QMode.TRN_ZERO: QMode.TRN}
"""What a mode that treats both signs alike does to a number that is not negative."""
_ALIKE = {**_OF_MAGNITUDE, **{simple: mode for mode, simple in _OF_MAGNITUDE.items()}}
_STEPPED = {QMode.RND: "Floor", QMode.RND_MIN_INF: "Ceil", QMode.TRN: "Floor"}


@dataclass(frozen=True, slots=True)
class Front:
    """What stands in front of a quantizer, in this order, as far as it is not None or False.

    ``bounds``: values that the number is held between, shaped as the cast's binary points. ``magnitude``: the sign is taken away, and put back at
    the end. ``stepped``: Floor or Ceil, and the fractional bits of the grid that it goes to. ``moved``: what is added. ``mode``: how the quantizer
    rounds.
    """

    bounds: tuple[Reals, Reals] | None
    magnitude: bool
    stepped: tuple[str, npt.NDArray[np.int64]] | None
    moved: Reals | None
    mode: QMode


def front(name: str, dialect: str, cast: ArrayType, shape: Shape, x: Info | None, modes: Collection[QMode], holds: bool) -> Front | None:
    """What a quantizer of ``modes`` (ties to even among them) needs to be the cast of ``x``, of ``shape``; None: of any float32.

    ``holds``: whether the quantizer saturates at the bounds of the type itself. None where float32 cannot prepare it. Raises UnsupportedError naming
    the node and the ``dialect`` for an overflow mode.
    """
    element = cast.element
    saturates = x is None or overflows(x.interval, cast, shape)
    if saturates and element.o not in _SATURATING:
        raise UnsupportedError(
            f"the cast to {element} can overflow, and {dialect} has no {element.o.value}", where=name, remedy="train with AP_SAT or AP_SAT_SYM"
        )
    points = cast.frac_bits
    ends = tuple(np.ldexp(float(raw), -points) for raw in (element.min_raw, element.max_raw))
    bounds = (ends[0], ends[1]) if saturates and not holds else None
    negative = element.signed if x is None else x.interval.signed
    falls = np.ones(points.shape, dtype=np.bool_) if x is None else _grids(x.interval, len(shape)) > points
    mode = element.q
    if not falls.any():
        return Front(bounds, False, None, None, QMode.RND_CONV)
    if x is None and points.min() < 0 and mode is not QMode.RND_CONV:  # the least floats, divided, become 0
        return None
    if not negative and mode not in modes:
        mode = _ALIKE.get(mode, mode)
    if mode in modes:
        return Front(bounds, False, None, None, mode)
    if x is None and saturates:  # an unsigned type takes what is negative for 0 in every mode
        bounds = ends[0], ends[1]
    magnitude = negative and mode in _OF_MAGNITUDE
    mode = _OF_MAGNITUDE.get(mode, mode)
    if x is None:
        grid = points + (mode is not QMode.TRN)
        stepped = _STEPPED[mode], np.asarray(grid)
        return Front(bounds, magnitude, stepped, None if mode is QMode.TRN else _moved(mode, grid, points, falls), QMode.RND_CONV)
    return Front(bounds, magnitude, None, _moved(mode, _grids(x.interval, len(shape)), points, falls), QMode.RND_CONV)


def _moved(mode: QMode, grid: npt.NDArray[np.int64], points: npt.NDArray[np.int64], falls: npt.NDArray[np.bool_]) -> Reals:
    """Half a least place up or down; for the floor, half a step down beside it."""
    least = np.ldexp(1.0, -(grid + 1))
    by = {QMode.RND: least, QMode.RND_MIN_INF: -least, QMode.TRN: least - np.ldexp(1.0, -(points + 1))}[mode]
    return np.where(falls, by, 0.0)


def _grids(bounds: Bounds, rank: int) -> npt.NDArray[np.int64]:
    """The fractional bits of the numbers, shaped to broadcast."""
    if isinstance(bounds, Channels):
        return np.array([interval.frac_bits for interval in bounds.channels]).reshape(-1, *(1,) * (rank - 1))
    return np.array(bounds.frac_bits)


def overflows(bounds: Bounds, cast: ArrayType, shape: Shape) -> bool:
    """Whether a number within the bounds, rounded, can leave the type of its element."""
    return any(
        not type_.min_raw <= _round(raw, interval.frac_bits, type_) <= type_.max_raw
        for interval, types in zip(bounds.spread(shape[0]), types_of_channels(cast, shape), strict=True)
        for type_ in types
        for raw in (interval.lo, interval.hi)
    )


def _round(raw: int, frac_bits: int, to: FixedType) -> int:
    shift = to.frac_bits - frac_bits
    return round_raw(raw << max(shift, 0), 1 << max(-shift, 0), to.q)


def magnitude_of(bound: Interval, moved: float) -> Interval:
    """The symmetric bound of a number within ``bound`` that ``moved`` is added to."""
    if not moved:
        return bound
    numerator, denominator = abs(moved).as_integer_ratio()
    step = denominator.bit_length() - 1
    return bound + Interval(-numerator, numerator, step)
