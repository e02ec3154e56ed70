"""Convolution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError, ProjectError
from qfx.export import bounds
from qfx.export.bounds import DOUBLE, FLOAT, Attributes, Value
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.hardware.design import matrix
from qfx.hardware.design.build import plane_shape
from qfx.hardware.design.epilogue import Frame
from qfx.hardware.design.memory import tiled
from qfx.hardware.design.streams import MAX_WORD_BITS
from qfx.hardware.folding import ragged
from qfx.hardware.folding.option import window_channels
from qfx.ir import channels, rules, sums, words
from qfx.ir.channels import Apart, Carried, Mask, Summed
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Operator
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, Pads, RawArray, Shape
from qfx.ir.windows import Windows

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Conv(Operator):
    """Cross-correlation over 1 to 3 spatial axes, as torch.nn.functional.conv1d, conv2d and conv3d; zero padding. Windows over three axes have no
    form in hardware."""

    weight: Const  # (out_channels, in_channels / groups, *kernel)
    bias: Const | None  # (out_channels,)
    stride: Shape
    pads: Pads  # one pair per spatial axis
    dilation: Shape
    groups: int

    reads: ClassVar[int | None] = 1
    forms: ClassVar[tuple[str, ...]] = ("Conv", "ai.qfx.Conv", "ai.qfx.ConvBias")
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = False
    fuses: ClassVar[bool] = True
    takes_beside: ClassVar[bool] = True
    renames: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        if len(self.weight.shape) != len(x.shape) + 1:
            raise ModelFileError(
                f"the weight is {self.weight.shape} for a value of shape {x.shape}", where=name, remedy="give (out, in/groups, *kernel)"
            )
        windows = self.windows(name, x.shape)
        outputs, per_group = self.weight.shape[:2]
        if self.groups < 1 or outputs % self.groups or per_group * self.groups != x.shape[0]:
            raise ModelFileError(
                f"the weight is {self.weight.shape} for {x.shape[0]} channels in {self.groups} groups",
                where=name,
                remedy="give (out, in/groups, *kernel)",
            )
        return sums.weighted_info(name, (outputs, *windows.out), self.weight, self.bias, self._met(rules.one_grid(name, x)))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        x = infos[0].on_one_grid()
        raw = sums.convolve(self.weight, self.groups, self.windows("", x.shape), rules.align(inputs[0], infos[0], x), x.interval.at(x.type.frac_bits))
        rows = sums.per_channel(self.weight.rows(len(self.weight.raw)), len(out.shape))
        return sums.with_bias(raw, x.grids + rows, self.bias, out)

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        """Each position has the same adders, of what its window meets."""
        (x,) = inputs
        windows, places = self.windows(node.name, x.shape), np.arange(1, x.size + 1).reshape(1, *x.shape)
        taps = np.stack(windows.taps(places, fill=0), axis=-1)[0]  # (C, *out, taps)
        numbers = [scalars.zero, *x.reshape(-1)]
        outputs, channels = len(self.weight.raw) // self.groups, x.shape[0] // self.groups
        bias = None if self.bias is None else scalars.constants(self.bias)
        result: Numbers = np.empty((len(self.weight.raw), *windows.out), dtype=object)
        for position in np.ndindex(windows.out):
            for group in range(self.groups):
                rows = slice(group * outputs, (group + 1) * outputs)
                met = taps[(slice(group * channels, (group + 1) * channels), *position)].reshape(-1)
                grids = self.weight.rows(len(self.weight.raw))[rows]
                made = scalars.weighted(self.weight.raw[rows], grids, [numbers[place] for place in met], None if bias is None else bias[rows])
                for place, number in zip(range(rows.start, rows.stop), made, strict=True):
                    result[(place, *position)] = number
        return result

    def windows(self, name: str, shape: Shape) -> Windows:
        """The windows over an input of ``shape``."""
        return Windows.of(name, shape, self.weight.shape[2:], self.stride, self.pads, self.dilation)

    def sees(self, x: Info) -> Windows:
        return self.windows("", x.shape)

    def _met(self, x: Info) -> Interval:
        """What the weights meet: the input's numbers on the one grid that they mix on, and 0 where there is padding."""
        stored = x.interval.at(x.type.frac_bits)
        return stored.with_zero() if any(map(any, self.pads)) else stored

    def carries(self, inputs: Infos, out: Info) -> Carried:
        """One channel a group makes channels of its own; several a group stay together."""
        if self.groups > 1 and self.weight.shape[1] == 1:
            each = len(self.weight.raw) // self.groups
            return Apart((np.arange(len(self.weight.raw)) // each,), ~channels.meets(self.weight)[:, 0])
        return Summed(channels.meets(self.weight, self.groups), whole=self.groups > 1)

    def narrowed(self, made: Mask, read: tuple[Mask, ...]) -> Operator:
        apart = self.groups > 1
        weight = channels.rows(self.weight, made) if apart else channels.weight_of(self.weight, made, read[0])
        bias = None if self.bias is None else channels.rows(self.bias, made)
        return replace(self, weight=weight, bias=bias, groups=int(read[0].sum()) if apart else 1)

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        return [
            words.sizes(self.weight.shape[2:]),
            words.steps("s", self.stride),
            words.pads(self.pads),
            words.steps("d", self.dilation),
            f"g{self.groups}" if self.groups > 1 else "",
        ]

    def constants(self) -> Mapping[str, Const]:
        return {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias}

    def accumulator(self, x: Info) -> FixedType:
        return sums.word(sums.weighted(self.weight, self.bias, self._met(x))[1])

    def macs(self, out: Info) -> int:
        return out.size * math.prod(self.weight.shape[1:])

    def columns(self, out: Info) -> int:
        return int(self.weight.raw[0].size) * self.groups * (out.size // out.shape[0])

    def write(self, writer: Writer, node: Node) -> Value:
        x = writer.values[node.inputs[0]]
        value = writer.choose(node, bounds.weighted(x, self.weight, self.bias), [self.weight, self.bias])
        geometry: Attributes = {
            "dilations": list(self.dilation), "group": self.groups, "pads": bounds.onnx_pads(self.pads), "strides": list(self.stride),
        }  # fmt: skip
        weight = writer.const(node, "weight", self.weight, value.dtype)
        if value.dtype == FLOAT:
            bias = [] if self.bias is None else [writer.const(node, "bias", self.bias, FLOAT)]
            writer.emit(node, "Conv", [node.inputs[0], weight, *bias], {"kernel_shape": list(self.weight.shape[2:]), **geometry})
            return value
        w_steps, x_steps = writer.split(node, self.weight, x, self.bias)
        inputs = [node.inputs[0], weight, *w_steps, *x_steps]
        if self.bias is not None:
            inputs.append(writer.const(node, "bias", self.bias, DOUBLE, (-1, *(1 for _ in self.stride))))
        writer.call(node, writer.conv_name(len(w_steps) + 1, len(x_steps) + 1, bias=self.bias is not None), inputs, geometry)
        return value

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        if proto.form == "Conv":
            bias = proto.maybe_const(2)
        else:
            bias = proto.flat_const(len(proto.proto.input) - 1) if proto.form == "ai.qfx.ConvBias" else None
        weight, pads = proto.const(1), proto.pads("pads")
        return cls(weight, bias, proto.ints("strides"), pads, proto.ints("dilations"), proto.integer("group"))

    def _depthwise(self, source: Info) -> bool:
        return self.groups > 1 and self.groups == source.shape[0] == self.weight.shape[0]

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """Window (unless every window is a pixel of what comes), then a matrix-vector unit; depthwise convolutions have a unit of their own."""
        source, info = builder.graph.infos[node.inputs[0]], builder.graph.infos[node.name]
        phases, name = builder.stretched.get(node.inputs[0]), node.inputs[0]
        if phases is None:
            windows, weight = self.windows(node.name, source.shape), self.weight
        else:
            windows, weight, name = phases.windows, phases.weight(self.weight), phases.source
        channels = builder.graph.infos[name].shape[0]
        outputs, per_group = weight.shape[:2]
        taps = int(np.prod(windows.kernel))
        folding = builder.schedule.folding(node.name)
        depthwise = self._depthwise(source)
        pe, simd = folding.pe, folding.simd
        if folding.weights == "ddr":
            self._build_tiles(builder, node, chain)
            return
        together, frame = builder.taps(node, windows), Frame.of(info.shape) if phases is None else phases.frame
        pixels = matrix.check_pixels(node, folding.pixels, frame)
        stream = builder.take_on_one_grid(name).stream
        if depthwise:
            matrix.check(node, "PE", pe, outputs, "channels")
            ragged.check("SIMD", simd, together, "taps in a word of the window unit" if together > 1 else "input channels of a group", node.name)
            row, word = together * pe, pe
        else:
            row = taps * per_group
            ragged.check("PE", pe, outputs // self.groups, "outputs of a group", node.name)
            ragged.check("SIMD", simd, row, "inputs of an output", node.name)
            if row % simd:
                turns, most = ragged.words(outputs // self.groups, pe), MAX_WORD_BITS // stream.type.width
                found: int | None = ragged.source_channels(per_group, together, row, simd, turns, most)
            else:
                found = window_channels(simd, per_group, together)
            if found is None:
                raise ProjectError(f"SIMD={simd} with {per_group} input channels in a group", where=node.name, remedy="let one divide the other")
            word = found
        strided = stream.numbers != channels * int(np.prod(windows.out)) if phases is None else set(windows.stride) != {1}
        windowed = taps > 1 or strided or any(map(any, windows.pads))
        # Where a word holds all of a pixel, or of its window, it may hold those of several.
        alone = word == channels and simd == (together if depthwise else row)
        wide = matrix.wide_windows(builder, node, stream, channels, windows, pixels) if alone and together > 1 else None
        if wide is None:
            stream = builder.rewidth(name, stream, word * pixels if alone and not windowed else word)
        if windowed and wide is None:
            stream = builder.window(node.name, stream, channels, windows, 0 if depthwise else self.groups, 0, whole=together > 1)
        if wide is not None:
            stream = wide
        elif windowed or not alone:
            stream = builder.filled(node.name, stream, row, pe * simd if depthwise else simd)
        # (outputs, per_group, *kernel) -> the order in which a window arrives: all channels of each tap, or all taps of each word's channels
        words = weight.raw.reshape(outputs, -1, per_group if together == 1 or depthwise else word, taps)
        rows = np.moveaxis(words, 2, 3).reshape(outputs, taps * per_group)
        unit = matrix.Unit(
            node, chain, stream, frame, depthwise, self.groups, pe, simd, self.weight, self.bias,
            lambda weight, bias: replace(self, weight=weight if phases is None else phases.weight(weight), bias=bias).accumulator(source),
            phases,
        )  # fmt: skip
        matrix.add_unit(builder, unit, rows)

    def _build_tiles(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """With the weights in the board's memory."""
        source, folding = builder.graph.infos[node.inputs[0]], builder.schedule.folding(node.name)
        tiled.refuse(node, self.weight, depthwise=self._depthwise(source), stretched=node.inputs[0] in builder.stretched, folding=folding)
        windows = self.windows(node.name, source.shape)
        if len(windows.size) > 2:
            raise ProjectError(
                f"windows over {len(windows.size)} axes have no form in hardware", where=node.name, remedy="work on two axes at a time"
            )
        plane, frame = plane_shape(windows), Frame.of(builder.graph.infos[node.name].shape)
        stream = builder.take_on_one_grid(node.inputs[0]).stream
        unit = matrix.Unit(
            node, chain, stream, frame, False, self.groups, folding.pe, folding.simd, self.weight, self.bias,
            lambda weight, bias: replace(self, weight=weight, bias=bias).accumulator(source),
        )  # fmt: skip
        rows = tiled.order(self.weight.raw)
        tiled.add_tiles(builder, unit, matrix.sums_of(builder, unit, rows), plane, tiled.tile_rows(node, folding.rows, plane[2]))

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        outputs, per_group = self.weight.shape[:2]
        return (outputs, 1) if self._depthwise(graph.infos[node.inputs[0]]) else (outputs // self.groups, per_group)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        rng, shape = drawing.rng, drawing.shape
        kernel, stride, pads, dilation = drawing.window()
        groups = int(rng.choice([count for count in range(1, shape[0] + 1) if shape[0] % count == 0]))
        outputs = groups * int(rng.integers(1, max(4 // groups, 1), endpoint=True))
        weight = drawing.const((outputs, shape[0] // groups, *kernel))
        return cls(weight, drawing.maybe(drawing.const((outputs,), bits=8)), stride, pads, dilation, groups), (drawing.source,)
