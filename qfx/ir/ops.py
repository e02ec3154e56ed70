"""The closed operator set: for each operator its attributes, its type rule (``infer``) and its integer meaning (``evaluate``).

Shapes leave the batch out; channels are axis 0. Every operator but Input and Cast is exact.

``infer(name, inputs)`` checks attributes, arity and shapes and returns what is known of the result. It raises ModelFileError for what is wrong and
ExactnessError for what int64 could not hold; both name the node. ``evaluate(inputs, infos, out)`` takes int64 raws with the batch as the first
axis, each on the grid of its Info, and returns raws on the grid of ``out``; ``infos`` and ``out`` are those of ``infer``. Input alone reads floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfx.errors import ExactnessError, ModelFileError
from qfx.fixed.arith import Interval, hull
from qfx.fixed.array import MAX_ARRAY_WIDTH
from qfx.fixed.type import FixedType
from qfx.ir import casting, rules, sums
from qfx.ir.moves import Concat, Pad, Reshape, Slice, Stretch, Transpose, Upsample
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import RAW_MIN, ArrayType, Const, Info, Pads, RawArray, Shape
from qfx.ir.windows import Windows

__all__ = [
    "OPERATORS", "Add", "Affine", "ArrayType", "Cast", "Clip", "Concat", "Const", "Conv", "Info", "Input", "LeakyRelu", "Linear", "MaxPool", "Mul",
    "Op", "Pad", "Pads", "RawArray", "Relu", "Reshape", "Slice", "Stretch", "Sub", "SumPool", "Transpose", "Upsample",
    "accumulator", "macs",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Input:
    """The float input and its cast: the first operation of every model. ``shape`` without the batch."""

    shape: Shape
    cast: ArrayType

    def infer(self, name: str, inputs: Infos) -> Info:
        rules.arity(name, inputs, 0)
        rules.check_shape(name, self.shape)
        return _cast_info(name, self.shape, self.cast, casting.full_interval(self.cast))

    def evaluate(self, inputs: tuple[npt.NDArray[np.floating]], infos: Infos, out: Info) -> RawArray:
        return casting.cast_floats(inputs[0], self.cast)


@dataclass(frozen=True, slots=True)
class Cast:
    """Rounding, then overflow: the only operator that loses bits."""

    cast: ArrayType

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        return _cast_info(name, x.shape, self.cast, casting.cast_interval(x.interval, self.cast))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return casting.cast_raws(inputs[0], infos[0].type.frac_bits, self.cast)


@dataclass(frozen=True, slots=True)
class Conv:
    """Cross-correlation over 1 or 2 spatial axes, as torch.nn.functional.conv1d / conv2d; zero padding."""

    weight: Const  # (out_channels, in_channels / groups, *kernel)
    bias: Const | None  # (out_channels,)
    stride: Shape
    pads: Pads  # one pair per spatial axis
    dilation: Shape
    groups: int

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if len(self.weight.shape) != len(x.shape) + 1:
            raise ModelFileError(
                f"the weight is {self.weight.shape} for a value of shape {x.shape}", where=name, remedy="give (out, in/groups, *kernel)"
            )
        windows = self.windows(name, x.shape)
        outputs, per_group = self.weight.shape[:2]
        if self.groups < 1 or outputs % self.groups or per_group * self.groups != x.shape[0]:
            raise ModelFileError(
                f"the weight is {self.weight.shape} for {x.shape[0]} channels in {self.groups} groups",
                where=name,
                remedy="give (out, in/groups, *kernel)",
            )
        interval = _weighted_interval(name, self.weight, self.bias, self.met(x))
        return rules.info(name, (outputs, *windows.out), interval)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        (x,) = infos
        raw = sums.convolve(self.weight, self.groups, self.windows("", x.shape), inputs[0], x.interval)
        return _with_bias(raw, x.interval.frac_bits + self.weight.frac_bits, self.bias, out)

    def windows(self, name: str, shape: Shape) -> Windows:
        """The windows over an input of ``shape``."""
        return Windows.of(name, shape, self.weight.shape[2:], self.stride, self.pads, self.dilation)

    def met(self, x: Info) -> Interval:
        """What the weights meet: the input's interval, and 0 where there is padding."""
        return x.interval.with_zero() if any(map(any, self.pads)) else x.interval


@dataclass(frozen=True, slots=True)
class Linear:
    """y = weight @ x + bias for a value of shape (in_features,)."""

    weight: Const  # (out_features, in_features)
    bias: Const | None  # (out_features,)

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if len(self.weight.shape) != 2 or x.shape != self.weight.shape[1:]:
            raise ModelFileError(
                f"the weight is {self.weight.shape} for a value of shape {x.shape}", where=name, remedy="flatten the value, give (out, in)"
            )
        return rules.info(name, self.weight.shape[:1], _weighted_interval(name, self.weight, self.bias, x.interval))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        (x,) = infos
        raw = sums.matvec(self.weight, inputs[0], x.interval)
        return _with_bias(raw, x.interval.frac_bits + self.weight.frac_bits, self.bias, out)


