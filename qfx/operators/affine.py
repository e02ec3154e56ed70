"""A factor and a summand per channel: what becomes of a batch normalization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export import bounds
from qfx.export.bounds import Value
from qfx.fixed.arith import Bounds, Interval, channelwise
from qfx.fixed.type import FixedType
from qfx.ir import rules, sums
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Node
from qfx.ir.operator import Operator, Pointwise
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.epilogue import Steps
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Affine(Pointwise):
    """y = x * scale + shift, with one scale and shift per channel (shape (C,)) or for all (shape ())."""

    scale: Const
    shift: Const | None

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.Affine", "ai.qfx.Scale")
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "Scale": """Scale (x, scale) => (y) {
    y = Mul(x, scale)
}""",
        "Affine": """Affine (x, scale, shift) => (y) {
    product = Mul(x, scale)
    y = Add(product, shift)
}""",
    })  # fmt: skip

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
        raw = rules.align(inputs[0], x, narrow) * sums.per_channel(self.scale.raw, len(x.shape))
        return sums.with_bias(raw, narrow.grids + sums.per_channel(self.scale.grids, len(x.shape)), self.shift, out)

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

    def does_nothing(self, x: Info) -> bool:
        return _all_ones(self.scale) and (self.shift is None or not self.shift.raw.any())

    def words(self) -> Iterable[str]:
        return []

    def constants(self) -> Mapping[str, Const]:
        return {"scale": self.scale} if self.shift is None else {"scale": self.scale, "shift": self.shift}

    def accumulator(self, x: Info) -> FixedType:
        """It holds product and result."""
        product, total = self.intervals(x)
        result = self.infer("", (x,))
        return sums.word(product | total) if result.per_channel else (product | total).at(result.type.frac_bits).type()

    def macs(self, out: Info) -> int:
        return out.size

    def write(self, writer: Writer, node: Node) -> Value:
        x, scale = writer.values[node.inputs[0]], bounds.of(self.scale)
        value = writer.choose(node, Value(x.dtype, bounds.plus(x.bound * scale, self.shift)), [self.scale, self.shift])
        ones = (1,) * (len(writer.graph.infos[node.name].shape) - 1)
        inputs = [writer.as_dtype(node.inputs[0], value.dtype)]
        for role, const in self.constants().items():
            inputs.append(writer.const(node, role, const, value.dtype, (*const.shape, *ones) if const.shape else ()))
        writer.call(node, "Scale" if self.shift is None else "Affine", inputs)
        return value

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.flat_const(1), proto.flat_const(2) if proto.form == "ai.qfx.Affine" else None)

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        if out.per_channel or self.grid(source) is None:  # narrow first, as in evaluate
            steps.move(source.narrow().grids, source.narrow().word)
        wide = self.accumulator(source)
        grids = steps.grids + steps.channels(self.scale.grids)
        product = FixedType(wide.width, wide.width - int(grids.max()), wide.signed)
        steps.add("mul", product, (0,), (steps.operand("scale", self.scale),))
        steps.lie_on(grids)
        steps.bias(self.shift, out)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        rng, channels = drawing.rng, drawing.shape[:1]
        scale = drawing.const(channels if rng.random() < 0.7 else ())
        return cls(scale, drawing.maybe(drawing.const(channels if rng.random() < 0.7 else (), bits=8))), (drawing.source,)


def _spread(const: Const, channels: int) -> tuple[Interval, ...]:
    """What is known of the constant of each channel."""
    return const.entries * (channels // len(const.entries))


def _all_ones(const: Const) -> bool:
    return all(row >= 0 for row in const.rows(1)) and bool((const.raw == 1 << np.maximum(const.grids, 0)).all())
