"""Pooling: the greatest of each window, and its sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ExactnessError, ModelFileError
from qfx.export import bounds
from qfx.export.bounds import FLOAT, Attributes, Value
from qfx.fixed.type import FixedType
from qfx.hardware.design import matrix
from qfx.ir import channels, rules, sums, words
from qfx.ir.channels import Carried
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Operator, Plain, travelling_channels
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import RAW_MIN, Const, Info, Pads, RawArray, Shape
from qfx.ir.windows import Windows

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


class Pool(Plain, abstract=True):
    """Operators on the windows of each channel."""

    __slots__ = ()

    reads: ClassVar[int | None] = 1
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = False
    fuses: ClassVar[bool] = True
    renames: ClassVar[bool] = False

    def carries(self, inputs: Infos, out: Info) -> Carried:
        return channels.alone(inputs, out)

    def does_nothing(self, x: Info) -> bool:
        return False

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return travelling_channels(graph, node), 1


@dataclass(frozen=True, slots=True)
class MaxPool(Pool):
    """Greatest value of each window; padding never wins (every window holds at least one real value)."""

    kernel: Shape
    stride: Shape
    pads: Pads  # one pair per spatial axis
    dilation: Shape

    forms: ClassVar[tuple[str, ...]] = ("MaxPool", "ai.qfx.PadMaxPool", "ai.qfx.PaddedMaxPool")
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "PadMaxPool": """PadMaxPool <kernel_shape, strides, pads, dilations, around, axes> (x) => (y) {
    sides = Constant <value_ints: ints = @around> ()
    all_axes = Constant <value_ints: ints = @axes> ()
    lowest32 = Constant <value = float {-3.4028234663852886e+38}> ()
    lowest = CastLike(lowest32, x)
    padded = Pad(x, sides, lowest, all_axes)
    y = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides, dilations: ints = @dilations> (padded)
}""",
        "PaddedMaxPool": """PaddedMaxPool <kernel_shape, strides, pads, dilations, axes> (x) => (y) {
    around = Constant <value_ints: ints = @pads> ()
    spatial = Constant <value_ints: ints = @axes> ()
    lowest32 = Constant <value = float {-3.4028234663852886e+38}> ()
    lowest = CastLike(lowest32, x)
    padded = Pad(x, around, lowest, spatial)
    y = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides, dilations: ints = @dilations> (padded)
}""",
    })  # fmt: skip

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        windows = self.windows(name, x.shape)
        if windows.real_taps()[0] == 0:
            raise ModelFileError(f"a window of {self.kernel} holds nothing but padding {self.pads}", where=name, remedy="pad by less than the kernel")
        return rules.info(name, (x.shape[0], *windows.out), x.interval, rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        views = self.windows("", infos[0].shape).taps(inputs[0], fill=RAW_MIN)
        greatest = views[0].copy()
        for view in views[1:]:
            np.maximum(greatest, view, out=greatest)
        return greatest

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        (x,) = inputs
        return scalars.pooled(self.windows(node.name, x.shape), x, lambda met: scalars.reduce(met, scalars.greater))

    def windows(self, name: str, shape: Shape) -> Windows:
        """The windows over an input of ``shape``."""
        return Windows.of(name, shape, self.kernel, self.stride, self.pads, self.dilation)

    def words(self) -> Iterable[str]:
        return [words.sizes(self.kernel), words.steps("s", self.stride), words.pads(self.pads), words.steps("d", self.dilation)]

    def write(self, writer: Writer, node: Node) -> Value:
        x = writer.values[node.inputs[0]]
        attributes: Attributes = {
            "dilations": list(self.dilation), "kernel_shape": list(self.kernel), "pads": bounds.onnx_pads(self.pads), "strides": list(self.stride),
        }  # fmt: skip
        if all(max(pad) < size for pad, size in zip(self.pads, self.kernel, strict=True)):
            writer.emit(node, "MaxPool", attributes=attributes)
            return x
        if x.mag.bit_length() - x.frac > 127:
            raise ExactnessError("its padding is float32's lowest number, which would win", where=node.name, remedy="use less extreme binary points")
        if writer.pads_all_axes:
            around: Attributes = {"around": bounds.onnx_pads(((0, 0), (0, 0), *self.pads)), "axes": [*range(len(self.pads) + 2)]}
            writer.call(node, "PadMaxPool", [node.inputs[0]], {**around, **attributes})
        else:
            writer.call(node, "PaddedMaxPool", [node.inputs[0]], {"axes": [*range(2, len(self.pads) + 2)], **attributes})
        return x

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.ints("kernel_shape"), proto.ints("strides"), proto.pads("pads"), proto.ints("dilations"))

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        matrix.add_pool(builder, node, chain, "max", self.windows(node.name, builder.sources(node)[0].shape), None)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(*drawing.window()), (drawing.source,)


@dataclass(frozen=True, slots=True)
class SumPool(Pool):
    """Sum of each window, padding counted as zeros. Average pooling is SumPool, Affine by a fixed-point reciprocal, Cast."""

    kernel: Shape
    stride: Shape
    pads: Pads

    forms: ClassVar[tuple[str, ...]] = ("ai.qfx.SumPool",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType({
        "SumPool": """SumPool <window, group, strides, pads> (x) => (y) {
    shape = Constant <value_ints: ints = @window> ()
    ones = ConstantOfShape <value = float[1] {1.0}> (shape)
    y = Conv <group: int = @group, strides: ints = @strides, pads: ints = @pads> (x, ones)
}""",
    })  # fmt: skip

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        windows = self.windows(name, x.shape)
        least, greatest = (x.interval.times(taps) for taps in windows.real_taps())
        return rules.info(name, (x.shape[0], *windows.out), least | greatest, rules.common_grid(x))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        views = self.windows("", infos[0].shape).taps(inputs[0], fill=0)
        total = views[0].copy()
        for view in views[1:]:
            np.add(total, view, out=total)
        return total

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        (x,) = inputs
        return scalars.pooled(self.windows(node.name, x.shape), x, scalars.total)

    def windows(self, name: str, shape: Shape) -> Windows:
        """The windows over an input of ``shape``."""
        return Windows.of(name, shape, self.kernel, self.stride, self.pads)

    def words(self) -> Iterable[str]:
        return [words.sizes(self.kernel), words.steps("s", self.stride), words.pads(self.pads)]

    def accumulator(self, x: Info) -> FixedType:
        return sums.word(x.stored.times(self.windows("", x.shape).real_taps()[1]).with_zero())

    def write(self, writer: Writer, node: Node) -> Value:
        x, channels = writer.values[node.inputs[0]], writer.graph.infos[node.name].shape[0]
        value = writer.choose(node, Value(x.dtype, x.bound.times(math.prod(self.kernel))), [])
        attributes: Attributes = {
            "group": channels, "pads": bounds.onnx_pads(self.pads), "strides": list(self.stride), "window": [channels, 1, *self.kernel],
        }  # fmt: skip
        if value.dtype == FLOAT:
            writer.call(node, "SumPool", [node.inputs[0]], attributes)
        else:
            _, x_steps = writer.split(node, Const(np.ones((1, 1, *self.kernel), dtype=np.int64), 0), x, None)
            writer.call(node, writer.sum_pool_name(len(x_steps) + 1), [node.inputs[0], *x_steps], attributes)
        return value

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(proto.ints("window")[2:], proto.ints("strides"), proto.pads("pads"))

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        (source,) = builder.sources(node)
        matrix.add_pool(builder, node, chain, "sum", self.windows(node.name, source.shape), self.accumulator(source))

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls(*drawing.window()[:3]), (drawing.source,)
