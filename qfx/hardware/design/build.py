"""Building a design: streams, forks, changes of width and order, windows; what the lowering of every operator shares."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from qfx.errors import ProjectError, UnsupportedError
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design.cubes import Moving
from qfx.hardware.design.epilogue import Beside, Frame, Steps, append_ops, check_abreast, with_filled_rows
from qfx.hardware.design.joining import ALONE, Chain, Tap, chains, live_nodes, readers_of, taps
from qfx.hardware.design.names import Names
from qfx.hardware.design.phases import Phases
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.design.streams import MAX_PIECES, widths_between
from qfx.hardware.design.streams import MAX_WORD_BITS as MAX_WORD_BITS
from qfx.hardware.design.streams import check_word as check_word
from qfx.hardware.folding import ragged
from qfx.hardware.processes.permute import loop_nest as loop_nest
from qfx.ir.graph import Graph, Node
from qfx.ir.rules import one_grid
from qfx.ir.values import Info
from qfx.ir.windows import Windows
from qfx.ir.within import places

MAX_STREAM_BITS = 64
"""The widest number that travels."""

MIN_DEPTH = 2

_LAST_DEPTH = 64


@dataclass(frozen=True, eq=False)
class Value:
    """A value on its way to one reader."""

    stream: d.Stream
    frame: Frame


class Builder:
    """The processes and streams so far, and the values that wait for their readers. What operators are built with: see ``Operator.build``."""

    graph: Graph
    schedule: Schedule
    shared: bool
    names: Names
    last: d.Stream

    def __init__(self, graph: Graph, schedule: Schedule, *, shared: bool = True, phased: bool = True) -> None:
        self.graph, self.schedule, self.shared, self.names = graph, schedule, shared, Names()
        self.phased = phased
        self.stretched: dict[str, Phases] = {}  # by value that is never made: how the convolution that reads it does without
        self.sites: Mapping[str, int] = places(graph)
        self.leaves: Mapping[str, int] = dict.fromkeys(graph.outputs, 1)  # how often a value leaves the graph
        self.processes: list[d.Process] = []
        self.nodes: list[str] = []
        self.node: str = ""  # the graph node that is being lowered
        self.streams: list[d.Stream] = []
        self.travels: list[d.Travel] = []
        self.once: set[str] = set()  # what works for all frames of a batch together
        self.inputs: list[d.Port] = []
        self.port_names: list[str] = []  # of the inputs
        self.several: bool = len(graph.inputs) + len(graph.outputs) > 2
        self._live = live_nodes(graph)
        self._readers = readers_of(graph, self._live)
        self._waiting: dict[str, deque[Value]] = {}
        self._chains: dict[str, Chain] = {}
        self._taps: tuple[Tap, ...] = ()
        self._tapped: dict[tuple[str, str], Value] = {}  # by value and reader

    def add(self, process: d.Process) -> None:
        check_arrays(self.node or process.name, process)
        self.processes.append(process)
        self.nodes.append(self.node)

    def _there(self, name: str) -> bool:
        """Whether a value, or what a convolution reads in its place, waits to be read."""
        return name in self._waiting or (name in self.stretched and self.stretched[name].source in self._waiting)

    def build(self, nodes: Sequence[Node]) -> None:
        """The processes of the nodes, in order, each with the pointwise ones behind it that it takes over."""
        left = [node for node in nodes if self.live(node.name)]
        apart = {node.name for node in left if self.schedule.folding(node.name).weights == "ddr"}
        self._chains = chains(left, self.readers, self.graph)
        self._taps = taps(left, self.readers, self.graph, self._chains, apart) if self.shared else ()
        members = {member.name for chain in self._chains.values() for member in chain.nodes}
        left = [node for node in left if node.name not in members]
        while left:
            later = []
            for node in left:
                chain = self._chains.get(node.name, ALONE)
                own = {node.name, *(member.name for member in chain.nodes)}
                late = any(tap.reader in own and (tap.value, tap.reader) not in self._tapped for tap in self._taps)
                if late or not all(self._there(name) for name in (*node.inputs, *chain.beside)):
                    later.append(node)  # what is beside its value, or a window that it takes a tap of, comes from a node further on
                    continue
                self.node = node.name
                node.op.build(self, node, chain.nodes)
            assert len(later) < len(left), "no value of a graph waits for itself"
            left = later

    def live(self, name: str) -> bool:
        return name in self._live

    def readers(self, name: str) -> tuple[Node, ...]:
        """One entry for every time the value is read by a live node."""
        return self._readers.get(name, ())

    def sources(self, node: Node) -> tuple[Info, ...]:
        """What is known of the values that the node reads."""
        return tuple(self.graph.infos[name] for name in node.inputs)

    def stream(self, stem: str, type_: FixedType, parallel: int, size: int, depth: int = MIN_DEPTH) -> d.Stream:
        if type_.width > MAX_STREAM_BITS:
            raise ProjectError(f"travels as {type_}, {type_.width} bits", where=stem, remedy=f"cast it to at most {MAX_STREAM_BITS} bits")
        check_word(self.node or stem, parallel, type_.width)
        plain = FixedType(type_.width, type_.int_bits, type_.signed)
        stream = d.Stream(self.names.new(stem, "s"), plain, parallel, size // parallel, depth)
        self.streams.append(stream)
        return stream

    def like(self, stem: str, stream: d.Stream, parallel: int, depth: int = MIN_DEPTH) -> d.Stream:
        return self.stream(stem, stream.type, parallel, stream.words * stream.parallel, depth)

    def take(self, name: str, reader: str = "") -> Value:
        """The value ``name`` for one more of its readers; ``reader``: that one, if it is not the node that is being lowered."""
        tapped = self._tapped.pop((name, reader or self.node), None)
        return self._waiting[name].popleft() if tapped is None else tapped

    def serves(self, node: Node) -> bool:
        """Whether the window unit of ``node`` gives a tap to another reader."""
        return any(tap.window == node.name for tap in self._taps)

    def tapped(self, name: str) -> bool:
        """Whether the value ``name`` comes to the node that is being lowered from a window unit: of its pixels those that the node needs alone."""
        return (name, self.node) in self._tapped

    def take_stream(self, name: str, parallel: int) -> d.Stream:
        value = self.take(name)
        return self.rewidth(name, value.stream, parallel)

    def take_on(self, name: str, wanted: Info, reader: str = "") -> Value:
        """The value ``name`` with its raws on the grids of ``wanted``, for one more of its readers, as ``take`` has it."""
        value, info = self.take(name, reader), self.graph.infos[name]
        if np.array_equal(wanted.grids, info.grids):
            return value
        value = replace(value, stream=self.rewidth(name, value.stream, gcd(value.stream.parallel, value.frame.channels)))
        steps = Steps(self.names, name, (value.stream.type,), value.frame, info.grids)
        steps.move(wanted.grids, wanted.word)
        out = self.stream(name, wanted.word, value.stream.parallel, value.frame.order.size)
        self.add(d.Regrid(self.names.new(name, "grid"), value.stream, out, value.frame.pixels, value.frame.channels, steps.done()))
        return replace(value, stream=out)

    def take_beside(self, node: Node, parallel: int, row: int, words: int = 1, pixels: int = 1) -> tuple[d.Stream | None, Beside | None]:
        """The value that the chain behind ``node`` joins with its own, ``parallel`` numbers a word, and where; None if it joins none. ``row``: as in
        ``finish``; ``words``: of a pixel; ``pixels``: that lie side by side."""
        chain = self._chains.get(node.name, ALONE)
        for name in chain.beside:
            join = next(member for member in chain.nodes if not member.op.pointwise)
            place = chain.place
            joined = join.op.joins(self.sources(join), self.graph.infos[join.name])
            assert joined is not None, "chains join no other operators"
            stream = self.take_on(name, joined[0][place], join.name).stream
            if row % parallel:
                stream = self.rewidth(name, stream, gcd(stream.parallel, row))
            if words == 1 < pixels:
                return self.rewidth(name, stream, parallel * pixels), Beside(join.name, place, stream.type)
            stream = self.beside_each_other(name, self.filled(name, stream, row, parallel), words, pixels)
            return stream, Beside(join.name, place, stream.type)
        return None, None

    def take_on_one_grid(self, name: str) -> Value:
        """The value as an operator reads it that mixes its channels."""
        return self.take_on(name, one_grid(name, self.graph.infos[name]))

    def take_in_order(self, name: str, wanted: Info, order: d.IntArray) -> d.Stream:
        """The stream of the value ``name`` on the grids of ``wanted``, its elements (row-major) in ``order``, for one more of its readers."""
        value = self.take_on(name, wanted)
        if np.array_equal(value.frame.order, order):
            return value.stream
        places = np.empty(order.size, dtype=np.int64)
        places[order] = np.arange(order.size)
        return self._permuted(name, value.stream, places[value.frame.order], ((order.size, 1),))

    def rewidth(self, stem: str, stream: d.Stream, parallel: int) -> d.Stream:
        """The stream with ``parallel`` numbers a word."""
        for width in widths_between(stream.numbers, stream.parallel, parallel):
            out = self.like(stem, stream, width)
            self.add(d.Rewidth(self.names.new(stem, "width"), stream, out))
            stream = out
        return stream

    def filled(self, stem: str, stream: d.Stream, row: int, parallel: int) -> d.Stream:
        """The dense stream of rows of ``row`` numbers with ``parallel`` a word, each row in words of its own, the last of them filled up with zeros
        unless ``parallel`` divides ``row``."""
        if row % parallel == 0:
            return self.rewidth(stem, stream, parallel)
        rows, widths = stream.numbers // row, ragged.filling(row, stream.parallel, parallel)
        for width in widths[:-1]:
            stream = self.rewidth(stem, stream, width)
        out = self.stream(stem, stream.type, parallel, rows * ragged.padded(row, parallel))
        self.add(d.RowWidth(self.names.new(stem, "width"), stream, out, row))
        return out

    def dense(self, stem: str, stream: d.Stream, row: int, turns: int) -> d.Stream:
        """The rows of ``row`` numbers without what fills up their last words, of which there comes one every ``turns`` turns."""
        if row % stream.parallel == 0:
            return stream
        width = ragged.given(row, stream.parallel, turns, MAX_WORD_BITS // stream.type.width)
        out = self.stream(stem, stream.type, width, stream.words // ragged.words(row, stream.parallel) * row)
        self.add(d.RowWidth(self.names.new(stem, "width"), stream, out, row))
        return out

    def beside_each_other(self, stem: str, stream: d.Stream, words: int, pixels: int) -> d.Stream:
        """The stream of pixels of ``words`` words each with ``pixels`` of them side by side in a word."""
        if pixels == 1:
            return stream
        if words == 1:
            return self.rewidth(stem, stream, stream.parallel * pixels)
        out = self.like(stem, stream, stream.parallel * pixels)
        self.add(d.Gather(self.names.new(stem, "gather"), stream, out, words))
        return out

    def after_each_other(self, stem: str, made: d.Scatter | d.Deal | None, stream: d.Stream) -> d.Stream:
        """What leaves ``made``, which takes the pixels of ``stream`` apart; None leaves them side by side."""
        if made is None:
            return stream
        out = self.like(stem, stream, made.output.parallel)
        self.add(replace(made, name=self.names.new(stem, "scatter"), input=stream, output=out))
        return out

    def give(self, name: str, value: Value) -> None:
        """Offer the value to all its readers: in canonical order if one of them needs it, forked if there are several."""
        self.travels.append(d.Travel(name, self.node, value.stream.name, value.frame.order))
        if value.frame.canonical:
            value = replace(value, frame=Frame.of(value.frame.shape))
        readers = self.readers(name)
        leaves = self.leaves.get(name, 0)
        if not value.frame.canonical and (leaves or any(not reader.op.any_order for reader in readers)):
            value = self._canonical(name, value)
        copies, rest = deque[Value](), value
        apart = sum(tap.value == name for tap in self._taps)  # readers that a window unit serves
        for _ in range(len(readers) + leaves - 1 - apart):
            outputs = tuple(self.like(name, rest.stream, rest.stream.parallel, rest.stream.words) for _ in range(2))
            self.add(d.Fork(self.names.new(name, "fork"), rest.stream, (outputs[0], outputs[1])))
            copies.append(replace(value, stream=outputs[0]))
            rest = replace(value, stream=outputs[1])
        copies.append(rest)
        self._waiting[name] = copies

    def give_stream(self, name: str, stream: d.Stream, frame: Frame) -> None:
        """Offer the value ``name``, which travels on ``stream`` as ``frame`` says."""
        self.give(name, Value(stream, frame))

    def _canonical(self, name: str, value: Value) -> Value:
        shape = value.frame.shape
        spatial = int(np.prod(shape[1:], dtype=np.int64))
        return Value(self._permuted(name, value.stream, value.frame.order, ((spatial, 1), (shape[0], spatial))), Frame.of(shape))

    def _permuted(self, name: str, stream: d.Stream, places: d.IntArray, read: tuple[tuple[int, int], ...]) -> d.Stream:
        """The numbers of the stream, of which number i goes to ``places[i]``, read from there by the loop nest ``read``."""
        source = self.rewidth(name, stream, 1)
        out = self.like(name, source, 1)
        write: tuple[tuple[int, int], ...] | d.Table | None = loop_nest(places)
        if write is None:
            write = d.Table(self.names.new(name, "order"), tuple(places.tolist()), "element")
        self.add(d.Permute(self.names.new(name, "permute"), source, out, write, read))
        return out

    def parallel(self, node: Node, channels: int) -> int:
        pe = self.schedule.folding(node.name).pe
        if channels % pe:
            raise ProjectError(f"PE={pe} does not divide its {channels} channels", where=node.name, remedy="use a divisor")
        return pe

    def whole_pixels(self, node: Node, channels: int, common: int, pixels: int) -> int:
        """The pixels of its result a word, with all their ``channels``; 0 where a word has PE numbers of one pixel, which divide ``common``. Raises
        ProjectError, naming the node, where those asked for do not divide its ``pixels``."""
        folding = self.schedule.folding(node.name)
        if folding.pixels > 1 and (folding.pe != channels or pixels % folding.pixels):
            what = (
                f"pixels={folding.pixels}, PE={folding.pe}: words of several pixels hold all {channels} channels of each, and divide {pixels} pixels"
            )
            raise ProjectError(what, where=node.name, remedy=f"use pe={channels} and a divisor, or pixels=1")
        return folding.pixels if folding.pixels > 1 or (folding.pe == channels and common % channels) else 0

    def finish(
        self,
        node: Node,
        chain: tuple[Node, ...],
        steps: Steps,
        frame: Frame,
        parallel: int,
        beside: Beside | None = None,
        row: int | None = None,
        pixels: int = 1,
    ) -> tuple[d.Epilogue, d.Stream, str]:
        """The epilogue with the fused chain, the stream it feeds and the name of the value that leaves. ``beside``: what the chain joins. ``row``: of
        numbers that begin with a word of their own (default: all channels, which ``parallel`` divides); what fills up the last has table entries too.
        ``pixels``: that leave side by side."""
        append_ops(steps, self.graph, chain, self.sites, beside)
        name = chain[-1].name if chain else node.name
        row = row or frame.channels
        epilogue = with_filled_rows(steps.done(), row, parallel)
        return epilogue, self.stream(name, epilogue.out, parallel * pixels, frame.pixels * epilogue.channels), name

    def window(self, stem: str, stream: d.Stream, channels: int, windows: Windows, outer: int, padding: int, *, whole: bool = False) -> d.Stream:
        """The stream of windows over ``stream``; ``outer`` as in qfx::window_shape, 0 for channel by channel; ``padding``: the raw outside.
        ``whole``: all taps of a window come in one word, taps outermost, instead of one tap."""
        if len(windows.size) > 2:
            remedy = "work on two axes at a time in what goes onto the board; training, ONNX and the interpreter take three"
            raise UnsupportedError(f"windows over {len(windows.size)} axes have no form in hardware", where=self.node or stem, remedy=remedy)
        chunks = channels // stream.parallel
        geometry = (chunks, outer or chunks, *plane_shape(windows))
        h, w, _, _, kh, kw, *_ = geometry[2:]
        buffer = self.schedule.folding(self.node).buffer
        out, tap, at = self._windowed(stem, stream, channels, windows, kh * kw if whole else 1)
        if not whole:
            self.add(d.Window(self.names.new(stem, "window"), stream, out, geometry, padding, buffer, tap, at))
            return out
        unit = d.WholeWindow(self.names.new(stem, "window"), stream, out, (chunks, *geometry[2:]), padding, buffer, tap, at)
        if not unit.possible:
            what = f"taps={kh * kw}: the unit of whole windows cannot make these of {h} x {w} pixels, {stream.parallel} channels a word"
            raise ProjectError(what, where=self.node or stem, remedy="use taps=1")
        self.add(unit)
        return out

    def _windowed(
        self, stem: str, stream: d.Stream, channels: int, windows: Windows, together: int
    ) -> tuple[d.Stream, d.Stream | None, tuple[int, int]]:
        """The stream of windows with ``together`` taps a word, and, if a reader takes a tap of the windows of the node that is being lowered, its
        stream and which tap that is. Where there are both, the unit is a fork, and room for a frame is behind it as behind those."""
        pixels, count = int(np.prod(windows.out)), int(np.prod(windows.kernel))
        tap = next((tap for tap in self._taps if tap.window == self.node), None)
        words = pixels * channels // stream.parallel
        out = self.stream(
            stem, stream.type, stream.parallel * together, pixels * count * channels, MIN_DEPTH if tap is None else words * count // together
        )
        if tap is None:
            return out, None, (0, 0)
        second = self.stream(tap.value, stream.type, stream.parallel, pixels * channels, words)
        self._tapped[tap.value, tap.reader] = Value(second, Frame.of((channels, *windows.out)))
        return out, second, plane(tap.at, 0)

    def taps(self, node: Node, windows: Windows) -> int:
        """The taps of a window of ``node`` that come in a word, 1 or all of them."""
        taps, asked = int(np.prod(windows.kernel)), self.schedule.folding(node.name).taps
        if asked not in (1, taps):
            raise ProjectError(f"taps={asked} of a window of {taps}", where=node.name, remedy=f"use 1 or {taps}" if taps > 1 else "use 1")
        return asked

    # The processes of operators

    def input_port(self, node: Node) -> None:
        """The input of the model."""
        info = self.graph.infos[node.name]
        parallel = self.schedule.port(node.name, info.size) if self.several else self.schedule.input_parallel
        if info.size % parallel:
            raise ProjectError(f"{parallel} numbers per input word", where=node.name, remedy=f"use a divisor of the {info.size} numbers of a frame")
        port_ = port(info.type, info.shape, parallel, node.name)
        stream = self.stream(node.name, info.type, parallel, info.size)
        first = not self.inputs
        if first:  # the TLAST of the first input goes round: all inputs have as many frames
            self.last = self.mark()
        name = self.names.new(node.name, "in") if self.several else ""
        self.inputs.append(port_)
        self.port_names.append(name or "in")
        self.add(
            d.FromPort(
                self.names.new(f"{node.name}_input" if self.several else "input", "port"), stream, self.last if first else None, port_.slot, name
            )
        )
        self.give_stream(node.name, stream, Frame.of(info.shape))

    def mark(self) -> d.Stream:
        """A stream of TLAST. Safe at any depth (see qfx::from_port); so deep that small frames that follow each other do not wait."""
        return self.stream("last", FixedType(1, 1, signed=False), 1, 1, max(_LAST_DEPTH, self.schedule.batch + MIN_DEPTH))

    def marks(self, count: int) -> list[d.Stream]:
        """The TLAST of the first input for ``count`` ports."""
        found: list[d.Stream] = []
        rest = self.last
        for _ in range(count - 1):
            outputs = (self.mark(), self.mark())
            self.add(d.Fork(self.names.new("last", "fork"), rest, outputs, mark=True))
            found.append(outputs[0])
            rest = outputs[1]
        return [*found, rest]

    def pointwise(self, node: Node, chain: tuple[Node, ...]) -> None:
        """A process that is nothing but an epilogue, of ``node`` and ``chain``."""
        value = self.take(node.inputs[0])
        frame = value.frame
        pixels = self.whole_pixels(node, frame.channels, frame.channels, frame.pixels)
        pe = self.parallel(node, frame.channels)
        source = self.rewidth(node.inputs[0], value.stream, pe * max(pixels, 1))
        steps = Steps(self.names, node.name, (source.type,), frame, self.sources(node)[0].grids)
        append_ops(steps, self.graph, (node,), self.sites)
        epilogue, out, name = self.finish(node, chain, steps, frame, pe, pixels=max(pixels, 1))
        check_abreast(node.name, epilogue, pixels, "number")
        self.add(d.Pointwise(self.names.new(node.name, "pointwise"), source, out, frame.pixels, frame.channels, epilogue, pixels))
        self.give_stream(name, out, frame)

    def binary(self, node: Node, chain: tuple[Node, ...]) -> None:
        """A process that joins two values."""
        frame = Frame.of(self.graph.infos[node.name].shape)
        joined = node.op.joins(self.sources(node), self.graph.infos[node.name])
        assert joined is not None, "operators on two values say how they join them"
        wanted, join = joined
        pixels = self.whole_pixels(node, frame.channels, frame.channels, frame.pixels)
        pe = self.parallel(node, frame.channels)
        word = pe * max(pixels, 1)
        a, b = (self.rewidth(name, self.take_on(name, info).stream, word) for name, info in zip(node.inputs, wanted, strict=True))
        steps = Steps(self.names, node.name, (a.type, b.type), frame)
        join(steps)
        epilogue, out, name = self.finish(node, chain, steps, frame, pe, pixels=max(pixels, 1))
        check_abreast(node.name, epilogue, pixels, "numbers")
        self.add(d.Binary(self.names.new(node.name, "binary"), (a, b), out, frame.pixels, frame.channels, epilogue, pixels))
        self.give_stream(name, out, frame)

    def moving(self, node: Node, counts: tuple[int, ...], word: FixedType | None = None, *, whole: bool = False) -> Moving:
        """The value that ``node`` reads, on its way through processes that move its numbers, as many channels a word as the node is folded to.

        ``counts`` are the numbers of channels that this has to divide; ``word`` is the type of the result, if it is another. ``whole``: whether the
        node may be folded to whole pixels.
        """
        pe, common, info = self.schedule.folding(node.name).pe, gcd(*counts), self.graph.infos[node.name]
        pixels = self.whole_pixels(node, info.shape[0], common, info.size // info.shape[0]) if whole else 0
        if not pixels and common % pe:
            raise ProjectError(f"PE={pe} would cut its channels within a word", where=node.name, remedy=f"use a divisor of {common}")
        stream = self.take(node.inputs[0]).stream if pixels else self.take_stream(node.inputs[0], pe)
        return Moving(self, node, stream, word, pixels)


def port(type_: FixedType, shape: tuple[int, ...], parallel: int, name: str) -> d.Port:
    """The port of a value: each number in a slot of bytes. ProjectError where no slot or word holds it."""
    slot = _slot(type_, name)
    check_word(name, parallel, slot)
    return d.Port(type_, shape, slot, parallel)


def _slot(type_: FixedType, name: str) -> int:
    for slot in (8, 16, 32, 64):
        if type_.width <= slot:
            return slot
    raise ProjectError(f"{type_} has {type_.width} bits", where=name, remedy="a port carries at most 64; cast it")


def check_arrays(where: str, process: d.Process) -> None:
    """Raises ProjectError if the tools would not split an array of the process into as many pieces, or not make words as wide."""
    remedy = f"fold it further: the tools split an array into {MAX_PIECES} pieces at most, and take words of {MAX_WORD_BITS} bits"
    pieces = [memory.count for memory in process.memories]
    if isinstance(process, d.Pool) and process.whole_frame and not process.sums.depth:
        pieces.append(process.channels)  # registers
    if max(pieces, default=0) > MAX_PIECES:
        raise ProjectError(f"an array of {max(pieces)} pieces", where=where, remedy=remedy)
    widths = [memory.width for memory in process.memories if memory.depth > 1]
    if max(widths, default=0) > MAX_WORD_BITS:
        raise ProjectError(f"a memory with words of {max(widths)} bits", where=where, remedy=remedy)


def plane_shape(windows: Windows) -> tuple[int, ...]:
    """Two axes of them: h, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw."""
    top, left = plane(tuple(before for before, _ in windows.pads), 0)
    first = (plane(sizes, 1) for sizes in (windows.size, windows.out, windows.kernel, windows.stride))
    return (*(size for sizes in first for size in sizes), top, left, *plane(windows.dilation, 1))


def plane(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    """(height, width) of one or two spatial axes: a 1-D value has height 1."""
    return (fill, values[0]) if len(values) == 1 else (values[0], values[1])
