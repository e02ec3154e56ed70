"""Rectifiers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export import bounds
from qfx.export.bounds import DOUBLE, FLOAT, Value
from qfx.fixed import arith
from qfx.fixed.arith import Bounds, channelwise
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design.epilogue import simple
from qfx.ir import channels, rules, sums
from qfx.ir.channels import Carried, Mask
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Node
from qfx.ir.operator import Operator, Plain, Pointwise
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.epilogue import Steps
    from qfx.hardware.unrolled.program import Number
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Relu(Plain, Pointwise):
    """max(x, 0)."""

    forms: ClassVar[tuple[str, ...]] = ("Relu",)

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        return rules.info(name, x.shape, x.interval.relu(), rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return np.maximum(rules.align(inputs[0], infos[0], out), 0)

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        return scalars.each(lambda x: scalars.greater(x, scalars.zero), inputs[0])

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out)

    def does_nothing(self, x: Info) -> bool:
        return not x.interval.signed

    def words(self) -> Iterable[str]:
        return []

    def write(self, writer: Writer, node: Node) -> Value:
        writer.emit(node, "Relu")
        return writer.values[node.inputs[0]]

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls()

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        _steps(steps, "relu", out, 0)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(), (drawing.source,)


@dataclass(frozen=True, slots=True)
class LeakyRelu(Plain, Pointwise):
    """x for x >= 0, else x * 2**log2_slope; log2_slope <= 0."""

    log2_slope: int

    forms: ClassVar[tuple[str, ...]] = ("LeakyRelu", "ai.qfx.LeakyRelu")
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "LeakyRelu": """LeakyRelu <alpha> (x) => (y) {
    slope32 = Constant <value_float: float = @alpha> ()
    slope = CastLike(slope32, x)
    small = Mul(x, slope)
    y = Max(x, small)
}""",
    })  # fmt: skip

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if self.log2_slope > 0:
            raise ModelFileError(f"log2_slope is {self.log2_slope}", where=name, remedy="use a slope of 1, 1/2, 1/4, ...")
        grid = rules.common_grid(x)
        return rules.info(name, x.shape, x.interval.leaky_relu(self.log2_slope), None if grid is None else grid - self.log2_slope)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        x = rules.move(inputs[0], out.grids + self.log2_slope - infos[0].grids)
        return np.where(x < 0, x, x << -self.log2_slope)

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        """The greater of x and of x times the slope, which is at most 1."""
        return scalars.each(lambda x: scalars.greater(x, scalars.moved(x, self.log2_slope)), inputs[0])

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out)

    def does_nothing(self, x: Info) -> bool:
        return not x.interval.signed or self.log2_slope == 0

    def words(self) -> Iterable[str]:
        return [f"2^{self.log2_slope}"]

    def write(self, writer: Writer, node: Node) -> Value:
        # A power of two scales a float exactly, however wide the common grid of both halves is.
        x, slope = writer.values[node.inputs[0]], math.ldexp(1.0, self.log2_slope)
        fine = x.frac - self.log2_slope
        dtype = FLOAT if x.dtype == FLOAT and fine <= 120 else DOUBLE
        if dtype == FLOAT:
            writer.emit(node, "LeakyRelu", attributes={"alpha": slope})
        else:
            writer.call(node, "LeakyRelu", [writer.as_dtype(node.inputs[0], DOUBLE)], {"alpha": slope})
        return Value(dtype, x.bound.times(1 << -self.log2_slope).shifted(self.log2_slope))

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(math.frexp(proto.real("alpha"))[1] - 1)

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        _steps(steps, "leaky_relu", out, self.log2_slope)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(-int(drawing.rng.integers(0, 4, endpoint=True))), (drawing.source,)


def _steps(steps: Steps, function: str, out: Info, log2_slope: int) -> None:
    """Numbers below 0 are shifted ``log2_slope`` less."""
    shift = simple(out.grids) - steps.grids
    if shift.min() != shift.max() or shift.min() < 0:
        steps.move(out.grids + log2_slope, FixedType(steps.type.width + int(max(shift.max(), 0)), 0, steps.type.signed))
        shift = simple(out.grids) - steps.grids
    by = int(shift.max())
    steps.add(function, out.word, (by,) if function == "relu" else (by, by + log2_slope))


@dataclass(frozen=True, slots=True)
class PRelu(Pointwise):
    """x for x >= 0, else x * slope, with one slope per channel (shape (C,)) or for all (shape ())."""

    slope: Const

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.PRelu",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "PRelu": """PRelu (x, slope) => (y) {
    small = Mul(x, slope)
    zero32 = Constant <value_float: float = 0.0> ()
    zero = CastLike(zero32, x)
    below = Less(x, zero)
    y = Where(below, small, x)
}""",
    })  # fmt: skip

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if self.slope.shape not in ((), x.shape[:1]):
            raise ModelFileError(
                f"the slope is {self.slope.shape} for a value of shape {x.shape}", where=name, remedy="give one per channel, or a scalar"
            )
        one_grid = rules.common_grid(x, self.slope) is not None
        return rules.info(name, x.shape, self._bounds(x), max(x.type.frac_bits, x.type.frac_bits + self.slope.grid) if one_grid else None)

    def _bounds(self, x: Info) -> Bounds:
        channels = x.shape[0]
        slopes = self.slope.entries * (channels // len(self.slope.entries))
        return channelwise(arith.rectified(a, b).hull for a, b in zip(x.interval.spread(channels), slopes, strict=True))

    def _source(self, x: Info, out: Info) -> Info:
        """The value as it is multiplied: on the grids of its channels where the result's differ."""
        return x.narrow() if out.per_channel or rules.common_grid(x, self.slope) is None else x

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        rank = len(out.shape)
        x = self._source(infos[0], out)
        raw = rules.align(inputs[0], infos[0], x)
        small = np.minimum(raw, 0) * sums.per_channel(self.slope.raw, rank)
        negative = rules.move(small, out.grids - x.grids - sums.per_channel(self.slope.grids, rank))
        return np.where(raw < 0, negative, rules.move(np.maximum(raw, 0), out.grids - x.grids))

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        (x,) = inputs

        def rectified(x: Number, slope: Number) -> Number:
            return scalars.choose(scalars.less(x, scalars.zero), scalars.times(scalars.lesser(x, scalars.zero), slope, scalars.zero), x)

        return scalars.each(rectified, x, scalars.beside(self.slope, x.shape))

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out)

    def narrowed(self, made: Mask, read: tuple[Mask, ...]) -> Operator:
        return PRelu(channels.rows(self.slope, made))

    def does_nothing(self, x: Info) -> bool:
        return not x.interval.signed and bool((self.slope.grids <= 0).all())

    def words(self) -> Iterable[str]:
        return []

    def constants(self) -> Mapping[str, Const]:
        return {"slope": self.slope}

    def accumulator(self, x: Info) -> FixedType | None:
        return None

    def macs(self, out: Info) -> int:
        return out.size

    def write(self, writer: Writer, node: Node) -> Value:
        x = writer.values[node.inputs[0]]
        value = writer.choose(node, Value(x.dtype, x.bound | x.bound * bounds.of(self.slope)), [self.slope])
        ones = (1,) * (len(writer.graph.infos[node.name].shape) - 1)
        slope = writer.const(node, "slope", self.slope, value.dtype, (*self.slope.shape, *ones) if self.slope.shape else ())
        writer.call(node, "PRelu", [writer.as_dtype(node.inputs[0], value.dtype), slope])
        return value

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.flat_const(1))

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        x = self._source(source, out)
        steps.move(x.grids, x.word)
        up, up_small = simple(out.grids - steps.grids), simple(out.grids - steps.grids - steps.channels(self.slope.grids))
        slots, slope = steps.factor("slope", self.slope)
        name = "prelu_digits" if slots else "prelu"
        if not up.ndim and not up_small.ndim:
            steps.add(name, out.word, (int(up), int(up_small), *slots), (slope,))
        else:
            steps.add(f"{name}_by", out.word, slots, (slope, d.Operand(steps.table("up", up)), d.Operand(steps.table("up_small", up_small))))
        steps.lie_on(out.grids)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(drawing.const(drawing.shape[:1] if drawing.rng.random() < 0.7 else ())), (drawing.source,)
