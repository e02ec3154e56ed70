"""What can be chosen for every layer: its foldings, each with the cycles that it takes and what it costs.

The options are worked out from the design with one number at a time, of which every process says what lowering would make of it in every folding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qfx.errors import ProjectError
from qfx.hardware.board import Board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import capacity
from qfx.hardware.cost.resources import counts
from qfx.hardware.design import design as d
from qfx.hardware.design.schedule import Folding
from qfx.hardware.folding.option import Options, Role
from qfx.hardware.processes.process import Front, Setting

OUTPUT = "(output port)"
"""The name of the output port among the layers; the input port is called as the graph's input."""


def output_layer(port: str) -> str:
    """The name among the layers of the output that the top function calls ``port``, where there are several."""
    return f"{OUTPUT} {port}" if port else OUTPUT


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The options of one layer, in parallel arrays: numbers per word that it takes and gives, busy cycles a frame (turns, pipeline, restart), costs.

    ``sources``: for each value that it reads, the layer that gives it and how many numbers a frame has. ``kind``: any but BETWEEN.
    ``limit``: what keeps its fastest option from being faster. ``sure``: the costs without what depends on the neighbours, so that no design with
    that option takes less for the layer.
    """

    name: str
    kind: Role
    sources: tuple[tuple[str, int], ...]
    foldings: Sequence[Folding]
    takes: d.IntArray
    gives: d.IntArray
    busy: d.IntArray
    costs: d.IntArray  # (options, FIELDS)
    sure: d.IntArray  # (options, FIELDS)
    limit: str
    paired: frozenset[int] = frozenset()
    """The places among ``sources`` of those whose numbers it takes word for word with the ones that it gives."""
    memory: d.IntArray | None = None
    """By option: bytes a frame that are read of the board's memory; None if there are none."""
    tapped: frozenset[int] = frozenset()
    """The places among ``sources`` of those that are no results but what goes into the windows of that layer: it gives words as it takes them."""
    level: bool = False
    """As in ``Process``."""

    @property
    def columns(self) -> d.IntArray:
        """By option: the costs, and the bytes (``prices.COLUMNS``)."""
        return np.column_stack([self.costs, np.zeros(len(self.costs), dtype=np.int64) if self.memory is None else self.memory])

    def at(self, places: npt.NDArray[np.int64] | list[int]) -> Layer:
        """It with the options at those places alone."""
        arrays = {field: getattr(self, field)[places] for field in ("takes", "gives", "busy", "costs", "sure")}
        memory = None if self.memory is None else self.memory[places]
        return replace(self, foldings=tuple(self.foldings[place] for place in places), memory=memory, **arrays)

    def words(self, place: int) -> d.IntArray:
        """The numbers per word that it takes of the source at ``place``."""
        (_, first), (_, own) = self.sources[0], self.sources[place]
        if self.level and own != first:
            return np.where(self.gives > self.takes, self.takes * own // first, self.takes)
        return self.gives if place in self.paired else self.takes


def layers(
    design: d.Design, board: Board, pinned: Mapping[str, Folding], *, shift_and_add: bool = False, memory_tiles: Mapping[str, int] | None = None
) -> tuple[Layer, ...]:
    """The layers of ``design``, lowered with everything at one number at a time, in topological order.

    A layer in ``pinned`` (OUTPUT and the input's name for the ports) has that folding as its only option. ``shift_and_add``: as in ``Request``;
    ``memory_tiles``: as in ``Setting``, by layer.
    """
    on = r.device(board.part)
    origin: dict[str, tuple[str, bool]] = {}  # by stream: the layer that gives its numbers, and whether from its window unit
    fronts: dict[str, Front] = {}  # by stream: the window unit that writes it
    apart: set[str] = set()  # streams that carry no numbers of the graph
    found: list[Layer] = []
    for process, node in zip(design.processes, design.nodes, strict=True):
        streams = [stream for stream in process.sources if stream not in process.marks and stream.name not in apart]
        if process.role is Role.BETWEEN and not streams:
            apart.update(stream.name for stream in process.targets)
            continue  # TLAST on its way to several outputs, and weights on theirs
        if process.role is Role.BETWEEN:
            origin.update({stream.name: origin[streams[0].name] for stream in process.targets})
            if process.front is not None:
                windows, *second = process.targets
                fronts[windows.name] = process.front
                origin.update({stream.name: (node, True) for stream in second})
            continue
        name = _layer_name(process, node)
        before = [fronts.get(stream.name) for stream in streams]
        sources = tuple((origin[stream.name][0], _frame(stream, front)) for stream, front in zip(streams, before, strict=True))
        setting = Setting(
            on, next(iter(before), None), pinned.get(name), _ports(design, process), shift_and_add, board.uram > 0, (memory_tiles or {}).get(name, 1)
        )
        told = process.options(setting)
        options = told if isinstance(told, Options) else Options.of(told)
        origin.update({stream.name: (name, False) for stream in process.targets})
        if found and found[-1].name == name:  # one more process of its layer
            found[-1] = _joined(found[-1], sources, options)
            continue
        if not options.foldings:
            what = "no folding of it can be built: not even one number at a time fits the words between processes"
            raise ProjectError(what, where=name, remedy="give its values and its weights shorter words")
        made = _layer(name, process.role, sources, _affordable(options, board), process.limit(setting))
        paired = frozenset(place for place, stream in enumerate(streams) if stream in process.paired)
        tapped = frozenset(place for place, stream in enumerate(streams) if origin[stream.name][1])
        found.append(replace(made, paired=paired, tapped=tapped, level=process.level))
    return tuple(found)


def _ports(design: d.Design, process: d.Process) -> tuple[d.Port, d.Port]:
    """The input and the output that options are about: a port's own where it is one of several."""
    name = process.port if isinstance(process, d.FromPort | d.ToPort) else ""
    return dict(design.sources).get(name, design.input), dict(design.sinks).get(name, design.output)


def _layer_name(process: d.Process, node: str) -> str:
    if isinstance(process, d.ToPort):
        return output_layer(process.port)
    return process.name if process.role is Role.FIXED else node


def _frame(stream: d.Stream, front: Front | None) -> int:
    """Numbers a frame that come into the layer: those in front of its window."""
    return (stream if front is None else front.sources[0]).numbers


def _layer(name: str, kind: Role, sources: tuple[tuple[str, int], ...], options: Options, limit: str) -> Layer:
    foldings, takes, gives, busy, costs, between, memory = options
    return Layer(name, kind, sources, foldings, takes, gives, busy, costs, costs - between, limit, memory=memory if memory.any() else None)


def either(first: Layer, second: Layer) -> Layer:
    """The layer with the options of both: ``first`` says where it stands."""
    joined: dict[str, Any] = {
        field: np.concatenate([getattr(first, field), getattr(second, field)]) for field in ("takes", "gives", "busy", "costs", "sure")
    }
    memory = np.concatenate([first.columns[:, -1], second.columns[:, -1]])
    return replace(first, foldings=(*first.foldings, *second.foldings), memory=memory, **joined)


def _joined(layer: Layer, sources: tuple[tuple[str, int], ...], options: Options) -> Layer:
    """The layer with one more of its processes: with the foldings that all of them can have."""
    places: dict[Folding, int] = {}
    for place, folding in enumerate(layer.foldings):
        places.setdefault(folding, place)
    common = [(place, places[folding]) for place, folding in enumerate(options.foldings) if folding in places]
    more = _layer(layer.name, layer.kind, sources, options.at(np.array([theirs for theirs, _ in common], dtype=np.int64)), layer.limit)
    layer = layer.at([ours for _, ours in common])
    outside = tuple(source for source in (*layer.sources, *sources) if source[0] != layer.name)
    busy, costs, sure = np.maximum(layer.busy, more.busy), layer.costs + more.costs, layer.sure + more.sure
    return replace(layer, sources=outside, gives=more.gives, busy=busy, costs=costs, sure=sure)


def _affordable(options: Options, board: Board) -> Options:
    """Without those that alone need more than the board has, but at least the one that comes nearest."""
    there = np.array(counts(capacity(board)), dtype=np.int64)
    fits = (options.costs <= there).all(axis=1)
    if fits.all():
        return options
    nearest = (options.costs / np.maximum(there, 1)).max(axis=1).argmin()
    return options.at(np.flatnonzero(fits) if fits.any() else np.array([nearest]))
