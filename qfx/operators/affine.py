"""A factor and a summand that are constants: what becomes of a batch normalization, and of arithmetic with constants."""

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
from qfx.ir import channels, rules, sums
from qfx.ir.channels import Carried, Mask
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Node
from qfx.ir.operator import Operator, Pointwise
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, LoadableConst, RawArray, Shape

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.epilogue import Steps
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Affine(Pointwise):
    """y = x * scale + shift; one of the two may be left out.

    Each is a scalar (shape ()), one number per channel (shape (C,)), or has an axis for each of x's, of its length or of 1, where it differs along
    others than the channels: hardware reads it from a ROM by the place in the frame.
    """

    scale: Const | None
    shift: Const | None

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.Affine", "ai.qfx.Scale", "ai.qfx.Shift")
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "Scale": """Scale (x, scale) => (y) {
    y = Mul(x, scale)
}""",
        "Affine": """Affine (x, scale, shift) => (y) {
    product = Mul(x, scale)
    y = Add(product, shift)
}""",
        "Shift": """Shift (x, shift) => (y) {
    y = Add(x, shift)
}""",
    })  # fmt: skip

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if self.scale is None and self.shift is None:
            raise ModelFileError("neither a scale nor a shift", where=name, remedy="give one of them, or leave the operator out")
        for field, const in self.constants().items():
            if not _broadcasts(const.shape, x.shape):
                remedy = (
                    "give a scalar, one per channel, or, where it differs along other axes, an axis for each of the value's, of its length or of 1"
                )
                raise ModelFileError(f"the {field} is {const.shape} for a value of shape {x.shape}", where=name, remedy=remedy)
        product, total = self.intervals(x)
        grid = self.grid(x)
        info = rules.info(name, x.shape, total, grid)
        rules.fit(name, product if info.per_channel or grid is None else product.at(grid))
        return info

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        (x,) = infos
        # Narrow first: on the grids of its own channels x times the scale fits wherever the result does.
        narrow = x.narrow() if out.per_channel or self.grid(x) is None else x
        raw, grids = rules.align(inputs[0], x, narrow), narrow.grids
        if self.scale is not None:
            raw, grids = raw * sums.per_channel(self.scale.raw, len(x.shape)), grids + sums.per_channel(self.scale.grids, len(x.shape))
        return sums.with_bias(raw, grids, self.shift, out)

    def grid(self, x: Info) -> int | None:
        """The grid of the result where ``x`` and the constants have one grid each."""
        if rules.common_grid(x, self.scale, self.shift) is None:
            return None
        product = x.type.frac_bits + (0 if self.scale is None else self.scale.grid)
        return product if self.shift is None else max(product, self.shift.grid)

    def intervals(self, x: Info) -> tuple[Bounds, Bounds]:
        """Those of ``x * scale`` and of the result, for each channel; both on the result's grids."""
        channels = x.shape[0]
        terms = x.interval.spread(channels)
        if self.scale is not None:
            terms = tuple(a * b for a, b in zip(terms, _spread(self.scale, channels), strict=True))
        if self.shift is None:
            return channelwise(terms), channelwise(terms)
        totals = [term + shift for term, shift in zip(terms, _spread(self.shift, channels), strict=True)]
        return channelwise(term.at(total.frac_bits) for term, total in zip(terms, totals, strict=True)), channelwise(totals)

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        (x,) = inputs
        scale = Const(np.array(1), 0) if self.scale is None else self.scale
        shift = Const(np.array(0), 0) if self.shift is None else self.shift
        return scalars.each(scalars.times, x, scalars.beside(scale, x.shape), scalars.beside(shift, x.shape))

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out)

    def narrowed(self, made: Mask, read: tuple[Mask, ...]) -> Operator:
        return Affine(*(None if const is None else channels.rows(const, made) for const in (self.scale, self.shift)))

    def does_nothing(self, x: Info) -> bool:
        return (self.scale is None or _all_ones(self.scale)) and (self.shift is None or not self.shift.raw.any())

    def words(self) -> Iterable[str]:
        return []

    def constants(self) -> Mapping[str, Const]:
        return {name: const for name, const in (("scale", self.scale), ("shift", self.shift)) if const is not None}

    def accumulator(self, x: Info) -> FixedType:
        """It holds product and result."""
        product, total = self.intervals(x)
        result = self.infer("", (x,))
        return sums.word(product | total) if result.per_channel else (product | total).at(result.type.frac_bits).type()

    def macs(self, out: Info) -> int:
        return 0 if self.scale is None else out.size

    def write(self, writer: Writer, node: Node) -> Value:
        x = writer.values[node.inputs[0]]
        product = x.bound if self.scale is None else x.bound * bounds.of(self.scale)
        value = writer.choose(node, Value(x.dtype, bounds.plus(product, self.shift)), [self.scale, self.shift])
        ones = (1,) * (len(writer.graph.infos[node.name].shape) - 1)
        inputs = [writer.as_dtype(node.inputs[0], value.dtype)]
        for role, const in self.constants().items():
            inputs.append(writer.const(node, role, const, value.dtype, (*const.shape, *ones) if len(const.shape) == 1 else const.shape))
        writer.call(node, "Shift" if self.scale is None else "Scale" if self.shift is None else "Affine", inputs)
        return value

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        form = proto.form
        scale = None if form == "ai.qfx.Shift" else proto.broadcast_const(1)
        shift = None if form == "ai.qfx.Scale" else proto.broadcast_const(1 if scale is None else 2)
        return cls(scale, shift)

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        if out.per_channel or self.grid(source) is None:  # narrow first, as in evaluate
            steps.move(source.narrow().grids, source.narrow().word)
        if self.scale is not None:
            wide = self.accumulator(source)
            grids = steps.grids + steps.channels(self.scale.grids)
            if (self.scale.raw == 1).all() and not isinstance(self.scale, LoadableConst):  # powers of two: the binary point moves
                steps.read_on(grids)
            else:
                product = FixedType(wide.width, wide.width - int(grids.max()), wide.signed)
                steps.times(product, "scale", self.scale)
                steps.lie_on(grids)
        steps.bias(self.shift, out)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        scale = drawing.const(_random_shape(drawing))
        shift = drawing.maybe(drawing.const(_random_shape(drawing), bits=8))
        return cls(None if shift is not None and drawing.rng.random() < 0.3 else scale, shift), (drawing.source,)


