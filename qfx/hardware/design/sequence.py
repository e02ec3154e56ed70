"""Lowering of a graph that is carried out at each step of a sequence: once, as a dataflow region that a loop calls (``processes/sequences``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qfx.errors import ProjectError
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design.build import Builder, port
from qfx.hardware.design.epilogue import Frame
from qfx.hardware.design.names import Names
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.processes.sequences.loop import Loop, Step
from qfx.hardware.timing import fifo
from qfx.hardware.timing.simulate import MAX_WORDS, alone, words
from qfx.ir.graph import Graph, Node
from qfx.ir.rules import one_grid
from qfx.ir.values import Info
from qfx.ir.within import MARK, inside, renamed


def build_loop(builder: Builder, node: Node, body: Graph, states: tuple[tuple[str, str], ...]) -> None:
    """The loop of ``node``: the sequence comes step by step, and so do the results leave. ``states``: as Scan has them."""
    cell = renamed(body, node.name)
    x, out = builder.sources(node)[0], builder.graph.infos[node.name]
    step, result = cell.infos[cell.inputs[0].name], cell.infos[cell.outputs[0]]
    pairs = tuple(zip((part.name for part in cell.inputs[1:]), (cell.outputs[body.outputs.index(new)] for _, new in states), strict=True))
    folding = builder.schedule.folding(node.name)
    own = {name: given for name, given in builder.schedule.foldings if name.startswith(inside(node.name, ""))}
    wanted = Info(x.shape, step.type, Interval.of(step.type))
    source = builder.take_in_order(node.inputs[0], wanted, _by_steps(x.shape[0], step.shape))
    lowered = _lowered(builder, cell, pairs, folding, own, source.type, builder.names)
    source = builder.rewidth(node.inputs[0], source, _parallel(cell, cell.inputs[0], folding))
    type_ = one_grid(node.name, result).type
    target = builder.stream(node.name, type_, lowered.parts[-1 - len(pairs)].sources[0].parallel, out.size)
    name = builder.names.new(node.name, "loop")

    def again(other: Folding) -> Loop | None:
        try:
            made = _lowered(builder, cell, pairs, other, own, source.type, Names(set(builder.names.taken)))
        except ProjectError:  # words that no tool takes
            return None
        ends = (made.parts[0].targets[0].parallel, made.parts[-1 - len(pairs)].sources[0].parallel)
        return Loop(
            name, source.with_parallel(ends[0]), target.with_parallel(ends[1]), x.shape[0], made, other, node.op.parallel(builder.graph, node), again
        )

    builder.add(Loop(name, source, target, x.shape[0], lowered, folding, node.op.parallel(builder.graph, node), again))
    pixels = out.size // result.shape[0]
    builder.give_stream(node.name, target, Frame(out.shape, pixels, result.shape[0], _by_steps(out.shape[0], result.shape)))


def _by_steps(count: int, shape: tuple[int, ...]) -> d.IntArray:
    """The order in which a sequence travels: step by step, each as a frame of its own does."""
    order = Frame.of(shape).order
    steps: d.IntArray = np.arange(count)[:, None] * order.size + order
    return steps.reshape(-1)


def _parallel(cell: Graph, node: Node, folding: Folding) -> int:
    return _folding(cell, node, folding).pe


def _folding(cell: Graph, node: Node, folding: Folding) -> Folding:
    """That of a node of the cell, if the cell's is ``folding``: as near to it as its own numbers have divisors, and whole groups where it has
    sparsity."""
    outputs, inputs = node.op.parallel(cell, node)
    simd, kept = _divisor(inputs, folding.simd), folding.kept
    sparsity = folding.sparsity if kept is None or simd % kept.m == 0 else ""
    return replace(folding, pe=_divisor(outputs, folding.pe), simd=simd, sparsity=sparsity)


def as_built(graph: Graph, schedule: Schedule) -> Schedule:
    """The schedule with the foldings of loops as they come out: no wider than the widest that is done in a step. What is built is the same."""
    bodies = ((node, node.op.inner()) for node in graph.nodes)
    found = {node.name: _widest(body, schedule.folding(node.name)) for node, body in bodies if body is not None}
    given = dict(schedule.foldings)
    return replace(schedule, foldings=tuple((name, found.get(name, folding)) for name, folding in given.items()))


def _widest(body: Graph, folding: Folding) -> Folding:
    parts = [_folding(body, node, folding) for node in body.nodes]
    return replace(folding, pe=max(part.pe for part in parts), simd=max(part.simd for part in parts))


def _divisor(number: int, most: int) -> int:
    return max(n for n in range(1, min(number, most) + 1) if number % n == 0)


def _lowered(
    builder: Builder,
    cell: Graph,
    pairs: tuple[tuple[str, str], ...],
    folding: Folding,
    own: Mapping[str, Folding],
    come: FixedType,
    names: Names,
) -> Step:
    """One step, its FIFOs as deep as it needs them. The FIFO that its numbers come through holds all of them, so that they are read whatever becomes
    of the results. ``own``: the nodes that are folded otherwise than the rest."""
    inner = Builder(cell, Schedule.of({node.name: _folding(cell, node, folding) for node in cell.nodes} | dict(own)), phased=builder.phased)
    inner.names, inner.sites, inner.node = names, builder.sites, cell.inputs[0].name
    leaving = [cell.outputs[0], *(following for _, following in pairs)]
    inner.leaves = {name: leaving.count(name) for name in leaving}
    function = names.new(cell.inputs[0].name.rpartition(MARK)[0], "step")
    states = []
    for position, part in enumerate(cell.inputs):
        if not inner.live(part.name):
            raise ProjectError("is an input that no result of a step depends on", where=part.name, remedy="leave it out of the model")
        info, inner.node = cell.infos[part.name], part.name
        parallel = inner.schedule.folding(part.name).pe
        stream = inner.stream(part.name, info.type, parallel, info.size, info.size // parallel)
        if position == 0:
            inner.add(d.Enter(names.new(part.name, "enter"), stream, come))
        else:
            inner.add(d.Recall(names.new(part.name, "recall"), stream, f"now{position - 1}"))
            states.append(stream)
        inner.give_stream(part.name, stream, Frame.of(info.shape))
    inner.build(cell.nodes[len(cell.inputs) :])
    inner.node = cell.outputs[0]
    out = one_grid(cell.outputs[0], cell.infos[cell.outputs[0]])
    inner.add(d.Leave(names.new(cell.outputs[0], "leave"), inner.take_on(cell.outputs[0], out).stream, out.type))
    for position, (state, (held, following)) in enumerate(zip(states, pairs, strict=True)):
        inner.node = following
        value = inner.take_on(following, cell.infos[held])
        stream = inner.rewidth(following, value.stream, state.parallel)
        inner.add(d.Keep(names.new(held, "keep"), stream, state.type, f"next{position}"))
    return _timed(inner, cell, function, tuple(states))


def _timed(inner: Builder, cell: Graph, function: str, states: tuple[d.Stream, ...]) -> Step:
    """The step with its FIFOs sized, and the turns that follow."""
    first = inner.processes[0].targets[0]
    entry, exit_ = (port(cell.infos[name].type, cell.infos[name].shape, 1, name) for name in (cell.inputs[0].name, cell.outputs[0]))
    design = d.Design(tuple(inner.processes), tuple(inner.nodes), tuple(inner.streams), entry, exit_)
    leave = next(i for i, process in enumerate(design.processes) if isinstance(process, d.Leave))
    reads, writes = (np.arange(stream.words, dtype=np.int64) for stream in (first, design.processes[leave].sources[0]))
    if words(design) > MAX_WORDS:  # one process after the other, and FIFOs as they are
        turns = sum(process.busy for process in design.processes)
        return Step(function, design.processes, design.nodes, design.streams, states, turns, reads, turns - writes.size + writes)
    run = alone(design)
    needed = {name: max(peak, fifo.CHAIN_DEPTH) for name, peak in run.peaks.items()} | {first.name: max(first.words, fifo.CHAIN_DEPTH)}
    sized = fifo.allow_for_held_words(fifo.with_depths(design, needed))
    writes = np.maximum(run.starts[leave], int(run.starts[0][-1]) + 1 + writes)
    return Step(function, sized.processes, sized.nodes, sized.streams, states, max(run.cycles, int(writes[-1]) + 1), run.starts[0], writes)
