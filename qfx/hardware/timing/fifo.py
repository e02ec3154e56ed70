"""FIFO depths: as deep as the throughput needs, and proven free of deadlock.

Three questions, three answers (docs/schedule.md has the arguments):

- *Where can a design deadlock?* Only round a fork and the join where its branches meet: within one biconnected component of the graph of processes.
  Chains between components need any depth. ``last`` (TLAST) never deadlocks.
- *What does a join demand?* Feed a component one word after the other and let everything run that can: what then waits in front of a join must have
  room there. With that much room at every join and at least one word everywhere else, no deadlock is possible.
- *What is the least depth of one FIFO?* It is full when word n is due and word n - depth has not been read. That stops the design for good if the
  reading of word n - depth needs word n, directly or through other words and full FIFOs. ``least_depths`` follows these needs exactly.

The depths chosen are those with which the timed simulation reaches the throughput of the slowest process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from qfx.hardware.design import design as d
from qfx.hardware.timing.program import Program
from qfx.hardware.timing.simulate import MAX_WORDS, Timing, ends, simulate, words

CHAIN_DEPTH = 2
"""The least depth that passes a word every cycle, and the vendor's default."""
_ENOUGH = 0.99
"""The share of the slowest process's throughput at which FIFOs are deep enough."""

_BUSY = 0.4
"""The share of the slowest process's work from which on a process is busy."""
_AMPLE_FRAMES = 64
"""Frames that a FIFO holds in a simulation that is to show how many words it needs: more than are ever under way."""
_SLACK = 16
"""Words beyond what a join demands that let a branch keep its rhythm; tried, not trusted."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """``depth`` as chosen, in words; ``least``: one word less, all others as chosen, and the design deadlocks."""

    stream: str
    least: int
    depth: int


@dataclass(frozen=True, slots=True)
class Plan:
    """``timing`` is None if the frame is too long to simulate: then a whole frame fits behind every fork, which cannot deadlock, and the interval is
    known only to be at least that of the slowest process."""

    design: d.Design
    timing: Timing | None


def size_fifos(design: d.Design) -> d.Design:
    """The design with the depth of every FIFO chosen."""
    return plan(design).design


def plan(design: d.Design) -> Plan:
    """The design with the depth of every FIFO chosen, and how it then runs."""
    if words(design) > MAX_WORDS:
        return Plan(design, None)
    network = Network(design)
    streams = {stream.name: stream for stream in design.streams}
    held = Network(design, flushing=False).demands()
    ample = {name: _AMPLE_FRAMES * streams[name].words for name in (*network.early_inputs(), network.last)}
    floor = {name: max(CHAIN_DEPTH, held.get(name, 0)) for name in streams}
    smooth = {name: max(floor[name], depth) for name, depth in network.smoothing().items()}
    windows = {stream.name for process in design.processes if process.front for stream in process.sources}
    busy = network.busy_fifos()
    best: tuple[Timing, dict[str, int]] | None = None
    for deep in ((), windows & busy, busy, tuple(streams)):
        depths = {name: smooth[name] if name in deep else floor[name] for name in streams} | ample
        timing = simulate(design, depths=depths)
        if best is None or timing.interval < best[0].interval:
            best = timing, depths
        if best[0].bottleneck.busy >= _ENOUGH * best[0].interval:
            break
    assert best is not None
    timing, depths = best
    # What was ample need not be deeper than it was filled: the simulation then runs just the same. Often much less is enough.
    peaks = {stream.name: peak for stream, peak in zip(design.streams, timing.peaks, strict=True)}
    filled = {name: max(floor[name], peaks[name]) for name in ample}
    tight = {name: min(depth, floor[name] + max(_SLACK, floor[name] // 8)) for name, depth in filled.items()}
    if tight != filled:
        trial = simulate(design, depths=depths | tight)
        if trial.interval <= timing.interval:
            return Plan(allow_for_held_words(with_depths(design, depths | tight)), trial)
    return Plan(allow_for_held_words(with_depths(design, depths | filled)), timing)


def allow_for_held_words(design: d.Design) -> d.Design:
    """The design, FIFOs made deeper where it would deadlock if pipelines kept what they work on while their input pauses. Rarely any: the demands
    have counted on that, but for joins that wait for each other in turns."""
    while True:
        least = Network(design, flushing=False).least_depths()
        short = {stream.name: least[stream.name] for stream in design.streams if stream.depth < least[stream.name]}
        if not short:
            return design
        design = with_depths(design, short)


def with_depths(design: d.Design, depths: Mapping[str, int]) -> d.Design:
    """The design with other depths, by the stream's name."""

    def deep(stream: d.Stream) -> d.Stream:
        return replace(stream, depth=depths.get(stream.name, stream.depth))

    return replace(design, processes=tuple(process.with_streams(deep) for process in design.processes), streams=tuple(map(deep, design.streams)))


