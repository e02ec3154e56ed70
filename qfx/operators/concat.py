"""Values joined along the channels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ModelFileError, ProjectError
from qfx.export.bounds import DOUBLE, FLOAT, Value
from qfx.fixed.arith import channelwise
from qfx.hardware.design import design as d
from qfx.hardware.design.epilogue import Frame, Steps, check_abreast
from qfx.ir import rules
from qfx.ir.channels import Apart, Carried
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Operator, Plain
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Info, RawArray

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Concat(Plain):
    """Two or more values joined along the channels; the result's grid is the finest of theirs."""

    reads: ClassVar[int | None] = None
    forms: ClassVar[tuple[str, ...]] = ("Concat",)
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = False
    fuses: ClassVar[bool] = True
    renames: ClassVar[bool] = False

    def infer(self, name: str, inputs: Infos) -> Info:
        if len(inputs) < 2:
            raise ModelFileError(f"reads {len(inputs)} values", where=name, remedy="join two or more")
        if len({info.shape[1:] for info in inputs}) > 1:
            raise ModelFileError(
                f"joins the shapes {', '.join(str(info.shape) for info in inputs)}", where=name, remedy="only the channels may differ"
            )
        shape = (sum(info.shape[0] for info in inputs), *inputs[0].shape[1:])
        joined = channelwise(interval for info in inputs for interval in info.interval.spread(info.shape[0]))
        made = rules.info(name, shape, joined, rules.common_grid(*inputs))
        if not made.per_channel:
            return made
        # Raws are joined as they are.
        return rules.info(name, shape, channelwise(interval for info in inputs for interval in info.stored.spread(info.shape[0])))

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        if out.per_channel or any(info.per_channel for info in infos):
            return np.concatenate(inputs, axis=1)
        return np.concatenate([rules.align(raw, info, out) for raw, info in zip(inputs, infos, strict=True)], axis=1)

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        return np.concatenate(inputs)

    def carries(self, inputs: Infos, out: Info) -> Carried:
        """Each channel is one of one value."""
        origins, start = [], 0
        for info in inputs:
            origin = np.full(out.shape[0], -1)
            origin[start : start + info.shape[0]] = np.arange(info.shape[0])
            origins.append(origin)
            start += info.shape[0]
        return Apart(tuple(origins))

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        return []

    def write(self, writer: Writer, node: Node) -> Value:
        inputs = [writer.values[name] for name in node.inputs]
        dtype = DOUBLE if any(x.dtype == DOUBLE for x in inputs) else FLOAT
        writer.emit(node, "Concat", [writer.as_dtype(name, dtype) for name in node.inputs], {"axis": 1})
        counts = [writer.graph.infos[name].shape[0] for name in node.inputs]
        return Value(dtype, channelwise(bound for x, count in zip(inputs, counts, strict=True) for bound in x.bound.spread(count)))

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls()

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """Two values at a time."""
        info, infos = builder.graph.infos[node.name], builder.sources(node)
        frame = Frame.of(info.shape)
        counts = [source.shape[0] for source in infos]
        pe = builder.schedule.folding(node.name).pe
        pixels = builder.whole_pixels(node, sum(counts), gcd(*counts), frame.pixels)
        if not pixels and any(count % pe for count in counts):
            remedy = f"use a common divisor, or PE={sum(counts)} for whole pixels of all"
            raise ProjectError(f"PE={pe} does not divide the channels {counts} that it joins", where=node.name, remedy=remedy)
        parts = [count * pixels if pixels else pe for count in counts]
        streams = [builder.take_stream(name, part) for name, part in zip(node.inputs, parts, strict=True)]
        left, left_channels = streams[0], counts[0]
        as_they_are = info.per_channel or any(source.per_channel for source in infos)
        name = node.name
        for i, (right, right_channels) in enumerate(zip(streams[1:], counts[1:], strict=True), start=2):
            channels = left_channels + right_channels
            last = i == len(streams)
            joined = frame if last else Frame.of((channels, *info.shape[1:]))
            steps = Steps(builder.names, node.name, (info.word,), joined, info.grids if last else None)
            shifts = (0, 0) if as_they_are else (info.type.frac_bits - left.type.frac_bits, info.type.frac_bits - right.type.frac_bits)
            if last:
                epilogue, out, name = builder.finish(node, chain, steps, frame, pe, pixels=max(pixels, 1))
                check_abreast(node.name, epilogue, pixels, "inputs")
            else:
                word = channels * pixels if pixels else pe
                epilogue, out = steps.done(), builder.stream(node.name, info.word, word, frame.pixels * channels)
            process, both = builder.names.new(node.name, "concat"), (left_channels, right_channels)
            builder.add(d.Concat(process, (left, right), out, shifts, info.word, frame.pixels, both, epilogue, frame.channels, pixels))
            left, left_channels = out, channels
        builder.give_stream(name, left, frame)

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return gcd(*(graph.infos[name].shape[0] for name in node.inputs)), 1

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        like = drawing.like(drawing.shape, 1)
        others = [like[int(index)] for index in drawing.rng.integers(len(like), size=int(drawing.rng.integers(1, 2, endpoint=True)))]
        return cls(), (drawing.source, *others)
