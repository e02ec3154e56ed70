"""The checks and the small steps that the type rules of all operators share. Every error names the node."""

from __future__ import annotations

from qfx.errors import ExactnessError, ModelFileError, TypeSyntaxError
from qfx.fixed.arith import Interval
from qfx.ir.values import RAW_MAX, RAW_MIN, Info, RawArray, Shape

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


def check_shape(name: str, shape: Shape) -> None:
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise ModelFileError(f"the shape is {shape}", where=name, remedy="use (features,), (channels, length) or (channels, height, width)")


def fit(name: str, *intervals: Interval) -> None:
    for interval in intervals:
        if interval.lo < RAW_MIN or interval.hi > RAW_MAX:
            raise ExactnessError(
                f"needs words of {interval.width} bits, qfx computes with 64", where=name, remedy="cast its inputs to narrower types"
            )


def info(name: str, shape: Shape, interval: Interval) -> Info:
    fit(name, interval)
    try:
        return Info(shape, interval.type(), interval)
    except TypeSyntaxError as error:  # a binary point hundreds of bits away
        raise ExactnessError(f"no type holds its result: {error.what}", where=name, remedy="use less extreme binary points") from error


def align(raw: RawArray, info: Info, out: Info) -> RawArray:
    return raw << (out.type.frac_bits - info.type.frac_bits)
