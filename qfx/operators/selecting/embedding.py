"""Rows of a table, by their number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ExactnessError, ModelFileError, ProjectError
from qfx.export.bounds import DOUBLE, FLOAT, Value, fits, symmetric
from qfx.fixed.arith import FLOAT32_BITS, FLOAT64_BITS, Interval
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design import matrix
from qfx.hardware.design.epilogue import Frame, Steps
from qfx.ir import rules
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Operator
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.ir.onnx_node import OnnxNode

MAX_ROWS = 1 << FLOAT32_BITS
"""The numbers of a model's input are float32."""

_DRAWN = 40
"""The most numbers that a random one gives."""


@dataclass(frozen=True, slots=True)
class Embedding(Operator):
    """rows[x]: a row of the table for each whole number x, along a new last axis. A number below 0 reads the first row, one behind the table the
    last. ``rows``: shape (count, width), on one grid."""

    rows: Const

    reads: ClassVar[int | None] = 1
    loadable: ClassVar[bool] = False
    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.Embedding",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "Embedding": """Embedding (x, first, last, rows) => (y) {
    x64 = Cast <to = 11> (x)
    near = Clip(x64, first, last)
    number = Cast <to = 7> (near)
    y = Gather <axis = 0> (rows, number)
}""",
    })  # fmt: skip
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = True
    fuses: ClassVar[bool] = True
    renames: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        rows = self.rows
        if rows.raw.ndim != 2 or isinstance(rows.frac_bits, tuple) or len(rows.raw) > MAX_ROWS:
            what = f"the rows are of shape {rows.shape}, on {len(set(rows.rows(1)))} grids"
            raise ModelFileError(what, where=name, remedy=f"give at most {MAX_ROWS} rows, on one grid")
        if x.interval.hull.frac_bits > 0:
            what = f"takes whole numbers, its input has {x.interval.hull.frac_bits} fractional bits"
            raise ModelFileError(what, where=name, remedy="cast the input to a type of 0 fractional bits")
        reached = rows.raw[self._ends(x)]
        return rules.info(name, (*x.shape, rows.shape[1]), Interval(int(reached.min()), int(reached.max()), rows.grid), rows.grid)

    def _ends(self, x: Info) -> slice:
        """The rows that can be read."""
        whole, last = x.interval.hull.at(0), len(self.rows.raw) - 1
        return slice(min(max(whole.lo, 0), last), min(max(whole.hi, 0), last) + 1)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        number = np.clip(rules.move(inputs[0], -infos[0].grids), 0, len(self.rows.raw) - 1)
        found: RawArray = self.rows.raw[number]
        return found

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        return [f"{self.rows.shape[0]} rows of {self.rows.shape[1]}"]

    def constants(self) -> Mapping[str, Const]:
        return {"rows": self.rows}

    def accumulator(self, x: Info) -> FixedType | None:
        return None

    def macs(self, out: Info) -> int:
        return 0

    def write(self, writer: Writer, node: Node) -> Value:
        bound = symmetric(self.rows.interval.hull)  # whatever came before ends here, as at a cast
        if not fits(bound, DOUBLE):
            what = f"has rows of {bound.magnitude_bits} bits, ONNX's double holds {FLOAT64_BITS}"
            raise ExactnessError(what, where=node.name, remedy="cast them to fewer bits")
        value = Value(FLOAT if fits(bound, FLOAT) else DOUBLE, bound)
        ends = [writer.doubles(node, role, float(end)) for role, end in (("first", 0), ("last", len(self.rows.raw) - 1))]
        writer.call(node, "Embedding", [node.inputs[0], *ends, writer.const(node, "rows", self.rows, value.dtype)])
        return value

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.const(3))

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """The rows leave one after the other, in whatever order the numbers come."""
        (source,), info = builder.sources(node), builder.graph.infos[node.name]
        width = self.rows.shape[1]
        pe = builder.schedule.folding(node.name).pe
        matrix.check(node, "PE", pe, width, "numbers of a row")
        whole = source.interval.hull.at(0)
        value = builder.take_on(node.inputs[0], Info(source.shape, whole.type(), whole))
        stream = builder.rewidth(node.inputs[0], value.stream, 1)
        order = (value.frame.order[:, None] * width + np.arange(width)).reshape(-1)
        frame = Frame(info.shape, source.size, width, order)
        held = self.rows.interval.hull.type()
        steps = Steps(builder.names, node.name, (held,), frame)
        steps.fit(info.type)
        epilogue, out, name = builder.finish(node, chain, steps, frame, pe)
        builder.add(d.Embedding(builder.names.new(node.name, "embedding"), stream, out, self.rows.raw, held, epilogue))
        builder.give_stream(name, out, frame)

    def travelling(self, out: Info) -> int:
        return out.shape[-1]

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return self.rows.shape[1], 1

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        rng, infos = drawing.rng, drawing.graph.infos
        whole = [
            name for name, info in infos.items() if info.interval.hull.frac_bits <= 0 and len(info.shape) < rules.MAX_RANK and info.size <= _DRAWN
        ]
        if not whole:
            raise ProjectError("no value of whole numbers", where=drawing.source)
        source = drawing.source if drawing.source in whole else whole[int(rng.integers(len(whole)))]
        rows = drawing.const((int(rng.integers(1, 12)), int(rng.integers(1, 5))))
        return cls(Const(rows.raw, rows.frac_bits if isinstance(rows.frac_bits, int) else 2)), (source,)
