"""Reshape and Transpose: other addresses for the same elements. Nothing is built for them until a reader wants another order."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export.bounds import Value
from qfx.ir import rules
from qfx.ir.channels import Apart, Carried, Mask
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Mover, Operator, travelling_channels
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray, Shape

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.design.epilogue import Frame
    from qfx.ir.onnx_node import OnnxNode


class Rename(Mover, abstract=True):
    """Operators that keep the stream of a value as it is."""

    __slots__ = ()

    any_order: ClassVar[bool] = True
    renames: ClassVar[bool] = True

    @abstractmethod
    def keeps_channels(self, x: Info) -> bool:
        """Whether the channels of the result are those of ``x``: otherwise its numbers meet on one grid."""

    @abstractmethod
    def frame(self, frame: Frame) -> Frame:
        """The order in which the elements of the result travel, if those of the operand travel as ``frame`` says."""

    def bound(self, writer: Writer, node: Node) -> Value:
        x = writer.values[node.inputs[0]]
        return x if self.keeps_channels(writer.graph.infos[node.inputs[0]]) else Value(x.dtype, x.bound.hull)

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        keeps = self.keeps_channels(builder.sources(node)[0])
        value = builder.take(node.inputs[0]) if keeps else builder.take_on_one_grid(node.inputs[0])
        builder.give_stream(node.name, value.stream, self.frame(value.frame))

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return travelling_channels(graph, node), 1


@dataclass(frozen=True, slots=True)
class Reshape(Rename):
    """The same elements in PyTorch's (row-major) order under another shape (flatten included)."""

    shape: Shape

    forms: ClassVar[tuple[str, ...]] = ("Reshape",)

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
        return self.shape[0] == x.shape[0]

    def carries(self, inputs: Infos, out: Info) -> Carried:
        """Where each channel becomes whole channels, these are its own."""
        (x,) = inputs
        each, rest = math.prod(x.shape[1:]), math.prod(self.shape[1:])
        if each % rest or self.shape[0] % x.shape[0]:
            return None
        return Apart((np.arange(self.shape[0]) // (self.shape[0] // x.shape[0]),))

    def narrowed(self, made: Mask, read: tuple[Mask, ...]) -> Operator:
        return Reshape((int(made.sum()), *self.shape[1:]))

    def does_nothing(self, x: Info) -> bool:
        return self.shape == x.shape

    def words(self) -> Iterable[str]:
        return []

    def write(self, writer: Writer, node: Node) -> Value:
        writer.emit(node, "Reshape", [node.inputs[0], writer.ints(node, "shape", [0, *self.shape])])
        return self.bound(writer, node)

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.held(1)[1:])

    def frame(self, frame: Frame) -> Frame:
        return replace(frame, shape=self.shape)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        rng, size = drawing.rng, drawing.info.size
        shape: Shape = (size,)
        for _ in range(int(rng.choice([0, 1, 2, 0, 1, 2, 3, 4]))):
            *outer, rest = shape
            count = int(rng.choice([count for count in range(1, rest + 1) if rest % count == 0]))
            shape = (*outer, count, rest // count)
        return cls(shape), (drawing.source,)


@dataclass(frozen=True, slots=True)
class Transpose(Rename):
    """Axes permuted: result axis i is source axis perm[i] (batch not counted)."""

    perm: tuple[int, ...]

    forms: ClassVar[tuple[str, ...]] = ("Transpose",)

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
        return self.perm[0] == 0

    def does_nothing(self, x: Info) -> bool:
        return self.perm == tuple(range(len(self.perm)))

    def words(self) -> Iterable[str]:
        return [",".join(map(str, self.perm))]

    def write(self, writer: Writer, node: Node) -> Value:
        writer.emit(node, "Transpose", attributes={"perm": [0, *(axis + 1 for axis in self.perm)]})
        return self.bound(writer, node)

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(tuple(axis - 1 for axis in proto.ints("perm")[1:]))

    def frame(self, frame: Frame) -> Frame:
        shape = tuple(frame.shape[axis] for axis in self.perm)
        # places[j] = where element j (row-major) of the source lies in the result
        size = frame.order.size
        places = np.empty(size, dtype=np.int64)
        places[np.transpose(np.arange(size).reshape(frame.shape), self.perm).reshape(-1)] = np.arange(size)
        return replace(frame, shape=shape, order=places[frame.order])

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(tuple(int(axis) for axis in drawing.rng.permutation(len(drawing.shape)))), (drawing.source,)
