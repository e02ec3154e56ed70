"""Rectifiers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export.bounds import DOUBLE, FLOAT, Value
from qfx.fixed.type import FixedType
from qfx.hardware.design.epilogue import simple
from qfx.ir import rules
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Node
from qfx.ir.operator import Operator, Plain, Pointwise
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.epilogue import Steps
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
