"""More pixels than there were: repeated (Upsample), or with zeros between them (Stretch)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export.bounds import FLOAT, Value
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design.cubes import cubes
from qfx.hardware.design.phases import phases
from qfx.ir import channels, rules, words
from qfx.ir.channels import Carried
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Mover, Operator, travelling_channels
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray, Shape
from qfx.operators.conv import Conv

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.ir.onnx_node import OnnxNode


class Scale(Mover, abstract=True):
    """Operators with one factor per spatial axis."""

    __slots__ = ()

    any_order: ClassVar[bool] = False
    factors: Shape

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out)

    def does_nothing(self, x: Info) -> bool:
        return all(factor == 1 for factor in self.factors)

    def words(self) -> Iterable[str]:
        return [words.sizes(self.factors)]

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return travelling_channels(graph, node), 1

    def check(self, name: str, shape: Shape) -> None:
        if len(shape) < 2 or len(self.factors) != len(shape) - 1 or min(self.factors) < 1:
            raise ModelFileError(
                f"factors are {self.factors} for a value of shape {shape}", where=name, remedy="give one of at least 1 per axis behind the channels"
            )

    def split(self, writer: Writer, node: Node) -> dict[str, list[int]]:
        """The shapes of a function that gives every axis of n one of length 1 beside it, fills that, and joins the two."""
        x = writer.graph.infos[node.inputs[0]].shape
        pairs = list(zip(x[1:], self.factors, strict=True))
        return {
            "factors": list(self.factors),
            "split": [0, x[0], *(part for size, _ in pairs for part in (size, 1))],
            "joined": [0, x[0], *(size * factor for size, factor in pairs)],
        }


@dataclass(frozen=True, slots=True)
class Upsample(Scale):
    """Every pixel repeated ``factors`` times along its axis: result[.., i, ..] = source[.., i // factor, ..] (nearest neighbour)."""

    factors: Shape  # one per spatial axis

    forms: ClassVar[tuple[str, ...]] = ("Resize", "ai.qfx.Upsample")
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        # An axis of n becomes n x 1, then n x factor, then n * factor.
        "Upsample": """Upsample <factors, split, repeats, joined> (x) => (y) {
    split_shape = Constant <value_ints: ints = @split> ()
    parts = Reshape(x, split_shape)
    counts = Constant <value_ints: ints = @repeats> ()
    repeated = Tile(parts, counts)
    joined_shape = Constant <value_ints: ints = @joined> ()
    y = Reshape(repeated, joined_shape)
}""",
    })  # fmt: skip

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        self.check(name, x.shape)
        shape = tuple(size * factor for size, factor in zip(x.shape[1:], self.factors, strict=True))
        return rules.info(name, (x.shape[0], *shape), x.interval, rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        (raw,) = inputs
        for axis, factor in enumerate(self.factors, start=2):
            raw = np.repeat(raw, factor, axis)
        return raw

    def write(self, writer: Writer, node: Node) -> Value:
        x = writer.values[node.inputs[0]]
        if x.dtype == FLOAT:
            factors = writer.tensor(f"{node.name}#factors", np.array([1, 1, *self.factors], dtype=np.float32))
            modes = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
            writer.emit(node, "Resize", [node.inputs[0], "", factors], modes)
        else:
            repeats = [1, 1, *(part for factor in self.factors for part in (1, factor))]
            writer.call(node, "Upsample", list(node.inputs), {**self.split(writer, node), "repeats": repeats})
        return x

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.held(2)[2:] if proto.form == "Resize" else proto.ints("factors"))

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        _build(builder, node, "repeat", (1, *self.factors), None, lambda size, factor: size * factor, d.Repeat)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(drawing.factors()), (drawing.source,)


@dataclass(frozen=True, slots=True)
class Stretch(Scale):
    """factor - 1 zeros between neighbouring pixels: result[.., i * factor, ..] = source[.., i, ..], of size (n - 1) * factor + 1 along an axis of n.

    A transposed convolution is a convolution of the stretched value (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning",
    2016).
    """

    factors: Shape  # one per spatial axis

    spreads: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.Stretch",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "Stretch": """Stretch <factors, split, pads, joined, starts, ends, axes> (x) => (y) {
    split_shape = Constant <value_ints: ints = @split> ()
    parts = Reshape(x, split_shape)
    behind = Constant <value_ints: ints = @pads> ()
    padded = Pad(parts, behind)
    joined_shape = Constant <value_ints: ints = @joined> ()
    joined_parts = Reshape(padded, joined_shape)
    first = Constant <value_ints: ints = @starts> ()
    last = Constant <value_ints: ints = @ends> ()
    spatial = Constant <value_ints: ints = @axes> ()
    y = Slice(joined_parts, first, last, spatial)
}""",
    })  # fmt: skip

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        self.check(name, x.shape)
        shape = (x.shape[0], *((size - 1) * factor + 1 for size, factor in zip(x.shape[1:], self.factors, strict=True)))
        return rules.info(name, shape, x.interval if shape == x.shape else x.interval.with_zero(), rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        stretched = np.zeros((len(inputs[0]), *out.shape), dtype=np.int64)
        stretched[(slice(None), slice(None), *(slice(None, None, factor) for factor in self.factors))] = inputs[0]
        return stretched

    def write(self, writer: Writer, node: Node) -> Value:
        axes = len(self.factors)
        writer.call(node, "Stretch", list(node.inputs), {
            **self.split(writer, node),
            "pads": [0] * (2 + 2 * axes) + [0, 0, *(part for factor in self.factors for part in (0, factor - 1))],
            "starts": [0] * axes,
            "ends": list(writer.graph.infos[node.name].shape[1:]),
            "axes": [*range(2, axes + 2)],
        })  # fmt: skip
        return writer.values[node.inputs[0]]

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.ints("factors"))

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        readers = builder.readers(node.name)
        if builder.phased and len(readers) == 1 and not builder.leaves.get(node.name, 0) and isinstance(readers[0].op, Conv):
            found = phases(builder, node, self.factors, readers[0], readers[0].op)
            if found is not None:
                builder.stretched[node.name] = found
                return
        word = builder.graph.infos[node.name].word  # zeros may widen it
        _build(builder, node, "stretch", (1, *self.factors), word, lambda size, factor: (size - 1) * factor + 1, d.Stretch)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(drawing.factors()), (drawing.source,)


def _build(
    builder: Builder,
    node: Node,
    kind: str,
    factors: Shape,
    word: FixedType | None,
    scaled: Callable[[int, int], int],
    process: type[d.Repeat] | type[d.Stretch],
) -> None:
    """``factors`` for every axis; ``scaled`` is the size of an axis afterwards."""
    shape = list(builder.sources(node)[0].shape)
    moving = builder.moving(node, (shape[0],), word, whole=process is d.Repeat)
    for cube in cubes(len(shape), [factor > 1 for factor in factors]):
        size, (rows, columns, _) = cube.sizes(shape), cube.each(factors, (1, 1, 1))
        for axis in cube.changed:
            shape[axis] = scaled(shape[axis], factors[axis])
        moving.move(kind, shape, partial(process, size=size, factors=(rows, columns), lanes=cube.lanes(shape)))
    moving.done()
