"""What can be chosen for every layer: its foldings, each with the cycles that it takes and what it costs.

The options are worked out from the design with one number at a time, of which every process is replaced by what lowering would make of the folding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from qfx.hardware.board import Board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import capacity, matvec_cost, process_cost
from qfx.hardware.cost.resources import FIELDS, Device, Resources
from qfx.hardware.design import arithmetic as arith
from qfx.hardware.design import design as d
from qfx.hardware.design.build import MAX_WORD_BITS
from qfx.hardware.design.schedule import Folding
from qfx.hardware.timing.simulate import RESTART
from qfx.hardware.timing.tokens import cycles, latency
from qfx.ir.graph import Graph
from qfx.operators import Conv

OUTPUT = "(output port)"
"""The name of the output port among the layers; the input port is called as the graph's input."""

_MAX_PORT_BITS = 512
"""The widest port word that is chosen; AXI DMA takes powers of two up to 1024 bits (PG021)."""

_ARITHMETIC = ("dsp", "lut", "pair", "shift")
"""What is chosen from, the first of equals. "auto" would leave the costs to the tool."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The options of one layer, in parallel arrays: numbers per word that it takes and gives, busy cycles a frame (turns, pipeline, restart), costs.

    ``sources``: for each value that it reads, the layer that gives it and how many numbers a frame has. ``kind``: "matvec", "port" or "other", or
    "fixed" for a process that cannot be folded. ``limit``: what keeps its fastest option from being faster. ``sure``: the costs without what depends
    on the neighbours, so that no design with that option takes less for the layer.
    """

    name: str
    kind: str
    sources: tuple[tuple[str, int], ...]
    foldings: tuple[Folding, ...]
    takes: d.IntArray
    gives: d.IntArray
    busy: d.IntArray
    costs: d.IntArray  # (options, FIELDS)
    sure: d.IntArray  # (options, FIELDS)
    limit: str


_NOTHING = Resources()


@dataclass(frozen=True, slots=True)
class _Option:
    folding: Folding
    takes: int
    gives: int
    busy: int
    cost: Resources
    rewidth: Resources = _NOTHING


def layers(graph: Graph, design: d.Design, board: Board, pinned: Mapping[str, Folding]) -> tuple[Layer, ...]:
    """The layers of ``design``, lowered from ``graph`` with everything at one number at a time, in topological order.

    A layer in ``pinned`` (OUTPUT and the input's name for the ports) has that folding as its only option.
    """
    on = r.device(board.part)
    origin: dict[str, str] = {}
    windows = {node: process for process, node in zip(design.processes, design.nodes, strict=True) if isinstance(process, d.Window)}
    found: list[Layer] = []
    for process, node in zip(design.processes, design.nodes, strict=True):
        streams = [stream for stream in d.inputs(process) if not (isinstance(process, d.ToPort) and stream == process.last)]
        if isinstance(process, d.Fork | d.Rewidth | d.Regrid | d.Window):
            origin.update({stream.name: origin[streams[0].name] for stream in d.outputs(process)})
            continue
        sources = tuple((origin[stream.name], _frame(stream, windows.get(node))) for stream in streams)
        if isinstance(process, d.Permute):
            busy = cycles(process) + latency(process) + RESTART
            options, name, kind = [_Option(Folding(), 1, 1, busy, process_cost(process, on))], process.name, "fixed"
        else:
            name = OUTPUT if isinstance(process, d.ToPort) else node
            kind = "port" if isinstance(process, d.FromPort | d.ToPort) else "matvec" if isinstance(process, d.MatVec) else "other"
            wanted = pinned.get(name)
            window = windows.get(node)
            if isinstance(process, d.MatVec):
                options = _matvec(process, window, graph, node, wanted, on)
            else:
                options = [_other(process, window, pe, on) for pe in ([wanted.pe] if wanted else _widths(process, _port_channels(process, design)))]
        origin.update({stream.name: name for stream in d.outputs(process)})
        if found and found[-1].name == name:  # one more process of a concatenation of three and more values
            found[-1] = _joined(found[-1], sources, options)
            continue
        found.append(_layer(name, kind, sources, _affordable(options, board), _limit(process, windows.get(node))))
    return tuple(found)


