"""A value repeated along axes of length 1."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export.bounds import Value
from qfx.hardware.design import design as d
from qfx.hardware.design.cubes import cubes
from qfx.ir import rules, words
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Mover, Operator, travelling_channels
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray, Shape

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Expand(Mover):
    """The value with ``shape``: every axis is that of the input, or repeats one of length 1."""

    shape: Shape

    forms: ClassVar[tuple[str, ...]] = ("Expand",)
    any_order: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        rules.check_shape(name, self.shape)
        if len(self.shape) != len(x.shape) or any(size not in (1, whole) for size, whole in zip(x.shape, self.shape, strict=True)):
            raise ModelFileError(f"expands {x.shape} to {self.shape}", where=name, remedy="repeat axes of length 1, and keep the others")
        return rules.info(name, self.shape, x.interval, rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return np.broadcast_to(inputs[0], (len(inputs[0]), *self.shape)).copy()

    def does_nothing(self, x: Info) -> bool:
        return x.shape == self.shape

    def words(self) -> Iterable[str]:
        return [words.sizes(self.shape)]

    def write(self, writer: Writer, node: Node) -> Value:
        x = writer.values[node.inputs[0]]
        writer.emit(node, "Expand", [node.inputs[0], writer.ints(node, "shape", [1, *self.shape])])
        return x

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.held(1)[1:])

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return (travelling_channels(graph, node) if graph.infos[node.inputs[0]].shape[0] == self.shape[0] else 1), 1

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """The pixels are repeated first, then each of the one channel becomes as many copies as there are channels, which lie side by side."""
        shape = list(builder.sources(node)[0].shape)
        factors = [whole // size for size, whole in zip(shape, self.shape, strict=True)]
        moving = builder.moving(node, (shape[0],), whole=factors[0] == 1)
        for cube in cubes(len(shape), [False, *(factor > 1 for factor in factors[1:])]):
            size, (rows, columns, _) = cube.sizes(shape), cube.each(factors, (1, 1, 1))
            for axis in cube.changed:
                shape[axis] *= factors[axis] if axis else 1
            if rows * columns > 1:
                lanes = cube.lanes(shape) if factors[0] == 1 else shape[0]
                moving.move("repeat", shape, partial(d.Repeat, size=size, factors=(rows, columns), lanes=lanes))
        if factors[0] > 1:
            name, source, out = moving.step("repeat", self.shape)
            builder.add(d.Repeat(name, source, out, (1, prod(shape[1:]), 1), (1, factors[0]), 1))
        moving.done()

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        shape = tuple(int(drawing.rng.integers(1, 4, endpoint=True)) if size == 1 else size for size in drawing.shape)
        return cls(shape), (drawing.source,)
