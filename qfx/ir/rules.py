"""The checks and the small steps that the type rules of all operators share. Every error names the node."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qfx.errors import ExactnessError, ModelFileError, TypeSyntaxError
from qfx.fixed.arith import FLOAT64_BITS, Bounds, Channels, Interval
from qfx.fixed.type import FixedType
from qfx.ir.values import RAW_MAX, RAW_MIN, Const, Info, RawArray, Shape

Infos = tuple[Info, ...]
Raws = tuple[RawArray, ...]


def arity(name: str, inputs: Infos, count: int) -> Infos:
    if len(inputs) != count:
        raise ModelFileError(f"reads {len(inputs)} values", where=name, remedy=f"this operator reads {count}")
    return inputs


def same_shape(name: str, inputs: Infos) -> Infos:
    a, b = arity(name, inputs, 2)
    if a.shape != b.shape:
        raise ModelFileError(f"shapes {a.shape} and {b.shape} differ", where=name, remedy="qfx does not broadcast values; give both one shape")
    return inputs


MAX_RANK = 5
"""The most axes of a value, the batch left out."""


def check_shape(name: str, shape: Shape) -> None:
    if not 1 <= len(shape) <= MAX_RANK or min(shape) < 1:
        remedy = f"use one to {MAX_RANK} axes, such as (features,), (channels, length) or (channels, height, width), none of them empty"
        raise ModelFileError(f"the shape is {shape}", where=name, remedy=remedy)


def fit(name: str, *bounds: Bounds) -> None:
    """Raises ExactnessError unless int64 holds every raw of every channel, each on its own grid."""
    for interval in (channel for bound in bounds for channel in (bound.channels if isinstance(bound, Channels) else (bound,))):
        if interval.lo < RAW_MIN or interval.hi > RAW_MAX:
            raise ExactnessError(
                f"needs words of {interval.width} bits, qfx computes with 64", where=name, remedy="cast its inputs to narrower types"
            )


def info(name: str, shape: Shape, interval: Bounds, grid: int | None = None) -> Info:
    """What is known of a result. ``grid``: where all operands lie on one grid, the one on which their raws give the result's.

    Where channels lie on different grids, raws stay on ``grid`` while float64 could hold them; otherwise each channel's are on its own.
    """
    per_channel = isinstance(interval, Channels)
    if grid is not None and (not per_channel or interval.hull.at(grid).magnitude_bits <= FLOAT64_BITS):
        hull = interval.at(grid)
        fit(name, hull)
        return Info(shape, _type(name, hull), interval if per_channel else hull)
    fit(name, interval)
    return Info(shape, _type(name, interval.hull), interval, per_channel)


def _type(name: str, hull: Interval) -> FixedType:
    try:
        return hull.type()
    except TypeSyntaxError as error:  # a binary point hundreds of bits away
        raise ExactnessError(f"no type holds its result: {error.what}", where=name, remedy="use less extreme binary points") from error


def common_grid(*operands: Info | Const | None) -> int | None:
    """The finest grid of the operands, if each of them has its raws on one grid."""
    grids = []
    for operand in operands:
        if isinstance(operand, Info):
            if operand.per_channel:
                return None
            grids.append(operand.type.frac_bits)
        elif operand is not None:
            if not isinstance(operand.frac_bits, int):
                return None
            grids.append(operand.frac_bits)
    return max(grids)


def one_grid(name: str, x: Info) -> Info:
    """``x`` as an operator reads it that mixes its channels. ExactnessError, naming the operator, where they lie too far apart."""
    try:
        return x.on_one_grid()
    except ExactnessError as error:
        raise ExactnessError(error.what, where=name, remedy=error.remedy) from None


def align(raw: RawArray, info: Info, out: Info) -> RawArray:
    """The raws of a value of ``info`` on the grids of ``out``, where they are whole numbers too."""
    return move(raw, out.grids - info.grids)


def move(raw: RawArray, shift: npt.NDArray[np.int64]) -> RawArray:
    """``raw * 2**shift``, exact; ``shift`` broadcasts against ``raw``. A negative shift drops zeros."""
    if (shift >= 0).all():
        return raw << shift if shift.any() else raw
    moved: RawArray = np.where(shift >= 0, raw << np.maximum(shift, 0), raw >> np.maximum(-shift, 0))
    return moved
