"""The casts: Input, the first operation of every model, and Cast, the only operator that loses bits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from qfx.errors import ExactnessError, ProjectError
from qfx.fixed.arith import Bounds
from qfx.fixed.array import MAX_ARRAY_WIDTH
from qfx.fixed.type import MAX_WIDTH, FixedType, OMode, QMode
from qfx.hardware.design import design as d
from qfx.ir import casting, channels, rules, words
from qfx.ir.channels import Carried, Mask
from qfx.ir.drawing import Drawing, random_cast
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Operator, Plain, Pointwise
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import ArrayType, Info, RawArray, Shape

if TYPE_CHECKING:
    from qfx.export.bounds import Value
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.design.epilogue import Steps
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


_OF_ANY_SIGN = (QMode.TRN, QMode.RND, QMode.RND_MIN_INF, QMode.RND_CONV)
"""Rounding modes that round a number and the same plus 2**k alike, where k lies above all bits that fall away."""


@dataclass(frozen=True, slots=True)
class Input(Plain):
    """The float input and its cast: the first operation of every model. ``shape`` without the batch."""

    shape: Shape
    cast: ArrayType

    reads: ClassVar[int | None] = 0
    forms: ClassVar[tuple[str, ...]] = ()  # a Cast that reads the file's input
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = False
    fuses: ClassVar[bool] = False
    renames: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        rules.arity(name, inputs, 0)
        rules.check_shape(name, self.shape)
        return _info(name, self.shape, self.cast, casting.full_interval(self.cast, self.shape))

    def evaluate(self, inputs: tuple[npt.NDArray[np.floating]], infos: Infos, out: Info) -> RawArray:
        return casting.cast_floats(inputs[0], self.cast)

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        return [words.cast(self.cast)]

    def write(self, writer: Writer, node: Node) -> Value:
        return writer.cast(node, f"{node.name}#float", self.cast)

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.source_shape(), proto.cast())

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        builder.input_port(node)

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return graph.infos[node.name].shape[0], 1

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(drawing.shape, random_cast(drawing.rng, drawing.shape)), ()


@dataclass(frozen=True, slots=True)
class Cast(Plain, Pointwise):
    """Rounding, then overflow: the only operator that loses bits."""

    cast: ArrayType

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.Cast",)

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        return _info(name, x.shape, self.cast, casting.cast_interval(x.interval, self.cast, x.shape))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return casting.cast_raws(inputs[0], infos[0].grids, self.cast)

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        (x,) = inputs
        types = np.empty(self.cast.shape, dtype=object)
        types.reshape(-1)[:] = self.cast.types
        return scalars.each(scalars.cast, x, np.broadcast_to(types, x.shape))

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out)

    def narrowed(self, made: Mask, read: tuple[Mask, ...]) -> Operator:
        return Cast(channels.cast_of(self.cast, made))

    def does_nothing(self, x: Info) -> bool:
        """Whatever the modes: every number is on the grid and within the bounds of each type of its channel."""
        return not x.per_channel and all(
            interval.frac_bits <= type_.frac_bits and (fine := interval.at(type_.frac_bits)).lo >= type_.min_raw and fine.hi <= type_.max_raw
            for interval, types in zip(x.interval.spread(x.shape[0]), casting.types_of_channels(self.cast, x.shape), strict=True)
            for type_ in types
        )

    def looks_at(self, grids: npt.NDArray[np.int64]) -> int | None:
        """Those of the word, and those that fall away, where it wraps; unless the sign decides how they are rounded."""
        element = self.cast.element
        below = int((grids - self.cast.frac_bits).max())
        if element.o is not OMode.WRAP or element.n or (below > 0 and element.q not in _OF_ANY_SIGN):
            return None
        return max(element.width + below, 1)

    def words(self) -> Iterable[str]:
        return [words.cast(self.cast)]

    def write(self, writer: Writer, node: Node) -> Value:
        return writer.cast(node, node.inputs[0], self.cast)

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return Input.read(proto) if proto.reads_source else cls(proto.cast())

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        cast, come = self.cast, steps.type
        if len(set(cast.int_bits)) == 1 and not steps.grids.ndim:
            steps.add("cast", cast.element, (_tag(come), d.Tag(cast.element), site))
            return
        # With F fractional bits of an entry that its number has g of: the least F belongs to the element's int_bits, the greatest to the hull, and
        # g - F bits fall away, the more the less a number is moved up before.
        falls = steps.grids - cast.frac_bits
        up = falls.max() - falls
        fine = cast.hull.frac_bits - cast.frac_bits
        room = int(up.max())
        width = come.width + room
        if width > MAX_WIDTH:
            raise ProjectError(f"needs {width} bits", where=steps.stem, remedy="use binary points that lie closer together")
        moved = FixedType(width, width - cast.element.frac_bits - int(falls.max()), come.signed)
        operands = (d.Operand(steps.table("up", up)), d.Operand(steps.table("fine", fine)))
        steps.add("cast_moved", cast.hull, (_tag(moved), d.Tag(cast.element), site), operands)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(random_cast(drawing.rng, drawing.shape, drawing.info)), (drawing.source,)


def _info(name: str, shape: Shape, cast: ArrayType, interval: Bounds) -> Info:
    casting.check_broadcast(name, cast, shape)
    if cast.hull.width > MAX_ARRAY_WIDTH:
        raise ExactnessError(
            f"casts to {cast}, which takes words of {cast.hull.width} bits", where=name, remedy=f"use at most {MAX_ARRAY_WIDTH} bits"
        )
    return Info(shape, cast.hull, interval)


def _tag(source: FixedType) -> d.Tag:
    return d.Tag(FixedType(source.width, source.int_bits, source.signed))
