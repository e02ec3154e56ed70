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
from qfx.fixed.arith import Bounds, Interval, channelwise
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
        return _cast_info(name, self.shape, self.cast, casting.full_interval(self.cast, self.shape))

    def evaluate(self, inputs: tuple[npt.NDArray[np.floating]], infos: Infos, out: Info) -> RawArray:
        return casting.cast_floats(inputs[0], self.cast)


@dataclass(frozen=True, slots=True)
class Cast:
    """Rounding, then overflow: the only operator that loses bits."""

    cast: ArrayType

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        return _cast_info(name, x.shape, self.cast, casting.cast_interval(x.interval, self.cast, x.shape))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return casting.cast_raws(inputs[0], infos[0].grids, self.cast)


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
        return _weighted_info(name, (outputs, *windows.out), self.weight, self.bias, self.met(rules.one_grid(name, x)))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        x = infos[0].on_one_grid()
        raw = sums.convolve(self.weight, self.groups, self.windows("", x.shape), rules.align(inputs[0], infos[0], x), x.interval.at(x.type.frac_bits))
        return _with_bias(raw, x.grids + _per_channel(self.weight.rows(len(self.weight.raw)), len(out.shape)), self.bias, out)

    def windows(self, name: str, shape: Shape) -> Windows:
        """The windows over an input of ``shape``."""
        return Windows.of(name, shape, self.weight.shape[2:], self.stride, self.pads, self.dilation)

    def met(self, x: Info) -> Interval:
        """What the weights meet: the input's numbers on the one grid that they mix on, and 0 where there is padding."""
        stored = x.interval.at(x.type.frac_bits)
        return stored.with_zero() if any(map(any, self.pads)) else stored


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
        return _weighted_info(name, self.weight.shape[:1], self.weight, self.bias, rules.one_grid(name, x).interval.at(x.type.frac_bits))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        x = infos[0].on_one_grid()
        raw = sums.matvec(self.weight, rules.align(inputs[0], infos[0], x), x.interval.at(x.type.frac_bits))
        return _with_bias(raw, x.grids + np.array(self.weight.rows(len(self.weight.raw))), self.bias, out)


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
        grid = self.grid(x)
        info = rules.info(name, x.shape, total, grid)
        rules.fit(name, product if info.per_channel or grid is None else product.at(grid))
        return info

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        (x,) = infos
        # Narrow first: on the grids of its own channels x times the scale fits wherever the result does.
        narrow = x.narrow() if out.per_channel or self.grid(x) is None else x
        raw = rules.align(inputs[0], x, narrow) * _per_channel(self.scale.raw, len(x.shape))
        return _with_bias(raw, narrow.grids + _per_channel(self.scale.grids, len(x.shape)), self.shift, out)

    def grid(self, x: Info) -> int | None:
        """The grid of the result where ``x`` and the constants have one grid each."""
        if rules.common_grid(x, self.scale, self.shift) is None:
            return None
        product = x.type.frac_bits + self.scale.grid
        return product if self.shift is None else max(product, self.shift.grid)

    def intervals(self, x: Info) -> tuple[Bounds, Bounds]:
        """Those of ``x * scale`` and of the result, for each channel; both on the result's grids."""
        channels = x.shape[0]
        terms = [a * b for a, b in zip(x.interval.spread(channels), _spread(self.scale, channels), strict=True)]
        if self.shift is None:
            return channelwise(terms), channelwise(terms)
        totals = [term + shift for term, shift in zip(terms, _spread(self.shift, channels), strict=True)]
        return channelwise(term.at(total.frac_bits) for term, total in zip(terms, totals, strict=True)), channelwise(totals)


@dataclass(frozen=True, slots=True)
class Add:
    """Sum of two values of one shape."""

    def infer(self, name: str, inputs: Infos) -> Info:
        a, b = rules.same_shape(name, inputs)
        return rules.info(name, a.shape, a.interval + b.interval, rules.common_grid(a, b))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        a, b = (rules.align(raw, info, out) for raw, info in zip(inputs, infos, strict=True))
        return a + b


@dataclass(frozen=True, slots=True)
class Sub:
    """Difference of two values of one shape."""

    def infer(self, name: str, inputs: Infos) -> Info:
        a, b = rules.same_shape(name, inputs)
        return rules.info(name, a.shape, a.interval - b.interval, rules.common_grid(a, b))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        a, b = (rules.align(raw, info, out) for raw, info in zip(inputs, infos, strict=True))
        return a - b


