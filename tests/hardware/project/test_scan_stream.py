"""Constants of a loop over the steps of a sequence, and of models with several inputs and outputs, loaded while the hardware runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cells import WORD, cast, gru, lstm, recurrent, rows
from support import bounded, pragmas, synthesizable
from support.pragma_grammar import Tool

from qfx.errors import DataError, ExactnessError
from qfx.fixed.type import FixedType
from qfx.hardware.board import board
from qfx.hardware.design import design as d
from qfx.hardware.design import loading
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.emit.emit import emit
from qfx.hardware.folding import search
from qfx.hardware.project import csim
from qfx.hardware.project.execute import execute, put_together, taken_apart
from qfx.hardware.project.project import prepare, write_project
from qfx.hardware.project.reload import words_for
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_inputs, run_from_raws
from qfx.ir.passes import rewrite
from qfx.ir.passes.loadable import loadable_types, make_constant
from qfx.ir.values import RawArray
from qfx.operators import Add, ArrayType, Const, Conv, Input, Linear, Scan, Sub
from qfx.testing import adversarial_feeds, assert_bit_exact


def two() -> Graph:
    """A sequence and a vector come, the last state and a matrix of both leave."""
    graph = recurrent(gru(), 4, last=True)
    nodes = [
        *graph.nodes[:1],
        Node("v", Input((5,), ArrayType.of(WORD))),
        *graph.nodes[1:],
        Node("fv", Linear(Const(np.random.default_rng(6).integers(-7, 8, (2, 5)), 3), Const(np.array([3, -9]), 5)), ("v",)),
        Node("sum", Add(), ("y", "fv")),
        Node("z", cast(WORD), ("sum",)),
    ]
    return Graph("two", tuple(nodes), ("z", "flat"))


def shuffled(graph: Graph, seed: int) -> Graph:
    """Every weight and bias, inside bodies too, with its numbers in another order."""
    rng = np.random.default_rng(seed)
    return with_constants(graph, rng.permuted)


def zeroed(graph: Graph) -> Graph:
    return with_constants(graph, np.zeros_like)


def with_constants(graph: Graph, change: Callable[[RawArray], RawArray]) -> Graph:
    def other(held: Const | None) -> Const | None:
        return held and Const(change(held.raw), held.frac_bits)

    def changed(inner: Graph) -> Graph:
        nodes = []
        for node in inner.nodes:
            op = node.op
            if isinstance(op, Conv | Linear):
                op = replace(op, weight=other(op.weight) or op.weight, bias=other(op.bias))
            nodes.append(Node(node.name, op, node.inputs))
        return rewrite.inside(inner.with_nodes(tuple(nodes)), changed)

    return changed(graph)


MODELS = [
    (recurrent(gru(), 4, last=True), Schedule()),
    (recurrent(lstm(), 3), Schedule.of({"rnn": Folding(2, 2)})),
    (rows(3), Schedule.of({"rnn": Folding(2, 1)})),
    (two(), Schedule.of({"rnn": Folding(4, 1), "fv": Folding(2, 5)}, merged=True)),
]


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize("which", range(1, len(MODELS)))
def test_own_and_other_constants(tmp_path: Path, which: int) -> None:
    """A project loaded with its own constants and with those of another model gives the raws of the one and of the other."""
    graph, schedule = MODELS[which]
    project = write_project(graph, tmp_path / "p", board="zcu102", schedule=schedule, weights="stream")
    feeds = adversarial_feeds(graph, np.random.default_rng(which), 7)
    raws = quantize_inputs(graph, feeds)
    want = run_from_raws(graph, raws)
    assert (project.path / "tb" / "weights.bin").read_bytes() == words_for(graph, project.path)
    for fast in (False, True)[: 1 + (which == 1)]:
        found = csim.run_raw(project.path, feeds, fast=fast)
        for one, expected in zip(found if len(want) > 1 else (found,), want, strict=True):
            assert_bit_exact(one, expected, names=("C simulation", "interpreter"))
    other = shuffled(graph, which)
    (tmp_path / "other.bin").write_bytes(words_for(other, project.path))
    want = run_from_raws(other, raws)
    shapes = [raw.shape[1:] for raw in want]
    size = (sum(map(math.prod, shapes)),)
    for words, constants in ((tmp_path / "other.bin", other), ("", zeroed(graph))):
        environment = {"QFX_WEIGHTS": str(words)}
        found = taken_apart(execute((str(project.path / "build" / "tb"),), put_together(list(raws.values())), size, environment), shapes)
        for one, expected, own in zip(found, run_from_raws(constants, raws), run_from_raws(graph, raws), strict=True):
            assert_bit_exact(one, expected, names=("C simulation", "interpreter"))
            assert not np.array_equal(one, own)


@pytest.mark.usefixtures("gxx")
def test_constants_come_before_the_first_step(tmp_path: Path) -> None:
    """Over FIFOs that block: what is no loop takes the turns of its program and one for each word, and nothing waits for ever."""
    designs = [search.plan(prepare(graph, "stream"), board("zcu102"), schedule, clock_ns=5).design for graph, schedule in (MODELS[0], MODELS[3])]
    compiled = bounded.build(designs, tmp_path, flags=("-O0",))
    for index, (graph, _) in enumerate((MODELS[0], MODELS[3])):
        raws = quantize_inputs(graph, adversarial_feeds(graph, np.random.default_rng(index), 3))
        found = compiled.run(index, put_together(list(raws.values())))
        for one, expected in zip(found.outputs, run_from_raws(graph, raws), strict=True):
            assert_bit_exact(one, expected, names=("side by side", "interpreter"))
        assert bounded.differences(designs[index], found) == []


def test_the_words_of_a_loop_come_once() -> None:
    """As many for any number of steps, those of the loop's parts one after the other."""
    few, many = (lower(prepare(recurrent(gru(), steps), "stream"), Schedule()) for steps in (2, 30))
    assert few.loader is not None
    assert loading.words(few) == loading.words(many)
    (loop,) = (process for process in few.processes if isinstance(process, d.Loop))
    assert loading.counts(few) == (sum(load.elements for part in loop.step.parts for load in part.loads),)
    assert [load.process for load in few.loader.loads] == [loop.name]