def sizings(design: d.Design) -> tuple[Sizing, ...]:
    """Least and chosen depth of every FIFO, in the order of the design's streams."""
    least = least_depths(design)
    return tuple(Sizing(stream.name, least[stream.name], stream.depth) for stream in design.streams)


def least_depths(design: d.Design) -> dict[str, int]:
    """For every FIFO the least depth with which the design does not deadlock, all other FIFOs as they are. The design is free of deadlock if and only
    if no FIFO is below its least."""
    return Network(design).least_depths()


class Network:
    """A design's processes as nodes, its FIFOs as edges, with the programs of one frame.

    Pipelines are ``flushing``, or they keep what they work on until further turns push it out: a turn's words then leave when the turn begins that is
    ``latency`` later. (Behind a frame's last turn a pipeline empties by itself; the turns that do it read nothing.)
    """

    def __init__(self, design: d.Design, *, flushing: bool = True) -> None:
        self.design = design
        self.programs = [process.program if flushing else _pushed(process.program) for process in design.processes]
        self.writer, self.reader = ends(design)
        self.streams = {stream.name: stream for stream in design.streams}
        self.last = next(mark.name for process in design.processes for mark in process.marks)
        self._inputs = [[stream.name for stream in process.sources] for process in design.processes]
        self._outputs = [[stream.name for stream in process.targets] for process in design.processes]
        self._events = [_Events(program_) for program_ in self.programs]
        self.components = self._components()

    def demands(self) -> dict[str, int]:
        """For every FIFO into a join: the words that must have room there, if every other FIFO holds at least one (see the top of this file)."""
        found: dict[str, int] = {}
        early = self.early_inputs()
        for component in self.components:
            members = sorted({end for name in component for end in (self.writer[name], self.reader[name])})
            steps: dict[str, d.IntArray] = {}  # by FIFO: the step of the component's first process that each word needs
            for index in members:
                events = self._events[index]
                step = np.zeros(events.turns.size, dtype=np.int64)
                if index == members[0]:
                    step = events.turns.copy()
                for name, at in zip(self._inputs[index], events.read_at, strict=True):
                    if name in component:
                        step[at] = np.maximum(step[at], steps[name])
                step = np.maximum.accumulate(step)
                inputs = [(name, at) for name, at in zip(self._inputs[index], events.read_at, strict=True) if name in component]
                if len(inputs) > 1:
                    for name, at in inputs:
                        # Word n waits with all words that came before it and were not read in earlier steps; of an input that comes last, with
                        # those that are left when its step is over.
                        gone = np.searchsorted(step[at], steps[name], side="left" if name in early else "right")
                        found[name] = int((np.arange(1, at.size + 1) - gone).max()) + (name not in early)
                for name, at in zip(self._outputs[index], events.write_at, strict=True):
                    if name in component:
                        steps[name] = step[at]
        return found

    def early_inputs(self) -> frozenset[str]:
        """Of every join in a component all inputs but the one whose words come last: those that wait for it, if FIFOs had no bottom."""
        early: set[str] = set()
        arrived: dict[str, d.IntArray] = {}
        inner = {name for component in self.components for name in component}
        for index in range(len(self.programs)):
            events, program_ = self._events[index], self.programs[index]
            start = np.zeros(events.turns.size, dtype=np.int64)
            for name, at in zip(self._inputs[index], events.read_at, strict=True):
                start[at] = np.maximum(start[at], arrived[name])
            start = np.maximum.accumulate(start - events.turns) + events.turns
            inputs = [(name, at) for name, at in zip(self._inputs[index], events.read_at, strict=True) if name in inner]
            if len(inputs) > 1:
                waited = {name: int((start[at] - arrived[name]).sum()) / at.size for name, at in inputs}
                early |= waited.keys() - {min(waited, key=lambda name: waited[name])}
            for name, at in zip(self._outputs[index], events.write_at, strict=True):
                arrived[name] = start[at] + program_.latency + 1
        return frozenset(early)

    def busy_fifos(self) -> frozenset[str]:
        """The FIFOs whose ends, or the readers behind those, work in most cycles: where a pause may cost throughput."""
        work = [program_.turns + program_.latency for program_ in self.programs]
        behind = [max([work[index], *(work[self.reader[name]] for name in names)]) for index, names in enumerate(self._outputs)]
        most = _BUSY * max(work)
        return frozenset(name for name in self.streams if max(work[self.writer[name]], behind[self.reader[name]]) >= most)

    def smoothing(self) -> dict[str, int]:
        """Depths with which both ends of a FIFO can keep their own rhythm at one common rate: how far its writer's program and its reader's stray
        from a uniform rate, together."""
        return {
            name: CHAIN_DEPTH
            + _stray(self.programs[self.writer[name]].writes[self._outputs[self.writer[name]].index(name)], self.programs[self.writer[name]].turns)
            + _stray(self.programs[self.reader[name]].reads[self._inputs[self.reader[name]].index(name)], self.programs[self.reader[name]].turns)
            for name in self.streams
        }

    def least_depths(self) -> dict[str, int]:
        """As the function of this name."""
        least = dict.fromkeys(self.streams, 1)
        for component in self.components:
            for name in component:
                least[name] = self._least(name, component)
        return least

    def _least(self, name: str, component: Collection[str]) -> int:
        """The least depth of FIFO ``name`` of the component.

        ``newest[p][e]`` is the newest word of the FIFO that event e of process p needs to have been written (-1: none). Needs go forward with the
        words and, through the other FIFOs' depths, backward with their room; both are swept over until nothing changes.
        """
        members = sorted({end for member in component for end in (self.writer[member], self.reader[member])})
        newest = {index: np.full(self._events[index].turns.size, -1, dtype=np.int64) for index in members}
        source = self.writer[name]
        at = self._events[source].write_at[self._outputs[source].index(name)]
        newest[source][at] = np.arange(at.size)
        newest[source] = np.maximum.accumulate(newest[source])
        changed = set(members)
        while changed:
            for order in (members, members[::-1]):
                for index in order:
                    if self._sweep(index, name, component, newest, changed):
                        changed.add(index)
                        changed.update(self._near(index, component))
                    else:
                        changed.discard(index)
        target = self.reader[name]
        needs = newest[target][self._events[target].read_at[self._inputs[target].index(name)]]
        return int((needs - np.arange(needs.size)).max()) + 1

    def _near(self, index: int, component: Collection[str]) -> set[int]:
        near = {self.writer[name] for name in self._inputs[index] if name in component}
        return near | {self.reader[name] for name in self._outputs[index] if name in component}

    def _sweep(self, index: int, skipped: str, component: Collection[str], newest: dict[int, d.IntArray], changed: Collection[int]) -> bool:
        """Bring the needs of one process up to date; whether they changed."""
        if index not in changed:
            return False
        events, old = self._events[index], newest[index]
        new = old.copy()
        for name, at in zip(self._inputs[index], events.read_at, strict=True):
            if name in component:
                writer = self.writer[name]
                wrote = self._events[writer].write_at[self._outputs[writer].index(name)]
                new[at] = np.maximum(new[at], newest[writer][wrote])
        for name, at in zip(self._outputs[index], events.write_at, strict=True):
            depth = self.streams[name].depth
            if name in component and name != skipped and depth < at.size:
                reader = self.reader[name]
                read = self._events[reader].read_at[self._inputs[reader].index(name)]
                new[at[depth:]] = np.maximum(new[at[depth:]], newest[reader][read[: at.size - depth]])
        new = np.maximum.accumulate(new)
        newest[index] = new
        return bool((new != old).any())

    def _components(self) -> tuple[tuple[str, ...], ...]:
        """The FIFOs of every biconnected component that has several, ``last`` left out, in the design's order (Hopcroft and Tarjan, 1973)."""
        names = [name for name in self.streams if name != self.last]
        edges: list[list[tuple[int, str]]] = [[] for _ in self.programs]
        for name in names:
            edges[self.writer[name]].append((self.reader[name], name))
            edges[self.reader[name]].append((self.writer[name], name))
        order: dict[int, int] = {0: 0}
        low = {0: 0}
        path: list[tuple[int, str, int]] = [(0, "", 0)]  # process, the edge that led there, the next of its edges
        open_edges: list[str] = []
        found: list[set[str]] = []
        while path:
            node, came, place = path.pop()
            if place < len(edges[node]):
                path.append((node, came, place + 1))
                other, name = edges[node][place]
                if name == came:
                    continue
                if other not in order:
                    order[other] = low[other] = len(order)
                    open_edges.append(name)
                    path.append((other, name, 0))
                elif order[other] < order[node]:
                    open_edges.append(name)
                    low[node] = min(low[node], order[other])
            elif path:
                parent = path[-1][0]
                low[parent] = min(low[parent], low[node])
                if low[node] >= order[parent]:
                    cut = open_edges.index(came)
                    found.append(set(open_edges[cut:]))
                    del open_edges[cut:]
        parts = [tuple(name for name in names if name in part) for part in found if len(part) > 1]
        return tuple(sorted(parts, key=lambda part: names.index(part[0])))


def _pushed(program_: Program) -> Program:
    """The program of a pipeline that does not flush, one turn after the other pushing."""
    return replace(program_, turns=program_.turns + program_.latency, writes=tuple(turns + program_.latency for turns in program_.writes))


class _Events:
    """The turns that read or write anything, and which of them are those of each port."""

    def __init__(self, program_: Program) -> None:
        self.turns = np.unique(np.concatenate((*program_.reads, *program_.writes)))
        self.read_at = [np.searchsorted(self.turns, turns) for turns in program_.reads]
        self.write_at = [np.searchsorted(self.turns, turns) for turns in program_.writes]


def _stray(at: d.IntArray, turns: int) -> int:
    """How many words a program is ahead of a uniform rate at most, plus how many behind."""
    ahead = np.arange(at.size) - at * (at.size / turns)
    return ceil(float(ahead.max() - ahead.min()))
