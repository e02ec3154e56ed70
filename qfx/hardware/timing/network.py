"""A design as a graph: processes are nodes, FIFOs edges, and each node knows the program of its frame. What analyses of FIFO depths look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from qfx.hardware.design import design as d
from qfx.hardware.timing.program import Places, Program
from qfx.hardware.timing.simulate import ends


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """The turns of a program that read or write anything. ``reads`` and ``writes``: by FIFO, the events at which its words are read or written."""

    turns: d.IntArray
    reads: Mapping[str, Places]
    writes: Mapping[str, Places]

    @classmethod
    def of(cls, program: Program, process: d.Process) -> Events:
        turns, read_at, write_at = program.events()
        reads = {stream.name: at for stream, at in zip(process.sources, read_at, strict=True)}
        writes = {stream.name: at for stream, at in zip(process.targets, write_at, strict=True)}
        return cls(turns, reads, writes)

    def within(self, component: Collection[str]) -> Events:
        """Those of the component's FIFOs alone, among the same turns."""
        reads = {name: at for name, at in self.reads.items() if name in component}
        return Events(self.turns, reads, {name: at for name, at in self.writes.items() if name in component})


Component = tuple[str, ...]
"""The FIFOs of a biconnected component, in the design's order: branches that part at forks and meet at joins."""


class Network:
    """A design's processes by index and FIFOs by name, with the programs of one frame.

    Pipelines are ``flushing``, or they keep what they work on until further turns push it out: a turn's words then leave when the turn begins that is
    ``latency`` later. (Behind a frame's last turn a pipeline empties by itself; the turns that do it read nothing.)
    """

    processes: tuple[d.Process, ...]
    streams: dict[str, d.Stream]
    writer: dict[str, int]
    reader: dict[str, int]
    programs: tuple[Program, ...]
    events: tuple[Events, ...]
    marks: frozenset[str]
    components: tuple[Component, ...]

    def __init__(self, design: d.Design, *, flushing: bool = True) -> None:
        self.processes = design.processes
        self.streams = {stream.name: stream for stream in design.streams}
        self.writer, self.reader = ends(design)
        self.programs = tuple(program if flushing else _pushed(program) for program in map(design.program, design.processes))
        self.events = tuple(Events.of(program, process) for program, process in zip(self.programs, design.processes, strict=True))
        self.marks = frozenset(mark.name for process in design.processes for mark in process.marks)
        self.components = self._components()

    def written(self, name: str) -> Places:
        """The events of its writer at which the words of a FIFO are written."""
        return self.events[self.writer[name]].writes[name]

    def read(self, name: str) -> Places:
        """The events of its reader at which the words of a FIFO are read."""
        return self.events[self.reader[name]].reads[name]

    def members(self, component: Component) -> list[int]:
        """The processes at the ends of its FIFOs, in topological order."""
        return sorted({end for name in component for end in (self.writer[name], self.reader[name])})

    def _components(self) -> tuple[Component, ...]:
        """Every biconnected component that has several FIFOs, marks left out, in the design's order (Hopcroft and Tarjan, 1973)."""
        names = [name for name in self.streams if name not in self.marks]
        edges: list[list[tuple[int, str]]] = [[] for _ in self.programs]
        for name in names:
            edges[self.writer[name]].append((self.reader[name], name))
            edges[self.reader[name]].append((self.writer[name], name))
        order: dict[int, int] = {}
        low: dict[int, int] = {}
        path: list[tuple[int, str, int]] = []  # process, the edge that led there, the next of its edges
        open_edges: list[str] = []
        found: list[set[str]] = []
        roots = deque(range(len(self.programs)))  # several where inputs and outputs never meet
        while path or roots:
            if not path:
                root = roots.popleft()
                if root in order:
                    continue
                order[root] = low[root] = len(order)
                path.append((root, "", 0))
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


def _pushed(program: Program) -> Program:
    """The program of a pipeline that does not flush, one turn after the other pushing."""
    return replace(program, turns=program.turns + program.latency, writes=tuple(turns + program.latency for turns in program.writes))
