"""The numbers of an axis by rank, and where they stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export.bounds import DOUBLE, FLOAT, Value, fits, symmetric
from qfx.fixed.arith import Bounds, Interval
from qfx.hardware.design import design as d
from qfx.hardware.design.epilogue import Frame, Steps
from qfx.ir import rules
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Operator, Plain
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray
from qfx.operators.reduce import side_by_side

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.ir.onnx_node import OnnxNode

_FUNCTION = """Top{kind} <axis, largest> (x, k) => (y) {{
    values, places = TopK <axis: int = @axis, largest: int = @largest, sorted = 1> (x, k)
    y = {result}
}}"""


class Ranking(Plain, abstract=True):
    """The ``count`` greatest numbers along ``axis`` (the least unless ``largest``), in that order. Between equal numbers the one that comes first on
    the axis goes before."""

    __slots__ = ()

    reads: ClassVar[int | None] = 1
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = False
    fuses: ClassVar[bool] = True
    renames: ClassVar[bool] = False

    places: ClassVar[bool]
    """Whether it gives the places, not the numbers."""

    axis: int
    count: int
    largest: bool

    def check(self, name: str, x: Info) -> Info:
        """The value as it is read: on one grid where channels are compared."""
        if not 0 <= self.axis < len(x.shape) or not 1 <= self.count <= x.shape[self.axis]:
            what = f"takes {self.count} numbers along axis {self.axis} of {x.shape}"
            raise ModelFileError(what, where=name, remedy="count the axes behind the batch from 0, and take no more than there are")
        return rules.one_grid(name, x) if self.axis == 0 else x

    def shape(self, x: Info) -> tuple[int, ...]:
        return (*x.shape[: self.axis], self.count, *x.shape[self.axis + 1 :])

    def order(self, raw: RawArray) -> RawArray:
        """Where the numbers of the result stand; ``raw`` on grids that can be compared."""
        ranked = np.argsort(~raw if self.largest else raw, axis=self.axis + 1, kind="stable")
        found: RawArray = np.take(ranked, np.arange(self.count), axis=self.axis + 1)
        return found

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        return [f"{'greatest' if self.largest else 'least'} {self.count}", f"axis {self.axis}"]

    def emit(self, writer: Writer, node: Node) -> None:
        attributes = {"axis": self.axis + 1, "largest": int(self.largest)}
        writer.call(node, self.forms[0].rpartition(".")[2], [node.inputs[0], writer.ints(node, "k", [self.count])], attributes)

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        (count,) = proto.held(1)
        return cls(proto.integer("axis") - 1, count, bool(proto.integer("largest")))  # type: ignore[call-arg]

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """The numbers of a group come one after the other, and those of its result leave so."""
        info = builder.graph.infos[node.name]
        source = self.check(node.name, builder.sources(node)[0])
        value = builder.take_on_one_grid(node.inputs[0]) if self.axis == 0 else builder.take(node.inputs[0])
        stream = builder.rewidth(node.inputs[0], value.stream, 1)
        stream = side_by_side(builder, node, stream, source.shape, (self.axis,))
        rank = len(info.shape)
        kept = [axis for axis in (*range(1, rank), 0) if axis != self.axis]
        order = np.arange(info.size).reshape(info.shape).transpose(*kept, self.axis).reshape(-1)
        frame = Frame(info.shape, info.size // self.count, self.count, order)
        if self.places:
            steps = Steps(builder.names, node.name, (info.type,), frame)
        else:
            steps = Steps(builder.names, node.name, (stream.type,), frame, source.grids)
            if info.per_channel:
                steps.move(info.grids, info.word)
            else:
                steps.fit(info.type)
        epilogue, out, name = builder.finish(node, chain, steps, frame, 1)
        shape = (frame.pixels, source.shape[self.axis], self.count)
        builder.add(d.Top(builder.names.new(node.name, "top"), stream, out, shape, self.largest, self.places, epilogue))
        builder.give_stream(name, out, frame)

    def travelling(self, out: Info) -> int:
        return self.count if self.axis == 0 else 1

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return 1, 1

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        rng, axis = drawing.rng, int(drawing.rng.integers(len(drawing.shape)))
        count = 1 if rng.random() < 0.4 else int(rng.integers(1, min(drawing.shape[axis], 4), endpoint=True))
        return cls(axis, count, bool(rng.random() < 0.7)), (drawing.source,)  # type: ignore[call-arg]


@dataclass(frozen=True, slots=True)
class TopValues(Ranking):
    """The numbers themselves."""

    axis: int
    count: int
    largest: bool = True

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.TopValues",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({"TopValues": _FUNCTION.format(kind="Values", result="Identity(values)")})
    places: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        x = self.check(name, x)
        return rules.info(name, self.shape(x), self._bounds(x.interval), rules.common_grid(x))

    def _bounds(self, x: Bounds) -> Bounds:
        return x.hull if self.axis == 0 else x

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        x = self.check("", infos[0])
        raw = rules.align(rules.align(inputs[0], infos[0], x), x, out)
        found: RawArray = np.take_along_axis(raw, self.order(raw), axis=self.axis + 1)
        return found

    def does_nothing(self, x: Info) -> bool:
        return x.shape[self.axis] == 1 and not (self.axis == 0 and x.per_channel)

    def write(self, writer: Writer, node: Node) -> Value:
        x = writer.values[node.inputs[0]]
        self.emit(writer, node)
        return Value(x.dtype, self._bounds(x.bound))


@dataclass(frozen=True, slots=True)
class TopPlaces(Ranking):
    """Where they stand on the axis, from 0."""

    axis: int
    count: int
    largest: bool = True

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.TopPlaces",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({"TopPlaces": _FUNCTION.format(kind="Places", result="Cast <to = 1> (places)")})
    places: ClassVar[bool] = True

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        x = self.check(name, x)
        return rules.info(name, self.shape(x), Interval(0, x.shape[self.axis] - 1, 0), 0)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        x = self.check("", infos[0])
        return self.order(rules.align(inputs[0], infos[0], x))

    def write(self, writer: Writer, node: Node) -> Value:
        self.emit(writer, node)
        bound = symmetric(writer.graph.infos[node.name].interval)
        return Value(FLOAT if fits(bound, FLOAT) else DOUBLE, bound)
