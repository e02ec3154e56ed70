"""From a graph to its scalar program."""

from __future__ import annotations

import numpy as np

from qfx.errors import ExactnessError
from qfx.fixed.arith import Interval
from qfx.hardware.unrolled.adders import Solver
from qfx.hardware.unrolled.program import Program, Result, pruned
from qfx.hardware.unrolled.rounding import absorb_rounding
from qfx.hardware.unrolled.scalars import Numbers, Scalars
from qfx.hardware.unrolled.sharing import shared_graph
from qfx.ir.graph import Graph, Node
from qfx.operators import Input
from qfx.progress import Progress, silent

MAX_OPERATIONS = 100_000
"""A design of more scalar operations is refused: no tool can be expected to finish it."""


def unroll(graph: Graph, *, solver: Solver = shared_graph, progress: Progress = silent) -> Program:
    """The scalar program of an optimized graph; ``solver`` makes the adder graphs of its matrices.

    Raises UnsupportedError for an operator without an unrolled form, naming the node, and ProjectError for more than MAX_OPERATIONS operations.
    """
    graph = absorb_rounding(graph)
    scalars = Scalars(solver, MAX_OPERATIONS)
    values: dict[str, Numbers] = {}
    for done, node in enumerate(graph.nodes):
        progress("unrolling the network", done, len(graph.nodes))
        scalars.layer = node.name
        if node.op.reads == 0:
            values[node.name] = _source(scalars, graph, node)
        else:
            infos = tuple(graph.infos[source] for source in node.inputs)
            values[node.name] = node.op.unroll(scalars, node, tuple(values[source] for source in node.inputs), infos)
        values[node.name] = _narrowed(scalars, graph, node.name, values[node.name])
        if values[node.name].shape != graph.infos[node.name].shape:
            raise ExactnessError(f"unrolls to the shape {values[node.name].shape}", where=node.name, remedy="please report this defect")
    program = pruned(scalars.nodes, scalars.bounds, scalars.layers, [_results(graph, name, values[name], scalars) for name in graph.outputs])
    if program.operations > MAX_OPERATIONS:
        raise scalars.too_large(f"unrolls to {program.operations:,} scalar operations", graph.name)
    progress("unrolling the network", len(graph.nodes), len(graph.nodes))
    return program


def _source(scalars: Scalars, graph: Graph, node: Node) -> Numbers:
    """The numbers of an input, each as its own type bounds it, on that type's grid if its raws lie there; they come on the grid of the port."""
    op, info = node.op, graph.infos[node.name]
    assert isinstance(op, Input)  # nothing else reads nothing
    port, grid = graph.inputs.index(node), info.type.frac_bits
    int_bits = np.broadcast_to(np.array(op.cast.int_bits).reshape(op.cast.shape), op.shape)
    result: Numbers = np.empty(op.shape, dtype=object)
    for place, index in enumerate(np.ndindex(op.shape)):
        held = Interval.of(op.cast.with_int_bits(int(int_bits[index])))
        result[index] = scalars.source(port, place, held, grid)
    return result


def _narrowed(scalars: Scalars, graph: Graph, name: str, numbers: Numbers) -> Numbers:
    """The numbers, none beyond what is known of its channel."""
    info = graph.infos[name]
    result: Numbers = np.empty(numbers.shape, dtype=object)
    for channel, held in enumerate(info.interval.spread(info.shape[0])):
        result[channel] = scalars.each(lambda x, held=held: scalars.narrow(x, held), numbers[channel, None])[0]
    return result


def _results(graph: Graph, name: str, numbers: Numbers, scalars: Scalars) -> list[Result]:
    """The raws of an output on the grid of its type."""
    grid = graph.infos[name].type.frac_bits
    results = []
    for number in numbers.reshape(-1):
        up = 0 if number.node == scalars.zero.node else number.exponent + grid
        if up < 0:
            raise ExactnessError(f"has {-number.exponent} fractional bits where its type has {grid}", where=name, remedy="please report this defect")
        results.append(Result(number.node, up))
    return results
