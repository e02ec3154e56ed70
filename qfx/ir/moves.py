"""The operators that move elements without computing: see ``ops.py``, which lists the whole set, for the contract of ``infer`` and ``evaluate``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qfx.errors import ModelFileError
from qfx.fixed.arith import Bounds, Channels, Interval, channelwise
from qfx.ir import rules
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, Pads, RawArray, Shape
from qfx.ir.windows import check_pads


@dataclass(frozen=True, slots=True)
class Concat:
    """Two or more values joined along the channels; the result's grid is the finest of theirs."""

    def infer(self, name: str, inputs: Infos) -> Info:
        if len(inputs) < 2:
            raise ModelFileError(f"reads {len(inputs)} values", where=name, remedy="join two or more")
        if len({info.shape[1:] for info in inputs}) > 1:
            raise ModelFileError(
                f"joins the shapes {', '.join(str(info.shape) for info in inputs)}", where=name, remedy="only the channels may differ"
            )
        shape = (sum(info.shape[0] for info in inputs), *inputs[0].shape[1:])
        joined = channelwise(interval for info in inputs for interval in info.interval.spread(info.shape[0]))
        made = rules.info(name, shape, joined, rules.common_grid(*inputs))
        if not made.per_channel:
            return made
        # Raws are joined as they are.
        return rules.info(name, shape, channelwise(interval for info in inputs for interval in info.stored.spread(info.shape[0])))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        if out.per_channel or any(info.per_channel for info in infos):
            return np.concatenate(inputs, axis=1)
        return np.concatenate([rules.align(raw, info, out) for raw, info in zip(inputs, infos, strict=True)], axis=1)


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same elements in PyTorch's (row-major) order under another shape (flatten included)."""

    shape: Shape

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        rules.check_shape(name, self.shape)
        if math.prod(self.shape) != x.size:
            raise ModelFileError(f"{x.shape} holds {x.size} elements, {self.shape} {math.prod(self.shape)}", where=name, remedy="keep the number")
        if self.keeps_channels(x):
            return rules.info(name, self.shape, x.interval, rules.common_grid(x))
        return rules.info(name, self.shape, rules.one_grid(name, x).interval.at(x.type.frac_bits))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        raw = inputs[0] if self.keeps_channels(infos[0]) else rules.align(inputs[0], infos[0], out)
        return raw.reshape(-1, *self.shape)

    def keeps_channels(self, x: Info) -> bool:
        """Whether the channels of the result are those of ``x``: otherwise its numbers meet on one grid."""
        return self.shape[0] == x.shape[0]


@dataclass(frozen=True, slots=True)
class Transpose:
    """Axes permuted: result axis i is source axis perm[i] (batch not counted)."""

    perm: tuple[int, ...]

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if sorted(self.perm) != list(range(len(x.shape))):
            raise ModelFileError(f"perm is {self.perm} for a value of shape {x.shape}", where=name, remedy="list every axis once, without the batch")
        shape = tuple(x.shape[axis] for axis in self.perm)
        if self.keeps_channels(x):
            return rules.info(name, shape, x.interval, rules.common_grid(x))
        return rules.info(name, shape, rules.one_grid(name, x).interval.at(x.type.frac_bits))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        raw = inputs[0] if self.keeps_channels(infos[0]) else rules.align(inputs[0], infos[0], out)
        return np.transpose(raw, (0, *(axis + 1 for axis in self.perm)))

    def keeps_channels(self, x: Info) -> bool:
        """Whether the channels of the result are those of ``x``: otherwise its numbers meet on one grid."""
        return self.perm[0] == 0


@dataclass(frozen=True, slots=True)
class Pad:
    """Zeros around every axis, the channels included."""

    pads: Pads  # one pair per axis

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if len(self.pads) != len(x.shape):
            raise ModelFileError(f"pads are {self.pads} for a value of shape {x.shape}", where=name, remedy="give one pair per axis")
        check_pads(name, self.pads)
        shape = tuple(size + before + after for size, (before, after) in zip(x.shape, self.pads, strict=True))
        return rules.info(name, shape, self._interval(x), rules.common_grid(x))

    def _interval(self, x: Info) -> Bounds:
        bounds = x.interval.with_zero() if any(map(any, self.pads)) else x.interval
        if not isinstance(bounds, Channels):
            return bounds
        before, after = ((Interval(0, 0, x.type.frac_bits),) * count for count in self.pads[0])
        return channelwise((*before, *bounds.channels, *after))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return np.pad(inputs[0], ((0, 0), *self.pads))


@dataclass(frozen=True, slots=True)
class Slice:
    """x[start:stop:step] on every axis; 0 <= start < stop <= size and step >= 1."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if not len(self.starts) == len(self.stops) == len(self.steps) == len(x.shape):
            raise ModelFileError(
                f"starts {self.starts}, stops {self.stops}, steps {self.steps} for a value of shape {x.shape}", where=name, remedy="give one per axis"
            )
        ranges = [range(*bounds) for bounds in zip(self.starts, self.stops, self.steps, strict=True) if bounds[2] >= 1]
        if len(ranges) < len(x.shape) or not all(0 <= r.start < r.stop <= size for r, size in zip(ranges, x.shape, strict=True)):
            raise ModelFileError(
                f"takes {self.starts}:{self.stops}:{self.steps} of {x.shape}", where=name, remedy="use 0 <= start < stop <= size and step >= 1"
            )
        taken = channelwise(x.interval.spread(x.shape[0])[self.starts[0] : self.stops[0] : self.steps[0]])
        return rules.info(name, tuple(map(len, ranges)), taken, rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return inputs[0][(slice(None), *map(slice, self.starts, self.stops, self.steps))]


@dataclass(frozen=True, slots=True)
class Upsample:
    """Every pixel repeated ``factors`` times along its axis: result[.., i, ..] = source[.., i // factor, ..] (nearest neighbour)."""

    factors: Shape  # one per spatial axis

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        _check_factors(name, self.factors, x.shape)
        shape = tuple(size * factor for size, factor in zip(x.shape[1:], self.factors, strict=True))
        return rules.info(name, (x.shape[0], *shape), x.interval, rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        (raw,) = inputs
        for axis, factor in enumerate(self.factors, start=2):
            raw = np.repeat(raw, factor, axis)
        return raw


@dataclass(frozen=True, slots=True)
class Stretch:
    """factor - 1 zeros between neighbouring pixels: result[.., i * factor, ..] = source[.., i, ..], of size (n - 1) * factor + 1 along an axis of n.

    A transposed convolution is a convolution of the stretched value (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning",
    2016).
    """

    factors: Shape  # one per spatial axis

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        _check_factors(name, self.factors, x.shape)
        shape = (x.shape[0], *((size - 1) * factor + 1 for size, factor in zip(x.shape[1:], self.factors, strict=True)))
        return rules.info(name, shape, x.interval if shape == x.shape else x.interval.with_zero(), rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        stretched = np.zeros((len(inputs[0]), *out.shape), dtype=np.int64)
        stretched[(slice(None), slice(None), *(slice(None, None, factor) for factor in self.factors))] = inputs[0]
        return stretched


def _check_factors(name: str, factors: Shape, shape: Shape) -> None:
    if len(shape) < 2 or len(factors) != len(shape) - 1 or min(factors) < 1:
        raise ModelFileError(
            f"factors are {factors} for a value of shape {shape}", where=name, remedy="give one of at least 1 per axis behind the channels"
        )