def _broadcasts(shape: Shape, x: Shape) -> bool:
    """Whether a constant may have the shape, in the one form that it has for a value of shape ``x``."""
    if len(shape) < 2:
        return shape in ((), x[:1])
    return len(shape) == len(x) and all(size in (1, whole) for size, whole in zip(shape, x, strict=True)) and any(size > 1 for size in shape[1:])


def _random_shape(drawing: Drawing) -> Shape:
    rng, shape = drawing.rng, drawing.shape
    full = tuple(size if rng.random() < 0.6 else 1 for size in shape)
    if rng.random() < 0.3 and len(shape) > 1 and any(size > 1 for size in full[1:]):
        return full
    return shape[:1] if rng.random() < 0.7 else ()


def _spread(const: Const, channels: int) -> tuple[Interval, ...]:
    """What is known of the constant of each channel."""
    if len(const.shape) < 2:
        entries = const.entries
    else:
        rows = const.raw.reshape(len(const.raw), -1)
        bounds_of = zip(rows.min(1).tolist(), rows.max(1).tolist(), const.rows(len(rows)), strict=True)
        entries = tuple(Interval(lo, hi, bits) for lo, hi, bits in bounds_of)
    return entries * (channels // len(entries))


def _all_ones(const: Const) -> bool:
    return all(row >= 0 for row in const.rows(1 if not const.shape else len(const.raw))) and bool(
        (const.raw == 1 << np.maximum(const.grids, 0)).all()
    )