def _frame(stream: d.Stream, window: d.Window | None) -> int:
    """Numbers a frame that come into the layer: those in front of its window."""
    source = window.input if window is not None and stream == window.output else stream
    return source.words * source.parallel


def _layer(name: str, kind: str, sources: tuple[tuple[str, int], ...], options: list[_Option], limit: str) -> Layer:
    costs = np.array([[getattr(option.cost, field) for field in FIELDS] for option in options], dtype=np.int64)
    between = np.array([[getattr(option.rewidth, field) for field in FIELDS] for option in options], dtype=np.int64)
    takes, gives, busy = (np.array([getattr(option, field) for option in options], dtype=np.int64) for field in ("takes", "gives", "busy"))
    return Layer(name, kind, sources, tuple(option.folding for option in options), takes, gives, busy, costs, costs - between, limit)


def _joined(layer: Layer, sources: tuple[tuple[str, int], ...], options: list[_Option]) -> Layer:
    more = _layer(layer.name, layer.kind, sources, [option for option in options if option.folding in layer.foldings], layer.limit)
    outside = tuple(source for source in (*layer.sources, *sources) if source[0] != layer.name)
    return replace(layer, sources=outside, busy=np.maximum(layer.busy, more.busy), costs=layer.costs + more.costs, sure=layer.sure + more.sure)


def _affordable(options: list[_Option], board: Board) -> list[_Option]:
    """Without those that alone need more than the board has, but at least the one that comes nearest."""
    there = capacity(board)
    kept = [option for option in options if all(getattr(option.cost, field) <= getattr(there, field) for field in FIELDS)]
    return kept or [min(options, key=lambda option: max(getattr(option.cost, field) / max(getattr(there, field), 1) for field in FIELDS))]


def divisors(count: int) -> list[int]:
    """All of them, ascending."""
    return [n for n in range(1, count + 1) if count % n == 0]


def _fits_word(count: int, stream: d.Stream) -> bool:
    return count * stream.type.width <= MAX_WORD_BITS


