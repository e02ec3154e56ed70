"""Parts of a value in any order: constant indices along one axis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd, prod
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export.bounds import Value
from qfx.fixed.arith import Bounds, channelwise
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.ir import rules
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Mover, Operator
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.ir.onnx_node import OnnxNode

_SHOWN = 6
"""Indices that a listing shows."""


@dataclass(frozen=True, slots=True)
class Take(Mover):
    """result[.., i, ..] = x[.., indices[i], ..] along ``axis``; any order, any number of times; 0 <= index < size."""

    axis: int
    indices: tuple[int, ...]

    forms: ClassVar[tuple[str, ...]] = ("Gather",)
    any_order: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if not 0 <= self.axis < len(x.shape):
            raise ModelFileError(f"takes along axis {self.axis} of {x.shape}", where=name, remedy="count the axes behind the batch from 0")
        size = x.shape[self.axis]
        if not self.indices or min(self.indices) < 0 or max(self.indices) >= size:
            remedy = f"use one or more numbers of 0 to {size - 1}"
            raise ModelFileError(f"takes {_list(self.indices)} along an axis of {size}", where=name, remedy=remedy)
        shape = (*x.shape[: self.axis], len(self.indices), *x.shape[self.axis + 1 :])
        return rules.info(name, shape, self._taken(x.interval, x.shape[0]), rules.common_grid(x))

    def _taken(self, bounds: Bounds, channels: int) -> Bounds:
        """What bounds the result, channel by channel."""
        if self.axis:
            return bounds
        each = bounds.spread(channels)
        return channelwise(each[index] for index in self.indices)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return np.take(inputs[0], np.array(self.indices), axis=self.axis + 1)

    def does_nothing(self, x: Info) -> bool:
        return self.indices == tuple(range(x.shape[self.axis]))

    def words(self) -> Iterable[str]:
        return [f"axis {self.axis}", _list(self.indices)]

    def write(self, writer: Writer, node: Node) -> Value:
        writer.emit(node, "Gather", [node.inputs[0], writer.ints(node, "indices", [*self.indices])], {"axis": self.axis + 1})
        x = writer.values[node.inputs[0]]
        return Value(x.dtype, self._taken(x.bound, writer.graph.infos[node.inputs[0]].shape[0]))

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.integer("axis") - 1, proto.held(1))

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        (source,), out = builder.sources(node), builder.graph.infos[node.name]
        shape, word = source.shape, None
        if source.per_channel:  # words as they come; of the channels that are left the grids may be others
            word = FixedType(source.word.width, source.word.width - out.type.frac_bits, source.word.signed)
        lanes = self._lanes(shape)
        moving = builder.moving(node, (lanes,), word)
        name, stream, taken = moving.step("take", out.shape)
        outer, inner = (prod(shape[1:]), 1) if self.axis == 0 else (prod(shape[1 : self.axis]), prod(shape[self.axis + 1 :]) * shape[0])
        program = builder.names.new(node.name, "program")
        builder.add(d.TakeFrame(name, stream, taken, (outer, shape[self.axis], inner), self.indices, lanes, program))
        moving.done()

    def _lanes(self, shape: tuple[int, ...]) -> int:
        """The greatest number of channels that may share a word: along the channels, of those that stay side by side."""
        if self.axis:
            return shape[0]
        lanes, indices = gcd(shape[0], len(self.indices)), np.array(self.indices)
        while not _stay_together(indices, lanes):
            lanes = max(count for count in range(1, lanes) if lanes % count == 0)
        return lanes

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return self._lanes(graph.infos[node.inputs[0]].shape), 1

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        rng, axis = drawing.rng, int(drawing.rng.integers(len(drawing.shape)))
        size = drawing.shape[axis]
        kind = rng.random()
        if kind < 0.3:  # backwards, or rolled
            indices = np.roll(np.arange(size)[:: int(rng.choice([-1, 1]))], int(rng.integers(size)))
        elif kind < 0.5:  # as nearest-neighbour interpolation does
            count = int(rng.integers(1, size + 2, endpoint=True))
            indices = np.arange(count) * size // count
        else:
            indices = rng.integers(size, size=int(rng.integers(1, size + 2, endpoint=True)))
        return cls(axis, tuple(int(index) for index in indices)), (drawing.source,)


def _list(indices: tuple[int, ...]) -> str:
    shown = ",".join(map(str, indices[:_SHOWN]))
    return shown if len(indices) <= _SHOWN else f"{shown}..({len(indices)})"


def _stay_together(indices: RawArray, lanes: int) -> bool:
    """Whether the indices are runs of ``lanes`` neighbours, each of which begins at a multiple of it."""
    runs = indices.reshape(-1, lanes)
    return bool((runs[:, 0] % lanes == 0).all() and (runs == runs[:, :1] + np.arange(lanes)).all())
