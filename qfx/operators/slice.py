"""A part of a value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import gcd
from typing import TYPE_CHECKING, ClassVar, Self

from qfx.errors import ModelFileError
from qfx.export.bounds import Value
from qfx.fixed.arith import channelwise
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design.cubes import cubes
from qfx.ir import rules
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Mover, Operator
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray
from qfx.ir.windows import Windows

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Slice(Mover):
    """x[start:stop:step] on every axis; 0 <= start < stop <= size and step >= 1."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]

    forms: ClassVar[tuple[str, ...]] = ("Slice",)
    any_order: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if not len(self.starts) == len(self.stops) == len(self.steps) == len(x.shape):
            raise ModelFileError(
                f"starts {self.starts}, stops {self.stops}, steps {self.steps} for a value of shape {x.shape}", where=name, remedy="give one per axis"
            )
        ranges = [range(*bounds) for bounds in zip(self.starts, self.stops, self.steps, strict=True) if bounds[2] >= 1]
        if len(ranges) < len(x.shape) or not all(0 <= r.start < r.stop <= size for r, size in zip(ranges, x.shape, strict=True)):
            raise ModelFileError(
                f"takes {self.starts}:{self.stops}:{self.steps} of {x.shape}", where=name, remedy="use 0 <= start < stop <= size and step >= 1"
            )
        taken = channelwise(x.interval.spread(x.shape[0])[self._channels])
        return rules.info(name, tuple(map(len, ranges)), taken, rules.common_grid(x))

    @property
    def _channels(self) -> slice:
        return slice(self.starts[0], self.stops[0], self.steps[0])

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        return inputs[0][(slice(None), *map(slice, self.starts, self.stops, self.steps))]

    def does_nothing(self, x: Info) -> bool:
        return not any(self.starts) and self.stops == x.shape and all(step == 1 for step in self.steps)

    def sees(self, x: Info) -> Windows | None:
        """Every so many pixels from the first on, as windows of one tap: None if it takes others."""
        whole = (self.starts[0], self.stops[0], self.steps[0]) == (0, x.shape[0], 1)
        if not whole or any(self.starts) or not 2 <= len(x.shape) <= 4:
            return None
        seen = Windows.of("", x.shape, (1,) * len(x.shape[1:]), self.steps[1:], ((0, 0),) * len(x.shape[1:]))
        return seen if seen.out == tuple(len(range(*span)) for span in zip(self.starts, self.stops, self.steps, strict=True))[1:] else None

    def words(self) -> Iterable[str]:
        axes = zip(self.starts, self.stops, self.steps, strict=True)
        return [",".join(f"{start}:{stop}" + (f":{step}" if step > 1 else "") for start, stop, step in axes)]

    def write(self, writer: Writer, node: Node) -> Value:
        parts = {"starts": self.starts, "ends": self.stops, "axes": range(1, len(self.starts) + 1), "steps": self.steps}
        writer.emit(node, "Slice", [node.inputs[0], *(writer.ints(node, role, [*ints]) for role, ints in parts.items())])
        x = writer.values[node.inputs[0]]
        return Value(x.dtype, channelwise(x.bound.spread(writer.graph.infos[node.inputs[0]].shape[0])[self._channels]))

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.held(1), proto.held(2), proto.held(4))

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        if builder.tapped(node.inputs[0]):  # the pixels that stay are what comes
            value = builder.take(node.inputs[0])
            builder.give_stream(node.name, value.stream, value.frame)
            return
        shape = list(builder.sources(node)[0].shape)
        spans = list(zip(self.starts, self.stops, self.steps, strict=True))
        whole = [(0, size, 1) for size in shape]
        # A word of several channels is taken whole or not at all.
        moving = builder.moving(node, (shape[0], *spans[0][:2]) if self.steps[0] == 1 else (1,), self._word(builder, node), whole=True)
        for cube in cubes(len(shape), [span != other for span, other in zip(spans, whole, strict=True)]):
            size = cube.sizes(shape)
            rows, columns, channels = ((0, count, 1) for count in size)
            taken = cube.each(spans, (rows, columns, channels))
            for axis in cube.changed:
                shape[axis] = len(range(*spans[axis]))
            moving.move("slice", shape, partial(d.SliceFrame, size=size, spans=taken, lanes=cube.lanes(shape)))
        moving.done()

    @staticmethod
    def _word(builder: Builder, node: Node) -> FixedType | None:
        """Words as they come; of the channels that are left, where each had a grid of its own, the grids are others."""
        (source,), out = builder.sources(node), builder.graph.infos[node.name]
        width = source.word.width
        return FixedType(width, width - out.type.frac_bits, source.word.signed) if source.per_channel else None

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return (gcd(graph.infos[node.inputs[0]].shape[0], self.starts[0], self.stops[0]) if self.steps[0] == 1 else 1), 1

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        rng, shape = drawing.rng, drawing.shape
        starts = tuple(int(rng.integers(0, size)) for size in shape)
        stops = tuple(int(rng.integers(start + 1, size, endpoint=True)) for start, size in zip(starts, shape, strict=True))
        return cls(starts, stops, tuple(int(step) for step in rng.integers(1, 3, size=len(shape)))), (drawing.source,)