@dataclass(frozen=True, slots=True)
class Affine:
    """y = x * scale + shift, with one scale and shift per channel (shape (C,)) or for all (shape ())."""

    scale: Const
    shift: Const | None

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        for field, const in (("scale", self.scale), ("shift", self.shift)):
            if const is not None and const.shape not in ((), x.shape[:1]):
                raise ModelFileError(
                    f"the {field} is {const.shape} for a value of shape {x.shape}", where=name, remedy="give one per channel, or a scalar"
                )
        product, total = self.intervals(x)
        rules.fit(name, product, total)
        return rules.info(name, x.shape, total)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        (x,) = infos
        raw = inputs[0] * _per_channel(self.scale.raw, len(x.shape))
        return _with_bias(raw, x.interval.frac_bits + self.scale.frac_bits, self.shift, out)

    def intervals(self, x: Info) -> tuple[Interval, Interval]:
        """Those of ``x * scale`` and of the result, over all channels; both on the result's grid."""
        terms = [x.interval * scale for scale in self.scale.entries]
        if self.shift is None:
            return hull(terms), hull(terms)
        shifts = self.shift.entries
        channels = max(len(terms), len(shifts))
        pairs = zip(terms * (channels // len(terms)), shifts * (channels // len(shifts)), strict=True)
        total = hull(term + shift for term, shift in pairs)
        return hull(terms).at(total.frac_bits), total


@dataclass(frozen=True, slots=True)
class Add:
    """Sum of two values of one shape."""

    def infer(self, name: str, inputs: Infos) -> Info:
        a, b = rules.same_shape(name, inputs)
        return rules.info(name, a.shape, a.interval + b.interval)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        a, b = (rules.align(raw, info, out) for raw, info in zip(inputs, infos, strict=True))
        return a + b


@dataclass(frozen=True, slots=True)
class Sub:
    """Difference of two values of one shape."""

    def infer(self, name: str, inputs: Infos) -> Info:
        a, b = rules.same_shape(name, inputs)
        return rules.info(name, a.shape, a.interval - b.interval)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        a, b = (rules.align(raw, info, out) for raw, info in zip(inputs, infos, strict=True))
        return a - b


@dataclass(frozen=True, slots=True)
class Mul:
    """Elementwise product of two values of one shape."""

    def infer(self, name: str, inputs: Infos) -> Info:
        a, b = rules.same_shape(name, inputs)
        return rules.info(name, a.shape, a.interval * b.interval)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return inputs[0] * inputs[1]


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, 0)."""

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        return rules.info(name, x.shape, x.interval.relu())

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return np.maximum(inputs[0], 0)


@dataclass(frozen=True, slots=True)
class LeakyRelu:
    """x for x >= 0, else x * 2**log2_slope; log2_slope <= 0."""

    log2_slope: int

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if self.log2_slope > 0:
            raise ModelFileError(f"log2_slope is {self.log2_slope}", where=name, remedy="use a slope of 1, 1/2, 1/4, ...")
        return rules.info(name, x.shape, x.interval.leaky_relu(self.log2_slope))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        (x,) = inputs
        return np.where(x < 0, x, x << -self.log2_slope)


@dataclass(frozen=True, slots=True)
class Clip:
    """min(max(x, low), high); both scalar constants (ReLU6 is Clip(0, 6))."""

    low: Const
    high: Const

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if self.low.shape or self.high.shape:
            raise ModelFileError(f"bounds of shape {self.low.shape} and {self.high.shape}", where=name, remedy="give scalars")
        low, high = self.low.interval, self.high.interval
        if (high - low).lo < 0:
            raise ModelFileError(f"the low bound {self.low.values} exceeds the high bound {self.high.values}", where=name, remedy="swap them")
        interval = x.interval.clip(low, high)
        rules.fit(name, x.interval.at(interval.frac_bits), low.at(interval.frac_bits), high.at(interval.frac_bits))
        return rules.info(name, x.shape, interval)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        grid = out.type.frac_bits
        return np.clip(rules.align(inputs[0], infos[0], out), self.low.interval.at(grid).lo, self.high.interval.at(grid).lo)


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Greatest value of each window; padding never wins (every window holds at least one real value)."""

    kernel: Shape
    stride: Shape
    pads: Pads  # one pair per spatial axis
    dilation: Shape

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        windows = self.windows(name, x.shape)
        if windows.real_taps()[0] == 0:
            raise ModelFileError(f"a window of {self.kernel} holds nothing but padding {self.pads}", where=name, remedy="pad by less than the kernel")
        return rules.info(name, (x.shape[0], *windows.out), x.interval)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        views = self.windows("", infos[0].shape).taps(inputs[0], fill=RAW_MIN)
        greatest = views[0].copy()
        for view in views[1:]:
            np.maximum(greatest, view, out=greatest)
        return greatest

    def windows(self, name: str, shape: Shape) -> Windows:
        """The windows over an input of ``shape``."""
        return Windows.of(name, shape, self.kernel, self.stride, self.pads, self.dilation)


@dataclass(frozen=True, slots=True)
class SumPool:
    """Sum of each window, padding counted as zeros. Average pooling is SumPool, Affine by a fixed-point reciprocal, Cast."""

    kernel: Shape
    stride: Shape
    pads: Pads

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        windows = self.windows(name, x.shape)
        least, greatest = (Interval(x.interval.lo * n, x.interval.hi * n, x.interval.frac_bits) for n in windows.real_taps())
        return rules.info(name, (x.shape[0], *windows.out), least | greatest)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        views = self.windows("", infos[0].shape).taps(inputs[0], fill=0)
        total = views[0].copy()
        for view in views[1:]:
            np.add(total, view, out=total)
        return total

    def windows(self, name: str, shape: Shape) -> Windows:
        """The windows over an input of ``shape``."""
        return Windows.of(name, shape, self.kernel, self.stride, self.pads)


Op = (
    Input | Cast | Conv | Linear | Affine | Add | Sub | Mul | Relu | LeakyRelu | Clip | MaxPool | SumPool | Concat | Reshape | Transpose | Pad | Slice
    | Upsample | Stretch
)  # fmt: skip

OPERATORS: tuple[type[Op], ...] = (
    Input, Cast, Conv, Linear, Affine, Add, Sub, Mul, Relu, LeakyRelu, Clip, MaxPool, SumPool, Concat, Reshape, Transpose, Pad, Slice,
    Upsample, Stretch,
)  # fmt: skip
"""The whole set, for tests that ask whether every part of qfx knows every operator."""


def accumulator(op: Op, x: Info) -> FixedType:
    """The type that holds every partial sum of the operator, whatever the order of its terms, for an input ``x``; it has the frac_bits of the result.

    Conv and Linear start from the bias, SumPool from 0; Affine's holds product and result. TypeError for an operator that does not accumulate.
    """
    if isinstance(op, Conv):
        return sums.weighted(op.weight, op.bias, op.met(x))[1].type()
    if isinstance(op, Linear):
        return sums.weighted(op.weight, op.bias, x.interval)[1].type()
    if isinstance(op, SumPool):
        return x.interval.times(op.windows("", x.shape).real_taps()[1]).with_zero().type()
    if isinstance(op, Affine):
        product, total = op.intervals(x)
        return (product | total).type()
    raise TypeError(f"{type(op).__name__} does not accumulate")


def macs(op: Op, out: Info) -> int:
    """Multiply-accumulates per sample of an operator with the result ``out``: those of Conv, Linear and Affine by constants; 0 for the others."""
    if isinstance(op, Conv | Linear):
        return out.size * math.prod(op.weight.shape[1:])
    return out.size if isinstance(op, Affine) else 0


def _cast_info(name: str, shape: Shape, cast: ArrayType, interval: Interval) -> Info:
    casting.check_broadcast(name, cast, shape)
    if cast.hull.width > MAX_ARRAY_WIDTH:
        raise ExactnessError(
            f"casts to {cast}, which takes words of {cast.hull.width} bits", where=name, remedy=f"use at most {MAX_ARRAY_WIDTH} bits"
        )
    return Info(shape, cast.hull, interval)


def _weighted_interval(name: str, weight: Const, bias: Const | None, x: Interval) -> Interval:
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ModelFileError(f"the bias is {bias.shape} for {weight.shape[0]} outputs", where=name, remedy="give one per output")
    full, partial = sums.weighted(weight, bias, x)
    rules.fit(name, partial)
    return full


def _per_channel(raw: RawArray, rank: int) -> RawArray:
    return raw.reshape(-1, *(1,) * (rank - 1)) if raw.ndim else raw


def _with_bias(raw: RawArray, frac_bits: int, bias: Const | None, out: Info) -> RawArray:
    """Raws of a sum of products on the grid ``frac_bits``, taken to the grid of ``out``, plus the bias."""
    grid = out.type.frac_bits
    aligned = raw << (grid - frac_bits) if grid > frac_bits else raw
    return aligned if bias is None else aligned + (_per_channel(bias.raw, len(out.shape)) << (grid - bias.frac_bits))
