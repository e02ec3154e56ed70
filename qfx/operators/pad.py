"""Zeros around a value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import gcd
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export import bounds
from qfx.export.bounds import Value
from qfx.fixed.arith import Bounds, Channels, Interval, channelwise
from qfx.hardware.design import design as d
from qfx.hardware.design.cubes import cubes
from qfx.ir import rules, words
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Mover, Operator
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, Pads, RawArray
from qfx.ir.windows import check_pads

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Pad(Mover):
    """Zeros around every axis, the channels included."""

    pads: Pads  # one pair per axis

    forms: ClassVar[tuple[str, ...]] = ("Pad",)
    any_order: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if len(self.pads) != len(x.shape):
            raise ModelFileError(f"pads are {self.pads} for a value of shape {x.shape}", where=name, remedy="give one pair per axis")
        check_pads(name, self.pads)
        shape = tuple(size + before + after for size, (before, after) in zip(x.shape, self.pads, strict=True))
        return rules.info(name, shape, self._interval(x), rules.common_grid(x))

    def _interval(self, x: Info) -> Bounds:
        held = x.interval.with_zero() if any(map(any, self.pads)) else x.interval
        if not isinstance(held, Channels):
            return held
        before, after = ((Interval(0, 0, x.type.frac_bits),) * count for count in self.pads[0])
        return channelwise((*before, *held.channels, *after))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return np.pad(inputs[0], ((0, 0), *self.pads))

    def does_nothing(self, x: Info) -> bool:
        return not any(map(any, self.pads))

    def words(self) -> Iterable[str]:
        return [words.pads(self.pads)]

    def write(self, writer: Writer, node: Node) -> Value:
        # ONNX Runtime fuses a Pad without axes into a MaxPool behind it, whose padding never wins, and so turns zeros into minus infinities.
        batch = (((0, 0),), 0) if writer.pads_all_axes else ((), 1)
        pads = writer.ints(node, "pads", bounds.onnx_pads((*batch[0], *self.pads)))
        axes = writer.ints(node, "axes", [*range(batch[1], len(self.pads) + 1)])
        writer.emit(node, "Pad", [node.inputs[0], pads, "", axes], {"mode": "constant"})
        x = writer.values[node.inputs[0]]
        return Value(x.dtype, x.bound.hull)

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.held_pads(1)[1 - min(proto.held(3)) :])

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        shape = list(builder.sources(node)[0].shape)
        moving = builder.moving(node, (shape[0], *self.pads[0]), builder.graph.infos[node.name].word, whole=True)  # zeros may widen it
        for cube in cubes(len(shape), [any(pair) for pair in self.pads]):
            size, before = cube.sizes(shape), cube.each([pair[0] for pair in self.pads], (0, 0, 0))
            for axis in cube.changed:
                shape[axis] += sum(self.pads[axis])
            moving.move("pad", shape, partial(d.PadFrame, size=size, result=cube.sizes(shape), before=before, lanes=cube.lanes(shape)))
        moving.done()

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return gcd(graph.infos[node.inputs[0]].shape[0], *self.pads[0]), 1

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        rank = len(drawing.shape)
        return cls(tuple((int(before), int(after)) for before, after in drawing.rng.integers(0, 2, size=(rank, 2)))), (drawing.source,)