@dataclass(frozen=True, slots=True)
class Mul:
    """Elementwise product of two values of one shape."""

    def infer(self, name: str, inputs: Infos) -> Info:
        a, b = rules.same_shape(name, inputs)
        one_grid = rules.common_grid(a, b) is not None
        return rules.info(name, a.shape, a.interval * b.interval, a.type.frac_bits + b.type.frac_bits if one_grid else None)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        own = out.per_channel or rules.common_grid(*infos) is None
        a, b = (info.narrow() if own else info for info in infos)
        product = rules.align(inputs[0], infos[0], a) * rules.align(inputs[1], infos[1], b)
        return rules.move(product, out.grids - a.grids - b.grids)


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, 0)."""

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        return rules.info(name, x.shape, x.interval.relu(), rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return np.maximum(rules.align(inputs[0], infos[0], out), 0)


@dataclass(frozen=True, slots=True)
class LeakyRelu:
    """x for x >= 0, else x * 2**log2_slope; log2_slope <= 0."""

    log2_slope: int

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if self.log2_slope > 0:
            raise ModelFileError(f"log2_slope is {self.log2_slope}", where=name, remedy="use a slope of 1, 1/2, 1/4, ...")
        grid = rules.common_grid(x)
        return rules.info(name, x.shape, x.interval.leaky_relu(self.log2_slope), None if grid is None else grid - self.log2_slope)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        x = rules.move(inputs[0], out.grids + self.log2_slope - infos[0].grids)
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
        low, high = self.low.interval.hull, self.high.interval.hull
        if (high - low).lo < 0:
            raise ModelFileError(f"the low bound {self.low.values} exceeds the high bound {self.high.values}", where=name, remedy="swap them")
        info = rules.info(name, x.shape, x.interval.clip(low, high), rules.common_grid(x, self.low, self.high))
        rules.fit(name, *((x.interval | low | high,) if info.per_channel else (bound.at(info.type.frac_bits) for bound in (x.interval, low, high))))
        return info

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        low, high = (bound.raw << (out.grids - bound.grids) for bound in (self.low, self.high))
        return np.clip(rules.align(inputs[0], infos[0], out), low, high)


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
        return rules.info(name, (x.shape[0], *windows.out), x.interval, rules.common_grid(x))

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
        least, greatest = (x.interval.times(taps) for taps in windows.real_taps())
        return rules.info(name, (x.shape[0], *windows.out), least | greatest, rules.common_grid(x))

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
    """The type that holds every partial sum of the operator, whatever the order of its terms, for an input ``x``; it has the frac_bits of the result
    (the finest, where its channels have grids of their own: then it holds the raws of each).

    Conv and Linear start from the bias, SumPool from 0; Affine's holds product and result. TypeError for an operator that does not accumulate.
    """
    if isinstance(op, Conv):
        return _word(sums.weighted(op.weight, op.bias, op.met(x))[1])
    if isinstance(op, Linear):
        return _word(sums.weighted(op.weight, op.bias, x.interval.at(x.type.frac_bits))[1])
    if isinstance(op, SumPool):
        return _word(x.stored.times(op.windows("", x.shape).real_taps()[1]).with_zero())
    if isinstance(op, Affine):
        product, total = op.intervals(x)
        result = op.infer("", (x,))
        return _word(product | total) if result.per_channel else (product | total).at(result.type.frac_bits).type()
    raise TypeError(f"{type(op).__name__} does not accumulate")


def macs(op: Op, out: Info) -> int:
    """Multiply-accumulates per sample of an operator with the result ``out``: those of Conv, Linear and Affine by constants; 0 for the others."""
    if isinstance(op, Conv | Linear):
        return out.size * math.prod(op.weight.shape[1:])
    return out.size if isinstance(op, Affine) else 0


def _cast_info(name: str, shape: Shape, cast: ArrayType, interval: Bounds) -> Info:
    casting.check_broadcast(name, cast, shape)
    if cast.hull.width > MAX_ARRAY_WIDTH:
        raise ExactnessError(
            f"casts to {cast}, which takes words of {cast.hull.width} bits", where=name, remedy=f"use at most {MAX_ARRAY_WIDTH} bits"
        )
    return Info(shape, cast.hull, interval)


def _word(bounds: Bounds) -> FixedType:
    """The type that holds the raw of every channel."""
    return FixedType(bounds.width, bounds.width - bounds.hull.frac_bits, bounds.signed)


def _spread(const: Const, channels: int) -> tuple[Interval, ...]:
    """What is known of the constant of each channel."""
    return const.entries * (channels // len(const.entries))


def _weighted_info(name: str, shape: Shape, weight: Const, bias: Const | None, x: Interval) -> Info:
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ModelFileError(f"the bias is {bias.shape} for {weight.shape[0]} outputs", where=name, remedy="give one per output")
    full, partial = sums.weighted(weight, bias, x)
    rules.fit(name, partial)
    return rules.info(name, shape, full)


def _per_channel(values: RawArray | tuple[int, ...], rank: int) -> RawArray:
    array = np.asarray(values, dtype=np.int64)
    return array.reshape(-1, *(1,) * (rank - 1)) if array.ndim else array


def _with_bias(raw: RawArray, grids: npt.NDArray[np.int64], bias: Const | None, out: Info) -> RawArray:
    """Raws of sums of products on ``grids``, taken to the grids of ``out``, plus the bias."""
    rank = len(out.shape)
    aligned = rules.move(raw, out.grids - grids)
    return aligned if bias is None else aligned + rules.move(_per_channel(bias.raw, rank), out.grids - _per_channel(bias.grids, rank))