def test_types_go_by_the_names_of_the_whole_model() -> None:
    graph = prepare(recurrent(gru(), 3, last=True), "stream")
    types = loadable_types(graph)
    assert {"rnn::r_x", "rnn::n_h", "fc"} <= set(types)
    assert types["rnn::r_h"][1] is None  # no bias
    assert prepare(recurrent(gru(), 3, last=True), "stream", types) == graph
    assert loadable_types(make_constant(graph)) == {}
    with pytest.raises(DataError, match=r"^rnn::r_x: its weight: raws of .* are not held by ap_fixed<2,-1>"):
        prepare(recurrent(gru(), 3), "stream", {"rnn::r_x": (FixedType(2, -1), None)})


def test_a_state_that_no_cast_bounds_is_refused() -> None:
    """With any weight of its type the next state would not be held: refused by the name of the loop."""
    nodes = (
        Node("x", Input((2,), ArrayType.of(WORD))),
        Node("h", Input((2,), ArrayType.of(FixedType(12, 5)))),
        Node("w", Linear(Const(np.array([[1, 0], [0, 2]]), 2), Const(np.array([1, 1]), 2)), ("x",)),
        Node("read", Sub(), ("x", "h")),
        Node("y", cast(WORD), ("read",)),
    )
    graph = recurrent(Scan.of("wide", nodes, "y", ("w",)), 3)
    with pytest.raises(ExactnessError, match="which it does not hold"):
        prepare(graph, "stream")


@pytest.mark.parametrize("which", range(len(MODELS)))
def test_the_tools_rules(which: int) -> None:
    graph, schedule = MODELS[which]
    files = emit(prepare(graph, "stream"), schedule, board("zcu102"), clock_ns=5, top="top")
    for tool in Tool:
        assert pragmas.check(files, tool, top="top") == ()
        assert synthesizable.check(files, tool) == ()
