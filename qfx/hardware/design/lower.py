"""Lowering: Graph and Schedule -> Design.

Every operator becomes a process; pointwise operators become the epilogue of the process that feeds them if they are its only reader. A value that
has several readers is forked. Values travel in the canonical order (pixel by pixel, channels innermost); Reshape and Transpose only rename the order,
and a permutation is spent where a reader needs the canonical one. Linear does not: its weight columns are permuted instead.

FIFO depths are conservative: two words, but a whole frame behind every fork. A fork then never waits for room within a frame, so no circle of
processes can wait for each other: one that waits for an input waits for something upstream, one that waits for room waits for something
downstream, and both chains end before a fork. ``fifo`` finds the depths that the design is built with.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd

import numpy as np

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design import loading
from qfx.hardware.design.build import Builder, Value, check_word, plane
from qfx.hardware.design.epilogue import POINTWISE, Frame, Steps, append_ops
from qfx.hardware.design.matrix import lower_conv, lower_linear
from qfx.hardware.design.schedule import Schedule
from qfx.ir.graph import Graph, Node
from qfx.ir.ops import Add, Concat, Conv, Input, Linear, MaxPool, Mul, Pad, Reshape, Slice, Stretch, Sub, SumPool, Transpose, Upsample, accumulator
from qfx.ir.rules import common_grid

_LAST_DEPTH = 64

_UNFUSED = (Input, Reshape, Transpose, Pad, Slice, Upsample, Stretch)
"""The operators whose process has no epilogue."""


def lower(graph: Graph, schedule: Schedule) -> d.Design:
    """The design that computes the graph. Raises ProjectError naming the node that cannot be built as scheduled."""
    known = {node.name for node in graph.nodes}
    for name, _ in schedule.foldings:
        if name not in known:
            raise ProjectError(f"the schedule folds {name!r}, which is no node", where=graph.name, remedy="name nodes of the graph")
    return _Lowering(graph, schedule).run()


class _Lowering(Builder):
    _input_port: d.Port
    _last: d.Stream

    def run(self) -> d.Design:
        graph = self.graph
        done: set[str] = set()
        for node in graph.nodes:
            if self.live(node.name) and node.name not in done:
                chain = self.fused(node) if not isinstance(node.op, _UNFUSED) else ()
                done.update(member.name for member in chain)
                self.node = node.name
                self._node(node, chain)
        out = graph.infos[graph.output]
        value = self.take_on_one_grid(graph.output)
        channels = out.shape[0]
        if channels % self.schedule.output_parallel:
            raise ProjectError(
                f"{self.schedule.output_parallel} numbers per output word", where=graph.output, remedy=f"use a divisor of its {channels} channels"
            )
        stream = self.rewidth(graph.output, value.stream, self.schedule.output_parallel)
        port = _port(out.type, out.shape, stream.parallel, graph.output)
        self.add(d.ToPort(self.names.new("output", "port"), stream, self._last, port.slot))
        loader = loading.loader(self.processes, self.names)
        return d.Design(tuple(self.processes), tuple(self.nodes), tuple(self.streams), self._input_port, port, tuple(self.travels), loader)

    def _node(self, node: Node, chain: tuple[Node, ...]) -> None:
        op = node.op
        if isinstance(op, Input):
            self._input(node)
        elif isinstance(op, Conv):
            lower_conv(self, node, chain)
        elif isinstance(op, Linear):
            lower_linear(self, node, chain)
        elif isinstance(op, POINTWISE):
            self._pointwise(node, chain)
        elif isinstance(op, Add | Sub | Mul):
            self._binary(node, chain)
        elif isinstance(op, MaxPool | SumPool):
            self._pool(node, chain)
        elif isinstance(op, Concat):
            self._concat(node, chain)
        elif isinstance(op, Reshape | Transpose):
            self._rename(node)
        elif isinstance(op, Pad):
            self._pad(node, op)
        elif isinstance(op, Slice):
            self._slice(node, op)
        elif isinstance(op, Upsample | Stretch):
            self._scale(node, op)
        else:
            raise ProjectError(f"{type(op).__name__} has no hardware form", where=node.name, remedy="this is a defect in qfx; please report it")

    def _input(self, node: Node) -> None:
        info, parallel = self.graph.infos[node.name], self.schedule.input_parallel
        if info.shape[0] % parallel:
            raise ProjectError(f"{parallel} numbers per input word", where=node.name, remedy=f"use a divisor of its {info.shape[0]} channels")
        self._input_port = _port(info.type, info.shape, parallel, node.name)
        stream = self.stream(node.name, info.type, parallel, info.size)
        # Safe at any depth (see qfx::from_port); so deep that small frames that follow each other do not wait.
        self._last = self.stream("last", FixedType(1, 1, signed=False), 1, 1, _LAST_DEPTH)
        self.add(d.FromPort(self.names.new("input", "port"), stream, self._last, self._input_port.slot))
        self.give(node.name, Value(stream, Frame.of(info.shape)))

    def _pointwise(self, node: Node, chain: tuple[Node, ...]) -> None:
        value = self.take(node.inputs[0])
        frame = value.frame
        pe = self.parallel(node, frame.channels)
        source = self.rewidth(node.inputs[0], value.stream, pe)
        steps = Steps(self.names, node.name, (source.type,), frame, self.graph.infos[node.inputs[0]].grids)
        append_ops(steps, self.graph, (node,))
        epilogue, out, name = self.finish(node, chain, steps, frame, pe)
        self.add(d.Pointwise(self.names.new(node.name, "pointwise"), source, out, frame.pixels, frame.channels, epilogue))
        self.give(name, Value(out, frame))

    def _binary(self, node: Node, chain: tuple[Node, ...]) -> None:
        info = self.graph.infos[node.name]
        frame = Frame.of(info.shape)
        pe = self.parallel(node, frame.channels)
        infos = tuple(self.graph.infos[name] for name in node.inputs)
        if isinstance(node.op, Mul) and (info.per_channel or common_grid(*infos) is None):
            infos = tuple(source.narrow() for source in infos)
        a, b = (self.rewidth(name, self.take_on(name, wanted).stream, pe) for name, wanted in zip(node.inputs, infos, strict=True))
        steps = Steps(self.names, node.name, (a.type, b.type), frame)
        if isinstance(node.op, Mul):
            steps.product(info, infos)
        else:
            steps.sum("add" if isinstance(node.op, Add) else "sub", info, infos)
        epilogue, out, name = self.finish(node, chain, steps, frame, pe)
        self.add(d.Binary(self.names.new(node.name, "binary"), (a, b), out, frame.pixels, frame.channels, epilogue))
        self.give(name, Value(out, frame))

    def _concat(self, node: Node, chain: tuple[Node, ...]) -> None:
        info = self.graph.infos[node.name]
        frame = Frame.of(info.shape)
        counts = [self.graph.infos[name].shape[0] for name in node.inputs]
        pe = self.schedule.folding(node.name).pe
        if any(count % pe for count in counts):
            raise ProjectError(f"PE={pe} does not divide the channels {counts} that it joins", where=node.name, remedy="use a common divisor")
        streams = [self.take_stream(name, pe) for name in node.inputs]
        left, left_channels = streams[0], counts[0]
        as_they_are = info.per_channel or any(self.graph.infos[name].per_channel for name in node.inputs)
        for i, (right, right_channels) in enumerate(zip(streams[1:], counts[1:], strict=True), start=2):
            channels = left_channels + right_channels
            last = i == len(streams)
            steps = Steps(self.names, node.name, (info.word,), frame if last else Frame.of((channels, *info.shape[1:])), info.grids if last else None)
            shifts = (0, 0) if as_they_are else (info.type.frac_bits - left.type.frac_bits, info.type.frac_bits - right.type.frac_bits)
            if last:
                epilogue, out, name = self.finish(node, chain, steps, frame, pe)
            else:
                epilogue, out = steps.done(), self.stream(node.name, info.word, pe, frame.pixels * channels)
            process = self.names.new(node.name, "concat")
            self.add(d.Concat(process, (left, right), out, shifts, info.word, frame.pixels, (left_channels, right_channels), epilogue))
            left, left_channels = out, channels
        self.give(name, Value(left, frame))

    def _pool(self, node: Node, chain: tuple[Node, ...]) -> None:
        op, info, source = node.op, self.graph.infos[node.name], self.graph.infos[node.inputs[0]]
        assert isinstance(op, MaxPool | SumPool)
        windows = op.windows(node.name, source.shape)
        is_max = isinstance(op, MaxPool)
        frame = Frame.of(info.shape)
        pe = self.parallel(node, frame.channels)
        stream = self.take_stream(node.inputs[0], pe)
        acc = stream.type if is_max else accumulator(op, source)
        steps = Steps(self.names, node.name, (acc,), frame, source.grids)
        if info.per_channel:
            steps.move(info.grids, info.word)
        else:
            steps.fit(info.type)
        whole = windows.kernel == windows.size and not any(map(any, windows.pads)) and set(windows.dilation) == {1}
        taps = int(np.prod(windows.kernel))
        if not whole:
            padding = stream.type.min_raw if is_max else 0
            stream = self.window(node.name, stream, frame.channels, windows, 0, padding)
        epilogue, out, name = self.finish(node, chain, steps, frame, pe)
        pixels = taps if whole else frame.pixels
        process = self.names.new(node.name, "pool")
        self.add(d.Pool(process, stream, out, "max" if is_max else "sum", whole, pixels, frame.channels, taps, acc, epilogue))
        self.give(name, Value(out, frame))

    def _rename(self, node: Node) -> None:
        assert isinstance(node.op, Reshape | Transpose)
        keeps = node.op.keeps_channels(self.graph.infos[node.inputs[0]])
        value = self.take(node.inputs[0]) if keeps else self.take_on_one_grid(node.inputs[0])
        frame = value.frame
        if isinstance(node.op, Reshape):
            renamed = replace(frame, shape=node.op.shape)
        else:
            shape = tuple(frame.shape[axis] for axis in node.op.perm)
            # places[j] = where element j (row-major) of the source lies in the result
            size = frame.order.size
            places = np.empty(size, dtype=np.int64)
            places[np.transpose(np.arange(size).reshape(frame.shape), node.op.perm).reshape(-1)] = np.arange(size)
            renamed = replace(frame, shape=shape, order=places[frame.order])
        self.give(node.name, replace(value, frame=renamed))

    def _pad(self, node: Node, op: Pad) -> None:
        (first, last), channels = op.pads[0], self.graph.infos[node.inputs[0]].shape[0]
        stream, out, size = self._move(node, (channels, first, last))
        before = _cube(tuple(pair[0] for pair in op.pads), 0)
        result = _cube(self.graph.infos[node.name].shape, 1)
        self.add(d.PadFrame(self.names.new(node.name, "pad"), stream, out, size, result, before))
        self.give(node.name, Value(out, Frame.of(self.graph.infos[node.name].shape)))

    def _slice(self, node: Node, op: Slice) -> None:
        channels = self.graph.infos[node.inputs[0]].shape[0]
        # A word of several channels is taken whole or not at all.
        counts = (channels, op.starts[0], op.stops[0]) if op.steps[0] == 1 else (1,)
        stream, out, size = self._move(node, counts)
        spans = tuple(zip(_cube(op.starts, 0), _cube(op.stops, 1), _cube(op.steps, 1), strict=True))
        self.add(d.SliceFrame(self.names.new(node.name, "slice"), stream, out, size, spans))
        self.give(node.name, Value(out, Frame.of(self.graph.infos[node.name].shape)))

    def _scale(self, node: Node, op: Upsample | Stretch) -> None:
        stream, out, size = self._move(node, (self.graph.infos[node.name].shape[0],))
        factors = plane(op.factors, 1)
        if isinstance(op, Upsample):
            self.add(d.Repeat(self.names.new(node.name, "repeat"), stream, out, size, factors))
        else:
            self.add(d.Stretch(self.names.new(node.name, "stretch"), stream, out, size, factors))
        self.give(node.name, Value(out, Frame.of(self.graph.infos[node.name].shape)))

    def _move(self, node: Node, counts: tuple[int, ...]) -> tuple[d.Stream, d.Stream, tuple[int, int, int]]:
        """The streams that a mover reads and writes, as many channels a word as its node is folded to, and (H, W, C) of its input.

        ``counts`` are the numbers of channels that this has to divide.
        """
        pe, info = self.schedule.folding(node.name).pe, self.graph.infos[node.name]
        common = gcd(*counts)
        if common % pe:
            raise ProjectError(f"PE={pe} would cut its channels within a word", where=node.name, remedy=f"use a divisor of {common}")
        stream = self.take_stream(node.inputs[0], pe)
        type_ = info.word if isinstance(node.op, Pad | Stretch) else stream.type  # zeros may widen it
        return stream, self.stream(node.name, type_, pe, info.size), _cube(self.graph.infos[node.inputs[0]].shape, 1)


def _cube(values: tuple[int, ...], fill: int) -> tuple[int, int, int]:
    """(H, W, C) of per-axis numbers of a value whose axes are (C,), (C, L) or (C, H, W)."""
    channels, *spatial = values
    height, width = plane(tuple(spatial), fill) if spatial else (fill, fill)
    return height, width, channels


def _port(type_: FixedType, shape: tuple[int, ...], parallel: int, name: str) -> d.Port:
    slot = _slot(type_, name)
    check_word(name, parallel, slot)
    return d.Port(type_, shape, slot, parallel)


def _slot(type_: FixedType, name: str) -> int:
    for slot in (8, 16, 32, 64):
        if type_.width <= slot:
            return slot
    raise ProjectError(f"{type_} has {type_.width} bits", where=name, remedy="a port carries at most 64; cast it")
