"""A recorded graph in which calls of one recurrent cell, step by step, are the recurrent layer that they are: its weights once, its steps a loop.
Each is held against what the user's model computed; calls that are no such chain stay as they were taken apart."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence

import torch
from torch import fx
from torch.fx.node import map_arg

from qfx.capture.loops.chains import CALL, CellCall, chains, is_entangled
from qfx.capture.loops.runs import Runs
from qfx.capture.loops.sequences import Sequences, joined
from qfx.capture.recording import Recording
from qfx.capture.traced import CALLER, SITE, SPARE
from qfx.nn.layers.sequences.recurrent import cell_of, hidden_of, recurrent

_LABEL = "loop"
"""What the loop is called below the cell."""


def loops_of_cells(run: Recording, other: Recording) -> None:
    """Write the graph of ``run``, merged with ``other`` of another batch size, with loops."""
    found = chains(run.graph)
    if found:
        _Rewriting(run, other).all(found)


class _Rewriting:
    def __init__(self, run: Recording, other: Recording) -> None:
        self.runs = Runs(run, other)
        self.run = run
        self.sequences = Sequences(self.runs)
        self.instead: dict[fx.Node, fx.Node] = {}

    def all(self, found: Sequence[list[CellCall]]) -> None:
        for chain in found:
            self._chain(chain)
        for node in list(self.run.graph.nodes) if self.instead else ():
            self._joined(node)
        self._clear()

    def _chain(self, calls: Sequence[CellCall]) -> None:
        last = calls[-1].results[0]
        shapes = {self.runs.shape(call.input) for call in calls} | {self.runs.shape(call.results[0]) for call in calls}
        if any(len(shape) != 2 for shape in shapes) or is_entangled(calls):  # two axes: not of one sample alone
            return
        whole = self.sequences.stacked([call.input for call in calls])
        weight, hidden, *biases = calls[-1].weights
        assert hidden is not None  # every cell has it
        first = calls[0].states
        arguments = (whole, weight, hidden, *biases, None, *first, *(None,) * (2 - len(first)))
        loop = self.runs.put(last, "call_function", recurrent, arguments, {"kind": calls[0].kind, "label": _LABEL, "place": 0})
        loop.meta[CALLER] = loop.meta[CALLER] or _holder(calls[-1].weights)
        loop.meta[SITE] = (loop.meta[CALLER], _LABEL, 0)
        results = [loop]
        if len(calls[0].results) > 1:
            size = self.runs.shape(hidden)[1]
            results = [self.runs.call(last, part, loop, size) for part in (hidden_of, cell_of)]
        steps = [(call.results[place], self._step(result, at)) for at, call in enumerate(calls) for place, result in enumerate(results)]
        if not all(self.runs.same(new, old) for old, new in steps):
            return
        for old, new in steps:
            old.replace_all_uses_with(new)
            self.instead[old] = new

    def _step(self, whole: fx.Node, place: int) -> fx.Node:
        return self.runs.call(whole, operator.getitem, whole, (slice(None), place))

    def _joined(self, node: fx.Node) -> None:
        """Where steps of a loop, or what is computed of them alike, are put side by side, take what they are steps of."""
        shape = self.runs.shape(node)
        found = joined(node, len(shape)) if shape else None
        if found is None or not self._of_loops(found[0]):
            return
        steps, axis = found
        whole = self.sequences.of(steps) if axis else None
        if whole is None:
            return
        if axis != 1:
            order = [0, *range(2, len(shape))]
            order.insert(axis, 1)
            whole = self.runs.call(node, torch.permute, whole, tuple(order))
        if self.runs.same(whole, node):
            node.replace_all_uses_with(whole)
            self.instead[node] = whole

    def _of_loops(self, steps: Sequence[fx.Node]) -> bool:
        own = set(self.instead.values())
        left, seen = [steps[0]], set[fx.Node]()
        while left:
            node = left.pop()
            if node in own:
                return True
            if node not in seen:
                seen.add(node)
                left += [source for source in node.all_input_nodes if source in self.run.dependent]
        return False

    # The end

    def _clear(self) -> None:
        """Put the graph in order, and take out what is read no longer."""

        def kept(node: fx.Node) -> fx.Node:
            while node in self.instead:
                node = self.instead[node]
            return node

        self.run.result = map_arg(self.run.result, kept)
        given = set[fx.Node]()
        map_arg(self.run.result, lambda node: given.add(node))
        graph = self.run.graph
        _in_order(graph)
        for node in reversed(list(graph.nodes)):
            spare = node.meta.get(SPARE) or (self.instead and node in self.run.dependent and node not in self.run.refused)
            if not node.users and node not in given and node.op != "placeholder" and spare:
                graph.erase_node(node)
                self.run.values.pop(node, None)
        for node in graph.nodes:
            node.meta.pop(CALL, None)
        self.run.values = {node: self.run.values[node] for node in graph.nodes if node in self.run.values}


def _holder(weights: Sequence[fx.Node | None]) -> str:
    """Where an exported program, whose operations are in no module, holds a cell."""
    return min((str(weight.target).rpartition(".")[0] for weight in weights if weight is not None), key=lambda path: (len(path), path))


def _in_order(graph: fx.Graph) -> None:
    """Let every node stand behind all that it reads, otherwise as they stood."""
    done = set[fx.Node]()
    ordered: list[fx.Node] = []
    for start in graph.nodes:
        left = [start]
        while left:
            node = left[-1]
            missing = [source for source in node.all_input_nodes if source not in done]
            if node in done or not missing:
                left.pop()
                if node not in done:
                    done.add(node)
                    ordered.append(node)
            else:
                left += reversed(missing)
    for before, node in itertools.pairwise(ordered):
        before.append(node)
