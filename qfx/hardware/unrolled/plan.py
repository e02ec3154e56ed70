"""What comes of a network that is unrolled for a board: program, ports, pipeline and cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from qfx.errors import ProjectError
from qfx.hardware.board import Board, check_clock
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import CONTROL, Cost, Estimate, check_fits, resource_table, told
from qfx.hardware.cost.power import Power, power
from qfx.hardware.cost.resources import Resources
from qfx.hardware.design.build import port
from qfx.hardware.design.design import Design, Port
from qfx.hardware.design.names import Names
from qfx.hardware.emit.blockdesign import MAX_CONVERTER_BITS
from qfx.hardware.timing.clock import Clock, expected_of_pipeline
from qfx.hardware.timing.delays import delays
from qfx.hardware.unrolled.adders import Solver
from qfx.hardware.unrolled.cost import Pipeline, pipeline, resources
from qfx.hardware.unrolled.program import Constant, Program, Source, Sum
from qfx.hardware.unrolled.sharing import shared_graph
from qfx.hardware.unrolled.unroll import unroll
from qfx.ir.graph import Graph
from qfx.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer is made of. ``adders`` are sums and differences, ``operations`` those and all others."""

    name: str
    operations: int
    adders: int
    resources: Resources


@dataclass(frozen=True, slots=True)
class Plan:
    """``design`` has the ports alone; ``layers`` are those that compute something."""

    program: Program
    design: Design
    pipeline: Pipeline
    estimate: Estimate
    layers: tuple[Layer, ...]
    clock_ns: float

    def __repr__(self) -> str:
        return f"Plan({self.estimate.board.title}, {self.clock_ns:g} ns, {self.fps:,.1f} frames a second, {told(self.estimate)})"

    def _repr_html_(self) -> str:
        title = f"{self.estimate.board.title}, {self.clock_ns:g} ns: {self.fps:,.1f} frames a second (estimated)"
        return resource_table(self.estimate, title)

    @property
    def interval(self) -> int:
        """Cycles from frame to frame: the words of the widest frame, 1 where a word holds a frame."""
        return max(port.words for port in (*self.design.inputs, *self.design.outputs))

    @property
    def latency(self) -> int:
        """Cycles from the first word of a frame to the last of its result: one each to take and to give a word, and those of the pipeline."""
        come, leave = (max(port.words for port in ports) for ports in (self.design.inputs, self.design.outputs))
        return come + self.pipeline.depth + leave

    @property
    def latency_ns(self) -> float:
        return self.latency * self.clock_ns

    @property
    def fps(self) -> float:
        return 1e9 / (self.interval * self.clock_ns)

    @property
    def clock(self) -> Clock:
        """The period that the design is expected to reach."""
        ports = len(self.design.inputs) + len(self.design.outputs)
        return expected_of_pipeline(ports, self.estimate.total.ff, self.pipeline.longest_ns, self.estimate.board)

    @property
    def power(self) -> Power:
        """At the period asked for."""
        return power(self.estimate, clock_ns=self.clock_ns, interval=self.interval, turns=1)

    @property
    def adders(self) -> int:
        return sum(layer.adders for layer in self.layers)


def plan(graph: Graph, board: Board, *, clock_ns: float, solver: Solver = shared_graph, progress: Progress = silent) -> Plan:
    """The optimized graph, unrolled. Raises ProjectError as ``unroll``, for ports that no tool takes, and where it does not fit the board."""
    check_clock(clock_ns, board)
    design = ports_of(graph)
    program = unroll(graph, solver=solver, progress=progress)
    made = pipeline(program, delays(board.part), clock_ns)
    found = resources(program, made)
    bits = sum(port.word_bits for port in (*design.inputs, *design.outputs))
    wait = sum(port.word_bits * (port.words - 1) for port in (*design.inputs, *design.outputs))  # words of a frame that wait for the others
    costs = [Cost(name, name, 0, cost) for name, cost in found.items()]
    edges = r.handshake(len(design.inputs) + len(design.outputs), made.depth) + Resources(ff=bits + wait)
    estimate = Estimate(board, (*costs, Cost("ports", "(ports)", 0, edges), Cost("control", "(control port)", 0, CONTROL)))
    check_fits(estimate, remedies="use --style streaming, a larger board, shorter or fewer weights, or smaller layers")
    return Plan(program, design, made, estimate, _layers(program, found), clock_ns)


def _layers(program: Program, found: dict[str, Resources]) -> tuple[Layer, ...]:
    computing = [place for place, node in enumerate(program.nodes) if not isinstance(node, Source | Constant)]
    operations = Counter(program.layers[place] for place in computing)
    adders = Counter(program.layers[place] for place in computing if isinstance(program.nodes[place], Sum))
    return tuple(Layer(name, operations[name], adders[name], cost) for name, cost in found.items() if operations[name])


def ports_of(graph: Graph) -> Design:
    """A design of nothing but ports: each as wide as a frame, if converters take that many bits, else the greatest part of it that they take."""
    several = len(graph.inputs) + len(graph.outputs) > 2
    names = Names()
    read = {source for node in graph.nodes for source in node.inputs} | set(graph.outputs)
    inputs, outputs, into, out = [], [], [], []
    for node in graph.inputs:
        if node.name not in read:
            raise ProjectError("is an input that no output depends on", where=node.name, remedy="leave it out of the model")
        inputs.append(_port(graph, node.name))
        into.append(names.new(node.name, "in") if several else "in")
    for name, own in zip(graph.outputs, graph.output_names, strict=True):
        outputs.append(_port(graph, name))
        out.append(names.new(own, "out") if several else "out")
    return Design((), (), (), inputs[0], outputs[0], (), None, tuple(inputs[1:]), tuple(outputs[1:]), (tuple(into), tuple(out)))


def _port(graph: Graph, name: str) -> Port:
    info = graph.infos[name]
    narrow = port(info.type, info.shape, 1, name)
    parallel = max(n for n in range(1, info.size + 1) if info.size % n == 0 and n * narrow.slot <= MAX_CONVERTER_BITS)
    return Port(narrow.type, narrow.shape, narrow.slot, parallel)