def _words(stream: d.Stream, parallel: int) -> d.Stream:
    return replace(stream, parallel=parallel, words=stream.words * stream.parallel // parallel)


def _queue(stream: d.Stream, parallel: int) -> Resources:
    return r.fifo(2, parallel * stream.type.width)


def _windowed(window: d.Window, word: int, by_channel: bool) -> d.Window:
    """The window unit with words of ``word`` numbers."""
    chunks, outer, *rest = window.shape
    fewer = chunks // word
    shape = (fewer, fewer if by_channel else outer, *rest)
    return replace(window, input=_words(window.input, word), output=_words(window.output, word), shape=shape)


def _matvec(process: d.MatVec, window: d.Window | None, graph: Graph, node: str, pinned: Folding | None, on: Device) -> list[_Option]:
    op = graph.node(node).op
    per_group = op.weight.shape[1] if isinstance(op, Conv) else process.inputs
    pes = divisors(process.groups if process.depthwise else process.outputs)
    simds = [1] if process.depthwise else [n for n in divisors(process.inputs) if not (per_group % n and n % per_group)]
    pairs = [(pinned.pe, pinned.simd)] if pinned else [(pe, simd) for pe in pes for simd in simds]
    possible = {
        even: arith.choices(process.possible, process.input.type, pe=1 + even, depthwise=process.depthwise, loaded=process.loaded)
        for even in (False, True)
    }
    front: dict[int, tuple[int, Resources]] = {}
    options = []
    for pe, simd in pairs:
        word = pe if process.depthwise else min(simd, per_group)
        if not pinned and not (_fits_word(max(word, 1 if process.depthwise else simd), process.input) and _fits_word(pe, process.output)):
            continue
        if window is not None and word not in front:
            unit = _windowed(window, word, process.depthwise)
            front[word] = cycles(unit) + latency(unit), process_cost(unit, on) + _queue(unit.output, word)
        window_busy, window_cost = front.get(word, (0, Resources()))
        shape = replace(process, pe=pe, simd=simd)
        busy = max(cycles(shape) + latency(shape), window_busy) + RESTART
        between = _rewidth(process.input, word, simd) if not process.depthwise else Resources()
        names = (pinned.arithmetic,) if pinned else [name for name in _ARITHMETIC if name in possible[pe % 2 == 0]]
        for name in names:
            cost = matvec_cost(process, on, pe=pe, simd=simd, arithmetic=name) + window_cost + _queue(process.output, pe) + between
            options.append(_Option(Folding(pe, simd, name), word, pe, busy, cost, between))
    return options


def _rewidth(stream: d.Stream, source: int, target: int) -> Resources:
    """The process that changes the words of a stream, with its FIFO; nothing where they are the same."""
    if source == target:
        return Resources()
    wide = max(source, target) * stream.type.width
    return Resources(lut=60 + wide // 2, ff=40 + 2 * wide) + _queue(stream, target)


def _widths(process: d.Process, channels: int) -> list[int]:
    """The numbers per word that a process without weights can have; a port's word holds ``channels`` at most, and a power of two."""
    if isinstance(process, d.FromPort | d.ToPort):
        return [n for n in divisors(channels) if n & (n - 1) == 0 and n * process.slot <= _MAX_PORT_BITS]
    if isinstance(process, d.PadFrame):
        first = process.before[2]
        common = gcd(process.size[2], first, process.result[2] - process.size[2] - first)
    elif isinstance(process, d.SliceFrame):
        start, stop, step = process.spans[2]
        common = gcd(process.size[2], start, stop) if step == 1 else 1
    elif isinstance(process, d.Repeat | d.Stretch):
        common = process.size[2]
    elif isinstance(process, d.Concat):
        common = gcd(*process.channels)
    elif isinstance(process, d.Pool | d.Pointwise | d.Binary):
        common = process.channels
    else:
        common = 1
    streams = (*d.inputs(process), *d.outputs(process))
    return [n for n in divisors(common) if all(_fits_word(n, stream) for stream in streams)]


def _port_channels(process: d.Process, design: d.Design) -> int:
    return design.input.channels if isinstance(process, d.FromPort) else design.output.channels if isinstance(process, d.ToPort) else 0


def _other(process: d.Process, window: d.Window | None, pe: int, on: Device) -> _Option:
    """A process without weights, ``pe`` numbers per word, and its window if it has one."""
    busy, cost = 0, Resources()
    if window is not None and isinstance(process, d.Pool):
        unit = _windowed(window, pe, by_channel=True)
        busy, cost = cycles(unit) + latency(unit), process_cost(unit, on) + _queue(unit.output, pe)
    wide = _widened(process, pe)
    busy = max(busy, cycles(wide) + latency(wide)) + RESTART
    queues = [_queue(stream, stream.parallel) for stream in d.outputs(wide)]
    return _Option(Folding(pe), pe, pe, busy, r.total([cost, process_cost(wide, on), *queues]))


def _widened(process: d.Process, pe: int) -> d.Process:
    if isinstance(process, d.FromPort):
        return replace(process, output=_words(process.output, pe))
    if isinstance(process, d.ToPort):
        return replace(process, input=_words(process.input, pe))
    if isinstance(process, d.Binary | d.Concat):
        a, b = process.inputs
        return replace(process, inputs=(_words(a, pe), _words(b, pe)), output=_words(process.output, pe))
    assert not isinstance(process, d.Fork | d.MatVec)  # which have options of their own, or none
    return replace(process, input=_words(process.input, pe), output=_words(process.output, pe))


def _limit(process: d.Process, window: d.Window | None) -> str:
    if window is not None and isinstance(process, d.MatVec | d.Pool):
        return "its window unit writes at most the channels of one pixel a cycle"
    if isinstance(process, d.Permute):
        return "it reorders a whole frame, number by number"
    if isinstance(process, d.FromPort | d.ToPort):
        return f"a port carries at most {_MAX_PORT_BITS} bits, and a power of two of numbers that divides the channels"
    return "it is unfolded as far as it goes"
