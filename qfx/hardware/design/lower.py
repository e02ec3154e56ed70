"""Lowering: Graph and Schedule -> Design.

Every operator becomes a process; pointwise operators become the epilogue of the process that feeds them if they are its only reader, and so do sums
of two values if it is a convolution or linear layer. A value that has several readers is forked, or reaches one of them by the window unit of another
(``joining.py``). Values travel in the canonical order (pixel by pixel, channels innermost); Reshape and Transpose only rename the order, and a
permutation is spent where a reader needs the canonical one. Linear does not: its weight columns are permuted instead.

FIFO depths are conservative: two words, but a whole frame behind every fork, and behind a window unit that is one. A fork then never waits for room
within a frame, so no circle of processes can wait for each other: one that waits for an input waits for something upstream, one that waits for room
waits for something downstream, and both chains end before a fork. ``fifo`` finds the depths that the design is built with.
"""

from __future__ import annotations

from qfx.errors import ProjectError
from qfx.hardware.design import design as d
from qfx.hardware.design import loading
from qfx.hardware.design.build import Builder, port
from qfx.hardware.design.memory.spilled import spilled
from qfx.hardware.design.merge import merge
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.timing.simulate import MAX_WORDS, words
from qfx.ir.graph import Graph
from qfx.ir.within import everything


def lower(graph: Graph, schedule: Schedule, *, shared: bool | None = None, phased: bool = True) -> d.Design:
    """The design that computes the graph. Raises ProjectError naming the node that cannot be built as scheduled.

    ``shared``: whether values leave window units beside the windows (``joining.py``). By default they do, unless a frame is too long to simulate:
    FIFOs then stay as they are, and a frame of windows is many times a frame. ``phased``: transposed convolutions are built without the zeros that
    they insert where that saves turns (``phases.py``).
    """
    made = _lowered(graph, schedule, shared is not False, phased)
    return made if shared is not None or words(made) <= MAX_WORDS else _lowered(graph, schedule, False, phased)


def _lowered(graph: Graph, schedule: Schedule, shared: bool, phased: bool) -> d.Design:
    known = {name for name, _ in everything(graph)}
    for name, _ in schedule.foldings:
        if name not in known:
            raise ProjectError(f"the schedule folds {name!r}, which is no node", where=graph.name, remedy="name nodes of the graph")
    builder = Builder(graph, schedule, shared=shared, phased=phased)
    unread = [node.name for node in graph.inputs if not builder.live(node.name)]
    if unread:
        raise ProjectError("is an input that no output depends on", where=unread[0], remedy="leave it out of the model")
    builder.build(graph.nodes)
    return spilled(_finished(builder), [name for name, place in schedule.fifo_storage if place == "ddr"])


def _finished(builder: Builder) -> d.Design:
    """The design, once the values of the graph's outputs go into ports."""
    graph = builder.graph
    outputs: list[d.Port] = []
    names: list[str] = []
    layers = {travel.node: travel.layer for travel in builder.travels}
    if builder.several:
        builder.node = graph.inputs[0].name
    joined = builder.schedule.merged and len(graph.outputs) > 1
    marks = [builder.last] * len(graph.outputs) if joined else builder.marks(len(graph.outputs))
    for position, (node, last) in enumerate(zip(graph.outputs, marks, strict=True)):
        if builder.several:
            builder.node = layers[node]
        out = graph.infos[node]
        parallel = builder.schedule.port(node, out.size, output=True) if builder.several else builder.schedule.output_parallel
        value = builder.take_on_one_grid(node)
        if out.size % parallel:
            raise ProjectError(f"{parallel} numbers per output word", where=node, remedy=f"use a divisor of the {out.size} numbers of a frame")
        stream = builder.rewidth(node, value.stream, parallel)
        outputs.append(port(out.type, out.shape, stream.parallel, node))
        own = graph.output_names[position]
        names.append(builder.names.new(own, "out") if builder.several else "out")
        name = builder.names.new(f"{own}_output" if builder.several else "output", "port")
        builder.add(d.ToPort(name, stream, last, outputs[-1].slot, names[-1] if builder.several else ""))
    merged = merge(builder, tuple(zip(names, outputs, strict=True)))
    loader = loading.loader(builder.processes, builder.names)
    first, *more = builder.inputs
    return d.Design(
        tuple(builder.processes),
        tuple(builder.nodes),
        tuple(builder.streams),
        first,
        outputs[0],
        tuple(builder.travels),
        loader,
        tuple(more),
        tuple(outputs[1:]),
        (tuple(builder.port_names), tuple(names)),
        merged,
        builder.schedule.batch if builder.once else 1,
        frozenset(builder.once),
    )
