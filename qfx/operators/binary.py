"""Sum, difference, product, maximum and minimum of two values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from qfx.export.bounds import Value
from qfx.fixed import arith
from qfx.ir import channels, rules
from qfx.ir.channels import Carried
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Operator, Plain, travelling_channels
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.design.epilogue import Steps
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


class Binary(Plain, abstract=True):
    """Operators on two values of one shape, number by number; ONNX calls them as qfx does."""

    __slots__ = ()

    reads: ClassVar[int | None] = 2
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = False
    fuses: ClassVar[bool] = True
    renames: ClassVar[bool] = False

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out)

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        return []

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls()

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return travelling_channels(graph, node), 1

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(), drawing.pair()


class Sum(Binary, abstract=True):
    """Operators that align two values and join them; ``join`` does so with bounds and with raws, ``step`` is the function of the C++."""

    __slots__ = ()

    step: ClassVar[str]

    unrolled: ClassVar[str]
    """What makes it of two numbers of a scalar program."""

    @staticmethod
    @abstractmethod
    def join(a: Any, b: Any) -> Any:
        """What becomes of two bounds, or of two arrays of raws on one grid."""

    def infer(self, name: str, inputs: Infos) -> Info:
        a, b = rules.same_shape(name, inputs)
        return rules.info(name, a.shape, self.join(a.interval, b.interval), rules.common_grid(a, b))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        a, b = (rules.align(raw, info, out) for raw, info in zip(inputs, infos, strict=True))
        raw: RawArray = self.join(a, b)
        return raw

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        return scalars.each(getattr(scalars, self.unrolled), *inputs)

    def write(self, writer: Writer, node: Node) -> Value:
        a, b = (writer.values[name] for name in node.inputs)
        return writer.plain(node, self.forms[0], Value(a.dtype, a.bound + b.bound))  # bounds are symmetric

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        builder.binary(node, chain)

    def joins(self, sources: Infos, out: Info) -> tuple[Infos, Callable[[Steps], None]]:
        return sources, lambda steps: steps.sum(self.step, out, sources)


@dataclass(frozen=True, slots=True)
class Add(Sum):
    """Sum of two values of one shape."""

    forms: ClassVar[tuple[str, ...]] = ("Add",)
    step: ClassVar[str] = "add"
    unrolled: ClassVar[str] = "add"

    @staticmethod
    def join(a: Any, b: Any) -> Any:
        return a + b


@dataclass(frozen=True, slots=True)
class Sub(Sum):
    """Difference of two values of one shape."""

    forms: ClassVar[tuple[str, ...]] = ("Sub",)
    step: ClassVar[str] = "sub"
    unrolled: ClassVar[str] = "subtract"

    @staticmethod
    def join(a: Any, b: Any) -> Any:
        return a - b


class Extreme(Sum, abstract=True):
    """The greater or the lesser of two numbers."""

    __slots__ = ()

    def write(self, writer: Writer, node: Node) -> Value:
        a, b = (writer.values[name] for name in node.inputs)
        return writer.plain(node, self.forms[0], Value(a.dtype, a.bound | b.bound))

    def joins(self, sources: Infos, out: Info) -> tuple[Infos, Callable[[Steps], None]]:
        """Compared in words that hold both, which the one that is taken need not."""
        both = sources[0].interval | sources[1].interval
        grid = None if out.per_channel else out.type.frac_bits
        wide = rules.info(self.step, out.shape, both if grid is None else both.at(grid), grid)

        def append(steps: Steps) -> None:
            steps.sum(self.step, wide, sources)
            steps.move(out.grids, out.word)

        return sources, append


@dataclass(frozen=True, slots=True)
class Max(Extreme):
    """The greater of two values of one shape, number by number."""

    forms: ClassVar[tuple[str, ...]] = ("Max",)
    step: ClassVar[str] = "greater"
    unrolled: ClassVar[str] = "greater"

    @staticmethod
    def join(a: Any, b: Any) -> Any:
        return np.maximum(a, b) if isinstance(a, np.ndarray) else arith.greater(a, b)


@dataclass(frozen=True, slots=True)
class Min(Extreme):
    """The lesser of two values of one shape, number by number."""

    forms: ClassVar[tuple[str, ...]] = ("Min",)
    step: ClassVar[str] = "lesser"
    unrolled: ClassVar[str] = "lesser"

    @staticmethod
    def join(a: Any, b: Any) -> Any:
        return np.minimum(a, b) if isinstance(a, np.ndarray) else arith.lesser(a, b)


@dataclass(frozen=True, slots=True)
class Mul(Binary):
    """Elementwise product of two values of one shape."""

    forms: ClassVar[tuple[str, ...]] = ("Mul",)

    def infer(self, name: str, inputs: Infos) -> Info:
        a, b = rules.same_shape(name, inputs)
        one_grid = rules.common_grid(a, b) is not None
        return rules.info(name, a.shape, a.interval * b.interval, a.type.frac_bits + b.type.frac_bits if one_grid else None)

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        a, b = _factors(infos, out)
        product = rules.align(inputs[0], infos[0], a) * rules.align(inputs[1], infos[1], b)
        return rules.move(product, out.grids - a.grids - b.grids)

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out, annuls=True)

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        return scalars.each(scalars.multiply, *inputs)

    def write(self, writer: Writer, node: Node) -> Value:
        a, b = (writer.values[name] for name in node.inputs)
        return writer.plain(node, "Mul", Value(a.dtype, a.bound * b.bound))

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        builder.binary(node, chain)

    def joins(self, sources: Infos, out: Info) -> tuple[Infos, Callable[[Steps], None]]:
        infos = _factors(sources, out)
        return infos, lambda steps: steps.product(out, infos)


def _factors(infos: Infos, out: Info) -> Infos:
    """The factors as they are multiplied: on the grids of their channels where these differ."""
    return tuple(info.narrow() for info in infos) if out.per_channel or rules.common_grid(*infos) is None else infos
