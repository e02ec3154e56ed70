"""Sums and extremes over any axes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export.bounds import Value
from qfx.fixed.arith import Bounds
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design.build import loop_nest
from qfx.hardware.design.epilogue import Frame, Steps
from qfx.hardware.design.matrix import frame_taps
from qfx.ir import channels, rules, sums
from qfx.ir.channels import Carried
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Operator, travelling_channels
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, RawArray, Shape

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.unrolled.program import Number
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


class Reduce(Operator, abstract=True):
    """One number of all along ``axes`` (those of the value without the batch, ascending), which stay as axes of length 1."""

    __slots__ = ()

    reads: ClassVar[int | None] = 1
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = False
    fuses: ClassVar[bool] = True
    renames: ClassVar[bool] = False
    join: ClassVar[str]
    """What the C++ calls the joining of two numbers."""

    axes: tuple[int, ...]

    @abstractmethod
    def bounds(self, x: Info) -> Bounds:
        """What a result can be: of each channel, where the channels stay."""

    @abstractmethod
    def joined(self, raw: RawArray, axes: tuple[int, ...]) -> RawArray:
        """The raws of one grid joined along axes, which stay."""

    def check(self, name: str, x: Info) -> None:
        if not self.axes or self.axes != tuple(sorted(set(self.axes))) or not all(0 <= axis < len(x.shape) for axis in self.axes):
            raise ModelFileError(f"reduces the axes {self.axes} of a value of shape {x.shape}", where=name, remedy="give some of its axes, ascending")

    def source(self, name: str, x: Info) -> Info:
        """The value as it is read: on one grid where channels are mixed."""
        return rules.one_grid(name, x) if 0 in self.axes else x

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        self.check(name, x)
        x = self.source(name, x)
        shape = tuple(1 if axis in self.axes else size for axis, size in enumerate(x.shape))
        return rules.info(name, shape, self.bounds(x), rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        x = self.source("", infos[0])
        return self.joined(rules.align(rules.align(inputs[0], infos[0], x), x, out), tuple(axis + 1 for axis in self.axes))

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        (x,) = inputs
        kept = [axis for axis in range(x.ndim) if axis not in self.axes]
        rows = x.transpose(*kept, *self.axes).reshape(-1, self.count(x.shape))
        flat: Numbers = np.empty(len(rows), dtype=object)
        for place, row in enumerate(rows):
            flat[place] = self.unrolled(scalars, list(row))
        return flat.reshape(tuple(1 if axis in self.axes else size for axis, size in enumerate(x.shape)))

    @abstractmethod
    def unrolled(self, scalars: Scalars, row: list[Number]) -> Number:
        """All numbers of one result joined."""

    def count(self, shape: Shape) -> int:
        """The numbers that one result is made of."""
        return prod(shape[axis] for axis in self.axes)

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return None if 0 in self.axes else channels.alone(inputs, out)

    def does_nothing(self, x: Info) -> bool:
        return self.count(x.shape) == 1 and not (0 in self.axes and x.per_channel)

    def words(self) -> Iterable[str]:
        return [f"axes {','.join(map(str, self.axes))}"]

    def constants(self) -> Mapping[str, Const]:
        return {}

    def macs(self, out: Info) -> int:
        return 0

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(tuple(axis - 1 for axis in proto.held(1)))  # type: ignore[call-arg]

    def emit(self, writer: Writer, node: Node, dtype: int) -> None:
        axes = writer.ints(node, "axes", [axis + 1 for axis in self.axes])
        writer.emit(node, self.forms[0], [writer.as_dtype(node.inputs[0], dtype), axes], {"keepdims": 1})

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return (travelling_channels(graph, node) if self._frame_of_each_channel(graph.infos[node.inputs[0]].shape) else 1), 1

    def _frame_of_each_channel(self, shape: Shape) -> bool:
        """Whether each channel is joined over the whole frame."""
        return all(axis in self.axes or shape[axis] == 1 for axis in range(1, len(shape))) and 0 not in self.axes

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """The numbers of one result come one after the other, reordered where they do not, and are joined as they come; over a whole frame there is
        an accumulator for each channel."""
        source, info = builder.sources(node)[0], builder.graph.infos[node.name]
        shape, frame = source.shape, Frame.of(info.shape)
        whole = self._frame_of_each_channel(shape)
        pe = builder.parallel(node, frame.channels if whole else 1)
        if 0 in self.axes:
            source = rules.one_grid(node.name, source)
            value = builder.take_on_one_grid(node.inputs[0])
        else:
            value = builder.take(node.inputs[0])
        count = self.count(shape)
        together = frame_taps(builder, node, count, frame.channels) if whole else 1
        stream = builder.rewidth(node.inputs[0], value.stream, pe * together)
        if not whole:
            stream = side_by_side(builder, node, stream, shape, self.axes)
        held = self.accumulator(source) or stream.type
        steps = Steps(builder.names, node.name, (held,), frame, source.grids)
        if info.per_channel:
            steps.move(info.grids, info.word)
        else:
            steps.fit(info.type)
        epilogue, out, name = builder.finish(node, chain, steps, frame, pe)
        pixels, process = count if whole else frame.pixels, builder.names.new(node.name, "reduce")
        builder.add(d.Pool(process, stream, out, self.join, whole, pixels, frame.channels, count, held, epilogue, together))
        builder.give_stream(name, out, frame)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        rank = len(drawing.shape)
        axes = [axis for axis in range(rank) if drawing.rng.random() < 0.5] or [int(drawing.rng.integers(rank))]
        return cls(tuple(axes)), (drawing.source,)  # type: ignore[call-arg]


def side_by_side(builder: Builder, node: Node, stream: d.Stream, shape: Shape, axes: tuple[int, ...]) -> d.Stream:
    """The stream of a value of ``shape``, one number a word, with the numbers along ``axes`` side by side, the channels among them innermost; what
    stays in the order of a value without these axes."""
    rank, size = len(shape), prod(shape)
    canonical = np.empty(size, dtype=np.int64)  # where an element travels
    canonical[Frame.of(shape).order] = np.arange(size)
    kept = [axis for axis in (*range(1, rank), 0) if axis not in axes]
    joined = sorted(axes, key=lambda axis: axis or rank)  # channels innermost
    places = np.argsort(canonical.reshape(shape).transpose(*kept, *joined).reshape(-1))
    if np.array_equal(places, np.arange(size)):
        return stream
    write: tuple[tuple[int, int], ...] | d.Table | None = loop_nest(places)
    if write is None:
        write = d.Table(builder.names.new(node.name, "order"), tuple(places.tolist()), "element")
    out = builder.like(node.name, stream, 1)
    builder.add(d.Permute(builder.names.new(node.name, "permute"), stream, out, write, ((size, 1),)))
    return out


@dataclass(frozen=True, slots=True)
class ReduceSum(Reduce):
    """The sum."""

    axes: tuple[int, ...]

    forms: ClassVar[tuple[str, ...]] = ("ReduceSum",)
    join: ClassVar[str] = "sum"

    def bounds(self, x: Info) -> Bounds:
        return (x.interval.hull if 0 in self.axes else x.interval).times(self.count(x.shape))

    def unrolled(self, scalars: Scalars, row: list[Number]) -> Number:
        return scalars.total(row)

    def joined(self, raw: RawArray, axes: tuple[int, ...]) -> RawArray:
        total: RawArray = raw.sum(axis=axes, keepdims=True)
        return total

    def accumulator(self, x: Info) -> FixedType:
        """It holds the sums of some of the terms too."""
        return sums.word(self.source("", x).stored.times(self.count(x.shape)).with_zero())

    def write(self, writer: Writer, node: Node) -> Value:
        x, info = writer.values[node.inputs[0]], writer.graph.infos[node.inputs[0]]
        bound = x.bound.hull if 0 in self.axes else x.bound
        value = writer.choose(node, Value(x.dtype, bound.times(self.count(info.shape))), [])
        self.emit(writer, node, value.dtype)
        return value


class Extreme(Reduce, abstract=True):
    """The greatest or the least number."""

    __slots__ = ()

    def bounds(self, x: Info) -> Bounds:
        return x.interval.hull if 0 in self.axes else x.interval

    def accumulator(self, x: Info) -> FixedType | None:
        return None

    def write(self, writer: Writer, node: Node) -> Value:
        x = writer.values[node.inputs[0]]
        self.emit(writer, node, x.dtype)
        return Value(x.dtype, x.bound.hull if 0 in self.axes else x.bound)


@dataclass(frozen=True, slots=True)
class ReduceMax(Extreme):
    """The greatest number."""

    axes: tuple[int, ...]

    forms: ClassVar[tuple[str, ...]] = ("ReduceMax",)
    join: ClassVar[str] = "max"

    def unrolled(self, scalars: Scalars, row: list[Number]) -> Number:
        return scalars.reduce(row, scalars.greater)

    def joined(self, raw: RawArray, axes: tuple[int, ...]) -> RawArray:
        greatest: RawArray = raw.max(axis=axes, keepdims=True)
        return greatest


@dataclass(frozen=True, slots=True)
class ReduceMin(Extreme):
    """The least number."""

    axes: tuple[int, ...]

    forms: ClassVar[tuple[str, ...]] = ("ReduceMin",)
    join: ClassVar[str] = "min"

    def unrolled(self, scalars: Scalars, row: list[Number]) -> Number:
        return scalars.reduce(row, scalars.lesser)

    def joined(self, raw: RawArray, axes: tuple[int, ...]) -> RawArray:
        least: RawArray = raw.min(axis=axes, keepdims=True)
        return least
