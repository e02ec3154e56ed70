"""Comparisons with a constant: 1 where they hold, else 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from qfx.errors import ModelFileError
from qfx.export import bounds
from qfx.export.bounds import DOUBLE, FLOAT, Value
from qfx.fixed.arith import Interval
from qfx.hardware.design import design as d
from qfx.ir import rules, words
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Node
from qfx.ir.operator import Operator, Plain, Pointwise
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.epilogue import Steps
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode

Sign = Literal[">", ">=", "<", "<="]

_ONNX = {">": "Greater", ">=": "GreaterOrEqual", "<": "Less", "<=": "LessOrEqual"}
_NAMES = {">": "gt", ">=": "ge", "<": "lt", "<=": "le"}

_BOTH = Interval(0, 1, 0)


@dataclass(frozen=True, slots=True)
class Compare(Plain, Pointwise):
    """1 where ``x <sign> bound``, else 0; a scalar constant."""

    sign: Sign
    bound: Const

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.Compare",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        f"Compare_{_NAMES[sign]}": f"""Compare_{_NAMES[sign]} (x, bound) => (y) {{
    holds = {function}(x, bound)
    y = CastLike(holds, x)
}}"""
        for sign, function in _ONNX.items()
    })  # fmt: skip

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if self.bound.shape or self.sign not in _ONNX:
            raise ModelFileError(f"compares by {self.sign!r} with a constant of shape {self.bound.shape}", where=name, remedy="give a scalar")
        return rules.info(name, x.shape, _BOTH, 0)

    def _threshold(self, grids: RawArray) -> tuple[RawArray, bool]:
        """(t, up): the comparison holds where the raws on ``grids`` are greater than t, or, unless up, where they are not."""
        raw, closed = int(self.bound.raw), self.sign in (">=", "<")
        shift = grids - self.bound.grid
        least = [-_floor(-raw, int(by)) - 1 if closed else _floor(raw, int(by)) for by in shift.reshape(-1)]
        held = np.array([min(max(bound, -(1 << 62)), (1 << 62) - 1) for bound in least], dtype=np.int64)
        return held.reshape(shift.shape), self.sign in (">", ">=")

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        threshold, up = self._threshold(infos[0].grids)
        found: RawArray = ((inputs[0] > threshold) == up).astype(np.int64)
        return found

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        bound = scalars.scalar(self.bound)
        ordered = {">": lambda x: scalars.less(bound, x), "<": lambda x: scalars.less(x, bound)}
        opposite = {">=": "<", "<=": ">"}
        if self.sign in ordered:
            return scalars.each(ordered[self.sign], inputs[0])
        return scalars.each(lambda x: scalars.subtract(scalars.one, ordered[opposite[self.sign]](x)), inputs[0])

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        return [f"{self.sign}{words.number(int(self.bound.raw), self.bound.grid)}"]

    def write(self, writer: Writer, node: Node) -> Value:
        x = writer.values[node.inputs[0]]
        dtype = FLOAT if x.dtype == FLOAT and bounds.fits(bounds.of(self.bound), FLOAT) else DOUBLE
        if dtype == DOUBLE:
            writer.choose(node, Value(DOUBLE, Interval(0, 0, 0)), [self.bound])
        read = [writer.as_dtype(node.inputs[0], dtype), writer.const(node, "bound", self.bound, dtype)]
        writer.call(node, f"Compare_{_NAMES[self.sign]}", read)
        return Value(dtype, bounds.symmetric(_BOTH))

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        names: dict[str, Sign] = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        sign = names.get(str(proto.proto.op_type).partition("_")[2])
        if sign is None:
            raise ModelFileError(f"{proto.proto.op_type} is no comparison", where=proto.proto.name, remedy="export the model again")
        return cls(sign, proto.const(1))

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        threshold, up = self._threshold(steps.grids)
        # Beyond the word nothing changes, and the comparison stays within it.
        held = np.clip(threshold, max(steps.type.min_raw - 1, -(1 << 62)), min(steps.type.max_raw, (1 << 62) - 1))
        steps.add("above" if up else "not_above", out.word, (), (d.Operand(steps.table("bound", held)),))

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        x, rng = drawing.info.interval.hull, drawing.rng
        sign: Sign = str(rng.choice(list(_ONNX)))  # type: ignore[assignment]
        raw = int(rng.integers(max(x.lo - 1, -(1 << 40)), min(x.hi + 1, 1 << 40), endpoint=True))
        return cls(sign, Const(np.array(raw), x.frac_bits + int(rng.integers(-1, 2)))), (drawing.source,)


def _floor(raw: int, by: int) -> int:
    """``raw * 2**by``, rounded down."""
    return raw << by if by >= 0 else raw >> -by
